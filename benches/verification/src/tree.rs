//! The tree of commitments: leaves one by one, and many at once.

use _core::field::Fr;
use _core::tree::LeanImt;

use crate::Plan;
use crate::inputs::Numbers;
use crate::interface::Peers;
use crate::rounds::{Contender, timed};
use crate::table::Section;

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
    let one_by_one = vec![Contender::new("pSymm", |round| {
        let mut tree = full.clone();
        let leaves = &sets[round % SETS][..ONE_BY_ONE];
        timed(ONE_BY_ONE, || {
            for leaf in leaves {
                tree.insert(*leaf).expect("the leaves are distinct");
            }
            tree.root()
        })
    })];
    section.measure(
        format!("one by one beyond {many}"),
        one_by_one,
        plan.effort(ONE_BY_ONE),
    );
    let mut at_once = vec![Contender::new("pSymm", |round| {
        let leaves = &sets[round % SETS];
        timed(many, || {
            let mut tree = LeanImt::new();
            tree.insert_many(leaves).expect("the leaves are distinct");
            tree
        })
    })];
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
        let name = format!("{}, only as many hashes", peer.called());
        at_once.push(Contender::new(name, move |round| {
            timed(many, || opened[round % SETS].hash())
        }));
    }
    section.measure(format!("{many} at once"), at_once, plan.effort(many));
    section
}

fn leaves(set: usize, count: usize) -> Vec<Fr> {
    let mut numbers = Numbers((set as u64) << 48 | 1);
    (0..count)
        .map(|_| Fr::from_u128(u128::from(numbers.next()) << 64 | u128::from(numbers.next()) | 1))
        .collect()
}
