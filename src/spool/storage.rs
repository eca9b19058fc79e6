//! Temporary files: where they are made, how many bytes they hold together, and what happens if one cannot be written.
//!
//! *Owns*: the directory, the limit of all files together, and the number of open files. *Runs on*: any thread.
//! *Invariants*: a file has no name, so it disappears when it is closed, and no other process can open it. No byte is
//! written before it is counted. Its count is given back when its space is free again.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use thiserror::Error;

use super::background::start_background;
use super::ledger::{Ledger, SpaceWait};
use super::limits;
use crate::sys::{self, Waker, errno};
use crate::throttle::Throttle;

/// How often the log reports that files cannot be written, or that there is no room.
const COMPLAINTS_EVERY: Duration = Duration::from_secs(1);

/// The operations on files. Tests replace them.
pub trait Files: Send + Sync {
    /// Makes an empty file without a name.
    ///
    /// # Errors
    /// The system's error.
    fn create(&self, dir: &Path) -> io::Result<File> {
        tempfile::tempfile_in(dir)
    }

    /// Writes some of the bytes (pwrite(2)).
    ///
    /// # Errors
    /// The system's error.
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        file.write_at(bytes, at)
    }
}

/// The operations of the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemFiles;

impl Files for SystemFiles {}

/// The directory that the operator named is not usable.
#[derive(Debug, Error)]
#[error("--spool-dir must be a directory that can be written to, and {} is not: {}", dir.display(), sys::plain(.error))]
pub struct Unusable {
    dir: PathBuf,
    #[source]
    error: io::Error,
}

impl Unusable {
    /// Returns the message with the keyword argument's name, for a program that embeds the server.
    pub fn as_keyword(&self) -> String {
        self.to_string().replacen("--spool-dir", "spool_dir", 1)
    }
}

/// Why bytes were not stored in a file.
#[derive(Debug, Error)]
pub enum StoreError {
    /// All files together hold as many bytes as allowed, or too many files are open.
    #[error("temporary files hold as much as they may (--spool-total)")]
    NoRoom,
    /// The system returned an error.
    #[error("{}", sys::plain(.0))]
    Failed(#[from] io::Error),
}

impl StoreError {
    /// Returns whether it is a temporary lack (of space, quota, descriptors, memory).
    pub fn is_lack(&self) -> bool {
        match self {
            Self::NoRoom => true,
            Self::Failed(error) => is_lack(error),
        }
    }
}

fn is_lack(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            errno::ENOSPC
                | errno::EDQUOT
                | errno::EFBIG
                | errno::EMFILE
                | errno::ENFILE
                | errno::ENOMEM
                | errno::EAGAIN
        )
    )
}

/// The place and the limits of temporary files.
pub struct Storage {
    dir: PathBuf,
    files: Box<dyn Files>,
    ledger: Arc<Ledger>,
    /// The most bytes in all files together; 0: no file is made.
    total: u64,
    open: AtomicUsize,
    open_max: AtomicUsize,
    failures: Throttle,
    shortages: Throttle,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("dir", &self.dir).field("total", &self.total).finish_non_exhaustive()
    }
}

impl Storage {
    /// Opens the storage of a server: files in `dir`, at most `total` bytes in all of them together. `is_given` says
    /// that the operator named the directory.
    ///
    /// # Errors
    /// The operator named the directory, and no file can be made in it.
    pub fn open(dir: &Path, is_given: bool, total: Option<u64>) -> Result<Arc<Self>, Unusable> {
        let limit = match check(dir) {
            _ if total == Some(0) => 0,
            Ok(()) => limits::total(dir, total),
            Err(error) if is_given => return Err(error),
            Err(error) => {
                log::warn!(
                    "no temporary file can be made in {} ({}), so the server does without them: bodies above --request-buffer get 413, \
                     and applications wait for slow clients. Name another directory with --spool-dir",
                    dir.display(),
                    sys::plain(&error.error),
                );
                0
            }
        };
        if limit > 0
            && let Err(error) = start_background()
        {
            log::warn!(
                "cannot start the thread for temporary files, so connections wait for the disk: {}",
                sys::plain(&error)
            );
        }
        let ledger = dir.metadata().map_or_else(|_| Ledger::new(), |dir| Ledger::of_device(dir.dev()));
        Ok(Self::new(dir, limit, Box::new(SystemFiles), ledger))
    }

    /// Makes a storage that uses these operations on files. It shares its count of bytes with no other storage.
    pub fn with_files(dir: &Path, total: u64, files: Box<dyn Files>) -> Arc<Self> {
        Self::new(dir, total, files, Ledger::new())
    }

