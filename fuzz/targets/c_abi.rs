//! The C face: calls with any counts, capacities and pointers, of which some are NULL,
//! misaligned or too many. Codes and outputs are those of the core's own functions, nothing is
//! written beyond a capacity, and nothing is a fault of the library (a panic inside ends the
//! fuzzing before it becomes a code).
//!
//! This file is long because each call has its cases, its arguments and its check side by side.

#![no_main]
// Of the tests' modules, only what random batches need is used here.
#![allow(dead_code)]

#[path = "../../core/tests/paths/changes.rs"]
mod changes;
mod memory;
#[path = "../../core/tests/paths/signing.rs"]
mod signing;
mod talk;

use core::ptr::null;

use _core::c::{
    CFault, CFrame, CLaneKey, CRefusal, CSummary, Code, psymm_frame_digest_many, psymm_frame_parse,
    psymm_recover_batch, psymm_verify_batch, psymm_verify_frames, psymm_verify_transcript,
};
use _core::frame::{FrameError, FrameFault, FrameView, OVERHEAD, split};
use _core::secp256k1::batch::{Claim, recover_batch, verify_batch};
use _core::secp256k1::{PublicKey, recover};
use _core::transcript::{KeyError, Options, VerifyError, verify_transcript_with};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

use changes::BASES;
use memory::{Arguments, Room, Wrong};
use signing::Case;
use talk::{CUSTODY, Change, DOMAIN, TALK, changed, keys};

/// A signature and what it is over.
#[derive(Arbitrary, Debug)]
enum Signed {
    /// A right one, with changes.
    Changed(u8, Option<(u8, u16)>),
    /// Bytes as they come.
    Any([u8; 32], [u8; 32], [u8; 32], u8),
}

/// Frames back to back.
#[derive(Arbitrary, Debug)]
struct Frames {
    first: u8,
    most: u8,
    changes: Vec<Change>,
    tail: Vec<u8>,
}

/// A public key.
#[derive(Arbitrary, Debug)]
enum Key {
    /// That of a right signature.
    Right(u8),
    /// Bytes as they come.
    Any([u8; 32], [u8; 32]),
}

/// A key of a lane, as a change to one of the talk's own.
#[derive(Arbitrary, Debug)]
struct LaneKey {
    own: u8,
    change: u8,
    value: u64,
}

#[derive(Arbitrary, Debug)]
enum Call {
    VerifyBatch {
        signed: Vec<(Signed, u32)>,
        keys: Vec<Key>,
        /// Whether each signature's key is named, R.y stated, and all repeated to be many.
        named: bool,
        stated: bool,
        many: u8,
        capacity: u8,
    },
    RecoverBatch {
        signed: Vec<Signed>,
        /// Which outputs are wanted.
        wanted: u8,
        many: u8,
    },
    FrameParse(Frames),
    FrameDigestMany {
        frames: Frames,
        capacity: u8,
    },
    VerifyFrames {
        buffers: Vec<(Frames, u8, bool, Wrong)>,
        digests: bool,
        capacity: u8,
    },
    VerifyTranscript {
        frames: Frames,
        keys: Option<Vec<LaneKey>>,
    },
}

#[derive(Arbitrary, Debug)]
struct Called {
    call: Call,
    wrong: Wrong,
    threads: u8,
    /// Whether the place of the fault is wanted.
    fault: bool,
}

impl Signed {
    fn case(&self) -> Case {
        match self {
            Self::Changed(which, change) => {
                let base = BASES[usize::from(*which) % BASES.len()];
                change.map_or(base, |(kind, number)| {
                    let change = changes::Change::numbered(usize::from(kind), number.into());
                    changes::changed(base, &change)
                })
            }
            Self::Any(digest, r, s, v) => {
                let base = Case {
                    digest: *digest,
                    ..BASES[0]
                };
                base.with_r(r).with_s(s).with_v(*v)
            }
        }
    }
}

impl Key {
    fn octets(&self) -> [u8; 64] {
        match self {
            Self::Right(which) => BASES[usize::from(*which) % BASES.len()].key.unwrap(),
            Self::Any(x, y) => [*x, *y].concat().try_into().unwrap(),
        }
    }
}

