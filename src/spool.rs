//! Bytes in memory up to a limit, then in an unlinked temporary file.
//!
//! *Owns*: one body while it is being received, what all bodies together keep in memory, and the thread that writes
//! files for those who must not wait. *Runs on*: the connection's coroutine while a body is written (the page cache takes
//! the bytes), then on whichever thread reads it. *Invariants*: no body has more memory than `Store` grants it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use crossbeam::channel::Sender;

/// So much of a body stays in memory whatever the others have.
const OWN_BYTES: usize = 64 * 1024;
/// Beyond that, all bodies together have as much as so many of the longest that may stay in memory.
const SHARERS: usize = 16;

/// Where bodies are kept.
#[derive(Debug)]
pub struct Store {
    memory_bytes_max: usize,
    /// What is left of the memory that bodies share.
    shared_bytes: AtomicUsize,
    dir: PathBuf,
}

/// A body that is being, or has been, received.
#[derive(Debug)]
pub struct Spool {
    memory: Vec<u8>,
    share: Share,
    /// How long the body will be, where that is known.
    expected: Option<usize>,
    file: Option<(File, u64)>,
}

/// What one body has of the memory that bodies share; it goes back when this is dropped.
#[derive(Debug)]
pub struct Share {
    store: Arc<Store>,
    bytes: usize,
}

/// What a spool holds when it is read.
#[derive(Debug)]
pub enum Content {
    /// All bytes, in memory; the share is theirs for as long as they are there.
    Memory(Vec<u8>, Share),
    /// All bytes, in a file whose position is undefined.
    File(File),
}

impl Store {
    /// A store that keeps at most `memory_bytes_max` bytes of a body in memory and makes files in `dir`.
    pub fn new(memory_bytes_max: usize, dir: &Path) -> Arc<Self> {
        let shared_bytes = AtomicUsize::new(memory_bytes_max.saturating_mul(SHARERS));
        Arc::new(Self { memory_bytes_max, shared_bytes, dir: dir.to_owned() })
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Spool {
    /// An empty spool, for a body of that length where it is known.
    pub fn new(store: &Arc<Store>, bytes: Option<u64>) -> Self {
        let share = Share { store: Arc::clone(store), bytes: 0 };
        let expected = bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Self { memory: Vec::new(), share, expected, file: None }
    }

    /// A spool that holds these bytes.
    pub fn from_bytes(memory: Vec<u8>) -> Self {
        Self { memory, ..Self::new(&Store::new(0, Path::new("")), None) }
    }

    /// The memory, and how much of `bytes` more has room in it, with one byte besides; `None`: give them to `write`.
    pub fn room(&mut self, bytes: usize) -> Option<(&mut Vec<u8>, usize)> {
        let bytes = match OWN_BYTES.saturating_sub(self.memory.len()) {
            0 => bytes,
            own => bytes.min(own),
        };
        (self.file.is_none() && self.make_room(bytes)).then_some((&mut self.memory, bytes))
    }

    /// Makes room in memory for so many more bytes, unless they are too many.
    ///
    /// Memory for a whole body of known length is made once the client has sent what every body may keep.
    fn make_room(&mut self, bytes: usize) -> bool {
        let all = self.memory.len().saturating_add(bytes);
        if all < self.memory.capacity() {
            return true;
        }
        let max = self.share.store.memory_bytes_max;
        let wanted = match self.expected {
            _ if all > max => return false,
            Some(expected) if all <= OWN_BYTES => expected.min(OWN_BYTES),
            Some(expected) if expected > max => return false,
            Some(expected) => expected,
            None => self.memory.len().saturating_mul(2),
        };
        let target = wanted.clamp(all, max);
        let fits = self.share.grow(target.saturating_sub(OWN_BYTES));
        if fits {
            self.memory.reserve_exact(target + 1 - self.memory.len());
        }
        fits
    }

    /// Appends.
    ///
    /// # Errors
    /// The temporary file cannot be made or written (no space, no permission).
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if let Some((file, bytes)) = &mut self.file {
            file.write_all(data)?;
            *bytes += data.len() as u64;
        } else if self.make_room(data.len()) {
            self.memory.extend_from_slice(data);
        } else {
            let mut file = temporary_file(self.share.store.dir())?;
            file.write_all(&self.memory)?;
            file.write_all(data)?;
            self.file = Some((file, self.len() + data.len() as u64));
            self.memory = Vec::new();
            self.share.release();
        }
        Ok(())
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.file.as_ref().map_or(self.memory.len() as u64, |(_, bytes)| *bytes)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, to be read.
    pub fn into_content(self) -> Content {
        match self.file {
            Some((file, _)) => Content::File(file),
            None => Content::Memory(self.memory, self.share),
        }
    }
}

impl Share {
    /// Makes it at least so large. Answers false where there is not enough left.
    fn grow(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let left = &self.store.shared_bytes;
        let taken =
            more == 0 || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(more)).is_ok();
        if taken {
            self.bytes += more;
        }
        taken
    }

    /// Gives it back.
    fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.store.shared_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
    }
}

