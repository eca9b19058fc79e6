//! Times by their length, in classes that grow with the length.
//!
//! *Owns*: the classes, and what a reader makes of the counts. *Runs on*: any thread. *Invariants*: each doubling has four
//! classes, so a class is at most a quarter wider than its lower bound, and about 1 µs wide at least. The first class also
//! has all shorter times, and the last all longer ones.
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
/// The words of a histogram in memory: its classes, then the sum of all times in nanoseconds.
pub const HISTOGRAM_WORDS: usize = 112;
const AT_SUM: usize = CLASSES;
/// The words of a histogram.
pub(super) type Words = [AtomicU64; HISTOGRAM_WORDS];

/// The unit of the classes: 2^10 nanoseconds, because a shift costs less than a division.
const UNIT_BITS: u32 = 10;

/// What a histogram has counted, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; CLASSES],
    nanos: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; CLASSES], nanos: 0 }
    }
}

/// Returns the class of a number of units. As a floating-point number, it has the number of its doubling in the exponent,
/// and its quarter in the first two bits of the fraction (IEEE 754).
#[inline]
fn class_of(units: u64) -> usize {
    let bits = units.cast_signed() as f32;
    ((bits.to_bits() >> (f32::MANTISSA_DIGITS - 3)) as usize).saturating_sub(CLASS_OF_ONE).min(CLASSES - 1)
}

/// The exponent and the first bits of the fraction of the number 1.
const CLASS_OF_ONE: usize = (f32::MAX_EXP as usize - 1) << 2;

/// Returns where a class begins, in units.
fn begin_of(class: usize) -> u64 {
    ((4 + class as u64 % 4) << (class / 4)) / 4
}

/// Counts a time. Only one thread at a time may count in these words, but any thread may read them.
#[inline]
pub(super) fn observe(words: &Words, nanos: u64) {
    let (count, sum) = (&words[class_of(nanos >> UNIT_BITS)], &words[AT_SUM]);
    count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    sum.store(sum.load(Ordering::Relaxed).wrapping_add(nanos), Ordering::Relaxed);
}

