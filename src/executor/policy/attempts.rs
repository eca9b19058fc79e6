//! Decides by the results of recent standbys whether a standby starts a call, and when the next one is sent.
//!
//! *Runs on*: the standby thread, and the monitor.

use std::time::{Duration, Instant};

/// If a standby gets the GIL within this time, a call released the GIL in order to wait. A call that computes keeps it
/// for the switch interval, 5 ms.
const FORCED: Duration = Duration::from_millis(4);
/// How long the standby waits before it asks for the GIL a second time, which must also succeed early. This is required
/// before more threads run than were ever useful. With several computing threads, a standby may get the GIL early by
/// chance, because a switch was due. The next holder keeps it for a full 5 ms, so a second early grant is no accident.
pub(in crate::executor) const SECOND_LOOK: Duration = Duration::from_micros(300);
/// How long the next attempt waits after a refusal. The wait doubles each time, from here …
const BACK_OFF_MIN: Duration = Duration::from_millis(1);
/// … to here. A refusal costs two context switches.
const BACK_OFF_MAX: Duration = Duration::from_millis(16);
/// After this many refusals in a row, one running thread is too many.
const REFUSALS_TO_RETIRE: u32 = 4;
/// After this many inconclusive attempts in a row, calls no longer count as waiting.
const INCONCLUSIVE_MAX: u32 = 3;
/// The stall guard waits four average calls, within these bounds …
const STALL_MIN: Duration = Duration::from_millis(100);
const STALL_MAX: Duration = Duration::from_millis(500);
/// … and this long until a call has ended.
const STALL_UNKNOWN: Duration = Duration::from_millis(100);

/// The conclusion from how long a standby waited for the GIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::executor) enum Verdict {
    /// Start a call, if fewer than `below` threads run calls.
    Start {
        below: usize,
    },
    Rest,
    /// Ask for the GIL a second time.
    LookAgain,
}

/// The standby's observations when it has the GIL.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[allow(clippy::struct_field_names, reason = "the executor's own field has this name")]
pub(in crate::executor) struct Seen {
    /// Whether calls are queued.
    pub(in crate::executor) queued: bool,
    /// Threads that run calls or have been told to.
    pub(in crate::executor) running: usize,
    /// Running threads that have had the GIL since they were told to run.
    pub(in crate::executor) working: usize,
    /// Whether calls have been seen to wait inside the application.
    pub(in crate::executor) waits_seen: bool,
    /// Whether a thread that ran out of calls may have released the GIL meanwhile.
    pub(in crate::executor) released: bool,
    /// How long the standby waited for the GIL.
    pub(in crate::executor) waited: Duration,
    /// Whether this is the standby's second look.
    pub(in crate::executor) second: bool,
    /// Whether the threads share a GIL.
    pub(in crate::executor) has_gil: bool,
    /// How many threads start calls without a standby.
    pub(in crate::executor) at_once: usize,
}

/// What the standby does, and what follows for the other threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::executor) struct Decision {
    pub(in crate::executor) verdict: Verdict,
    /// Whether calls wait inside the application, if the attempt has shown it.
    pub(in crate::executor) waits_seen: Option<bool>,
    /// Whether one running thread must rest after its call.
    pub(in crate::executor) retire: bool,
}

impl Decision {
    const REST: Self = Self { verdict: Verdict::Rest, waits_seen: None, retire: false };

    /// The standby starts a call, and nothing is learned about the others.
    fn start(below: usize) -> Self {
        Self { verdict: Verdict::Start { below }, ..Self::REST }
    }
}

/// The results of recent standbys.
#[derive(Debug, Clone, Copy)]
pub(in crate::executor) struct Attempts {
    /// How many threads have been useful at once, since a standby last got the GIL late.
    proven: usize,
    refusals: u32,
    inconclusive: u32,
    back_off: Duration,
    /// No attempt before this time.
    next: Instant,
    /// How long the next attempt waits after an inconclusive one, while calls end …
    pause: Duration,
    /// … and until when.
    pause_ends: Instant,
}

