//! ECDSA on secp256k1, one signature after another.

use core::ffi::c_void;

use k256::ecdsa::signature::hazmat::PrehashVerifier as _;
use secp256k1::Message;
use secp256k1::ecdsa::{self, RecoverableSignature};

use crate::interface::{SignaturePeer, Signed};

/// The crate secp256k1, which is libsecp256k1 with its tables built in (window of 15 bits) and
/// one context of the thread, made once.
pub(crate) const LIBSECP256K1: SignaturePeer = SignaturePeer {
    name: c"libsecp256k1".as_ptr(),
    open: libsecp256k1_open,
    verify: libsecp256k1_verify,
    recover: libsecp256k1_recover,
    close: close::<secp256k1::PublicKey>,
};

/// The crate k256, with its precomputed tables.
pub(crate) const K256: SignaturePeer = SignaturePeer {
    name: c"k256".as_ptr(),
    open: k256_open,
    verify: k256_verify,
    recover: k256_recover,
    close: close::<k256::ecdsa::VerifyingKey>,
};

/// # Safety
/// The pointer holds that many keys.
unsafe fn open<K>(
    keys: *const [u8; 64],
    length: usize,
    parse: impl Fn(&[u8; 65]) -> K,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    let keys = unsafe { core::slice::from_raw_parts(keys, length) };
    let parsed: Vec<K> = keys
        .iter()
        .map(|key| {
            let mut uncompressed = [4; 65];
            uncompressed[1..].copy_from_slice(key);
            parse(&uncompressed)
        })
        .collect();
    Box::into_raw(Box::new(parsed)).cast()
}

unsafe extern "C" fn close<K>(keys: *mut c_void) {
    // SAFETY: the pointer is one that `open` of the same type gave, and is given back once.
    drop(unsafe { Box::from_raw(keys.cast::<Vec<K>>()) });
}

/// # Safety
/// As [`SignaturePeer::verify`] says, the keys being of this type.
unsafe fn count<K>(
    keys: *const c_void,
    signed: *const Signed,
    length: usize,
    holds: impl Fn(&Signed, &K) -> bool,
) -> usize {
    // SAFETY: the caller's promise.
    let (keys, signed) = unsafe {
        (
            &*keys.cast::<Vec<K>>(),
            core::slice::from_raw_parts(signed, length),
        )
    };
    signed
        .iter()
        .filter(|one| holds(one, &keys[one.key as usize]))
        .count()
}

/// # Safety
/// As [`SignaturePeer::recover`] says.
unsafe fn recover_each(
    signed: *const Signed,
    length: usize,
    keys: *mut [u8; 64],
    recover: impl Fn(&Signed) -> Option<[u8; 65]>,
) {
    // SAFETY: the caller's promise.
    let (signed, keys) = unsafe {
        (
            core::slice::from_raw_parts(signed, length),
            core::slice::from_raw_parts_mut(keys, length),
        )
    };
    for (one, key) in signed.iter().zip(keys) {
        match recover(one) {
            Some(uncompressed) => key.copy_from_slice(&uncompressed[1..]),
            None => *key = [0; 64],
        }
    }
}

unsafe extern "C" fn libsecp256k1_open(keys: *const [u8; 64], length: usize) -> *mut c_void {
    let parse = |key: &[u8; 65]| {
        secp256k1::PublicKey::from_byte_array_uncompressed(*key).expect("the bench gives keys")
    };
    // SAFETY: the caller's promise is the same.
    unsafe { open(keys, length, parse) }
}

unsafe extern "C" fn libsecp256k1_verify(
    keys: *const c_void,
    signed: *const Signed,
    length: usize,
) -> usize {
    let holds = |one: &Signed, key: &secp256k1::PublicKey| {
        ecdsa::Signature::from_compact(&one.signature[..64]).is_ok_and(|signature| {
            ecdsa::verify(&signature, Message::from_digest(one.digest), key).is_ok()
        })
    };
    // SAFETY: the caller's promise is the same, and the keys are those of `libsecp256k1_open`.
    unsafe { count(keys, signed, length, holds) }
}

unsafe extern "C" fn libsecp256k1_recover(
    signed: *const Signed,
    length: usize,
    keys: *mut [u8; 64],
) {
    let recover = |one: &Signed| {
        let recovery_id = i32::from(one.signature[64]) - 27;
        let recovered =
            RecoverableSignature::from_compact(&one.signature[..64], recovery_id.try_into().ok()?)
                .and_then(|signature| signature.recover_ecdsa(Message::from_digest(one.digest)));
        Some(recovered.ok()?.serialize_uncompressed())
    };
    // SAFETY: the caller's promise is the same.
    unsafe { recover_each(signed, length, keys, recover) }
}

unsafe extern "C" fn k256_open(keys: *const [u8; 64], length: usize) -> *mut c_void {
    let parse = |key: &[u8; 65]| {
        k256::ecdsa::VerifyingKey::from_sec1_bytes(key).expect("the bench gives keys")
    };
    // SAFETY: the caller's promise is the same.
    unsafe { open(keys, length, parse) }
}

unsafe extern "C" fn k256_verify(
    keys: *const c_void,
    signed: *const Signed,
    length: usize,
) -> usize {
    let holds = |one: &Signed, key: &k256::ecdsa::VerifyingKey| {
        k256::ecdsa::Signature::from_slice(&one.signature[..64])
            .is_ok_and(|signature| key.verify_prehash(&one.digest, &signature).is_ok())
    };
    // SAFETY: the caller's promise is the same, and the keys are those of `k256_open`.
    unsafe { count(keys, signed, length, holds) }
}

unsafe extern "C" fn k256_recover(signed: *const Signed, length: usize, keys: *mut [u8; 64]) {
    let recover = |one: &Signed| {
        let signature = k256::ecdsa::Signature::from_slice(&one.signature[..64]).ok()?;
        let recovery_id = k256::ecdsa::RecoveryId::from_byte(one.signature[64].wrapping_sub(27))?;
        let key =
            k256::ecdsa::VerifyingKey::recover_from_prehash(&one.digest, &signature, recovery_id)
                .ok()?;
        let mut uncompressed = [0; 65];
        uncompressed.copy_from_slice(key.to_sec1_point(false).as_bytes());
        Some(uncompressed)
    };
    // SAFETY: the caller's promise is the same.
    unsafe { recover_each(signed, length, keys, recover) }
}
