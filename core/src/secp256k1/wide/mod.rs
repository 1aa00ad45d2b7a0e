//! Eight field elements, or eight scalars, side by side with AVX-512 IFMA.
//!
//! A number is five limbs of 52 bits, a limb of all eight lanes in one register. IFMA takes
//! the low 52 bits of two words, multiplies them, and adds the low or the high half of the
//! product to a third: exact as long as what goes in is below 2^52. So every value that these
//! types hold is *strict*: limbs 0 to 3 below 2^52, limb 4 below 2^49. The value itself is
//! then below 2^257, and stands for its remainder.
//!
//! # Safety
//! The methods are safe to call only where the instructions exist. Values of these types are
//! made and used nowhere but in [`crate::secp256k1::backends::Wide`], whose callers have seen
//! that the instructions are there; that is the reason every `SAFETY` in these files refers to.

mod elements;
mod limbs;
mod scalars;

pub(crate) use elements::Fe8;
pub(crate) use scalars::Scalar8;
