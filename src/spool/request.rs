//! A request's body: in memory up to a limit, then in a temporary file.
//!
//! *Owns*: one body while it is received, and the account of memory for all bodies. *Runs on*: the connection's
//! coroutine while a body is written (the page cache takes the bytes), then the thread that reads it. *Invariants*: a
//! body never has more memory than `Store` grants it, and never more bytes on disk than were counted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::ledger::SpaceWait;
use super::storage::{Counted, SpoolFile, Storage, StoreError, SystemFiles};
use crate::sys::Waker;

/// A body keeps this many bytes in memory, even if other bodies hold much.
const OWN_BYTES: usize = 64 * 1024;
/// The shared memory of all bodies beyond that, as a multiple of the most bytes that one body may keep in memory.
const SHARERS: usize = 16;

/// Room in a file is counted in steps of this size.
const STEP_BYTES: u64 = 1 << 20;

/// Where bodies are stored, and how much memory they may take.
#[derive(Debug)]
pub struct Store {
    memory_bytes_max: usize,
    /// The rest of the memory that bodies share.
    shared_bytes: AtomicUsize,
    storage: Arc<Storage>,
}

/// Why there is no room for more of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Other bodies hold all the space. Space may become free later.
    Now,
    /// The body is longer than all the space for bodies.
    Ever,
}

/// A body that is being, or has been, received.
#[derive(Debug)]
pub struct Spool {
    memory: Vec<u8>,
    share: Share,
    /// The body's final length, if it is known.
    expected: Option<usize>,
    disk: Disk,
}

/// A body's part of the disk.
#[derive(Debug)]
enum Disk {
    /// Nothing.
    Nothing,
    /// Room that was counted for a file that does not exist yet.
    Counted(Box<Counted>),
    /// The file, and the body's length in it.
    File(Box<(SpoolFile, u64)>),
}

/// A body's part of the shared memory. Dropping it gives the memory back.
#[derive(Debug)]
pub struct Share {
    store: Arc<Store>,
    bytes: usize,
}

/// The content of a spool, for reading.
#[derive(Debug)]
pub enum Content {
    /// All bytes, in memory. Their share is held as long as they are.
    Memory(Vec<u8>, Share),
    /// All bytes, in a file.
    File(Box<SpoolFile>),
}

impl Store {
    /// Makes a store that keeps at most `memory_bytes_max` bytes of a body in memory, and longer bodies in files of
    /// `storage`.
    pub fn new(memory_bytes_max: usize, storage: &Arc<Storage>) -> Arc<Self> {
        let shared_bytes = AtomicUsize::new(memory_bytes_max.saturating_mul(SHARERS));
        Arc::new(Self { memory_bytes_max, shared_bytes, storage: Arc::clone(storage) })
    }

    /// Returns the storage of the files.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }
}

impl Spool {
    /// Makes an empty spool, for a body of this length if it is known.
    pub fn new(store: &Arc<Store>, bytes: Option<u64>) -> Self {
        let share = Share { store: Arc::clone(store), bytes: 0 };
        let expected = bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Self { memory: Vec::new(), share, expected, disk: Disk::Nothing }
    }

    /// Makes a spool that holds these bytes.
    pub fn from_bytes(memory: Vec<u8>) -> Self {
        let storage = Storage::with_files(Path::new(""), 0, Box::new(SystemFiles));
        Self { memory, ..Self::new(&Store::new(0, &storage), None) }
    }

    /// Makes sure that `write` has room for `bytes` more: in memory, or in a file, whose room is counted in steps.
    /// `wait` is the body's wait for space, if it waits.
    ///
    /// # Errors
    /// There is no room now, or there never will be.
    pub fn prepare(&mut self, bytes: usize, wait: Option<&SpaceWait>) -> Result<(), Lack> {
        if !self.is_in_file() && self.make_room(bytes) {
            return Ok(());
        }
        let total = self.share.store.storage.total();
        let expected = self.expected.map(|bytes| bytes as u64);
        if total == 0 {
            // No file is made, so there is only memory.
            let max = self.share.store.memory_bytes_max as u64;
            return Err(if self.len().max(expected.unwrap_or(0)) > max { Lack::Ever } else { Lack::Now });
        }
        let needed = self.len() + bytes as u64;
        if expected.unwrap_or(needed) > total {
            return Err(Lack::Ever);
        }
        let counted = self.room_in_file();
        if needed <= counted {
            return Ok(());
        }
        let least = needed - counted;
        // A body of known length needs no more than its rest.
        let step = expected.map_or(STEP_BYTES, |all| all.saturating_sub(counted).min(STEP_BYTES)).max(least);
        if self.count(step, wait) || self.count(least, wait) { Ok(()) } else { Err(Lack::Now) }
    }

