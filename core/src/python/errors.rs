//! The exceptions of the core. Each carries `code`, by which a program tells them apart, and
//! the numbers that caused it as attributes.

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::field::NotInField;
use crate::frame;
use crate::json;
use crate::secp256k1::SignatureError;
use crate::transcript::{self, KeyError, StartError};
use crate::tree::TreeError;

create_exception!(
    psymm._core,
    CoreError,
    PyValueError,
    "Input that the core refuses."
);
create_exception!(
    psymm._core,
    FrameError,
    CoreError,
    "Bytes that are not a frame."
);
create_exception!(
    psymm._core,
    JsonError,
    CoreError,
    "A payload that the schema refuses."
);
create_exception!(
    psymm._core,
    TranscriptError,
    CoreError,
    "A frame that does not follow."
);
create_exception!(
    psymm._core,
    SignatureError_,
    CoreError,
    "A key or signature out of form."
);
create_exception!(
    psymm._core,
    FieldError,
    CoreError,
    "A number at or above the modulus."
);

/// Adds the exceptions, with class-wide defaults for their attributes so that one made by
/// hand in Python has them too.
pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let core = py.get_type::<CoreError>();
    core.setattr("code", "refused")?;
    let frame = py.get_type::<FrameError>();
    frame.setattr("offset", 0)?;
    let json = py.get_type::<JsonError>();
    json.setattr("offset", 0)?;
    json.setattr("field", "")?;
    let transcript = py.get_type::<TranscriptError>();
    for name in ["index", "offset", "lane", "seq"] {
        transcript.setattr(name, 0)?;
    }
    let signature = py.get_type::<SignatureError_>();
    signature.setattr("__name__", "SignatureError")?;
    signature.setattr("__qualname__", "SignatureError")?;
    module.add("CoreError", core)?;
    module.add("FrameError", frame)?;
    module.add("JsonError", json)?;
    module.add("TranscriptError", transcript)?;
    module.add("SignatureError", signature)?;
    let field = py.get_type::<FieldError>();
    field.setattr("index", 0)?;
    module.add("FieldError", field)
}

/// An exception with its code; `set` adds what else it carries.
fn raise(error: PyErr, code: &str, set: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<()>) -> PyErr {
    Python::attach(|py| {
        let value = error.value(py).as_any();
        match value.setattr("code", code).and_then(|()| set(value)) {
            Ok(()) => error,
            Err(failure) => failure,
        }
    })
}

pub(crate) fn field_error(error: NotInField) -> PyErr {
    raise(
        FieldError::new_err(error.to_string()),
        "not-in-field",
        |_| Ok(()),
    )
}

/// As [`field_error`], for the element at an index of many.
pub(crate) fn field_error_at(error: NotInField, what: &str, index: usize) -> PyErr {
    raise(
        FieldError::new_err(format!("{what} {index}: {error}")),
        "not-in-field",
        |value| value.setattr("index", index),
    )
}

pub(crate) fn signature_error(error: SignatureError) -> PyErr {
    raise(
        SignatureError_::new_err(error.to_string()),
        error.code(),
        |_| Ok(()),
    )
}

pub(crate) fn tree_error(error: TreeError) -> PyErr {
    raise(CoreError::new_err(error.to_string()), error.code(), |_| {
        Ok(())
    })
}

pub(crate) fn frame_error(error: frame::FrameError) -> PyErr {
    raise(
        FrameError::new_err(error.to_string()),
        error.code(),
        |value| value.setattr("offset", error.offset),
    )
}

pub(crate) fn json_error(error: json::JsonError) -> PyErr {
    raise(
        JsonError::new_err(error.to_string()),
        error.code(),
        |value| {
            value.setattr("offset", error.offset)?;
            value.setattr("field", error.field)
        },
    )
}

pub(crate) fn transcript_error(error: transcript::TranscriptError) -> PyErr {
    raise(
        TranscriptError::new_err(error.to_string()),
        error.code(),
        |value| {
            value.setattr("index", error.index)?;
            value.setattr("offset", error.offset)?;
            value.setattr("lane", error.lane)?;
            value.setattr("seq", error.seq)
        },
    )
}

pub(crate) fn start_error(error: StartError) -> PyErr {
    raise(
        TranscriptError::new_err(error.to_string()),
        "bad-start",
        |it| it.setattr("lane", error.lane),
    )
}

pub(crate) fn key_error(error: KeyError) -> PyErr {
    raise(
        TranscriptError::new_err(error.to_string()),
        error.code(),
        |_| Ok(()),
    )
}
