//! Writing to where the caller said, and never through a null pointer.

use std::ffi::{CStr, c_char, c_uint};

use crate::{Done, Return};

/// # Safety
/// `to` is null or may be written through.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Done {
    if to.is_null() {
        return Err(Return::InvalidArgument);
    }
    // SAFETY: it is not null, and the caller vouches for it.
    unsafe { to.write(value) };
    Ok(())
}

/// # Safety
/// `from` is null or points to a value.
pub(crate) unsafe fn read<T: Copy>(from: *const T) -> Result<T, Return> {
    if from.is_null() {
        return Err(Return::InvalidArgument);
    }
    // SAFETY: it is not null, and the caller vouches for it.
    Ok(unsafe { from.read() })
}

/// Writes values one behind the other.
///
/// # Safety
/// `to` is null or has room for all of them.
pub(crate) unsafe fn put_each<T>(to: *mut T, values: impl Iterator<Item = T>) -> Done {
    for (position, value) in values.enumerate() {
        if to.is_null() {
            return Err(Return::InvalidArgument);
        }
        // SAFETY: there is room for all of them.
        unsafe { to.add(position).write(value) };
    }
    Ok(())
}

/// Writes a text with its end.
///
/// # Safety
/// `to` is null or has room for `length` bytes.
pub(crate) unsafe fn put_text(to: *mut c_char, length: c_uint, text: &str) -> Done {
    if text.len() >= length as usize {
        return Err(Return::InsufficientSize);
    }
    let bytes = text.bytes().chain([0]).map(u8::cast_signed);
    // SAFETY: with its end the text is no longer than there is room for. Where
    // characters have no sign in C, their bits are the same.
    unsafe { put_each(to.cast::<i8>(), bytes) }
}

/// # Safety
/// `text` is null or a text with its end.
pub(crate) unsafe fn text_at(text: *const c_char) -> Result<String, Return> {
    if text.is_null() {
        return Err(Return::InvalidArgument);
    }
    // SAFETY: it is not null, and the caller vouches for its end.
    let text = unsafe { CStr::from_ptr(text) };
    Ok(text.to_string_lossy().into_owned())
}
