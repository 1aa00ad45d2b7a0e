use super::*;
use crate::frame::{Header, sign};
use crate::secp256k1::{SecretKey, recover, verify};
use crate::transcript::verify_transcript;
use proptest::prelude::*;

const DOMAIN: Digest = [9; 32];
const CUSTODY: Digest = [4; 32];

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n + 1; 32]).unwrap()
}

fn lane_keys() -> Vec<CLaneKey> {
    let of_lane = |lane| CLaneKey {
        from_seq: 1,
        lane: u32::from(lane),
        reserved: 0,
        public_key: *key(lane).public_key().as_bytes(),
    };
    vec![of_lane(0), of_lane(1)]
}

/// The frames of a conversation in which each covers all of the other lane.
fn talk(lanes: &[u8]) -> Vec<Vec<u8>> {
    let mut heads = [(0, CUSTODY), (0, CUSTODY)];
    let mut frames = Vec::new();
    for lane in lanes.iter().copied() {
        let (own, peer) = (heads[usize::from(lane)], heads[usize::from(1 - lane)]);
        let header = Header {
            custody: CUSTODY,
            lane,
            seq: own.0 + 1,
            previous: own.1,
            peer_seq: peer.0,
            peer_digest: peer.1,
            sending_time: 1,
        };
        let raw = sign(&key(lane), &DOMAIN, &header, b"{}").unwrap();
        let digest = FrameView::parse(&raw, 0).unwrap().digest(&DOMAIN);
        heads[usize::from(lane)] = (header.seq, digest);
        frames.push(raw);
    }
    frames
}

