//! Decides what the monitor does: when it sleeps, searches the queue, does periodic work and starts threads.
//!
//! *Runs on*: the monitor.

use std::time::{Duration, Instant};

use super::{Attempts, Step};

/// The monitor stops looking after this long without a queued call or the end of one.
const STILL: Duration = Duration::from_millis(20);
/// How often the queue is searched for calls that no longer wait.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// How often periodic work besides calls is done.
pub(in crate::executor) const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// The shortest pause after a thread could not be started …
const RETRY_MIN: Duration = Duration::from_millis(1);
/// … and the longest.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What the monitor sees when it looks.
#[derive(Debug, Clone, Copy)]
pub(in crate::executor) struct Look {
    /// Whether calls are queued.
    pub(in crate::executor) queued: bool,
    /// How many calls have ended since the start.
    pub(in crate::executor) completed: u64,
    /// The average length of a call, 0 if none has ended yet.
    pub(in crate::executor) average_nanos: u64,
    /// Threads that run calls or have been told to.
    pub(in crate::executor) running: usize,
    /// Whether one of them has not had the GIL yet.
    pub(in crate::executor) waits_for_gil: bool,
    /// The most threads that may run.
    pub(in crate::executor) threads_max: usize,
}

/// What the monitor remembers of its looks.
#[derive(Debug)]
pub(in crate::executor) struct Progress {
    completed: u64,
    /// Since when calls have been queued without any of them ending.
    at: Instant,
    /// When a call was last seen queued or ended.
    changed: Instant,
    /// When the queue was last searched.
    swept: Instant,
}

impl Progress {
    pub(in crate::executor) fn new(now: Instant) -> Self {
        Self { completed: 0, at: now, changed: now, swept: now }
    }

    /// Returns whether there has been no work for some time. Calls that have run for long while none is queued, such as
    /// long polls, need no attention. Between two batches there is no work either, but sleeping then would cost each
    /// batch a wake.
    pub(in crate::executor) fn is_still(&self, now: Instant) -> bool {
        now.duration_since(self.changed) >= STILL
    }

    /// Returns whether the queue is searched now.
    pub(in crate::executor) fn sweeps(&mut self, now: Instant) -> bool {
        let is_due = now.duration_since(self.swept) >= SWEEP_EVERY;
        if is_due {
            self.swept = now;
        }
        is_due
    }

    /// Returns the next step for the queued calls. `None` if no call is queued.
    pub(in crate::executor) fn look(&mut self, seen: &Look, attempts: &Attempts, now: Instant) -> Option<Step> {
        let moves = seen.completed != self.completed;
        self.completed = seen.completed;
        if moves || seen.queued {
            self.changed = now;
        }
        if moves || !seen.queued {
            self.at = now;
        }
        if !seen.queued {
            return None;
        }
        // While a thread that was told to run waits for the GIL, one more would only wait beside it.
        let step = if !seen.waits_for_gil && Attempts::is_stall(now.duration_since(self.at), seen.average_nanos) {
            self.at = now;
            Step::Run { below: seen.threads_max }
        } else if attempts.is_due(moves, now) {
            Step::Standby
        } else {
            Step::Nothing
        };
        Some(if seen.running < seen.threads_max { step } else { Step::Nothing })
    }
}

/// When periodic work is done: once a second while calls run, and once more after they have ended.
#[derive(Debug)]
pub(in crate::executor) struct UpkeepTimes {
    is_wanted: bool,
    next: Instant,
    /// How many calls had ended at the last time.
    completed: u64,
}

impl UpkeepTimes {
    pub(in crate::executor) fn new(now: Instant) -> Self {
        Self { is_wanted: true, next: now + UPKEEP_EVERY, completed: 0 }
    }

    /// Returns whether work may be due without further calls.
    pub(in crate::executor) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Records whether a call is queued or runs, and how many have ended.
    pub(in crate::executor) fn note(&mut self, has_calls: bool, completed: u64) {
        self.is_wanted |= has_calls || completed != self.completed;
    }

    /// Returns whether the work is done now and, if so, whether no call has run since the last time. Between calls that
    /// follow each other closely there are moments in which no call runs.
    pub(in crate::executor) fn begin(&mut self, has_calls: bool, completed: u64, now: Instant) -> Option<bool> {
        if !self.is_wanted || now < self.next {
            return None;
        }
        let is_quiet = !has_calls && completed == self.completed;
        self.completed = completed;
        Some(is_quiet)
    }

    /// Ends the work. `is_wanted` says whether more may become due without further calls.
    pub(in crate::executor) fn end(&mut self, is_wanted: bool, now: Instant) {
        self.is_wanted = is_wanted;
        self.next = now + UPKEEP_EVERY;
    }
}

/// The pause after a thread could not be started. It doubles each time.
#[derive(Debug, Default)]
pub(in crate::executor) struct Retry {
    pause: Duration,
    end: Option<Instant>,
}

impl Retry {
    pub(in crate::executor) fn is_allowed(&self, now: Instant) -> bool {
        self.end.is_none_or(|end| now >= end)
    }

