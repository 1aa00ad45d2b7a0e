//! Many signatures at once.

use core::fmt;

use crate::cpu::{self, Backend};
use crate::keccak::Digest;
use crate::secp256k1::{
    PublicKey, Signature, SignatureError, check_form, is_point_y, recover, verify,
};

/// That a key signed a digest.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// What was signed.
    pub digest: Digest,
    /// r ‖ s ‖ v.
    pub signature: &'a Signature,
    /// The y of the signature's point R where a frame states it; else it is derived, which
    /// costs a square root.
    pub r_y: Option<&'a [u8; 32]>,
    /// The place of the key among the batch's keys.
    pub key: usize,
}

/// Why a claim is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimFault {
    /// r, s or v is out of form, or r is not the x of a point.
    Form(SignatureError),
    /// The stated R.y is not the y that r and v give.
    BadRY,
    /// There is no such key in the batch.
    NoSuchKey,
    /// The signature is in form and not this key's.
    BadSignature,
}

/// A refused claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its place in the batch.
    pub index: usize,
    /// Why.
    pub fault: ClaimFault,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signature {}: ", self.index)?;
        match self.fault {
            ClaimFault::Form(error) => error.fmt(f),
            ClaimFault::BadRY => f.write_str("R.y is not the y coordinate that r and v give"),
            ClaimFault::NoSuchKey => f.write_str("it names a key that the batch does not have"),
            ClaimFault::BadSignature => f.write_str("it is not that of the key"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Which of many claims do not hold: the refusals in the order of the claims, none if all
/// hold. Decides exactly as [`verify`] does one by one. `threads` 0 means one for each core.
#[must_use]
pub fn verify_batch(keys: &[PublicKey], claims: &[Claim<'_>], threads: usize) -> Vec<Refusal> {
    verify_batch_with(cpu::best(), keys, claims, threads)
}

/// As [`verify_batch`], on a backend.
#[must_use]
pub fn verify_batch_with(
    _backend: Backend,
    keys: &[PublicKey],
    claims: &[Claim<'_>],
    _threads: usize,
) -> Vec<Refusal> {
    claims
        .iter()
        .enumerate()
        .filter_map(|(index, claim)| {
            let fault = judge(keys, claim).err()?;
            Some(Refusal { index, fault })
        })
        .collect()
}

/// One claim, by libsecp256k1.
fn judge(keys: &[PublicKey], claim: &Claim<'_>) -> Result<(), ClaimFault> {
    let key = keys.get(claim.key).ok_or(ClaimFault::NoSuchKey)?;
    check_form(claim.signature).map_err(ClaimFault::Form)?;
    match claim.r_y {
        Some(y) if !is_point_y(claim.signature, y) => return Err(ClaimFault::BadRY),
        None => {
            super::point_y(claim.signature).map_err(ClaimFault::Form)?;
        }
        Some(_) => {}
    }
    if verify(&claim.digest, claim.signature, key) {
        Ok(())
    } else {
        Err(ClaimFault::BadSignature)
    }
}

/// The keys that made many signatures, in their order. Each is what [`recover`] gives.
#[must_use]
pub fn recover_batch(
    signed: &[(Digest, &Signature)],
    threads: usize,
) -> Vec<Result<PublicKey, SignatureError>> {
    recover_batch_with(cpu::best(), signed, threads)
}

/// As [`recover_batch`], on a backend.
#[must_use]
pub fn recover_batch_with(
    _backend: Backend,
    signed: &[(Digest, &Signature)],
    _threads: usize,
) -> Vec<Result<PublicKey, SignatureError>> {
    signed
        .iter()
        .map(|(digest, signature)| recover(digest, signature))
        .collect()
}
