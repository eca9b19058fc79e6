//! Blocks that a slow client has not read: in a temporary file, or in memory once there is room.
//!
//! *Runs on*: the handler's thread, without the GIL. It waits for the client. *Invariants*: a block is released only
//! after it is stored or passed on. A disk that fails or is full does not let more bytes wait in memory.

use std::os::fd::AsFd as _;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::{Block, Exchange, Gone, Responder, State};
use crate::spool::{Attempts, ResponseSpool, StoreError, WritePlace};
use crate::sys::{self, Io};

/// How many bytes of a block are copied at once: from a file of the application, or into memory in parts.
const COPY_BYTES: usize = 64 * 1024;
/// The consequence, for the log line.
const CONSEQUENCE: &str = "applications wait for their clients";

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
        let (mut offset, end) = (offset, offset + bytes);
        while offset < end {
            let mut buffer = Vec::new();
            let bytes = usize::try_from(end - offset).unwrap_or(usize::MAX).min(COPY_BYTES);
            match sys::read_at(file.as_fd(), &mut buffer, offset, bytes) {
                Io::Done(0) | Io::WouldBlock => break,
                Io::Done(read) => {
                    self.store_bytes(Block::Owned(buffer))?;
                    offset += read as u64;
                }
                Io::Failed(error) => {
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
        let mut attempts = Attempts::default();
        let (all, mut done) = (block.len(), 0);
        while done < all {
            let state = exchange.lock();
            if state.gone {
                return Err(Gone);
            }
            match exchange.next_step(&state, all - done, &attempts) {
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
                        Ok(()) => attempts.succeeded(),
                        Err(error) => {
                            exchange.bounds.storage.complain("a part of a response", &error, CONSEQUENCE);
                            attempts.failed();
                        }
                    }
                }
                Step::Wait => exchange.wait_for_room(state, attempts.next()),
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
            Self::Shared(shared) => shared.bytes(),
            Self::File { .. } => return &[],
        };
        usize::try_from(done).ok().and_then(|done| bytes.get(done..)).unwrap_or_default()
    }
}

impl Exchange {
    fn next_step(&self, state: &State, left: u64, attempts: &Attempts) -> Step {
        if state.spooled.is_none() && self.fits(state, left) {
            return Step::Memory;
        }
        let (storage, high_water) = (&self.bounds.storage, self.bounds.response_spool);
        match ResponseSpool::writable(state.spooled.as_ref(), left, high_water, storage) {
            Some(bytes) if attempts.may_begin() => Step::Write(bytes),
            _ => Step::Wait,
        }
    }

    /// Appends a block to those in memory.
    fn put_in_memory(&self, mut state: MutexGuard<'_, State>, block: Block) {
        state.waiting_bytes += block.len();
        state.outbox.blocks.push(block);
        drop(state);
        self.wake_now();
    }

    /// Writes to the file, and makes one if there is none. Returns how many bytes were written, and why not all were.
    fn write(&self, part: &[u8]) -> (u64, Result<(), StoreError>) {
        let place = WritePlace::after(self.lock().spooled.as_ref());
        let place = match WritePlace::with_room(place, part.len() as u64, &self.bounds.storage) {
            Ok(place) => place,
            Err(error) => return (0, Err(error)),
        };
        let (bytes, result) = place.write(part);
        if bytes > 0 {
            let mut state = self.lock();
            place.wrote(bytes, &mut state.spooled);
            if state.gone {
                state.spooled = None;
            }
            drop(state);
            self.wake_now();
        }
        (bytes, result)
    }

    /// Waits until the client has taken bytes, has gone, or the disk may be tried again.
    fn wait_for_room(&self, mut state: MutexGuard<'_, State>, retry: Option<Instant>) {
        state.room_wanted = true;
        let left = retry.and_then(|retry| retry.checked_duration_since(Instant::now()));
        match left {
            Some(left) => drop(self.change.wait_timeout(state, left)),
            None => drop(self.change.wait(state)),
        }
    }
}
