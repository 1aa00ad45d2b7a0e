//! Keccak-f[1600] once, for words of any width: one state in `u64`s, four or eight states side
//! by side in vectors (FIPS 202, section 3, with its names θ, ρ, π, χ and ι).

/// The words of a state: `u64`, or a vector that holds the same word of several states.
pub(super) trait Word: Copy {
    /// a ⊕ b ⊕ c.
    fn xor3(a: Self, b: Self, c: Self) -> Self;
    /// a ⊕ (¬b ∧ c).
    fn chi(a: Self, b: Self, c: Self) -> Self;
    /// Rotated left by `LEFT` bits; `RIGHT` is 64 − `LEFT`.
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self;
    /// With a constant added to each state.
    fn xor_constant(self, constant: u64) -> Self;
}

const ROUND_CONSTANTS: [u64; 24] = [
    0x0000_0000_0000_0001,
    0x0000_0000_0000_8082,
    0x8000_0000_0000_808a,
    0x8000_0000_8000_8000,
    0x0000_0000_0000_808b,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8009,
    0x0000_0000_0000_008a,
    0x0000_0000_0000_0088,
    0x0000_0000_8000_8009,
    0x0000_0000_8000_000a,
    0x0000_0000_8000_808b,
    0x8000_0000_0000_008b,
    0x8000_0000_0000_8089,
    0x8000_0000_0000_8003,
    0x8000_0000_0000_8002,
    0x8000_0000_0000_0080,
    0x0000_0000_0000_800a,
    0x8000_0000_8000_000a,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8080,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8008,
];

/// The permutation. Word x + 5y of the state is A[x, y].
// Always inlined, because only then are the vector instructions compiled with their feature.
#[inline(always)]
pub(super) fn permute<W: Word>(mut a: [W; 25]) -> [W; 25] {
    for constant in ROUND_CONSTANTS {
        a = round(a, constant);
    }
    a
}

#[inline(always)]
fn round<W: Word>(a: [W; 25], constant: u64) -> [W; 25] {
    // θ adds to each word the parities of the column before it and, rotated, of the one after.
    macro_rules! parity {
        ($x:literal) => {
            W::xor3(
                W::xor3(a[$x], a[$x + 5], a[$x + 10]),
                a[$x + 15],
                a[$x + 20],
            )
        };
    }
    let columns = [parity!(0), parity!(1), parity!(2), parity!(3), parity!(4)];
    let turned = [
        columns[0].rotate::<1, 63>(),
        columns[1].rotate::<1, 63>(),
        columns[2].rotate::<1, 63>(),
        columns[3].rotate::<1, 63>(),
        columns[4].rotate::<1, 63>(),
    ];

    // What π brings to a place comes through θ and ρ.
    macro_rules! moved {
        ($from:literal) => {
            W::xor3(a[$from], columns[($from + 4) % 5], turned[($from + 1) % 5])
        };
        ($from:literal, $left:literal) => {
            moved!($from).rotate::<$left, { 64 - $left }>()
        };
    }
    let [a0, a1, a2, a3, a4] = chi([
        moved!(0),
        moved!(6, 44),
        moved!(12, 43),
        moved!(18, 21),
        moved!(24, 14),
    ]);
    let [a5, a6, a7, a8, a9] = chi([
        moved!(3, 28),
        moved!(9, 20),
        moved!(10, 3),
        moved!(16, 45),
        moved!(22, 61),
    ]);
    let [a10, a11, a12, a13, a14] = chi([
        moved!(1, 1),
        moved!(7, 6),
        moved!(13, 25),
        moved!(19, 8),
        moved!(20, 18),
    ]);
    let [a15, a16, a17, a18, a19] = chi([
        moved!(4, 27),
        moved!(5, 36),
        moved!(11, 10),
        moved!(17, 15),
        moved!(23, 56),
    ]);
    let [a20, a21, a22, a23, a24] = chi([
        moved!(2, 62),
        moved!(8, 55),
        moved!(14, 39),
        moved!(15, 41),
        moved!(21, 2),
    ]);
    let a0 = a0.xor_constant(constant);
    [
        a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, a19,
        a20, a21, a22, a23, a24,
    ]
}

#[inline(always)]
fn chi<W: Word>([a, b, c, d, e]: [W; 5]) -> [W; 5] {
    [
        W::chi(a, b, c),
        W::chi(b, c, d),
        W::chi(c, d, e),
        W::chi(d, e, a),
        W::chi(e, a, b),
    ]
}
