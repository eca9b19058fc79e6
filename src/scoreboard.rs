//! What the workers of a service do at this moment, in memory that they share with the supervisor.
//!
//! *Owns*: the memory, its layout, and the rows of the requests that run. *Runs on*: any thread of the supervisor and of
//! the workers. *Invariants*: every word is atomic. Only the process of a slot writes to it, and the supervisor once
//! that process has ended. The header's words are the supervisor's, except for the number of used slots. A reader may see a state between two writes, so a value is a hint, never a lock.

mod balance;
mod requests;
mod slot;
mod spread;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use crate::metrics::{METER_WORDS, Meters, Sums};
use crate::sys::{self, SharedMemory};

use self::requests::ROW_WORDS;
use self::slot::HEAD_WORDS;

pub use self::balance::{Balance, Transfer};
pub use self::requests::{Inside, ROWS, Row};
pub use self::slot::{Slot, State};

/// The number of slots. A worker that is replaced keeps its slot until it has ended, so this is more than twice as many
/// as the most workers.
pub const SLOTS: usize = 512;
/// The words before the first slot: one page, so that the slots begin at a line of the processor's cache.
const HEADER_WORDS: usize = 512;
/// Tells that the memory is a scoreboard of this layout. A new layout gets a new number, because a reload can start
/// workers of another version.
const LAYOUT: u64 = u64::from_be_bytes(*b"maypole\x09");
/// The words of the whole memory: the header, the heads of all slots, the meters of the processes that have ended and of
/// all slots, then the rows of all slots.
const WORDS: usize = AT_ROWS + SLOTS * ROWS * ROW_WORDS;
const AT_METERS: usize = HEADER_WORDS + SLOTS * HEAD_WORDS;
const AT_ROWS: usize = AT_METERS + (1 + SLOTS) * METER_WORDS;

/// The word of the header with the layout.
const AT_LAYOUT: usize = 0;
/// The word of the header with the number of slots that have been used.
const AT_USED: usize = 1;
/// The word of the header with the number of workers that are to serve. 0 in the memory of a supervisor that does not
/// write it.
const AT_WORKERS: usize = 2;
/// The words of the header with how often the counts of a process have begun to move to those of ended processes, and
/// how often that was done.
const AT_MOVES_BEGUN: usize = 3;
const AT_MOVES_DONE: usize = 4;
/// How often a reader tries to read sums during which no counts move. A supervisor may have died in such a move.
const READS_MAX: usize = 100;

/// The scoreboard of a service.
#[derive(Debug, Clone)]
pub struct Scoreboard {
    memory: Arc<SharedMemory>,
    /// A moment on both clocks.
    epoch: (Instant, Duration),
}

impl Scoreboard {
    /// Makes an empty scoreboard.
    ///
    /// # Errors
    /// The process has no descriptor or no address space left.
    pub fn create() -> io::Result<Self> {
        let board = Self::of(SharedMemory::create(WORDS)?);
        board.header(AT_LAYOUT).store(LAYOUT, Ordering::SeqCst);
        Ok(board)
    }

    /// Opens the scoreboard that another process has made.
    ///
    /// # Errors
    /// The descriptor is no scoreboard, or one of a version with another layout.
    pub fn open(fd: OwnedFd) -> io::Result<Self> {
        let board = Self::of(SharedMemory::open(fd, WORDS)?);
        if board.header(AT_LAYOUT).load(Ordering::SeqCst) != LAYOUT {
            let sentence = "it is the scoreboard of a version of Maypole that shares no workers with this one";
            return Err(io::Error::new(io::ErrorKind::InvalidData, sentence));
        }
        Ok(board)
    }

    fn of(memory: SharedMemory) -> Self {
        Self { memory: Arc::new(memory), epoch: (Instant::now(), sys::machine_time()) }
    }

    /// Returns a slot.
    ///
    /// # Panics
    /// If the index is not below `SLOTS`.
    pub fn slot(&self, index: usize) -> Slot {
        assert!(index < SLOTS, "a scoreboard has {SLOTS} slots");
        Slot::new(self.clone(), index)
    }

    /// Returns how many workers are to serve. `None`: the supervisor does not say.
    pub fn workers(&self) -> Option<usize> {
        usize::try_from(self.header(AT_WORKERS).load(Ordering::Relaxed)).ok().filter(|workers| *workers > 0)
    }

    /// Sets how many workers are to serve. (Supervisor)
    pub fn set_workers(&self, workers: usize) {
        self.header(AT_WORKERS).store(workers as u64, Ordering::Relaxed);
    }

    /// Returns the slots that have been used, which may be free again.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        (0..self.used()).map(|index| self.slot(index))
    }

    /// Returns how many workers serve.
    pub fn serving(&self) -> usize {
        self.slots().filter(|slot| slot.state() == State::Serving).count()
    }

    /// Returns how many slots have been used, which come first.
    #[inline]
    fn used(&self) -> usize {
        usize::try_from(self.header(AT_USED).load(Ordering::Relaxed)).map_or(SLOTS, |used| used.min(SLOTS))
    }

    #[inline]
    fn header(&self, at: usize) -> &AtomicU64 {
        &self.memory.words()[at]
    }

    /// Returns the head of a slot.
    #[inline]
    fn head(&self, index: usize) -> &[AtomicU64] {
        &self.memory.words()[HEADER_WORDS + index * HEAD_WORDS..][..HEAD_WORDS]
    }

    /// Returns what the processes that have ended had counted.
    pub fn ended(&self) -> Meters {
        Meters::within(Arc::clone(&self.memory), AT_METERS)
    }

    /// Returns what all processes of the service have counted. No count is less than in an earlier sum.
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for _ in 0..READS_MAX {
            let done = self.header(AT_MOVES_DONE).load(Ordering::SeqCst);
            sums = Sums::default();
            self.ended().add_to(&mut sums);
            self.slots().for_each(|slot| slot.meters().add_to(&mut sums));
            fence(Ordering::SeqCst);
            if self.header(AT_MOVES_BEGUN).load(Ordering::SeqCst) == done {
                break;
            }
            thread::yield_now();
        }
        sums
    }

    /// Moves what the process of a slot had counted to the counts of ended processes.
    fn keep_counts(&self, index: usize) {
        self.header(AT_MOVES_BEGUN).fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.meters(index).move_to(&self.ended());
        self.header(AT_MOVES_DONE).fetch_add(1, Ordering::SeqCst);
    }

    /// Returns what the process of a slot has counted.
    fn meters(&self, index: usize) -> Meters {
        Meters::within(Arc::clone(&self.memory), AT_METERS + (1 + index) * METER_WORDS)
    }

    /// Returns the rows of a slot.
    fn rows(&self, index: usize) -> &[AtomicU64] {
        let start = AT_ROWS + index * ROWS * ROW_WORDS;
        &self.memory.words()[start..][..ROWS * ROW_WORDS]
    }

    /// Returns a moment in microseconds on the clock of the machine. It reads no clock.
    fn micros_at(&self, moment: Instant) -> u64 {
        let (instant, machine) = self.epoch;
        let at = match moment.checked_duration_since(instant) {
            Some(later) => machine + later,
            None => machine.saturating_sub(instant - moment),
        };
        micros(at)
    }
}

impl AsFd for Scoreboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Returns how long ago a time of the machine's clock was. `None` if the time is 0, which is no time.
fn age(micros_then: u64) -> Option<Duration> {
    (micros_then != 0).then(|| sys::machine_time().saturating_sub(Duration::from_micros(micros_then)))
}

#[cfg(test)]
mod tests;
