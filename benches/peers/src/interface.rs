//! What the bench and its peers agree on. Both compile this one file: the peers fill the tables
//! and the bench reads them. Lengths count elements; every pointer holds that many.

use core::ffi::{c_char, c_void};

/// A signature, what it is over, and whose it is.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Signed {
    /// What was signed.
    pub digest: [u8; 32],
    /// r ‖ s ‖ v.
    pub signature: [u8; 65],
    /// The place of the key among the opened ones.
    pub key: u32,
}

/// One that checks signatures.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SignaturePeer {
    /// What the table calls it.
    pub name: *const c_char,
    /// Keys (x ‖ y) in the peer's own form, so that parsing them is not timed.
    pub open: unsafe extern "C" fn(keys: *const [u8; 64], length: usize) -> *mut c_void,
    /// How many of the signatures the opened keys made, one by one.
    pub verify:
        unsafe extern "C" fn(keys: *const c_void, signed: *const Signed, length: usize) -> usize,
    /// The keys that made the signatures, one by one, as x ‖ y.
    pub recover: unsafe extern "C" fn(signed: *const Signed, length: usize, keys: *mut [u8; 64]),
    /// Gives the opened keys back.
    pub close: unsafe extern "C" fn(keys: *mut c_void),
}

/// One that computes Keccak-256.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KeccakPeer {
    /// What the table calls it.
    pub name: *const c_char,
    /// The digests of `length` messages of `each` bytes, back to back.
    pub hash: unsafe extern "C" fn(
        messages: *const u8,
        each: usize,
        length: usize,
        digests: *mut [u8; 32],
    ),
}

/// One that computes Poseidon2 with the design's parameters.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Poseidon2Peer {
    /// What the table calls it.
    pub name: *const c_char,
    /// Pairs of numbers (big-endian, below the modulus) in the peer's own form, with room for
    /// their hashes.
    pub open: unsafe extern "C" fn(pairs: *const [[u8; 32]; 2], length: usize) -> *mut c_void,
    /// `H_2` of each pair, kept in the peer's own form.
    pub hash: unsafe extern "C" fn(pairs: *mut c_void),
    /// The hashes, big-endian.
    pub read: unsafe extern "C" fn(pairs: *const c_void, hashes: *mut [u8; 32]),
    /// Gives the pairs back.
    pub close: unsafe extern "C" fn(pairs: *mut c_void),
}

/// All peers. The shared object exports a function `peers` that gives this.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Peers {
    /// [`LAYOUT`], so that a bench and peers of different sources refuse each other.
    pub layout: usize,
    /// libsecp256k1 and k256.
    pub signatures: [SignaturePeer; 2],
    /// sha3, tiny-keccak and keccak-asm.
    pub keccak: [KeccakPeer; 3],
    /// The crates that publish this instance of Poseidon2.
    pub poseidon2: [Poseidon2Peer; 3],
}

/// What changes when a table or a record does.
pub const LAYOUT: usize = size_of::<Peers>() << 16 | size_of::<Signed>();
