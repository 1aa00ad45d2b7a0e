//! The C face, `include/psymm.h`: the header is its specification.
//!
//! A function here checks what it can of its pointers, calls the core, and writes what came of
//! it; it decides nothing itself. Results are written after the last look at the inputs, and
//! no reference is made to memory that is the caller's to have written.

mod codes;
mod frames;
mod layout;
mod memory;

use core::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use self::codes::Code;
pub use self::layout::{CFault, CFrame, CHead, CLaneKey, CRefusal, CSummary};

use self::frames::{Buffer, judge};
use self::memory::{Output, input, one, optional};
use crate::cpu::{self, Backend};
use crate::frame::{FrameView, digest_many, split};
use crate::keccak::{Digest, keccak256_many};
use crate::secp256k1::batch::{Claim, recover_batch, verify_batch};
use crate::secp256k1::{PublicKey, Signature};
use crate::transcript::{KeyError, Options, VerifyError, verify_transcript_with};

/// `PSYMM_ABI_VERSION`: 65536 × major + minor.
pub const ABI_VERSION: u32 = 1 << 16;

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn psymm_abi_version() -> u32 {
    ABI_VERSION
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn psymm_backend() -> *const c_char {
    // The first look may read the environment; what it finds wrong there leaves the default.
    let backend = catch_unwind(cpu::best).unwrap_or(Backend::Portable);
    match backend {
        Backend::Portable => c"portable",
        Backend::Avx2 => c"avx2",
        Backend::Avx512 => c"avx512",
    }
    .as_ptr()
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn psymm_error_name(code: i32) -> *const c_char {
    Code::from_number(code)
        .map_or(c"unknown", Code::name)
        .as_ptr()
}

/// See the header.
///
/// # Safety
/// `text` is NULL or has room for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psymm_error_message(
    code: i32,
    text: *mut c_char,
    capacity: usize,
) -> usize {
    let whole = Code::from_number(code).map_or(
        "the code is unknown; the library is newer than this program, or the number is no code",
        Code::text,
    );
    // SAFETY: `text` has room for `capacity` bytes, says the caller.
    let text = unsafe { Output::optional(text.cast::<u8>(), capacity) };
    if let Ok(Some(text)) = text
        && let Some(most) = text.room().checked_sub(1)
    {
        let mut cut = whole.as_bytes()[..whole.len().min(most)].to_vec();
        cut.push(0);
        text.write(&cut);
    }
    whole.len()
}

/// See the header.
///
/// # Safety
/// Pointers and counts are as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psymm_keccak256_many(
    messages: *const *const u8,
    lengths: *const usize,
    count: usize,
    digests: *mut u8,
) -> i32 {
    answer(|| {
        // SAFETY: the caller's promise is that of the header.
        let digests = unsafe { Output::<Digest>::new(digests.cast(), count) }?;
        // SAFETY: likewise; the messages live as long as the call.
        let messages = unsafe { byte_strings(messages, lengths, count) }?;
        digests.write(&keccak256_many(&messages));
        Ok(())
    })
}

/// See the header.
///
/// # Safety
/// Pointers and counts are as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psymm_frame_parse(
    bytes: *const u8,
    length: usize,
    frame: *mut CFrame,
    fault: *mut CFault,
) -> i32 {
    let body = || {
        // SAFETY: the caller's promise is that of the header.
        let frame = unsafe { Output::new(frame, 1) }?;
        // SAFETY: likewise.
        let bytes = unsafe { input(bytes, length) }?;
        let view =
            FrameView::parse(bytes, 0).map_err(|error| CFault::of_frame(bytes, 0, 0, error))?;
        frame.write(&[CFrame::from(view)]);
        Ok(())
    };
    // SAFETY: the caller's promise is that of the header.
    unsafe { answer_with_fault(fault, body) }
}

