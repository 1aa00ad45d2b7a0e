//! The caller's memory: pointers and counts are checked before anything is read or written.

use super::codes::Code;

/// What a caller points to, as a slice that is valid for as long as the call runs.
///
/// # Errors
/// `Pointer` if it is NULL or misaligned and `count` is not 0; `Overflow` if no object has as
/// many bytes.
///
/// # Safety
/// If it is not NULL and aligned, it points to `count` values of `T`, initialised and valid,
/// that nobody writes to for as long as `'a` lasts.
pub(super) unsafe fn input<'a, T>(pointer: *const T, count: usize) -> Result<&'a [T], Code> {
    if count == 0 {
        return Ok(&[]);
    }
    check(pointer, count)?;
    // SAFETY: not NULL, aligned, and of a size that an object can have, as just checked; that
    // as many valid values are there and stay as they are is the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts(pointer, count) })
}

/// As [`input`], for exactly one value.
///
/// # Errors
/// `Pointer` if it is NULL or misaligned.
///
/// # Safety
/// As [`input`] with `count` 1.
pub(super) unsafe fn one<'a, T>(pointer: *const T) -> Result<&'a T, Code> {
    check(pointer, 1)?;
    // SAFETY: not NULL and aligned, as just checked; that a valid value is there and stays as
    // it is is the caller's promise.
    Ok(unsafe { &*pointer })
}

/// As [`input`], for what may be left out: `None` if it is NULL.
///
/// # Errors
/// As [`input`].
///
/// # Safety
/// As [`input`].
pub(super) unsafe fn optional<'a, T>(
    pointer: *const T,
    count: usize,
) -> Result<Option<&'a [T]>, Code> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise is the same.
    unsafe { input(pointer, count) }.map(Some)
}

/// Where a result goes. Nothing is read there, and no reference to it is ever made, so it may
/// be uninitialised.
pub(super) struct Output<T> {
    pointer: *mut T,
    room: usize,
}

impl<T: Copy> Output<T> {
    /// Room for some values; none is needed where `room` is 0.
    ///
    /// # Errors
    /// As [`input`].
    ///
    /// # Safety
    /// If it is not NULL and aligned, `room` values of `T` may be written there for as long as
    /// this output lives.
    pub(super) unsafe fn new(pointer: *mut T, room: usize) -> Result<Self, Code> {
        if room > 0 {
            check(pointer, room)?;
        }
        Ok(Self { pointer, room })
    }

    /// As [`Output::new`], for what may be left out: `None` if it is NULL.
    ///
    /// # Errors
    /// As [`input`].
    ///
    /// # Safety
    /// As [`Output::new`].
    pub(super) unsafe fn optional(pointer: *mut T, room: usize) -> Result<Option<Self>, Code> {
        if pointer.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's promise is the same.
        unsafe { Self::new(pointer, room) }.map(Some)
    }

    /// How many values there is room for.
    pub(super) const fn room(&self) -> usize {
        self.room
    }

    /// Writes values from the start on.
    ///
    /// # Panics
    /// If there are more than there is room for.
    pub(super) fn write(&self, values: &[T]) {
        assert!(values.len() <= self.room, "more output than there is room");
        if !values.is_empty() {
            // SAFETY: there is room for them, as just asserted, so the pointer was found not
            // NULL and aligned, and the caller promised that it may be written to. `values`
            // is our own memory and cannot overlap the caller's.
            unsafe { core::ptr::copy_nonoverlapping(values.as_ptr(), self.pointer, values.len()) }
        }
    }
}

fn check<T>(pointer: *const T, count: usize) -> Result<(), Code> {
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(Code::Pointer);
    }
    let bytes = count.checked_mul(size_of::<T>()).ok_or(Code::Overflow)?;
    // What Rust asks of a slice: at most isize::MAX bytes, and not past the address space.
    if bytes > isize::MAX as usize || pointer.addr().checked_add(bytes).is_none() {
        return Err(Code::Overflow);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_needs_no_pointer_and_something_does() {
        // SAFETY: NULL, which is refused or not looked at.
        unsafe {
            assert_eq!(input::<u64>(core::ptr::null(), 0), Ok(&[][..]));
            assert_eq!(input::<u64>(core::ptr::null(), 1), Err(Code::Pointer));
            assert_eq!(one::<u64>(core::ptr::null()), Err(Code::Pointer));
            assert_eq!(optional::<u64>(core::ptr::null(), 5), Ok(None));
            assert!(Output::<u64>::new(core::ptr::null_mut(), 0).is_ok());
            assert!(Output::<u64>::new(core::ptr::null_mut(), 1).is_err());
            assert!(matches!(
                Output::<u64>::optional(core::ptr::null_mut(), 1),
                Ok(None)
            ));
        }
    }

    #[test]
    fn a_misaligned_pointer_is_refused() {
        let numbers = [0u64; 2];
        let odd = numbers.as_ptr().wrapping_byte_add(1);
        // SAFETY: misaligned, which is refused.
        unsafe {
            assert_eq!(input(odd, 1), Err(Code::Pointer));
            assert_eq!(one(odd), Err(Code::Pointer));
        }
    }

    #[test]
    fn a_count_that_no_object_has_is_refused() {
        let numbers = [0u64; 2];
        for count in [usize::MAX, usize::MAX / 8 + 1, isize::MAX as usize / 8 + 1] {
            // SAFETY: too many, which is refused.
            let refused = unsafe { input(numbers.as_ptr(), count) };
            assert_eq!(refused, Err(Code::Overflow));
        }
        let last = core::ptr::without_provenance::<u8>(usize::MAX - 1);
        // SAFETY: past the end of the address space, which is refused.
        assert_eq!(unsafe { input(last, 2) }, Err(Code::Overflow));
    }
}
