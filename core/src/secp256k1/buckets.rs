//! Pippenger's buckets: the sum of many multiples of points; see [`crate::secp256k1::sums`].

use crate::secp256k1::field::Fe;
use crate::secp256k1::group::{GENERATOR, Projective};
use crate::secp256k1::kernels::Kernels;
use crate::secp256k1::lanes::{FieldLanes, MAX_WIDTH, NEGATIVE, Pair};
use crate::secp256k1::sums::Meeting;

/// How many bits a digit has, and so how many windows 128 bits take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    bits: u32,
}

impl Windows {
    #[cfg(test)]
    pub(crate) const fn new(bits: u32) -> Self {
        assert!(2 <= bits && bits <= 16);
        Self { bits }
    }

    /// The bits that cost the least for so many points: about one sum a point and window,
    /// and some five for a bucket.
    pub(crate) fn for_points(points: usize) -> Self {
        let cost = |bits: u32| {
            let windows = Self { bits };
            windows.count() * (points + 5 * windows.buckets())
        };
        // A digit of 8 or 16 bits leaves the top window full, which magnitudes that are not
        // drawn at random, but have a bias added, would overflow.
        let bits = (4..16)
            .filter(|bits| 128 % bits != 0)
            .min_by_key(|bits| cost(*bits));
        Self {
            bits: bits.unwrap_or(5),
        }
    }

    pub(crate) const fn count(self) -> usize {
        128u32.div_ceil(self.bits) as usize
    }

    /// Digits are from −2^(bits−1) to 2^(bits−1) − 1.
    const fn buckets(self) -> usize {
        1 << (self.bits - 1)
    }

    /// What a number of 128 bits, cut into plain windows, is above the sum of its signed
    /// digits: half a window's range in every window but the last.
    pub(crate) const fn bias(self) -> u128 {
        let mut bias = 0;
        let mut window = 0;
        while window + 1 < self.count() {
            bias |= 1 << (window as u32 * self.bits + self.bits - 1);
            window += 1;
        }
        bias
    }

    /// The signed digit of a biased magnitude in a window.
    #[inline(always)]
    fn digit(self, biased: u128, window: usize) -> i32 {
        let cut = (biased >> (window as u32 * self.bits)) as u32 & ((1 << self.bits) - 1);
        if window + 1 == self.count() {
            cut as i32
        } else {
            cut as i32 - (1 << (self.bits - 1))
        }
    }
}

/// At least so many points are sorted at once: enough sums for one inversion.
const ENOUGH: usize = 16 * 1024;
/// Points of the arena that are always the same.
const FIXED: usize = 2;
/// What filling up registers may add to the sums of all passes.
const PADDING: usize = 32 * MAX_WIDTH;

/// The buckets of all windows, and room to work in, which is kept for the next batch.
pub(crate) struct Buckets<K: Kernels> {
    windows: Windows,
    /// Windows after windows.
    sums: Vec<Pair>,
    /// Two fixed points, the points of the chunk, the buckets' sums, then all partial sums.
    arena: Vec<Pair>,
    kept: Vec<K::Field>,
    ends: Vec<u32>,
    /// Places in the arena, those of a bucket side by side.
    sorted: Vec<u32>,
    left: Vec<u32>,
    right: Vec<u32>,
}

impl<K: Kernels> Buckets<K> {
    pub(crate) const fn new() -> Self {
        Self {
            windows: Windows { bits: 5 },
            sums: Vec::new(),
            arena: Vec::new(),
            kept: Vec::new(),
            ends: Vec::new(),
            sorted: Vec::new(),
            left: Vec::new(),
            right: Vec::new(),
        }
    }

    /// Empties the buckets and gives them windows.
    pub(crate) fn reset(&mut self, windows: Windows) {
        self.windows = windows;
        self.sums.clear();
        self.sums
            .resize(windows.count() * windows.buckets(), Pair::NONE);
    }

    /// Adds biased multiples of points: the sum of the signed digits of each, see
    /// [`Windows::bias`].
    ///
    /// # Errors
    /// [`Meeting`]; the buckets are then worthless.
    pub(crate) fn add(&mut self, points: &[Pair], biased: &[u128]) -> Result<(), Meeting> {
        let together = (ENOUGH / points.len().max(1)).clamp(1, self.windows.count());
        // The arena holds every point and bucket once, and as many sums as points are sorted.
        let sorted = together * (points.len() + self.windows.buckets());
        let most = FIXED + points.len() + together * self.windows.buckets() + sorted + PADDING;
        if self.arena.len() < most {
            self.arena.resize(most, Pair::NONE);
        }
        // The sum of these two fills registers up; they never meet.
        self.arena[0] = GENERATOR;
        self.arena[1] = twice_generator();
        self.arena[FIXED..FIXED + points.len()].copy_from_slice(points);
        let mut first = 0;
        while first < self.windows.count() {
            let last = (first + together).min(self.windows.count());
            self.add_in(biased, first, last)?;
            first = last;
        }
        Ok(())
    }

