//! Frames, heads and transcripts.

use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::frame::{self, FrameView, Header};
use crate::keccak::Digest;
use crate::python::convert::{Held, Octets, bytes};
use crate::python::errors::{frame_error, key_error, start_error, transcript_error};
use crate::python::keys::{PySecretKey, public_key};
use crate::secp256k1::PublicKey;
use crate::transcript::{
    self, Found, Head, LooseFrame, Options, Progress, Reach, Start, Survey, Transcript, Verified,
    VerifyError,
};

/// How often a long call goes back to the interpreter, to show progress and to hear of signals.
const BETWEEN_CALLS: Duration = Duration::from_millis(200);

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

    fn verified(&self) -> Option<&Verified> {
        self.verified.get().map(|one| &**one)
    }

    fn view(&self) -> FrameView<'_> {
        FrameView::trusted(&self.raw)
    }

    fn header(&self) -> Header {
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
        self.view().verify(&domain, &key).map_err(frame_error)?;
        self.remember(domain, key, self.view().digest(&domain));
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
    let raw = py
        .detach(|| frame::sign(&key.key, &domain, &header, payload))
        .map_err(frame_error)?;
    let frame = PyFrame::holding(raw);
    frame.remember(domain, *key.key.public_key(), frame.view().digest(&domain));
    Ok(frame)
}

/// The last frame of a lane.
#[pyclass(name = "Head", module = "psymm._core", frozen, eq)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PyHead {
    head: Head,
}

#[pymethods]
impl PyHead {
    #[getter]
    fn seq(&self) -> u64 {
        self.head.seq
    }

    #[getter]
    fn digest<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, &self.head.digest)
    }

    #[getter]
    fn sending_time(&self) -> u64 {
        self.head.sending_time
    }

    #[getter]
    fn peer_seq(&self) -> u64 {
        self.head.peer_seq
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.head)
    }
}

/// Where a transcript starts that does not start with the first frame.
#[pyclass(name = "TranscriptStart", module = "psymm._core", frozen)]
pub(crate) struct PyTranscriptStart {
    start: Start,
}

#[pymethods]
impl PyTranscriptStart {
    #[new]
    fn new(
        domain: Octets,
        trader: Vec<PyRef<'_, PyFrame>>,
        solver: Vec<PyRef<'_, PyFrame>>,
        keys: Vec<(u8, u64, Octets)>,
    ) -> PyResult<Self> {
        let domain: Digest = domain.array("domain")?;
        let (trader_head, before_trader) = ending(&trader, &domain)?;
        let (solver_head, before_solver) = ending(&solver, &domain)?;
        Start::new(
            [trader_head, solver_head],
            [before_trader, before_solver],
            ruling(&keys)?,
        )
        .map(|start| Self { start })
        .map_err(start_error)
    }

    #[getter]
    fn heads(&self) -> (PyHead, PyHead) {
        let [trader, solver] = self.start.heads();
        (PyHead { head: trader }, PyHead { head: solver })
    }

    fn __repr__(&self) -> String {
        let [trader, solver] = self.start.heads();
        format!("TranscriptStart(heads=({}, {}))", trader.seq, solver.seq)
    }
}