impl Frames {
    fn bytes(&self) -> Vec<u8> {
        let first = usize::from(self.first) % 2 * (usize::from(self.first) % TALK.len());
        let most = usize::from(self.most) % 16;
        let mut frames: Vec<_> = TALK.iter().skip(first).take(most).cloned().collect();
        for change in self.changes.iter().take(4) {
            changed(&mut frames, *change);
        }
        let mut bytes = frames.concat();
        bytes.extend(self.tail.iter().take(300));
        exact(bytes)
    }
}

impl LaneKey {
    fn key(&self) -> CLaneKey {
        let all = keys();
        let (lane, from_seq, key) = all[usize::from(self.own) % all.len()];
        let mut key = CLaneKey {
            from_seq,
            lane: lane.into(),
            reserved: 0,
            public_key: *key.as_bytes(),
        };
        match self.change {
            1 => key.from_seq = self.value % 40,
            2 => key.lane = self.value as u32,
            3 => key.lane = self.value as u32 % 3,
            4 => key.reserved = self.value as u32,
            5 => key.public_key[self.value as usize % 64] ^= 1 << (self.value >> 61),
            6 => key.from_seq = self.value,
            _ => {}
        }
        key
    }
}

/// The same with no room behind it, so that a read beyond the end is seen.
fn exact<T>(values: Vec<T>) -> Vec<T> {
    values.into_boxed_slice().into_vec()
}

/// As many as are worth threads, now and then: the batch is repeated.
fn many<T: Copy>(values: Vec<T>, many: u8) -> Vec<T> {
    if many < 250 || values.is_empty() {
        return values;
    }
    exact(values.iter().copied().cycle().take(600).collect())
}

fn ended_by(found: impl Into<Code>) -> i32 {
    found.into().number()
}

fn bytes_of(fault: &CFault) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(fault.code.to_ne_bytes());
    bytes.extend(fault.lane.to_ne_bytes());
    for number in [fault.index, fault.frame_offset, fault.offset, fault.seq] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes
}

/// A frame's lane and seq, as far as there are bytes of it.
fn lane_and_seq(frame: &[u8]) -> (u32, u64) {
    let seq = frame
        .get(34..42)
        .map(|seq| u64::from_be_bytes(seq.try_into().unwrap()));
    (frame.get(33).copied().unwrap_or(0).into(), seq.unwrap_or(0))
}

/// The fault of a frame that begins at a byte after some others.
fn fault_of(data: &[u8], index: usize, start: usize, error: FrameError) -> CFault {
    let (lane, seq) = lane_and_seq(data.get(start..).unwrap_or(&[]));
    CFault {
        code: ended_by(error),
        lane,
        index: index as u64,
        frame_offset: start as u64,
        offset: error.offset as u64,
        seq,
    }
}

