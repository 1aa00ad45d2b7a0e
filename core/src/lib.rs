//! The core of pSymm: bytes, hashes, signatures and strict JSON.
//!
//! It knows nothing of FIX and nothing of chains. Each module has one subject and one
//! error type; the Python face in `python` only converts and lets go of the interpreter's
//! lock. All logic is plain Rust that `cargo test` reaches without an interpreter.

#[cfg(feature = "c")]
pub mod c;
pub mod cpu;
pub mod crs;
pub mod field;
pub mod frame;
pub mod json;
pub mod keccak;
pub mod poseidon2;
pub mod secp256k1;
pub mod transcript;
pub mod tree;

#[cfg(test)]
mod vectors;

#[cfg(feature = "python")]
mod python;
