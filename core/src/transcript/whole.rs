//! A whole transcript verified in one call over the bytes that hold it.
//!
//! The bytes are taken in blocks small enough to stay in a core's cache: a block is cut into
//! frames, its signatures' form is judged, its digests are made together, and it is chained to
//! what came before. The signatures of many blocks then go into one batch. Threads take the
//! next block as they come free; only cutting and chaining wait for one another, and a chained
//! block's frames lie before whatever fault a later one finds.
//!
//! The verdict is that of one frame after the other: of all faults the first frame's counts,
//! and of a frame's faults the one that [`FrameView::parse`] and
//! [`Transcript::append`](super::Transcript::append) would find first. So a thread that finds a
//! fault goes on to judge the signatures that it has gathered, all of them of earlier blocks or
//! of earlier frames, or is overruled by another thread that does.

use core::fmt;
use core::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::chain::{Chain, Head, Start};
use super::fault::{Fault, VerifyError};
use super::gathered::{Gathered, Refused};
use crate::cpu::{self, Backend};
use crate::frame::{FrameError, FrameView, digest_many_with};
use crate::keccak::Digest;
use crate::secp256k1::PublicKey;
use crate::secp256k1::batch::{ClaimFault, verify_batch_with};

/// The most signatures in a batch, unless [`Options`] say otherwise.
pub const WINDOW: usize = 65_536;

/// All threads together gather at most this many batches of [`Options::window`].
const WINDOWS_AT_ONCE: usize = 2;
/// The most frames in a block, and how many bytes end one.
const BLOCK: usize = 512;
const BLOCK_BYTES: usize = 1 << 19;
/// Fewer frames than this are not worth a thread.
const FRAMES_PER_THREAD: usize = 256;
const MOST_THREADS: usize = 256;

/// What a whole transcript came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How many frames there are, of both lanes.
    pub frames: usize,
    /// The heads of the trader's and the solver's lane.
    pub heads: [Head; 2],
}

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many frames are through, not always the first ones.
    pub frames: usize,
    /// How many bytes these are.
    pub bytes: usize,
}

/// How to verify.
pub struct Options<'a> {
    /// How many threads may work, this one included; 0 means one for each core.
    pub threads: usize,
    /// What to compute with.
    pub backend: Backend,
    /// The most signatures in a batch, for one thread or two; more threads gather less each,
    /// so that memory does not grow with them.
    pub window: usize,
    /// Where the transcript starts, unless with the first frames.
    pub start: Option<&'a Start>,
    /// Called on the calling thread now and then, and at the end; `Break` stops the work.
    pub progress: Option<&'a mut dyn FnMut(Progress) -> ControlFlow<()>>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            threads: 1,
            backend: cpu::best(),
            window: WINDOW,
            start: None,
            progress: None,
        }
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("threads", &self.threads)
            .field("backend", &self.backend)
            .field("window", &self.window)
            .field("start", &self.start)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}

/// Verifies frames back to back in order of arrival, that is, in any order where each comes
/// after the one before it in its lane and the one that it covers. Keys are (lane, from seq,
/// key), in any order; those of a start need not be given again. On one thread.
///
/// # Errors
/// The first frame that is none, or does not follow; frames before it were right.
pub fn verify_transcript(
    data: &[u8],
    domain: Digest,
    custody: Digest,
    keys: &[(u8, u64, PublicKey)],
) -> Result<Summary, VerifyError> {
    let (verdict, _) = verify(data, &domain, custody, keys, Options::default());
    verdict
}

/// As [`verify_transcript`], with options; `None` if the callback stopped it. Beside `data` it
/// needs 32 bytes a frame and what two batches of [`Options::window`] take.
///
/// # Errors
/// As [`verify_transcript`].
pub fn verify_transcript_with(
    data: &[u8],
    domain: Digest,
    custody: Digest,
    keys: &[(u8, u64, PublicKey)],
    options: Options<'_>,
) -> Result<Option<Summary>, VerifyError> {
    match verify(data, &domain, custody, keys, options) {
        (_, true) => Ok(None),
        (verdict, false) => verdict.map(Some),
    }
}

