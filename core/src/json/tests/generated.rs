//! Messages, truncations and flips that nobody thought of.

use proptest::prelude::*;

use super::*;

fn any_record() -> impl Strategy<Value = Record> {
    let limit = 10i128.pow(38);
    let text = || "\\PC{1,2}|[\\x01-\\x1f\"\\\\/]{1,8}".prop_map(Value::Text);
    let legs = (
        text(),
        prop::option::of(prop::collection::vec(any::<Option<bool>>(), 0..4)),
    )
        .prop_map(|(symbol, inner)| {
            let inner = inner.map(|flags| {
                Value::List(
                    flags
                        .into_iter()
                        .map(|flag| vec![flag.map(Value::Bool)])
                        .collect(),
                )
            });
            vec![Some(symbol), inner]
        });
    (
        text(),
        "[12]",
        any::<Option<u64>>(),
        any::<Option<u128>>(),
        prop::option::of(1 - limit..limit),
        prop::option::of(0..limit),
        any::<Option<[u8; 2]>>(),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..=3)),
        any::<Option<bool>>(),
        prop::option::of(prop::collection::vec(legs, 1..=2)),
    )
        .prop_map(
            |(id, side, count, amount, price, qty, hex, blob, flag, legs)| {
                vec![
                    Some(id),
                    Some(Value::Text(side)),
                    count.map(|count| Value::Number(u128::from(count))),
                    amount.map(Value::Number),
                    price.map(Value::Decimal),
                    qty.map(Value::Decimal),
                    hex.map(|bytes| Value::Bytes(bytes.to_vec())),
                    blob.map(Value::Bytes),
                    flag.map(Value::Bool),
                    legs.map(Value::List),
                ]
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn encoding_and_parsing_give_the_message_back(record in any_record()) {
        let schema = schema();
        let message = Message { msg_type: "D".into(), record };
        let payload = schema.encode(&message).unwrap();
        prop_assert_eq!(schema.parse(&payload).unwrap(), message);
        // Another reader of JSON reads the same: the payload is plain JSON.
        let other: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        prop_assert_eq!(&other["MsgType"], "D");
    }

    #[test]
    fn any_bit_flipped_gives_another_message_or_a_named_error(
        record in any_record(), at in any::<prop::sample::Index>(),
    ) {
        let schema = schema();
        let message = Message { msg_type: "D".into(), record };
        let mut payload = schema.encode(&message).unwrap();
        let bit = at.index(payload.len() * 8);
        payload[bit / 8] ^= 1 << (bit % 8);
        match schema.parse(&payload) {
            Ok(other) => {
                // Only a digit of an escape can change and keep its meaning.
                let escaped = payload.windows(4).any(|window| window == b"\\u00");
                prop_assert!(escaped || other != message);
                prop_assert_eq!(schema.parse(&schema.encode(&other).unwrap()).unwrap(), other);
            }
            Err(error) => prop_assert!(error.offset <= payload.len()),
        }
    }

    #[test]
    fn any_truncation_is_a_named_error(record in any_record(), at in any::<prop::sample::Index>()) {
        let schema = schema();
        let payload = schema.encode(&Message { msg_type: "D".into(), record }).unwrap();
        let error = schema.parse(&payload[..at.index(payload.len())]).unwrap_err();
        prop_assert!(["not-json", "not-object", "not-utf8", "msgtype-not-first"].contains(&error.code()));
    }

    #[test]
    fn what_parses_here_is_json_to_another_reader(payload in "[\\[\\]{}\",:\\\\ MsgType0DSide1]{0,40}") {
        let payload = format!("{{\"MsgType\":\"0\"{payload}");
        if schema().parse(payload.as_bytes()).is_ok() {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&payload).is_ok());
        }
    }

    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = schema().parse(&bytes);
        let _ = Schema::new(&bytes);
        let _ = schema().parse(&[b"{\"MsgType\":\"D\",\"ClOrdID\":\"", &bytes[..], b"\"}"].concat());
    }
}
