//! Mixtures: batches drawn at random from right, remarkable and spoilt claims, with their
//! parts changed and exchanged.

use proptest::prelude::*;
use proptest::sample::Index;

use super::changes::{BASES, CHANGES, Change, changed};
use super::oracle::{
    EVERY_LAYOUT, every_path_recovers_alike, every_path_refuses_alike, judged,
    the_front_refuses_alike,
};
use super::signing::Case;

fn change() -> impl Strategy<Value = Change> {
    (0..CHANGES, any::<usize>()).prop_map(|(kind, which)| Change::numbered(kind, which))
}

/// A claim of a mixture: seldom changed, so that most of a batch is right.
fn claim() -> impl Strategy<Value = Case> {
    let changes = prop_oneof![
        6 => Just(Vec::new()),
        3 => Just(vec![Change::LeaveOutRY]),
        2 => prop::collection::vec(change(), 1..3),
    ];
    (any::<usize>(), changes)
        .prop_map(|(base, changes)| changes.iter().fold(BASES[base % BASES.len()], changed))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_mixture_is_judged_as_by_the_oracle(
        cases in prop::collection::vec(claim(), 0..100), keys in 0usize..3, threads in 0usize..5,
    ) {
        let judged = judged(&cases);
        every_path_refuses_alike("a mixture", &judged, EVERY_LAYOUT[keys]);
        the_front_refuses_alike(&judged, threads);
    }

    #[test]
    fn any_mixture_is_recovered_as_by_the_oracle(cases in prop::collection::vec(claim(), 0..60)) {
        every_path_recovers_alike("a mixture", &cases);
    }

    #[test]
    fn one_change_to_a_right_batch_is_judged_as_by_the_oracle(
        count in 1usize..100, place in any::<Index>(), change in change(), keys in 0usize..3,
    ) {
        let mut cases: Vec<Case> = BASES.iter().cycle().take(count).copied().collect();
        let place = place.index(count);
        cases[place] = changed(cases[place], &change);
        every_path_refuses_alike("one change", &judged(&cases), EVERY_LAYOUT[keys]);
    }
}