/// A new temporary file without a name: it goes when it is closed, and nobody else can open it.
pub fn temporary_file(dir: &Path) -> io::Result<File> {
    tempfile::tempfile_in(dir)
}

/// A file that holds these bytes.
pub fn store(bytes: &[u8], dir: &Path) -> io::Result<File> {
    let mut file = temporary_file(dir)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Has a thread of its own do work on files that a coroutine must not wait for, one piece after the other.
pub fn in_background(work: impl FnOnce() + Send + 'static) {
    type Work = Box<dyn FnOnce() + Send>;
    static QUEUE: OnceLock<Sender<Work>> = OnceLock::new();
    let queue = QUEUE.get_or_init(|| {
        let (queue, work) = crossbeam::channel::unbounded::<Work>();
        let started =
            thread::Builder::new().name("maypole-disk".into()).spawn(move || work.iter().for_each(|work| work()));
        if let Err(error) = started {
            log::error!("cannot start the thread for temporary files: {error}");
        }
        queue
    });
    // Without the thread the work is done here, however long that takes.
    if let Err(refused) = queue.send(Box::new(work)) {
        (refused.0)();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    fn store(memory_bytes_max: usize) -> Arc<Store> {
        Store::new(memory_bytes_max, &std::env::temp_dir())
    }

    #[test]
    fn body_within_the_limit_stays_in_memory() {
        for length in [None, Some(4)] {
            let mut spool = Spool::new(&store(4), length);
            spool.write(b"ab").unwrap();
            spool.write(b"cd").unwrap();
            assert_eq!(spool.len(), 4);
            assert!(matches!(spool.into_content(), Content::Memory(bytes, _) if bytes == b"abcd"));
        }
    }

    #[test]
    fn body_over_the_limit_moves_to_a_file_whole() {
        for length in [None, Some(6)] {
            let mut spool = Spool::new(&store(4), length);
            spool.write(b"abc").unwrap();
            spool.write(b"de").unwrap();
            spool.write(b"f").unwrap();
            assert_eq!(spool.len(), 6);
            let Content::File(mut file) = spool.into_content() else { panic!("still in memory") };
            let mut all = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut all).unwrap();
            assert_eq!(all, "abcdef");
        }
    }

    #[test]
    fn memory_is_shared_until_there_is_none_left_and_then_files_are_made() {
        const MAX: usize = 8 * OWN_BYTES;
        let store = store(MAX);
        let receive = |bytes: usize, length: Option<u64>| {
            let mut spool = Spool::new(&store, length);
            for piece in vec![b'x'; bytes].chunks(10_000) {
                spool.write(piece).unwrap();
            }
            assert_eq!(spool.len(), bytes as u64);
            spool.into_content()
        };
        for length in [None, Some(MAX as u64)] {
            let mut kept = Vec::new();
            while let Content::Memory(bytes, share) = receive(MAX, length) {
                kept.push((bytes, share));
            }
            assert!((SHARERS..=SHARERS * 8 / 7).contains(&kept.len()), "{} bodies in memory", kept.len());
            assert!(matches!(receive(OWN_BYTES, None), Content::Memory(..)));
            assert!(matches!(receive(OWN_BYTES, Some(OWN_BYTES as u64)), Content::Memory(..)));
            kept.pop();
            assert!(matches!(receive(MAX, length), Content::Memory(..)));
        }
        assert_eq!(store.shared_bytes.load(Ordering::Relaxed), MAX * SHARERS);
    }

    #[test]
    fn memory_for_a_long_body_is_made_when_a_part_has_come() {
        const MAX: usize = 64 * OWN_BYTES;
        let mut spool = Spool::new(&store(MAX), Some(MAX as u64));
        let (memory, room) = spool.room(MAX).unwrap();
        assert_eq!((memory.capacity(), room), (OWN_BYTES + 1, OWN_BYTES));
        spool.write(&vec![b'x'; OWN_BYTES]).unwrap();
        let (memory, room) = spool.room(2 * OWN_BYTES).unwrap();
        assert_eq!((memory.capacity(), room), (MAX + 1, 2 * OWN_BYTES));
        let mut too_long = Spool::new(&store(MAX), Some(MAX as u64 + 1));
        too_long.write(&vec![b'x'; OWN_BYTES]).unwrap();
        assert!(too_long.room(1).is_none());
    }

    #[test]
    fn spool_whose_directory_is_missing_says_so() {
        let mut spool = Spool::new(&Store::new(1, Path::new("/nonexistent/maypole")), None);
        assert!(spool.write(b"abc").is_err());
    }
}
