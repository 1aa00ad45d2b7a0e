//! Messages: typed values from a payload and back.

use std::borrow::Cow;

use super::decimal::{format_decimal, parse_decimal, parse_u64, parse_u128};
use super::fault::{JsonError, JsonFault};
use super::lexer::{Cursor, fail_at, write_string};
use super::schema::{Field, Fields, Kind, Schema};

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of `Str` and `Enum`.
    Text(String),
    /// Of `Int` and `Uint`.
    Number(u128),
    /// Of `Decimal` and `Udecimal`, scaled by 10^18.
    Decimal(i128),
    /// Of `Hex` and `HexData`.
    Bytes(Vec<u8>),
    /// Of `Bool`.
    Bool(bool),
    /// Of `Group`.
    List(Vec<Record>),
}

/// The values of some fields, in their order; `None` where a field is absent.
pub type Record = Vec<Option<Value>>;

/// A message of the vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its MsgType.
    pub msg_type: String,
    /// Its values, in the order of the schema's fields.
    pub record: Record,
}

impl Schema {
    /// What a payload means.
    ///
    /// # Errors
    /// [`JsonError`] at the first byte that is not the vocabulary's.
    pub fn parse(&self, payload: &[u8]) -> Result<Message, JsonError> {
        let mut cursor = Cursor::new(payload)?;
        if cursor.peek() != Some(b'{') {
            return cursor.fail(JsonFault::NotObject);
        }
        cursor.expect(b'{', "an object")?;
        cursor.next_token();
        let at_key = cursor.at();
        if cursor.peek() == Some(b'}') || cursor.key()? != "MsgType" {
            return fail_at(at_key, "", JsonFault::MsgTypeNotFirst);
        }
        if cursor.peek() != Some(b'"') {
            return cursor.not_the_value("MsgType", JsonFault::NotAString);
        }
        let at_type = cursor.at();
        let msg_type = cursor.string()?;
        let Some(fields) = self.messages.get(msg_type.as_ref()) else {
            return fail_at(at_type, &msg_type, JsonFault::UnknownMessage);
        };
        let more = cursor.another(b'}', "a comma or the closing brace")?;
        let record = read_record(&mut cursor, fields, more, true)?;
        cursor.end()?;
        Ok(Message {
            msg_type: msg_type.into_owned(),
            record,
        })
    }

    /// The canonical payload of a message: MsgType, then the fields in the schema's order,
    /// no white space, the shortest form of everything.
    ///
    /// # Errors
    /// [`JsonError`] where [`Schema::parse`] would refuse what was written, and `WrongType`.
    pub fn encode(&self, message: &Message) -> Result<Vec<u8>, JsonError> {
        let Some(fields) = self.messages.get(&message.msg_type) else {
            return fail_at(0, &message.msg_type, JsonFault::UnknownMessage);
        };
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"{\"MsgType\":");
        write_string(&mut out, &message.msg_type);
        write_record(&mut out, fields, &message.record, false)?;
        Ok(out)
    }
}

/// The entries of an object whose brace, and first key if it is the message itself, are
/// passed; `more` says whether one follows.
fn read_record(
    cursor: &mut Cursor<'_>,
    fields: &Fields,
    mut more: bool,
    is_message: bool,
) -> Result<Record, JsonError> {
    let mut record: Record = vec![None; fields.list().len()];
    while more {
        let at_key = cursor.at();
        let key = cursor.key()?;
        let Some(position) = fields.position(&key) else {
            let again = is_message && key == "MsgType";
            let fault = if again {
                JsonFault::DuplicateKey
            } else {
                JsonFault::UnknownField
            };
            return fail_at(at_key, &key, fault);
        };
        if record[position].is_some() {
            return fail_at(at_key, &key, JsonFault::DuplicateKey);
        }
        record[position] = Some(read_value(cursor, &fields.list()[position])?);
        more = cursor.another(b'}', "a comma or the closing brace")?;
    }
    for (field, value) in fields.list().iter().zip(&record) {
        if field.required && value.is_none() {
            // The closing brace came where the field might have.
            return fail_at(cursor.at() - 1, &field.name, JsonFault::MissingField);
        }
    }
    Ok(record)
}