/// The head that a lane's frames in a row end with, and the digests before it: theirs, and that
/// of the frame before them, which the first one states.
fn ending(frames: &[PyRef<'_, PyFrame>], domain: &Digest) -> PyResult<(Head, Vec<Digest>)> {
    let (Some(first), Some(last)) = (frames.first(), frames.last()) else {
        return Err(PyValueError::new_err(
            "a lane starts with one frame at least",
        ));
    };
    let header = last.header();
    let mut digests = Vec::with_capacity(frames.len() + 1);
    if first.header().seq > 1 {
        digests.push(first.header().previous);
    }
    digests.extend(frames.iter().map(|frame| frame.view().digest(domain)));
    let digest = digests.pop().unwrap_or_default();
    let head = Head {
        seq: header.seq,
        digest,
        sending_time: header.sending_time,
        peer_seq: header.peer_seq,
    };
    Ok((head, digests))
}

/// The heads, digests and keys of a custody.
#[pyclass(name = "Transcript", module = "psymm._core")]
pub(crate) struct PyTranscript {
    transcript: Transcript,
}

#[pymethods]
impl PyTranscript {
    #[new]
    #[pyo3(signature = (domain, custody, start = None))]
    fn new(
        domain: Octets,
        custody: Octets,
        start: Option<PyRef<'_, PyTranscriptStart>>,
    ) -> PyResult<Self> {
        let (domain, custody) = (domain.array("domain")?, custody.array("custody")?);
        let transcript = match start {
            None => Transcript::new(domain, custody),
            Some(start) => Transcript::at(domain, custody, &start.start).map_err(key_error)?,
        };
        Ok(Self { transcript })
    }

    fn set_key(&mut self, lane: u8, from_seq: u64, public_key: Octets) -> PyResult<()> {
        let key = self::public_key(&public_key)?;
        self.transcript
            .set_key(lane, from_seq, key)
            .map_err(key_error)
    }

    fn check<'py>(&self, py: Python<'py>, frame: &PyFrame) -> PyResult<Bound<'py, PyBytes>> {
        let digest = self
            .transcript
            .check_verified(&frame.view(), frame.verified())
            .map_err(transcript_error)?;
        Ok(bytes(py, &digest))
    }

    fn append<'py>(&mut self, py: Python<'py>, frame: &PyFrame) -> PyResult<Bound<'py, PyBytes>> {
        let digest = self
            .transcript
            .append_verified(&frame.view(), frame.verified())
            .map_err(transcript_error)?;
        Ok(bytes(py, &digest))
    }

    fn head(&self, lane: u8) -> PyResult<PyHead> {
        self.transcript
            .head(lane)
            .map(|head| PyHead { head })
            .map_err(key_error)
    }

    fn digest<'py>(&self, py: Python<'py>, lane: u8, seq: u64) -> PyResult<Bound<'py, PyBytes>> {
        match self.transcript.digest(lane, seq).map_err(key_error)? {
            Some(digest) => Ok(bytes(py, &digest)),
            None => Err(PyIndexError::new_err(format!(
                "lane {lane} has no frame {seq} here"
            ))),
        }
    }

    fn __len__(&self) -> usize {
        self.transcript.len()
    }

    fn __repr__(&self) -> String {
        format!("Transcript(frames={})", self.transcript.len())
    }
}

/// What a whole transcript came to.
#[pyclass(name = "TranscriptSummary", module = "psymm._core", frozen)]
pub(crate) struct PyTranscriptSummary {
    summary: transcript::Summary,
}

#[pymethods]
impl PyTranscriptSummary {
    #[getter]
    fn frames(&self) -> usize {
        self.summary.frames
    }

    #[getter]
    fn heads(&self) -> (PyHead, PyHead) {
        let [trader, solver] = self.summary.heads;
        (PyHead { head: trader }, PyHead { head: solver })
    }

    fn __repr__(&self) -> String {
        let [trader, solver] = self.summary.heads;
        let frames = self.summary.frames;
        format!(
            "TranscriptSummary(frames={frames}, heads=({}, {}))",
            trader.seq, solver.seq
        )
    }
}

type Keys = Vec<(u8, u64, PublicKey)>;

fn ruling(keys: &[(u8, u64, Octets)]) -> PyResult<Keys> {
    keys.iter()
        .map(|(lane, from_seq, key)| Ok((*lane, *from_seq, public_key(key)?)))
        .collect()
}

#[pyfunction]
#[pyo3(signature = (data, domain, custody, keys, *, start = None, threads = 1, progress = None))]
#[expect(clippy::too_many_arguments, reason = "most of them are options")]
pub(crate) fn verify_transcript(
    py: Python<'_>,
    data: Held,
    domain: Octets,
    custody: Octets,
    keys: Vec<(u8, u64, Octets)>,
    start: Option<Py<PyTranscriptStart>>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<PyTranscriptSummary> {
    let domain: Digest = domain.array("domain")?;
    let custody: Digest = custody.array("custody")?;
    let keys = ruling(&keys)?;
    let bytes = data.as_slice();
    let mut raised = None;
    let verdict = py.detach(|| {
        let mut last = Instant::now();
        let mut call = |now: Progress| {
            let ended = now.bytes == bytes.len();
            if !ended && last.elapsed() < BETWEEN_CALLS {
                return ControlFlow::Continue(());
            }
            last = Instant::now();
            let called = Python::attach(|py| {
                py.check_signals()?;
                match &progress {
                    Some(callback) => callback.call1(py, (now.frames, now.bytes)).map(|_| ()),
                    None => Ok(()),
                }
            });
            match called {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    raised = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        let options = Options {
            threads,
            start: start.as_ref().map(|start| &start.get().start),
            progress: Some(&mut call),
            ..Options::default()
        };
        transcript::verify_transcript_with(bytes, domain, custody, &keys, options)
    });
    if let Some(error) = raised {
        return Err(error);
    }
    match verdict {
        Ok(Some(summary)) => Ok(PyTranscriptSummary { summary }),
        Ok(None) => unreachable!("only what the callback raised stops it"),
        Err(VerifyError::Frame(error)) => Err(frame_error(error)),
        Err(VerifyError::Transcript(error)) => Err(transcript_error(error)),
        Err(VerifyError::Key(error)) => Err(key_error(error)),
    }
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
