//! Times by their length, in classes that grow with the length.
//!
//! *Owns*: the classes, and what a reader makes of the counts. *Runs on*: any thread. *Invariants*: below 4 µs a class
//! is 1 µs wide. Above, each doubling has four classes, so a class is at most a quarter wider than its lower bound. The
//! last class has no upper bound.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and microseconds stay below 2^52"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The number of classes.
pub const CLASSES: usize = 108;
/// The words of a histogram in memory: its classes, then the sum of all times in microseconds.
pub const HISTOGRAM_WORDS: usize = 112;
const AT_SUM: usize = CLASSES;

/// What a histogram has counted, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; CLASSES],
    micros: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; CLASSES], micros: 0 }
    }
}

#[inline]
fn micros_of(time: Duration) -> u64 {
    time.as_secs().wrapping_mul(1_000_000) + u64::from(time.subsec_micros())
}

/// Returns the class of a time.
#[inline]
fn class_of(micros: u64) -> usize {
    if micros < 4 {
        return micros as usize;
    }
    let doubling = micros.ilog2();
    let quarter = (micros >> (doubling - 2)) & 3;
    ((doubling as usize - 1) * 4 + quarter as usize).min(CLASSES - 1)
}

/// Returns where a class begins, in microseconds.
fn begin_of(class: usize) -> u64 {
    if class < 4 { class as u64 } else { (4 + class as u64 % 4) << (class / 4 - 1) }
}

/// Counts a time. Only one thread at a time may count in these words, but any thread may read them.
#[inline]
pub(super) fn observe(words: &[AtomicU64], time: Duration) {
    let micros = micros_of(time);
    for (at, more) in [(class_of(micros), 1), (AT_SUM, micros)] {
        words[at].store(words[at].load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }
}

/// Counts a time. Several threads may count in these words at once.
pub(super) fn observe_shared(words: &[AtomicU64], time: Duration) {
    let micros = micros_of(time);
    words[class_of(micros)].fetch_add(1, Ordering::Relaxed);
    words[AT_SUM].fetch_add(micros, Ordering::Relaxed);
}

impl Histogram {
    /// Adds what words have counted.
    pub(super) fn add(&mut self, words: &[AtomicU64]) {
        for (count, word) in self.counts.iter_mut().zip(words) {
            *count += word.load(Ordering::Relaxed);
        }
        self.micros += words[AT_SUM].load(Ordering::Relaxed);
    }

    /// Adds what another histogram has counted.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.micros += other.micros;
    }

    /// Returns how many times have been counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum of all times, in seconds.
    pub fn sum(&self) -> f64 {
        self.micros as f64 / 1e6
    }

    /// Returns how many times were shorter than 2^`doubling` microseconds.
    pub fn below(&self, doubling: u32) -> u64 {
        self.counts[..class_of(1 << doubling)].iter().sum()
    }

    /// Returns a time that the part `share` of all times does not exceed, up to a quarter too long. `None` without
    /// times.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let all = self.count();
        let wanted = ((all as f64 * share).ceil() as u64).clamp(1, all.max(1));
        let mut seen = 0;
        let class = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(Duration::from_micros(begin_of((class + 1).min(CLASSES - 1))))
    }

    /// Returns what has been counted since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut later = self.clone();
        later.counts.iter_mut().zip(earlier.counts).for_each(|(count, before)| *count = count.saturating_sub(before));
        later.micros = later.micros.saturating_sub(earlier.micros);
        later
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn counted(micros: &[u64]) -> Histogram {
        let words: Vec<AtomicU64> = (0..HISTOGRAM_WORDS).map(|_| AtomicU64::new(0)).collect();
        for micros in micros {
            observe(&words, Duration::from_micros(*micros));
        }
        observe_shared(&words, Duration::ZERO);
        let mut histogram = Histogram::default();
        histogram.add(&words);
        histogram
    }

    #[test]
    fn classes_follow_each_other_without_a_gap() {
        for class in 0..CLASSES {
            let begin = begin_of(class);
            assert_eq!(class_of(begin), class, "{begin}");
            assert_eq!(class_of(begin_of(class + 1) - 1), class, "{begin}");
            assert!(begin_of(class + 1) - begin <= (begin / 4).max(1), "{begin}");
        }
        assert!(begin_of(CLASSES - 1) > 100_000_000);
        assert_eq!(class_of(u64::MAX), CLASSES - 1);
    }

    #[test]
    fn counts_and_sums_are_read_back() {
        let histogram = counted(&[1, 5, 1_000, 1_000_000]);
        assert_eq!((histogram.count(), histogram.sum()), (5, 1.001_006));
        assert_eq!([0, 1, 3, 10, 20].map(|doubling| histogram.below(doubling)), [1, 2, 3, 4, 5]);
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!(twice.since(&histogram), histogram);
    }

    #[test]
    fn quantile_is_at_most_a_quarter_too_long() {
        let times: Vec<u64> = (1..=10_000).collect();
        let histogram = counted(&times);
        for (share, exact) in [(0.5, 5_000.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let found = histogram.quantile(share).unwrap().as_micros() as f64;
            assert!(exact <= found && found <= exact * 1.25, "{share}: {found}");
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
