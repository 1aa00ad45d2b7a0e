//! Keccak-256 as Ethereum uses it, and the EIP-712 domain of pSymm.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod lanes;
mod permutation;
mod portable;
mod sponge;

pub use sponge::Digest;

use crate::cpu::{self, Backend};
use lanes::{MAX_LANES, Work};

/// The Keccak-256 digest of some bytes (Ethereum's padding, not that of SHA-3).
#[must_use]
pub fn keccak256(bytes: &[u8]) -> Digest {
    lanes::hash_one(cpu::best(), bytes)
}

/// The Keccak-256 digests of many messages, in their order; faster than one by one.
#[must_use]
pub fn keccak256_many(messages: &[&[u8]]) -> Vec<Digest> {
    keccak256_many_with(cpu::best(), messages)
}

/// As [`keccak256_many`], on a backend.
#[must_use]
pub fn keccak256_many_with(backend: Backend, messages: &[&[u8]]) -> Vec<Digest> {
    if lanes::fewest(backend).is_none_or(|fewest| messages.len() < fewest) {
        return messages
            .iter()
            .map(|message| lanes::hash_one(backend, message))
            .collect();
    }
    let mut digests = vec![[0; 32]; messages.len()];
    let mut work = Messages {
        messages,
        digests: &mut digests,
        taken: 0,
        lanes: [0; MAX_LANES],
    };
    lanes::hash(backend, &mut work);
    digests
}

/// Messages that are handed out in their order, each to the lane that is free first.
struct Messages<'a> {
    messages: &'a [&'a [u8]],
    digests: &'a mut [Digest],
    taken: usize,
    /// Which message a lane has.
    lanes: [usize; MAX_LANES],
}

impl Work for Messages<'_> {
    fn next(&mut self, lane: usize, digest: Option<&Digest>) -> bool {
        if let Some(digest) = digest {
            self.digests[self.lanes[lane]] = *digest;
        }
        self.lanes[lane] = self.taken;
        let more = self.taken < self.messages.len();
        self.taken += usize::from(more);
        more
    }

    fn message(&self, lane: usize) -> &[u8] {
        self.messages[self.lanes[lane]]
    }
}

/// The EIP-712 domain separator of name "pSymm", version "1", on a chain and for the PSymm
/// contract there.
#[must_use]
pub fn domain_separator(chain_id: u64, contract: &[u8; 20]) -> Digest {
    let mut encoded = [0u8; 5 * 32];
    encoded[..32].copy_from_slice(&keccak256(
        b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
    ));
    encoded[32..64].copy_from_slice(&keccak256(b"pSymm"));
    encoded[64..96].copy_from_slice(&keccak256(b"1"));
    encoded[120..128].copy_from_slice(&chain_id.to_be_bytes());
    encoded[140..160].copy_from_slice(contract);
    keccak256(&encoded)
}

/// What EIP-712 signs: keccak256(0x19 ‖ 0x01 ‖ domain ‖ hash of the struct).
#[must_use]
pub fn typed_digest(domain: &Digest, struct_hash: &Digest) -> Digest {
    keccak256(&typed_message(domain, struct_hash))
}

/// What [`typed_digest`] hashes.
pub(crate) fn typed_message(domain: &Digest, struct_hash: &Digest) -> [u8; 66] {
    let mut encoded = [0u8; 66];
    encoded[0] = 0x19;
    encoded[1] = 0x01;
    encoded[2..34].copy_from_slice(domain);
    encoded[34..].copy_from_slice(struct_hash);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha3::Digest as _;

    /// By a crate that shares nothing with what is tested.
    fn expected(message: &[u8]) -> Digest {
        sha3::Keccak256::digest(message).into()
    }

    /// Bytes of which no two messages, and no two places in one, have many in common.
    fn message(number: usize, length: usize) -> Vec<u8> {
        let mut x = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn check_all_ways(messages: &[Vec<u8>]) {
        let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let expected: Vec<Digest> = messages.iter().map(|message| expected(message)).collect();
        assert_eq!(keccak256_many(&messages), expected);
        for &backend in cpu::available() {
            let given = keccak256_many_with(backend, &messages);
            assert_eq!(given, expected, "{}", backend.name());
        }
    }

    #[test]
    fn the_digest_of_nothing_is_ethereums() {
        assert_eq!(
            hex::encode(keccak256(b"")),
            "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
        );
    }

    #[test]
    fn every_length_of_up_to_four_blocks_is_hashed_as_by_another_implementation() {
        for length in 0..=4 * 136 {
            let bytes = message(length, length);
            for &backend in cpu::available() {
                let given = lanes::hash_one(backend, &bytes);
                assert_eq!(given, expected(&bytes), "{} {length}", backend.name());
            }
        }
        check_all_ways(
            &(0..=4 * 136)
                .map(|length| message(length, length))
                .collect::<Vec<_>>(),
        );
    }

    #[test]
    fn any_count_of_messages_is_hashed_in_its_order() {
        for count in 0..=33 {
            let messages: Vec<_> = (0..count).map(|number| message(number, 300)).collect();
            check_all_ways(&messages);
        }
    }

    #[test]
    fn a_long_message_among_short_ones_delays_none_and_mixes_with_none() {
        for place in [0, 3, 8, 16] {
            let messages: Vec<_> = (0..17)
                .map(|number| message(number, if number == place { 65_536 } else { number }))
                .collect();
            check_all_ways(&messages);
        }
    }

    #[test]
    fn chain_and_contract_both_change_the_domain() {
        let here = domain_separator(1, &[7; 20]);
        assert_ne!(here, domain_separator(2, &[7; 20]));
        assert_ne!(here, domain_separator(1, &[8; 20]));
    }

    fn any_length() -> impl Strategy<Value = usize> {
        prop_oneof![
            prop::sample::select(vec![0, 1, 135, 136, 137, 271, 272, 273, 408, 1360]),
            0..700usize,
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn messages_of_any_lengths_are_hashed_in_their_order(
            lengths in prop_oneof![
                prop::collection::vec(any_length(), 0..40),
                prop::collection::vec(any_length(), 7..=9),
            ],
        ) {
            let messages: Vec<_> = lengths.into_iter().enumerate()
                .map(|(number, length)| message(number, length)).collect();
            check_all_ways(&messages);
        }
    }
}
