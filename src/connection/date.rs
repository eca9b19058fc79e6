//! The value of the `Date` field, computed once a second (RFC 9110 §6.6.1).
//!
//! *Runs on*: the connections' coroutines. *Invariants*: the lock is held only to copy the value, or once a second to
//! compute it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::http::date;
use crate::sys::Lock;

/// The current value, and the time until which it is valid.
#[derive(Debug)]
pub(super) struct DateCache(Lock<(Instant, [u8; 29])>);

impl Default for DateCache {
    fn default() -> Self {
        Self(Lock::new((Instant::now(), date::imf_fixdate(UNIX_EPOCH))))
    }
}

impl DateCache {
    /// Returns the value at `now`.
    pub(super) fn at(&self, now: Instant) -> [u8; 29] {
        let mut cached = self.0.lock();
        if now >= cached.0 {
            let time = SystemTime::now();
            let over = Duration::from_nanos(time.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos().into());
            let left = Duration::from_secs(1).saturating_sub(over);
            *cached = (now + left, date::imf_fixdate(time));
        }
        cached.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_is_computed_again_when_its_second_is_over() {
        let (cache, now) = (DateCache::default(), Instant::now());
        let first = cache.at(now);
        assert_ne!(first, date::imf_fixdate(UNIX_EPOCH), "the value of the clock");
        *cache.0.lock() = (now + Duration::from_secs(1), date::imf_fixdate(UNIX_EPOCH));
        assert_eq!(cache.at(now), date::imf_fixdate(UNIX_EPOCH), "the second is not over");
        assert_ne!(cache.at(now + Duration::from_secs(1)), date::imf_fixdate(UNIX_EPOCH));
    }
}
