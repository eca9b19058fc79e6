//! When a worker asks to be replaced: after a number of requests, a time, or with too much memory.
//!
//! *Owns*: the limits of this worker, with their jitter. *Runs on*: the thread of the heartbeat. *Invariants*: the worker
//! asks once, and serves until the supervisor tells it to stop.

use std::time::{Duration, Instant};

use crate::config::{ByteSize, Config};
use crate::metrics::Departure;
use crate::phrase::{count, seconds};
use crate::{memory, sys};

/// One MiB, in bytes.
const MIB: u64 = 1 << 20;
/// The time between two looks at the memory.
const LOOK: Duration = Duration::from_secs(2);
/// A worker lives longer than its lifetime by a random time, at most the lifetime divided by this. Workers that have
/// started together are then not replaced together.
const LIFETIME_JITTER: u32 = 10;

/// The limits of a worker. `None`: no limit.
pub(super) struct Recycling {
    requests_max: Option<u64>,
    memory_max: Option<ByteSize>,
    lifetime: Option<Duration>,
    began: Instant,
    next_look: Instant,
    /// Whether the last look has found too much memory.
    was_over: bool,
    has_asked: bool,
}

impl Recycling {
    /// Begins the life of a worker.
    pub(super) fn begin(config: &Config, now: Instant) -> Self {
        let settings = &config.processes;
        let lifetime = settings.worker_lifetime;
        let longer = lifetime / LIFETIME_JITTER;
        let millis = u64::try_from(longer.as_millis()).unwrap_or(u64::MAX);
        Self {
            requests_max: (settings.max_requests > 0)
                .then(|| settings.max_requests + random_up_to(settings.max_requests_jitter)),
            memory_max: settings.max_worker_memory,
            lifetime: (!lifetime.is_zero()).then(|| lifetime + Duration::from_millis(random_up_to(millis))),
            began: now,
            next_look: now + LOOK,
            was_over: false,
            has_asked: false,
        }
    }

    /// Returns the cause and the reason if the worker is to ask for its replacement now. `served` is the number of its
    /// requests, and `overdue` the number of calls past their deadline that keep their threads.
    pub(super) fn due(&mut self, served: u64, overdue: usize, now: Instant) -> Option<(Departure, String)> {
        if self.has_asked {
            return None;
        }
        let due = match overdue {
            0 => self.reason(served, now)?,
            _ => (Departure::Overdue, overdue_sentence(overdue)),
        };
        self.has_asked = true;
        Some(due)
    }

    fn reason(&mut self, served: u64, now: Instant) -> Option<(Departure, String)> {
        if self.requests_max.is_some_and(|max| served >= max) {
            let sentence = format!("it has served {} (--max-requests)", count(served, "request"));
            return Some((Departure::Requests, sentence));
        }
        let lived = now - self.began;
        if self.lifetime.is_some_and(|lifetime| lived >= lifetime) {
            return Some((Departure::Lifetime, format!("it has lived for {} (--worker-lifetime)", seconds(lived))));
        }
        let max = self.memory_max.filter(|_| now >= self.next_look)?;
        self.next_look = now + LOOK;
        let used = sys::own_memory(max.0)?;
        if !std::mem::replace(&mut self.was_over, used > max.0) && self.was_over {
            // The allocator may keep memory that is free. Until the next look, it can give it back.
            memory::freed_much();
            return None;
        }
        let sentence = || format!("it uses {} MiB of memory (--max-worker-memory {max})", used.div_ceil(MIB));
        self.was_over.then(|| (Departure::Memory, sentence()))
    }
}

/// Says why a process with overdue calls that keep their threads cannot go on.
fn overdue_sentence(overdue: usize) -> String {
    let calls = count(overdue, "call");
    format!("too many of its threads have been given up, and {calls} past --request-timeout cannot be")
}

/// Returns a random number from 0 to `max`.
fn random_up_to(max: u64) -> u64 {
    // Not that of the standard library's hash maps: workers that are forked from one template share its seed.
    let random = sys::random();
    max.checked_add(1).map_or(random, |count| random % count)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn recycling(words: &[&str], now: Instant) -> Recycling {
        let config = Config::parse_from(["maypole", "m:app"].iter().chain(words)).unwrap();
        Recycling::begin(&config, now)
    }

    #[test]
    fn worker_without_limits_is_never_replaced() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1_000_000);
        assert_eq!(recycling(&["-w", "1"], now).due(u64::MAX, 0, later), None);
    }

    #[test]
    fn worker_asks_once_after_its_requests() {
        let now = Instant::now();
        let mut recycling = recycling(&["--max-requests", "1000", "--max-requests-jitter", "50"], now);
        assert_eq!(recycling.due(999, 0, now), None);
        let due = recycling.due(1050, 0, now).unwrap();
        assert_eq!(due, (Departure::Requests, "it has served 1050 requests (--max-requests)".to_owned()));
        assert_eq!(recycling.due(1051, 0, now), None);
    }

    #[test]
    fn worker_asks_once_if_calls_past_their_deadline_keep_their_threads() {
        let now = Instant::now();
        let mut recycling = recycling(&["-w", "1"], now);
        let (cause, reason) = recycling.due(0, 1, now).unwrap();
        assert!(cause == Departure::Overdue && reason.contains("1 call past --request-timeout"), "{reason}");
        assert_eq!(recycling.due(0, 2, now), None);
    }

    #[test]
    fn jitter_differs_from_worker_to_worker_and_keeps_its_limit() {
        let numbers: Vec<u64> = (0..100).map(|_| random_up_to(1_000_000)).collect();
        assert!(numbers.iter().all(|number| *number <= 1_000_000));
        assert!(numbers.iter().any(|number| *number != numbers[0]));
        assert_eq!(random_up_to(0), 0);
    }

    #[test]
    fn worker_lives_at_most_a_tenth_longer_than_its_lifetime() {
        let now = Instant::now();
        let mut recycling = recycling(&["--worker-lifetime", "100s"], now);
        assert_eq!(recycling.due(0, 0, now + Duration::from_secs(99)), None);
        let due = recycling.due(0, 0, now + Duration::from_secs(111)).unwrap();
        assert_eq!(due, (Departure::Lifetime, "it has lived for 111 s (--worker-lifetime)".to_owned()));
    }

    #[test]
    fn memory_counts_only_if_two_looks_find_too_much() {
        let now = Instant::now();
        let mut recycling = recycling(&["--max-worker-memory", "1MiB"], now);
        // Every process uses more than 1 MiB, once it has touched it.
        let touched = vec![7_u8; 4 << 20];
        assert_eq!(recycling.due(0, 0, now + LOOK), None);
        assert_eq!(recycling.due(0, 0, now + LOOK), None);
        let (cause, reason) = recycling.due(0, 0, now + 2 * LOOK).unwrap();
        assert_eq!(cause, Departure::Memory);
        assert!(reason.ends_with(" MiB of memory (--max-worker-memory 1MiB)"), "{reason}");
        drop(touched);
    }
}
