//! The transcript: all frames of a custody, both lanes, each following from those before it.
//!
//! Here is checked what needs no FIX: that a frame is of this custody, next in its lane,
//! signed by the key in force at its seq, chained to its lane's last frame and to the frame
//! of the other lane that it covers, and not earlier than its lane's last. The signature is
//! checked before what was signed, so every fault after `BadSignature` in [`Fault`] is the
//! signer's, proven by its own hand; only `Ahead` may heal when the missing frame comes.

use core::fmt;

use crate::frame::{FrameError, FrameView};
use crate::keccak::Digest;
use crate::secp256k1::{PublicKey, verify};

/// Why a frame does not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The frame is of another custody.
    WrongCustody(Digest),
    /// The very frame is here already.
    Duplicate,
    /// Its place is not the next in its lane.
    BadSeq {
        /// The seq that the lane expects.
        expected: u64,
    },
    /// No key was set for its place.
    NoKey,
    /// The signature is not that of the key in force.
    BadSignature,
    /// Another frame, as validly signed, is at its place: proof that its signer is guilty.
    Equivocation {
        /// The digest of the frame that was here first.
        first: Digest,
        /// The digest of this one.
        second: Digest,
    },
    /// `previous` is not the digest of the lane's last frame.
    BadPrevious {
        /// The digest of the lane's last frame, or the custody's id.
        expected: Digest,
        /// What the frame says.
        stated: Digest,
    },
    /// `sendingTime` is earlier than the lane's last.
    TimeBackwards {
        /// The lane's last, in nanoseconds.
        last: u64,
        /// What the frame says.
        stated: u64,
    },
    /// `peerSeq` went back.
    BadPeerSeq {
        /// The lane's last.
        last: u64,
        /// What the frame says.
        stated: u64,
    },
    /// `peerSeq` names a frame of the other lane that is not here yet.
    Ahead {
        /// The other lane's head.
        head: u64,
        /// What the frame says.
        stated: u64,
    },
    /// `peerDigest` is not the digest of the frame that `peerSeq` names.
    BadPeerDigest {
        /// The digest of that frame, or the custody's id.
        expected: Digest,
        /// What the frame says.
        stated: Digest,
    },
}

/// A fault, with the frame's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranscriptError {
    /// How many frames came before.
    pub index: usize,
    /// How many bytes came before.
    pub offset: usize,
    /// The frame's lane.
    pub lane: u8,
    /// The frame's seq.
    pub seq: u64,
    /// What is wrong.
    pub fault: Fault,
}

impl TranscriptError {
    /// The name by which programs tell the faults apart.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.fault {
            Fault::WrongCustody(_) => "wrong-custody",
            Fault::Duplicate => "duplicate",
            Fault::BadSeq { .. } => "bad-seq",
            Fault::NoKey => "no-key",
            Fault::BadSignature => "bad-signature",
            Fault::Equivocation { .. } => "equivocation",
            Fault::BadPrevious { .. } => "bad-previous",
            Fault::TimeBackwards { .. } => "time-backwards",
            Fault::BadPeerSeq { .. } => "bad-peer-seq",
            Fault::Ahead { .. } => "ahead",
            Fault::BadPeerDigest { .. } => "bad-peer-digest",
        }
    }
}

