//! Looking up users and groups by name.

use std::ffi::CString;
use std::io;

/// The initial space for the record of a user or a group. It is doubled while it is too small.
const RECORD_BYTES: usize = 1024;
/// The largest space that is tried for a record.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// Returns the number of a user. `None` if there is no user of this name (`getpwnam_r(3)`).
///
/// # Errors
/// The names cannot be looked up.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    look_up(name, |name, buffer| {
        let mut found = std::ptr::null_mut();
        // SAFETY: an all-zero record is valid, and everything lives through the call.
        unsafe {
            let mut record: libc::passwd = std::mem::zeroed();
            let (room, bytes) = (buffer.as_mut_ptr(), buffer.len());
            let error = libc::getpwnam_r(name.as_ptr(), &raw mut record, room, bytes, &raw mut found);
            (error, (!found.is_null()).then_some(record.pw_uid))
        }
    })
}

/// Returns the number of a group. `None` if there is no group of this name (`getgrnam_r(3)`).
///
/// # Errors
/// The names cannot be looked up.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    look_up(name, |name, buffer| {
        let mut found = std::ptr::null_mut();
        // SAFETY: an all-zero record is valid, and everything lives through the call.
        unsafe {
            let mut record: libc::group = std::mem::zeroed();
            let (room, bytes) = (buffer.as_mut_ptr(), buffer.len());
            let error = libc::getgrnam_r(name.as_ptr(), &raw mut record, room, bytes, &raw mut found);
            (error, (!found.is_null()).then_some(record.gr_gid))
        }
    })
}

fn look_up(
    name: &str,
    call: impl Fn(&CString, &mut [libc::c_char]) -> (libc::c_int, Option<u32>),
) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    let mut buffer = vec![0; RECORD_BYTES];
    loop {
        match call(&name, &mut buffer) {
            (0, found) => return Ok(found),
            (libc::ERANGE, _) if buffer.len() < RECORD_BYTES_MAX => buffer.resize(buffer.len() * 2, 0),
            // The errors that some systems return for an unknown name.
            (libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, _) => return Ok(None),
            (error, _) => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up() {
        assert_eq!((user_id("root").unwrap(), group_id("root").unwrap()), (Some(0), Some(0)));
        assert_eq!((user_id("no-such-name").unwrap(), group_id("no-such-name").unwrap()), (None, None));
    }
}
