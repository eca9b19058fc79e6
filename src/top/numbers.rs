//! What the service has responded: its numbers and its requests, and the rates that follow from two responses.
//!
//! *Owns*: the responses. *Runs on*: the main thread.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::documents::{Requests, Stats};

/// How many responses are kept. One arrives in each second.
const KEPT: usize = 10;

/// The responses of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The newest one is last. All of them are of one run of the service.
    stats: VecDeque<Stats>,
    pub(super) requests: Requests,
    /// When the newest one arrived.
    arrived: Option<Instant>,
    /// Why the service does not respond.
    pub(super) failure: Option<String>,
}

impl Numbers {
    /// Keeps a response.
    pub(super) fn add(&mut self, stats: Stats, requests: Requests, now: Instant) {
        // A service that has started again counts from 0.
        if self
            .stats
            .back()
            .is_some_and(|last| (last.pid, last.started.to_bits()) != (stats.pid, stats.started.to_bits()))
        {
            self.stats.clear();
        }
        self.stats.push_back(stats);
        if self.stats.len() > KEPT {
            self.stats.pop_front();
        }
        self.requests = requests;
        self.arrived = Some(now);
        self.failure = None;
    }

    /// Returns the newest numbers. `None`: no response has arrived yet.
    pub(super) fn newest(&self) -> Option<&Stats> {
        self.stats.back()
    }

    /// Returns how old the newest numbers are.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.arrived.map_or(Duration::ZERO, |arrived| now.saturating_duration_since(arrived))
    }

    /// Returns the two newest numbers, and the seconds between them.
    fn last_second(&self) -> Option<(&Stats, &Stats, f64)> {
        let newest = self.stats.back()?;
        let before = self.stats.get(self.stats.len().checked_sub(2)?)?;
        let seconds = newest.uptime_seconds - before.uptime_seconds;
        (seconds > 0.0).then_some((before, newest, seconds))
    }

    /// Returns how many requests end in each second.
    pub(super) fn rate(&self) -> f64 {
        match self.last_second() {
            Some((before, newest, seconds)) => grown(before.total.requests, newest.total.requests) / seconds,
            None => self.newest().map_or(0.0, |newest| newest.recent.requests_per_second),
        }
    }

    /// Returns how many requests of a process end in each second. `None`: it has just started.
    pub(super) fn rate_of(&self, pid: u32) -> Option<f64> {
        let (before, newest, seconds) = self.last_second()?;
        let served = |stats: &Stats| stats.processes.iter().find(|process| process.pid == pid).map(|one| one.served);
        Some(grown(served(before)?, served(newest)?) / seconds)
    }

    /// Returns the mean seconds of a request in each phase, over all numbers that are kept. The time for the GIL is not
    /// part of the queue's. `None`: no request has ended.
    pub(super) fn split(&self) -> Option<[(&'static str, f64); 5]> {
        let (oldest, newest) = (self.stats.front()?, self.stats.back()?);
        let requests = grown(oldest.total.requests, newest.total.requests);
        let seconds = |stats: &Stats, phase| stats.total.phases.get(phase).copied().unwrap_or_default().seconds;
        let mean = |phase| (seconds(newest, phase) - seconds(oldest, phase)).max(0.0) / requests;
        let gil = mean("gil").min(mean("queue"));
        let queue = mean("queue") - gil;
        let split = [
            ("receive", mean("receive")),
            ("queue", queue),
            ("GIL", gil),
            ("application", mean("application")),
            ("send", mean("send")),
        ];
        (requests > 0.0).then_some(split)
    }
}

#[allow(clippy::cast_precision_loss, reason = "the numbers are far below 2^52")]
fn grown(before: u64, now: u64) -> f64 {
    now.saturating_sub(before) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test fails by panicking, and its numbers are exact")]
mod tests {
    use super::*;

    fn stats(pid: u32, uptime: u32, requests: u32, queue: f64, gil: f64) -> Stats {
        let text = format!(
            r#"{{"pid": {pid}, "started": 1.5, "uptime_seconds": {uptime}, "another": [],
                "total": {{"requests": {requests}, "phases": {{"queue": {{"count": 1, "seconds": {queue}}},
                "gil": {{"seconds": {gil}}}}}}}, "recent": {{"requests_per_second": 7.5, "duration": null}},
                "processes": [{{"number": 1, "pid": {pid}, "served": {requests}, "stuck_seconds": null}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn add(numbers: &mut Numbers, stats: Stats) {
        numbers.add(stats, Requests::default(), Instant::now());
    }

    #[test]
    fn rates_are_those_between_two_responses() {
        let mut numbers = Numbers::default();
        add(&mut numbers, stats(5, 10, 100, 1.0, 0.5));
        assert_eq!((numbers.rate(), numbers.rate_of(5), numbers.split()), (7.5, None, None));
        add(&mut numbers, stats(5, 12, 200, 3.0, 1.0));
        assert_eq!((numbers.rate(), numbers.rate_of(5), numbers.rate_of(6)), (50.0, Some(50.0), None));
        let split = numbers.split().unwrap();
        assert_eq!(split[1..3], [("queue", 0.015), ("GIL", 0.005)]);
    }

    #[test]
    fn service_that_has_started_again_counts_from_zero() {
        let mut numbers = Numbers::default();
        add(&mut numbers, stats(5, 10, 100, 1.0, 0.5));
        add(&mut numbers, stats(6, 1, 2, 0.0, 0.0));
        assert_eq!((numbers.rate(), numbers.newest().unwrap().pid), (7.5, 6));
    }
}
