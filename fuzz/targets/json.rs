//! Strict JSON: no bytes make the parser panic; what parses is JSON to another reader and has
//! one canonical form, which is its own.

#![no_main]

use std::sync::LazyLock;

use _core::json::{Message, Record, Schema, Value, format_decimal, parse_decimal};
use libfuzzer_sys::fuzz_target;

/// A message of every type that a field may have, one of nothing, and groups in groups.
static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    Schema::new(
        br#"{"messages": {
            "D": {"name": "NewOrderSingle", "fields": [
                {"name": "ClOrdID", "type": "str", "required": true, "max": 8},
                {"name": "Side", "type": "enum", "values": ["1", "2"], "required": true},
                {"name": "Count", "type": "int"},
                {"name": "Amount", "type": "uint"},
                {"name": "Price", "type": "decimal"},
                {"name": "Qty", "type": "udecimal"},
                {"name": "Id", "type": "hex", "length": 2},
                {"name": "Blob", "type": "hexdata", "max": 3},
                {"name": "Flag", "type": "bool"},
                {"name": "Legs", "type": "group", "min": 1, "max": 3, "fields": [
                    {"name": "Symbol", "type": "str", "required": true},
                    {"name": "Inner", "type": "group", "min": 0, "fields": [
                        {"name": "MsgType", "type": "bool"}]}]}]},
            "0": {"name": "Heartbeat", "fields": []},
            "T": {"name": "Text", "fields": [{"name": "Text", "type": "str", "max": 65536}]}}}"#,
    )
    .unwrap()
});

/// How many values a record holds, those of its groups' entries included.
fn values(record: &Record) -> usize {
    let inside = |value: &Value| match value {
        Value::List(entries) => entries.iter().map(values).sum(),
        _ => 1,
    };
    record.iter().flatten().map(inside).sum()
}

/// How many strings another reader finds.
fn strings(json: &serde_json::Value) -> usize {
    match json {
        serde_json::Value::String(_) => 1,
        serde_json::Value::Array(list) => list.iter().map(strings).sum(),
        serde_json::Value::Object(entries) => entries.values().map(strings).sum(),
        other => panic!("not of strings, lists and objects: {other}"),
    }
}

fn judge(payload: &[u8], message: &Message) {
    let canonical = SCHEMA.encode(message).expect("what parses can be written");
    assert_eq!(SCHEMA.parse(&canonical).as_ref(), Ok(message));
    assert!(canonical.len() <= payload.len() * 6);
    let theirs: serde_json::Value = serde_json::from_slice(payload).expect("it is JSON");
    let ours: serde_json::Value = serde_json::from_slice(&canonical).expect("it is JSON");
    assert_eq!(theirs, ours, "two readers read two things");
    assert_eq!(theirs["MsgType"], message.msg_type);
    assert_eq!(strings(&theirs), 1 + values(&message.record));
}

fuzz_target!(|input: &[u8]| {
    match SCHEMA.parse(input) {
        Ok(message) => judge(input, &message),
        Err(error) => {
            assert!(error.offset <= input.len(), "{error}");
            assert!(!error.to_string().is_empty() && !error.code().is_empty());
        }
    }
    if let Err(error) = Schema::new(input) {
        assert!(error.offset <= input.len(), "{error}");
    }
    if let Ok(text) = core::str::from_utf8(input)
        && let Some(value) = parse_decimal(text)
    {
        assert_eq!(format_decimal(value).as_deref(), Some(text));
    }
});
