//! Inverses modulo an odd number of at most 256 bits, in variable time: for public values only.
//!
//! The division steps of Bernstein and Yang, "Fast constant-time gcd computation and modular
//! inversion" (2019), in the variable-time arrangement that libsecp256k1 made known: 62 steps
//! are done on the lowest words alone and give a 2×2 matrix, which is then applied to the
//! whole numbers. Numbers are five limbs of 62 bits, the last one signed.

use crate::field::inverse_of_word;

const BITS: u32 = 62;
const MASK: u64 = (1 << BITS) - 1;

type Signed62 = [i64; 5];

/// An odd modulus and what the steps need of it.
pub(crate) struct Modulus {
    value: Signed62,
    /// The inverse of the modulus modulo 2^62.
    inverse62: u64,
}

/// One block of steps as a matrix (u v; q r), 2^62 times what it does to (f, g).
#[derive(Clone, Copy)]
struct Steps {
    u: i64,
    v: i64,
    q: i64,
    r: i64,
}

impl Modulus {
    pub(crate) const fn new(limbs: [u64; 4]) -> Self {
        Self {
            value: to_signed62(&limbs),
            inverse62: inverse_of_word(limbs[0]) & MASK,
        }
    }
}

const fn to_signed62(v: &[u64; 4]) -> Signed62 {
    [
        (v[0] & MASK) as i64,
        ((v[0] >> 62 | v[1] << 2) & MASK) as i64,
        ((v[1] >> 60 | v[2] << 4) & MASK) as i64,
        ((v[2] >> 58 | v[3] << 6) & MASK) as i64,
        (v[3] >> 56) as i64,
    ]
}

/// The limbs of a number that is not negative, each of its five limbs within 0 and 2^62.
const fn from_signed62(v: &Signed62) -> [u64; 4] {
    let v = [
        v[0] as u64,
        v[1] as u64,
        v[2] as u64,
        v[3] as u64,
        v[4] as u64,
    ];
    [
        v[0] | v[1] << 62,
        v[1] >> 2 | v[2] << 60,
        v[2] >> 4 | v[3] << 58,
        v[3] >> 6 | v[4] << 56,
    ]
}

/// 62 division steps on the lowest bits of f and g. `eta` is −δ of the paper.
fn divide_steps(mut eta: i64, f0: i64, g0: i64) -> (i64, Steps) {
    let (mut u, mut v, mut q, mut r) = (1u64, 0u64, 0u64, 1u64);
    let (mut f, mut g) = (f0 as u64, g0 as u64);
    let mut left = BITS;
    loop {
        // Zeros at the end of g are that many plain halvings, at most those left to do.
        let zeros = (g | u64::MAX << left).trailing_zeros();
        g >>= zeros;
        u <<= zeros;
        v <<= zeros;
        eta -= i64::from(zeros);
        left -= zeros;
        if left == 0 {
            break;
        }
        let w;
        if eta < 0 {
            eta = -eta;
            (f, g) = (g, f.wrapping_neg());
            (u, q) = (q, u.wrapping_neg());
            (v, r) = (r, v.wrapping_neg());
            // −g/f modulo 2^6: f·(f² − 2) is −1/f to six bits.
            let steps = (eta + 1).min(i64::from(left)) as u32;
            let mask = (u64::MAX >> (64 - steps)) & 63;
            w = f
                .wrapping_mul(g)
                .wrapping_mul(f.wrapping_mul(f).wrapping_sub(2))
                & mask;
        } else {
            // The same modulo 2^4, where fewer steps are allowed.
            let steps = (eta + 1).min(i64::from(left)) as u32;
            let mask = (u64::MAX >> (64 - steps)) & 15;
            let inverse = f.wrapping_add((f.wrapping_add(1) & 4) << 1);
            w = inverse.wrapping_neg().wrapping_mul(g) & mask;
        }
        g = g.wrapping_add(f.wrapping_mul(w));
        q = q.wrapping_add(u.wrapping_mul(w));
        r = r.wrapping_add(v.wrapping_mul(w));
    }
    let (u, v, q, r) = (u as i64, v as i64, q as i64, r as i64);
    (eta, Steps { u, v, q, r })
}

