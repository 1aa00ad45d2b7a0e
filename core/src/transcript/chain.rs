//! What the next frame of a custody is held against: the heads, digests and keys of its lanes.
//!
//! Here, and nowhere else, is said what it means to follow; signatures are the callers'.

use core::fmt;

use super::fault::{Fault, KeyError};
use crate::frame::FrameView;
use crate::keccak::Digest;
use crate::secp256k1::PublicKey;

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

/// Where a transcript starts that does not start with the first frame: at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    heads: [Head; 2],
    earlier: [Vec<Digest>; 2],
    keys: Vec<(u8, u64, PublicKey)>,
}

impl Start {
    /// `heads` are the trader's and the solver's; `earlier`, of each lane, the digests of the
    /// frames right before its head, the oldest first, as far back as the other lane's head
    /// covers at least, since the next frame there may cover no more. `keys` are those in force
    /// at the heads, as (lane, from seq, key).
    ///
    /// # Errors
    /// [`StartError`] if a lane is empty, or heads and digests do not fit each other.
    pub fn new(
        heads: [Head; 2],
        earlier: [Vec<Digest>; 2],
        keys: Vec<(u8, u64, PublicKey)>,
    ) -> Result<Self, StartError> {
        for lane in 0..2_u8 {
            let (own, other) = (usize::from(lane), usize::from(1 - lane));
            let covered = heads[other].peer_seq.max(1);
            let first = heads[own].seq.checked_sub(earlier[own].len() as u64);
            if !first.is_some_and(|first| first > 0 && first <= covered) || covered > heads[own].seq
            {
                return Err(StartError { lane });
            }
        }
        Ok(Self {
            heads,
            earlier,
            keys,
        })
    }

    /// The heads of the trader's and the solver's lane.
    #[must_use]
    pub const fn heads(&self) -> [Head; 2] {
        self.heads
    }
}

/// Why a transcript cannot start somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartError {
    /// The lane whose head or digests do not fit.
    pub lane: u8,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lane } = self;
        write!(
            f,
            "a transcript cannot start here: the head of lane {lane} does not fit the other \
             lane's, or the digests before it do not reach back to what that one covers"
        )
    }
}

impl std::error::Error for StartError {}

#[derive(Clone, Debug)]
struct Lane {
    head: Head,
    /// The seq of the first of the digests.
    first: u64,
    digests: Vec<Digest>,
    /// (from seq, key), seqs rising.
    keys: Vec<(u64, PublicKey)>,
}

/// Where a frame stands, once its custody, place and key are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// 0 or 1.
    pub(super) lane: usize,
    /// Which of the lane's keys rules here.
    pub(super) key: usize,
    /// The digest of another frame that is here already.
    taken: Option<Digest>,
}

#[derive(Clone, Debug)]
pub(super) struct Chain {
    custody: Digest,
    lanes: [Lane; 2],
}

/// The lane's place among the two. What was parsed says 0 or 1; a buffer that somebody writes
/// to meanwhile could say anything, and must not be able to do more than that.
fn lane_of(frame: &FrameView<'_>) -> usize {
    usize::from(frame.lane() != 0)
}

impl Chain {
    pub(super) fn new(custody: Digest) -> Self {
        let head = Head {
            seq: 0,
            digest: custody,
            sending_time: 0,
            peer_seq: 0,
        };
        let lane = Lane {
            head,
            first: 1,
            digests: Vec::new(),
            keys: Vec::new(),
        };
        Self {
            custody,
            lanes: [lane.clone(), lane],
        }
    }

    pub(super) fn at(custody: Digest, start: &Start) -> Result<Self, KeyError> {
        let mut chain = Self::new(custody);
        chain.set_keys(&start.keys)?;
        let lanes = chain.lanes.iter_mut();
        for ((own, head), earlier) in lanes.zip(start.heads).zip(&start.earlier) {
            own.head = head;
            own.first = head.seq - earlier.len() as u64;
            own.digests.clone_from(earlier);
            own.digests.push(head.digest);
        }
        Ok(chain)
    }

    fn lane(&self, lane: u8) -> Result<&Lane, KeyError> {
        self.lanes
            .get(usize::from(lane))
            .ok_or(KeyError::BadLane(lane))
    }

    pub(super) fn set_key(
        &mut self,
        lane: u8,
        from_seq: u64,
        key: PublicKey,
    ) -> Result<(), KeyError> {
        self.forget_keys(lane, from_seq)?;
        self.lanes[usize::from(lane)].keys.push((from_seq, key));
        Ok(())
    }

