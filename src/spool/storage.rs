//! Temporary files: where they are made, how many bytes they hold together, and what follows if one cannot be written.
//!
//! *Owns*: the directory, the limit of all files together, and the number of open files. *Runs on*: any thread.
//! *Invariants*: a file has no name, so that it disappears when it is closed and no other process can open it. No byte
//! is written before it is counted, and it is given back when its space is free again.

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
use super::ledger::{Ledger, Place};
use super::limits;
use crate::sys::{self, Waker};
use crate::throttle::Throttle;

/// How often the log says that files cannot be written, and that there is no room for more.
const COMPLAINTS_EVERY: Duration = Duration::from_secs(1);

/// What is done to files. Tests put others in its place.
pub trait Files: Send + Sync {
    /// Makes an empty file without a name.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, dir: &Path) -> io::Result<File> {
        tempfile::tempfile_in(dir)
    }

    /// Writes some of the bytes (pwrite(2)).
    ///
    /// # Errors
    /// The system's.
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        file.write_at(bytes, at)
    }
}

/// The system's files.
#[derive(Debug, Clone, Copy)]
pub struct SystemFiles;

impl Files for SystemFiles {}

/// The directory that the operator named cannot be used.
#[derive(Debug, Error)]
#[error("--spool-dir must be a directory that can be written to, and {} is not: {}", dir.display(), sys::plain(.error))]
pub struct Unusable {
    dir: PathBuf,
    #[source]
    error: io::Error,
}

impl Unusable {
    /// The same for a program, which gave the directory as a keyword.
    pub fn as_keyword(&self) -> String {
        self.to_string().replacen("--spool-dir", "spool_dir", 1)
    }
}

/// Why bytes are not in a file.
#[derive(Debug, Error)]
pub enum StoreError {
    /// All files together hold as much as they may, or there are as many as there may be.
    #[error("temporary files hold as much as they may (--spool-total)")]
    NoRoom,
    /// The system refused.
    #[error("{}", sys::plain(.0))]
    Failed(#[from] io::Error),
}

impl StoreError {
    /// Whether it is a lack (of space, quota, descriptors, memory) that can pass by itself.
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
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN)
    )
}

/// Where temporary files are made, and within which limits.
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
    /// The storage that a server uses: files in `dir`, `total` bytes in all of them together. `is_given`: the operator
    /// named the directory.
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
                    "no temporary file can be made in {} ({}): serving without. Bodies above --request-buffer get 413, \
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
        Ok(Self::with_files(dir, limit, Box::new(SystemFiles)))
    }

    /// A storage that does these operations on files.
    pub fn with_files(dir: &Path, total: u64, files: Box<dyn Files>) -> Arc<Self> {
        let ledger = dir.metadata().map_or_else(|_| Ledger::new(), |dir| Ledger::of_device(dir.dev()));
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

    /// The most bytes in all files together; 0: no file is made.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many bytes all files on this file system hold.
    pub fn used(&self) -> u64 {
        self.ledger.used()
    }

    /// Lets at most that many files be open at the same time.
    pub fn limit_open(&self, files_max: usize) {
        self.open_max.store(files_max, Ordering::Relaxed);
    }

    /// Gets in line for room: see `Ledger::enter`.
    pub(super) fn enter(&self, waker: Waker, holds: bool) -> Option<Place> {
        self.ledger.enter(waker, holds)
    }

    /// Memory has become free, which the first in line may wait for.
    pub(super) fn memory_is_free(&self) {
        self.ledger.wake_first();
    }

    /// Counts bytes that are going to be written.
    pub(super) fn count(self: &Arc<Self>, bytes: u64, place: Option<&Place>) -> Option<Counted> {
        self.ledger
            .take(bytes, self.total, place)
            .then(|| Counted { bytes: AtomicU64::new(bytes), storage: Arc::clone(self) })
    }

    /// A new file that may hold `counted`.
    ///
    /// # Errors
    /// There is no room for one more, or the system refused.
    pub(super) fn create(self: &Arc<Self>, counted: Counted) -> Result<SpoolFile, StoreError> {
        let before = self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(self));
        if before >= self.open_max.load(Ordering::Relaxed) {
            return Err(StoreError::NoRoom);
        }
        let file = self.files.create(&self.dir)?;
        Ok(SpoolFile { file, _open: open, counted })
    }

    /// A new file with room for `bytes`.
    ///
    /// # Errors
    /// There is no room, or the system refused.
    pub fn create_with_room(self: &Arc<Self>, bytes: u64) -> Result<SpoolFile, StoreError> {
        self.create(self.count(bytes, None).ok_or(StoreError::NoRoom)?)
    }

    /// A file that holds all these bytes.
    ///
    /// # Errors
    /// There is no room, or the system refused.
    pub fn store(self: &Arc<Self>, bytes: &[u8]) -> Result<SpoolFile, StoreError> {
        let file = self.create_with_room(bytes.len() as u64)?;
        match file.write(bytes, 0) {
            Written { error: Some(error), .. } => Err(error.into()),
            Written { error: None, .. } => Ok(file),
        }
    }

    /// Writes to the log that something is not in a file, and what follows from that; once a second at most.
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

/// Whether a file can be made there. A lack that can pass by itself is no reason to do without.
///
/// # Errors
/// The directory cannot be used.
pub fn check(dir: &Path) -> Result<(), Unusable> {
    match SystemFiles.create(dir) {
        Err(error) if !is_lack(&error) => Err(Unusable { dir: dir.to_owned(), error }),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Counts an open file.
struct Open(Arc<Storage>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.ledger.wake_first();
    }
}

/// Bytes that are counted, and given back when this goes.
pub struct Counted {
    bytes: AtomicU64,
    storage: Arc<Storage>,
}

impl Counted {
    /// Counts more. Returns false if there is no room.
    pub(super) fn grow(&self, bytes: u64, place: Option<&Place>) -> bool {
        let grown = self.storage.ledger.take(bytes, self.storage.total, place);
        if grown {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        grown
    }

    fn shrink(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.storage.ledger.give_back(bytes);
    }

    /// How much is counted.
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

/// How far writing came.
#[derive(Debug)]
pub struct Written {
    /// This number of bytes is in the file, from the beginning.
    pub bytes: usize,
    /// Why it went no further.
    pub error: Option<io::Error>,
}

/// One temporary file. Its space comes back as a whole: a hole punched into a file (fallocate(2)) zeroes memory that
/// sendfile(2) has lent to a socket, so that clients on the same machine read zeros.
/// Its fields are dropped in their order: it is closed before it counts no more.
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
    /// The file, whose position is undefined.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills the buffer from a position.
    ///
    /// # Errors
    /// The system's.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    /// Counts more bytes that are going to be written. Returns false if there is no room.
    pub fn make_room(&self, bytes: u64) -> bool {
        self.counted.grow(bytes, None)
    }

    /// The same, for a body that has a place in the line.
    pub(super) fn make_room_at(&self, bytes: u64, place: Option<&Place>) -> bool {
        self.counted.grow(bytes, place)
    }

    /// Gives room back that was not used.
    pub fn give_room_back(&self, bytes: u64) {
        self.counted.shrink(bytes);
    }

    /// How many bytes are counted.
    pub(super) fn room(&self) -> u64 {
        self.counted.bytes()
    }

    /// Writes at a position, if there is space.
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
