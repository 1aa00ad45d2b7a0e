//! ECDSA on secp256k1 by Ethereum's rules, on libsecp256k1.
//!
//! A signature is r ‖ s ‖ v, 65 bytes, with 0 < r < n, 0 < s ≤ n/2 and v 27 or 28; it is valid
//! for a key if recovery gives exactly that key. Ethereum's `ecrecover` accepts high s; this
//! module never does, so that nobody but the signer can make a second form of a signature.
//! Recovery ids 2 and 3 (x(R) = r + n) do not exist here, as they do not in Ethereum.
//!
//! Secrets touch nothing but libsecp256k1, are wiped when dropped, and never enter an error
//! or a debug form.

mod backends;
pub mod batch;
mod buckets;
mod claim;
mod equation;
mod field;
mod group;
mod inverse;
mod kernels;
mod key;
mod lanes;
mod recovery;
mod rows;
mod scalar;
mod signature;
mod sums;
#[cfg(target_arch = "x86_64")]
mod wide;

#[cfg(test)]
mod arithmetic;
#[cfg(test)]
mod tests;

pub use key::SecretKey;
pub use signature::{
    HALF_ORDER, ORDER, PublicKey, Signature, SignatureError, check_form, checksum_address,
    is_point_y, point_y, recover, verify,
};
