//! The tree of commitments: leaves one by one, and many at once.

use _core::cpu;
use _core::field::Fr;
use _core::tree::LeanImt;

use crate::inputs::Numbers;
use crate::interface::Peers;
use crate::rounds::{Contender, timed};
use crate::table::Section;
use crate::transcripts::{backends_and_threads, ours};
use crate::{Plan, size_name};

/// Leaves appended one by one.
const ONE_BY_ONE: usize = 256;
const SETS: usize = 4;

/// Appending to a tree that has as many leaves as are inserted at once.
pub(crate) fn section(plan: &Plan, peers: &Peers) -> Section {
    let many = plan.most_of(1 << 16);
    let mut section = Section::new("Tree of commitments, inserting leaves", "leaf");
    let sets: Vec<Vec<Fr>> = (0..SETS).map(|set| leaves(set, many)).collect();
    let mut full = LeanImt::new();
    full.insert_many(&leaves(SETS, many))
        .expect("the leaves are distinct");
    let mut one_by_one = Vec::new();
    for backend in cpu::available() {
        let (full, sets) = (&full, &sets);
        one_by_one.push(Contender::new(ours(*backend, 1), move |round| {
            let mut tree = full.clone();
            let leaves = &sets[round % SETS][..ONE_BY_ONE];
            timed(ONE_BY_ONE, || {
                for leaf in leaves {
                    let inserted = tree.insert_many_with(*backend, core::slice::from_ref(leaf), 1);
                    inserted.expect("the leaves are distinct");
                }
                tree.root()
            })
        }));
    }
    section.measure(
        format!("one by one beyond {}", size_name(many)),
        one_by_one,
        plan.effort(ONE_BY_ONE),
    );
    let mut at_once = Vec::new();
    for (backend, threads) in backends_and_threads() {
        let sets = &sets;
        at_once.push(Contender::new(ours(backend, threads), move |round| {
            let leaves = &sets[round % SETS];
            timed(many, || {
                let mut tree = LeanImt::new();
                let inserted = tree.insert_many_with(backend, leaves, threads);
                inserted.expect("the leaves are distinct");
                tree
            })
        }));
    }
    // Nobody else has this tree with this hash; what anybody must do for it is its hashes.
    for peer in peers.poseidon2 {
        let mut opened: Vec<_> = sets
            .iter()
            .map(|leaves| {
                let children: Vec<[u8; 32]> = leaves.iter().map(|leaf| leaf.to_bytes()).collect();
                let pairs: Vec<[[u8; 32]; 2]> =
                    children.windows(2).map(|pair| [pair[0], pair[1]]).collect();
                peer.pairs(&pairs)
            })
            .collect();
        at_once.push(Contender::new(only_hashes(&peer.called()), move |round| {
            timed(many, || opened[round % SETS].hash())
        }));
    }
    section.measure(
        format!("{} at once", size_name(many)),
        at_once,
        plan.effort(many),
    );
    let best = cpu::best();
    let others: Vec<String> = peers
        .poseidon2
        .iter()
        .map(|peer| only_hashes(&peer.called()))
        .collect();
    section
        .ratio(
            "one thread against the fastest other's hashes",
            &others,
            ours(best, 1),
            None,
        )
        .ratio(
            "two threads against one",
            &[ours(best, 1)],
            ours(best, 2),
            None,
        )
}

fn only_hashes(peer: &str) -> String {
    format!("{peer}, only as many hashes")
}

fn leaves(set: usize, count: usize) -> Vec<Fr> {
    let mut numbers = Numbers((set as u64) << 48 | 1);
    (0..count)
        .map(|_| Fr::from_u128(u128::from(numbers.next()) << 64 | u128::from(numbers.next()) | 1))
        .collect()
}
