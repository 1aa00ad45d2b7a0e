//! The message that a frame carries: what is signed, and its digest.

use std::sync::LazyLock;

use crate::keccak::{Digest, keccak256, typed_digest};

/// What a signer puts before the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The custody's id.
    pub custody: Digest,
    /// 0 trader, 1 solver.
    pub lane: u8,
    /// 1, 2, 3 … within the lane.
    pub seq: u64,
    /// The digest of this lane's frame seq − 1; for seq 1 the custody's id.
    pub previous: Digest,
    /// The highest frame of the other lane that the sender had processed.
    pub peer_seq: u64,
    /// That frame's digest; for peerSeq 0 the custody's id.
    pub peer_digest: Digest,
    /// Nanoseconds since the epoch.
    pub sending_time: u64,
}

/// The bytes of an encoded `Message`: its type's hash and eight fields.
pub(super) const STRUCT: usize = 9 * 32;
pub(super) const AT_PAYLOAD: usize = 8 * 32;

static TYPE_HASH: LazyLock<Digest> = LazyLock::new(|| {
    keccak256(
        b"Message(bytes32 custody,uint8 lane,uint64 seq,bytes32 previous,uint64 peerSeq,\
          bytes32 peerDigest,uint64 sendingTime,bytes32 payload)",
    )
});

/// `Message` as EIP-712 encodes it.
#[inline]
pub(super) fn struct_message(header: &Header, payload_hash: &Digest) -> [u8; STRUCT] {
    let mut encoded = [0u8; STRUCT];
    encoded[..32].copy_from_slice(&*TYPE_HASH);
    encoded[32..64].copy_from_slice(&header.custody);
    encoded[95] = header.lane;
    encoded[120..128].copy_from_slice(&header.seq.to_be_bytes());
    encoded[128..160].copy_from_slice(&header.previous);
    encoded[184..192].copy_from_slice(&header.peer_seq.to_be_bytes());
    encoded[192..224].copy_from_slice(&header.peer_digest);
    encoded[248..256].copy_from_slice(&header.sending_time.to_be_bytes());
    encoded[AT_PAYLOAD..].copy_from_slice(payload_hash);
    encoded
}

/// The EIP-712 digest of a message: what a session key signs.
#[must_use]
pub fn digest(domain: &Digest, header: &Header, payload: &[u8]) -> Digest {
    let encoded = struct_message(header, &keccak256(payload));
    typed_digest(domain, &keccak256(&encoded))
}
