//! The Python face, `psymm._core`: it converts, lets go of the interpreter's lock for work on
//! whole buffers, and turns each module's errors into exceptions with a `code`.

mod convert;
mod errors;
mod frames;
mod hashes;
mod keys;
mod schema;
mod transcripts;
mod tree;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::frames::{
        PyFrame, locate_frame, sign_frame, split_frames, survey_frames, verify_frames,
    };
    #[pymodule_export]
    use super::hashes::{
        dev_crs, domain_separator, keccak256, poseidon2_hash, poseidon2_hash_many,
        poseidon2_permutation,
    };
    #[pymodule_export]
    use super::keys::{PySecretKey, address_of, recover, recover_batch, verify, verify_batch};
    #[pymodule_export]
    use super::schema::{PySchema, format_decimal, parse_decimal};
    #[pymodule_export]
    use super::transcripts::{
        PyHead, PyTranscript, PyTranscriptStart, PyTranscriptSummary, verify_transcript,
    };
    #[pymodule_export]
    use super::tree::{PyLeanImt, PyMerkleProof};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::errors::add(module)?;
        super::hashes::add_modulus(module)
    }
}