fn read_value(cursor: &mut Cursor<'_>, field: &Field) -> Result<Value, JsonError> {
    let at = cursor.at();
    if let Kind::Group { fields, min, max } = &field.kind {
        return read_group(cursor, &field.name, fields, (*min, *max));
    }
    if cursor.peek() != Some(b'"') {
        return cursor.not_the_value(&field.name, JsonFault::NotAString);
    }
    let text = cursor.string()?;
    if text.is_empty() {
        return fail_at(at, &field.name, JsonFault::EmptyValue);
    }
    read_text(&field.kind, text).or_else(|fault| fail_at(at, &field.name, fault))
}

/// The value of a string that is not empty: a branch for each kind.
fn read_text(kind: &Kind, text: Cow<'_, str>) -> Result<Value, JsonFault> {
    match kind {
        Kind::Str { max } if text.len() > *max => Err(JsonFault::TooLong(*max)),
        Kind::Str { .. } => Ok(Value::Text(text.into_owned())),
        Kind::Enum { values } => {
            let known = values.iter().any(|value| *value == text);
            known
                .then(|| Value::Text(text.into_owned()))
                .ok_or(JsonFault::BadEnum)
        }
        Kind::Int => parse_u64(&text)
            .map(|number| Value::Number(u128::from(number)))
            .ok_or(JsonFault::BadInteger),
        Kind::Uint => parse_u128(&text)
            .map(Value::Number)
            .ok_or(JsonFault::BadInteger),
        Kind::Decimal => parse_decimal(&text)
            .map(Value::Decimal)
            .ok_or(JsonFault::BadDecimal),
        Kind::Udecimal => parse_decimal(&text)
            .filter(|value| *value >= 0)
            .map(Value::Decimal)
            .ok_or(JsonFault::BadDecimal),
        Kind::Hex { length } => read_hex(&text)
            .filter(|bytes| bytes.len() == *length)
            .map(Value::Bytes)
            .ok_or(JsonFault::BadHex),
        Kind::HexData { max } => match read_hex(&text) {
            Some(bytes) if bytes.len() > *max => Err(JsonFault::TooLong(*max)),
            Some(bytes) => Ok(Value::Bytes(bytes)),
            None => Err(JsonFault::BadHex),
        },
        Kind::Bool => match text.as_ref() {
            "Y" => Ok(Value::Bool(true)),
            "N" => Ok(Value::Bool(false)),
            _ => Err(JsonFault::BadBool),
        },
        // Groups went their own way.
        Kind::Group { .. } => Err(JsonFault::NotAList),
    }
}

fn read_group(
    cursor: &mut Cursor<'_>,
    name: &str,
    fields: &Fields,
    (min, max): (usize, usize),
) -> Result<Value, JsonError> {
    let at = cursor.at();
    if cursor.peek() != Some(b'[') {
        return cursor.not_the_value(name, JsonFault::NotAList);
    }
    cursor.expect(b'[', "a list")?;
    let mut entries = Vec::new();
    let mut more = cursor.next_token() != Some(b']');
    if !more {
        cursor.expect(b']', "the closing bracket")?;
    }
    while more {
        if entries.len() == max {
            return fail_at(cursor.at(), name, JsonFault::BadCount { min, max });
        }
        if cursor.peek() != Some(b'{') {
            return cursor.not_the_value(name, JsonFault::NotObject);
        }
        cursor.expect(b'{', "an object")?;
        let filled = cursor.next_token() != Some(b'}');
        if !filled {
            cursor.expect(b'}', "the closing brace")?;
        }
        entries.push(read_record(cursor, fields, filled, false)?);
        more = cursor.another(b']', "a comma or the closing bracket")?;
    }
    if entries.len() < min {
        return fail_at(at, name, JsonFault::BadCount { min, max });
    }
    Ok(Value::List(entries))
}

