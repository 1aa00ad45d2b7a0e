//! Strict JSON: no bytes make the parser panic; what parses is JSON to another reader and has
//! one canonical form, which is its own.

#![no_main]

use std::sync::LazyLock;

use _core::json::{Message, Record, Schema, Value, format_decimal, parse_decimal};
use libfuzzer_sys::fuzz_target;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    Schema::new(include_bytes!("../../core/src/json/tests/messages.json")).unwrap()
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
