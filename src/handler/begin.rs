//! Decides a race for a request that waits for a thread: the thread begins, the client leaves, or the deadline passes.
//!
//! *Runs on*: both sides, without the exchange's lock. *Invariants*: exactly one of the three wins, and the others see
//! it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use super::Exchange;

const WAITING: u8 = 0;
/// The client left first.
const GONE: u8 = 1;
/// The deadline passed first.
const LATE: u8 = 2;
/// A thread was first.
const BEGUN: u8 = 3;

/// The state of a request that waits for a thread.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    state: AtomicU8,
    /// When the thread took it.
    begun: OnceLock<Instant>,
}

impl Beginning {
    fn leave_waiting(&self, to: u8) -> bool {
        self.state.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Resets the state for the next request.
    pub(super) fn renew(&mut self) {
        *self.state.get_mut() = WAITING;
        self.begun = OnceLock::new();
    }

    /// Lets a thread take the request, at this time. Returns whether the thread was first.
    pub(super) fn begin(&self, at: Instant) -> bool {
        let is_first = self.leave_waiting(BEGUN);
        if is_first {
            // It is empty: only the thread that is first sets it.
            let _ = self.begun.set(at);
        }
        is_first
    }

    /// Withdraws the request because the client has left. Returns whether no thread had begun.
    pub(super) fn withdraw(&self) -> bool {
        self.leave_waiting(GONE)
    }

    /// Withdraws the request because the deadline has passed. Returns whether no thread had begun.
    pub(super) fn expire(&self) -> bool {
        self.leave_waiting(LATE)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.state.load(Ordering::Acquire) == WAITING
    }

    pub(super) fn is_late(&self) -> bool {
        self.state.load(Ordering::Acquire) == LATE
    }

    /// Returns when a thread took the request.
    pub(super) fn begun_at(&self) -> Option<Instant> {
        self.begun.get().copied()
    }
}

impl Exchange {
    /// Returns when a thread took the request. `None` if none did. (Connection's side.)
    pub fn begun_at(&self) -> Option<Instant> {
        self.beginning.begun_at()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_of_three_wins_and_the_others_are_told() {
        let moves: [fn(&Beginning) -> bool; 3] =
            [|line| line.begin(Instant::now()), Beginning::withdraw, Beginning::expire];
        for first in 0..moves.len() {
            let mut line = Beginning::default();
            assert!(line.is_waiting() && moves[first](&line));
            assert!(moves.iter().all(|second| !second(&line)), "only one is first");
            assert_eq!((line.begun_at().is_some(), line.is_late()), (first == 0, first == 2));
            line.renew();
            assert!(line.is_waiting() && line.begun_at().is_none());
        }
    }

    #[test]
    fn time_of_the_beginning_is_kept() {
        let (line, now) = (Beginning::default(), Instant::now());
        assert!(line.begin(now));
        assert_eq!(line.begun_at(), Some(now));
    }
}
