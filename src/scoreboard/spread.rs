//! Which worker accepts the next connection.
//!
//! All workers wait for the same listeners, and the kernel wakes all of them for a connection. The worker with the
//! least load accepts it at once. Any other worker leaves it to that one for a while.
//!
//! *Runs on*: the runtime's thread of each worker. *Invariants*: `patience` reads no clock and no shared state, so each
//! rule is tested as a table. A worker never waits for a worker that cannot accept.

use std::time::Duration;

use super::slot::{Slot, State};

/// How long a worker leaves a client to a worker with less load. A worker that has a processor accepts within 0.1 ms.
const PATIENCE: Duration = Duration::from_millis(2);
/// The same, if the difference between the two is large. It covers the time that the other worker may wait for a
/// processor on a busy machine.
const PATIENCE_IF_UNEVEN: Duration = Duration::from_millis(50);
/// A worker that has served for less than this starts slowly.
const NEW_UNTIL: Duration = Duration::from_secs(10);

/// What one worker sees of another, or of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    pub(super) connections: usize,
    pub(super) requests: usize,
    /// At its limit of connections.
    pub(super) is_full: bool,
    /// No thread gets the GIL.
    pub(super) is_stuck: bool,
}

impl Seen {
    /// Returns the load: the connections, and up to a quarter more if requests are being served. More weight for
    /// requests would spread connections unevenly that stay open when the requests have ended.
    fn load(&self) -> usize {
        self.connections + (4 * self.requests).min(self.connections / 4 + 1)
    }

    fn is_free(&self) -> bool {
        !self.is_full && !self.is_stuck
    }
}

/// Returns how long a worker leaves a client to the others, which must be serving. Zero: it accepts now.
pub(super) fn patience(own: Seen, others: impl Iterator<Item = Seen>) -> Duration {
    let Some(least) = others.filter(Seen::is_free).map(|other| other.load()).min() else { return Duration::ZERO };
    if own.is_stuck {
        return Duration::MAX;
    }
    let load = own.load();
    if own.is_full {
        // A full worker would close an idle connection to make room.
        PATIENCE_IF_UNEVEN
    } else if load <= least + least / 8 {
        Duration::ZERO
    } else if load <= least + least / 4 + 1 {
        PATIENCE
    } else {
        PATIENCE_IF_UNEVEN
    }
}

/// Returns whether a worker that has just begun to serve has got requests faster than it can serve them. It has few
/// connections, so all others would leave every client to it.
pub(super) fn is_flooded(new: Seen, own: Seen) -> bool {
    new.requests > 2 * own.requests + 4
}

impl Slot {
    /// Returns how long this worker leaves a client that waits to be accepted to the other workers. Zero: it accepts
    /// now.
    pub fn patience(&self) -> Duration {
        let own = self.seen();
        let serving = self.scoreboard().slots().filter(|slot| slot.index() != self.index() && slot.accepts());
        patience(
            own,
            serving
                .map(|slot| (slot.seen(), slot))
                .filter(|(seen, slot)| {
                    !(is_flooded(*seen, own) && slot.served_for().is_some_and(|time| time < NEW_UNTIL))
                })
                .map(|(seen, _)| seen),
        )
    }

    /// Returns whether the worker serves, and its runtime runs.
    pub(super) fn accepts(&self) -> bool {
        self.state() == State::Serving && self.runs()
    }

    fn seen(&self) -> Seen {
        Seen {
            connections: self.connections(),
            requests: self.requests(),
            is_full: self.is_full(),
            is_stuck: self.is_stuck(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;

    fn with(connections: usize) -> Seen {
        Seen { connections, ..Seen::default() }
    }

    #[test]
    fn worker_with_less_load_accepts_first() {
        for (own, others, expected) in [
            (0, vec![], Duration::ZERO),
            (9, vec![], Duration::ZERO),
            (0, vec![0, 0], Duration::ZERO),
            (1, vec![0], PATIENCE),
            (2, vec![0], PATIENCE_IF_UNEVEN),
            (4, vec![9, 3, 5], PATIENCE),
            (5, vec![9, 3, 5], PATIENCE_IF_UNEVEN),
            (3, vec![9, 3, 5], Duration::ZERO),
            // A small difference between large loads costs no wait.
            (18, vec![16], Duration::ZERO),
            (19, vec![16], PATIENCE),
            (21, vec![16], PATIENCE),
            (22, vec![16], PATIENCE_IF_UNEVEN),
            (281, vec![250], Duration::ZERO),
            (314, vec![250], PATIENCE_IF_UNEVEN),
        ] {
            assert_eq!(patience(with(own), others.iter().map(|&other| with(other))), expected, "{own} {others:?}");
        }
    }

    #[test]
    fn requests_weigh_at_most_a_quarter_of_the_connections() {
        let busy = |connections, requests| Seen { requests, ..with(connections) };
        assert_eq!(
            [busy(0, 0), busy(1, 1), busy(3, 1), busy(16, 1), busy(16, 16)].map(|seen| seen.load()),
            [0, 2, 4, 20, 21]
        );
        assert_eq!(patience(with(4), [busy(3, 3)].into_iter()), Duration::ZERO);
        assert_eq!(patience(with(5), [busy(3, 3)].into_iter()), PATIENCE);
    }

    #[test]
    fn stuck_or_full_worker_leaves_clients_to_free_ones() {
        let stuck = |connections| Seen { is_stuck: true, ..with(connections) };
        let full = |connections| Seen { is_full: true, ..with(connections) };
        for (own, other, expected) in [
            (with(5), stuck(0), Duration::ZERO),
            (with(5), full(0), Duration::ZERO),
            (stuck(0), with(500), Duration::MAX),
            (stuck(0), stuck(5), Duration::ZERO),
            (stuck(0), full(5), Duration::ZERO),
            (full(5), with(500), PATIENCE_IF_UNEVEN),
            (full(5), full(500), Duration::ZERO),
        ] {
            assert_eq!(patience(own, [other].into_iter()), expected, "{own:?} {other:?}");
        }
    }

    #[test]
    fn only_serving_workers_count() {
        let board = Scoreboard::create().unwrap();
        let slots = [0, 1].map(|index| board.slot(index));
        for slot in &slots {
            slot.enter(4711, 1, 1);
        }
        let [own, other] = slots;
        own.set_connections(9);
        own.set_state(State::Serving);
        for (state, expected) in [
            (State::Starting, Duration::ZERO),
            (State::Serving, PATIENCE_IF_UNEVEN),
            (State::Draining, Duration::ZERO),
            (State::Empty, Duration::ZERO),
        ] {
            other.set_state(state);
            assert_eq!(own.patience(), expected, "{state:?}");
        }
    }

    #[test]
    fn new_worker_that_is_flooded_does_not_count() {
        let board = Scoreboard::create().unwrap();
        let slots = [0, 1].map(|index| board.slot(index));
        for slot in &slots {
            slot.enter(4711, 1, 1);
            slot.set_state(State::Serving);
        }
        let [own, new] = slots;
        own.set_connections(250);
        own.set_requests(1);
        new.set_connections(10);
        new.set_requests(6);
        assert_eq!(own.patience(), PATIENCE_IF_UNEVEN);
        new.set_requests(7);
        assert_eq!(own.patience(), Duration::ZERO);
    }
}