/// See the header.
///
/// # Safety
/// Pointers and counts are as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psymm_frame_digest_many(
    bytes: *const u8,
    length: usize,
    domain: *const u8,
    digests: *mut u8,
    capacity: usize,
    count: *mut usize,
    fault: *mut CFault,
) -> i32 {
    // SAFETY: the caller's promise is that of the header.
    let count = unsafe { Output::new(count, 1) };
    // Said even where the place of a fault cannot be.
    if let Ok(count) = &count {
        count.write(&[0]);
    }
    let body = || {
        let count = count?;
        // SAFETY: likewise.
        let digests = unsafe { Output::<Digest>::new(digests.cast(), capacity) }?;
        // SAFETY: likewise.
        let domain = unsafe { one::<Digest>(domain.cast()) }?;
        // SAFETY: likewise.
        let bytes = unsafe { input(bytes, length) }?;
        let views = split(bytes).map_err(|error| CFault::within(bytes, error))?;
        if views.len() > capacity {
            count.write(&[views.len()]);
            return Err(Code::Capacity.into());
        }
        let made = digest_many(domain, &views);
        digests.write(&made);
        count.write(&[made.len()]);
        Ok(())
    };
    // SAFETY: the caller's promise is that of the header.
    unsafe { answer_with_fault(fault, body) }
}

/// See the header.
///
/// # Safety
/// Pointers and counts are as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psymm_verify_batch(
    keys: *const u8,
    key_count: usize,
    digests: *const u8,
    signatures: *const u8,
    key_indices: *const u32,
    r_ys: *const u8,
    count: usize,
    threads: u32,
    refusals: *mut CRefusal,
    capacity: usize,
    refused: *mut usize,
) -> i32 {
    answer(|| {
        // SAFETY: the caller's promise is that of the header.
        let refused = unsafe { Output::new(refused, 1) }?;
        refused.write(&[0]);
        // SAFETY: likewise.
        let refusals = unsafe { Output::new(refusals, capacity) }?;
        // SAFETY: likewise.
        let keys = unsafe { input::<[u8; 64]>(keys.cast(), key_count) }?;
        // SAFETY: likewise.
        let digests = unsafe { input::<Digest>(digests.cast(), count) }?;
        // SAFETY: likewise.
        let signatures = unsafe { input::<Signature>(signatures.cast(), count) }?;
        // SAFETY: likewise.
        let key_indices = unsafe { optional(key_indices, count) }?;
        // SAFETY: likewise.
        let r_ys = unsafe { optional::<[u8; 32]>(r_ys.cast(), count) }?;
        let keys = keys
            .iter()
            .map(|key| PublicKey::from_bytes(*key))
            .collect::<Result<Vec<_>, _>>()?;
        let claims: Vec<Claim<'_>> = (0..count)
            .map(|place| Claim {
                digest: digests[place],
                signature: &signatures[place],
                r_y: r_ys.map(|r_ys| &r_ys[place]),
                key: key_indices.map_or(0, |indices| indices[place] as usize),
            })
            .collect();
        let found: Vec<CRefusal> = verify_batch(&keys, &claims, threads as usize)
            .into_iter()
            .map(|refusal| CRefusal {
                index: refusal.index as u64,
                code: Code::from(refusal.fault).number(),
                reserved: 0,
            })
            .collect();
        refusals.write(&found[..found.len().min(capacity)]);
        refused.write(&[found.len()]);
        all_or_refused(found.is_empty())
    })
}

/// See the header.
///
/// # Safety
/// Pointers and counts are as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psymm_recover_batch(
    digests: *const u8,
    signatures: *const u8,
    count: usize,
    threads: u32,
    keys: *mut u8,
    addresses: *mut u8,
    codes: *mut i32,
) -> i32 {
    answer(|| {
        // SAFETY: the caller's promise is that of the header.
        let keys = unsafe { Output::<[u8; 64]>::optional(keys.cast(), count) }?;
        // SAFETY: likewise.
        let addresses = unsafe { Output::<[u8; 20]>::optional(addresses.cast(), count) }?;
        // SAFETY: likewise.
        let codes = unsafe { Output::optional(codes, count) }?;
        // SAFETY: likewise.
        let digests = unsafe { input::<Digest>(digests.cast(), count) }?;
        // SAFETY: likewise.
        let signatures = unsafe { input::<Signature>(signatures.cast(), count) }?;
        let signed: Vec<(Digest, &Signature)> = digests.iter().copied().zip(signatures).collect();
        let recovered = recover_batch(&signed, threads as usize);
        if let Some(addresses) = addresses {
            addresses.write(&addresses_of(&recovered));
        }
        if let Some(keys) = keys {
            let made: Vec<[u8; 64]> = recovered
                .iter()
                .map(|key| key.map_or([0; 64], |key| *key.as_bytes()))
                .collect();
            keys.write(&made);
        }
        if let Some(codes) = codes {
            let made: Vec<i32> = recovered
                .iter()
                .map(|key| key.map_or_else(Code::from, |_| Code::Ok).number())
                .collect();
            codes.write(&made);
        }
        all_or_refused(recovered.iter().all(Result::is_ok))
    })
}

