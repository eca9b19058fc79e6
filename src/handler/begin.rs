//! Decides a race for a request that waits for a thread: the thread begins, the client leaves, or the deadline passes.
//!
//! *Runs on*: both sides, without the exchange's lock. *Invariants*: exactly one of the three wins, and the others see
//! it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Exchange;

const WAITING: u64 = 0;
/// The client left first.
const GONE: u64 = 1;
/// The deadline passed first.
const LATE: u64 = 2;
/// A thread was first, and the request is not timed.
const BEGUN: u64 = 3;
/// From this value on: a thread was first. The value is the number of nanoseconds after `base`, at least `BEGUN_AT`.
const BEGUN_AT: u64 = 4;

fn base() -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(Instant::now)
}

/// The state of a request that waits for a thread.
#[derive(Debug, Default)]
pub(super) struct Beginning(AtomicU64);

impl Beginning {
    fn leave_waiting(&self, to: u64) -> bool {
        self.0.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Resets the state for the next request.
    pub(super) fn renew(&mut self) {
        *self.0.get_mut() = WAITING;
    }

    /// Lets a thread take the request, at this time if it is timed. Returns whether the thread was first.
    pub(super) fn begin(&self, at: Option<Instant>) -> bool {
        let since = at.map(|at| at.saturating_duration_since(base()).as_nanos());
        let to = since.map_or(BEGUN, |nanos| u64::try_from(nanos).unwrap_or(u64::MAX).max(BEGUN_AT));
        self.leave_waiting(to)
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
        self.0.load(Ordering::Acquire) == WAITING
    }

    pub(super) fn is_late(&self) -> bool {
        self.0.load(Ordering::Acquire) == LATE
    }

    /// Returns when a thread took the request, if it is timed.
    pub(super) fn begun_at(&self) -> Option<Instant> {
        let nanos = self.0.load(Ordering::Acquire);
        (nanos >= BEGUN_AT).then(|| base() + Duration::from_nanos(nanos))
    }
}

impl Exchange {
    /// Returns when a thread took the request. `None` if none did, or the request is not timed. (Connection's side.)
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
            [|line| line.begin(Some(Instant::now())), Beginning::withdraw, Beginning::expire];
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
        base();
        let (line, now) = (Beginning::default(), Instant::now());
        assert!(line.begin(Some(now)));
        assert_eq!(line.begun_at(), Some(now));
        let untimed = Beginning::default();
        assert!(untimed.begin(None) && untimed.begun_at().is_none());
    }
}
