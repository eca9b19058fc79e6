//! The way of a response to disk, while its client is slow: blocks that do not fit into memory, and a large block that
//! is moved out of memory.
//!
//! *Owns*: how far a response's file has been written and read, and when a disk that refused is tried again. *Runs on*:
//! the application's thread writes, the connection's coroutine reads; both hold the exchange's lock while they change a
//! `ResponseSpool`, and neither holds it during I/O. A block is moved on the thread for file work. *Invariants*: no
//! byte is written before there is room for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{SpoolFile, Storage, StoreError, in_background};
use crate::sys::{Lock, Waker};

/// How many bytes are written to a file at once. The client gets them before the rest is written.
const STEP_BYTES: u64 = 1 << 20;
/// The first pause after the disk refused a write. Each further refusal doubles the pause …
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// … up to this maximum.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The minimum number of bytes in one write, unless fewer are left. Smaller writes free little memory, and many small
/// system calls cost processor time.
const SPOOL_MIN: u64 = 64 * 1024;

/// A file, and how much of it has been written and sent.
#[derive(Debug)]
pub struct ResponseSpool {
    file: Arc<SpoolFile>,
    read: u64,
    written: u64,
}

/// The place of the next bytes in a response's file.
#[derive(Debug)]
pub struct WritePlace {
    file: Arc<SpoolFile>,
    at: u64,
}

/// The attempts to write one block to disk.
#[derive(Debug)]
pub struct Attempts {
    pause: Duration,
    next: Option<Instant>,
}

/// A block that is moved from memory to a file. The memory belongs to `T`.
#[derive(Debug)]
pub struct BlockMove<T>(Arc<Lock<Option<MoveResult<T>>>>);

/// The file, or the reason why there is none and the memory.
type MoveResult<T> = Result<SpoolFile, (StoreError, T)>;

impl ResponseSpool {
    /// Returns how many of a block's `left` bytes may be written now, so that at most `high_water` bytes wait in the
    /// file. `None`: the rest has to wait.
    pub fn writable(spool: Option<&Self>, left: u64, high_water: u64, storage: &Storage) -> Option<u64> {
        let room = spool.map_or(high_water, |spool| spool.room(high_water));
        let is_possible = storage.total() > 0 && high_water >= SPOOL_MIN;
        // If all files together have little room, one step does not ask for all of it.
        let step = STEP_BYTES.min(storage.total() / 4).max(SPOOL_MIN);
        (is_possible && room >= left.min(SPOOL_MIN)).then(|| left.min(room).min(step))
    }

    /// Returns how many bytes wait to be sent.
    pub fn waiting(&self) -> u64 {
        self.written - self.read
    }

    /// Returns the next part to send: the file, the offset in it, and the length of at most `bytes_max` bytes.
    pub fn next_part(&self, bytes_max: u64) -> Option<(Arc<SpoolFile>, u64, u64)> {
        let bytes = self.waiting().min(bytes_max);
        (bytes > 0).then(|| (Arc::clone(&self.file), self.read, bytes))
    }

    /// Counts bytes that were sent. Returns whether none wait any more.
    pub fn sent(&mut self, bytes: u64) -> bool {
        self.read += bytes;
        self.read >= self.written
    }

    /// Returns how many more bytes may be written before `high_water` bytes wait. Sent bytes take up space until the
    /// file is closed. A file of twice `high_water` therefore takes no more bytes. It is sent to its end, and then a
    /// new file begins.
    fn room(&self, high_water: u64) -> u64 {
        if self.written / 2 >= high_water && self.waiting() > 0 {
            return 0;
        }
        high_water.saturating_sub(self.waiting())
    }
}

impl WritePlace {
    /// Returns the place behind the last byte of the file. `None`: there is no file.
    pub fn after(spool: Option<&ResponseSpool>) -> Option<Self> {
        spool.map(|spool| Self { file: Arc::clone(&spool.file), at: spool.written })
    }

    /// Returns a place with room for `bytes`: this one, or the beginning of a new file.
    ///
    /// # Errors
    /// There is no room, or no file can be made.
    pub fn with_room(place: Option<Self>, bytes: u64, storage: &Arc<Storage>) -> Result<Self, StoreError> {
        match place {
            Some(place) if !place.file.make_room(bytes) => Err(StoreError::NoRoom),
            Some(place) => Ok(place),
            None => storage.create_with_room(bytes).map(|file| Self { file: Arc::new(file), at: 0 }),
        }
    }

    /// Writes a part for which there is room. Returns how many bytes were written, and the reason if not all were.
    pub fn write(&self, part: &[u8]) -> (u64, Result<(), StoreError>) {
        let written = self.file.write(part, self.at);
        let bytes = written.bytes as u64;
        self.file.give_room_back(part.len() as u64 - bytes);
        (bytes, written.error.map_or(Ok(()), |error| Err(error.into())))
    }

    /// Counts bytes that were written here.
    pub fn wrote(self, bytes: u64, spool: &mut Option<ResponseSpool>) {
        match spool {
            // Still the same file: only this side makes one, and only a file that was read to its end is removed.
            Some(spool) if Arc::ptr_eq(&spool.file, &self.file) => spool.written += bytes,
            _ => *spool = Some(ResponseSpool { file: self.file, read: self.at, written: self.at + bytes }),
        }
    }
}

impl Default for Attempts {
    fn default() -> Self {
        Self { pause: PAUSE_MIN, next: None }
    }
}

