//! Claims: every path refuses, and recovers, exactly what libsecp256k1 does. The oracle and
//! what batches are made of are those of the core's own tests.

#![no_main]
// Of the tests' modules, only what random batches need is used here.
#![allow(dead_code)]

#[path = "../../core/tests/paths/changes.rs"]
mod changes;
#[path = "../../core/tests/paths/oracle.rs"]
mod oracle;
#[path = "../../core/tests/paths/signing.rs"]
mod signing;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

use changes::{BASES, Change, changed};
use oracle::{EVERY_LAYOUT, every_path_recovers_alike, every_path_refuses_alike, judged};
use signing::Case;

#[derive(Arbitrary, Debug)]
enum Claim {
    /// A right claim, as it is.
    Right(u8),
    /// A right claim with changes.
    Changed(u8, [(u8, u16); 2]),
    /// Bytes as they come, under the key of a right claim.
    Any([u8; 32], [u8; 32], [u8; 32], u8, Option<[u8; 32]>, u8),
}

#[derive(Arbitrary, Debug)]
struct Batch {
    claims: Vec<Claim>,
    layout: u8,
}

fn case(claim: &Claim) -> Case {
    let base = |which: u8| BASES[usize::from(which) % BASES.len()];
    match claim {
        Claim::Right(which) => base(*which),
        Claim::Changed(which, changes) => changes.iter().fold(base(*which), |case, change| {
            let (kind, number) = *change;
            changed(
                case,
                &Change::numbered(usize::from(kind), usize::from(number)),
            )
        }),
        Claim::Any(digest, r, s, v, r_y, key) => {
            let base = base(*key);
            let case = Case {
                digest: *digest,
                r_y: *r_y,
                ..base
            };
            case.with_r(r).with_s(s).with_v(*v)
        }
    }
}

fuzz_target!(|batch: Batch| {
    let cases: Vec<Case> = batch.claims.iter().take(64).map(case).collect();
    let keys = EVERY_LAYOUT[usize::from(batch.layout) % EVERY_LAYOUT.len()];
    every_path_refuses_alike("fuzzed", &judged(&cases), keys);
    every_path_recovers_alike("fuzzed", &cases);
});