struct Hex<'a>(&'a Digest);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for TranscriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index,
            offset,
            lane,
            seq,
            fault,
        } = self;
        write!(f, "frame {index} (byte {offset}), lane {lane} seq {seq}: ")?;
        match fault {
            Fault::WrongCustody(custody) => {
                write!(f, "it belongs to custody {}, not to this one", Hex(custody))
            }
            Fault::Duplicate => f.write_str("it is here already; drop it"),
            Fault::BadSeq { expected } => {
                write!(
                    f,
                    "the lane's next seq is {expected}; ask for the frames between"
                )
            }
            Fault::NoKey => f.write_str(
                "no key is known for this seq; the lane's Logon or key change comes first",
            ),
            Fault::BadSignature => f.write_str(
                "the signature is not that of the key in force; check domain, custody and key",
            ),
            Fault::Equivocation { first, second } => write!(
                f,
                "its signer signed two frames for one place, {} and {}; keep both, they are proof",
                Hex(first),
                Hex(second)
            ),
            Fault::BadPrevious { expected, stated } => write!(
                f,
                "previous is {} where the lane's last frame is {}",
                Hex(stated),
                Hex(expected)
            ),
            Fault::TimeBackwards { last, stated } => {
                write!(
                    f,
                    "sendingTime {stated} is earlier than the lane's last, {last}"
                )
            }
            Fault::BadPeerSeq { last, stated } => {
                write!(f, "peerSeq {stated} goes back from the lane's last, {last}")
            }
            Fault::Ahead { head, stated } => write!(
                f,
                "it covers the other lane's frame {stated}, of which only {head} are here; get \
                 those first"
            ),
            Fault::BadPeerDigest { expected, stated } => write!(
                f,
                "peerDigest is {} where the frame it covers is {}",
                Hex(stated),
                Hex(expected)
            ),
        }
    }
}

impl std::error::Error for TranscriptError {}

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The lane is neither 0 nor 1.
    BadLane(u8),
    /// Two keys were given for one place.
    Repeated {
        /// The lane.
        lane: u8,
        /// From where both should rule.
        from_seq: u64,
    },
    /// The key would rule frames that are here already, or seq 0.
    TooLate {
        /// From where the key should rule.
        from_seq: u64,
        /// The lane's head.
        head: u64,
    },
}

impl KeyError {
    /// The name by which programs tell the errors apart.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::BadLane(_) => "bad-lane",
            Self::Repeated { .. } => "key-repeated",
            Self::TooLate { .. } => "key-too-late",
        }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadLane(lane) => {
                write!(
                    f,
                    "lane {lane} does not exist; 0 is the trader, 1 the solver"
                )
            }
            Self::Repeated { lane, from_seq } => {
                write!(
                    f,
                    "two keys are given for lane {lane} from seq {from_seq}; give one"
                )
            }
            Self::TooLate { from_seq, head } => write!(
                f,
                "a key cannot rule from seq {from_seq}: the lane's head is {head}, so the \
                 earliest is {}",
                head.saturating_add(1)
            ),
        }
    }
}

impl std::error::Error for KeyError {}

/// The last frame of a lane. Of an empty lane: seq 0, the custody's id, time 0, peerSeq 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its seq.
    pub seq: u64,
    /// Its digest.
    pub digest: Digest,
    /// Its sendingTime, in nanoseconds since the epoch.
    pub sending_time: u64,
    /// Its peerSeq.
    pub peer_seq: u64,
}

#[derive(Clone, Debug)]
struct Lane {
    head: Head,
    digests: Vec<Digest>,
    /// (from seq, key), seqs rising.
    keys: Vec<(u64, PublicKey)>,
}

impl Lane {
    fn key_at(&self, seq: u64) -> Option<&PublicKey> {
        let ruling = self.keys.iter().rev().find(|(from, _)| *from <= seq);
        ruling.map(|(_, key)| key)
    }
}

/// The heads, digests and keys of a custody. The frames' bytes are kept by whoever keeps the
/// journal.
#[derive(Clone, Debug)]
pub struct Transcript {
    domain: Digest,
    custody: Digest,
    lanes: [Lane; 2],
    frames: usize,
    bytes: usize,
}

impl Transcript {
    /// An empty transcript of a custody.
    #[must_use]
    pub fn new(domain: Digest, custody: Digest) -> Self {
        let head = Head {
            seq: 0,
            digest: custody,
            sending_time: 0,
            peer_seq: 0,
        };
        let lane = Lane {
            head,
            digests: Vec::new(),
            keys: Vec::new(),
        };
        Self {
            domain,
            custody,
            lanes: [lane.clone(), lane],
            frames: 0,
            bytes: 0,
        }
    }

