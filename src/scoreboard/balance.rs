//! Which idle connections move from a worker that is far busier than the others.
//!
//! *Owns*: for how long each worker has been far from its share. *Runs on*: the supervisor's thread, once a second.
//! *Invariants*: a connection moves only if that makes the loads more even, so nothing moves to and fro.

use std::collections::BTreeMap;

use super::{Scoreboard, Slot};

/// After this many looks in a row at which the loads are uneven, connections move.
const LOOKS: u32 = 5;
/// How much a request in service counts, if a connection counts 1.
const REQUEST_WEIGHT: u64 = 4;

/// Connections that one worker hands over to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The slot of the worker that has too many.
    pub from: usize,
    /// The slot of the worker that has too few.
    pub to: usize,
    /// The most connections that move. Only idle ones do.
    pub count: usize,
}

/// A serving worker at one look.
#[derive(Debug, Clone, Copy)]
struct Part {
    slot: usize,
    connections: u64,
    load: u64,
    is_stuck: bool,
}

impl Part {
    /// Returns the load that one connection brings.
    fn weight(&self) -> u64 {
        (self.load / self.connections.max(1)).max(1)
    }

    /// Returns its place among the workers that give: the stuck ones first, then by what is left after one connection.
    fn rank(&self) -> (bool, u64) {
        (self.is_stuck, self.load.saturating_sub(self.weight()))
    }
}

/// Watches whether the loads of the workers are even.
#[derive(Debug, Default)]
pub struct Balance {
    /// The looks in a row at which they were not.
    uneven: u32,
}

impl Balance {
    /// Looks at the workers. Returns the connections that move now.
    pub fn look(&mut self, board: &Scoreboard) -> Vec<Transfer> {
        let parts = board.slots().filter(Slot::accepts).map(|slot| Part {
            slot: slot.index(),
            connections: slot.connections() as u64,
            load: slot.connections() as u64 + REQUEST_WEIGHT * slot.requests() as u64,
            is_stuck: slot.is_stuck(),
        });
        self.decide(&parts.collect::<Vec<_>>())
    }

    fn decide(&mut self, parts: &[Part]) -> Vec<Transfer> {
        let free = parts.iter().filter(|part| !part.is_stuck).count() as u64;
        let transfers = if free == 0 { Vec::new() } else { transfers(parts, free) };
        self.uneven = if transfers.is_empty() { 0 } else { self.uneven + 1 };
        if self.uneven < LOOKS {
            return Vec::new();
        }
        self.uneven = 0;
        transfers
    }
}

/// Returns the connections that would make the loads even. Returns none if no load is above 1.5 times the mean and none
/// is below half of it. A stuck worker gives everything.
fn transfers(parts: &[Part], free: u64) -> Vec<Transfer> {
    let total: u64 = parts.iter().map(|part| part.load).sum();
    // Loads times the number of free workers are compared with the total, so that nothing is rounded.
    let is_far = |part: &Part| part.is_stuck || 2 * free * part.load > 3 * total || 2 * free * part.load < total;
    if !parts.iter().any(is_far) {
        return Vec::new();
    }
    let mut parts = parts.to_vec();
    let mut found = BTreeMap::new();
    while let Some((from, to)) = next(&parts) {
        let weight = parts[from].weight();
        parts[from].connections -= 1;
        parts[from].load = parts[from].load.saturating_sub(weight);
        parts[to].connections += 1;
        parts[to].load += weight;
        *found.entry((parts[from].slot, parts[to].slot)).or_insert(0) += 1;
    }
    found.into_iter().map(|((from, to), count)| Transfer { from, to, count }).collect()
}

