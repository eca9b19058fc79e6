//! The standby: gathers its observations when it has the GIL, and does what the policy decides.
//!
//! *Runs on*: the standby thread.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use pyo3::Python;

use super::policy::{Decision, SECOND_LOOK, Seen, Verdict, is_busy};
use super::{Shared, Task, gil};

/// A wait for the GIL, when it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) at: Instant,
    /// How often threads had released the GIL by themselves. `None` if one was about to.
    pub(super) releases: Option<u64>,
}

impl<C: Task> Shared<C> {
    /// Decides whether a standby that has the GIL starts a call. If so, it counts as running, and the next standby may
    /// be sent.
    pub(super) fn stand_by(&self, py: Python<'_>, asked: &Asked, waited: Duration) -> bool {
        let mut verdict = self.judge(asked, waited, false);
        if verdict == Verdict::LookAgain {
            let (computes, asked) = py.detach(|| {
                let computes = self.compute_for(SECOND_LOOK);
                (computes, self.ask())
            });
            // Calls that compute without the GIL need processors, not more threads.
            let waited = if computes { Duration::MAX } else { asked.at.elapsed() };
            verdict = self.judge(&asked, waited, true);
        }
        let starts = matches!(verdict, Verdict::Start { .. });
        if starts {
            self.standby.store(false, Ordering::Release);
        }
        starts
    }

    /// Returns a wait for the GIL that begins now.
    pub(super) fn ask(&self) -> Asked {
        Asked { at: Instant::now(), releases: self.releases.seen() }
    }

    /// Sleeps, and returns whether the threads kept the processors busy meanwhile.
    fn compute_for(&self, time: Duration) -> bool {
        let (before, began) = (self.threads.time_used(), Instant::now());
        thread::sleep(time);
        is_busy(self.threads.time_used().saturating_sub(before), began.elapsed(), self.processors)
    }

    /// Asks the policy, and does what it decides.
    fn judge(&self, asked: &Asked, waited: Duration, second: bool) -> Verdict {
        loop {
            let seen = Seen {
                queued: !self.queue.is_empty(),
                working: self.working.value(),
                running: self.running.value(),
                waits_seen: self.waits_seen.load(Ordering::Relaxed),
                released: self.releases.has_changed(asked.releases),
                waited,
                second,
                has_gil: gil::is_on(),
                at_once: self.started_at_once(),
            };
            let decision = self.attempts.lock().judge(&seen, Instant::now());
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
