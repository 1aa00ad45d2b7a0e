//! Strict JSON: what a payload means, by a schema that is given as data.
//!
//! A payload is one JSON object, `MsgType` first, every value a string, groups as lists of
//! objects. The schema says which messages and fields there are and what each string holds.
//! Whatever is not exactly that is refused with the byte at which it goes wrong: two readers
//! of one signed payload can never read two things. White space between tokens is JSON's and
//! is allowed; before the first brace and after the last it is not.
//!
//! No input makes this recurse deeper than the schema, whose depth is bounded when it is made.
//! Errors name fields and limits, never values, since a payload may carry a blinding.

mod decimal;
mod definition;
mod fault;
mod lexer;
mod message;
mod schema;
#[cfg(test)]
mod tests;

pub use decimal::{format_decimal, parse_decimal};
pub use fault::{JsonError, JsonFault};
pub use message::{Message, Record, Value};
pub use schema::{Field, Fields, Kind, MAX_GROUP_DEPTH, Schema};
