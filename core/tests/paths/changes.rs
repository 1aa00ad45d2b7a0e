//! What random batches are made of: right claims, ordinary and remarkable, and changes to them.

use std::sync::LazyLock;

use super::signing::{
    Case, Scalar, bytes, derived_y, drawn, keyless, lambda, modulus, order, ordinary, plain_sum,
    scalar, sign, sign_backwards, small,
};

/// Right claims, ordinary and remarkable, that mixtures are made of.
pub(crate) static BASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let mut bases = ordinary("base", 24);
    let secret = |i| scalar(&drawn("base secret", i));
    let nonce = |i| scalar(&drawn("base nonce", i));
    let one = Scalar::from(1u64);
    for (i, remarkable) in [one, -one, one + one, lambda(), -lambda()]
        .into_iter()
        .enumerate()
    {
        bases.push(sign(remarkable, nonce(i), &drawn("base digest", i)));
        bases.push(sign(secret(0), remarkable, &drawn("base digest", i)));
        bases.push(sign(
            secret(0),
            secret(0) * remarkable,
            &drawn("base digest", i),
        ));
        bases.push(sign(
            secret(1),
            nonce(0) * remarkable,
            &drawn("base digest", 0),
        ));
        bases.push(sign_backwards(secret(1), remarkable, nonce(i)));
        bases.push(sign_backwards(secret(1), secret(1) * nonce(i), nonce(i)));
    }
    bases.push(sign(secret(0), nonce(1), &[0; 32]));
    bases.push(sign(secret(0), nonce(2), &order()));
    bases.push(sign(secret(0), nonce(3), &[0xff; 32]));
    bases.extend(
        (1..40).filter_map(|x| keyless(&drawn("base digest", 1), &small(x), &small(x), false)),
    );
    bases
});

/// A change to a claim. Where it takes something from another right claim, or one of several
/// numbers, it counts round them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    FlipDigest(usize),
    FlipSignature(usize),
    FlipRY(usize),
    TakeDigest(usize),
    TakeSignature(usize),
    TakeR(usize),
    TakeS(usize),
    TakeRY(usize),
    TakeKey(usize),
    LeaveOutRY,
    DeriveRY,
    AddModulusToRY,
    OtherV,
    AnyV(u8),
    NegateS,
    AddOrderToDigest,
    SetR(usize),
    SetS(usize),
    Shift(i8),
    NoKey,
}

/// How many kinds of change there are.
pub(crate) const CHANGES: usize = 20;

impl Change {
    /// The change of a kind, counted round all kinds, with the number it takes:
    /// a branch for each kind.
    pub(crate) fn numbered(kind: usize, which: usize) -> Self {
        match kind % CHANGES {
            0 => Self::FlipDigest(which),
            1 => Self::FlipSignature(which),
            2 => Self::FlipRY(which),
            3 => Self::TakeDigest(which),
            4 => Self::TakeSignature(which),
            5 => Self::TakeR(which),
            6 => Self::TakeS(which),
            7 => Self::TakeRY(which),
            8 => Self::TakeKey(which),
            9 => Self::LeaveOutRY,
            10 => Self::DeriveRY,
            11 => Self::AddModulusToRY,
            12 => Self::OtherV,
            13 => Self::AnyV(which as u8),
            14 => Self::NegateS,
            15 => Self::AddOrderToDigest,
            16 => Self::SetR(which),
            17 => Self::SetS(which),
            18 => Self::Shift(which as i8),
            _ => Self::NoKey,
        }
    }
}

/// Numbers at which the rules turn.
static REMARKABLE: LazyLock<[[u8; 32]; 10]> = LazyLock::new(|| {
    let half = -Scalar::from(1u64) / Scalar::from(2u64);
    [
        [0; 32],
        small(1),
        small(2),
        order(),
        bytes(-Scalar::from(1u64)),
        bytes(half),
        bytes(half + Scalar::from(1u64)),
        modulus(),
        plain_sum(&order(), &small(3)).unwrap(),
        [0xff; 32],
    ]
});

/// A claim after a change: a branch for each kind.
pub(crate) fn changed(case: Case, change: &Change) -> Case {
    let mut case = case;
    let base = |from: &usize| BASES[from % BASES.len()];
    let number = |which: &usize| REMARKABLE[which % REMARKABLE.len()];
    let flip = |bytes: &mut [u8], bit: &usize| {
        let bit = bit % (8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
    };
    match change {
        Change::FlipDigest(bit) => flip(&mut case.digest, bit),
        Change::FlipSignature(bit) => flip(&mut case.signature, bit),
        Change::FlipRY(bit) => case.r_y.iter_mut().for_each(|y| flip(y, bit)),
        Change::TakeDigest(from) => case.digest = base(from).digest,
        Change::TakeSignature(from) => case.signature = base(from).signature,
        Change::TakeR(from) => case = case.with_r(&base(from).r()),
        Change::TakeS(from) => case = case.with_s(&base(from).s()),
        Change::TakeRY(from) => case.r_y = base(from).r_y,
        Change::TakeKey(from) => case.key = base(from).key,
        Change::LeaveOutRY => case.r_y = None,
        Change::DeriveRY => case.r_y = derived_y(&case.signature),
        Change::AddModulusToRY => {
            case.r_y = case.r_y.map(|y| plain_sum(&y, &modulus()).unwrap_or(y));
        }
        Change::OtherV => case = case.other_v(),
        Change::AnyV(v) => case = case.with_v(*v),
        Change::NegateS => case = case.with_s(&bytes(-scalar(&case.s()))).other_v(),
        Change::AddOrderToDigest => {
            case.digest = plain_sum(&case.digest, &order()).unwrap_or(case.digest);
        }
        Change::SetR(which) => case = case.with_r(&number(which)),
        Change::SetS(which) => case = case.with_s(&number(which)),
        Change::Shift(by) => {
            let magnitude = Scalar::from(u64::from(by.unsigned_abs()));
            case = case.shifted(if *by < 0 { -magnitude } else { magnitude });
        }
        Change::NoKey => case.key = None,
    }
    case
}
