//! What the strict parser takes, what it refuses and where, and that encoding is its inverse.

mod generated;

use super::{JsonError, Message, Record, Schema, Value};

/// A message of every type that a field may have, one of nothing, and groups in groups. The fuzz
/// target reads it, too.
const DEFINITION: &str = include_str!("messages.json");

fn schema() -> Schema {
    Schema::new(DEFINITION.as_bytes()).unwrap()
}

fn refused(payload: &str) -> (&'static str, usize) {
    let error = schema().parse(payload.as_bytes()).unwrap_err();
    assert!(error.offset <= payload.len());
    (error.code(), error.offset)
}

/// A good order with something after its required fields.
fn order(rest: &str) -> String {
    format!(r#"{{"MsgType":"D","ClOrdID":"a","Side":"1"{rest}}}"#)
}

/// The code for a field with a value, given as JSON; its offset is that of the value.
fn field(name: &str, value: &str) -> &'static str {
    let payload = order(&format!(r#","{name}":{value}"#));
    let (code, offset) = refused(&payload);
    assert_eq!(offset, payload.len() - 1 - value.len(), "{payload}: {code}");
    code
}

fn value(name: &str, value: &str) -> Value {
    let schema = schema();
    let payload = order(&format!(r#","{name}":{value}"#));
    let message = schema.parse(payload.as_bytes()).unwrap();
    message.record[schema.fields("D").unwrap().position(name).unwrap()]
        .clone()
        .unwrap()
}

#[test]
fn a_message_is_read_by_the_types_of_its_fields() {
    let payload = order(concat!(
        r#","Count":"18446744073709551615","Amount":"340282366920938463463374607431768211455","#,
        r#""Price":"-1.5","Qty":"2","Id":"0x0aff","Blob":"0x","Flag":"Y","#,
        r#""Legs":[{"Symbol":"BTC"},{"Symbol":"ETH","Inner":[{"MsgType":"N"},{}]}]"#,
    ));
    let message = schema().parse(payload.as_bytes()).unwrap();
    let text = |text: &str| Some(Value::Text(text.into()));
    let inner = Value::List(vec![vec![Some(Value::Bool(false))], vec![None]]);
    assert_eq!(message.msg_type, "D");
    assert_eq!(
        message.record,
        vec![
            text("a"),
            text("1"),
            Some(Value::Number(u128::from(u64::MAX))),
            Some(Value::Number(u128::MAX)),
            Some(Value::Decimal(-1_500_000_000_000_000_000)),
            Some(Value::Decimal(2_000_000_000_000_000_000)),
            Some(Value::Bytes(vec![0x0a, 0xff])),
            Some(Value::Bytes(vec![])),
            Some(Value::Bool(true)),
            Some(Value::List(vec![
                vec![text("BTC"), None],
                vec![text("ETH"), Some(inner)]
            ])),
        ]
    );
    assert_eq!(schema().encode(&message).unwrap(), payload.as_bytes());
}

#[test]
fn white_space_between_tokens_and_any_order_of_fields_mean_the_same() {
    let loose = "{ \"MsgType\"\t:\r\n\"D\" , \"Side\" : \"1\", \"ClOrdID\":\"\\u0061\" }";
    let message = schema().parse(loose.as_bytes()).unwrap();
    assert_eq!(schema().encode(&message).unwrap(), order("").as_bytes());
}

#[test]
fn the_object_is_all_there_is() {
    assert_eq!(refused(""), ("not-object", 0));
    assert_eq!(refused(" {\"MsgType\":\"0\"}"), ("not-object", 0));
    assert_eq!(refused("[]"), ("not-object", 0));
    assert_eq!(refused("\"MsgType\""), ("not-object", 0));
    assert_eq!(refused("{\"MsgType\":\"0\"} "), ("trailing-bytes", 15));
    assert_eq!(refused("{\"MsgType\":\"0\"}{}"), ("trailing-bytes", 15));
    assert_eq!(refused("{\"MsgType\":\"0\"}\0"), ("trailing-bytes", 15));
    assert_eq!(refused("\u{feff}{\"MsgType\":\"0\"}"), ("not-object", 0));
}

#[test]
fn msg_type_comes_first_and_once_and_is_known() {
    assert_eq!(refused("{}"), ("msgtype-not-first", 1));
    assert_eq!(
        refused(r#"{"Side":"1","MsgType":"D"}"#),
        ("msgtype-not-first", 1)
    );
    assert_eq!(refused(r#"{"msgtype":"D"}"#), ("msgtype-not-first", 1));
    assert_eq!(refused(r#"{"MsgType":"ZZ"}"#), ("unknown-message", 11));
    assert_eq!(refused(r#"{"MsgType":""}"#), ("unknown-message", 11));
    assert_eq!(refused(r#"{"MsgType":0}"#), ("not-a-string", 11));
    assert_eq!(
        refused(r#"{"MsgType":"0","MsgType":"0"}"#),
        ("duplicate-key", 15)
    );
}

#[test]
fn keys_are_known_and_there_once() {
    assert_eq!(refused(&order(r#","Nope":"1""#)), ("unknown-field", 40));
    assert_eq!(refused(&order(r#","side":"1""#)), ("unknown-field", 40));
    assert_eq!(refused(&order(r#","Side":"1""#)), ("duplicate-key", 40));
    // The same key, written with an escape.
    assert_eq!(
        refused(&order(r#","\u0053ide":"2""#)),
        ("duplicate-key", 40)
    );
    let legs = r#","Legs":[{"Symbol":"a","Symbol":"a"}]"#;
    assert_eq!(refused(&order(legs)), ("duplicate-key", 40 + 22));
}

#[test]
fn required_fields_are_there() {
    let payload = r#"{"MsgType":"D","ClOrdID":"a"}"#;
    let error = schema().parse(payload.as_bytes()).unwrap_err();
    assert_eq!(
        (error.code(), error.field.as_str()),
        ("missing-field", "Side")
    );
    assert_eq!(error.offset, payload.len() - 1);
    assert_eq!(refused(&order(r#","Legs":[{}]"#)).0, "missing-field");
}

#[test]
fn every_value_is_a_string() {
    for name in ["ClOrdID", "Count", "Price", "Id", "Flag"] {
        if name == "ClOrdID" {
            continue;
        }
        for value in [
            "1", "-1", "1.5", "true", "false", "null", "{}", "[]", r#"["1"]"#,
        ] {
            assert_eq!(field(name, value), "not-a-string", "{name} {value}");
        }
    }
    assert_eq!(field("Legs", "\"x\""), "not-a-list");
    assert_eq!(field("Legs", "{}"), "not-a-list");
    assert_eq!(field("Legs", "null"), "not-a-list");
    assert_eq!(refused(&order(r#","Legs":["x"]"#)).0, "not-object");
    assert_eq!(refused(&order(r#","Legs":[[]]"#)).0, "not-object");
    assert_eq!(refused(&order(r#","Flag":x"#)).0, "not-json");
}

#[test]
fn values_out_of_form_are_refused_by_type() {
    for name in ["Count", "Amount", "Price", "Qty", "Id", "Blob", "Flag"] {
        assert_eq!(field(name, r#""""#), "empty-value");
    }
    for text in ["01", "-1", "+1", "1.0", " 1", "18446744073709551616"] {
        assert_eq!(field("Count", &format!("{text:?}")), "bad-integer");
    }
    assert_eq!(
        field("Amount", "\"340282366920938463463374607431768211456\""),
        "bad-integer"
    );
    for text in ["1.0", "01", "-0", ".5", "1e3", "NaN"] {
        assert_eq!(field("Price", &format!("{text:?}")), "bad-decimal");
    }
    assert_eq!(
        value("Price", "\"-1\""),
        Value::Decimal(-1_000_000_000_000_000_000)
    );
    assert_eq!(field("Qty", "\"-1\""), "bad-decimal");
    assert_eq!(value("Qty", "\"0\""), Value::Decimal(0));
    for text in [
        "0x", "0x00", "0x000000", "0x0aFF", "0aff", "0X0aff", "0x0af", "0x0ag0",
    ] {
        assert_eq!(field("Id", &format!("{text:?}")), "bad-hex", "{text}");
    }
    assert_eq!(field("Blob", "\"0x00000000\""), "too-long");
    assert_eq!(field("Blob", "\"0x0\""), "bad-hex");
    for text in ["y", "true", "1", "YN"] {
        assert_eq!(field("Flag", &format!("{text:?}")), "bad-bool");
    }
    assert_eq!(
        refused(r#"{"MsgType":"D","ClOrdID":"a","Side":"3"}"#),
        ("bad-enum", 36)
    );
    assert_eq!(
        refused(r#"{"MsgType":"D","ClOrdID":"123456789","Side":"1"}"#),
        ("too-long", 25)
    );
    assert_eq!(
        refused(r#"{"MsgType":"D","ClOrdID":"ééééé","Side":"1"}"#),
        ("too-long", 25)
    );
    assert_eq!(
        refused(r#"{"MsgType":"D","ClOrdID":"","Side":"1"}"#),
        ("empty-value", 25)
    );
}

#[test]
fn groups_have_as_many_entries_as_they_may() {
    assert_eq!(field("Legs", "[]"), "bad-count");
    let third = r#","Legs":[{"Symbol":"a"},{"Symbol":"b"},{"Symbol":"c"}]"#;
    assert_eq!(refused(&order(third)), ("bad-count", 40 + 38));
    assert_eq!(value("Legs", r#"[{"Symbol":"a","Inner":[]}]"#), {
        Value::List(vec![vec![
            Some(Value::Text("a".into())),
            Some(Value::List(vec![])),
        ]])
    });
}

#[test]
fn strings_follow_json_and_hold_whole_characters() {
    let order = |id: &str| format!(r#"{{"MsgType":"D","ClOrdID":"{id}","Side":"1"}}"#);
    let read = |id: &str| {
        let message = schema().parse(order(id).as_bytes()).unwrap();
        message.record[0].clone().unwrap()
    };
    assert_eq!(
        read(r#"\"\\\/\b\f\n\r\t"#),
        Value::Text("\"\\/\u{8}\u{c}\n\r\t".into())
    );
    assert_eq!(read(r"\u00e9\u20AC"), Value::Text("é€".into()));
    assert_eq!(read(r"\ud83d\ude00"), Value::Text("😀".into()));
    assert_eq!(read("é😀"), Value::Text("é😀".into()));
    for lone in [
        r"\ud83d",
        r"\ude00",
        r"\ud83dx",
        r"\ud83d\u0041",
        r"\ud83d\ud83d",
        r"\ud83d\n",
    ] {
        assert_eq!(refused(&order(lone)), ("lone-surrogate", 26), "{lone}");
    }
    assert_eq!(refused(&order("x\u{1}")), ("not-json", 27));
    assert_eq!(refused(&order("x\n")), ("not-json", 27));
    for bad in [r"\x", r"\u12", r"\u12g4", r"\'", r"\U0041", r"\u+123"] {
        assert_eq!(refused(&order(bad)).0, "not-json", "{bad}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused_at_the_first() {
    for bad in [
        &b"\xff"[..],
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
    ] {
        let payload = [b"{\"MsgType\":\"0", bad, b"\"}"].concat();
        let error = schema().parse(&payload).unwrap_err();
        assert_eq!((error.code(), error.offset), ("not-utf8", 13));
    }
}

#[test]
fn what_is_not_json_is_refused_where_it_goes_wrong() {
    for (payload, offset) in [
        ("{", 1),
        ("{MsgType", 1),
        ("{\"MsgType\"", 10),
        ("{\"MsgType\":", 11),
        ("{\"MsgType\":\"0\"", 14),
        ("{\"MsgType\":\"0\",", 15),
        ("{\"MsgType\":\"0\",}", 15),
        ("{\"MsgType\":\"0\" \"a\":\"b\"}", 15),
        ("{\"MsgType\" \"0\"}", 11),
        ("{\"MsgType\":\"0", 13),
        ("{\"MsgType\":\"0]", 14),
        ("{'MsgType':'0'}", 1),
    ] {
        assert_eq!(refused(payload), ("not-json", offset), "{payload}");
    }
    assert_eq!(
        refused(&order(r#","Legs":[{"Symbol":"a"},]"#)).0,
        "not-json"
    );
    assert_eq!(refused(&order(r#","Legs":[{"Symbol":"a"}}"#)).0, "not-json");
    assert_eq!(
        refused(&order(r#","Legs":[{"Symbol":"a",}]"#)).0,
        "not-json"
    );
}

#[test]
fn a_hundred_thousand_brackets_are_refused_and_exhaust_no_stack() {
    let legs = |value: String| refused(&order(&format!(",\"Legs\":{value}"))).0;
    assert_eq!(legs("[".repeat(100_000)), "not-object");
    assert_eq!(legs("[{\"Inner\":".repeat(100_000)), "unknown-field");
    assert_eq!(
        refused(&order(&format!(",\"Flag\":{}", "[".repeat(100_000)))).0,
        "not-a-string"
    );
    let error = Schema::new("[".repeat(100_000).as_bytes()).unwrap_err();
    assert_eq!(error.code(), "too-deep");
}

#[test]
fn errors_name_the_field_and_never_the_value() {
    let payload = order(r#","Id":"0xsecret""#);
    let error = schema().parse(payload.as_bytes()).unwrap_err();
    assert_eq!(error.field, "Id");
    assert!(error.to_string().contains("\"Id\""));
    assert!(!error.to_string().contains("secret"));
    let long = order(&format!(r#","{}":"1""#, "é".repeat(5000)));
    assert!(
        schema()
            .parse(long.as_bytes())
            .unwrap_err()
            .to_string()
            .len()
            < 400
    );
}

#[test]
fn encoding_refuses_what_parsing_would() {
    let schema = schema();
    let encode = |position: usize, value: Option<Value>| {
        let mut record: Record = vec![None; 10];
        record[0] = Some(Value::Text("a".into()));
        record[1] = Some(Value::Text("1".into()));
        record[position] = value;
        schema
            .encode(&Message {
                msg_type: "D".into(),
                record,
            })
            .map_err(|error| error.code())
    };
    let text = |text: &str| Some(Value::Text(text.into()));
    assert!(encode(0, text("b")).is_ok());
    assert_eq!(encode(0, None), Err("missing-field"));
    assert_eq!(encode(0, text("")), Err("empty-value"));
    assert_eq!(encode(0, text("123456789")), Err("too-long"));
    assert_eq!(encode(0, Some(Value::Bool(true))), Err("wrong-type"));
    assert_eq!(encode(1, text("3")), Err("bad-enum"));
    assert_eq!(encode(2, Some(Value::Number(1 << 64))), Err("bad-integer"));
    assert!(encode(3, Some(Value::Number(1 << 64))).is_ok());
    assert_eq!(
        encode(4, Some(Value::Decimal(i128::MAX))),
        Err("bad-decimal")
    );
    assert_eq!(encode(5, Some(Value::Decimal(-1))), Err("bad-decimal"));
    assert_eq!(encode(6, Some(Value::Bytes(vec![1]))), Err("bad-hex"));
    assert_eq!(encode(7, Some(Value::Bytes(vec![1; 4]))), Err("too-long"));
    assert_eq!(encode(9, Some(Value::List(vec![]))), Err("bad-count"));
    assert_eq!(
        encode(9, Some(Value::List(vec![vec![]]))),
        Err("wrong-type")
    );
    assert_eq!(
        encode(9, Some(Value::List(vec![vec![None, None]]))),
        Err("missing-field")
    );
    let unknown = Message {
        msg_type: "ZZ".into(),
        record: vec![],
    };
    assert_eq!(
        schema.encode(&unknown).unwrap_err().code(),
        "unknown-message"
    );
}

fn definition(field: &str) -> Result<Schema, JsonError> {
    let text = format!(r#"{{"messages":{{"D":{{"name":"N","fields":[{field}]}}}}}}"#);
    Schema::new(text.as_bytes())
}

#[test]
fn a_definition_says_only_what_a_schema_knows() {
    assert!(definition(r#"{"name":"A","type":"int"}"#).is_ok());
    for field in [
        r#"{"type":"int"}"#,
        r#"{"name":"A"}"#,
        r#"{"name":"","type":"int"}"#,
        r#"{"name":"A B","type":"int"}"#,
        r#"{"name":"A","type":"float"}"#,
        r#"{"name":"A","type":"int","max":3}"#,
        r#"{"name":"A","type":"int","required":"yes"}"#,
        r#"{"name":"A","type":"str","max":"3"}"#,
        r#"{"name":"A","type":"str","max":-3}"#,
        r#"{"name":"A","type":"str","max":1.5}"#,
        r#"{"name":"A","type":"enum"}"#,
        r#"{"name":"A","type":"enum","values":[]}"#,
        r#"{"name":"A","type":"enum","values":["1","1"]}"#,
        r#"{"name":"A","type":"enum","values":[""]}"#,
        r#"{"name":"A","type":"hex"}"#,
        r#"{"name":"A","type":"group"}"#,
        r#"{"name":"A","type":"group","fields":[],"min":2,"max":1}"#,
    ] {
        assert_eq!(
            definition(field).unwrap_err().code(),
            "bad-schema",
            "{field}"
        );
    }
    for field in [
        r#"{"name":"A","type":"int"},{"name":"A","type":"int"}"#,
        r#"{"name":"MsgType","type":"int"}"#,
        r#"{"name":"A","name":"A","type":"int"}"#,
    ] {
        assert_eq!(
            definition(field).unwrap_err().code(),
            "duplicate-key",
            "{field}"
        );
    }
    for text in ["", "{}x", "{\"messages\":nul}", "{\"messages\":{}"] {
        assert_eq!(
            Schema::new(text.as_bytes()).unwrap_err().code(),
            match text {
                "{}x" => "trailing-bytes",
                _ => "not-json",
            }
        );
    }
    assert_eq!(Schema::new(b"{}").unwrap_err().code(), "bad-schema");
    assert_eq!(Schema::new(b"[]").unwrap_err().code(), "bad-schema");
    assert_eq!(
        Schema::new(b"{\"messages\":{},\"x\":1}")
            .unwrap_err()
            .code(),
        "bad-schema"
    );
}

#[test]
fn groups_nest_eight_deep_and_no_deeper() {
    let nested = |depth: usize| {
        let mut field = r#"{"name":"A","type":"enum","values":["1"]}"#.to_owned();
        for _ in 1..depth {
            field = format!(r#"{{"name":"G","type":"group","fields":[{field}]}}"#);
        }
        definition(&field)
    };
    assert!(nested(super::MAX_GROUP_DEPTH).is_ok());
    assert_eq!(
        nested(super::MAX_GROUP_DEPTH + 1).unwrap_err().code(),
        "too-deep"
    );
}
