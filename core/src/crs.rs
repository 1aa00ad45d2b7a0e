//! A reference string for development, made from a secret that everybody knows.
//!
//! UltraHonk needs the points [τ^i]₁ and [τ]₂ of some τ that nobody knows. Aztec's ceremony
//! made such a τ; fetching its points takes a network. So that everything runs without one,
//! `dev` uses τ = keccak256([`DEV_SENTENCE`]) mod r. WHOEVER READS THIS LINE CAN FORGE PROOFS
//! UNDER IT: contracts built with the dev string refuse every chain id but 31337.
//!
//! The bytes are those of Barretenberg's files: `bn254_g1.dat` holds x ‖ y of each point,
//! `bn254_g2.dat` holds x.c0 ‖ x.c1 ‖ y.c0 ‖ y.c1 of [τ]₂, 32 bytes each, big-endian.

use ark_bn254::{Fq, Fr, G1Projective, G2Projective};
use ark_ec::{AffineRepr, CurveGroup, PrimeGroup, scalar_mul::BatchMulPreprocessing};
use ark_ff::{BigInteger, One, PrimeField};

use crate::keccak::keccak256;

/// The sentence whose digest is the published secret.
pub const DEV_SENTENCE: &[u8] =
    b"pSymm development reference string: this secret is published and protects nothing";

/// The bytes of one point of G1.
const G1_BYTES: usize = 64;

/// Points are made in runs of this many, which bounds the memory beside the result.
const RUN: usize = 1 << 14;

/// The files of a reference string.
pub struct ReferenceString {
    /// `bn254_g1.dat`: [τ^0]₁, [τ^1]₁, …
    pub g1: Vec<u8>,
    /// `bn254_g2.dat`: [τ]₂.
    pub g2: Vec<u8>,
}

/// The published secret τ.
fn dev_secret() -> Fr {
    Fr::from_be_bytes_mod_order(&keccak256(DEV_SENTENCE))
}

fn push(bytes: &mut Vec<u8>, coordinate: Fq) {
    bytes.extend_from_slice(&coordinate.into_bigint().to_bytes_be());
}

/// The development reference string with this many points of G1, the generator first.
#[must_use]
pub fn dev(points: usize) -> ReferenceString {
    let secret = dev_secret();
    let table = BatchMulPreprocessing::new(G1Projective::generator(), points.min(RUN));
    let mut g1 = Vec::with_capacity(points * G1_BYTES);
    let mut power = Fr::one();
    let mut left = points;
    while left > 0 {
        let run = left.min(RUN);
        let powers: Vec<Fr> = (0..run)
            .map(|_| {
                let this = power;
                power *= secret;
                this
            })
            .collect();
        for point in table.batch_mul(&powers) {
            // τ is not zero, so no power of it gives the point at infinity.
            push(&mut g1, point.x);
            push(&mut g1, point.y);
        }
        left -= run;
    }
    let tau = (G2Projective::generator() * secret).into_affine();
    debug_assert!(!tau.is_zero());
    let mut g2 = Vec::with_capacity(2 * G1_BYTES);
    for coordinate in [tau.x.c0, tau.x.c1, tau.y.c0, tau.y.c1] {
        push(&mut g2, coordinate);
    }
    ReferenceString { g1, g2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_bn254::{Bn254, Fq2, G1Affine, G2Affine};
    use ark_ec::pairing::Pairing;

    fn coordinate(bytes: &[u8]) -> Fq {
        Fq::from_be_bytes_mod_order(bytes)
    }

    fn g1_at(string: &ReferenceString, index: usize) -> G1Affine {
        let bytes = &string.g1[index * G1_BYTES..][..G1_BYTES];
        G1Affine::new(coordinate(&bytes[..32]), coordinate(&bytes[32..]))
    }

    #[test]
    fn each_point_is_the_one_before_times_tau() {
        let string = dev(20);
        assert_eq!(string.g1.len(), 20 * G1_BYTES);
        assert_eq!(string.g2.len(), 128);
        let tau = G2Affine::new(
            Fq2::new(coordinate(&string.g2[..32]), coordinate(&string.g2[32..64])),
            Fq2::new(coordinate(&string.g2[64..96]), coordinate(&string.g2[96..])),
        );
        assert_eq!(g1_at(&string, 0), G1Affine::generator());
        for index in 1..20 {
            assert_eq!(
                Bn254::pairing(g1_at(&string, index), G2Affine::generator()),
                Bn254::pairing(g1_at(&string, index - 1), tau),
            );
        }
    }

    #[test]
    fn a_longer_string_begins_with_the_shorter_one_across_runs() {
        let long = dev(RUN + 3);
        let short = dev(3);
        assert_eq!(long.g1[..3 * G1_BYTES], short.g1);
        assert_eq!(
            g1_at(&long, RUN + 1),
            (G1Projective::from(g1_at(&long, RUN)) * dev_secret()).into_affine()
        );
    }

    #[test]
    fn no_points_is_an_empty_file() {
        assert!(dev(0).g1.is_empty());
    }
}