    pub(super) fn forget_keys(&mut self, lane: u8, from_seq: u64) -> Result<(), KeyError> {
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
        Ok(())
    }

    /// Sets many keys, in any order; no two for one place.
    pub(super) fn set_keys(&mut self, keys: &[(u8, u64, PublicKey)]) -> Result<(), KeyError> {
        let mut keys = keys.to_vec();
        keys.sort_by_key(|(lane, from_seq, _)| (*lane, *from_seq));
        for pair in keys.windows(2) {
            let (lane, from_seq, _) = pair[1];
            if (pair[0].0, pair[0].1) == (lane, from_seq) {
                return Err(KeyError::Repeated { lane, from_seq });
            }
        }
        for (lane, from_seq, key) in keys {
            self.set_key(lane, from_seq, key)?;
        }
        Ok(())
    }

    pub(super) fn head(&self, lane: u8) -> Result<Head, KeyError> {
        Ok(self.lane(lane)?.head)
    }

    pub(super) const fn heads(&self) -> [Head; 2] {
        [self.lanes[0].head, self.lanes[1].head]
    }

    pub(super) fn digest(&self, lane: u8, seq: u64) -> Result<Option<Digest>, KeyError> {
        Ok(self.digest_in(self.lane(lane)?, seq).copied())
    }

    fn digest_in<'a>(&'a self, lane: &'a Lane, seq: u64) -> Option<&'a Digest> {
        if seq == 0 {
            return Some(&self.custody);
        }
        let index = seq.checked_sub(lane.first)?;
        lane.digests.get(usize::try_from(index).ok()?)
    }

    /// The key that rules a place that this chain gave.
    pub(super) fn key(&self, place: &Place) -> &PublicKey {
        &self.lanes[place.lane].keys[place.key].1
    }

    /// What is judged before the signature: custody, place and key, in this order.
    pub(super) fn place(&self, frame: &FrameView<'_>, digest: &Digest) -> Result<Place, Fault> {
        if frame.custody_in_place() != &self.custody {
            return Err(Fault::WrongCustody(*frame.custody_in_place()));
        }
        let lane = lane_of(frame);
        let seq = frame.seq();
        let own = &self.lanes[lane];
        let taken = self.digest_in(own, seq);
        if taken == Some(digest) {
            return Err(Fault::Duplicate);
        }
        let expected = own.head.seq.saturating_add(1);
        if taken.is_none() && seq != expected {
            return Err(Fault::BadSeq { expected });
        }
        let ruling = own.keys.partition_point(|(from, _)| *from <= seq);
        let key = ruling.checked_sub(1).ok_or(Fault::NoKey)?;
        Ok(Place {
            lane,
            key,
            taken: taken.copied(),
        })
    }

    /// What is judged after the signature, since it is the signer's own fault: another frame at
    /// the place, then previous, time, peerSeq and peerDigest.
    pub(super) fn follows(
        &self,
        frame: &FrameView<'_>,
        digest: &Digest,
        place: &Place,
    ) -> Result<(), Fault> {
        if let Some(first) = place.taken {
            return Err(Fault::Equivocation {
                first,
                second: *digest,
            });
        }
        let head = &self.lanes[place.lane].head;
        let peer = &self.lanes[1 - place.lane];
        if frame.previous_in_place() != &head.digest {
            return Err(Fault::BadPrevious {
                expected: head.digest,
                stated: *frame.previous_in_place(),
            });
        }
        let (sending_time, peer_seq) = (frame.sending_time(), frame.peer_seq());
        if sending_time < head.sending_time {
            return Err(Fault::TimeBackwards {
                last: head.sending_time,
                stated: sending_time,
            });
        }
        if peer_seq < head.peer_seq {
            return Err(Fault::BadPeerSeq {
                last: head.peer_seq,
                stated: peer_seq,
            });
        }
        let Some(covered) = self.digest_in(peer, peer_seq) else {
            return Err(Fault::Ahead {
                head: peer.head.seq,
                stated: peer_seq,
            });
        };
        if frame.peer_digest_in_place() != covered {
            return Err(Fault::BadPeerDigest {
                expected: *covered,
                stated: *frame.peer_digest_in_place(),
            });
        }
        Ok(())
    }

    /// Appends a frame that follows.
    pub(super) fn push(&mut self, frame: &FrameView<'_>, digest: Digest) {
        let lane = &mut self.lanes[lane_of(frame)];
        lane.head = Head {
            seq: frame.seq(),
            digest,
            sending_time: frame.sending_time(),
            peer_seq: frame.peer_seq(),
        };
        lane.digests.push(digest);
    }
}
