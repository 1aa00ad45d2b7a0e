//! Where the fields of a frame are.

/// The only version there is.
pub const VERSION: u8 = 1;
/// The most bytes of a payload.
pub const MAX_PAYLOAD: usize = 65_536;
/// The bytes before the payload.
pub const HEADER: usize = 126;
/// The bytes after the payload: r, s, v and R.y.
pub const TRAILER: usize = 65 + 32;
/// The bytes of a frame without its payload.
pub const OVERHEAD: usize = HEADER + TRAILER;

pub(super) const AT_CUSTODY: usize = 1;
pub(crate) const AT_LANE: usize = 33;
pub(crate) const AT_SEQ: usize = 34;
pub(super) const AT_PREVIOUS: usize = 42;
pub(super) const AT_PEER_SEQ: usize = 74;
pub(super) const AT_PEER_DIGEST: usize = 82;
pub(super) const AT_SENDING_TIME: usize = 114;
pub(super) const AT_LENGTH: usize = 122;