/// The bytes of 0x and lower-case hexadecimal digits.
fn read_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?.as_bytes();
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if digits.len() % 2 != 0 {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\"0x");
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    out.push(b'"');
}

/// The fields of an object up to and with its closing brace; `first` says that nothing is in
/// it yet.
fn write_record(
    out: &mut Vec<u8>,
    fields: &Fields,
    record: &Record,
    mut first: bool,
) -> Result<(), JsonError> {
    if record.len() != fields.list().len() {
        return fail_at(
            out.len(),
            "",
            JsonFault::WrongType("a value or none for each field"),
        );
    }
    for (field, value) in fields.list().iter().zip(record) {
        let Some(value) = value else {
            if field.required {
                return fail_at(out.len(), &field.name, JsonFault::MissingField);
            }
            continue;
        };
        if !first {
            out.push(b',');
        }
        first = false;
        write_string(out, &field.name);
        out.push(b':');
        write_value(out, field, value)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_value(out: &mut Vec<u8>, field: &Field, value: &Value) -> Result<(), JsonError> {
    let at = out.len();
    let fail = |fault| fail_at(at, &field.name, fault);
    match (&field.kind, value) {
        (Kind::Str { max }, Value::Text(text)) => {
            if text.is_empty() {
                return fail(JsonFault::EmptyValue);
            }
            if text.len() > *max {
                return fail(JsonFault::TooLong(*max));
            }
            write_string(out, text);
        }
        (Kind::Enum { values }, Value::Text(text)) => {
            if !values.contains(text) {
                return fail(JsonFault::BadEnum);
            }
            write_string(out, text);
        }
        (Kind::Int, Value::Number(number)) if *number > u128::from(u64::MAX) => {
            return fail(JsonFault::BadInteger);
        }
        (Kind::Int | Kind::Uint, Value::Number(number)) => write_string(out, &number.to_string()),
        (Kind::Udecimal, Value::Decimal(value)) if *value < 0 => {
            return fail(JsonFault::BadDecimal);
        }
        (Kind::Decimal | Kind::Udecimal, Value::Decimal(value)) => match format_decimal(*value) {
            Some(text) => write_string(out, &text),
            None => return fail(JsonFault::BadDecimal),
        },
        (Kind::Hex { length }, Value::Bytes(bytes)) => {
            if bytes.len() != *length {
                return fail(JsonFault::BadHex);
            }
            write_hex(out, bytes);
        }
        (Kind::HexData { max }, Value::Bytes(bytes)) => {
            if bytes.len() > *max {
                return fail(JsonFault::TooLong(*max));
            }
            write_hex(out, bytes);
        }
        (Kind::Bool, Value::Bool(value)) => write_string(out, if *value { "Y" } else { "N" }),
        (Kind::Group { fields, min, max }, Value::List(entries)) => {
            if entries.len() < *min || entries.len() > *max {
                return fail(JsonFault::BadCount {
                    min: *min,
                    max: *max,
                });
            }
            out.push(b'[');
            for (i, entry) in entries.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                out.push(b'{');
                write_record(out, fields, entry, true)?;
            }
            out.push(b']');
        }
        (kind, _) => return fail(JsonFault::WrongType(kind.python_type())),
    }
    Ok(())
}

impl Kind {
    /// What a caller gives for a field of this kind, in Python's words.
    pub(crate) const fn python_type(&self) -> &'static str {
        match self {
            Self::Str { .. } | Self::Enum { .. } => "a str",
            Self::Int | Self::Uint => "an int that is not negative",
            Self::Decimal => "an int, scaled by 10^18",
            Self::Udecimal => "an int that is not negative, scaled by 10^18",
            Self::Hex { .. } | Self::HexData { .. } => "bytes",
            Self::Bool => "a bool",
            Self::Group { .. } => "a sequence of mappings",
        }
    }
}
