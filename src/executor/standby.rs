//! The standby: how long it waited for the GIL says whether one more thread starts a call.
//!
//! *Runs on*: the thread that stands by.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::{Shared, Task, lock};

/// A standby that gets the GIL within this time got it from a call that let go of it, in order to wait: a call that
/// computes keeps it for the switch interval, 5 ms.
const FORCED: Duration = Duration::from_millis(4);
/// Before one more thread than ever proved useful starts, the GIL must be let go of again after this time: among several
/// threads that compute, a standby can get it early by the luck of asking shortly before it changes hands. Whoever has
/// it after that change has a whole interval before it, so luck does not come twice.
pub(super) const SECOND_LOOK: Duration = Duration::from_micros(300);
/// How long the next attempt waits after a refusal: twice as long each time, from here …
const BACK_OFF_MIN: Duration = Duration::from_millis(1);
/// … to here. A refusal costs two context switches.
const BACK_OFF_MAX: Duration = Duration::from_millis(16);
/// So many refusals in a row mean that one running thread is too many.
const REFUSALS_TO_RETIRE: u32 = 4;
/// What a standby concludes from how long it waited for the GIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Start,
    Rest,
    LookAgain,
}

/// How the standbys fared lately.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempts {
    /// So many threads have been seen to be useful at once, since the GIL was last got late.
    pub(super) proven: usize,
    pub(super) refusals: u32,
    pub(super) inconclusive: u32,
    pub(super) back_off: Duration,
    /// Not before.
    pub(super) next: Instant,
    /// How long the next attempt waits after one that said nothing, as long as calls end …
    pub(super) pause: Duration,
    /// … and until when.
    pub(super) pause_ends: Instant,
}

impl Default for Attempts {
    fn default() -> Self {
        let now = Instant::now();
        let (back_off, pause) = (BACK_OFF_MIN, BACK_OFF_MIN);
        Self { proven: 0, refusals: 0, inconclusive: 0, back_off, next: now, pause, pause_ends: now }
    }
}

impl<C: Task> Shared<C> {
    /// Sleeps, and answers whether the threads kept all processors busy meanwhile.
    pub(super) fn compute_for(&self, time: Duration) -> bool {
        let used = || -> Duration { lock(&self.crew).clocks.iter().map(|(_, clock)| clock.elapsed()).sum() };
        let (before, began) = (used(), Instant::now());
        thread::sleep(time);
        let busy = used().saturating_sub(before);
        let processors = u32::try_from(self.processors).unwrap_or(u32::MAX);
        busy >= began.elapsed() * processors / 5 * 4
    }

    /// A standby has the GIL: does it start a call?
    pub(super) fn judge(&self, waited: Duration, releases: Option<u64>, second: bool) -> Verdict {
        if self.queue.is_empty() {
            if self.waits_seen.load(Ordering::Relaxed) {
                self.say_nothing(&mut lock(&self.attempts));
            }
            return Verdict::Rest;
        }
        if self.running.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return Verdict::Start;
        }
        let mut attempts = lock(&self.attempts);
        let let_go = releases.is_none_or(|before| self.releases.load(Ordering::SeqCst) != before);
        if let_go || self.working.load(Ordering::SeqCst) < self.running.load(Ordering::SeqCst) {
            // A thread that ran out of calls let go of the GIL, or one that was woken for a call has not had it yet:
            // that says nothing about the calls. Where they were seen to wait, one more thread does no harm.
            if self.waits_seen.load(Ordering::Relaxed) && waited < FORCED {
                self.running.fetch_add(1, Ordering::SeqCst);
                return Verdict::Start;
            }
            self.say_nothing(&mut attempts);
            return Verdict::Rest;
        }
        attempts.inconclusive = 0;
        if waited < FORCED {
            let running = self.running.load(Ordering::Relaxed);
            if running >= attempts.proven && !second {
                return Verdict::LookAgain;
            }
            attempts.proven = attempts.proven.max(running + 1);
            attempts.refusals = 0;
            attempts.back_off = BACK_OFF_MIN;
            attempts.pause = BACK_OFF_MIN;
            self.running.fetch_add(1, Ordering::SeqCst);
            self.waits_seen.store(true, Ordering::Relaxed);
            return Verdict::Start;
        }
        attempts.proven = self.running.load(Ordering::Relaxed);
        self.waits_seen.store(false, Ordering::Relaxed);
        attempts.next = Instant::now() + attempts.back_off;
        attempts.back_off = (attempts.back_off * 2).min(BACK_OFF_MAX);
        attempts.refusals += 1;
        if attempts.refusals >= REFUSALS_TO_RETIRE && self.running.load(Ordering::Relaxed) > 1 {
            attempts.refusals = 0;
            self.retire.store(true, Ordering::Relaxed);
        }
        Verdict::Rest
    }

    /// An attempt that says nothing about the calls.
    fn say_nothing(&self, attempts: &mut Attempts) {
        attempts.inconclusive += 1;
        if attempts.inconclusive >= 3 {
            attempts.inconclusive = 0;
            self.waits_seen.store(false, Ordering::Relaxed);
        }
        // The queue did not stay as it was: there is no hurry.
        attempts.pause_ends = Instant::now() + attempts.pause;
        attempts.pause = (attempts.pause * 2).min(BACK_OFF_MAX);
    }
}