impl Attempts {
    /// Returns whether the disk may be tried now.
    pub fn may_begin(&self) -> bool {
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    /// Returns when the disk may be tried again. `None`: it has not refused.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Notes that the disk took all bytes.
    pub fn succeeded(&mut self) {
        self.pause = PAUSE_MIN;
    }

    /// Notes that the disk refused.
    pub fn failed(&mut self) {
        self.next = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

impl<T: Send + 'static> BlockMove<T> {
    /// Starts to write the bytes of `memory` to a file. The waker is called when that has ended.
    pub fn start(
        storage: &Arc<Storage>,
        memory: T,
        bytes: impl FnOnce(&T) -> &[u8] + Send + 'static,
        waker: Waker,
    ) -> Self {
        let result = Arc::new(Lock::new(None));
        let (slot, storage) = (Arc::clone(&result), Arc::clone(storage));
        in_background(move || {
            let stored = storage.store(bytes(&memory)).map_err(|error| (error, memory));
            *slot.lock() = Some(stored);
            waker.wake_now();
        });
        Self(result)
    }

    /// Returns the file, or the reason why there is none and the memory. `None`: the move has not ended.
    pub fn take_result(&self) -> Option<Result<SpoolFile, (StoreError, T)>> {
        self.0.lock().take()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::spool::SystemFiles;

    const KIB: u64 = 1024;

    fn storage(total: u64) -> Arc<Storage> {
        Storage::with_files(&std::env::temp_dir(), total, Box::new(SystemFiles))
    }

    fn spool(storage: &Arc<Storage>, read: u64, written: u64) -> ResponseSpool {
        ResponseSpool { file: Arc::new(storage.create_with_room(0).unwrap()), read, written }
    }

    #[test]
    fn bytes_that_may_be_written_depend_on_those_that_wait() {
        let storage = storage(1 << 30);
        let high_water = 256 * KIB;
        for (read, written, left, wanted) in [
            (0, 0, 10, Some(10)),
            (0, 0, 1 << 40, Some(256 * KIB)),
            (0, 128 * KIB, 1 << 40, Some(128 * KIB)),
            // Less than 64 KiB of room is not worth a write, unless the block's rest fits into it.
            (0, 200 * KIB, 1 << 40, None),
            (0, 200 * KIB, 56 * KIB, Some(56 * KIB)),
            (0, 256 * KIB, 1, None),
            // A file twice as long as the mark is sent to its end first.
            (511 * KIB, 512 * KIB, 1, None),
            (512 * KIB, 512 * KIB, 1, Some(1)),
        ] {
            let spool = spool(&storage, read, written);
            let writable = ResponseSpool::writable(Some(&spool), left, high_water, &storage);
            assert_eq!(writable, wanted, "{read} of {written} read, {left} left");
        }
    }

    #[test]
    fn bytes_that_may_be_written_are_a_quarter_of_all_files() {
        let writable = |total, high_water| ResponseSpool::writable(None, 1 << 40, high_water, &storage(total));
        assert_eq!(writable(1 << 30, 1 << 30), Some(1 << 20));
        assert_eq!(writable(KIB << 10, 1 << 30), Some(256 * KIB));
        assert_eq!(writable(1, 1 << 30), Some(64 * KIB), "the write then fails");
        assert_eq!(writable(0, 1 << 30), None, "no files are made");
        assert_eq!(writable(1 << 30, 64 * KIB - 1), None, "too little to be worth a file");
    }

    #[test]
    fn file_that_was_sent_is_followed_by_another() {
        let storage = storage(1 << 20);
        let mut current = None;
        let place = WritePlace::with_room(WritePlace::after(None), 5, &storage).unwrap();
        assert_eq!(place.write(b"hello").0, 5);
        place.wrote(5, &mut current);
        let place = WritePlace::with_room(WritePlace::after(current.as_ref()), 6, &storage).unwrap();
        assert_eq!(place.write(b" world").0, 6);
        place.wrote(6, &mut current);
        let (file, offset, bytes) = current.as_ref().unwrap().next_part(1 << 20).unwrap();
        let mut text = vec![0; 11];
        file.read_exact_at(&mut text, 0).unwrap();
        assert_eq!((offset, bytes, &*text), (0, 11, &b"hello world"[..]));
        // The client takes all of it while the next part is being written.
        let place = WritePlace::with_room(WritePlace::after(current.as_ref()), 1, &storage).unwrap();
        assert!(current.as_mut().unwrap().sent(11));
        current = None;
        assert_eq!(place.write(b"!").0, 1);
        place.wrote(1, &mut current);
        assert_eq!(current.unwrap().next_part(9).map(|(_, offset, bytes)| (offset, bytes)), Some((11, 1)));
        assert_eq!(storage.used(), 12);
        drop(file);
        assert_eq!(storage.used(), 0);
    }

    #[test]
    fn pauses_double_until_the_disk_takes_bytes_again() {
        let mut attempts = Attempts::default();
        assert!(attempts.may_begin());
        for wanted in [50, 100, 200, 400, 800, 1000, 1000] {
            let before = Instant::now();
            assert_eq!(attempts.pause, Duration::from_millis(wanted));
            attempts.failed();
            assert!(attempts.next().unwrap() >= before + Duration::from_millis(wanted));
        }
        attempts.succeeded();
        assert_eq!(attempts.pause, PAUSE_MIN);
    }
}