    /// Sorts the points that are in the arena by bucket, for some of the windows, by counting. A
    /// bucket's sum so far is one point more in it. Gives how much of the arena is used.
    fn sort(&mut self, biased: &[u128], first: usize, last: usize) -> usize {
        let windows = self.windows;
        let buckets = windows.buckets();
        let sums = &self.sums[first * buckets..last * buckets];
        let arena = &mut self.arena;
        let mut used = FIXED + biased.len();
        let ends = &mut self.ends;
        ends.clear();
        ends.resize(sums.len(), 0);
        for (count, sum) in ends.iter_mut().zip(sums.iter()) {
            *count = u32::from(!sum.is_none());
        }
        for window in first..last {
            let ends = &mut ends[(window - first) * buckets..(window - first + 1) * buckets];
            for biased in biased {
                let digit = windows.digit(*biased, window);
                if digit != 0 {
                    ends[digit.unsigned_abs() as usize - 1] += 1;
                }
            }
        }
        let mut total = 0;
        for end in ends.iter_mut() {
            total += *end;
            *end = total - *end;
        }
        let sorted = &mut self.sorted;
        if sorted.len() < total as usize {
            sorted.resize(total as usize, 0);
        }
        for (sum, end) in sums.iter().zip(ends.iter_mut()) {
            if !sum.is_none() {
                sorted[*end as usize] = used as u32;
                *end += 1;
                arena[used] = *sum;
                used += 1;
            }
        }
        for window in first..last {
            let ends = &mut ends[(window - first) * buckets..(window - first + 1) * buckets];
            for (at, biased) in biased.iter().enumerate() {
                let digit = windows.digit(*biased, window);
                if digit != 0 {
                    let end = &mut ends[digit.unsigned_abs() as usize - 1];
                    let sign = if digit < 0 { NEGATIVE } else { 0 };
                    sorted[*end as usize] = (FIXED + at) as u32 | sign;
                    *end += 1;
                }
            }
        }
        used
    }

    /// Adds the points that are in the arena, in some of the windows.
    fn add_in(&mut self, biased: &[u128], first: usize, last: usize) -> Result<(), Meeting> {
        let buckets = self.windows.buckets();
        let mut used = self.sort(biased, first, last);
        let sums = &mut self.sums[first * buckets..last * buckets];
        let (arena, ends, sorted) = (&mut self.arena, &mut self.ends, &mut self.sorted);

        // Pairs, then pairs of pairs, until each bucket has one point.
        loop {
            let (left, right) = (&mut self.left, &mut self.right);
            left.clear();
            right.clear();
            pair_up(ends, sorted, used as u32, left, right);
            if left.is_empty() {
                break;
            }
            while !left.len().is_multiple_of(K::Field::WIDTH) {
                left.push(0);
                right.push(1);
            }
            let (before, new) = arena.split_at_mut(used);
            K::add_pairs(before, left, right, new, &mut self.kept)?;
            used += left.len();
        }
        let mut from = 0;
        for (sum, end) in sums.iter_mut().zip(ends.iter()) {
            if *end > from {
                let at = sorted[from as usize];
                *sum = arena[(at & !NEGATIVE) as usize];
                if at & NEGATIVE != 0 {
                    sum.y = Fe(sum.y).neg().0;
                }
            }
            from = *end;
        }
        Ok(())
    }

    /// The sum of all that was added.
    pub(crate) fn total(&self) -> Projective<Fe> {
        let buckets = self.windows.buckets();
        // A window is cut into parts for the lanes where it is long.
        let parts = if buckets > 32 { K::Field::WIDTH } else { 1 };
        let length = buckets / parts;
        let parted = K::running_sums(&self.sums, length);
        let mut total = Projective::<Fe>::infinity();
        for window in (0..self.windows.count()).rev() {
            for _ in 0..self.windows.bits {
                total = total.double();
            }
            // Part p stands `p·length` higher than its own running sums know.
            let parted = &parted[window * parts..(window + 1) * parts];
            let mut above = Projective::<Fe>::infinity();
            let mut steps = Projective::<Fe>::infinity();
            for (sum, _) in parted.iter().skip(1).rev() {
                above = above.add(*sum);
                steps = steps.add(above);
            }
            for _ in 0..length.ilog2() {
                steps = steps.double();
            }
            total = total.add(steps);
            for (_, weighted) in parted {
                total = total.add(*weighted);
            }
        }
        total
    }
}

/// Of each bucket's points, pairs to be added; their sums, to come from place `next` on, take their
/// place, and one that is left over stays.
#[inline(always)]
fn pair_up(
    ends: &mut [u32],
    sorted: &mut [u32],
    next: u32,
    left: &mut Vec<u32>,
    right: &mut Vec<u32>,
) {
    let (mut from, mut to) = (0, 0);
    for end in ends {
        let until = *end as usize;
        while from + 1 < until {
            let sum = next + left.len() as u32;
            left.push(sorted[from]);
            right.push(sorted[from + 1]);
            sorted[to] = sum;
            from += 2;
            to += 1;
        }
        if from < until {
            sorted[to] = sorted[from];
            from += 1;
            to += 1;
        }
        *end = to as u32;
    }
}

fn twice_generator() -> Pair {
    static TWICE: std::sync::LazyLock<Pair> = std::sync::LazyLock::new(|| {
        let once = Projective::affine(Fe(GENERATOR.x), Fe(GENERATOR.y));
        once.double().to_affine().unwrap_or(Pair::NONE)
    });
    *TWICE
}
