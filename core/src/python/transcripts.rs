//! Heads, transcripts and their start.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::keccak::Digest;
use crate::python::convert::{Held, Octets, bytes};
use crate::python::errors::{frame_error, key_error, start_error, transcript_error};
use crate::python::frames::PyFrame;
use crate::python::keys::public_key;
use crate::secp256k1::PublicKey;
use crate::transcript::{self, Head, Options, Progress, Start, Transcript, VerifyError};

/// How often a long call goes back to the interpreter, to show progress and to hear of signals.
const BETWEEN_CALLS: Duration = Duration::from_millis(200);

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

    fn forget_keys(&mut self, lane: u8, from_seq: u64) -> PyResult<()> {
        self.transcript
            .forget_keys(lane, from_seq)
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
