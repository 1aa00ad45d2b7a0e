//! The schema's definition: data that comes with the software, itself JSON.
//!
//! ```json
//! {"messages": {"D": {"name": "NewOrderSingle", "fields": [
//!     {"name": "ClOrdID", "type": "str", "required": true, "max": 64},
//!     {"name": "Legs", "type": "group", "min": 1, "max": 16, "fields": [ … ]}]}}}
//! ```
//!
//! Types and what they take: `str` (max, 256), `enum` (values), `int`, `uint`, `decimal`,
//! `udecimal`, `hex` (length), `hexdata` (max, 65536), `bool`, `group` (fields; min, 1; max,
//! 64). A key that a type does not take is refused.

use std::collections::HashMap;

use super::fault::{JsonError, JsonFault};
use super::lexer::{Cursor, fail_at};
use super::schema::{Field, Fields, Kind, MAX_GROUP_DEPTH, Schema};

/// How deep the definition's own JSON may nest: three levels for a message, two for a group.
const MAX_DEPTH: usize = 6 + 2 * MAX_GROUP_DEPTH;

/// Any JSON value that a definition may hold, with the offset of its first byte.
struct Node {
    at: usize,
    json: Json,
}

enum Json {
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

fn read(cursor: &mut Cursor<'_>, depth: usize) -> Result<Node, JsonError> {
    if depth > MAX_DEPTH {
        return cursor.fail(JsonFault::TooDeep);
    }
    let at = cursor.at();
    let json = match cursor.peek() {
        Some(b'"') => Json::Text(cursor.string()?.into_owned()),
        Some(b'-' | b'0'..=b'9') => Json::Number(cursor.number()?),
        Some(b'[') => {
            cursor.expect(b'[', "a list")?;
            let mut list = Vec::new();
            let mut more = cursor.next_token() != Some(b']');
            if !more {
                cursor.expect(b']', "the closing bracket")?;
            }
            while more {
                list.push(read(cursor, depth + 1)?);
                more = cursor.another(b']', "a comma or the closing bracket")?;
            }
            Json::List(list)
        }
        Some(b'{') => {
            cursor.expect(b'{', "an object")?;
            let mut entries: Vec<(String, Node)> = Vec::new();
            let mut more = cursor.next_token() != Some(b'}');
            if !more {
                cursor.expect(b'}', "the closing brace")?;
            }
            while more {
                let at_key = cursor.at();
                let key = cursor.key()?;
                if entries.iter().any(|(known, _)| *known == key) {
                    return fail_at(at_key, &key, JsonFault::DuplicateKey);
                }
                entries.push((key.into_owned(), read(cursor, depth + 1)?));
                more = cursor.another(b'}', "a comma or the closing brace")?;
            }
            Json::Object(entries)
        }
        _ if cursor.word("true") => Json::Bool(true),
        _ if cursor.word("false") => Json::Bool(false),
        _ => return cursor.fail(JsonFault::NotJson("a value")),
    };
    Ok(Node { at, json })
}

/// The entries of an object that are still to be understood.
struct Entries {
    at: usize,
    owner: String,
    left: Vec<(String, Node)>,
}

impl Entries {
    fn new(node: Node, owner: &str) -> Result<Self, JsonError> {
        match node.json {
            Json::Object(left) => Ok(Self {
                at: node.at,
                owner: owner.to_owned(),
                left,
            }),
            _ => fail_at(
                node.at,
                owner,
                JsonFault::BadSchema("an object was expected"),
            ),
        }
    }

    fn take(&mut self, key: &str) -> Option<Node> {
        let position = self.left.iter().position(|(known, _)| known == key)?;
        Some(self.left.remove(position).1)
    }

    fn need(&mut self, key: &str, what: &'static str) -> Result<Node, JsonError> {
        match self.take(key) {
            Some(node) => Ok(node),
            None => fail_at(self.at, &self.owner, JsonFault::BadSchema(what)),
        }
    }

    fn text(&mut self, key: &str, what: &'static str) -> Result<(usize, String), JsonError> {
        let node = self.need(key, what)?;
        match node.json {
            Json::Text(text) => Ok((node.at, text)),
            _ => fail_at(node.at, &self.owner, JsonFault::BadSchema(what)),
        }
    }

    fn number(&mut self, key: &str, default: usize) -> Result<usize, JsonError> {
        match self.take(key) {
            None => Ok(default),
            Some(Node {
                at,
                json: Json::Number(number),
            }) => match usize::try_from(number) {
                Ok(number) => Ok(number),
                Err(_) => fail_at(
                    at,
                    &self.owner,
                    JsonFault::BadSchema("the number is too large"),
                ),
            },
            Some(node) => fail_at(
                node.at,
                &self.owner,
                JsonFault::BadSchema("a number was expected"),
            ),
        }
    }

