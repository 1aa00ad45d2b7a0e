//! The curve's arithmetic against libsecp256k1, on every backend.

use proptest::prelude::*;

use crate::cpu::{self, Backend};
use crate::secp256k1::buckets::{Buckets, Windows};
use crate::secp256k1::field::{BETA, Fe, P};
use crate::secp256k1::group::{GENERATOR, Projective};
use crate::secp256k1::kernels::Kernels;
use crate::secp256k1::lanes::{FieldLanes, MAX_WIDTH, Pair, ScalarLanes};
use crate::secp256k1::scalar::{LAMBDA, N, Scalar};
use crate::secp256k1::sums::Term;
use ::secp256k1::{PublicKey as LibPublicKey, Scalar as LibScalar, SecretKey as LibSecretKey};

/// Numbers below 2^256, with the edges of limbs and of both moduli drawn often.
fn number() -> impl Strategy<Value = [u64; 4]> {
    let limb = prop_oneof![
        Just(0u64),
        Just(1),
        Just(u64::MAX),
        Just(u64::MAX - 1),
        any::<u64>()
    ];
    let near = |m: [u64; 4]| {
        (0u64..64, any::<bool>()).prop_map(move |(d, up)| {
            let mut v = m;
            v[0] = if up { m[0].saturating_add(d) } else { m[0] - d };
            v
        })
    };
    prop_oneof![
        6 => prop::array::uniform4(any::<u64>()),
        4 => prop::array::uniform4(limb),
        1 => near(P),
        1 => near(N),
        1 => (0u64..64).prop_map(|v| [v, 0, 0, 0]),
        1 => (0u64..64).prop_map(|v| [u64::MAX - v, u64::MAX, u64::MAX, u64::MAX]),
    ]
}

fn scalar_bytes(v: Scalar) -> [u8; 32] {
    v.to_bytes()
}

/// v·G by libsecp256k1; `None` for zero.
fn by_library(v: Scalar) -> Option<[u8; 64]> {
    let secret = LibSecretKey::from_secret_bytes(scalar_bytes(v)).ok()?;
    let key = LibPublicKey::from_secret_key(&secret);
    Some(key.serialize_uncompressed()[1..].try_into().unwrap())
}

fn point(v: Scalar) -> Pair {
    let bytes = by_library(v).unwrap();
    Pair {
        x: crate::secp256k1::field::limbs_of(bytes[..32].try_into().unwrap()),
        y: crate::secp256k1::field::limbs_of(bytes[32..].try_into().unwrap()),
    }
}

fn bytes_of(p: Projective<Fe>) -> Option<[u8; 64]> {
    let pair = p.to_affine()?;
    let mut bytes = [0u8; 64];
    bytes[..32].copy_from_slice(&Fe(pair.x).to_bytes());
    bytes[32..].copy_from_slice(&Fe(pair.y).to_bytes());
    Some(bytes)
}

/// a·b + c modulo m, bit by bit: slow, and sharing nothing with what it judges.
fn multiply_add(a: [u64; 4], b: [u64; 4], c: [u64; 4], m: [u64; 4]) -> [u64; 4] {
    let below = |a: &[u64; 4], b: &[u64; 4]| a.iter().rev().lt(b.iter().rev());
    let subtract = |a: [u64; 4], b: [u64; 4]| {
        let mut out = [0; 4];
        let mut borrow = false;
        for i in 0..4 {
            let (d, b1) = a[i].overflowing_sub(b[i]);
            let (d, b2) = d.overflowing_sub(u64::from(borrow));
            (out[i], borrow) = (d, b1 | b2);
        }
        out
    };
    let reduce = |mut v: [u64; 4]| {
        while !below(&v, &m) {
            v = subtract(v, m);
        }
        v
    };
    let add = |a: [u64; 4], b: [u64; 4]| {
        // a + b = a − (m − b) if that does not go below zero.
        let other = if b == [0; 4] { [0; 4] } else { subtract(m, b) };
        if b == [0; 4] {
            a
        } else if below(&a, &other) {
            subtract(a, subtract(other, m)) // wraps round 2^256 twice and so is a + b
        } else {
            subtract(a, other)
        }
    };
    let (a, c) = (reduce(a), reduce(c));
    let mut product = [0; 4];
    for bit in (0..256).rev() {
        product = add(product, product);
        if b[bit / 64] >> (bit % 64) & 1 == 1 {
            product = add(product, a);
        }
    }
    add(product, c)
}

