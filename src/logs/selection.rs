//! Which requests have a line in the access log.
//!
//! *Owns*: the count of requests that a sample is taken of. *Runs on*: any thread and any coroutine. *Invariants*: a
//! server error has a line, whatever the settings. Which requests a sample has depends on their order alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Entry;
use crate::config::{LogSettings, Share};

/// The requests that have a line.
#[derive(Debug)]
pub(super) struct Selection {
    /// A slower request has a line. `None`: slowness does not count.
    slower_than: Option<Duration>,
    /// The share of the other requests that have a line.
    sample: Share,
    /// How many other requests have been seen.
    seen: AtomicU64,
}

impl Selection {
    /// Returns the selection that the settings describe.
    pub(super) fn of(settings: &LogSettings) -> Self {
        let slower_than = settings.access_log_slower_than;
        let rest = if slower_than.is_some() { Share::NONE } else { Share::ALL };
        Self { slower_than, sample: settings.access_log_sample.unwrap_or(rest), seen: AtomicU64::new(0) }
    }

    /// Returns whether this request has a line.
    pub(super) fn takes(&self, entry: &Entry<'_>) -> bool {
        if entry.status >= 500 || self.sample == Share::ALL {
            return true;
        }
        self.slower_than.is_some_and(|limit| entry.duration > limit) || self.samples()
    }

    /// Counts a request. Returns whether it is in the sample: the first one, and then one for each whole part.
    fn samples(&self) -> bool {
        let (share, all) = (u64::from(self.sample.0), u64::from(Share::ALL.0));
        self.seen.fetch_add(1, Ordering::Relaxed).wrapping_mul(share) % all < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(share: u32, requests: u64) -> Vec<u64> {
        let selection = Selection { slower_than: None, sample: Share(share), seen: AtomicU64::new(0) };
        (1..=requests).filter(|_| selection.samples()).collect()
    }

    #[test]
    fn sample_is_spread_evenly_and_begins_with_the_first_request() {
        assert_eq!(sampled(250_000, 10), [1, 5, 9]);
        assert_eq!(sampled(666_667, 6), [1, 3, 4, 6]);
        assert!(sampled(0, 5).is_empty());
        assert_eq!(sampled(10_000, 1_000).len(), 10);
    }
}