    /// Records that a thread could not be started.
    pub(in crate::executor) fn failed(&mut self, now: Instant) {
        self.pause = (self.pause * 2).clamp(RETRY_MIN, RETRY_MAX);
        self.end = Some(now + self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Seen, Verdict};
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const NOTHING: Look =
        Look { queued: false, completed: 0, average_nanos: 0, running: 1, waits_for_gil: false, threads_max: 8 };
    const QUEUED: Look = Look { queued: true, ..NOTHING };
    const STALLED: Option<Step> = Some(Step::Run { below: 8 });

    #[test]
    fn monitor_attempts_while_calls_are_queued_and_starts_a_thread_when_none_ends() {
        let begin = Instant::now();
        let (mut progress, attempts) = (Progress::new(begin), Attempts::new(begin));
        let ended = Look { completed: 1, ..QUEUED };
        for (at, seen, expected) in [
            (0, NOTHING, None),
            (1, QUEUED, Some(Step::Standby)),
            (99, QUEUED, Some(Step::Standby)),
            (100, QUEUED, STALLED),
            (101, QUEUED, Some(Step::Standby)),
            (199, QUEUED, Some(Step::Standby)),
            (200, QUEUED, STALLED),
            (299, ended, Some(Step::Standby)),
            (398, ended, Some(Step::Standby)),
            (399, ended, STALLED),
            (450, Look { queued: false, ..ended }, None),
            (549, ended, Some(Step::Standby)),
            (550, ended, STALLED),
            (551, Look { running: 8, ..ended }, Some(Step::Nothing)),
            (650, Look { running: 8, ..ended }, Some(Step::Nothing)),
            (651, ended, Some(Step::Standby)),
        ] {
            assert_eq!(progress.look(&seen, &attempts, begin + MILLI * at), expected, "after {at} ms");
        }
    }

    #[test]
    fn monitor_starts_no_thread_while_one_waits_for_the_gil() {
        let begin = Instant::now();
        let (mut progress, attempts) = (Progress::new(begin), Attempts::new(begin));
        let waits = Look { waits_for_gil: true, running: 2, ..QUEUED };
        for (at, seen, expected) in [
            (0, QUEUED, Some(Step::Standby)),
            (100, QUEUED, STALLED),
            (200, waits, Some(Step::Standby)),
            (10_000, waits, Some(Step::Standby)),
            (10_001, Look { waits_for_gil: false, ..waits }, STALLED),
        ] {
            assert_eq!(progress.look(&seen, &attempts, begin + MILLI * at), expected, "after {at} ms");
        }
    }

    #[test]
    fn monitor_does_nothing_after_a_refusal_until_the_next_attempt() {
        let begin = Instant::now();
        let (mut progress, mut attempts) = (Progress::new(begin), Attempts::new(begin));
        let late = Seen {
            queued: true,
            running: 1,
            working: 1,
            waits_seen: false,
            released: false,
            waited: Duration::from_millis(5),
            second: false,
            has_gil: true,
            at_once: 1,
        };
        assert_eq!(attempts.judge(&late, begin).verdict, Verdict::Rest);
        assert_eq!(progress.look(&QUEUED, &attempts, begin), Some(Step::Nothing));
        assert_eq!(progress.look(&QUEUED, &attempts, begin + MILLI), Some(Step::Standby));
    }

    #[test]
    fn monitor_is_still_after_20_ms_without_work() {
        let begin = Instant::now();
        let (mut progress, attempts) = (Progress::new(begin), Attempts::new(begin));
        let at = |millis| begin + MILLI * millis;
        assert!(!progress.is_still(at(19)) && progress.is_still(at(20)));
        progress.look(&QUEUED, &attempts, at(30));
        assert!(!progress.is_still(at(49)) && progress.is_still(at(50)));
        progress.look(&Look { completed: 1, ..NOTHING }, &attempts, at(60));
        assert!(!progress.is_still(at(79)) && progress.is_still(at(80)));
        progress.look(&Look { completed: 1, ..NOTHING }, &attempts, at(90));
        assert!(progress.is_still(at(90)), "a look at nothing changes nothing");
    }

    #[test]
    fn queue_is_searched_four_times_a_second() {
        let begin = Instant::now();
        let mut progress = Progress::new(begin);
        let searched = (0..=1000).filter(|millis| progress.sweeps(begin + MILLI * *millis)).collect::<Vec<_>>();
        assert_eq!(searched, [250, 500, 750, 1000]);
    }

    #[test]
    fn upkeep_is_done_once_a_second_while_calls_run_and_once_when_they_have_ended() {
        let begin = Instant::now();
        let mut times = UpkeepTimes::new(begin);
        let second = Duration::from_secs(1);
        assert_eq!(times.begin(true, 0, begin + MILLI * 999), None, "too early");
        for (after, has_calls, completed, expected) in [
            (1, true, 0, Some(false)),
            (2, true, 5, Some(false)),
            // No call runs at this moment, and some have ended since the last time.
            (3, false, 9, Some(false)),
            (4, false, 9, Some(true)),
            (5, false, 9, None),
            (6, false, 9, None),
            (7, false, 10, Some(false)),
            (8, false, 10, Some(true)),
            (9, false, 10, None),
        ] {
            let now = begin + second * after;
            times.note(has_calls, completed);
            let done = times.begin(has_calls, completed, now);
            assert_eq!(done, expected, "after {after} s");
            if let Some(is_quiet) = done {
                times.end(!is_quiet, now);
            }
        }
    }

    #[test]
    fn retry_pause_doubles_up_to_a_second_and_a_thread_that_starts_ends_it() {
        let mut retry = Retry::default();
        let now = Instant::now();
        assert!(retry.is_allowed(now));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            retry.failed(now);
            assert!(!retry.is_allowed(now) && retry.is_allowed(now + retry.pause));
            pauses.push(retry.pause.as_millis());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000]);
        assert!(Retry::default().is_allowed(now));
    }
}
