//! Decides when one more thread starts a call, when one rests, and how calls are grouped. Each decision depends only on
//! the observations passed in and on earlier ones.
//!
//! *Runs on*: the thread that asks. *Invariants*: reads no clock and no shared state, so that each rule is tested as a
//! table. A caller gathers the observations, asks, and does what the decision says. If the state has changed meanwhile
//! so that it cannot be done, the caller observes and asks again.

mod attempts;
mod pace;
mod progress;

pub(super) use self::attempts::{Attempts, Decision, SECOND_LOOK, Seen, Verdict, is_busy};
pub(super) use self::pace::{Pause, group, moving_average, pause};
pub(super) use self::progress::{Look, Progress, Retry, UPKEEP_EVERY, UpkeepTimes};

/// Returns how many threads start calls without a standby. Each further one needs a standby that has seen that it
/// helps. With a GIL it is one, since only one thread can compute. Without a GIL it is one for each processor.
#[inline]
pub(super) fn started_at_once(has_gil: bool, processors: usize, threads_max: usize) -> usize {
    if has_gil { 1 } else { processors.min(threads_max).max(1) }
}

/// Returns whether a process has at most one processor to itself: the machine has one, or all are shared with as many
/// workers.
#[inline]
pub(super) fn has_one_processor(processors: usize, workers: usize) -> bool {
    processors <= workers.max(1)
}

/// Returns how many threads may be given up at once: a quarter of them, and at least one. Each still uses its stack and
/// what its call holds, such as a connection to a database.
pub(super) fn given_up_max(threads_max: usize) -> usize {
    (threads_max / 4).max(1)
}

/// The next step for queued calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// Have one more thread run calls, if fewer than `below` do.
    Run {
        below: usize,
    },
    /// Send a standby, which measures whether one more thread helps.
    Standby,
}

/// What a thread sees that has queued a call or has just taken one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Whether calls are queued.
    pub(super) queued: bool,
    /// Threads that run calls or have been told to.
    pub(super) running: usize,
    /// How many threads start calls without a standby.
    pub(super) at_once: usize,
    /// The most threads that may run.
    pub(super) threads_max: usize,
    /// Whether calls have been seen to wait inside the application.
    pub(super) waits_seen: bool,
}

impl Load {
    /// Returns the next step for the queued calls. If calls are known to wait, the next standby is sent at once.
    /// Otherwise the monitor sends it.
    #[inline]
    pub(super) fn step(&self) -> Step {
        if !self.queued {
            Step::Nothing
        } else if self.running < self.at_once {
            Step::Run { below: self.at_once }
        } else if self.waits_seen && self.running < self.threads_max {
            Step::Standby
        } else {
            Step::Nothing
        }
    }
}

/// Returns whether a thread rests after its call because it is one too many. `retire` says that one of them is; the
/// last running thread stays.
#[inline]
pub(super) fn rests(retire: bool, running: usize) -> bool {
    retire && running > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_start_by_themselves_are_one_with_a_gil_and_one_per_processor_without() {
        for (has_gil, processors, threads_max, expected) in
            [(true, 8, 256, 1), (false, 8, 256, 8), (false, 8, 2, 2), (false, 1, 256, 1), (false, 0, 256, 1)]
        {
            let most = started_at_once(has_gil, processors, threads_max);
            assert_eq!(most, expected, "{has_gil} {processors} {threads_max}");
        }
    }

    #[test]
    fn process_has_one_processor_if_workers_are_as_many_as_processors() {
        for (processors, workers, expected) in
            [(1, 1, true), (1, 0, true), (2, 1, false), (2, 2, true), (2, 4, true), (4, 3, false), (4, 4, true)]
        {
            assert_eq!(has_one_processor(processors, workers), expected, "{processors} {workers}");
        }
    }

    #[test]
    fn quarter_of_the_threads_may_be_given_up() {
        let most = [1, 3, 4, 7, 8, 256].map(given_up_max);
        assert_eq!(most, [1, 1, 1, 1, 2, 64]);
    }

    #[test]
    fn queued_calls_start_the_first_threads_and_then_a_standby_if_calls_wait() {
        let load = Load { queued: true, running: 0, at_once: 1, threads_max: 4, waits_seen: false };
        let waits = Load { waits_seen: true, ..load };
        let free = Load { at_once: 3, ..load };
        for (what, load, expected) in [
            ("nothing is queued", Load { queued: false, ..load }, Step::Nothing),
            ("nothing is queued, although calls wait", Load { queued: false, running: 1, ..waits }, Step::Nothing),
            ("the first thread", load, Step::Run { below: 1 }),
            ("the first thread, if calls wait", waits, Step::Run { below: 1 }),
            ("one runs", Load { running: 1, ..load }, Step::Nothing),
            ("one runs, and calls wait", Load { running: 1, ..waits }, Step::Standby),
            ("the last but one", Load { running: 3, ..waits }, Step::Standby),
            ("all run", Load { running: 4, ..waits }, Step::Nothing),
            ("only one may run", Load { running: 1, threads_max: 1, ..waits }, Step::Nothing),
            ("without a GIL, a processor is free", Load { running: 2, ..free }, Step::Run { below: 3 }),
            ("without a GIL, none is", Load { running: 3, ..free }, Step::Nothing),
            ("without a GIL, calls wait", Load { running: 3, waits_seen: true, ..free }, Step::Standby),
        ] {
            assert_eq!(load.step(), expected, "{what}");
        }
    }

    #[test]
    fn thread_too_many_rests_unless_it_is_the_last() {
        let rested =
            [(false, 1), (false, 9), (true, 0), (true, 1), (true, 2), (true, 9)].map(|(retire, n)| rests(retire, n));
        assert_eq!(rested, [false, false, false, false, true, true]);
    }
}