/// See the header.
///
/// # Safety
/// Pointers and counts are as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psymm_verify_frames(
    buffers: *const *const u8,
    lengths: *const usize,
    domains: *const u8,
    keys: *const u8,
    count: usize,
    threads: u32,
    digests: *mut u8,
    capacity: usize,
    verdicts: *mut CFault,
) -> i32 {
    answer(|| {
        // SAFETY: the caller's promise is that of the header.
        let verdicts = unsafe { Output::new(verdicts, count) }?;
        // SAFETY: likewise.
        let digests = unsafe { Output::<Digest>::optional(digests.cast(), capacity) }?;
        // SAFETY: likewise.
        let domains = unsafe { input::<Digest>(domains.cast(), count) }?;
        // SAFETY: likewise.
        let keys = unsafe { input::<[u8; 64]>(keys.cast(), count) }?;
        // SAFETY: likewise; the buffers live as long as the call.
        let bytes = unsafe { byte_strings(buffers, lengths, count) }?;
        let buffers: Vec<Buffer<'_>> = (0..count)
            .map(|place| Buffer {
                bytes: bytes[place],
                domain: &domains[place],
                key: &keys[place],
            })
            .collect();
        let most = digests.as_ref().map_or(usize::MAX, Output::room);
        let judged = judge(&buffers, most, threads as usize)?;
        if let Some(digests) = digests {
            digests.write(&judged.digests);
        }
        verdicts.write(&judged.verdicts);
        let held = |verdict: &CFault| verdict.code == Code::Ok.number();
        all_or_refused(judged.verdicts.iter().all(held))
    })
}

/// See the header.
///
/// # Safety
/// Pointers and counts are as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn psymm_verify_transcript(
    bytes: *const u8,
    length: usize,
    domain: *const u8,
    custody: *const u8,
    keys: *const CLaneKey,
    key_count: usize,
    threads: u32,
    summary: *mut CSummary,
    fault: *mut CFault,
) -> i32 {
    let body = || {
        // SAFETY: the caller's promise is that of the header.
        let summary = unsafe { Output::new(summary, 1) }?;
        // SAFETY: likewise.
        let domain = unsafe { one::<Digest>(domain.cast()) }?;
        // SAFETY: likewise.
        let custody = unsafe { one::<Digest>(custody.cast()) }?;
        // SAFETY: likewise.
        let given = unsafe { input(keys, key_count) }?;
        // SAFETY: likewise.
        let bytes = unsafe { input(bytes, length) }?;
        let keys = given
            .iter()
            .enumerate()
            .map(|(index, key)| lane_key(key).map_err(|code| refused_key(given, index, code)))
            .collect::<Result<Vec<_>, _>>()?;
        let options = Options {
            threads: threads as usize,
            ..Options::default()
        };
        let verified = verify_transcript_with(bytes, *domain, *custody, &keys, options)
            .map_err(|error| transcript_fault(bytes, given, error))?;
        // Only a progress callback can stop it, and C gives none.
        let verified = verified.ok_or(Code::Internal)?;
        summary.write(&[CSummary::from(verified)]);
        Ok(())
    };
    // SAFETY: the caller's promise is that of the header.
    unsafe { answer_with_fault(fault, body) }
}