/// Counts a time of 0, as `observe` does.
#[inline]
pub(super) fn observe_nothing(words: &Words) {
    words[0].store(words[0].load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Counts a time. Several threads may count in these words at once.
pub(super) fn observe_shared(words: &Words, time: Duration) {
    let nanos = nanos_of(time);
    words[class_of(nanos >> UNIT_BITS)].fetch_add(1, Ordering::Relaxed);
    words[AT_SUM].fetch_add(nanos, Ordering::Relaxed);
}

#[inline]
pub(super) fn nanos_of(time: Duration) -> u64 {
    time.as_secs().wrapping_mul(1_000_000_000) + u64::from(time.subsec_nanos())
}

/// Times that any thread counts.
#[derive(Debug)]
pub struct Times(Box<Words>);

impl Default for Times {
    fn default() -> Self {
        Self(Box::new([const { AtomicU64::new(0) }; HISTOGRAM_WORDS]))
    }
}

impl Times {
    /// Counts a time.
    pub fn observe(&self, time: Duration) {
        observe_shared(&self.0, time);
    }

    /// Copies the counts to these words. A thread that comes late with older counts changes nothing.
    pub(super) fn copy_to(&self, words: &Words) {
        for (word, own) in words.iter().zip(&*self.0) {
            let count = own.load(Ordering::Relaxed);
            // A write that changes nothing would make the kernel provide the page.
            if count != 0 {
                word.fetch_max(count, Ordering::Relaxed);
            }
        }
    }
}

impl Histogram {
    /// Adds what words have counted.
    pub(super) fn add(&mut self, words: &Words) {
        for (count, word) in self.counts.iter_mut().zip(words) {
            *count += word.load(Ordering::Relaxed);
        }
        self.nanos += words[AT_SUM].load(Ordering::Relaxed);
    }

    /// Adds what another histogram has counted.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.nanos += other.nanos;
    }

    /// Returns how many times have been counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum of all times, in seconds.
    pub fn sum(&self) -> f64 {
        self.nanos as f64 / 1e9
    }

    /// Returns how many times were shorter than 2^`doubling` × 1.024 microseconds.
    pub fn below(&self, doubling: u32) -> u64 {
        self.counts[..class_of(1 << doubling)].iter().sum()
    }

    /// Returns 2^`doubling` × 1.024 microseconds in seconds.
    pub fn bound(doubling: u32) -> f64 {
        (1_u64 << (UNIT_BITS + doubling)) as f64 / 1e9
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
        Some(Duration::from_nanos(begin_of((class + 1).min(CLASSES - 1)) << UNIT_BITS))
    }

    /// Returns at most `most` times, in order, at equal steps of all times. With as few times, that is one for each of
    /// them. Within a class, times are taken to lie at equal distances.
    pub fn spread(&self, most: u64) -> Vec<Duration> {
        let (all, wanted) = (self.count(), self.count().min(most));
        let mut spread = Vec::new();
        let (mut seen, mut class) = (0, 0);
        for step in 0..wanted {
            // The middle of the step, as a number of times that are shorter.
            let shorter = (step as f64 + 0.5) * all as f64 / wanted as f64;
            while class < CLASSES - 1 && (seen + self.counts[class]) as f64 <= shorter {
                seen += self.counts[class];
                class += 1;
            }
            let (begin, end) = (begin_of(class) as f64, begin_of((class + 1).min(CLASSES - 1)) as f64);
            // The first class also has all shorter times.
            let begin = if class == 0 { 0.0 } else { begin };
            let units = begin + (end - begin) * (shorter - seen as f64) / self.counts[class].max(1) as f64;
            spread.push(Duration::from_nanos((units * f64::from(1 << UNIT_BITS)) as u64));
        }
        spread
    }

    /// Returns what has been counted since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut later = self.clone();
        later.counts.iter_mut().zip(earlier.counts).for_each(|(count, before)| *count = count.saturating_sub(before));
        later.nanos = later.nanos.saturating_sub(earlier.nanos);
        later
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn counted(micros: &[u64]) -> Histogram {
        let words = [const { AtomicU64::new(0) }; HISTOGRAM_WORDS];
        for micros in micros {
            observe(&words, micros * 1_000);
        }
        observe_shared(&words, Duration::ZERO);
        let mut histogram = Histogram::default();
        histogram.add(&words);
        histogram
    }

    #[test]
    fn classes_follow_each_other_without_a_gap() {
        // Below 4 units there are fewer whole numbers than classes.
        for class in 8..CLASSES - 1 {
            let begin = begin_of(class);
            assert_eq!(class_of(begin), class, "{begin}");
            // A long time next to the end of its class may be rounded into the next one.
            assert!((class..=class + 1).contains(&class_of(begin_of(class + 1) - 1)), "{begin}");
            assert!(begin_of(class + 1) - begin <= (begin / 4).max(1), "{begin}");
        }
        assert_eq!([0, 1, 2, 3, 4, 5].map(class_of), [0, 0, 4, 6, 8, 9]);
        assert!(begin_of(CLASSES - 1) > 100_000_000);
        assert_eq!(class_of(u64::MAX >> UNIT_BITS), CLASSES - 1);
    }

    #[test]
    fn counts_and_sums_are_read_back() {
        let histogram = counted(&[2, 6, 1_100, 1_100_000]);
        assert_eq!((histogram.count(), histogram.sum()), (5, 1.101_108));
        assert_eq!([1, 3, 11, 21].map(|doubling| histogram.below(doubling)), [2, 3, 4, 5]);
        assert!((Histogram::bound(0) * 1e9 - 1024.0).abs() < 1e-6);
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

    #[test]
    fn spread_has_the_shape_of_all_times() {
        let close = |found: f64, exact: f64| assert!((found / exact - 1.0).abs() < 0.15, "{found} is not near {exact}");
        let times: Vec<u64> = (1..=10_000).collect();
        let spread: Vec<_> = counted(&times).spread(100).iter().map(Duration::as_secs_f64).collect();
        assert_eq!(spread.len(), 100);
        assert!(spread.is_sorted());
        close(spread[49], 0.004_95);
        close(spread[98], 0.009_85);
        close(spread.iter().sum::<f64>() / 100.0, 0.005);
        // `counted` adds a time of 0.
        let few = counted(&[100, 2_000_000]).spread(100);
        assert_eq!(few.len(), 3);
        assert!(few[0] < Duration::from_micros(2));
        close(few[1].as_secs_f64(), 0.000_1);
        close(few[2].as_secs_f64(), 2.0);
        assert_eq!(counted(&[u64::MAX / 2_000]).spread(1).len(), 1);
        assert_eq!(Histogram::default().spread(100), []);
    }
}
