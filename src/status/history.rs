//! The sums of the last minute, from which rates follow.
//!
//! *Owns*: the samples. *Runs on*: the thread that accepts takes samples; the connections' threads read.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::metrics::{Count, Sums};

/// The time between two samples.
const EVERY: Duration = Duration::from_secs(5);
/// The samples that are kept: those of the last minute.
const KEPT: usize = 13;

/// The sums of the last minute.
#[derive(Debug)]
pub(super) struct History {
    samples: VecDeque<(Instant, Sums)>,
}

/// What has been counted within some time.
#[derive(Debug, Clone)]
pub(super) struct Recent {
    /// The time.
    pub(super) time: Duration,
    /// What was counted.
    pub(super) sums: Sums,
}

impl History {
    /// Begins with the first sample.
    pub(super) fn begin(sums: &Sums, now: Instant) -> Self {
        Self { samples: VecDeque::from([(now, sums.clone())]) }
    }

    /// Keeps the sums, if it is time.
    pub(super) fn sample(&mut self, sums: &Sums, now: Instant) {
        if self.samples.back().is_none_or(|(last, _)| now - *last >= EVERY) {
            self.samples.push_back((now, sums.clone()));
            if self.samples.len() > KEPT {
                self.samples.pop_front();
            }
        }
    }

    /// Returns what has been counted in about the last `time`: since the newest sample that is as old, else since the
    /// oldest one.
    pub(super) fn recent(&self, time: Duration, sums: &Sums, now: Instant) -> Recent {
        let old = self.samples.iter().rev().find(|(at, _)| now.saturating_duration_since(*at) >= time);
        let Some((at, earlier)) = old.or_else(|| self.samples.front()) else {
            return Recent { time: Duration::ZERO, sums: Sums::default() };
        };
        Recent { time: now.saturating_duration_since(*at), sums: sums.since(earlier) }
    }
}

impl Recent {
    /// Returns how much of a number came in each second.
    pub(super) fn per_second(&self, number: u64) -> f64 {
        let seconds = self.time.as_secs_f64();
        if seconds > 0.0 { precise(number) / seconds } else { 0.0 }
    }

    /// Returns the share of the time in which calls waited in vain, if `processes` serve: from 0 to 1.
    pub(super) fn saturation(&self, processes: usize) -> f64 {
        let share = self.per_second(self.sums.count(Count::SaturatedMicros)) / 1e6;
        (share / precise(processes.max(1) as u64)).clamp(0.0, 1.0)
    }
}

#[allow(clippy::cast_precision_loss, reason = "the numbers are far below 2^52")]
fn precise(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test fails by panicking, and its numbers are exact")]
mod tests {
    use super::*;
    use crate::metrics::Meters;

    #[test]
    fn rates_are_those_of_the_time_that_was_asked_for() {
        let (meters, begin) = (Meters::create().unwrap(), Instant::now());
        let sums = || {
            let mut sums = Sums::default();
            meters.add_to(&mut sums);
            sums
        };
        let mut history = History::begin(&sums(), begin);
        for second in 1..=120 {
            meters.count(Count::Accepted, 10);
            if second > 110 {
                meters.count(Count::SaturatedMicros, 500_000);
            }
            history.sample(&sums(), begin + Duration::from_secs(second));
        }
        let recent = |seconds| history.recent(Duration::from_secs(seconds), &sums(), begin + Duration::from_secs(120));
        assert_eq!((recent(10).time.as_secs(), recent(10).sums.count(Count::Accepted)), (10, 100));
        assert_eq!(recent(60).per_second(recent(60).sums.count(Count::Accepted)), 10.0);
        assert_eq!(recent(3600).time.as_secs(), 60, "more is not kept");
        assert_eq!((recent(10).saturation(1), recent(10).saturation(2)), (0.5, 0.25));
        assert_eq!(recent(0).per_second(1), 0.0);
    }
}