impl Attempts {
    pub(in crate::executor) fn new(now: Instant) -> Self {
        let (back_off, pause) = (BACK_OFF_MIN, BACK_OFF_MIN);
        Self { proven: 0, refusals: 0, inconclusive: 0, back_off, next: now, pause, pause_ends: now }
    }

    /// Decides whether a standby that has the GIL starts a call.
    pub(in crate::executor) fn judge(&mut self, seen: &Seen, now: Instant) -> Decision {
        if !seen.queued {
            return if seen.waits_seen { self.say_nothing(now) } else { Decision::REST };
        }
        if seen.running < seen.at_once {
            return Decision::start(seen.at_once);
        }
        let early = seen.waited < FORCED;
        if seen.released || seen.working < seen.running {
            // A thread that ran out of calls released the GIL, or a thread woken for a call has not had it yet. That
            // says nothing about the calls. If calls were seen to wait, one more thread does no harm.
            if seen.waits_seen && early {
                return Decision::start(usize::MAX);
            }
            return self.say_nothing(now);
        }
        self.inconclusive = 0;
        if early {
            // Without a GIL, every first look comes early. Only the second one sees whether the processors are busy.
            if (seen.running >= self.proven || !seen.has_gil) && !seen.second {
                return Decision { verdict: Verdict::LookAgain, ..Decision::REST };
            }
            self.proven = self.proven.max(seen.running + 1);
            self.refusals = 0;
            self.back_off = BACK_OFF_MIN;
            self.pause = BACK_OFF_MIN;
            return Decision { waits_seen: Some(true), ..Decision::start(usize::MAX) };
        }
        self.proven = seen.running;
        self.next = now + self.back_off;
        self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
        self.refusals += 1;
        let retire = self.refusals >= REFUSALS_TO_RETIRE && seen.running > seen.at_once;
        if retire {
            self.refusals = 0;
        }
        Decision { verdict: Verdict::Rest, waits_seen: Some(false), retire }
    }

    /// Records an inconclusive attempt.
    fn say_nothing(&mut self, now: Instant) -> Decision {
        self.inconclusive += 1;
        let forget = self.inconclusive >= INCONCLUSIVE_MAX;
        if forget {
            self.inconclusive = 0;
        }
        // The queue has changed meanwhile, so there is no hurry.
        self.pause_ends = now + self.pause;
        self.pause = (self.pause * 2).min(BACK_OFF_MAX);
        Decision { waits_seen: forget.then_some(false), ..Decision::REST }
    }

    /// Returns whether no call has ended for too long. If so, one more thread starts in any case. `stalled` is how
    /// long calls have been queued without the end of one. `average_nanos` is the average length of a call, 0 if none
    /// has ended yet.
    pub(super) fn is_stall(stalled: Duration, average_nanos: u64) -> bool {
        let patience = match average_nanos {
            0 => STALL_UNKNOWN,
            average => Duration::from_nanos(average).saturating_mul(4).clamp(STALL_MIN, STALL_MAX),
        };
        stalled >= patience
    }

    /// Returns whether the next standby is sent. `moves` says whether a call has ended since the last look.
    pub(super) fn is_due(&self, moves: bool, now: Instant) -> bool {
        now >= self.next && (!moves || now >= self.pause_ends)
    }
}