/// The verdict, and whether the callback stopped the work before there was one.
fn verify(
    data: &[u8],
    domain: &Digest,
    custody: Digest,
    keys: &[(u8, u64, PublicKey)],
    options: Options<'_>,
) -> (Result<Summary, VerifyError>, bool) {
    let started = match options.start {
        None => Ok(Chain::new(custody)),
        Some(start) => Chain::at(custody, start),
    };
    let keyed = started.and_then(|mut chain| chain.set_keys(keys).map(|()| chain));
    let chain = match keyed {
        Ok(chain) => chain,
        Err(error) => return (Err(VerifyError::Key(error)), false),
    };
    let wanted = cpu::threads(options.threads);
    let window = options.window.max(1);
    let frames = estimate(data);
    let worth = frames.div_ceil(FRAMES_PER_THREAD.min(window));
    let threads = wanted.min(worth).clamp(1, MOST_THREADS);
    // Blocks of one size, and as many for each thread.
    let each = frames.div_ceil(threads).clamp(1, window);
    let work = Work {
        data,
        domain,
        backend: options.backend,
        threads,
        window: match threads {
            ..=WINDOWS_AT_ONCE => window,
            _ => (window.saturating_mul(WINDOWS_AT_ONCE) / threads).max(1),
        },
        block: each.div_ceil(each.div_ceil(BLOCK)),
        cut: Mutex::new(Cut::default()),
        turn: Mutex::new(Turn {
            chain,
            next: 0,
            over: false,
        }),
        passed: Condvar::new(),
        first: Mutex::new(None),
        over: AtomicBool::new(false),
        stopped: AtomicBool::new(false),
        frames: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
    };
    let mut progress = options.progress;
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| work.run(&mut None));
        }
        work.run(&mut progress);
    });
    if let Some(progress) = progress {
        work.report(progress);
    }
    (work.verdict(), work.stopped.into_inner())
}

/// How many frames there are if all are as long as the first.
fn estimate(data: &[u8]) -> usize {
    FrameView::bounds(data, 0).map_or(1, |frame| data.len() / frame.raw().len())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Poison means that another thread panicked; the scope passes its panic on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far the bytes are cut into frames.
#[derive(Default)]
struct Cut {
    offset: usize,
    frames: usize,
    blocks: usize,
    ended: bool,
}

/// The chain, and whose turn it is to add to it.
struct Turn {
    chain: Chain,
    next: usize,
    /// A block ended in a fault, or a thread in a panic: nothing is added any more.
    over: bool,
}

/// Some frames in a row, and the fault of form that comes after them.
struct Block<'a> {
    number: usize,
    index: usize,
    offset: usize,
    frames: Vec<FrameView<'a>>,
    fault: Option<FrameError>,
}

struct Work<'a> {
    data: &'a [u8],
    domain: &'a Digest,
    backend: Backend,
    threads: usize,
    window: usize,
    block: usize,
    cut: Mutex<Cut>,
    turn: Mutex<Turn>,
    passed: Condvar,
    /// The fault of the first frame that has one, with that frame's index.
    first: Mutex<Option<(usize, VerifyError)>>,
    /// Nothing more need be cut.
    over: AtomicBool,
    stopped: AtomicBool,
    frames: AtomicUsize,
    bytes: AtomicUsize,
}

/// Ends everybody's waiting for this thread's turn, should it panic before it has come.
struct Waited<'a, 'b>(&'a Work<'b>);

impl Drop for Waited<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            locked(&self.0.turn).over = true;
            self.0.passed.notify_all();
        }
    }
}

impl<'a> Work<'a> {
    fn run(&self, progress: &mut Option<&mut dyn FnMut(Progress) -> ControlFlow<()>>) {
        let _waited = Waited(self);
        let mut gathered = Gathered::default();
        let mut frames = Vec::with_capacity(self.block);
        while let Some((block, share)) = self.cut(frames) {
            frames = self.chain(block, &mut gathered);
            if gathered.claims.len() >= share {
                self.judge(&mut gathered);
            }
            if let Some(progress) = progress {
                self.report(*progress);
            }
        }
        self.judge(&mut gathered);
    }

    fn report(&self, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) {
        let so_far = Progress {
            frames: self.frames.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        };
        if progress(so_far).is_break() {
            self.stopped.store(true, Ordering::Relaxed);
            self.over.store(true, Ordering::Relaxed);
        }
    }