    fn finish(self) -> Result<(), JsonError> {
        match self.left.first() {
            None => Ok(()),
            Some((key, node)) => fail_at(
                node.at,
                key,
                JsonFault::BadSchema("the definition has no such key here"),
            ),
        }
    }
}

/// Names need no escaping, so that what is encoded is plain.
fn check_name(at: usize, name: &str) -> Result<(), JsonError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(plain) {
        return fail_at(
            at,
            name,
            JsonFault::BadSchema("a name is letters, digits and _"),
        );
    }
    Ok(())
}

fn list(node: Node, owner: &str) -> Result<Vec<Node>, JsonError> {
    match node.json {
        Json::List(list) => Ok(list),
        _ => fail_at(node.at, owner, JsonFault::BadSchema("a list was expected")),
    }
}

fn fields(node: Node, owner: &str, depth: usize) -> Result<Fields, JsonError> {
    if depth > MAX_GROUP_DEPTH {
        return fail_at(node.at, owner, JsonFault::TooDeep);
    }
    let mut fields = Fields::default();
    for node in list(node, owner)? {
        let at = node.at;
        let field = field(node, owner, depth)?;
        let reserved = depth == 1 && field.name == "MsgType";
        if reserved || fields.positions.contains_key(&field.name) {
            return fail_at(at, &field.name, JsonFault::DuplicateKey);
        }
        fields
            .positions
            .insert(field.name.clone(), fields.list.len());
        fields.list.push(field);
    }
    Ok(fields)
}

fn field(node: Node, owner: &str, depth: usize) -> Result<Field, JsonError> {
    let mut entries = Entries::new(node, owner)?;
    let (at, name) = entries.text("name", "a field needs a name")?;
    check_name(at, &name)?;
    entries.owner.clone_from(&name);
    let required = match entries.take("required") {
        None => false,
        Some(Node {
            json: Json::Bool(required),
            ..
        }) => required,
        Some(node) => {
            return fail_at(
                node.at,
                &name,
                JsonFault::BadSchema("required is true or false"),
            );
        }
    };
    let kind = kind(&mut entries, &name, depth)?;
    entries.finish()?;
    Ok(Field {
        name,
        kind,
        required,
    })
}

/// What a field holds: a branch for each type that a definition may name.
fn kind(entries: &mut Entries, name: &str, depth: usize) -> Result<Kind, JsonError> {
    let (at, kind) = entries.text("type", "a field needs a type")?;
    Ok(match kind.as_str() {
        "str" => Kind::Str {
            max: entries.number("max", 256)?,
        },
        "enum" => Kind::Enum {
            values: enum_values(entries, name)?,
        },
        "int" => Kind::Int,
        "uint" => Kind::Uint,
        "decimal" => Kind::Decimal,
        "udecimal" => Kind::Udecimal,
        "hex" => match entries.number("length", 0)? {
            0 => return fail_at(at, name, JsonFault::BadSchema("hex needs a length")),
            length => Kind::Hex { length },
        },
        "hexdata" => Kind::HexData {
            max: entries.number("max", 65_536)?,
        },
        "bool" => Kind::Bool,
        "group" => {
            let (min, max) = (entries.number("min", 1)?, entries.number("max", 64)?);
            if min > max {
                return fail_at(at, name, JsonFault::BadSchema("min is above max"));
            }
            let inner = entries.need("fields", "a group needs fields")?;
            Kind::Group {
                fields: fields(inner, name, depth + 1)?,
                min,
                max,
            }
        }
        _ => return fail_at(at, name, JsonFault::BadSchema("there is no such type")),
    })
}

fn enum_values(entries: &mut Entries, name: &str) -> Result<Vec<String>, JsonError> {
    let node = entries.need("values", "an enum needs values")?;
    let at = node.at;
    let mut values: Vec<String> = Vec::new();
    for node in list(node, name)? {
        match node.json {
            Json::Text(value) if !value.is_empty() && !values.contains(&value) => {
                values.push(value);
            }
            _ => {
                let what = "values are strings, not empty, each once";
                return fail_at(node.at, name, JsonFault::BadSchema(what));
            }
        }
    }
    if values.is_empty() {
        return fail_at(at, name, JsonFault::BadSchema("an enum needs values"));
    }
    Ok(values)
}

impl Schema {
    /// The vocabulary that a definition describes.
    ///
    /// # Errors
    /// [`JsonError`] with the offset within the definition.
    pub fn new(definition: &[u8]) -> Result<Self, JsonError> {
        let mut cursor = Cursor::new(definition)?;
        cursor.next_token();
        let node = read(&mut cursor, 1)?;
        cursor.next_token();
        cursor.end()?;
        let mut top = Entries::new(node, "")?;
        let node = top.need("messages", "a definition needs messages")?;
        top.finish()?;
        let mut messages = HashMap::new();
        for (msg_type, node) in Entries::new(node, "messages")?.left {
            check_name(node.at, &msg_type)?;
            let mut message = Entries::new(node, &msg_type)?;
            message.text("name", "a message needs a name")?;
            let inner = message.need("fields", "a message needs fields")?;
            messages.insert(msg_type.clone(), fields(inner, &msg_type, 1)?);
            message.finish()?;
        }
        Ok(Self { messages })
    }
}
