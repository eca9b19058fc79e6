//! How fast the connections of a listener come and go.
//!
//! If clients open a connection for each request, an even number of connections is worth less than the time that it
//! costs: each pause of a listener takes as long as two such requests. Then a worker accepts at once.
//!
//! *Owns*: the last accepts of one listener. *Runs on*: the listener's coroutine. *Invariants*: reads the clock once in
//! `WINDOW` accepts, and when it allows something. The connections of clients that stay never count as turnover, however
//! many come at once.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The accepts of one window.
const WINDOW: usize = 64;
/// A window that took longer has no turnover: the work of a request takes longer than a pause, or clients are few.
const WINDOW_TIME_MAX: Duration = Duration::from_micros(400 * WINDOW as u64);
/// How long a window with turnover counts.
const VALID: Duration = Duration::from_millis(100);

/// The turnover of a listener's connections.
#[derive(Debug, Default)]
pub(super) struct Turnover(Cell<State>);

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// The window that is open: when it began, how many connections were open then, and at most.
    began: Option<Instant>,
    open_before: usize,
    peak: usize,
    accepted: usize,
    /// How many connections may be open, and since when.
    allowed: Option<(usize, Instant)>,
}

impl Turnover {
    /// Counts an accepted connection. `open` connections are open, this one included.
    pub(super) fn accepted(&self, open: usize) {
        let mut state = self.0.get();
        state.accepted += 1;
        state.peak = state.peak.max(open);
        if state.accepted >= WINDOW {
            state.close(open, Instant::now());
        }
        self.0.set(state);
    }

    /// Returns whether one more connection is accepted at once if `open` are open: as many as were open at a time while
    /// connections came and went.
    pub(super) fn allows(&self, open: usize) -> bool {
        self.0.get().allowed.is_some_and(|(most, since)| open < most && since.elapsed() < VALID)
    }
}

impl State {
    /// Ends the window, and begins the next one.
    fn close(&mut self, open: usize, now: Instant) {
        let closed = (self.open_before + self.accepted).saturating_sub(open);
        let is_fast = self.began.is_some_and(|began| now.duration_since(began) < WINDOW_TIME_MAX);
        let allowed = (is_fast && 4 * closed >= 3 * self.accepted).then_some((self.peak, now));
        *self = Self { began: Some(now), open_before: open, peak: open, accepted: 0, allowed };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a window of `WINDOW` accepts that took `micros` each, in which `open` connections became `left`.
    fn window(micros: u64, open: usize, left: usize) -> Option<usize> {
        let began = Instant::now();
        let mut state = State { began: Some(began), open_before: open, peak: open, accepted: WINDOW, allowed: None };
        state.close(left, began + Duration::from_micros(micros * WINDOW as u64));
        state.allowed.map(|(most, _)| most)
    }

    #[test]
    fn connections_that_come_and_go_fast_are_turnover() {
        for (micros, open, left, expected) in [
            (100, 16, 16, Some(16)),
            (100, 16, 2, Some(16)),
            (399, 16, 32, Some(16)),
            // Too slow.
            (400, 16, 16, None),
            // Clients stay.
            (10, 0, 64, None),
            (100, 16, 33, None),
        ] {
            assert_eq!(window(micros, open, left), expected, "{micros} {open} {left}");
        }
    }

    #[test]
    fn burst_of_clients_that_stay_is_no_turnover() {
        let turnover = Turnover::default();
        for open in 1..1000 {
            turnover.accepted(open);
            assert!(!turnover.allows(open));
        }
    }

    #[test]
    fn no_more_are_allowed_than_were_open_before() {
        let turnover = Turnover::default();
        for _ in 0..2 * WINDOW {
            turnover.accepted(5);
        }
        assert_eq!([0, 4, 5].map(|open| turnover.allows(open)), [true, true, false]);
    }
}