/// (d, e) ← matrix·(d, e) / 2^62 modulo the modulus; both stay within (−2m, m).
fn update_de(d: &mut Signed62, e: &mut Signed62, t: &Steps, m: &Modulus) {
    let wide = |a: i64, b: i64| i128::from(a) * i128::from(b);
    let (d_sign, e_sign) = (d[4] >> 63, e[4] >> 63);
    // Start with the modulus added as often as makes the results not too negative …
    let mut md = (t.u & d_sign) + (t.v & e_sign);
    let mut me = (t.q & d_sign) + (t.r & e_sign);
    let mut cd = wide(t.u, d[0]) + wide(t.v, e[0]);
    let mut ce = wide(t.q, d[0]) + wide(t.r, e[0]);
    // … and correct that so that the lowest 62 bits vanish.
    md -= ((m.inverse62.wrapping_mul(cd as u64).wrapping_add(md as u64)) & MASK) as i64;
    me -= ((m.inverse62.wrapping_mul(ce as u64).wrapping_add(me as u64)) & MASK) as i64;
    cd += wide(m.value[0], md);
    ce += wide(m.value[0], me);
    cd >>= BITS;
    ce >>= BITS;
    for i in 1..5 {
        cd += wide(t.u, d[i]) + wide(t.v, e[i]) + wide(m.value[i], md);
        ce += wide(t.q, d[i]) + wide(t.r, e[i]) + wide(m.value[i], me);
        d[i - 1] = (cd as u64 & MASK) as i64;
        e[i - 1] = (ce as u64 & MASK) as i64;
        cd >>= BITS;
        ce >>= BITS;
    }
    d[4] = cd as i64;
    e[4] = ce as i64;
}

/// (f, g) ← matrix·(f, g) / 2^62, exactly.
fn update_fg(length: usize, f: &mut Signed62, g: &mut Signed62, t: &Steps) {
    let wide = |a: i64, b: i64| i128::from(a) * i128::from(b);
    let mut cf = (wide(t.u, f[0]) + wide(t.v, g[0])) >> BITS;
    let mut cg = (wide(t.q, f[0]) + wide(t.r, g[0])) >> BITS;
    for i in 1..length {
        cf += wide(t.u, f[i]) + wide(t.v, g[i]);
        cg += wide(t.q, f[i]) + wide(t.r, g[i]);
        f[i - 1] = (cf as u64 & MASK) as i64;
        g[i - 1] = (cg as u64 & MASK) as i64;
        cf >>= BITS;
        cg >>= BITS;
    }
    f[length - 1] = cf as i64;
    g[length - 1] = cg as i64;
}

/// The value brought from (−2m, m) into [0, m), negated first if `negate`.
fn normalised(mut v: Signed62, negate: bool, m: &Modulus) -> Signed62 {
    let add_modulus_if_negative = |v: &mut Signed62| {
        if v[4] < 0 {
            for (limb, of_modulus) in v.iter_mut().zip(m.value) {
                *limb += of_modulus;
            }
        }
    };
    let carry = |v: &mut Signed62| {
        for i in 0..4 {
            v[i + 1] += v[i] >> BITS;
            v[i] = (v[i] as u64 & MASK) as i64;
        }
    };
    add_modulus_if_negative(&mut v);
    if negate {
        v.iter_mut().for_each(|limb| *limb = -*limb);
    }
    carry(&mut v);
    add_modulus_if_negative(&mut v);
    carry(&mut v);
    v
}

/// The inverse of x modulo m, for x below m; zero for zero.
pub(crate) fn invert_var(x: &[u64; 4], m: &Modulus) -> [u64; 4] {
    let (mut d, mut e) = ([0i64; 5], [1i64, 0, 0, 0, 0]);
    let (mut f, mut g) = (m.value, to_signed62(x));
    let mut length = 5;
    let mut eta = -1;
    loop {
        let (next, steps) = divide_steps(eta, f[0], g[0]);
        eta = next;
        update_de(&mut d, &mut e, &steps, m);
        update_fg(length, &mut f, &mut g, &steps);
        if g[..length].iter().all(|limb| *limb == 0) {
            break;
        }
        // Drop the top limb where both have but its sign there.
        let (top_f, top_g) = (f[length - 1], g[length - 1]);
        if length > 1 && (top_f == 0 || top_f == -1) && (top_g == 0 || top_g == -1) {
            f[length - 2] |= ((top_f as u64) << BITS) as i64;
            g[length - 2] |= ((top_g as u64) << BITS) as i64;
            length -= 1;
        }
    }
    from_signed62(&normalised(d, f[length - 1] < 0, m))
}

/// Numbers modulo a prime, for [`invert_each`].
pub(crate) trait Invertible: Copy {
    const ONE: Self;

    fn mul(self, other: Self) -> Self;
    fn is_zero(self) -> bool;
    /// The inverse; zero for zero.
    fn invert(self) -> Self;
}

/// `factor` over each of some values, by Montgomery's trick: one inversion and three products a
/// value. `before` is room for as many values. Says whether it could: if any value is zero, all
/// stay as they are.
#[inline(always)]
pub(crate) fn invert_each<T: Invertible>(values: &mut [T], before: &mut [T], factor: T) -> bool {
    let mut product = T::ONE;
    for (value, before) in values.iter().zip(before.iter_mut()) {
        *before = product;
        product = product.mul(*value);
    }
    if product.is_zero() {
        return false;
    }
    let mut inverse = product.invert().mul(factor);
    for (value, before) in values.iter_mut().zip(before.iter()).rev() {
        let own = inverse.mul(*before);
        inverse = inverse.mul(*value);
        *value = own;
    }
    true
}
