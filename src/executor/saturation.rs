//! How long calls have waited although no more of them could be started.
//!
//! *Owns*: the sum of that time. *Runs on*: the monitor adds; any thread reads. *Invariants*: a queue that is emptied
//! within `WAIT_MAX` counts for nothing, however busy the threads are.

use std::time::{Duration, Instant};

use crate::metrics::Counter;
use crate::sys::Lock;

/// A call that waits longer than this for a thread would have been served earlier by a larger service.
const WAIT_MAX: Duration = Duration::from_millis(5);

/// The time in which calls waited for longer than `WAIT_MAX`.
#[derive(Debug, Default)]
pub(super) struct Saturation {
    micros: Counter,
    last: Lock<Option<Last>>,
}

/// The last look that found queued calls.
#[derive(Debug, Clone, Copy)]
struct Last {
    at: Instant,
    completed: u64,
    /// When a call last ended while calls were queued, or when the first was queued.
    moved: Instant,
}

impl Saturation {
    /// Looks at the queue: how many calls are queued, how long a call takes, how many run at once, and how many have
    /// ended. (The monitor.)
    pub(super) fn look(&self, queued: usize, average: Duration, running: usize, completed: u64, now: Instant) {
        let mut last = self.last.lock();
        if queued == 0 {
            *last = None;
            return;
        }
        let before = last.unwrap_or(Last { at: now, completed, moved: now });
        let moved = if completed == before.completed { before.moved } else { now };
        *last = Some(Last { at: now, completed, moved });
        let ahead = u32::try_from(queued / running.max(1)).unwrap_or(u32::MAX);
        if average.saturating_mul(ahead) >= WAIT_MAX || now - moved >= WAIT_MAX {
            self.micros.add(u64::try_from((now - before.at).as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// Returns the sum, in microseconds.
    pub(super) fn micros(&self) -> u64 {
        self.micros.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_waits_that_are_long_count() {
        const MILLI: Duration = Duration::from_millis(1);
        let begin = Instant::now();
        // Queued calls, the length of a call in microseconds, whether calls end, and the part of 20 ms that counts.
        for (queued, micros, moves, expected) in [
            (0, 1_000, true, 0),
            // 64 calls of 20 µs are 1.3 ms.
            (64, 20, true, 0),
            (64, 1_000, true, 20),
            (1, 100, true, 0),
            // One call waits behind one that does not end.
            (1, 100, false, 15),
        ] {
            let saturation = Saturation::default();
            for look in 0..=20 {
                let completed = if moves { u64::from(look) } else { 0 };
                saturation.look(queued, Duration::from_micros(micros), 1, completed, begin + MILLI * look);
            }
            let found = saturation.micros() / 1_000;
            assert!(found.abs_diff(expected) <= 1, "{queued} {micros} {moves}: {found}");
        }
    }
}
