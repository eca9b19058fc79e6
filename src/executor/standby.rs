//! The standby: gathers its observations when it has the GIL, and does what the policy decides.
//!
//! *Runs on*: the standby thread.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::policy::{Judgement, Seen, Verdict};
use super::{Shared, Task, gil, lock};

impl<C: Task> Shared<C> {
    /// Sleeps, and returns whether the threads kept all processors at least 80 % busy meanwhile.
    pub(super) fn compute_for(&self, time: Duration) -> bool {
        let used = || -> Duration { lock(&self.crew).clocks.iter().map(|(_, clock)| clock.elapsed()).sum() };
        let (before, began) = (used(), Instant::now());
        thread::sleep(time);
        let busy = used().saturating_sub(before);
        let processors = u32::try_from(self.processors).unwrap_or(u32::MAX);
        busy >= began.elapsed() * processors / 5 * 4
    }

    /// Decides whether a standby that has the GIL starts a call. If so, it counts as running.
    pub(super) fn judge(&self, waited: Duration, releases: Option<u64>, second: bool) -> Verdict {
        let queued = !self.queue.is_empty();
        if queued && self.begin_running() {
            return Verdict::Start;
        }
        let let_go = releases.is_none_or(|before| self.releases.load(Ordering::SeqCst) != before);
        let seen = Seen {
            queued,
            working: self.working.load(Ordering::SeqCst),
            running: self.running.load(Ordering::SeqCst),
            waits_seen: self.waits_seen.load(Ordering::Relaxed),
            let_go,
            waited,
            second,
            has_gil: gil::is_on(),
            at_once: self.started_at_once(),
        };
        let Judgement { verdict, waits_seen, retire } = lock(&self.attempts).judge(&seen, Instant::now());
        if let Some(waits_seen) = waits_seen {
            self.waits_seen.store(waits_seen, Ordering::Relaxed);
        }
        if retire {
            self.retire.store(true, Ordering::Relaxed);
        }
        if verdict == Verdict::Start {
            self.running.fetch_add(1, Ordering::SeqCst);
        }
        verdict
    }
}
