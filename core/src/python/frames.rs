//! Frames: one, many, and those of a byte string.

use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::frame::{self, FrameView, Header};
use crate::keccak::Digest;
use crate::python::convert::{Held, Octets, bytes};
use crate::python::errors::frame_error;
use crate::python::keys::{PySecretKey, public_key};
use crate::secp256k1::PublicKey;
use crate::transcript::{self, Found, LooseFrame, Reach, Survey, Verified};

/// One well-formed frame. Immutable; equal and hashed by its bytes.
#[pyclass(name = "Frame", module = "psymm._core", frozen, eq, hash)]
pub(crate) struct PyFrame {
    /// Holds exactly one frame: only what parsed or was signed here gets in.
    raw: Vec<u8>,
    /// Set where its signature was verified, or made, here; so that a transcript need not do it
    /// again. The bytes never change, so what was true of them stays true.
    verified: OnceLock<Box<Verified>>,
}

impl PartialEq for PyFrame {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl Eq for PyFrame {}

impl Hash for PyFrame {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}

impl PyFrame {
    fn of(view: FrameView<'_>) -> Self {
        Self::holding(view.raw().to_vec())
    }

    const fn holding(raw: Vec<u8>) -> Self {
        Self {
            raw,
            verified: OnceLock::new(),
        }
    }

    fn remember(&self, domain: Digest, key: PublicKey, digest: Digest) {
        // Who comes second has verified the same bytes: under another key, it stays with the first.
        let _ = self.verified.set(Box::new(Verified {
            domain,
            key,
            digest,
        }));
    }

    pub(crate) fn verified(&self) -> Option<&Verified> {
        self.verified.get().map(|one| &**one)
    }

    pub(crate) fn view(&self) -> FrameView<'_> {
        FrameView::trusted(&self.raw)
    }

    pub(crate) fn header(&self) -> Header {
        self.view().header()
    }
}

#[pymethods]
impl PyFrame {
    #[staticmethod]
    #[pyo3(signature = (data, offset = 0))]
    fn parse(data: Held, offset: usize) -> PyResult<Self> {
        FrameView::parse(data.as_slice(), offset)
            .map(Self::of)
            .map_err(frame_error)
    }

    #[getter]
    fn custody<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, &self.header().custody)
    }

    #[getter]
    fn lane(&self) -> u8 {
        self.view().lane()
    }

    #[getter]
    fn seq(&self) -> u64 {
        self.view().seq()
    }

    #[getter]
    fn previous<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, &self.header().previous)
    }

    #[getter]
    fn peer_seq(&self) -> u64 {
        self.header().peer_seq
    }

    #[getter]
    fn peer_digest<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, &self.header().peer_digest)
    }

    #[getter]
    fn sending_time(&self) -> u64 {
        self.header().sending_time
    }

    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, self.view().payload())
    }

    #[getter]
    fn signature<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, &self.view().signature())
    }

    #[getter]
    fn r_y<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, &self.view().r_y())
    }

    #[getter]
    fn raw<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, &self.raw)
    }

    #[getter]
    fn length(&self) -> usize {
        self.raw.len()
    }

    fn digest<'py>(&self, py: Python<'py>, domain: Octets) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &self.view().digest(&domain.array("domain")?)))
    }

    fn verify(&self, domain: Octets, public_key: Octets) -> PyResult<()> {
        let key = self::public_key(&public_key)?;
        let domain = domain.array("domain")?;
        let digest = self.view().verify(&domain, &key).map_err(frame_error)?;
        self.remember(domain, key, digest);
        Ok(())
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.raw(py)
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.view())
    }
}

#[pyfunction]
pub(crate) fn split_frames(py: Python<'_>, data: Held) -> PyResult<Vec<PyFrame>> {
    let data = data.as_slice();
    py.detach(|| {
        let views = frame::split(data)?;
        Ok(views.into_iter().map(PyFrame::of).collect())
    })
    .map_err(frame_error)
}