    /// Returns how many bytes the body may have in a file.
    fn room_in_file(&self) -> u64 {
        match &self.disk {
            Disk::Nothing => 0,
            Disk::Counted(counted) => counted.bytes(),
            Disk::File(stored) => stored.0.room(),
        }
    }

    fn count(&mut self, bytes: u64, wait: Option<&SpaceWait>) -> bool {
        match &self.disk {
            Disk::Nothing => {
                let Some(counted) = self.share.store.storage.count(bytes, wait) else { return false };
                self.disk = Disk::Counted(Box::new(counted));
                true
            }
            Disk::Counted(counted) => counted.grow(bytes, wait),
            Disk::File(stored) => stored.0.make_room_for(bytes, wait),
        }
    }

    /// Returns whether the bytes are in a file.
    pub fn is_in_file(&self) -> bool {
        matches!(self.disk, Disk::File(_))
    }

    /// Begins to wait for room. Returns `None` if this body and another waiting one both hold room already. Two such
    /// bodies would wait for each other.
    pub fn begin_wait(&self, waker: Waker) -> Option<SpaceWait> {
        self.share.store.storage.enter(waker, self.room_in_file() > 0)
    }

    /// Returns the memory, and how many of `bytes` more fit in it, with one byte to spare. `None`: use `write` instead.
    pub fn room(&mut self, bytes: usize) -> Option<(&mut Vec<u8>, usize)> {
        let bytes = match OWN_BYTES.saturating_sub(self.memory.len()) {
            0 => bytes,
            own => bytes.min(own),
        };
        (!self.is_in_file() && self.make_room(bytes)).then_some((&mut self.memory, bytes))
    }

    /// Makes room in memory for `bytes` more, if the body's limit and the shared memory allow it.
    ///
    /// Memory for a whole body of known length is reserved only once the client has sent `OWN_BYTES`.
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

    /// Appends bytes.
    ///
    /// # Errors
    /// There is no room (see `prepare`), or the file cannot be made or written. The body can then no longer be used.
    pub fn write(&mut self, data: &[u8]) -> Result<(), StoreError> {
        if !self.is_in_file() && self.make_room(data.len()) {
            self.memory.extend_from_slice(data);
            return Ok(());
        }
        self.prepare(data.len(), None).map_err(|_| StoreError::NoRoom)?;
        if matches!(self.disk, Disk::Counted(_))
            && let Disk::Counted(counted) = std::mem::replace(&mut self.disk, Disk::Nothing)
        {
            let file = self.share.store.storage.create(*counted)?;
            append(&file, &self.memory, 0)?;
            self.disk = Disk::File(Box::new((file, self.memory.len() as u64)));
            self.memory = Vec::new();
            self.share.release();
        }
        let Disk::File(stored) = &mut self.disk else { return Err(StoreError::NoRoom) };
        let (file, bytes) = &mut **stored;
        append(file, data, *bytes)?;
        *bytes += data.len() as u64;
        Ok(())
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> u64 {
        match &self.disk {
            Disk::File(stored) => stored.1,
            Disk::Nothing | Disk::Counted(_) => self.memory.len() as u64,
        }
    }

    /// Returns whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes, for reading.
    pub fn into_content(self) -> Content {
        match self.disk {
            Disk::File(stored) => {
                let (file, bytes) = *stored;
                file.give_room_back(file.room().saturating_sub(bytes));
                Content::File(Box::new(file))
            }
            Disk::Nothing | Disk::Counted(_) => Content::Memory(self.memory, self.share),
        }
    }
}

fn append(file: &SpoolFile, data: &[u8], at: u64) -> Result<(), StoreError> {
    file.write(data, at).error.map_or(Ok(()), |error| Err(error.into()))
}

impl Share {
    /// Grows the share to at least this size. Returns false if too little shared memory is left.
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

    /// Gives the share back.
    fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.store.shared_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.store.storage.memory_is_free();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    /// Makes a storage in the temporary directory.
    fn storage(total: u64) -> Arc<Storage> {
        Storage::with_files(&std::env::temp_dir(), total, Box::new(SystemFiles))
    }

    fn store(memory_bytes_max: usize) -> Arc<Store> {
        Store::new(memory_bytes_max, &storage(1 << 40))
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
            let Content::File(file) = spool.into_content() else { panic!("still in memory") };
            let mut file = file.file();
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
        let storage = Storage::with_files(Path::new("/nonexistent/maypole"), 1 << 20, Box::new(SystemFiles));
        let mut spool = Spool::new(&Store::new(1, &storage), None);
        assert!(matches!(spool.write(b"abc"), Err(StoreError::Failed(_))));
    }
}
