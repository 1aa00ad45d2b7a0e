//! Keccak-256 as Ethereum uses it, and the EIP-712 domain of pSymm.

use sha3::{Digest as _, Keccak256};

use crate::cpu::{self, Backend};

/// A Keccak-256 digest.
pub type Digest = [u8; 32];

/// The Keccak-256 digest of some bytes (Ethereum's padding, not that of SHA-3).
#[must_use]
pub fn keccak256(bytes: &[u8]) -> Digest {
    Keccak256::digest(bytes).into()
}

/// The Keccak-256 digests of many messages, in their order; faster than one by one.
#[must_use]
pub fn keccak256_many(messages: &[&[u8]]) -> Vec<Digest> {
    keccak256_many_with(cpu::best(), messages)
}

/// As [`keccak256_many`], on a backend.
#[must_use]
pub fn keccak256_many_with(_backend: Backend, messages: &[&[u8]]) -> Vec<Digest> {
    messages.iter().map(|message| keccak256(message)).collect()
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
    let mut encoded = [0u8; 66];
    encoded[0] = 0x19;
    encoded[1] = 0x01;
    encoded[2..34].copy_from_slice(domain);
    encoded[34..].copy_from_slice(struct_hash);
    keccak256(&encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_ethereums() {
        assert_eq!(
            hex::encode(keccak256(b"")),
            "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
        );
    }

    #[test]
    fn chain_and_contract_both_change_the_domain() {
        let here = domain_separator(1, &[7; 20]);
        assert_ne!(here, domain_separator(2, &[7; 20]));
        assert_ne!(here, domain_separator(1, &[8; 20]));
    }
}
