//! Tokens of JSON over bytes that are known to be UTF-8.

use std::borrow::Cow;

use super::decimal::parse_u64;
use super::fault::{JsonError, JsonFault};

/// A place in a JSON text.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The start of some bytes.
    ///
    /// # Errors
    /// `NotUtf8` with the offset of the first byte that is not.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, JsonError> {
        match core::str::from_utf8(bytes) {
            Ok(text) => Ok(Self { text, at: 0 }),
            Err(error) => Err(JsonError {
                offset: error.valid_up_to(),
                field: String::new(),
                fault: JsonFault::NotUtf8,
            }),
        }
    }

    pub(super) const fn at(&self) -> usize {
        self.at
    }

    pub(super) fn fail<T>(&self, fault: JsonFault) -> Result<T, JsonError> {
        fail_at(self.at, "", fault)
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes JSON's white space and shows the next byte.
    pub(super) fn next_token(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    /// Passes one byte that must be there.
    pub(super) fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), JsonError> {
        if self.peek() != Some(byte) {
            return self.fail(JsonFault::NotJson(what));
        }
        self.at += 1;
        Ok(())
    }

    /// After an entry of a list or an object: whether another follows. Passes the comma or
    /// the closing byte.
    pub(super) fn another(&mut self, close: u8, what: &'static str) -> Result<bool, JsonError> {
        match self.next_token() {
            Some(b',') => {
                self.at += 1;
                self.next_token();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => self.fail(JsonFault::NotJson(what)),
        }
    }

    /// A key with its colon, up to the value.
    pub(super) fn key(&mut self) -> Result<Cow<'a, str>, JsonError> {
        if self.peek() != Some(b'"') {
            return self.fail(JsonFault::NotJson("a key in quotes"));
        }
        let key = self.string()?;
        self.next_token();
        self.expect(b':', "a colon after the key")?;
        self.next_token();
        Ok(key)
    }

    /// A string, from its first quote past its last. It is borrowed unless it has escapes.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.expect(b'"', "a string")?;
        let text = self.text;
        let mut start = self.at;
        let mut unescaped: Option<String> = None;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let rest = &text[start..self.at];
                    self.at += 1;
                    return Ok(match unescaped {
                        None => Cow::Borrowed(rest),
                        Some(mut whole) => {
                            whole.push_str(rest);
                            Cow::Owned(whole)
                        }
                    });
                }
                Some(b'\\') => {
                    let whole = unescaped.get_or_insert_default();
                    whole.push_str(&text[start..self.at]);
                    whole.push(self.escape()?);
                    start = self.at;
                }
                Some(0..0x20) => {
                    return self.fail(JsonFault::NotJson("an escape for a control character"));
                }
                Some(_) => self.at += 1,
                None => return self.fail(JsonFault::NotJson("the quote that ends a string")),
            }
        }
    }

    /// The character of an escape, from its backslash past its end.
    fn escape(&mut self) -> Result<char, JsonError> {
        let start = self.at;
        self.at += 1;
        let character = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape(start);
            }
            _ => return self.fail(JsonFault::NotJson("one of JSON's escapes")),
        };
        self.at += 1;
        Ok(character)
    }

    /// The character of one `\uXXXX`, or of two that are a surrogate pair.
    fn unicode_escape(&mut self, start: usize) -> Result<char, JsonError> {
        let lone = || fail_at(start, "", JsonFault::LoneSurrogate);
        let first = self.four_digits()?;
        if !(0xd800..0xe000).contains(&first) {
            return char::from_u32(first).map_or_else(lone, Ok);
        }
        let bytes = self.text.as_bytes();
        if first >= 0xdc00 || bytes.get(self.at..self.at + 2) != Some(b"\\u") {
            return lone();
        }
        self.at += 2;
        let second = self.four_digits()?;
        if !(0xdc00..0xe000).contains(&second) {
            return lone();
        }
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        char::from_u32(code).map_or_else(lone, Ok)
    }

    fn four_digits(&mut self) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = match self.peek() {
                Some(byte @ b'0'..=b'9') => byte - b'0',
                Some(byte @ b'a'..=b'f') => byte - b'a' + 10,
                Some(byte @ b'A'..=b'F') => byte - b'A' + 10,
                _ => return self.fail(JsonFault::NotJson("four hexadecimal digits")),
            };
            code = code << 4 | u32::from(digit);
            self.at += 1;
        }
        Ok(code)
    }

    /// What a value that should have been a string or a list is: another kind of value, or no
    /// JSON at all.
    pub(super) fn not_the_value<T>(&self, field: &str, fault: JsonFault) -> Result<T, JsonError> {
        let fault = match self.peek() {
            Some(b'"' | b'{' | b'[' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => fault,
            _ => JsonFault::NotJson("a value"),
        };
        fail_at(self.at, field, fault)
    }

    /// A whole number without sign, fraction or exponent, for definitions only.
    pub(super) fn number(&mut self) -> Result<u64, JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-') = self.peek() {
            self.at += 1;
        }
        match parse_u64(&self.text[start..self.at]) {
            Some(number) => Ok(number),
            None => fail_at(
                start,
                "",
                JsonFault::BadSchema("a number must be whole, below 2^64"),
            ),
        }
    }

    /// Passes a word such as `true` if it comes next.
    pub(super) fn word(&mut self, word: &str) -> bool {
        let here = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        if here {
            self.at += word.len();
        }
        here
    }

    /// Refuses anything after the end.
    pub(super) fn end(&self) -> Result<(), JsonError> {
        if self.at < self.text.len() {
            return self.fail(JsonFault::TrailingBytes);
        }
        Ok(())
    }
}

/// An error at a place, about a field.
pub(super) fn fail_at<T>(offset: usize, field: &str, fault: JsonFault) -> Result<T, JsonError> {
    Err(JsonError {
        offset,
        field: field.to_owned(),
        fault,
    })
}

/// Writes a string with the fewest escapes that JSON allows.
pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.push(DIGITS[usize::from(byte >> 4)]);
                out.push(DIGITS[usize::from(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
