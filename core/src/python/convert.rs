//! Bytes from Python and back: anything with the buffer protocol in, `bytes` out.

use std::slice;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use zeroize::{Zeroize as _, Zeroizing};

use crate::field::Fr;
use crate::python::errors::{field_error, field_error_at};

/// Bytes that stay put while the interpreter's lock is let go: a `bytes` object itself, which
/// never changes, or a copy of any other buffer, which may.
pub(crate) enum Octets {
    Backed(PyBackedBytes),
    Copied(Vec<u8>),
}

impl Octets {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Backed(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }

    /// The bytes as an array.
    ///
    /// # Errors
    /// `ValueError` that names the thing and both lengths, never the bytes.
    pub(crate) fn array<const N: usize>(&self, what: &str) -> PyResult<[u8; N]> {
        let bytes = self.as_slice();
        bytes.try_into().map_err(|_| {
            PyValueError::new_err(format!("{what} must be {N} bytes, not {}", bytes.len()))
        })
    }

    /// The bytes as an array that is wiped when dropped. A copy made of a mutable buffer is
    /// wiped here; the caller's own object is the caller's to wipe.
    ///
    /// # Errors
    /// As [`Octets::array`].
    pub(crate) fn into_secret<const N: usize>(
        mut self,
        what: &str,
    ) -> PyResult<Zeroizing<[u8; N]>> {
        let secret = self.array(what).map(Zeroizing::new);
        if let Self::Copied(bytes) = &mut self {
            bytes.zeroize();
        }
        secret
    }
}

impl<'py> FromPyObject<'_, 'py> for Octets {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_instance_of::<PyBytes>() {
            return Ok(Self::Backed(object.extract()?));
        }
        Ok(Self::Copied(buffer_of(object)?.to_vec(object.py())?))
    }
}

fn buffer_of(object: Borrowed<'_, '_, PyAny>) -> PyResult<PyBuffer<u8>> {
    PyBuffer::get(&object).map_err(|_| {
        PyTypeError::new_err(format!(
            "expected bytes or another buffer of bytes, not {}",
            object
                .get_type()
                .name()
                .map_or_else(|_| "?".into(), |name| name.to_string())
        ))
    })
}

/// Bytes read where they are, whatever buffer they are in: for what is too long to be copied.
/// While this lives the buffer is held, so that it can be neither resized nor freed. Its
/// owner could still write to it, and is told not to; whatever is read twice may then differ.
/// Only a buffer that is not contiguous is copied.
pub(crate) enum Held {
    Backed(PyBackedBytes),
    Buffer(PyBuffer<u8>),
    Copied(Vec<u8>),
}

impl Held {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Backed(bytes) => bytes,
            Self::Copied(bytes) => bytes,
            // An empty buffer may have no address.
            Self::Buffer(buffer) if buffer.len_bytes() == 0 => &[],
            // SAFETY: the exporter keeps this many bytes at this address for as long as the
            // buffer is held, which is longer than the slice lives; they are contiguous, and
            // bytes of any value are a `u8`. That nobody writes to them meanwhile is the
            // caller's part of the contract, stated in the stubs; the core indexes with checks
            // and takes every length from the slice, or once from the bytes, so that a broken
            // promise gives a wrong verdict or a panic, not an access out of bounds.
            Self::Buffer(buffer) => unsafe {
                slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes())
            },
        }
    }

    /// The bytes as records of N.
    ///
    /// # Errors
    /// `ValueError` that names the thing and the length.
    pub(crate) fn records<const N: usize>(&self, what: &str) -> PyResult<&[[u8; N]]> {
        let bytes = self.as_slice();
        match bytes.as_chunks() {
            (records, []) => Ok(records),
            _ => Err(PyValueError::new_err(format!(
                "{what} must be {N} bytes each, one after the other; {} bytes are no multiple",
                bytes.len()
            ))),
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Held {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_instance_of::<PyBytes>() {
            return Ok(Self::Backed(object.extract()?));
        }
        let buffer = buffer_of(object)?;
        if buffer.is_c_contiguous() {
            Ok(Self::Buffer(buffer))
        } else {
            Ok(Self::Copied(buffer.to_vec(object.py())?))
        }
    }
}

/// A field element from 32 big-endian bytes.
pub(crate) fn element(octets: &Octets, what: &str) -> PyResult<Fr> {
    Fr::from_bytes(octets.array(what)?).map_err(field_error)
}

/// Field elements, each from 32 big-endian bytes; an error names the first that is none.
pub(crate) fn elements(octets: &[Octets], what: &str) -> PyResult<Vec<Fr>> {
    let each = octets.iter().enumerate();
    each.map(|(index, octets)| {
        Fr::from_bytes(octets.array(what)?).map_err(|error| field_error_at(error, what, index))
    })
    .collect()
}

/// Field elements of 32 big-endian bytes each, back to back; an error names the first that is
/// none, or what is left over. Needs no interpreter unless there is one.
pub(crate) fn elements_back_to_back(octets: &[u8], what: &str) -> PyResult<Vec<Fr>> {
    let (chunks, rest) = octets.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(PyValueError::new_err(format!(
            "a buffer of {what}s must be a multiple of 32 bytes, not {}",
            octets.len()
        )));
    }
    let each = chunks.iter().enumerate();
    each.map(|(index, bytes)| {
        Fr::from_bytes(*bytes).map_err(|error| field_error_at(error, what, index))
    })
    .collect()
}

/// Thirty-two bytes, or however many there are, for Python.
pub(crate) fn bytes<'py>(py: Python<'py>, octets: &[u8]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, octets)
}