    fn verdict(&self) -> Result<Summary, VerifyError> {
        if let Some((_, error)) = *locked(&self.first) {
            return Err(error);
        }
        Ok(Summary {
            frames: locked(&self.cut).frames,
            heads: locked(&self.turn).chain.heads(),
        })
    }

    fn refuse(&self, index: usize, error: VerifyError) {
        let mut first = locked(&self.first);
        if first.is_none_or(|(earlier, _)| index < earlier) {
            *first = Some((index, error));
        }
        self.over.store(true, Ordering::Relaxed);
    }

    /// The next block, and how many signatures make a batch by what is known of the lengths.
    fn cut(&self, mut frames: Vec<FrameView<'a>>) -> Option<(Block<'a>, usize)> {
        frames.clear();
        let mut cut = locked(&self.cut);
        if cut.ended || self.over.load(Ordering::Relaxed) {
            return None;
        }
        let (index, start) = (cut.frames, cut.offset);
        let mut offset = start;
        let mut fault = None;
        while offset < self.data.len() && frames.len() < self.block && offset - start < BLOCK_BYTES
        {
            match FrameView::bounds(self.data, offset) {
                Ok(frame) => {
                    offset += frame.raw().len();
                    frames.push(frame);
                }
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
        }
        let number = cut.blocks;
        cut.offset = offset;
        cut.frames += frames.len();
        cut.blocks += 1;
        cut.ended = fault.is_some() || offset == self.data.len();
        // Batches of one size, as many for each thread, so that all end together.
        let expected = match offset {
            0 => 1,
            _ => (cut.frames as u128 * self.data.len() as u128).div_ceil(offset as u128) as usize,
        };
        let rounds = expected.div_ceil(self.threads.saturating_mul(self.window));
        let share = expected.div_ceil(self.threads * rounds);
        let block = Block {
            number,
            index,
            offset: start,
            frames,
            fault,
        };
        Some((block, share))
    }

    /// Judges a block but for its signatures, and gathers these. Gives the room of its frames
    /// back.
    fn chain(&self, mut block: Block<'a>, gathered: &mut Gathered<'a>) -> Vec<FrameView<'a>> {
        let mut offset = block.offset;
        for (place, frame) in block.frames.iter().enumerate() {
            if let Err(error) = frame.check_form(offset) {
                block.fault = Some(error);
                block.frames.truncate(place);
                break;
            }
            offset += frame.raw().len();
        }
        let digests = digest_many_with(self.backend, self.domain, &block.frames);

        let mut turn = locked(&self.turn);
        while turn.next != block.number && !turn.over {
            turn = self
                .passed
                .wait(turn)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if turn.over {
            return block.frames;
        }
        let mut refused = false;
        let mut offset = block.offset;
        gathered.begin(block.index, block.offset);
        for (place, (frame, digest)) in block.frames.iter().zip(digests).enumerate() {
            if let Err(error) = gathered.follow(&mut turn.chain, frame, digest) {
                self.refuse(
                    block.index + place,
                    error.at(block.index + place, offset, frame),
                );
                refused = true;
                break;
            }
            offset += frame.raw().len();
        }
        if let Some(error) = block.fault.filter(|_| !refused) {
            self.refuse(block.index + block.frames.len(), VerifyError::Frame(error));
            refused = true;
        }
        turn.over = refused;
        turn.next += 1;
        drop(turn);
        self.passed.notify_all();
        block.frames
    }

    /// Verifies what was gathered, in one batch.
    fn judge(&self, gathered: &mut Gathered<'a>) {
        if gathered.claims.is_empty() || self.stopped.load(Ordering::Relaxed) {
            return;
        }
        let refusals = verify_batch_with(self.backend, &gathered.keys, &gathered.claims, 1);
        if let Some(refusal) = refusals.first() {
            let (index, offset) = gathered.find(self.data, refusal.index);
            if let Ok(frame) = FrameView::bounds(self.data, offset) {
                let error = match refusal.fault {
                    ClaimFault::BadRY => VerifyError::Frame(frame.bad_r_y(offset)),
                    _ => Refused::Transcript(Fault::BadSignature).at(index, offset, &frame),
                };
                self.refuse(index, error);
            }
        }
        self.frames
            .fetch_add(gathered.claims.len(), Ordering::Relaxed);
        self.bytes.fetch_add(gathered.bytes, Ordering::Relaxed);
        gathered.clear();
    }
}
