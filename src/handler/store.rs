//! Blocks that a slow client has not read: in a temporary file, or in memory once there is room.
//!
//! *Runs on*: the answering thread, without the GIL. It waits for the client. *Invariants*: a block is released only
//! after it is stored or passed on. Whatever the disk does, no more bytes wait in memory than without a disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Block, Exchange, Gone, Responder, State};
use crate::spool::{ResponseSpool, SPOOL_MIN, SpoolFile, StoreError};
use crate::sys;

/// How many bytes are written to a file at once. The client gets them before the rest is written.
const STEP_BYTES: u64 = 1 << 20;
/// How many bytes of a block are copied at once: from a file of the application, or into memory in parts.
const COPY_BYTES: usize = 64 * 1024;
/// How long writing pauses after the disk refused. The pause doubles each time, from here …
const RETRY_MIN: Duration = Duration::from_millis(50);
/// … to here.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// The consequence, for the log line.
const CONSEQUENCE: &str = "applications wait for their clients";

/// The disk's state for one block.
struct Disk {
    retry: Duration,
    /// No attempt before this time.
    next: Option<Instant>,
}

/// The next step for the rest of a block.
enum Step {
    /// There is room in memory, and nothing before it waits on disk.
    Memory,
    /// At most this number of bytes may be written to a file.
    Write(u64),
    Wait,
}

impl Responder {
    /// Stores a block that did not fit into memory.
    pub(super) fn store(&mut self, block: Block) -> Result<(), Gone> {
        let Block::File { file, offset, bytes } = block else { return self.store_bytes(block) };
        let (file, mut offset, end) = (File::from(file), offset, offset + bytes);
        while offset < end {
            let mut buffer = vec![0; usize::try_from(end - offset).unwrap_or(usize::MAX).min(COPY_BYTES)];
            match file.read_at(&mut buffer, offset) {
                Ok(0) => break,
                Ok(read) => {
                    buffer.truncate(read);
                    self.store_bytes(Block::Owned(buffer))?;
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log::error!("cannot read a file that the application sends: {}", sys::plain(&error));
                    return Err(Gone);
                }
            }
        }
        Ok(())
    }

    /// Stores a block of memory, and waits while there is no room anywhere.
    fn store_bytes(&mut self, block: Block) -> Result<(), Gone> {
        let exchange = Arc::clone(&self.exchange);
        let mut disk = Disk { retry: RETRY_MIN, next: None };
        let (all, mut done) = (block.len(), 0);
        while done < all {
            let state = exchange.lock();
            if state.gone {
                return Err(Gone);
            }
            match exchange.next_step(&state, all - done, &disk) {
                // The usual case without a disk: the block itself, without a copy.
                Step::Memory if done == 0 => {
                    exchange.put_in_memory(state, block);
                    return Ok(());
                }
                Step::Memory => {
                    let left = block.bytes_from(done);
                    let part = left.get(..COPY_BYTES).unwrap_or(left).to_vec();
                    done += part.len() as u64;
                    exchange.put_in_memory(state, Block::Owned(part));
                }
                Step::Write(bytes) => {
                    drop(state);
                    let left = block.bytes_from(done);
                    let part = usize::try_from(bytes).map_or(left, |bytes| left.get(..bytes).unwrap_or(left));
                    let (written, result) = exchange.write(part);
                    done += written;
                    match result {
                        Ok(()) => disk.retry = RETRY_MIN,
                        Err(error) => {
                            exchange.bounds.storage.complain("a part of a response", &error, CONSEQUENCE);
                            disk.next = Some(Instant::now() + disk.retry);
                            disk.retry = (disk.retry * 2).min(RETRY_MAX);
                        }
                    }
                }
                Step::Wait => exchange.wait_for_room(state, disk.next),
            }
        }
        Ok(())
    }
}

impl Block {
    /// Returns its bytes from this offset on, if they are in memory.
    fn bytes_from(&self, done: u64) -> &[u8] {
        let bytes = match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(lent) => lent.bytes(),
            Self::File { .. } => return &[],
        };
        usize::try_from(done).ok().and_then(|done| bytes.get(done..)).unwrap_or_default()
    }
}

impl Exchange {
    fn next_step(&self, state: &State, left: u64, disk: &Disk) -> Step {
        if state.spooled.is_none() && self.fits(state, left) {
            return Step::Memory;
        }
        let (storage, high_water) = (&self.bounds.storage, self.bounds.response_spool);
        let room = state.spooled.as_ref().map_or(high_water, |spool| spool.room(high_water));
        let is_possible = storage.total() > 0 && high_water >= SPOOL_MIN;
        let is_time = disk.next.is_none_or(|next| Instant::now() >= next);
        if is_possible && is_time && room >= left.min(SPOOL_MIN) {
            // If all files together have little room, one step does not ask for all of it.
            let step = STEP_BYTES.min(storage.total() / 4).max(SPOOL_MIN);
            return Step::Write(left.min(room).min(step));
        }
        Step::Wait
    }

    /// Appends a block to those in memory.
    fn put_in_memory(&self, mut state: MutexGuard<'_, State>, block: Block) {
        state.waiting_bytes += block.len();
        state.outbox.blocks.push_back(block);
        drop(state);
        self.waker.wake_now();
    }

    /// Writes to the file, and makes one if there is none. Returns how many bytes were written, and why not all were.
    fn write(&self, part: &[u8]) -> (u64, Result<(), StoreError>) {
        let (file, at) = match self.file_for(part.len() as u64) {
            Ok(found) => found,
            Err(error) => return (0, Err(error)),
        };
        let written = file.write(part, at);
        let bytes = written.bytes as u64;
        file.give_room_back(part.len() as u64 - bytes);
        if bytes > 0 {
            let mut state = self.lock();
            match state.spooled.as_mut() {
                // Still the same file: only this side makes one, and only a file that was read to its end is removed.
                Some(spooled) if Arc::ptr_eq(spooled.file(), &file) => spooled.wrote(bytes),
                _ => state.spooled = Some(ResponseSpool::new(file, at, at + bytes)),
            }
            if state.gone {
                state.spooled = None;
            }
            drop(state);
            self.waker.wake_now();
        }
        (bytes, written.error.map_or(Ok(()), |error| Err(error.into())))
    }

    /// Returns a file with room for `bytes` more, and the offset for them.
    fn file_for(&self, bytes: u64) -> Result<(Arc<SpoolFile>, u64), StoreError> {
        let found = self.lock().spooled.as_ref().map(|spooled| (Arc::clone(spooled.file()), spooled.written()));
        match found {
            Some((file, _)) if !file.make_room(bytes) => Err(StoreError::NoRoom),
            Some(found) => Ok(found),
            None => self.bounds.storage.create_with_room(bytes).map(|file| (Arc::new(file), 0)),
        }
    }

    /// Waits until the client has taken bytes, has gone, or the disk may be tried again.
    fn wait_for_room(&self, mut state: MutexGuard<'_, State>, retry: Option<Instant>) {
        state.room_wanted = true;
        let left = retry.and_then(|retry| retry.checked_duration_since(Instant::now()));
        match left {
            Some(left) => drop(self.change.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner)),
            None => drop(self.change.wait(state).unwrap_or_else(PoisonError::into_inner)),
        }
    }
}