/// The frames up to the first that is none, with where they begin, and its fault.
fn taken_apart(data: &[u8]) -> (Vec<(usize, FrameView<'_>)>, Option<CFault>) {
    let (mut frames, mut start) = (Vec::new(), 0);
    while start < data.len() {
        match FrameView::parse(data, start) {
            Ok(frame) => {
                frames.push((start, frame));
                start += frame.raw().len();
            }
            Err(error) => {
                let fault = fault_of(data, frames.len(), start, error);
                return (frames, Some(fault));
            }
        }
    }
    (frames, None)
}

/// How many frames' bounds can be told: a signature out of form does not hide the next one.
fn frames_in_sight(data: &[u8]) -> usize {
    let (mut count, mut start) = (0, 0);
    while start < data.len() {
        let seen = match FrameView::parse(data, start) {
            Ok(_) => true,
            Err(error) => matches!(
                error.fault,
                FrameFault::BadSignatureForm(_) | FrameFault::BadRY
            ),
        };
        if !seen {
            break;
        }
        count += 1;
        let length = data[start + 122..start + 126].try_into().unwrap();
        start += OVERHEAD + u32::from_be_bytes(length) as usize;
    }
    count
}

/// Where a call says what is wrong, if it is asked to.
struct Fault {
    room: Room,
    wanted: bool,
    writable: bool,
}

impl Fault {
    fn new(wanted: bool) -> Self {
        Self {
            room: Room::of::<CFault>(1),
            wanted,
            writable: false,
        }
    }

    fn pointer(&mut self, arguments: &Arguments) -> *mut CFault {
        let right = if self.wanted {
            self.room.pointer::<CFault>().cast_const()
        } else {
            null()
        };
        let given = arguments.optional(right, 1);
        self.writable = !given.is_null() && given == right;
        given.cast_mut()
    }

    fn is(&self, expected: &CFault) {
        if self.writable {
            self.room.holds(&bytes_of(expected));
        } else {
            self.room.is_untouched();
        }
    }

    fn is_only(&self, code: i32) {
        self.is(&CFault {
            code,
            ..CFault::default()
        });
    }
}

/// A count that a call gives back.
struct Counted {
    room: Room,
    writable: bool,
}

impl Counted {
    fn new() -> Self {
        Self {
            room: Room::of::<usize>(1),
            writable: false,
        }
    }

    fn pointer(&mut self, arguments: &Arguments) -> *mut usize {
        let right = self.room.pointer::<usize>().cast_const();
        let given = arguments.needed(right, 1);
        self.writable = given == right;
        given.cast_mut()
    }

    fn is(&self, expected: usize) {
        if self.writable {
            self.room.holds(&expected.to_ne_bytes());
        } else {
            self.room.is_untouched();
        }
    }
}

fn call_verify_batch(
    arguments: &Arguments,
    threads: u32,
    cases: &[Case],
    indices: Option<Vec<u32>>,
    stated: bool,
    keys: &[[u8; 64]],
    capacity: usize,
) {
    let digests = exact(cases.iter().map(|case| case.digest).collect());
    let signatures = exact(cases.iter().map(|case| case.signature).collect());
    let r_ys = stated.then(|| {
        exact(
            cases
                .iter()
                .map(|case| case.r_y.unwrap_or([0; 32]))
                .collect(),
        )
    });
    let mut refusals = Room::of::<CRefusal>(capacity);
    let mut refused = Counted::new();
    let (count, key_count) = (arguments.count(cases.len()), arguments.count(keys.len()));
    let told = arguments.count(capacity);
    let on_keys = arguments.needed(keys.as_ptr(), key_count);
    let on_digests = arguments.needed(digests.as_ptr(), count);
    let on_signatures = arguments.needed(signatures.as_ptr(), count);
    let of_indices = indices.as_ref().map_or(null(), |indices| indices.as_ptr());
    let on_indices = arguments.optional(of_indices, count);
    let of_r_ys = r_ys
        .as_ref()
        .map_or(null(), |r_ys: &Vec<[u8; 32]>| r_ys.as_ptr());
    let on_r_ys = arguments.optional(of_r_ys, count);
    let on_refusals = arguments.needed(refusals.pointer::<CRefusal>().cast_const(), told);
    // SAFETY: every pointer is NULL, misaligned, or to as much as is told; but where no object
    // can be as large as is told, which is one of all that the function must refuse unread.
    let code = unsafe {
        psymm_verify_batch(
            on_keys.cast(),
            key_count,
            on_digests.cast(),
            on_signatures.cast(),
            on_indices,
            on_r_ys.cast(),
            count,
            threads,
            on_refusals.cast_mut(),
            told,
            refused.pointer(arguments),
        )
    };
    if arguments.refused(code) {
        refusals.is_untouched();
        return refused.is(0);
    }
    let made: Result<Vec<PublicKey>, _> =
        keys.iter().map(|key| PublicKey::from_bytes(*key)).collect();
    let keys = match made {
        Ok(keys) => keys,
        Err(error) => {
            assert_eq!(code, ended_by(error));
            refusals.is_untouched();
            return refused.is(0);
        }
    };
    let claims: Vec<Claim<'_>> = (0..cases.len())
        .map(|place| Claim {
            digest: digests[place],
            signature: &signatures[place],
            r_y: r_ys
                .as_ref()
                .filter(|_| !on_r_ys.is_null())
                .map(|r_ys| &r_ys[place]),
            key: match &indices {
                Some(indices) if !on_indices.is_null() => indices[place] as usize,
                _ => 0,
            },
        })
        .collect();
    let found = verify_batch(&keys, &claims, 1);
    let expected = if found.is_empty() {
        Code::Ok
    } else {
        Code::Refused
    };
    assert_eq!(code, expected.number());
    let listed: Vec<u8> = found
        .iter()
        .take(capacity)
        .flat_map(|refusal| {
            let (index, code) = (refusal.index as u64, ended_by(refusal.fault));
            let mut bytes = index.to_ne_bytes().to_vec();
            bytes.extend(code.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes
        })
        .collect();
    refusals.holds(&listed);
    refused.is(found.len());
}

fn call_recover_batch(arguments: &Arguments, threads: u32, cases: &[Case], wanted: u8) {
    let digests: Vec<[u8; 32]> = exact(cases.iter().map(|case| case.digest).collect());
    let signatures: Vec<[u8; 65]> = exact(cases.iter().map(|case| case.signature).collect());
    let mut rooms = [
        Room::of::<[u8; 64]>(cases.len()),
        Room::of::<[u8; 20]>(cases.len()),
        Room::of::<i32>(cases.len()),
    ];
    let right = |room: &mut Room, bit: u8| match wanted >> bit & 1 {
        0 => null(),
        _ => room.pointer::<u8>().cast_const(),
    };
    let count = arguments.count(cases.len());
    let on_digests = arguments.needed(digests.as_ptr(), count);
    let on_signatures = arguments.needed(signatures.as_ptr(), count);
    let on_keys = arguments.optional(right(&mut rooms[0], 0).cast::<[u8; 64]>(), count);
    let on_addresses = arguments.optional(right(&mut rooms[1], 1).cast::<[u8; 20]>(), count);
    let on_codes = arguments.optional(right(&mut rooms[2], 2).cast::<i32>(), count);
    // SAFETY: as in `call_verify_batch`.
    let code = unsafe {
        psymm_recover_batch(
            on_digests.cast(),
            on_signatures.cast(),
            count,
            threads,
            on_keys.cast_mut().cast(),
            on_addresses.cast_mut().cast(),
            on_codes.cast_mut(),
        )
    };
    if arguments.refused(code) {
        return rooms.iter().for_each(Room::is_untouched);
    }
    let signed: Vec<_> = digests.iter().copied().zip(&signatures).collect();
    let recovered = recover_batch(&signed, 1);
    let all = recovered.iter().all(Result::is_ok);
    let expected = if all { Code::Ok } else { Code::Refused };
    assert_eq!(code, expected.number());
    let (mut keys, mut addresses, mut codes) = (Vec::new(), Vec::new(), Vec::new());
    for ((digest, signature), key) in signed.iter().zip(&recovered) {
        assert_eq!(*key, recover(digest, signature));
        keys.extend(key.map_or([0; 64], |key| *key.as_bytes()));
        addresses.extend(key.map_or([0; 20], |key| key.address()));
        codes.extend(key.map_or_else(ended_by, |_| 0).to_ne_bytes());
    }
    let given = [
        on_keys.is_null(),
        on_addresses.is_null(),
        on_codes.is_null(),
    ];
    for ((room, null), made) in rooms.iter().zip(given).zip([keys, addresses, codes]) {
        if null {
            room.is_untouched();
        } else {
            room.holds(&made);
        }
    }
}

fn call_frame_parse(arguments: &Arguments, bytes: &[u8], fault: bool) {
    let mut frame = Room::of::<CFrame>(1);
    let mut fault = Fault::new(fault);
    let length = arguments.count(bytes.len());
    let on_bytes = arguments.needed(bytes.as_ptr(), length);
    let on_frame = arguments.needed(frame.pointer::<CFrame>().cast_const(), 1);
    let on_fault = fault.pointer(arguments);
    // SAFETY: as in `call_verify_batch`.
    let code = unsafe { psymm_frame_parse(on_bytes, length, on_frame.cast_mut(), on_fault) };
    if arguments.refused(code) {
        frame.is_untouched();
        return fault.is_only(code);
    }
    let view = match FrameView::parse(bytes, 0) {
        Ok(view) => view,
        Err(error) => {
            assert_eq!(code, ended_by(error));
            frame.is_untouched();
            return fault.is(&fault_of(bytes, 0, 0, error));
        }
    };
    assert_eq!(code, 0);
    fault.is_only(0);
    let header = view.header();
    let mut expected = Vec::new();
    let length = view.raw().len() as u64;
    for number in [length, header.seq, header.peer_seq, header.sending_time] {
        expected.extend(number.to_ne_bytes());
    }
    expected.extend(u32::from(header.lane).to_ne_bytes());
    expected.extend((view.payload().len() as u32).to_ne_bytes());
    expected.extend(
        [
            header.custody,
            header.previous,
            header.peer_digest,
            view.r_y(),
        ]
        .concat(),
    );
    expected.extend(view.signature());
    expected.extend([0; 7]);
    frame.holds(&expected);
}

fn call_frame_digest_many(arguments: &Arguments, bytes: &[u8], capacity: usize, fault: bool) {
    let domain = Box::new(DOMAIN);
    let mut digests = Room::of::<[u8; 32]>(capacity);
    let mut counted = Counted::new();
    let mut fault = Fault::new(fault);
    let (length, told) = (arguments.count(bytes.len()), arguments.count(capacity));
    let on_bytes = arguments.needed(bytes.as_ptr(), length);
    let on_domain = arguments.needed(core::ptr::from_ref(&*domain), 1);
    let on_digests = arguments.needed(digests.pointer::<[u8; 32]>().cast_const(), told);
    let on_count = counted.pointer(arguments);
    let on_fault = fault.pointer(arguments);
    // SAFETY: as in `call_verify_batch`.
    let code = unsafe {
        psymm_frame_digest_many(
            on_bytes,
            length,
            on_domain.cast(),
            on_digests.cast_mut().cast(),
            told,
            on_count,
            on_fault,
        )
    };
    if arguments.refused(code) {
        digests.is_untouched();
        counted.is(0);
        return fault.is_only(code);
    }
    let (frames, wrong) = taken_apart(bytes);
    if let Some(wrong) = wrong {
        assert_eq!(code, ended_by(split(bytes).unwrap_err()));
        digests.is_untouched();
        counted.is(0);
        return fault.is(&wrong);
    }
    counted.is(frames.len());
    fault.is_only(code);
    if frames.len() > capacity {
        assert_eq!(code, Code::Capacity.number());
        return digests.is_untouched();
    }
    assert_eq!(code, 0);
    let made: Vec<_> = frames
        .iter()
        .map(|(_, frame)| frame.digest(&DOMAIN))
        .collect();
    digests.holds(&made.concat());
}

/// A buffer of frames, its domain and key, and what is wrong with its pointer and length.
struct Buffer {
    bytes: Vec<u8>,
    domain: [u8; 32],
    key: [u8; 64],
    wrong: Wrong,
}

fn call_verify_frames(
    arguments: &Arguments,
    threads: u32,
    buffers: &[Buffer],
    digests_wanted: bool,
    capacity: usize,
) {
    let domains = exact(buffers.iter().map(|buffer| buffer.domain).collect());
    let keys = exact(buffers.iter().map(|buffer| buffer.key).collect());
    let each: Vec<(Arguments, *const u8, usize)> = buffers
        .iter()
        .map(|buffer| {
            let arguments = Arguments::new(buffer.wrong);
            let length = arguments.count(buffer.bytes.len());
            let pointer = arguments.needed(buffer.bytes.as_ptr(), length);
            (arguments, pointer, length)
        })
        .collect();
    let pointers = exact(each.iter().map(|(_, pointer, _)| *pointer).collect());
    let lengths = exact(each.iter().map(|(.., length)| *length).collect());
    let mut verdicts = Room::of::<CFault>(buffers.len());
    let mut digests = Room::of::<[u8; 32]>(capacity);
    let count = arguments.count(buffers.len());
    let told = arguments.count(capacity);
    let on_buffers = arguments.needed(pointers.as_ptr(), count);
    let on_lengths = arguments.needed(lengths.as_ptr(), count);
    let on_domains = arguments.needed::<[u8; 32]>(domains.as_ptr(), count);
    let on_keys = arguments.needed::<[u8; 64]>(keys.as_ptr(), count);
    let of_digests = if digests_wanted {
        digests.pointer::<[u8; 32]>().cast_const()
    } else {
        null()
    };
    let on_digests = arguments.optional(of_digests, told);
    let on_verdicts = arguments.needed(verdicts.pointer::<CFault>().cast_const(), count);
    // SAFETY: as in `call_verify_batch`; and so for each buffer.
    let code = unsafe {
        psymm_verify_frames(
            on_buffers,
            on_lengths,
            on_domains.cast(),
            on_keys.cast(),
            count,
            threads,
            on_digests.cast_mut().cast(),
            told,
            on_verdicts.cast_mut(),
        )
    };
    let untouched = || {
        verdicts.is_untouched();
        digests.is_untouched();
    };
    if arguments.refused_with(each.iter().map(|(arguments, ..)| arguments), code) {
        return untouched();
    }
    let in_sight: usize = buffers
        .iter()
        .filter(|buffer| PublicKey::from_bytes(buffer.key).is_ok())
        .map(|buffer| frames_in_sight(&buffer.bytes))
        .sum();
    if !on_digests.is_null() && in_sight > capacity {
        assert_eq!(code, Code::Capacity.number());
        return untouched();
    }
    let mut made = Vec::new();
    let expected: Vec<CFault> = buffers
        .iter()
        .map(|buffer| one_by_one(buffer, &mut made))
        .collect();
    let all = expected.iter().all(|verdict| verdict.code == 0);
    let right = if all { Code::Ok } else { Code::Refused };
    assert_eq!(code, right.number());
    verdicts.holds(&expected.iter().flat_map(bytes_of).collect::<Vec<_>>());
    if on_digests.is_null() {
        digests.is_untouched();
    } else {
        digests.holds(&made.concat());
    }
}

/// A buffer's verdict, frame after frame; the digests of those that hold are added.
fn one_by_one(buffer: &Buffer, digests: &mut Vec<[u8; 32]>) -> CFault {
    let key = match PublicKey::from_bytes(buffer.key) {
        Ok(key) => key,
        Err(error) => return Code::from(error).into(),
    };
    let (frames, wrong) = taken_apart(&buffer.bytes);
    for (index, (start, frame)) in frames.iter().enumerate() {
        if let Err(error) = frame.verify(&buffer.domain, &key) {
            let at_its_start = FrameError {
                offset: *start,
                ..error
            };
            return fault_of(&buffer.bytes, index, *start, at_its_start);
        }
        digests.push(frame.digest(&buffer.domain));
    }
    wrong.unwrap_or(CFault {
        index: frames.len() as u64,
        ..CFault::default()
    })
}

fn call_verify_transcript(
    arguments: &Arguments,
    threads: u32,
    bytes: &[u8],
    given: &[CLaneKey],
    fault: bool,
) {
    let (domain, custody) = (Box::new(DOMAIN), Box::new(CUSTODY));
    let mut summary = Room::of::<CSummary>(1);
    let mut fault = Fault::new(fault);
    let (length, key_count) = (arguments.count(bytes.len()), arguments.count(given.len()));
    let on_bytes = arguments.needed(bytes.as_ptr(), length);
    let on_domain = arguments.needed(core::ptr::from_ref(&*domain), 1);
    let on_custody = arguments.needed(core::ptr::from_ref(&*custody), 1);
    let on_keys = arguments.needed(given.as_ptr(), key_count);
    let on_summary = arguments.needed(summary.pointer::<CSummary>().cast_const(), 1);
    let on_fault = fault.pointer(arguments);
    // SAFETY: as in `call_verify_batch`.
    let code = unsafe {
        psymm_verify_transcript(
            on_bytes,
            length,
            on_domain.cast(),
            on_custody.cast(),
            on_keys,
            key_count,
            threads,
            on_summary.cast_mut(),
            on_fault,
        )
    };
    if arguments.refused(code) {
        summary.is_untouched();
        return fault.is_only(code);
    }
    let of_key = |index: usize, code: i32| CFault {
        code,
        lane: given[index].lane,
        index: index as u64,
        seq: given[index].from_seq,
        ..CFault::default()
    };
    let mut keys = Vec::new();
    for (index, key) in given.iter().enumerate() {
        let read = match (key.reserved, u8::try_from(key.lane)) {
            (1.., _) => Err(Code::Reserved),
            (0, Err(_)) => Err(Code::KeyBadLane),
            (0, Ok(lane)) => PublicKey::from_bytes(key.public_key)
                .map(|public| (lane, key.from_seq, public))
                .map_err(Code::from),
        };
        match read {
            Ok(key) => keys.push(key),
            Err(wrong) => {
                assert_eq!(code, wrong.number());
                summary.is_untouched();
                return fault.is(&of_key(index, code));
            }
        }
    }
    let options = Options {
        threads: 1,
        ..Options::default()
    };
    let expected = match verify_transcript_with(bytes, DOMAIN, CUSTODY, &keys, options) {
        Ok(right) => {
            let right = right.unwrap();
            assert_eq!(code, 0);
            fault.is_only(0);
            let mut expected = (right.frames as u64).to_ne_bytes().to_vec();
            for head in right.heads {
                for number in [head.seq, head.sending_time, head.peer_seq] {
                    expected.extend(number.to_ne_bytes());
                }
                expected.extend(head.digest);
            }
            return summary.holds(&expected);
        }
        Err(VerifyError::Frame(error)) => {
            let wrong = taken_apart(bytes).1.unwrap();
            assert_eq!(
                (wrong.code, wrong.offset),
                (ended_by(error), error.offset as u64)
            );
            wrong
        }
        Err(VerifyError::Transcript(error)) => CFault {
            code: ended_by(error.fault),
            lane: error.lane.into(),
            index: error.index as u64,
            frame_offset: error.offset as u64,
            offset: error.offset as u64,
            seq: error.seq,
        },
        Err(VerifyError::Key(error)) => {
            let at_fault = |key: &CLaneKey| match error {
                KeyError::BadLane(lane) => key.lane == lane.into(),
                KeyError::Repeated { lane, from_seq } => {
                    (key.lane, key.from_seq) == (lane.into(), from_seq)
                }
                KeyError::TooLate { from_seq, .. } => key.from_seq == from_seq,
            };
            let index = given.iter().rposition(at_fault).unwrap();
            of_key(index, ended_by(error))
        }
    };
    assert_eq!(code, expected.code);
    summary.is_untouched();
    fault.is(&expected);
}

fuzz_target!(|calls: Vec<Called>| {
    for called in calls.iter().take(3) {
        let arguments = &Arguments::new(called.wrong);
        let threads = match called.threads % 8 {
            5.. => u32::MAX,
            threads => threads.into(),
        };
        match &called.call {
            Call::VerifyBatch {
                signed,
                keys,
                named,
                stated,
                many: repeated,
                capacity,
            } => {
                let signed = &signed[..signed.len().min(32)];
                let cases = many(
                    signed.iter().map(|(one, _)| one.case()).collect(),
                    *repeated,
                );
                // The keys of the signatures themselves come last.
                let mut list: Vec<_> = keys.iter().take(4).map(Key::octets).collect();
                let own = list.len();
                list.extend(signed.iter().filter_map(|(one, _)| one.case().key));
                let own_of = |place: usize| {
                    let before = signed[..place].iter();
                    own + before.filter(|(one, _)| one.case().key.is_some()).count()
                };
                let indices = (0..signed.len()).map(|place| match signed[place].1 {
                    wrong if wrong % 8 == 7 => wrong,
                    _ => own_of(place) as u32,
                });
                let indices = named.then(|| many(exact(indices.collect()), *repeated));
                let capacity = usize::from(*capacity) % (cases.len() + 3);
                let list = exact(list);
                call_verify_batch(
                    arguments, threads, &cases, indices, *stated, &list, capacity,
                );
            }
            Call::RecoverBatch {
                signed,
                wanted,
                many: repeated,
            } => {
                let cases = signed.iter().take(32).map(Signed::case).collect();
                call_recover_batch(arguments, threads, &many(cases, *repeated), *wanted);
            }
            Call::FrameParse(frames) => {
                call_frame_parse(arguments, &frames.bytes(), called.fault);
            }
            Call::FrameDigestMany { frames, capacity } => {
                let capacity = usize::from(capacity % 24);
                call_frame_digest_many(arguments, &frames.bytes(), capacity, called.fault);
            }
            Call::VerifyFrames {
                buffers,
                digests,
                capacity,
            } => {
                let all = keys();
                let buffers: Vec<Buffer> = buffers
                    .iter()
                    .take(5)
                    .map(|(frames, key, right, wrong)| Buffer {
                        bytes: frames.bytes(),
                        domain: if *right { DOMAIN } else { [8; 32] },
                        key: match usize::from(*key) {
                            own if own < 200 => *all[own % all.len()].2.as_bytes(),
                            _ => [*key; 64],
                        },
                        wrong: *wrong,
                    })
                    .collect();
                let capacity = usize::from(*capacity) % 80;
                call_verify_frames(arguments, threads, &buffers, *digests, capacity);
            }
            Call::VerifyTranscript { frames, keys: own } => {
                let right = || {
                    (0..3).map(|own| {
                        LaneKey {
                            own,
                            change: 0,
                            value: 0,
                        }
                        .key()
                    })
                };
                let given: Vec<CLaneKey> = match own {
                    None => right().collect(),
                    Some(own) => own.iter().take(5).map(LaneKey::key).collect(),
                };
                let given = exact(given);
                call_verify_transcript(arguments, threads, &frames.bytes(), &given, called.fault);
            }
        }
    }
});
