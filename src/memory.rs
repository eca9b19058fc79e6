//! When the process keeps freed memory for later, and when it gives the memory back to the system.
//!
//! *Owns*: the thresholds, and the thread that gives memory back. *Runs on*: any thread or coroutine; a short-lived
//! thread trims, because that takes some milliseconds. *Invariants*: at most one such thread exists. A report that
//! arrives while it waits leads to one more trim.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::sys;

/// Each arena of the allocator keeps up to this many bytes of freed memory for later allocations.
const KEPT_BYTES: i32 = 8 << 20;
/// Allocations of this size are mapped from the system and unmapped one by one.
const MAPPED_BYTES: i32 = 8 << 20;
/// A number of connections counts as a peak from here on.
const PEAK_MIN: usize = 1024;
/// Memory is trimmed after this many bytes of response blocks have been released, even while calls run.
const RELEASED_BYTES: usize = 64 << 20;
/// Wait before trimming: clients tend to disconnect in groups, and the runtime frees a connection's registration only
/// after the current batch of events.
const TRIM_PAUSE: Duration = Duration::from_secs(1);

/// The reports that no trim has followed yet.
static REPORTS: AtomicUsize = AtomicUsize::new(0);

/// Makes the allocator keep the memory of bodies for later bodies, until a trim. Otherwise it would return each MiB
/// when it is freed, and the next MiB would cost 256 page faults (mallopt(3)). Allocator settings in the environment
/// take precedence.
pub fn keep_freed() {
    sys::set_allocator_thresholds(KEPT_BYTES, MAPPED_BYTES);
}

/// Reports that much memory has been freed. A thread gives it back to the system after `TRIM_PAUSE`. If no thread can
/// be started, the memory is kept until the next report.
pub fn freed_much() {
    if REPORTS.fetch_add(1, Ordering::SeqCst) > 0 {
        return;
    }
    let started = thread::Builder::new().name("maypole-trim".to_owned()).spawn(|| {
        loop {
            let followed = REPORTS.load(Ordering::SeqCst);
            thread::sleep(TRIM_PAUSE);
            sys::trim_memory();
            if REPORTS.fetch_sub(followed, Ordering::SeqCst) == followed {
                return;
            }
        }
    });
    if started.is_err() {
        REPORTS.store(0, Ordering::SeqCst);
    }
}

/// The peak of a number of connections since memory was last trimmed.
#[derive(Debug, Default)]
pub struct Peak(AtomicUsize);

impl Peak {
    /// Notes that the number has risen.
    pub fn rise(&self, current: usize) {
        // A load is cheaper than `fetch_max`, and only one thread opens connections.
        if current > self.0.load(Ordering::Relaxed) {
            self.0.store(current, Ordering::Relaxed);
        }
    }

    /// Notes that the number has fallen. Returns whether half of the peak has gone, so that memory should be trimmed.
    /// The peak starts again from the current number then.
    #[must_use]
    pub fn fall(&self, current: usize) -> bool {
        let peak = self.0.load(Ordering::Relaxed);
        let is_over = peak >= PEAK_MIN && current <= peak / 2;
        if is_over {
            self.0.store(current, Ordering::Relaxed);
        }
        is_over
    }
}

/// The response blocks that calls have released since memory was last trimmed.
#[derive(Debug, Default)]
pub struct Released {
    trimmed_at: AtomicUsize,
    /// Whether calls have run since then.
    was_busy: AtomicBool,
}

impl Released {
    /// Returns whether memory should be trimmed: calls have released much, or have all ended (`quiet`). `total` is the
    /// number of bytes released since the process began; it may wrap around.
    fn is_due(&self, total: usize, quiet: bool) -> bool {
        let since = total.wrapping_sub(self.trimmed_at.load(Ordering::Relaxed));
        since >= RELEASED_BYTES || (quiet && self.was_busy.load(Ordering::Relaxed))
    }

    /// Reports the memory if a trim is due, and begins again.
    pub fn settle(&self, total: usize, quiet: bool) {
        if self.is_due(total, quiet) {
            self.trimmed_at.store(total, Ordering::Relaxed);
            freed_much();
        }
        self.was_busy.store(!quiet, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_is_over_when_half_of_it_has_gone_and_once() {
        let peak = Peak::default();
        peak.rise(5000);
        peak.rise(3000);
        assert!(!peak.fall(2501));
        assert!(peak.fall(2500));
        assert!(!peak.fall(2499), "the new peak is 2500");
        assert!(peak.fall(1250));
        assert!(peak.fall(600), "from a peak of 1250");
        assert!(!peak.fall(0), "600 is no peak");
    }

    #[test]
    fn few_connections_are_no_peak() {
        let peak = Peak::default();
        peak.rise(PEAK_MIN - 1);
        assert!(!peak.fall(0));
    }

    #[test]
    fn released_blocks_are_due_when_they_are_many_or_calls_have_ended() {
        let released = Released { trimmed_at: AtomicUsize::new(usize::MAX), was_busy: AtomicBool::new(false) };
        assert!(!released.is_due(RELEASED_BYTES - 2, true), "no call has run");
        assert!(released.is_due(RELEASED_BYTES - 1, false), "the total has wrapped around");
        released.settle(RELEASED_BYTES - 1, false);
        assert!(!released.is_due(RELEASED_BYTES, false));
        assert!(released.is_due(RELEASED_BYTES, true), "all calls have ended");
        released.settle(RELEASED_BYTES, true);
        assert!(!released.is_due(RELEASED_BYTES, true), "once");
    }

    #[test]
    fn thread_that_trims_ends_after_the_last_report() {
        freed_much();
        freed_much();
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while REPORTS.load(Ordering::SeqCst) > 0 {
            assert!(std::time::Instant::now() < end, "the thread goes on");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
