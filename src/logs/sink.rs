//! The open file of a log.
//!
//! *Owns*: the descriptor. *Runs on*: the writer's thread writes; a forked child writes by itself. *Invariants*: a write
//! leaves nothing out, even if other code has made the descriptor non-blocking.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How long the thread sleeps if a descriptor is non-blocking and full.
const FULL_WAIT: Duration = Duration::from_millis(20);

/// An open log.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
}

impl Sink {
    /// Opens a file for appending, and creates it if it does not exist. (`File` sets `O_CLOEXEC` itself.)
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().append(true).create(true).open(path)? })
    }

    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self::from_fd(io::stdout().as_fd().try_clone_to_owned()?))
    }

    pub(super) fn stderr() -> io::Result<Self> {
        Ok(Self::from_fd(io::stderr().as_fd().try_clone_to_owned()?))
    }

    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self { file: File::from(fd) }
    }

    /// Writes all of `bytes`, even if other code has made the descriptor non-blocking.
    pub(super) fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&self.file).write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_WAIT),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
