//! The part of a response that waits on disk for a slow client.
//!
//! *Owns*: how far the file has been written and read. *Runs on*: the application's thread writes, the connection's
//! coroutine reads; the exchange's lock is around each change.

use std::sync::Arc;

use super::SpoolFile;

/// Less than this is not written at once, unless it is all that is left: a file for less than fits into memory gains
/// nothing, and system calls for a few bytes each cost a processor.
pub const SPOOL_MIN: u64 = 64 * 1024;

/// The file, and how much of it is written and sent.
#[derive(Debug)]
pub struct ResponseSpool {
    file: Arc<SpoolFile>,
    read: u64,
    written: u64,
}

impl ResponseSpool {
    /// A file that has just been written up to `written`. The bytes before `read` have been sent.
    pub fn new(file: Arc<SpoolFile>, read: u64, written: u64) -> Self {
        Self { file, read, written }
    }

    /// The file.
    pub fn file(&self) -> &Arc<SpoolFile> {
        &self.file
    }

    /// Where the next bytes are written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// How many bytes wait.
    pub fn waiting(&self) -> u64 {
        self.written - self.read
    }

    /// Bytes were written.
    pub fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
    }

    /// The next part to send, at most `bytes_max` bytes long: the file, the offset in it, and the length.
    pub fn next_part(&self, bytes_max: u64) -> Option<(Arc<SpoolFile>, u64, u64)> {
        let bytes = self.waiting().min(bytes_max);
        (bytes > 0).then(|| (Arc::clone(&self.file), self.read, bytes))
    }

    /// Bytes were sent. Returns whether none wait any more.
    pub fn sent(&mut self, bytes: u64) -> bool {
        self.read += bytes;
        self.read >= self.written
    }

    /// How many more bytes it takes before `high_water` of them wait. What has been sent still takes space until the file
    /// goes: a file that has become twice as long is sent to its end, and the next part begins a new one.
    pub fn room(&self, high_water: u64) -> u64 {
        if self.written / 2 >= high_water && self.waiting() > 0 {
            return 0;
        }
        high_water.saturating_sub(self.waiting())
    }
}
