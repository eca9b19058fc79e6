//! The server's counters and gauges, and all their values at one moment.
//!
//! *Owns*: the kinds of numbers, and the list of all of them (`numbers`). A number itself belongs to the module that
//! counts. *Runs on*: any thread. *Invariants*: counting is always on and costs one atomic instruction. Every number
//! that is published stands in `Numbers`. `stats()`, reports and the lines of a stop read that and nothing else. What a
//! server has counted since its start stands in `Meters`.

mod closes;
mod ends;
mod error_code;
mod histogram;
mod kinds;
mod meters;
mod numbers;
mod reason;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub use self::closes::{CLOSE_CODES, Closer};
pub use self::ends::{Departure, End};
pub use self::error_code::ErrorCode;
pub use self::histogram::{Histogram, Times};
pub use self::kinds::{Class, Count, Method, Phase};
pub use self::meters::{METER_WORDS, Meters, Served, Sums};
pub use self::numbers::{Numbers, Permits};
pub use self::reason::Reason;

/// A number that only grows. It orders no other memory, so nothing may wait for its value.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    #[inline]
    pub fn count(&self) {
        self.add(1);
    }

    /// Counts `number` more.
    #[inline]
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// Returns how many have been counted.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls. A thread that reads the value of a fall also sees what happened before that fall, so
/// a drain can wait for 0.
#[derive(Debug, Default)]
pub struct Gauge(AtomicUsize);

impl Gauge {
    /// Adds one.
    #[inline]
    pub fn rise(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Adds one if the value is below `limit`. Returns whether it did.
    #[inline]
    pub fn rise_below(&self, limit: usize) -> bool {
        let one_more = |value: usize| (value < limit).then_some(value + 1);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    /// Adds this many.
    #[inline]
    pub fn raise(&self, number: usize) {
        self.0.fetch_add(number, Ordering::SeqCst);
    }

    /// Takes this many away.
    #[inline]
    pub fn lower(&self, number: usize) {
        self.0.fetch_sub(number, Ordering::SeqCst);
    }

    /// Takes one away. Returns what is left.
    #[inline]
    pub fn fall(&self) -> usize {
        self.0.fetch_sub(1, Ordering::SeqCst) - 1
    }

    /// Returns the current value.
    #[inline]
    pub fn value(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_grows_and_gauge_rises_and_falls() {
        let (counter, gauge) = (Counter::default(), Gauge::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counter.count();
                        counter.add(2);
                        gauge.rise();
                        gauge.rise();
                        assert!(gauge.fall() > 0);
                    }
                });
            }
        });
        assert_eq!((counter.value(), gauge.value()), (12_000, 4_000));
    }

    #[test]
    fn gauge_rises_up_to_a_limit_for_all_threads_together() {
        let (gauge, rises) = (Gauge::default(), Counter::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).filter(|_| gauge.rise_below(1500)).for_each(|_| rises.count()));
            }
        });
        assert_eq!((gauge.value(), rises.value()), (1500, 1500));
        assert!(gauge.fall() == 1499 && gauge.rise_below(1500) && !gauge.rise_below(1500));
    }
}