#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "they are the frame's own fields")]
pub(crate) fn sign_frame(
    py: Python<'_>,
    key: &PySecretKey,
    domain: Octets,
    custody: Octets,
    lane: u8,
    seq: u64,
    previous: Octets,
    peer_seq: u64,
    peer_digest: Octets,
    sending_time: u64,
    payload: Octets,
) -> PyResult<PyFrame> {
    let domain: Digest = domain.array("domain")?;
    let header = Header {
        custody: custody.array("custody")?,
        lane,
        seq,
        previous: previous.array("previous")?,
        peer_seq,
        peer_digest: peer_digest.array("peer_digest")?,
        sending_time,
    };
    let payload = payload.as_slice();
    let (raw, digest) = py
        .detach(|| frame::sign_with_digest(&key.key, &domain, &header, payload))
        .map_err(frame_error)?;
    let frame = PyFrame::holding(raw);
    frame.remember(domain, *key.key.public_key(), digest);
    Ok(frame)
}

/// A frame, parsed or not.
#[derive(FromPyObject)]
pub(crate) enum FrameBytes {
    Frame(Py<PyFrame>),
    Bytes(Held),
}

impl FrameBytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => &frame.get().raw,
            Self::Bytes(bytes) => bytes.as_slice(),
        }
    }
}

#[pyfunction]
#[pyo3(signature = (frames, *, threads = 1))]
pub(crate) fn verify_frames<'py>(
    py: Python<'py>,
    frames: Vec<(Octets, Octets, FrameBytes)>,
    threads: usize,
) -> PyResult<Bound<'py, PyList>> {
    let loose = frames
        .iter()
        .map(|(domain, key, frame)| {
            Ok(LooseFrame {
                domain: domain.array("domain")?,
                key: public_key(key)?,
                raw: frame.as_slice(),
            })
        })
        .collect::<PyResult<Vec<_>>>()?;
    let verdicts = py.detach(|| transcript::verify_frames(&loose, threads));
    let list = PyList::empty(py);
    for ((verdict, one), (_, _, frame)) in verdicts.into_iter().zip(&loose).zip(&frames) {
        match verdict {
            Ok(digest) => {
                if let FrameBytes::Frame(frame) = frame {
                    frame.get().remember(one.domain, one.key, digest);
                }
                list.append(bytes(py, &digest))?;
            }
            Err(error) => list.append(frame_error(error).value(py))?,
        }
    }
    Ok(list)
}

/// fromSeq, toSeq and expiry.
type Bounds = (u64, u64, u64);

#[pyfunction]
pub(crate) fn survey_frames(
    py: Python<'_>,
    data: Held,
    offset: usize,
    msg_types: Vec<Octets>,
    reach: (Option<Bounds>, Option<Bounds>),
) -> PyResult<(usize, usize, &'static str, [u64; 2])> {
    let msg_types: Vec<&[u8]> = msg_types.iter().map(Octets::as_slice).collect();
    let reach = [reach.0, reach.1].map(|reach| {
        reach.map(|(from_seq, to_seq, expiry)| Reach {
            from_seq,
            to_seq,
            expiry,
        })
    });
    let bytes = data.as_slice();
    py.detach(|| {
        let mut survey = Survey::new(bytes, offset, 0);
        let found = survey.next(&msg_types, &reach)?;
        let heads = survey.heads();
        Ok(match found {
            Some(Found::Message { index, offset }) => (index, offset, "message", heads),
            Some(Found::Beyond { index, offset }) => (index, offset, "beyond", heads),
            None => (survey.frames(), survey.offset(), "end", heads),
        })
    })
    .map_err(frame_error)
}

#[pyfunction]
pub(crate) fn locate_frame(
    py: Python<'_>,
    data: Held,
    offset: usize,
    byte: usize,
) -> (usize, usize) {
    let bytes = data.as_slice();
    py.detach(|| {
        let mut survey = Survey::new(bytes, offset, 0);
        survey.pass_to(byte);
        (survey.frames(), survey.offset())
    })
}
