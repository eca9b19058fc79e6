//! The part of a response that waits on disk for a slow client.
//!
//! *Owns*: how far the file has been written and read. *Runs on*: the application's thread writes, the connection's
//! coroutine reads. Both hold the exchange's lock during a change.

use std::sync::Arc;

use super::SpoolFile;

/// The fewest bytes that are written at once, unless fewer are left. A file for fewer bytes than fit into memory
/// brings no gain, and many small system calls cost processor time.
pub const SPOOL_MIN: u64 = 64 * 1024;

/// A file, and how much of it has been written and sent.
#[derive(Debug)]
pub struct ResponseSpool {
    file: Arc<SpoolFile>,
    read: u64,
    written: u64,
}

impl ResponseSpool {
    /// Takes a file that was just written up to `written`, and sent up to `read`.
    pub fn new(file: Arc<SpoolFile>, read: u64, written: u64) -> Self {
        Self { file, read, written }
    }

    /// Returns the file.
    pub fn file(&self) -> &Arc<SpoolFile> {
        &self.file
    }

    /// Returns the offset of the next write.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Returns how many bytes wait to be sent.
    pub fn waiting(&self) -> u64 {
        self.written - self.read
    }

    /// Counts bytes that were written.
    pub fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
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
    /// file is closed. So a file twice as long as `high_water` is sent to its end, and then a new file begins.
    pub fn room(&self, high_water: u64) -> u64 {
        if self.written / 2 >= high_water && self.waiting() > 0 {
            return 0;
        }
        high_water.saturating_sub(self.waiting())
    }
}