/// Returns whether threads that used this processor time, in this length of time, kept all processors at least 80 %
/// busy.
pub(in crate::executor) fn is_busy(used: Duration, time: Duration, processors: usize) -> bool {
    let processors = u32::try_from(processors).unwrap_or(u32::MAX);
    used >= time * processors / 5 * 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLY: Duration = Duration::from_micros(50);
    const LATE: Duration = Duration::from_millis(5);
    /// A start that no number of running threads prevents.
    const START: Verdict = Verdict::Start { below: usize::MAX };

    /// One running thread, queued calls, and an early GIL.
    const SEEN: Seen = Seen {
        queued: true,
        running: 1,
        working: 1,
        waits_seen: false,
        released: false,
        waited: EARLY,
        second: false,
        has_gil: true,
        at_once: 1,
    };

    /// The same observations without a GIL, with four running threads on four processors.
    const FREE: Seen = Seen { running: 4, working: 4, has_gil: false, at_once: 4, ..SEEN };

    fn judged(attempts: &mut Attempts, seen: Seen) -> (Verdict, Option<bool>, bool) {
        let Decision { verdict, waits_seen, retire } = attempts.judge(&seen, Instant::now());
        (verdict, waits_seen, retire)
    }

    #[test]
    fn standby_is_judged_by_what_it_saw() {
        use Verdict::{LookAgain, Rest};
        let late = Seen { waited: LATE, ..SEEN };
        let second = Seen { second: true, ..SEEN };
        let unclear = Seen { released: true, ..SEEN };
        let woken = Seen { running: 2, ..SEEN };
        for (what, seen, expected) in [
            ("the GIL came early: that may be luck", SEEN, (LookAgain, None, false)),
            ("it came early twice: calls wait", second, (START, Some(true), false)),
            ("it came late: calls compute", late, (Rest, Some(false), false)),
            ("it came late the second time", Seen { second: true, ..late }, (Rest, Some(false), false)),
            ("nothing is queued", Seen { queued: false, ..SEEN }, (Rest, None, false)),
            ("no thread runs", Seen { running: 0, ..late }, (Verdict::Start { below: 1 }, None, false)),
            ("nothing is queued, and no thread runs", Seen { queued: false, running: 0, ..SEEN }, (Rest, None, false)),
            (
                "a processor is free without a GIL",
                Seen { running: 3, ..FREE },
                (Verdict::Start { below: 4 }, None, false),
            ),
            ("a thread ran out of calls", unclear, (Rest, None, false)),
            ("a thread has not had the GIL yet", woken, (Rest, None, false)),
            ("the same, but calls are known to wait", Seen { waits_seen: true, ..unclear }, (START, None, false)),
            ("the same, and late", Seen { waits_seen: true, waited: LATE, ..unclear }, (Rest, None, false)),
        ] {
            assert_eq!(judged(&mut Attempts::new(Instant::now()), seen), expected, "{what}");
        }
    }

    #[test]
    fn without_a_gil_a_thread_more_than_processors_starts_only_if_they_are_not_busy() {
        let mut attempts = Attempts::new(Instant::now());
        let second = Seen { second: true, ..FREE };
        let busy = Seen { waited: Duration::MAX, ..second };
        for running in 4..50 {
            let now = |seen: Seen| Seen { running, working: running, ..seen };
            assert_eq!(judged(&mut attempts, now(FREE)).0, Verdict::LookAgain);
            assert_eq!(judged(&mut attempts, now(second)).0, START);
        }
        // Even a number of threads that has proved useful needs a second look, because the first one is always early.
        assert_eq!(judged(&mut attempts, FREE).0, Verdict::LookAgain);
        assert_eq!(judged(&mut attempts, busy).0, Verdict::Rest);
    }

    #[test]
    fn without_a_gil_threads_retire_down_to_one_per_processor() {
        let busy = |running| Seen { running, working: running, waited: Duration::MAX, second: true, ..FREE };
        let retired = |running| {
            let mut attempts = Attempts::new(Instant::now());
            (0..8).filter(|_| judged(&mut attempts, busy(running)).2).count()
        };
        assert_eq!((retired(5), retired(4)), (2, 0));
    }

    #[test]
    fn quick_and_computing_calls_never_start_a_second_thread() {
        // A quick call has ended when the standby gets the GIL. A call that computes releases it late.
        let mut attempts = Attempts::new(Instant::now());
        for round in 0..100 {
            let quick = Seen { queued: round % 2 == 0, released: true, ..SEEN };
            assert_eq!(judged(&mut attempts, quick).0, Verdict::Rest);
            assert_eq!(judged(&mut attempts, Seen { waited: LATE, ..SEEN }).0, Verdict::Rest);
        }
    }

    #[test]
    fn waiting_calls_start_a_thread_each() {
        let mut attempts = Attempts::new(Instant::now());
        for running in 1..100 {
            let seen = Seen { running, working: running, ..SEEN };
            assert_eq!(judged(&mut attempts, seen).0, Verdict::LookAgain);
            assert_eq!(judged(&mut attempts, Seen { second: true, ..seen }), (START, Some(true), false));
        }
        // A number of threads that has proved useful needs no second look.
        assert_eq!(judged(&mut attempts, SEEN).0, START);
    }

    #[test]
    fn threads_too_many_retire_one_by_one() {
        let mut attempts = Attempts::new(Instant::now());
        let late = Seen { running: 3, working: 3, waited: LATE, ..SEEN };
        let retired: Vec<_> = (0..8).map(|_| judged(&mut attempts, late).2).collect();
        assert_eq!(retired, [false, false, false, true, false, false, false, true]);
        // The last one stays.
        assert!((0..8).all(|_| !judged(&mut attempts, Seen { waited: LATE, ..SEEN }).2));
    }

    #[test]
    fn calls_that_were_seen_to_wait_are_forgotten_after_three_unclear_looks() {
        let mut attempts = Attempts::new(Instant::now());
        let unclear = Seen { queued: false, waits_seen: true, ..SEEN };
        let said: Vec<_> = (0..4).map(|_| judged(&mut attempts, unclear).1).collect();
        assert_eq!(said, [None, None, Some(false), None]);
    }

    #[test]
    fn attempts_back_off_to_a_limit_and_start_again_at_the_shortest() {
        let now = Instant::now();
        let mut attempts = Attempts::new(now);
        let late = Seen { waited: LATE, ..SEEN };
        let mut pauses = Vec::new();
        for _ in 0..6 {
            attempts.judge(&late, now);
            pauses.push(attempts.next.duration_since(now).as_millis());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 16]);
        attempts.judge(&Seen { second: true, ..SEEN }, now);
        attempts.judge(&late, now);
        assert_eq!(attempts.next.duration_since(now), BACK_OFF_MIN);
    }

    #[test]
    fn stall_is_four_calls_without_an_end_within_bounds() {
        let millis = Duration::from_millis;
        for (stalled, average, expected) in [
            (millis(99), 0, false),
            (millis(100), 0, true),
            (millis(99), 1_000, false),
            (millis(100), 1_000, true),
            (millis(199), 50_000_000, false),
            (millis(200), 50_000_000, true),
            (millis(499), u64::MAX, false),
            (millis(500), u64::MAX, true),
        ] {
            assert_eq!(Attempts::is_stall(stalled, average), expected, "{stalled:?} {average}");
        }
    }

    #[test]
    fn attempt_is_due_when_its_back_off_is_over() {
        let now = Instant::now();
        let mut attempts = Attempts::new(now);
        assert!(attempts.is_due(false, now) && attempts.is_due(true, now));
        attempts.judge(&Seen { waited: LATE, ..SEEN }, now);
        assert!(!attempts.is_due(false, now) && !attempts.is_due(true, now), "after a refusal");
        assert!(attempts.is_due(false, now + BACK_OFF_MIN) && attempts.is_due(true, now + BACK_OFF_MIN));
    }

    #[test]
    fn attempt_that_says_nothing_delays_the_next_one_only_while_calls_end() {
        let now = Instant::now();
        let mut attempts = Attempts::new(now);
        attempts.judge(&Seen { released: true, ..SEEN }, now);
        assert!(!attempts.is_due(true, now));
        assert!(attempts.is_due(false, now), "no call has ended");
        assert!(attempts.is_due(true, now + BACK_OFF_MIN));
    }

    #[test]
    fn processors_are_busy_from_four_fifths_on() {
        let micros = Duration::from_micros;
        for (used, processors, expected) in [(79, 1, false), (80, 1, true), (159, 2, false), (160, 2, true)] {
            assert_eq!(is_busy(micros(used), micros(100), processors), expected, "{used} {processors}");
        }
    }
}
