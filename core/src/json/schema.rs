//! The vocabulary: which messages and fields there are, and what each string holds.

use std::collections::HashMap;

/// How deep groups may nest, the message itself being 1.
pub const MAX_GROUP_DEPTH: usize = 8;

/// What the string of a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text of 1 to `max` bytes of UTF-8.
    Str {
        /// The most bytes.
        max: usize,
    },
    /// One of these.
    Enum {
        /// The values allowed.
        values: Vec<String>,
    },
    /// A whole number below 2^64.
    Int,
    /// A whole number below 2^128.
    Uint,
    /// A decimal, scaled by 10^18.
    Decimal,
    /// A decimal that is not negative, scaled by 10^18.
    Udecimal,
    /// Exactly this many bytes, in hexadecimal.
    Hex {
        /// The bytes.
        length: usize,
    },
    /// Up to this many bytes, in hexadecimal.
    HexData {
        /// The most bytes.
        max: usize,
    },
    /// `Y` or `N`.
    Bool,
    /// A list of objects.
    Group {
        /// The fields of each.
        fields: Fields,
        /// The fewest entries.
        min: usize,
        /// The most entries.
        max: usize,
    },
}

/// A field of a message or of a group's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name on the wire.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
}

/// Fields in the order in which they are encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub(super) list: Vec<Field>,
    pub(super) positions: HashMap<String, usize>,
}

impl Fields {
    /// The fields, in order.
    #[must_use]
    pub fn list(&self) -> &[Field] {
        &self.list
    }

    /// Where a field is in the order.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }
}

/// The vocabulary: messages by their MsgType.
#[derive(Clone, Debug)]
pub struct Schema {
    pub(super) messages: HashMap<String, Fields>,
}

impl Schema {
    /// The fields of a message, if the vocabulary has it.
    #[must_use]
    pub fn fields(&self, msg_type: &str) -> Option<&Fields> {
        self.messages.get(msg_type)
    }
}