    /// Lets a key rule a lane from a seq on; a key set before for this or a later seq is
    /// forgotten.
    ///
    /// # Errors
    /// [`KeyError`] if there is no such lane, or the seq is not beyond the lane's head.
    pub fn set_key(&mut self, lane: u8, from_seq: u64, key: PublicKey) -> Result<(), KeyError> {
        let lane = self
            .lanes
            .get_mut(usize::from(lane))
            .ok_or(KeyError::BadLane(lane))?;
        if from_seq <= lane.head.seq {
            return Err(KeyError::TooLate {
                from_seq,
                head: lane.head.seq,
            });
        }
        lane.keys.retain(|(from, _)| *from < from_seq);
        lane.keys.push((from_seq, key));
        Ok(())
    }

    /// How many frames there are, of both lanes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.frames
    }

    /// Whether there is no frame.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// The head of a lane.
    ///
    /// # Errors
    /// [`KeyError::BadLane`] if there is no such lane.
    pub fn head(&self, lane: u8) -> Result<Head, KeyError> {
        let lane = self
            .lanes
            .get(usize::from(lane))
            .ok_or(KeyError::BadLane(lane))?;
        Ok(lane.head)
    }

    /// The digest of a frame; of seq 0, the custody's id. `None` beyond the head.
    ///
    /// # Errors
    /// [`KeyError::BadLane`] if there is no such lane.
    pub fn digest(&self, lane: u8, seq: u64) -> Result<Option<Digest>, KeyError> {
        let lane = self
            .lanes
            .get(usize::from(lane))
            .ok_or(KeyError::BadLane(lane))?;
        Ok(self.digest_in(lane, seq))
    }

    fn digest_in(&self, lane: &Lane, seq: u64) -> Option<Digest> {
        if seq == 0 {
            return Some(self.custody);
        }
        let index = usize::try_from(seq - 1).ok()?;
        lane.digests.get(index).copied()
    }

    /// The digest of a frame that follows from what is here.
    ///
    /// # Errors
    /// [`TranscriptError`] with the first fault in the order of [`Fault`]'s checks: custody,
    /// place, key, signature, then previous, time, peerSeq and peerDigest.
    pub fn check(&self, frame: &FrameView<'_>) -> Result<Digest, TranscriptError> {
        let header = frame.header();
        let fail = |fault| {
            Err(TranscriptError {
                index: self.frames,
                offset: self.bytes,
                lane: header.lane,
                seq: header.seq,
                fault,
            })
        };
        if header.custody != self.custody {
            return fail(Fault::WrongCustody(header.custody));
        }
        let lane = &self.lanes[usize::from(header.lane)];
        let peer = &self.lanes[usize::from(1 - header.lane)];
        let digest = frame.digest(&self.domain);
        let here = self.digest_in(lane, header.seq);
        if here == Some(digest) {
            return fail(Fault::Duplicate);
        }
        let expected = lane.head.seq.saturating_add(1);
        if here.is_none() && header.seq != expected {
            return fail(Fault::BadSeq { expected });
        }
        let Some(key) = lane.key_at(header.seq) else {
            return fail(Fault::NoKey);
        };
        if !verify(&digest, &frame.signature(), key) {
            return fail(Fault::BadSignature);
        }
        if let Some(first) = here {
            return fail(Fault::Equivocation {
                first,
                second: digest,
            });
        }
        if header.previous != lane.head.digest {
            let expected = lane.head.digest;
            return fail(Fault::BadPrevious {
                expected,
                stated: header.previous,
            });
        }
        if header.sending_time < lane.head.sending_time {
            let last = lane.head.sending_time;
            return fail(Fault::TimeBackwards {
                last,
                stated: header.sending_time,
            });
        }
        if header.peer_seq < lane.head.peer_seq {
            let last = lane.head.peer_seq;
            return fail(Fault::BadPeerSeq {
                last,
                stated: header.peer_seq,
            });
        }
        let Some(covered) = self.digest_in(peer, header.peer_seq) else {
            let head = peer.head.seq;
            return fail(Fault::Ahead {
                head,
                stated: header.peer_seq,
            });
        };
        if header.peer_digest != covered {
            let stated = header.peer_digest;
            return fail(Fault::BadPeerDigest {
                expected: covered,
                stated,
            });
        }
        Ok(digest)
    }

    /// Appends a frame and gives its digest.
    ///
    /// # Errors
    /// As [`Transcript::check`]; the transcript is then unchanged.
    pub fn append(&mut self, frame: &FrameView<'_>) -> Result<Digest, TranscriptError> {
        let digest = self.check(frame)?;
        let header = frame.header();
        let lane = &mut self.lanes[usize::from(header.lane)];
        lane.head = Head {
            seq: header.seq,
            digest,
            sending_time: header.sending_time,
            peer_seq: header.peer_seq,
        };
        lane.digests.push(digest);
        self.frames += 1;
        self.bytes += frame.raw().len();
        Ok(digest)
    }
}

