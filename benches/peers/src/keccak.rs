//! Keccak-256 one message after another.

use sha3::Digest as _;
use tiny_keccak::Hasher as _;

use crate::interface::KeccakPeer;

/// The crate sha3 of RustCrypto.
pub(crate) const SHA3: KeccakPeer = KeccakPeer {
    name: c"sha3".as_ptr(),
    hash: sha3_hash,
};

/// The crate tiny-keccak.
pub(crate) const TINY_KECCAK: KeccakPeer = KeccakPeer {
    name: c"tiny-keccak".as_ptr(),
    hash: tiny_keccak_hash,
};

/// The crate keccak-asm: OpenSSL's assembly.
pub(crate) const KECCAK_ASM: KeccakPeer = KeccakPeer {
    name: c"keccak-asm".as_ptr(),
    hash: keccak_asm_hash,
};

/// # Safety
/// As [`KeccakPeer::hash`] says.
unsafe fn each(
    messages: *const u8,
    each: usize,
    length: usize,
    digests: *mut [u8; 32],
    hash: impl Fn(&[u8]) -> [u8; 32],
) {
    // SAFETY: the caller's pointers hold what it says.
    let (messages, digests) = unsafe {
        (
            core::slice::from_raw_parts(messages, each * length),
            core::slice::from_raw_parts_mut(digests, length),
        )
    };
    for (message, digest) in messages.chunks_exact(each).zip(digests) {
        *digest = hash(message);
    }
}

unsafe extern "C" fn sha3_hash(m: *const u8, size: usize, length: usize, d: *mut [u8; 32]) {
    // SAFETY: the caller's promise is the same.
    unsafe { each(m, size, length, d, |m| sha3::Keccak256::digest(m).into()) }
}

unsafe extern "C" fn tiny_keccak_hash(m: *const u8, size: usize, length: usize, d: *mut [u8; 32]) {
    // SAFETY: the caller's promise is the same.
    unsafe {
        each(m, size, length, d, |message| {
            let mut digest = [0; 32];
            let mut keccak = tiny_keccak::Keccak::v256();
            keccak.update(message);
            keccak.finalize(&mut digest);
            digest
        });
    }
}

unsafe extern "C" fn keccak_asm_hash(m: *const u8, size: usize, length: usize, d: *mut [u8; 32]) {
    // SAFETY: the caller's promise is the same.
    unsafe {
        each(m, size, length, d, |m| {
            keccak_asm::Keccak256::digest(m).into()
        });
    }
}