/// What a test does with all kernels that this processor has.
macro_rules! with_all_kernels {
    ($run:ident($($argument:expr),*)) => {
        for backend in cpu::available() {
            match backend {
                #[cfg(target_arch = "x86_64")]
                Backend::Avx512 => $run::<crate::secp256k1::backends::Wide>($($argument),*),
                _ => $run::<crate::secp256k1::backends::Narrow>($($argument),*),
            }
        }
    };
}

/// What a test does for every kind of lanes that this processor has.
macro_rules! on_every_backend {
    ($run:ident($($argument:expr),*)) => {
        for backend in cpu::available() {
            match backend {
                #[cfg(target_arch = "x86_64")]
                Backend::Avx512 => {
                    use crate::secp256k1::wide::{Fe8, Scalar8};
                    // SAFETY: the backend is available.
                    unsafe { wide::$run::<Fe8, Scalar8>($($argument),*) };
                }
                _ => narrow::$run::<Fe, Scalar>($($argument),*),
            }
        }
    };
}

macro_rules! checks {
    ($($(#[$meta:meta])* fn $name:ident<F, S>($($argument:ident: $type:ty),*) $body:block)*) => {
        mod generic {
            use super::*;
            $(
                #[inline(always)]
                pub(super) fn $name<F: FieldLanes, S: ScalarLanes>($($argument: $type),*) $body
            )*
        }
        mod narrow {
            use super::*;
            $(
                pub(super) fn $name<F: FieldLanes, S: ScalarLanes>($($argument: $type),*) {
                    generic::$name::<F, S>($($argument),*);
                }
            )*
        }
        #[cfg(target_arch = "x86_64")]
        mod wide {
            use super::*;
            $(
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2")]
                pub(super) unsafe fn $name<F: FieldLanes, S: ScalarLanes>($($argument: $type),*) {
                    generic::$name::<F, S>($($argument),*);
                }
            )*
        }
    };
}

checks! {
    fn field_operations<F, S>(a: [u64; 4], b: [u64; 4], c: [u64; 4], d: [u64; 4]) {
        // Different values in the lanes, all judged.
        let turn = |v: [u64; 4]| -> [Fe; MAX_WIDTH] {
            core::array::from_fn(|i| Fe([v[i % 4], v[(i + 1) % 4], v[(i + 2 + i / 4) % 4], v[3]]))
        };
        let (la, lb, lc, ld) = (turn(a), turn(b), turn(c), turn(d));
        let (fa, fb, fc, fd) = (F::gather(&la), F::gather(&lb), F::gather(&lc), F::gather(&ld));
        // Differences and sums make values that are strict and not below 2^256.
        let results = [
            fa.add(fb),
            fa.sub(fb),
            fa.neg(),
            fa.mul(fb),
            fa.square(),
            fa.mul_sub(fb, fc),
            fa.square_sub(fb, fc),
            fa.mul_add(fb, fc, fd),
            fa.mul_small(21),
            fa.mul_small(1023),
            fa.add(fb).mul(fc.neg()),
            fa.sub(fb).square(),
            fa.neg().mul_add(fb.neg(), fc.add(fd), fd.sub(fa)),
            fa.neg().square_sub(fb.neg(), fc.neg()),
        ];
        let zero = [0; 4];
        let times = |a: [u64; 4], b: [u64; 4]| multiply_add(a, b, zero, P);
        let plus = |a: [u64; 4], b: [u64; 4]| multiply_add(a, [1, 0, 0, 0], b, P);
        let minus_one = [P[0] - 1, P[1], P[2], P[3]];
        let neg = |a: [u64; 4]| times(a, minus_one);
        let minus = |a: [u64; 4], b: [u64; 4]| plus(a, neg(b));
        for lane in 0..F::WIDTH {
            let (a, b, c, d) = (la[lane].0, lb[lane].0, lc[lane].0, ld[lane].0);
            let expected = [
                plus(a, b),
                minus(a, b),
                neg(a),
                times(a, b),
                times(a, a),
                minus(times(a, b), c),
                minus(minus(times(a, a), b), c),
                plus(times(a, b), times(c, d)),
                times(a, [21, 0, 0, 0]),
                times(a, [1023, 0, 0, 0]),
                times(plus(a, b), neg(c)),
                times(minus(a, b), minus(a, b)),
                plus(times(neg(a), neg(b)), times(plus(c, d), minus(d, a))),
                plus(plus(times(a, a), b), c),
            ];
            for (i, (result, expected)) in results.iter().zip(expected).enumerate() {
                assert_eq!(result.lane(lane).reduced().0, expected, "operation {i} lane {lane}");
                assert_eq!(result.zeros() >> lane & 1 == 1, expected == zero, "zero {i}");
                assert_eq!(result.odds() >> lane & 1 == 1, expected[0] & 1 == 1, "odd {i}");
            }
        }
    }

    fn field_memory<F, S>(a: [u64; 4], b: [u64; 4]) {
        let pairs: [Pair; MAX_WIDTH] = core::array::from_fn(|i| Pair {
            x: [a[i % 4], a[(i + 1) % 4], b[i % 4], b[3]],
            y: [b[(i + 3) % 4], a[2], b[i / 2], a[(i + 2) % 4] & 0x7fff_ffff_ffff_ffff],
        });
        let (x, y) = F::load(&pairs);
        let at: [u32; 8] = [3, 1, 7, 0, 5, 5, 2, 6];
        let signed = at.map(|at| if at % 2 == 1 { at | crate::secp256k1::lanes::NEGATIVE } else { at });
        let (gx, gy) = F::load_at(&pairs, &signed);
        let mut copy = [Pair::NONE; MAX_WIDTH];
        F::store(x, y, &mut copy);
        let mut sums = [Pair::NONE; MAX_WIDTH];
        F::store(x.add(y), x.sub(y), &mut sums);
        let table: Vec<F> = (0..9).map(|i| x.mul_small(i)).collect();
        let choices = [8, 7, 0, 1, 2, 6, 5, 3];
        let selected = F::select(&table, 1, &choices);
        let blended = x.replace(0b0101_0110, y);
        for lane in 0..F::WIDTH {
            let own = &pairs[lane];
            assert_eq!(x.lane(lane).0, own.x);
            assert_eq!(y.lane(lane).0, own.y);
            assert_eq!(copy[lane], *own);
            let (ox, oy) = (Fe(own.x), Fe(own.y));
            assert!(Fe(sums[lane].x).equals(ox.add(oy)));
            assert!(Fe(sums[lane].y).equals(ox.sub(oy)));
            let other = &pairs[at[lane] as usize];
            assert_eq!(gx.lane(lane).0, other.x);
            let expected = if at[lane] % 2 == 1 { Fe(other.y).neg() } else { Fe(other.y) };
            assert!(gy.lane(lane).equals(expected));
            assert!(selected.lane(lane).equals(ox.mul_small(u64::from(choices[lane]))));
            let expected = if 0b0101_0110u8 >> lane & 1 == 1 { oy } else { ox };
            assert!(blended.lane(lane).equals(expected));
        }
    }

    fn scalar_products<F, S>(a: [u64; 4], b: [u64; 4], random: u128, bias: u128) {
        let rows: [Pair; MAX_WIDTH] = core::array::from_fn(|i| Pair {
            x: [a[i % 4], a[1], a[2], a[(i + 3) % 4]],
            y: [b[0], b[i % 4], b[(i + 2) % 4], b[3]],
        });
        let (x, y) = S::load(&rows);
        // Each product loses R, and R² brings two of them back.
        let product = x.product(y).product(S::splat(S::r_squared()));
        let squares = x.product(y).product(x.product(y)).product(S::splat(S::r_squared()));
        let randoms = [random; MAX_WIDTH];
        let coefficient = S::load_random(&randoms, bias);
        for lane in 0..S::WIDTH {
            let expected = multiply_add(rows[lane].x, rows[lane].y, [0; 4], N);
            assert_eq!(product.lane(lane).0, expected);
            let square = multiply_add(expected, expected, [0; 4], N);
            // (xy/R)²/R·R²/R = (xy)²/R².
            let back = multiply_add(squares.lane(lane).0, S::r_squared().0, [0; 4], N);
            assert_eq!(back, square);
            let mut columns = [0u128; 5];
            for (column, values) in columns.iter_mut().zip(product.columns()) {
                *column = u128::from(values[lane]);
            }
            assert_eq!(Scalar::from_columns(&columns, S::LIMB_BITS).0, expected);
            let negated = Scalar::from_u128(bias).neg();
            assert_eq!(coefficient.lane(lane), Scalar::from_u128(random).add(negated));
        }
    }

    fn point_formulas<F, S>(a: Scalar, b: Scalar) {
        // In the lanes: a and b, equal, opposite, with infinity.
        let zero = Scalar::ZERO;
        let cases: [(Scalar, Scalar); 8] =
            [(a, b), (a, a), (a, a.neg()), (a, zero), (zero, b), (zero, zero), (b, a), (b, b.neg())];
        let at = |v: Scalar| -> Projective<Fe> {
            if v.is_zero() {
                Projective::infinity()
            } else {
                let p = point(v);
                Projective::affine(Fe(p.x), Fe(p.y))
            }
        };
        for turn in 0..8 {
            let case = |i: usize| cases[(i + turn) % 8];
            let gather = |side: &dyn Fn(usize) -> Projective<Fe>| {
                let all: [Projective<Fe>; 8] = core::array::from_fn(side);
                Projective {
                    x: F::gather(&all.map(|p| p.x)),
                    y: F::gather(&all.map(|p| p.y)),
                    z: F::gather(&all.map(|p| p.z)),
                }
            };
            let left = gather(&|i| at(case(i).0));
            let right = gather(&|i| at(case(i).1));
            // Away from z = 1 too.
            let factor = F::splat(Fe::from_u64(0xdead_beef));
            let left = Projective { x: left.x.mul(factor), y: left.y.mul(factor), z: left.z.mul(factor) };
            let (sum, double) = (left.add(right), left.double());
            let mixed = left.add_affine(right.x, right.y);
            for lane in 0..F::WIDTH {
                let (a, b) = case(lane);
                assert_eq!(bytes_of(sum.lane(lane)), by_library(a.add(b)));
                assert_eq!(bytes_of(double.lane(lane)), by_library(a.add(a)));
                assert_eq!(bytes_of(left.neg().lane(lane)), by_library(a.neg()));
                if !b.is_zero() {
                    assert_eq!(bytes_of(mixed.lane(lane)), by_library(a.add(b)));
                }
            }
        }
    }

    fn square_roots<F, S>(a: [u64; 4]) {
        let values: [Fe; MAX_WIDTH] = core::array::from_fn(|i| Fe(a).add(Fe::from_u64(i as u64)));
        let root = crate::secp256k1::rows::square_root(F::gather(&values).square());
        for (lane, value) in values.into_iter().enumerate().take(F::WIDTH) {
            let root = root.lane(lane);
            assert!(root.equals(value) || root.equals(value.neg()));
        }
    }
}

/// Sums by both methods.
fn sums_of_points<K: Kernels>(secrets: &[Scalar], magnitudes: &[u128], bits: u32) {
    let points: Vec<Pair> = secrets.iter().map(|v| point(*v)).collect();
    let terms: Vec<Term> = points
        .iter()
        .zip(magnitudes)
        .enumerate()
        .map(|(i, (point, magnitude))| Term {
            point: *point,
            negative: i % 3 == 0,
            magnitude: *magnitude,
        })
        .collect();
    let mut expected = Scalar::ZERO;
    for ((secret, term), magnitude) in secrets.iter().zip(&terms).zip(magnitudes) {
        let product = secret.mul(Scalar::from_u128(*magnitude));
        expected = expected.add(if term.negative {
            product.neg()
        } else {
            product
        });
    }
    assert_eq!(bytes_of(K::straus(&terms)), by_library(expected), "Straus");

    let windows = Windows::new(bits);
    let mut buckets = Buckets::<K>::new();
    buckets.reset(windows);
    let mut expected = Scalar::ZERO;
    for (secret, magnitude) in secrets.iter().zip(magnitudes) {
        let coefficient =
            Scalar::from_u128(*magnitude).add(Scalar::from_u128(windows.bias()).neg());
        expected = expected.add(secret.mul(coefficient));
    }
    let third = points.len() / 3;
    buckets.add(&points[..third], &magnitudes[..third]).unwrap();
    buckets.add(&points[third..], &magnitudes[third..]).unwrap();
    assert_eq!(
        bytes_of(buckets.total()),
        by_library(expected),
        "buckets of {bits} bits"
    );
}

fn meetings<K: Kernels>(secret: Scalar) {
    // The same point twice in one bucket cannot be added in affine coordinates.
    let points = [point(secret); 2];
    let mut buckets = Buckets::<K>::new();
    buckets.reset(Windows::new(5));
    assert!(buckets.add(&points, &[77, 77]).is_err());
    let term = |negative| Term {
        point: points[0],
        negative,
        magnitude: 77,
    };
    let twice = Scalar::from_u64(154).mul(secret);
    assert_eq!(
        bytes_of(K::straus(&[term(false), term(false)])),
        by_library(twice)
    );
    assert_eq!(bytes_of(K::straus(&[term(false), term(true)])), None);
    assert_eq!(bytes_of(K::straus(&[])), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_field_is_that_of_integers_modulo_p(
        a in number(), b in number(), c in number(), d in number(),
    ) {
        on_every_backend!(field_operations(a, b, c, d));
        on_every_backend!(field_memory(a, b));
        on_every_backend!(square_roots(a));
    }

    #[test]
    fn scalars_are_integers_modulo_n(
        a in number(), b in number(), random in any::<u128>(), bias in any::<u128>(),
    ) {
        on_every_backend!(scalar_products(a, b, random, bias));
        let (x, y) = (Scalar::reduce(a), Scalar::reduce(b));
        prop_assert_eq!(x.add(y).0, multiply_add(a, [1, 0, 0, 0], y.0, N));
        prop_assert_eq!(x.mul(y).0, multiply_add(a, b, [0; 4], N));
        prop_assert!(x.add(x.neg()).is_zero());
    }

    #[test]
    fn inverses_give_one_and_zero_has_none(a in number()) {
        let (x, s) = (Fe(a), Scalar::reduce(a));
        if x.is_zero() {
            prop_assert!(x.invert().is_zero());
        } else {
            prop_assert!(x.mul(x.invert()).equals(Fe::ONE));
        }
        if s.is_zero() {
            prop_assert!(s.invert().is_zero());
        } else {
            prop_assert_eq!(s.mul(s.invert()), Scalar::ONE);
        }
    }

    #[test]
    fn a_scalar_is_its_two_halves(a in number()) {
        let scalar = Scalar::reduce(a);
        let (k1, k2) = scalar.split();
        let value = |half: super::scalar::Half| {
            let magnitude = Scalar::from_u128(half.magnitude);
            if half.negative { magnitude.neg() } else { magnitude }
        };
        prop_assert_eq!(value(k1).add(value(k2).mul(LAMBDA)), scalar);
        // What the bias of windows leaves room for.
        prop_assert!(k1.magnitude < u128::MAX / 100 * 64 && k2.magnitude < u128::MAX / 100 * 64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn points_add_as_those_of_libsecp256k1(a in number(), b in number()) {
        let nonzero = |v: [u64; 4]| {
            let s = Scalar::reduce(v);
            if s.is_zero() { Scalar::ONE } else { s }
        };
        on_every_backend!(point_formulas(nonzero(a), nonzero(b)));
        with_all_kernels!(meetings(nonzero(a)));
    }

    #[test]
    fn sums_are_those_of_the_scalars(
        secrets in prop::collection::vec(any::<[u64; 4]>(), 1..200),
        seed in any::<u128>(),
        bits in prop_oneof![Just(3u32), Just(5), Just(6), Just(7), Just(9), Just(10), Just(13)],
    ) {
        let secrets: Vec<Scalar> = secrets.into_iter().map(Scalar::reduce).collect();
        // Odd multiples of an odd number: spread over all bits, and at times with edges.
        let magnitudes: Vec<u128> = (0..secrets.len() as u128)
            .map(|i| if i % 17 == 3 { u128::MAX } else if i % 19 == 4 { 0 } else { (seed | 1).wrapping_mul(2 * i + 1) })
            .collect();
        with_all_kernels!(sums_of_points(&secrets, &magnitudes, bits));
    }
}

#[test]
fn the_endomorphism_turns_points_by_lambda() {
    let turned = by_library(LAMBDA).unwrap();
    assert_eq!(turned[..32], Fe(GENERATOR.x).mul(BETA).to_bytes());
    assert_eq!(turned[32..], Fe(GENERATOR.y).to_bytes());
    assert!(LibScalar::from_be_bytes(LAMBDA.to_bytes()).is_ok());
}

#[test]
fn windows_cover_all_bits_and_leave_room_for_the_bias() {
    for points in [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 100_000_000] {
        let windows = Windows::for_points(points);
        assert!(windows.bias() < 1 << 126, "{windows:?}");
    }
}
