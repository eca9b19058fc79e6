//! The open file of a log.
//!
//! *Owns*: the descriptor, and the list of the files that can be opened again. *Runs on*: the writer's thread writes; a
//! forked child writes by itself; any plain thread opens the files again. *Invariants*: a write leaves nothing out, even
//! if other code has made the descriptor non-blocking. A log keeps its descriptor's number when its file is opened again,
//! so that a writer needs no lock, and Python's fault handler may use the number.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crate::sys::{self, Lock};

/// How long the thread sleeps if a descriptor is non-blocking and full.
const FULL_WAIT: Duration = Duration::from_millis(20);

/// An open log.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    /// The absolute path. `None` if the log is not a file that this process has opened.
    path: Option<PathBuf>,
    /// Whether the standard output and the standard error refer to the same file.
    has_output: AtomicBool,
}

/// The user and the group that log files are given to.
static OWNER: Lock<Option<(u32, u32)>> = Lock::new(None);

/// The log files that this process has opened.
static FILES: Lock<Vec<Weak<Sink>>> = Lock::new(Vec::new());

impl Sink {
    /// Opens a file for appending, and creates it if it does not exist.
    pub(super) fn open(path: &Path) -> io::Result<Arc<Self>> {
        // The application may change the working directory before the file is opened again.
        let path = std::path::absolute(path)?;
        let sink =
            Arc::new(Self { file: open_to_append(&path)?, path: Some(path), has_output: AtomicBool::new(false) });
        let mut files = FILES.lock();
        files.retain(|file| file.strong_count() > 0);
        files.push(Arc::downgrade(&sink));
        Ok(sink)
    }

    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self::from_fd(io::stdout().as_fd().try_clone_to_owned()?))
    }

    pub(super) fn stderr() -> io::Result<Self> {
        Ok(Self::from_fd(io::stderr().as_fd().try_clone_to_owned()?))
    }

    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self { file: File::from(fd), path: None, has_output: AtomicBool::new(false) }
    }

    /// Returns the descriptor, if the log is a file that this process has opened.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.path.is_some().then(|| self.file.as_fd())
    }

    /// Makes the standard output and the standard error refer to the log's file, also after the file has been opened
    /// again. Does nothing if the log is no file that this process has opened.
    pub(super) fn capture_output(&self) -> io::Result<()> {
        if self.path.is_none() {
            return Ok(());
        }
        self.has_output.store(true, Ordering::SeqCst);
        replace_output(self.file.as_fd())
    }

    /// Opens the file again under the same descriptor. If that fails, lines go on to the old file.
    fn reopen(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let new = open_to_append(path)?;
        // A process without the right to do so has made the file itself, or root has made it for the process.
        let _ = OWNER.lock().map_or(Ok(()), |owner| give_to(&new, owner));
        if self.has_output.load(Ordering::SeqCst) {
            replace_output(new.as_fd())?;
        }
        sys::replace_descriptor(self.file.as_fd(), new.as_fd())
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

fn replace_output(by: BorrowedFd<'_>) -> io::Result<()> {
    sys::replace_descriptor(io::stdout().as_fd(), by)?;
    sys::replace_descriptor(io::stderr().as_fd(), by)
}

/// Opens a file for appending. (`OpenOptions` sets `O_CLOEXEC` itself.)
fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Opens every log file of this process again. Returns the paths of the files that could not be opened, and why.
pub(super) fn reopen_all() -> Vec<(PathBuf, io::Error)> {
    let files: Vec<_> = FILES.lock().iter().filter_map(Weak::upgrade).collect();
    let failed = files.iter().filter_map(|file| Some((file.path.clone()?, file.reopen().err()?)));
    failed.collect()
}

/// Gives every log file of this process to a user and a group, and each that is opened again. Returns the paths of the
/// files whose owner could not be changed, and why.
pub(super) fn give_all_to(user: u32, group: u32) -> Vec<(PathBuf, io::Error)> {
    *OWNER.lock() = Some((user, group));
    let files: Vec<_> = FILES.lock().iter().filter_map(Weak::upgrade).collect();
    let failed = files.iter().filter_map(|file| Some((file.path.clone()?, give_to(&file.file, (user, group)).err()?)));
    failed.collect()
}

/// Changes the owner of a regular file. Leaves a device and a pipe alone.
fn give_to(file: &File, (user, group): (u32, u32)) -> io::Result<()> {
    let is_theirs = |found: &fs::Metadata| (found.uid(), found.gid()) == (user, group);
    match file.metadata()? {
        found if !found.is_file() || is_theirs(&found) => Ok(()),
        _ => fchown(file, Some(user), Some(group)),
    }
}
