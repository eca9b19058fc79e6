//! System calls on file systems.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The space of a file system (statfs(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The free bytes that an unprivileged process can use.
    pub available: u64,
    /// Whether its files are kept in memory: tmpfs or ramfs.
    pub is_memory: bool,
}

/// `RAMFS_MAGIC` of linux/magic.h.
const RAMFS: i64 = 0x8584_58f6;

/// The flags with which open(2) waits for no other program, as it does at a named pipe, and takes no terminal.
pub const OPEN_AT_ONCE: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;

/// Opens the file at a path, which may be a socket, without following a symbolic link. The returned file can only be
/// used to read its metadata and as `/proc/self/fd/N` (`O_PATH`, open(2)).
///
/// # Errors
/// There is no such path, or the process may not search one of its directories.
pub fn open_itself(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// Returns the path of an open file, for a log line. If the file has been removed, ` (deleted)` follows the path (proc(5)).
/// `None`: it has no path, or `/proc` is not mounted.
pub fn path_of(file: &impl AsFd) -> Option<PathBuf> {
    let number = file.as_fd().as_raw_fd();
    std::fs::read_link(format!("/proc/self/fd/{number}")).ok().filter(|path| path.is_absolute())
}

/// Returns the space of the file system that contains a directory.
///
/// # Errors
/// The directory does not exist or cannot be reached.
pub fn space_of(dir: &Path) -> io::Result<Space> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: an all-zero structure is valid memory for the call, and the path ends with a zero byte.
    let (result, found) = unsafe {
        let mut found: libc::statfs = std::mem::zeroed();
        (libc::statfs(path.as_ptr(), &raw mut found), found)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless, reason = "the fields' types differ between platforms")]
    let (block, kind) = (found.f_bsize as i64, found.f_type as i64);
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless, reason = "as above")]
    let is_memory = kind == libc::TMPFS_MAGIC as i64 || kind == RAMFS;
    Ok(Space { available: found.f_bavail.saturating_mul(u64::try_from(block).unwrap_or(0)), is_memory })
}

/// Locks an open file for this process, until the file is closed (flock(2)). Returns whether no other process has it
/// locked.
///
/// # Errors
/// The file system has no locks.
pub fn lock_file(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        error => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn path_is_that_of_an_open_file_and_says_when_it_has_gone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().canonicalize().unwrap();
        assert_eq!(path_of(file.as_file()), Some(path.clone()));
        let (open, _) = file.into_parts();
        assert_eq!(path_of(&open), Some(format!("{} (deleted)", path.display()).into()));
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(path_of(&reader), None, "a pipe has no path");
    }
}
