//! What a caller gives a function of the C face: memory with canaries around what may be
//! written, and pointers and counts of which some are not as they must be.

use std::cell::Cell;

use _core::c::Code;
use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// What is in memory that nothing was written to.
const CANARY: u8 = 0xa5;
/// The bytes before and after what may be written to.
const GUARD: usize = 64;

/// What is wrong with an argument.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum How {
    Null,
    Misaligned,
    Everything,
    Half,
}

/// Which arguments of a call are wrong, counted from its first.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Wrong([Option<(u8, How)>; 2]);

/// The arguments of one call, one after the other, and what they alone must be refused for.
#[derive(Debug)]
pub(crate) struct Arguments {
    wrong: Wrong,
    next: Cell<u8>,
    pointer: Cell<bool>,
    overflow: Cell<bool>,
}

impl Arguments {
    pub(crate) fn new(wrong: Wrong) -> Self {
        Self {
            wrong,
            next: Cell::new(0),
            pointer: Cell::new(false),
            overflow: Cell::new(false),
        }
    }

    fn how(&self) -> Option<How> {
        let place = self.next.replace(self.next.get() + 1);
        let mut wrong = self.wrong.0.iter().flatten();
        wrong.find_map(|(at, how)| (at % 16 == place).then_some(*how))
    }

    /// A count, or one of which no object has the bytes.
    pub(crate) fn count(&self, right: usize) -> usize {
        match self.how() {
            Some(How::Everything) => usize::MAX,
            Some(How::Half) => isize::MAX as usize + 1,
            _ => right,
        }
    }

    /// A pointer to as many values as a count says, which may be NULL only if that is 0.
    pub(crate) fn needed<T>(&self, right: *const T, count: usize) -> *const T {
        let how = self.how();
        self.judged(right, count, how)
    }

    /// A pointer that may be NULL.
    pub(crate) fn optional<T>(&self, right: *const T, count: usize) -> *const T {
        match self.how() {
            _ if right.is_null() => right,
            Some(How::Null) => core::ptr::null(),
            how => self.judged(right, count, how),
        }
    }

    fn judged<T>(&self, right: *const T, count: usize, how: Option<How>) -> *const T {
        let given = match how {
            Some(How::Null) => core::ptr::null(),
            Some(How::Misaligned) if align_of::<T>() > 1 => right.wrapping_byte_add(1),
            _ => right,
        };
        if count > 0 && (given.is_null() || !given.is_aligned()) {
            self.pointer.set(true);
        }
        if count > isize::MAX as usize / size_of::<T>() {
            self.overflow.set(true);
        }
        given
    }

    /// Whether nothing may be judged; and if so, whether the code says why.
    ///
    /// # Panics
    /// If the code says that something was judged, or something else.
    pub(crate) fn refused(&self, code: i32) -> bool {
        self.refused_with([], code)
    }

    /// As [`Arguments::refused`], with the arguments that some of these point to.
    pub(crate) fn refused_with<'a>(
        &'a self,
        inner: impl IntoIterator<Item = &'a Self>,
        code: i32,
    ) -> bool {
        let (mut pointer, mut overflow) = (self.pointer.get(), self.overflow.get());
        for inner in inner {
            pointer |= inner.pointer.get();
            overflow |= inner.overflow.get();
        }
        let right = if pointer || overflow {
            pointer && code == Code::Pointer.number() || overflow && code == Code::Overflow.number()
        } else {
            code != Code::Pointer.number() && code != Code::Overflow.number()
        };
        assert!(
            right,
            "code {code}; a pointer is wrong: {pointer}, a count: {overflow}"
        );
        pointer || overflow
    }
}

/// Memory for an output, with canaries in it and around it.
#[derive(Debug)]
pub(crate) struct Room {
    /// Numbers, so that the output is aligned for them.
    words: Vec<u64>,
    bytes: usize,
}

impl Room {
    /// Room for some values of a type that needs no more than 8 bytes' alignment.
    pub(crate) fn of<T>(count: usize) -> Self {
        const { assert!(align_of::<T>() <= align_of::<u64>()) };
        let bytes = count * size_of::<T>();
        let words = (2 * GUARD + bytes).div_ceil(8);
        Self {
            words: vec![u64::from_ne_bytes([CANARY; 8]); words],
            bytes,
        }
    }

    pub(crate) fn pointer<T>(&mut self) -> *mut T {
        self.words[GUARD / 8..].as_mut_ptr().cast()
    }

    fn all(&self) -> Vec<u8> {
        self.words
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect()
    }

    /// What is in it.
    ///
    /// # Panics
    /// If something was written around it.
    pub(crate) fn written(&self) -> Vec<u8> {
        let all = self.all();
        let (before, rest) = all.split_at(GUARD);
        let (written, after) = rest.split_at(self.bytes);
        let whole = |guard: &[u8]| guard.iter().all(|byte| *byte == CANARY);
        assert!(whole(before) && whole(after), "written out of bounds");
        written.to_vec()
    }

    /// Whether nothing was written to it.
    ///
    /// # Panics
    /// If something was.
    pub(crate) fn is_untouched(&self) {
        assert!(self.all().iter().all(|byte| *byte == CANARY), "written to");
    }

    /// Whether just these bytes were written, from its start on.
    ///
    /// # Panics
    /// If not.
    pub(crate) fn holds(&self, expected: &[u8]) {
        let written = self.written();
        let (written, rest) = written.split_at(expected.len());
        assert_eq!(written, expected, "an output is not what the core gives");
        assert!(
            rest.iter().all(|byte| *byte == CANARY),
            "more was written than there is"
        );
    }
}