fn flip(bytes: &mut [u8], index: prop::sample::Index) {
    let bit = index.index(bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
}

fn transcript(bytes: &[u8], keys: &[CLaneKey]) -> (CFault, CSummary) {
    let mut fault = CFault::from(Code::Internal);
    let empty = CHead {
        seq: 0,
        sending_time: 0,
        peer_seq: 0,
        digest: [0; 32],
    };
    let mut summary = CSummary {
        frames: u64::MAX,
        heads: [empty; 2],
    };
    // SAFETY: pointers and lengths are of this test's own arrays.
    let code = unsafe {
        psymm_verify_transcript(
            bytes.as_ptr(),
            bytes.len(),
            DOMAIN.as_ptr(),
            CUSTODY.as_ptr(),
            keys.as_ptr(),
            keys.len(),
            2,
            &raw mut summary,
            &raw mut fault,
        )
    };
    assert_eq!(code, fault.code);
    (fault, summary)
}

#[test]
fn a_panic_is_an_answer() {
    let code = answer(|| panic!("as a fault of the library would"));
    assert_eq!(code, Code::Internal.number());
    let mut fault = CFault::from(Code::Ok);
    // SAFETY: the fault is this test's own.
    let code = unsafe { answer_with_fault(&raw mut fault, || panic!("as a fault would")) };
    assert_eq!(code, Code::Internal.number());
    assert_eq!(fault, Code::Internal.into());
}

#[test]
fn a_panic_with_something_that_panics_when_dropped_is_an_answer() {
    struct Thrown;
    impl Drop for Thrown {
        fn drop(&mut self) {
            // What this throws is never dropped, and takes no memory.
            std::panic::panic_any(());
        }
    }
    let code = answer(|| std::panic::panic_any(Thrown));
    assert_eq!(code, Code::Internal.number());
}

#[test]
fn a_call_that_cannot_say_where_the_fault_is_counts_no_frames() {
    let bytes = talk(&[0, 1]).concat();
    let mut digests = [[0u8; 32]; 2];
    let mut count = 7;
    let mut fault = [CFault::from(Code::Ok); 2];
    // SAFETY: pointers and lengths are of this test's own arrays; one is misaligned, which is
    // refused.
    let code = unsafe {
        psymm_frame_digest_many(
            bytes.as_ptr(),
            bytes.len(),
            DOMAIN.as_ptr(),
            digests.as_mut_ptr().cast(),
            digests.len(),
            &raw mut count,
            fault.as_mut_ptr().wrapping_byte_add(1),
        )
    };
    assert_eq!((code, count), (Code::Pointer.number(), 0));
    assert_eq!((digests, fault), ([[0; 32]; 2], [Code::Ok.into(); 2]));
}

#[test]
fn what_is_wrong_with_a_transcripts_keys_is_said_of_the_key() {
    let bytes = talk(&[0, 1]).concat();
    let said = |change: fn(&mut Vec<CLaneKey>)| {
        let mut keys = lane_keys();
        change(&mut keys);
        let fault = transcript(&bytes, &keys).0;
        (
            Code::from_number(fault.code).unwrap(),
            fault.index,
            fault.lane,
            fault.seq,
        )
    };
    assert_eq!(said(|_| {}), (Code::Ok, 0, 0, 0));
    assert_eq!(said(|keys| keys[1].reserved = 1), (Code::Reserved, 1, 1, 1));
    assert_eq!(said(|keys| keys[1].lane = 2), (Code::KeyBadLane, 1, 2, 1));
    assert_eq!(
        said(|keys| keys[1].lane = 256),
        (Code::KeyBadLane, 1, 256, 1)
    );
    assert_eq!(
        said(|keys| keys[0].from_seq = 0),
        (Code::KeyTooLate, 0, 0, 0)
    );
    assert_eq!(
        said(|keys| keys[1].public_key[0] ^= 1),
        (Code::BadPublicKey, 1, 1, 1)
    );
    assert_eq!(
        said(|keys| keys.push(keys[0])),
        (Code::KeyRepeated, 2, 0, 1)
    );
    assert_eq!(
        said(|keys| keys[1].from_seq = 2),
        (Code::NoKeyInForce, 1, 1, 1)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_transcript_is_judged_as_the_core_judges_it(
        lanes in prop::collection::vec(0u8..2, 0..10),
        bent in any::<Option<prop::sample::Index>>(),
        cut in 0usize..400,
    ) {
        let frames = talk(&lanes);
        let starts: Vec<usize> = (0..=frames.len())
            .map(|index| frames[..index].iter().map(Vec::len).sum())
            .collect();
        let mut bytes = frames.concat();
        if let Some(index) = bent && !bytes.is_empty() {
            flip(&mut bytes, index);
        } else if cut < 300 {
            bytes.truncate(bytes.len().saturating_sub(cut));
        }
        let keys: Vec<_> = (0..2).map(|lane| (lane, 1, *key(lane).public_key())).collect();
        let (fault, summary) = transcript(&bytes, &lane_keys());
        match verify_transcript(&bytes, DOMAIN, CUSTODY, &keys) {
            Ok(right) => {
                prop_assert_eq!(fault, Code::Ok.into());
                prop_assert_eq!(summary.frames, right.frames as u64);
                for (head, right) in summary.heads.iter().zip(right.heads) {
                    prop_assert_eq!(head.seq, right.seq);
                    prop_assert_eq!(head.digest, right.digest);
                    prop_assert_eq!(head.peer_seq, right.peer_seq);
                    prop_assert_eq!(head.sending_time, right.sending_time);
                }
            }
            Err(VerifyError::Transcript(error)) => {
                prop_assert_eq!(fault, error.into());
                prop_assert_eq!(fault.frame_offset, starts[error.index] as u64);
            }
            Err(VerifyError::Frame(error)) => {
                prop_assert_eq!(fault.code, Code::from(error).number());
                prop_assert_eq!(fault.offset, error.offset as u64);
                prop_assert_eq!(fault.frame_offset, starts[fault.index as usize] as u64);
                prop_assert!(fault.frame_offset <= fault.offset);
            }
            Err(error) => prop_assert!(false, "the keys are right: {:?}", error),
        }
    }

    #[test]
    fn buffers_of_frames_are_judged_as_their_frames_one_by_one(
        buffers in prop::collection::vec(
            (prop::collection::vec(0u8..1, 0..4), 0u8..8, any::<prop::sample::Index>()),
            0..6,
        ),
    ) {
        let mut keys: Vec<[u8; 64]> = vec![*key(0).public_key().as_bytes(); buffers.len()];
        let mut domains = vec![DOMAIN; buffers.len()];
        let bytes: Vec<Vec<u8>> = buffers.iter().enumerate().map(|(place, (lanes, how, index))| {
            let mut bytes = talk(lanes).concat();
            match how {
                0 if !bytes.is_empty() => flip(&mut bytes, *index),
                1 => bytes.truncate(bytes.len().saturating_sub(1)),
                2 => keys[place] = *key(1).public_key().as_bytes(),
                3 => domains[place] = [8; 32],
                4 => keys[place][63] ^= 1,
                _ => {}
            }
            bytes
        }).collect();
        let mut digests = Vec::new();
        let expected: Vec<(i32, u64, u64)> = bytes.iter().enumerate().map(|(place, bytes)| {
            let Ok(key) = PublicKey::from_bytes(keys[place]) else {
                return (Code::BadPublicKey.number(), 0, 0);
            };
            let (mut index, mut start) = (0, 0);
            while start < bytes.len() {
                let view = match FrameView::parse(bytes, start) {
                    Ok(view) => view,
                    Err(error) => return (Code::from(error).number(), index, start as u64),
                };
                if view.verify(&domains[place], &key).is_err() {
                    return (Code::BadSignature.number(), index, start as u64);
                }
                digests.push(view.digest(&domains[place]));
                index += 1;
                start += view.raw().len();
            }
            (Code::Ok.number(), index, 0)
        }).collect();
        let pointers: Vec<*const u8> = bytes.iter().map(|bytes| bytes.as_ptr()).collect();
        let lengths: Vec<usize> = bytes.iter().map(Vec::len).collect();
        let mut verdicts = vec![CFault::default(); bytes.len()];
        let mut made = vec![[0u8; 32]; lengths.iter().sum::<usize>() / crate::frame::OVERHEAD];
        // SAFETY: pointers and lengths are of this test's own arrays.
        let code = unsafe {
            psymm_verify_frames(
                pointers.as_ptr(),
                lengths.as_ptr(),
                domains.as_ptr().cast(),
                keys.as_ptr().cast(),
                bytes.len(),
                1,
                made.as_mut_ptr().cast(),
                made.len(),
                verdicts.as_mut_ptr(),
            )
        };
        let said: Vec<_> = verdicts
            .iter()
            .map(|fault| (fault.code, fault.index, fault.frame_offset))
            .collect();
        let all = expected.iter().all(|(code, ..)| *code == 0);
        prop_assert_eq!(code, if all { Code::Ok } else { Code::Refused }.number());
        prop_assert_eq!(said, expected);
        prop_assert_eq!(&made[..digests.len()], &digests[..]);
        prop_assert!(made[digests.len()..].iter().all(|digest| *digest == [0; 32]));
    }

    #[test]
    fn signatures_are_judged_and_recovered_as_one_by_one(
        signed in prop::collection::vec((any::<Digest>(), 0u8..3, 0u8..4, 0u32..4), 0..6),
        capacity in 0usize..4,
    ) {
        let keys: Vec<PublicKey> = (0..3).map(|n| *key(n).public_key()).collect();
        let flat: Vec<[u8; 64]> = keys.iter().map(|key| *key.as_bytes()).collect();
        let digests: Vec<Digest> = signed.iter().map(|(digest, ..)| *digest).collect();
        let signatures: Vec<Signature> = signed.iter().map(|(digest, signer, how, _)| {
            let mut signature = key(*signer).sign(digest);
            match how {
                0 => signature[64] = 29,
                1 => signature[40] ^= 1,
                _ => {}
            }
            signature
        }).collect();
        let indices: Vec<u32> = signed.iter().map(|(.., index)| *index).collect();
        let expected: Vec<usize> = (0..signed.len()).filter(|place| {
            let key = keys.get(indices[*place] as usize);
            !key.is_some_and(|key| verify(&digests[*place], &signatures[*place], key))
        }).collect();
        let nothing = CRefusal { index: u64::MAX, code: -1, reserved: 7 };
        let mut refusals = vec![nothing; capacity];
        let mut refused = usize::MAX;
        // SAFETY: pointers and lengths are of this test's own arrays.
        let code = unsafe {
            psymm_verify_batch(
                flat.as_ptr().cast(),
                flat.len(),
                digests.as_ptr().cast(),
                signatures.as_ptr().cast(),
                indices.as_ptr(),
                core::ptr::null(),
                signed.len(),
                1,
                refusals.as_mut_ptr(),
                capacity,
                &raw mut refused,
            )
        };
        prop_assert_eq!(code, i32::from(!expected.is_empty()));
        prop_assert_eq!(refused, expected.len());
        let written = expected.len().min(capacity);
        for (refusal, index) in refusals.iter().zip(&expected) {
            prop_assert_eq!((refusal.index, refusal.reserved), (*index as u64, 0));
            prop_assert!(refusal.code >= 100);
        }
        prop_assert!(refusals[written..].iter().all(|refusal| *refusal == nothing));

        let mut found = vec![[1u8; 64]; signed.len()];
        let mut addresses = vec![[1u8; 20]; signed.len()];
        let mut codes = vec![-1; signed.len()];
        // SAFETY: pointers and lengths are of this test's own arrays.
        let code = unsafe {
            psymm_recover_batch(
                digests.as_ptr().cast(),
                signatures.as_ptr().cast(),
                signed.len(),
                1,
                found.as_mut_ptr().cast(),
                addresses.as_mut_ptr().cast(),
                codes.as_mut_ptr(),
            )
        };
        prop_assert_eq!(code, i32::from(codes.iter().any(|code| *code != 0)));
        for place in 0..signed.len() {
            let (right, address, why) = match recover(&digests[place], &signatures[place]) {
                Ok(key) => (*key.as_bytes(), key.address(), Code::Ok),
                Err(error) => ([0; 64], [0; 20], Code::from(error)),
            };
            prop_assert_eq!(found[place], right);
            prop_assert_eq!(addresses[place], address);
            prop_assert_eq!(codes[place], why.number());
        }
    }
}
