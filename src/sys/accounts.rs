//! Users and groups: looking them up, and running as another user.
//!
//! *Owns*: nothing. *Runs on*: any thread; `run_as` on the main thread.

use std::ffi::{CStr, CString};
use std::io;
use std::ptr;

/// The initial space for the record of a user or a group. It is doubled while it is too small.
const RECORD_BYTES: usize = 1024;
/// The largest space that is tried for a record.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// The initial space for the groups of a user.
const GROUPS: usize = 64;
/// The most groups that a process can have on Linux (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The number of the user.
    pub user: u32,
    /// The number of the user's own group.
    pub group: u32,
    name: CString,
}

impl Account {
    /// Returns the user of a name. `None`: there is no such user (`getpwnam_r(3)`).
    ///
    /// # Errors
    /// The users cannot be looked up.
    pub fn named(name: &str) -> io::Result<Option<Self>> {
        let name = CString::new(name)?;
        // SAFETY: `look_up` gives pointers that live through the call.
        let call = |record, buffer, bytes, found| unsafe {
            libc::getpwnam_r(name.as_ptr(), record, buffer, bytes, found) //
        };
        look_up(call, Self::from_record)
    }

    /// Returns the user of a number. `None`: there is no such user (`getpwuid_r(3)`).
    ///
    /// # Errors
    /// The users cannot be looked up.
    pub fn numbered(user: u32) -> io::Result<Option<Self>> {
        // SAFETY: `look_up` gives pointers that live through the call.
        let call = |record, buffer, bytes, found| unsafe { libc::getpwuid_r(user, record, buffer, bytes, found) };
        look_up(call, Self::from_record)
    }

    fn from_record(record: &libc::passwd) -> Self {
        // SAFETY: the system has filled the record in, with a name that ends with a zero byte.
        let name = unsafe { CStr::from_ptr(record.pw_name) }.to_owned();
        Self { user: record.pw_uid, group: record.pw_gid, name }
    }

    /// Returns the name of the user.
    pub fn name(&self) -> String {
        self.name.to_string_lossy().into_owned()
    }

    /// Returns every group that the user is in, `group` among them (`getgrouplist(3)`).
    pub fn groups(&self, group: u32) -> Vec<u32> {
        let mut groups = vec![0; GROUPS];
        loop {
            let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
            // SAFETY: the array has `count` places, and all of it lives through the call.
            let all = unsafe { libc::getgrouplist(self.name.as_ptr(), group, groups.as_mut_ptr(), &raw mut count) };
            if all >= 0 || groups.len() >= GROUPS_MAX {
                groups.truncate(usize::try_from(count).unwrap_or(0));
                return groups;
            }
            groups.resize(groups.len() * 2, 0);
        }
    }
}

/// Returns the number of a user. `None`: there is no user of this name.
///
/// # Errors
/// The users cannot be looked up.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    Account::named(name).map(|found| found.map(|account| account.user))
}

/// Returns the number of a group. `None`: there is no group of this name (`getgrnam_r(3)`).
///
/// # Errors
/// The groups cannot be looked up.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    // SAFETY: `look_up` gives pointers that live through the call.
    let call = |record, buffer, bytes, found| unsafe {
        libc::getgrnam_r(name.as_ptr(), record, buffer, bytes, found) //
    };
    look_up(call, |record: &libc::group| record.gr_gid)
}

/// Calls a function of the kind of `getpwnam_r(3)` until its record has enough space, and reads the record.
fn look_up<R, T>(
    call: impl Fn(*mut R, *mut libc::c_char, usize, *mut *mut R) -> libc::c_int,
    read: impl Fn(&R) -> T,
) -> io::Result<Option<T>> {
    let mut buffer = vec![0; RECORD_BYTES];
    loop {
        let (mut record, mut found) = (std::mem::MaybeUninit::zeroed(), ptr::null_mut());
        match call(record.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) {
            0 if found.is_null() => return Ok(None),
            // SAFETY: the function has found a record, and has filled it in.
            0 => return Ok(Some(read(unsafe { record.assume_init_ref() }))),
            libc::ERANGE if buffer.len() < RECORD_BYTES_MAX => buffer.resize(buffer.len() * 2, 0),
            // The errors that some systems return for an unknown name.
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Returns the user and the group that this process runs as.
pub fn running_as() -> (u32, u32) {
    // SAFETY: these calls cannot fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Makes every thread of this process run as the user and the group, with `groups` as its other groups. The process
/// cannot become its old user again.
///
/// # Errors
/// The process has no right to do so.
pub fn run_as(user: u32, group: u32, groups: &[u32]) -> io::Result<()> {
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let mut at_end_of_parent: libc::c_int = 0;
    // SAFETY: system calls; the array and the number live through them. The C library does it for every thread.
    unsafe {
        libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut at_end_of_parent);
        check(libc::setgroups(groups.len(), groups.as_ptr()))?;
        check(libc::setresgid(group, group, group))?;
        check(libc::setresuid(user, user, user))?;
        // The kernel resets two properties when a process changes its user: the signal at the end of its parent, and
        // the right of its user to look into it, as a debugger or a sampling profiler does (prctl(2)).
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(at_end_of_parent.cast_unsigned()));
        libc::prctl(libc::PR_SET_DUMPABLE, 1 as libc::c_ulong);
    }
    Ok(())
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

    #[test]
    fn account_is_found_by_name_and_by_number() {
        let root = Account::named("root").unwrap().unwrap();
        assert_eq!((root.user, root.group), (0, 0));
        assert_eq!(Account::numbered(0).unwrap(), Some(root.clone()));
        assert_eq!(Account::numbered(4_000_000_000).unwrap(), None);
        assert!(root.groups(4711).contains(&4711));
    }
}