/// Why a byte string is not a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyError {
    /// It does not hold frames back to back.
    Frame(FrameError),
    /// A frame does not follow.
    Transcript(TranscriptError),
    /// A key was refused.
    Key(KeyError),
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::Transcript(error) => error.fmt(f),
            Self::Key(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for VerifyError {}

/// What a whole transcript came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How many frames there are, of both lanes.
    pub frames: usize,
    /// The heads of the trader's and the solver's lane.
    pub heads: [Head; 2],
}

/// Verifies frames back to back in order of arrival, that is, in any order where each comes
/// after the one before it in its lane and the one that it covers. Keys are (lane, from seq,
/// key), in any order.
///
/// # Errors
/// The first frame that is none, or does not follow; frames before it were right.
pub fn verify_transcript(
    data: &[u8],
    domain: Digest,
    custody: Digest,
    keys: &[(u8, u64, PublicKey)],
) -> Result<Summary, VerifyError> {
    let mut transcript = Transcript::new(domain, custody);
    let mut keys = keys.to_vec();
    keys.sort_by_key(|(lane, from_seq, _)| (*lane, *from_seq));
    for pair in keys.windows(2) {
        let (lane, from_seq, _) = pair[1];
        if (pair[0].0, pair[0].1) == (lane, from_seq) {
            return Err(VerifyError::Key(KeyError::Repeated { lane, from_seq }));
        }
    }
    for (lane, from_seq, key) in keys {
        transcript
            .set_key(lane, from_seq, key)
            .map_err(VerifyError::Key)?;
    }
    let mut offset = 0;
    while offset < data.len() {
        let frame = FrameView::parse(data, offset).map_err(VerifyError::Frame)?;
        transcript.append(&frame).map_err(VerifyError::Transcript)?;
        offset += frame.raw().len();
    }
    Ok(Summary {
        frames: transcript.frames,
        heads: [transcript.lanes[0].head, transcript.lanes[1].head],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Header, sign};
    use crate::secp256k1::SecretKey;
    use crate::vectors::{self, array, list, octets};
    use proptest::prelude::*;

    const DOMAIN: Digest = [9; 32];
    const CUSTODY: Digest = [4; 32];

    fn session_key(lane: u8) -> SecretKey {
        SecretKey::from_bytes(&[lane + 1; 32]).unwrap()
    }

    fn keyed() -> Transcript {
        let mut transcript = Transcript::new(DOMAIN, CUSTODY);
        for lane in 0..2 {
            transcript
                .set_key(lane, 1, *session_key(lane).public_key())
                .unwrap();
        }
        transcript
    }

    /// The header of the frame that comes next in a lane and covers all of the other.
    fn next(transcript: &Transcript, lane: u8) -> Header {
        let (own, peer) = (
            transcript.head(lane).unwrap(),
            transcript.head(1 - lane).unwrap(),
        );
        Header {
            custody: CUSTODY,
            lane,
            seq: own.seq + 1,
            previous: own.digest,
            peer_seq: peer.seq,
            peer_digest: peer.digest,
            sending_time: own.sending_time + 1,
        }
    }

    fn raw(header: &Header) -> Vec<u8> {
        sign(&session_key(header.lane), &DOMAIN, header, b"{}").unwrap()
    }

    fn append(transcript: &mut Transcript, header: &Header) -> Result<Digest, TranscriptError> {
        transcript.append(&FrameView::parse(&raw(header), 0).unwrap())
    }

    fn talk(transcript: &mut Transcript, lanes: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        for lane in lanes {
            let header = next(transcript, *lane);
            data.extend(raw(&header));
            append(transcript, &header).unwrap();
        }
        data
    }

    /// The code with which a frame is refused that is right but for one change; the
    /// transcript must not have changed.
    fn refusal(change: impl FnOnce(&mut Header)) -> &'static str {
        let mut transcript = keyed();
        talk(&mut transcript, &[0, 1, 1, 0, 1]);
        let mut header = next(&transcript, 1);
        change(&mut header);
        let before = (transcript.len(), transcript.head(0), transcript.head(1));
        let error = append(&mut transcript, &header).unwrap_err();
        assert_eq!(
            (transcript.len(), transcript.head(0), transcript.head(1)),
            before
        );
        assert_eq!((error.index, error.lane, error.seq), (5, 1, header.seq));
        let right = next(&transcript, 1);
        append(&mut transcript, &right).unwrap();
        error.code()
    }

    #[test]
    fn a_frame_that_follows_is_taken_and_moves_its_lanes_head() {
        let mut transcript = keyed();
        let header = next(&transcript, 0);
        let digest = append(&mut transcript, &header).unwrap();
        let head = transcript.head(0).unwrap();
        assert_eq!(
            head,
            Head {
                seq: 1,
                digest,
                sending_time: 1,
                peer_seq: 0
            }
        );
        assert_eq!(transcript.digest(0, 1), Ok(Some(digest)));
        assert_eq!(transcript.digest(0, 0), Ok(Some(CUSTODY)));
        assert_eq!(transcript.digest(0, 2), Ok(None));
        assert_eq!(transcript.digest(0, u64::MAX), Ok(None));
        assert_eq!(transcript.head(1).unwrap().digest, CUSTODY);
        assert_eq!(transcript.len(), 1);
    }

    #[test]
    fn a_frame_of_another_custody_is_refused() {
        assert_eq!(refusal(|header| header.custody = [5; 32]), "wrong-custody");
    }

    #[test]
    fn a_gap_in_the_lane_is_refused() {
        assert_eq!(refusal(|header| header.seq += 1), "bad-seq");
        assert_eq!(refusal(|header| header.seq = u64::MAX), "bad-seq");
    }

    #[test]
    fn another_frame_at_a_place_that_is_taken_is_equivocation() {
        assert_eq!(refusal(|header| header.seq = 1), "equivocation");
        assert_eq!(refusal(|header| header.seq = 3), "equivocation");
    }

    #[test]
    fn another_frame_at_a_taken_place_by_somebody_else_proves_nothing() {
        let mut transcript = keyed();
        talk(&mut transcript, &[0, 1]);
        let header = Header {
            seq: 1,
            ..next(&transcript, 1)
        };
        let raw = sign(&session_key(0), &DOMAIN, &header, b"{}").unwrap();
        let error = transcript
            .append(&FrameView::parse(&raw, 0).unwrap())
            .unwrap_err();
        assert_eq!(error.fault, Fault::BadSignature);
    }

    #[test]
    fn the_same_frame_again_is_a_duplicate() {
        let mut transcript = keyed();
        let header = next(&transcript, 0);
        append(&mut transcript, &header).unwrap();
        talk(&mut transcript, &[0, 1]);
        assert_eq!(
            append(&mut transcript, &header).unwrap_err().fault,
            Fault::Duplicate
        );
    }

    #[test]
    fn a_previous_that_is_not_the_lanes_head_is_refused() {
        assert_eq!(refusal(|header| header.previous[31] ^= 1), "bad-previous");
        assert_eq!(refusal(|header| header.previous = CUSTODY), "bad-previous");
    }

    #[test]
    fn time_may_stand_still_and_not_go_back() {
        assert_eq!(refusal(|header| header.sending_time -= 2), "time-backwards");
        let mut transcript = keyed();
        talk(&mut transcript, &[0, 0]);
        let mut header = next(&transcript, 0);
        header.sending_time -= 1;
        assert!(append(&mut transcript, &header).is_ok());
    }

    #[test]
    fn peer_seq_may_stand_still_and_not_go_back() {
        let first = CUSTODY;
        assert_eq!(
            refusal(|header| (header.peer_seq, header.peer_digest) = (0, first)),
            "bad-peer-seq"
        );
        let mut transcript = keyed();
        talk(&mut transcript, &[0, 1]);
        let mut header = next(&transcript, 1);
        talk(&mut transcript, &[0, 0]);
        header.sending_time += 1;
        assert!(append(&mut transcript, &header).is_ok());
    }

    #[test]
    fn a_frame_ahead_of_the_one_it_covers_is_taken_once_that_is_here() {
        assert_eq!(refusal(|header| header.peer_seq += 1), "ahead");
        assert_eq!(refusal(|header| header.peer_seq = u64::MAX), "ahead");
        let mut theirs = keyed();
        let first = next(&theirs, 0);
        append(&mut theirs, &first).unwrap();
        let answer = next(&theirs, 1);
        let mut ours = keyed();
        let error = append(&mut ours, &answer).unwrap_err();
        assert_eq!(error.fault, Fault::Ahead { head: 0, stated: 1 });
        append(&mut ours, &first).unwrap();
        append(&mut ours, &answer).unwrap();
    }

    #[test]
    fn a_peer_digest_that_is_not_the_covered_frames_is_refused() {
        assert_eq!(
            refusal(|header| header.peer_digest[0] ^= 1),
            "bad-peer-digest"
        );
        let mut transcript = keyed();
        let mut header = next(&transcript, 0);
        header.peer_digest = [0; 32];
        let error = append(&mut transcript, &header).unwrap_err();
        assert_eq!(
            error.fault,
            Fault::BadPeerDigest {
                expected: CUSTODY,
                stated: [0; 32]
            }
        );
    }

    #[test]
    fn the_signature_is_checked_before_what_was_signed() {
        let mut transcript = keyed();
        let mut header = next(&transcript, 0);
        header.previous = [0; 32];
        let forged = sign(&session_key(1), &DOMAIN, &header, b"{}").unwrap();
        let error = transcript
            .append(&FrameView::parse(&forged, 0).unwrap())
            .unwrap_err();
        assert_eq!(error.fault, Fault::BadSignature);
    }

    #[test]
    fn without_a_key_nothing_is_taken() {
        let mut transcript = Transcript::new(DOMAIN, CUSTODY);
        let header = next(&transcript, 0);
        assert_eq!(
            append(&mut transcript, &header).unwrap_err().fault,
            Fault::NoKey
        );
        transcript
            .set_key(0, 2, *session_key(0).public_key())
            .unwrap();
        assert_eq!(
            append(&mut transcript, &header).unwrap_err().fault,
            Fault::NoKey
        );
    }

    #[test]
    fn a_key_rules_from_its_seq_on_and_not_before() {
        let mut transcript = keyed();
        talk(&mut transcript, &[0]);
        let other = SecretKey::from_bytes(&[77; 32]).unwrap();
        transcript.set_key(0, 3, *other.public_key()).unwrap();
        talk(&mut transcript, &[0]);
        let header = next(&transcript, 0);
        assert_eq!(
            append(&mut transcript, &header).unwrap_err().fault,
            Fault::BadSignature
        );
        let raw = sign(&other, &DOMAIN, &header, b"{}").unwrap();
        transcript
            .append(&FrameView::parse(&raw, 0).unwrap())
            .unwrap();
        let refused = transcript.set_key(0, 3, *other.public_key()).unwrap_err();
        assert_eq!(
            refused,
            KeyError::TooLate {
                from_seq: 3,
                head: 3
            }
        );
        // The old key still rules the old places: a second frame there is equivocation.
        let second = Header { seq: 2, ..header };
        assert_eq!(
            append(&mut transcript, &second).unwrap_err().code(),
            "equivocation"
        );
    }

    #[test]
    fn there_are_two_lanes() {
        let mut transcript = keyed();
        let key = *session_key(0).public_key();
        assert_eq!(transcript.set_key(2, 1, key), Err(KeyError::BadLane(2)));
        assert_eq!(
            transcript.set_key(0, 0, key),
            Err(KeyError::TooLate {
                from_seq: 0,
                head: 0
            })
        );
        assert_eq!(transcript.head(2), Err(KeyError::BadLane(2)));
        assert_eq!(transcript.digest(255, 0), Err(KeyError::BadLane(255)));
    }

    #[test]
    fn the_vectors_frames_are_a_transcript() {
        let file = vectors::frame();
        let mut data = Vec::new();
        for case in list(&file["frames"]) {
            data.extend(octets(&case["raw"]));
        }
        let keys: Vec<(u8, u64, PublicKey)> = [0u8, 1]
            .into_iter()
            .map(|lane| {
                let bytes = array(&file["keys"][usize::from(lane)]["publicKey"]);
                (lane, 1, PublicKey::from_bytes(bytes).unwrap())
            })
            .collect();
        let (domain, custody) = (array(&file["domain"]), array(&file["custody"]));
        let summary = verify_transcript(&data, domain, custody, &keys).unwrap();
        assert_eq!(summary.frames, list(&file["frames"]).len());
        let last = list(&file["frames"]).last().unwrap();
        assert_eq!(summary.heads[0].digest, array(&last["digest"]));
    }

    #[test]
    fn two_keys_for_one_place_are_refused() {
        let key = *session_key(0).public_key();
        let error = verify_transcript(
            &[],
            DOMAIN,
            CUSTODY,
            &[(0, 1, key), (1, 1, key), (0, 1, key)],
        );
        assert_eq!(
            error,
            Err(VerifyError::Key(KeyError::Repeated {
                lane: 0,
                from_seq: 1
            }))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_whole_transcript_is_judged_as_its_frames_one_by_one(
            lanes in prop::collection::vec(0u8..2, 1..12), flip in any::<Option<prop::sample::Index>>(),
        ) {
            let mut transcript = keyed();
            let mut data = talk(&mut transcript, &lanes);
            if let Some(flip) = flip {
                let bit = flip.index(data.len() * 8);
                data[bit / 8] ^= 1 << (bit % 8);
            }
            let keys: Vec<_> = (0..2).map(|lane| (lane, 1, *session_key(lane).public_key())).collect();
            let whole = verify_transcript(&data, DOMAIN, CUSTODY, &keys);
            let mut one_by_one = keyed();
            let mut offset = 0;
            let judged = loop {
                if offset == data.len() {
                    break Ok(());
                }
                match FrameView::parse(&data, offset) {
                    Err(error) => break Err(VerifyError::Frame(error)),
                    Ok(frame) => match one_by_one.append(&frame) {
                        Err(error) => break Err(VerifyError::Transcript(error)),
                        Ok(_) => offset += frame.raw().len(),
                    },
                }
            };
            prop_assert_eq!(whole.map(|_| ()), judged);
            prop_assert_eq!(whole.is_ok(), flip.is_none());
            if let Ok(summary) = whole {
                prop_assert_eq!(summary.frames, lanes.len());
                prop_assert_eq!(summary.heads[0], transcript.head(0).unwrap());
                prop_assert_eq!(summary.heads[1], transcript.head(1).unwrap());
            }
        }
    }
}
