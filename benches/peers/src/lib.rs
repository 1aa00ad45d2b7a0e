//! The peers of the bench, each by the fastest way that it offers, behind one table of functions.
//!
//! Nothing here is part of pSymm. That each gives pSymm's values is checked by the bench before
//! it times them.

mod interface;
mod keccak;
mod poseidon2;
mod signatures;

use interface::{LAYOUT, Peers};

/// The table of all peers.
#[unsafe(no_mangle)]
pub extern "C" fn peers() -> Peers {
    Peers {
        layout: LAYOUT,
        signatures: [signatures::LIBSECP256K1, signatures::K256],
        keccak: [keccak::SHA3, keccak::TINY_KECCAK, keccak::KECCAK_ASM],
        poseidon2: [poseidon2::TACEO, poseidon2::NOIR, poseidon2::PSO],
    }
}
