//! Opening a file below a directory.
//!
//! *Runs on*: the connection's coroutine, or the thread of a call. *Invariants*: the kernel opens a file below its
//! directory, and follows no symbolic link that leaves it. Opening waits for no other program.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};

use crate::sys;

/// A file that is open.
pub(super) struct Found {
    pub(super) file: File,
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
}

/// What a name stands for.
pub(super) enum Looked {
    File(Found),
    Directory,
    Missing,
}

/// Opens a directory, which may be a symbolic link.
///
/// # Errors
/// There is no such directory, or the process may not read it.
pub(super) fn open_directory(path: &Path) -> io::Result<Dir> {
    Dir::open_ambient_dir(path, ambient_authority())
}

/// Opens a file below a directory. Waits for no other program, as a named pipe would.
///
/// # Errors
/// The name leads out of the directory, or the process may not read the file.
pub(super) fn open(root: &Dir, name: &Path) -> io::Result<Looked> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(sys::OPEN_AT_ONCE);
    let file = match root.open_with(name, &options) {
        Ok(file) => file.into_std(),
        Err(error) => {
            let is_missing = matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
            );
            return if is_missing { Ok(Looked::Missing) } else { Err(error) };
        }
    };
    let known = file.metadata()?;
    if known.is_dir() {
        return Ok(Looked::Directory);
    }
    if !known.is_file() {
        return Ok(Looked::Missing);
    }
    Ok(Looked::File(Found { file, bytes: known.len(), modified: known.modified()? }))
}
