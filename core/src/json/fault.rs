//! Why a payload, a message or a schema is refused.
//!
//! The two long functions are tables, a line for each fault.

use core::fmt;

/// What is wrong with a payload, a message or a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonFault {
    /// The bytes are not UTF-8.
    NotUtf8,
    /// Another token was expected.
    NotJson(&'static str),
    /// The payload, or a group's entry, is not an object.
    NotObject,
    /// The first key is not `MsgType`.
    MsgTypeNotFirst,
    /// The schema has no such message.
    UnknownMessage,
    /// A key is there twice.
    DuplicateKey,
    /// The message has no such field.
    UnknownField,
    /// A field that the message must have is not there.
    MissingField,
    /// The value is not a string.
    NotAString,
    /// The value of a group is not a list.
    NotAList,
    /// The value given to encode is of another type than the field's.
    WrongType(&'static str),
    /// The string is empty.
    EmptyValue,
    /// The string is longer than this many bytes.
    TooLong(usize),
    /// The number is out of form or range.
    BadDecimal,
    /// The number is out of form or range.
    BadInteger,
    /// The value is not one of those allowed.
    BadEnum,
    /// The value is not 0x and lower-case hexadecimal digits of the right number.
    BadHex,
    /// The value is neither `Y` nor `N`.
    BadBool,
    /// The group has fewer or more entries than allowed.
    BadCount {
        /// The fewest allowed.
        min: usize,
        /// The most allowed.
        max: usize,
    },
    /// Half of a surrogate pair.
    LoneSurrogate,
    /// Bytes follow the object.
    TrailingBytes,
    /// The schema nests deeper than allowed.
    TooDeep,
    /// The schema's definition is wrong.
    BadSchema(&'static str),
}

/// A fault, where it is and of which field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The byte of the payload; when encoding, the byte that would have come next.
    pub offset: usize,
    /// The field or message it is about; empty if none.
    pub field: String,
    /// What is wrong.
    pub fault: JsonFault,
}

impl JsonError {
    /// The name by which programs tell the faults apart.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.fault {
            JsonFault::NotUtf8 => "not-utf8",
            JsonFault::NotJson(_) => "not-json",
            JsonFault::NotObject => "not-object",
            JsonFault::MsgTypeNotFirst => "msgtype-not-first",
            JsonFault::UnknownMessage => "unknown-message",
            JsonFault::DuplicateKey => "duplicate-key",
            JsonFault::UnknownField => "unknown-field",
            JsonFault::MissingField => "missing-field",
            JsonFault::NotAString => "not-a-string",
            JsonFault::NotAList => "not-a-list",
            JsonFault::WrongType(_) => "wrong-type",
            JsonFault::EmptyValue => "empty-value",
            JsonFault::TooLong(_) => "too-long",
            JsonFault::BadDecimal => "bad-decimal",
            JsonFault::BadInteger => "bad-integer",
            JsonFault::BadEnum => "bad-enum",
            JsonFault::BadHex => "bad-hex",
            JsonFault::BadBool => "bad-bool",
            JsonFault::BadCount { .. } => "bad-count",
            JsonFault::LoneSurrogate => "lone-surrogate",
            JsonFault::TrailingBytes => "trailing-bytes",
            JsonFault::TooDeep => "too-deep",
            JsonFault::BadSchema(_) => "bad-schema",
        }
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: ", self.offset)?;
        if !self.field.is_empty() {
            // A peer chose this name: quoted and escaped, and not all of a long one.
            let mut shown: String = self.field.chars().take(64).collect();
            if shown.len() < self.field.len() {
                shown.push('…');
            }
            write!(f, "{shown:?}: ")?;
        }
        match self.fault {
            JsonFault::NotUtf8 => f.write_str("the bytes are not UTF-8"),
            JsonFault::NotJson(expected) => write!(f, "not JSON: {expected} was expected"),
            JsonFault::NotObject => f.write_str("an object was expected; begin with {"),
            JsonFault::MsgTypeNotFirst => f.write_str("the first key must be \"MsgType\""),
            JsonFault::UnknownMessage => f.write_str("the vocabulary has no such MsgType"),
            JsonFault::DuplicateKey => f.write_str("the key is there twice"),
            JsonFault::UnknownField => f.write_str("the message has no such field"),
            JsonFault::MissingField => f.write_str("the message must have this field"),
            JsonFault::NotAString => f.write_str("every value is a string; put it in quotes"),
            JsonFault::NotAList => f.write_str("a group is a list of objects"),
            JsonFault::WrongType(expected) => write!(f, "the value must be {expected}"),
            JsonFault::EmptyValue => f.write_str("the value is empty; leave the field out"),
            JsonFault::TooLong(max) => write!(f, "the value is longer than {max} bytes"),
            JsonFault::BadDecimal => f.write_str(
                "not a decimal in its shortest form with at most 20 digits before the point and \
                 18 after it (and, where the field says so, no sign)",
            ),
            JsonFault::BadInteger => {
                f.write_str("not a whole number in its shortest form and in range")
            }
            JsonFault::BadEnum => f.write_str("the value is not one of those allowed"),
            JsonFault::BadHex => f.write_str(
                "the value must be 0x and lower-case hexadecimal digits, as many as the field says",
            ),
            JsonFault::BadBool => f.write_str("the value must be \"Y\" or \"N\""),
            JsonFault::BadCount { min, max } => {
                write!(f, "the group must have between {min} and {max} entries")
            }
            JsonFault::LoneSurrogate => {
                f.write_str("half of a surrogate pair stands for no character")
            }
            JsonFault::TrailingBytes => f.write_str("nothing may follow the object"),
            JsonFault::TooDeep => {
                write!(f, "lists and objects nest deeper than allowed")
            }
            JsonFault::BadSchema(what) => write!(f, "the schema is wrong: {what}"),
        }
    }
}

impl std::error::Error for JsonError {}