/// What C gets of a call: its code, also if it panics.
fn answer(body: impl FnOnce() -> Result<(), Code>) -> i32 {
    caught(body).err().unwrap_or(Code::Ok).number()
}

/// As [`answer`], with the place of the fault where the caller wants it.
///
/// # Safety
/// `fault` is NULL or may be written to.
unsafe fn answer_with_fault(fault: *mut CFault, body: impl FnOnce() -> Result<(), CFault>) -> i32 {
    // SAFETY: the caller's promise is the same.
    let fault = match unsafe { Output::optional(fault, 1) } {
        Ok(fault) => fault,
        Err(code) => return code.number(),
    };
    let found = caught(body).err().unwrap_or_default();
    if let Some(fault) = fault {
        fault.write(&[found]);
    }
    found.code
}

fn caught<E: From<Code>>(body: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    // Nothing that the body may have left half done outlives it: it owns all but its outputs.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        // Dropping what was thrown may throw as well; that is left where it is.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        dropped.unwrap_or_else(core::mem::forget);
        Err(Code::Internal.into())
    })
}

fn all_or_refused(all: bool) -> Result<(), Code> {
    if all { Ok(()) } else { Err(Code::Refused) }
}

/// The byte strings that an array of pointers and one of lengths describe.
///
/// # Safety
/// Both arrays have `count` items, and each pointer as many bytes as its length says; all stay
/// as they are for as long as `'a` lasts.
unsafe fn byte_strings<'a>(
    pointers: *const *const u8,
    lengths: *const usize,
    count: usize,
) -> Result<Vec<&'a [u8]>, Code> {
    // SAFETY: the caller's promise is the same.
    let pointers = unsafe { input(pointers, count) }?;
    // SAFETY: likewise.
    let lengths = unsafe { input(lengths, count) }?;
    let both = pointers.iter().zip(lengths);
    // SAFETY: likewise, for each.
    both.map(|(pointer, length)| unsafe { input(*pointer, *length) })
        .collect()
}

/// The addresses of the keys that there are; zeros for the rest.
fn addresses_of<E>(keys: &[Result<PublicKey, E>]) -> Vec<[u8; 20]> {
    let known: Vec<&[u8]> = keys
        .iter()
        .map(|key| key.as_ref().map_or(&[][..], |key| &key.as_bytes()[..]))
        .collect();
    let mut addresses = vec![[0; 20]; keys.len()];
    for ((address, digest), key) in addresses.iter_mut().zip(keccak256_many(&known)).zip(keys) {
        if key.is_ok() {
            address.copy_from_slice(&digest[12..]);
        }
    }
    addresses
}

fn lane_key(key: &CLaneKey) -> Result<(u8, u64, PublicKey), Code> {
    if key.reserved != 0 {
        return Err(Code::Reserved);
    }
    let lane = u8::try_from(key.lane).map_err(|_| Code::KeyBadLane)?;
    Ok((lane, key.from_seq, PublicKey::from_bytes(key.public_key)?))
}

fn refused_key(keys: &[CLaneKey], index: usize, code: Code) -> CFault {
    CFault {
        lane: keys[index].lane,
        index: index as u64,
        seq: keys[index].from_seq,
        ..CFault::from(code)
    }
}

fn transcript_fault(bytes: &[u8], keys: &[CLaneKey], error: VerifyError) -> CFault {
    match error {
        VerifyError::Frame(error) => CFault::within(bytes, error),
        VerifyError::Transcript(error) => error.into(),
        VerifyError::Key(error) => {
            let at_fault = |key: &CLaneKey| match error {
                KeyError::BadLane(lane) => key.lane == u32::from(lane),
                KeyError::Repeated { lane, from_seq } => {
                    (key.lane, key.from_seq) == (u32::from(lane), from_seq)
                }
                KeyError::TooLate { from_seq, .. } => key.from_seq == from_seq,
            };
            // Of two keys for one place, the second is one too many.
            let index = keys.iter().rposition(at_fault).unwrap_or(0);
            refused_key(keys, index, error.into())
        }
    }
}

#[cfg(test)]
mod tests;
