//! Accept and reject are the same on every path: each backend of the processor, one thread and
//! two, alone and in batches of any size and order. The oracle is libsecp256k1's recovery
//! under Ethereum's rules, written down here once more and apart from the core.

mod brief;
mod cancelling;
mod changes;
mod coinciding;
mod crafted;
mod digests;
mod mixtures;
mod oracle;
mod signing;
mod sizes;
mod wycheproof_vectors;

use std::io::Write as _;

use _core::cpu::{self, Backend};

#[test]
fn portable_is_always_among_the_paths() {
    let names: Vec<&str> = cpu::available()
        .iter()
        .map(|backend| backend.name())
        .collect();
    // Straight to the stream: the test runner keeps what `println` says to itself.
    writeln!(
        std::io::stderr(),
        "paths that run here: {}",
        names.join(", ")
    )
    .unwrap();
    assert_eq!(cpu::available().first(), Some(&Backend::Portable));
    assert_eq!(cpu::available().last(), Some(&cpu::best()));
}

#[test]
fn the_environment_leaves_out_all_paths_beyond_the_one_it_names() {
    let named = std::env::var("PSYMM_BACKEND");
    for backend in cpu::available() {
        let beyond = match named.as_deref() {
            Ok("portable") => *backend > Backend::Portable,
            Ok("avx2") => *backend > Backend::Avx2,
            _ => false,
        };
        assert!(!beyond, "{backend:?}");
        assert_eq!(cpu::at_most(*backend), *backend);
    }
}
