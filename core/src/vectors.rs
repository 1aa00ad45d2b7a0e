//! The shared vectors, for tests: made by Barretenberg and eth-account, never by this crate.

use serde_json::Value;

use crate::field::Fr;

fn file(text: &str) -> Value {
    serde_json::from_str(text).expect("a vector file is JSON")
}

pub(crate) fn poseidon2() -> Value {
    file(include_str!("../../tests/vectors/poseidon2.json"))
}

pub(crate) fn frame() -> Value {
    file(include_str!("../../tests/vectors/frame.json"))
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

pub(crate) fn octets(value: &Value) -> Vec<u8> {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
    hex::decode(digits.expect("0x and digits")).expect("hexadecimal")
}

pub(crate) fn array<const N: usize>(value: &Value) -> [u8; N] {
    octets(value).try_into().expect("the right length")
}

pub(crate) fn element(value: &Value) -> Fr {
    Fr::from_bytes(array(value)).expect("a field element")
}

pub(crate) fn elements(value: &Value) -> Vec<Fr> {
    list(value).iter().map(element).collect()
}

/// A number, written as such or as a decimal string.
pub(crate) fn number(value: &Value) -> u64 {
    let text = value.as_str().and_then(|text| text.parse().ok());
    text.or(value.as_u64()).expect("a number")
}
