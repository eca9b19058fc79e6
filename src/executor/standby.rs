//! The standby: gathers its observations when it has the GIL, and does what the policy decides.
//!
//! *Runs on*: the standby thread.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::policy::{Decision, Seen, Verdict, is_busy};
use super::{Shared, Task, gil, lock};

impl<C: Task> Shared<C> {
    /// Sleeps, and returns whether the threads kept the processors busy meanwhile.
    pub(super) fn compute_for(&self, time: Duration) -> bool {
        let used = || -> Duration { lock(&self.crew).clocks.iter().map(|(_, clock)| clock.elapsed()).sum() };
        let (before, began) = (used(), Instant::now());
        thread::sleep(time);
        is_busy(used().saturating_sub(before), began.elapsed(), self.processors)
    }

    /// Decides whether a standby that has the GIL starts a call. If so, it counts as running.
    pub(super) fn judge(&self, waited: Duration, releases: Option<u64>, second: bool) -> Verdict {
        loop {
            let seen = Seen {
                queued: !self.queue.is_empty(),
                working: self.working.value(),
                running: self.running.value(),
                waits_seen: self.waits_seen.load(Ordering::Relaxed),
                released: releases.is_none_or(|before| self.releases.load(Ordering::SeqCst) != before),
                waited,
                second,
                has_gil: gil::is_on(),
                at_once: self.started_at_once(),
            };
            let decision = lock(&self.attempts).judge(&seen, Instant::now());
            if self.follow(decision) {
                return decision.verdict;
            }
        }
    }

    /// Does what was decided. Returns false if another thread has started meanwhile, so that this one may be too many.
    fn follow(&self, decision: Decision) -> bool {
        let Decision { verdict, waits_seen, retire } = decision;
        if let Verdict::Start { below } = verdict
            && !self.running.rise_below(below)
        {
            return false;
        }
        if let Some(waits_seen) = waits_seen {
            self.waits_seen.store(waits_seen, Ordering::Relaxed);
        }
        if retire {
            self.retire.store(true, Ordering::Relaxed);
        }
        true
    }
}