    fn new(dir: &Path, total: u64, files: Box<dyn Files>, ledger: Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.to_owned(),
            files,
            ledger,
            total,
            open: AtomicUsize::new(0),
            open_max: AtomicUsize::new(usize::MAX),
            failures: Throttle::new(COMPLAINTS_EVERY),
            shortages: Throttle::new(COMPLAINTS_EVERY),
        })
    }

    /// Returns the most bytes in all files together. 0 means that no file is made.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns how many bytes all files on this file system hold.
    pub fn used(&self) -> u64 {
        self.ledger.used()
    }

    /// Limits the number of files open at the same time.
    pub fn limit_open(&self, files_max: usize) {
        self.open_max.store(files_max, Ordering::Relaxed);
    }

    /// Begins to wait for room: see `Ledger::enter`.
    pub(super) fn enter(&self, waker: Waker, holds: bool) -> Option<SpaceWait> {
        self.ledger.enter(waker, holds)
    }

    /// Wakes the body that has waited longest, because memory has become free.
    pub(super) fn memory_is_free(&self) {
        self.ledger.wake_first();
    }

    /// Counts bytes that will be written. Returns `None` if there is no room.
    pub(super) fn count(self: &Arc<Self>, bytes: u64, wait: Option<&SpaceWait>) -> Option<Counted> {
        self.ledger
            .take(bytes, self.total, wait)
            .then(|| Counted { bytes: AtomicU64::new(bytes), storage: Arc::clone(self) })
    }

    /// Makes a file that may hold `counted` bytes.
    ///
    /// # Errors
    /// Too many files are open, or the system returned an error.
    pub(super) fn create(self: &Arc<Self>, counted: Counted) -> Result<SpoolFile, StoreError> {
        let before = self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(self));
        if before >= self.open_max.load(Ordering::Relaxed) {
            return Err(StoreError::NoRoom);
        }
        let file = self.files.create(&self.dir)?;
        Ok(SpoolFile { file, _open: open, counted })
    }

    /// Makes a file with room for `bytes`.
    ///
    /// # Errors
    /// There is no room, or the system returned an error.
    pub fn create_with_room(self: &Arc<Self>, bytes: u64) -> Result<SpoolFile, StoreError> {
        self.create(self.count(bytes, None).ok_or(StoreError::NoRoom)?)
    }

    /// Makes a file that holds all these bytes.
    ///
    /// # Errors
    /// There is no room, or the system returned an error.
    pub fn store(self: &Arc<Self>, bytes: &[u8]) -> Result<SpoolFile, StoreError> {
        let file = self.create_with_room(bytes.len() as u64)?;
        match file.write(bytes, 0) {
            Written { error: Some(error), .. } => Err(error.into()),
            Written { error: None, .. } => Ok(file),
        }
    }

    /// Logs that bytes were not stored, and the consequence, at most once a second.
    pub fn complain(&self, what: &str, error: &StoreError, consequence: &str) {
        let dir = self.dir.display();
        match error {
            StoreError::NoRoom => {
                if let Some(more) = self.shortages.pass() {
                    let total = self.total;
                    log::warn!("no room for {what} in {dir}: --spool-total is {total} bytes; {consequence}{more}");
                }
            }
            StoreError::Failed(error) => {
                if let Some(more) = self.failures.pass() {
                    log::error!("cannot store {what} in {dir}: {}; {consequence}{more}", sys::plain(error));
                }
            }
        }
    }
}

/// Checks that a file can be made in a directory. A temporary lack does not count as a failure.
///
/// # Errors
/// The directory is not usable.
pub fn check(dir: &Path) -> Result<(), Unusable> {
    match SystemFiles.create(dir) {
        Err(error) if !is_lack(&error) => Err(Unusable { dir: dir.to_owned(), error }),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Counts one open file.
struct Open(Arc<Storage>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.ledger.wake_first();
    }
}

/// A number of counted bytes. Dropping it gives them back.
pub struct Counted {
    bytes: AtomicU64,
    storage: Arc<Storage>,
}

impl Counted {
    /// Counts more bytes. Returns false if there is no room.
    pub(super) fn grow(&self, bytes: u64, wait: Option<&SpaceWait>) -> bool {
        let grown = self.storage.ledger.take(bytes, self.storage.total, wait);
        if grown {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        grown
    }

    fn shrink(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.storage.ledger.give_back(bytes);
    }

    /// Returns how many bytes are counted.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.storage.ledger.give_back(self.bytes());
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counted({})", self.bytes())
    }
}

/// The result of a write.
#[derive(Debug)]
pub struct Written {
    /// How many bytes were written, from the first one on.
    pub bytes: usize,
    /// Why not all bytes were written.
    pub error: Option<io::Error>,
}

/// One temporary file. Its space is freed only as a whole. Punching a hole into a file (fallocate(2)) zeroes memory
/// that sendfile(2) has lent to a socket, so clients on the same machine would read zeros.
/// The fields are dropped in order: the file is closed before its count is given back.
pub struct SpoolFile {
    file: File,
    _open: Open,
    counted: Counted,
}

impl fmt::Debug for SpoolFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolFile").field("file", &self.file).field("counted", &self.counted).finish_non_exhaustive()
    }
}

impl AsFd for SpoolFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl SpoolFile {
    /// Returns the file, whose position is undefined.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills the buffer from an offset.
    ///
    /// # Errors
    /// The system's error.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    /// Counts more bytes that will be written. Returns false if there is no room.
    pub fn make_room(&self, bytes: u64) -> bool {
        self.counted.grow(bytes, None)
    }

    /// Counts more bytes for a body that waits.
    pub(super) fn make_room_for(&self, bytes: u64, wait: Option<&SpaceWait>) -> bool {
        self.counted.grow(bytes, wait)
    }

    /// Gives unused room back.
    pub fn give_room_back(&self, bytes: u64) {
        self.counted.shrink(bytes);
    }

    /// Returns how many bytes are counted.
    pub(super) fn room(&self) -> u64 {
        self.counted.bytes()
    }

    /// Writes at an offset. The caller has counted the bytes.
    pub fn write(&self, bytes: &[u8], at: u64) -> Written {
        let mut done = 0;
        while let Some(left) = bytes.get(done..).filter(|left| !left.is_empty()) {
            match self.counted.storage.files.write_at(&self.file, left, at + done as u64) {
                Ok(0) => return Written { bytes: done, error: Some(io::ErrorKind::WriteZero.into()) },
                Ok(more) => done += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Written { bytes: done, error: Some(error) },
            }
        }
        Written { bytes: done, error: None }
    }
}