/// Returns the worker that gives the next connection and the one that takes it. `None`: a further one would not make the
/// loads more even.
fn next(parts: &[Part]) -> Option<(usize, usize)> {
    let (from, giver) =
        parts.iter().enumerate().filter(|(_, part)| part.connections > 0).max_by_key(|(_, part)| part.rank())?;
    let (to, taker) = parts.iter().enumerate().filter(|(_, part)| !part.is_stuck).min_by_key(|(_, part)| part.load)?;
    (giver.is_stuck || giver.load > taker.load + giver.weight()).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(loads: &[(u64, u64)]) -> Vec<Part> {
        let part = |(slot, &(connections, requests)): (usize, &(u64, u64))| Part {
            slot,
            connections,
            load: connections + REQUEST_WEIGHT * requests,
            is_stuck: false,
        };
        loads.iter().enumerate().map(part).collect()
    }

    /// Returns what moves at the look at which something may move: from, to, count.
    fn moved(parts: &[Part]) -> Vec<(usize, usize, usize)> {
        let mut balance = Balance::default();
        for _ in 1..LOOKS {
            assert_eq!(balance.decide(parts), []);
        }
        balance.decide(parts).iter().map(|moved| (moved.from, moved.to, moved.count)).collect()
    }

    #[test]
    fn connections_move_from_a_worker_with_far_more_than_the_mean() {
        for (loads, expected) in [
            (vec![(0, 0), (0, 0)], vec![]),
            (vec![(9, 0)], vec![]),
            (vec![(1, 0), (1, 0), (0, 0)], vec![]),
            (vec![(2, 0), (1, 0), (0, 0)], vec![(0, 2, 1)]),
            (vec![(3, 0), (0, 0), (0, 0)], vec![(0, 1, 1), (0, 2, 1)]),
            (vec![(2, 0), (0, 0), (0, 0)], vec![(0, 1, 1)]),
            (vec![(4, 0), (0, 0), (0, 0)], vec![(0, 1, 1), (0, 2, 1)]),
            (vec![(1000, 0), (0, 0)], vec![(0, 1, 500)]),
            (vec![(300, 0), (280, 0), (220, 0), (200, 0)], vec![]),
            (vec![(333, 0), (333, 0), (334, 0), (0, 0)], vec![(0, 3, 83), (1, 3, 83), (2, 3, 84)]),
        ] {
            assert_eq!(moved(&parts(&loads)), expected, "{loads:?}");
        }
    }

    #[test]
    fn requests_count_more_than_idle_connections() {
        // Ten connections with ten requests against ten idle ones: four of them even it out.
        assert_eq!(moved(&parts(&[(10, 10), (10, 0)])), [(0, 1, 4)]);
        // Idle connections move, although another worker has a greater load that cannot be divided.
        assert_eq!(moved(&parts(&[(1, 1), (4, 0), (0, 0)])), [(1, 2, 2)]);
        // The only busy connection of a worker stays.
        assert_eq!(moved(&parts(&[(1, 1), (1, 0), (1, 0), (1, 0)])), []);
    }

    #[test]
    fn stuck_worker_gives_what_it_has_and_gets_nothing() {
        let mut stuck = parts(&[(8, 1), (10, 0), (10, 0)]);
        stuck[0].is_stuck = true;
        let moved = moved(&stuck);
        assert!(moved.iter().all(|&(from, ..)| from == 0));
        assert_eq!(moved.iter().map(|&(_, _, count)| count).sum::<usize>(), 8);
        for part in &mut stuck {
            part.is_stuck = true;
        }
        assert_eq!(transfers_of_all_stuck(&stuck), []);
    }

    fn transfers_of_all_stuck(parts: &[Part]) -> Vec<Transfer> {
        let mut balance = Balance { uneven: LOOKS };
        balance.decide(parts)
    }

    #[test]
    fn loads_that_are_uneven_only_now_and_then_move_nothing() {
        let (even, uneven) = (parts(&[(5, 0), (5, 0)]), parts(&[(10, 0), (0, 0)]));
        let mut balance = Balance::default();
        for _ in 0..3 {
            for _ in 1..LOOKS {
                assert_eq!(balance.decide(&uneven), []);
            }
            assert_eq!(balance.decide(&even), []);
        }
    }
}
