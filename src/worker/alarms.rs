//! Says in the log when a process no longer moves, when its threads are all busy, and when it grows (`--alarm-after`).
//!
//! *Owns*: for how long each of these conditions has held. *Runs on*: one plain thread, which never waits for the GIL.
//! *Invariants*: an alarm is logged once when it is raised, and once when it is over. Requests that take long raise none
//! while further requests can begin.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::growth::Growth;
use super::holder;
use super::inspector::Inspector;
use crate::config::duration_text;
use crate::instance::Instance;
use crate::metrics::Numbers;
use crate::phrase::{count, seconds};
use crate::status::Row;
use crate::sys;
use crate::throttle::Throttle;

/// The bounds of the time between two looks.
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How many places of the application's code a line names.
const PLACES_MAX: usize = 3;
/// The tick of the coroutines comes once a second.
const TICK_LATE: Duration = Duration::from_secs(2);
/// How often the log says that all threads are busy.
static BUSY: Throttle = Throttle::new(Duration::from_secs(60));

/// A condition that is an alarm once it has held for a time.
#[derive(Debug, Default)]
struct Alarm {
    since: Option<Instant>,
    is_raised: bool,
}

/// What has become of an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Nothing,
    /// The condition has held for this long.
    Raised(Duration),
    /// The condition had held for this long.
    Over(Duration),
}

impl Alarm {
    /// Notes whether the condition holds, which is an alarm once it has held at all looks for `limit`.
    fn note(&mut self, holds: bool, limit: Duration, now: Instant) -> Change {
        self.note_since(holds.then(|| self.since.unwrap_or(now)), limit, now)
    }

    /// Notes since when the condition holds, if it does. It is an alarm once it has held for `limit`, and two looks have
    /// found the same: after a pause of the whole machine, one look finds every wait long.
    fn note_since(&mut self, since: Option<Instant>, limit: Duration, now: Instant) -> Change {
        let is_same = |since: &Instant| self.since.is_some_and(|before| since.duration_since(before) < LOOK_MAX);
        let Some(same) = since.filter(is_same) else {
            let was = std::mem::replace(self, Self { since, is_raised: false });
            return match was.since {
                Some(before) if was.is_raised => Change::Over(since.unwrap_or(now).duration_since(before)),
                _ => Change::Nothing,
            };
        };
        let held = now.duration_since(*self.since.get_or_insert(same));
        if held < limit || self.is_raised {
            return Change::Nothing;
        }
        self.is_raised = true;
        Change::Raised(held)
    }
}

/// The alarms of a process.
struct Alarms {
    inspector: Arc<Inspector>,
    instance: Arc<Instance>,
    limit: Duration,
    /// No thread gets the GIL.
    gil: Alarm,
    /// The coroutines stand still.
    coroutines: Alarm,
    /// Calls wait, and none ends.
    stall: Alarm,
    /// All threads run calls, and further ones wait.
    busy: Alarm,
    /// How many calls had ended at the last look.
    ended: u64,
    growth: Growth,
}

/// Starts the thread. `limit` is from when on a condition is an alarm. Zero: there is no thread.
///
/// # Errors
/// There is no thread left.
pub(super) fn start(limit: Duration, instance: &Arc<Instance>, inspector: &Arc<Inspector>) -> anyhow::Result<()> {
    if limit.is_zero() {
        return Ok(());
    }
    let mut alarms = Alarms {
        inspector: Arc::clone(inspector),
        instance: Arc::clone(instance),
        limit,
        gil: Alarm::default(),
        coroutines: Alarm::default(),
        stall: Alarm::default(),
        busy: Alarm::default(),
        ended: 0,
        growth: Growth::begin(limit, Instant::now()),
    };
    let pause = (limit / 4).clamp(LOOK_MIN, LOOK_MAX);
    let run = move || {
        // A server that stops has a limit of its own, and says what it waits for.
        while !alarms.instance.is_stopping() {
            alarms.look(Instant::now());
            thread::sleep(pause);
        }
    };
    sys::start_thread_without_signals("maypole-alarms", run).map(drop).context("cannot start the thread of the alarms")
}

impl Alarms {
    fn look(&mut self, now: Instant) {
        let (slot, numbers) = (self.inspector.slot().clone(), self.instance.server().numbers());
        self.look_at_gil(slot.gil_sought().and_then(|time| now.checked_sub(time)), now);
        let ticked = slot.runtime_tick().filter(|age| *age > TICK_LATE);
        self.look_at_coroutines(ticked.and_then(|age| now.checked_sub(age)), now);
        // Without the GIL, no call moves either. But the call that keeps it may be what allocates.
        if !slot.is_stuck() {
            self.look_at_calls(&numbers, now);
            self.look_at_threads(&numbers, now);
        }
        self.growth.look(&self.instance, now);
    }

    fn look_at_gil(&mut self, sought_since: Option<Instant>, now: Instant) {
        match self.gil.note_since(sought_since, self.limit, now) {
            Change::Nothing => {}
            Change::Raised(time) => {
                let (time, limit) = (seconds(time), duration_text(self.limit));
                let (holder, stacks) = (self.holder(), self.inspector.stacks());
                log::warn!(
                    "a thread has waited for the GIL (Python's lock) for {time} (--alarm-after {limit}){holder}: {stacks}"
                );
            }
            Change::Over(time) => {
                let time = seconds(time);
                log::info!("the thread that waited for the GIL has got it after {time}");
            }
        }
    }

    fn look_at_coroutines(&mut self, still_since: Option<Instant>, now: Instant) {
        match self.coroutines.note_since(still_since, self.limit, now) {
            Change::Nothing => {}
            Change::Raised(time) => {
                let (time, limit, stacks) = (seconds(time), duration_text(self.limit), self.inspector.stacks());
                log::warn!("the server's coroutines have stood still for {time} (--alarm-after {limit}): {stacks}");
            }
            Change::Over(time) => {
                let time = seconds(time);
                log::info!("the server's coroutines run again: they stood still for {time}");
            }
        }
    }

    fn look_at_calls(&mut self, numbers: &Numbers, now: Instant) {
        let dropped = numbers.abandoned + numbers.late + numbers.calls as u64;
        let ended = numbers.served.saturating_sub(dropped);
        let has_moved = std::mem::replace(&mut self.ended, ended) != ended;
        let waiting = waiting(numbers);
        // Requests that give up waiting end nothing: only a call that ends does.
        let holds = !has_moved && (waiting > 0 || self.stall.is_raised);
        match self.stall.note(holds, self.limit, now) {
            Change::Nothing => {}
            Change::Raised(time) => {
                let (time, limit, stacks) = (seconds(time), duration_text(self.limit), self.inspector.stacks());
                let waiting = count(waiting, "request");
                log::warn!(
                    "no request has ended for {time} while {waiting} waited for a thread or a place in the pool \
                     (--alarm-after {limit}): {stacks}"
                );
            }
            Change::Over(time) => {
                let time = seconds(time);
                log::info!("requests end again: none did for {time}");
            }
        }
    }

    fn look_at_threads(&mut self, numbers: &Numbers, now: Instant) {
        let holds = numbers.queued > 0 && numbers.threads_running >= numbers.threads_max;
        match self.busy.note(holds, self.limit / 2, now) {
            Change::Raised(time) => {
                if let Some(more) = BUSY.pass() {
                    let (threads, time) = (numbers.threads_max, seconds(time));
                    let (waiting, places) = (count(waiting(numbers), "request"), self.places());
                    log::warn!(
                        "all threads ({threads}, --threads) have been busy for {time}, and {waiting} waited at the \
                         end{places}{more}"
                    );
                }
            }
            Change::Nothing | Change::Over(_) => {}
        }
    }

    /// Returns the end of a sentence that names the thread which keeps the GIL, as far as that is known.
    fn holder(&self) -> String {
        let rows = self.inspector.requests(false).requests;
        let threads: Vec<u64> = rows.iter().filter_map(|row| row.thread_id).collect();
        let Some(holders) = holder::holders(&threads) else { return String::new() };
        let holders: Vec<_> =
            rows.iter().filter(|row| row.thread_id.is_some_and(|thread| holders.contains(&thread))).collect();
        match holders.as_slice() {
            [] => "; it goes from one thread that computes to another".to_owned(),
            [one] => format!("; {} keeps it", doing(one)),
            several => {
                let several: Vec<_> = several.iter().take(PLACES_MAX).map(|row| doing(row)).collect();
                format!("; one of these keeps it: {}", several.join(", "))
            }
        }
    }

    /// Returns the end of a sentence that says in which code most threads are.
    fn places(&self) -> String {
        let rows = self.inspector.requests(false).requests;
        let mut counts = BTreeMap::new();
        for frame in rows.iter().filter(|row| row.thread.is_some()).filter_map(|row| row.frame.as_ref()) {
            *counts.entry(format!("{}:{} {}", frame.file, frame.line, frame.function)).or_insert(0_usize) += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, threads)| std::cmp::Reverse(*threads));
        let places = counts
            .iter()
            .take(PLACES_MAX)
            .map(|(place, threads)| format!("; {} in {place}", count(*threads, "thread")));
        places.collect()
    }
}

/// Returns how many requests wait for a thread or for a place in the pool.
fn waiting(numbers: &Numbers) -> usize {
    numbers.queued + numbers.permits.unwrap_or_default().waiting
}

/// Returns a thread and what it does: `thread maypole-exec-1 at /srv/shop/pay.py:31 pay for "GET /pay HTTP/1.1"`.
fn doing(row: &Row) -> String {
    let thread = row.thread.as_deref().unwrap_or_default();
    let place = row.frame.as_ref().map(|frame| format!(" at {}:{} {}", frame.file, frame.line, frame.function));
    format!("thread {thread}{} for \"{}\"", place.unwrap_or_default(), row.request)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn alarm_is_raised_once_and_is_over_once() {
        let (mut alarm, begin, at) = (Alarm::default(), Instant::now(), Duration::from_secs);
        let mut note = |holds, second| alarm.note(holds, LIMIT, begin + at(second));
        assert_eq!(
            (note(true, 0), note(true, 9), note(false, 10)),
            (Change::Nothing, Change::Nothing, Change::Nothing)
        );
        assert_eq!((note(true, 11), note(true, 20)), (Change::Nothing, Change::Nothing));
        assert_eq!((note(true, 21), note(true, 22)), (Change::Raised(at(10)), Change::Nothing));
        assert_eq!((note(false, 30), note(false, 31)), (Change::Over(at(19)), Change::Nothing));
    }

    #[test]
    fn waits_that_end_and_begin_again_raise_no_alarm() {
        let (mut alarm, begin, at) = (Alarm::default(), Instant::now(), Duration::from_secs);
        let mut note = |since, second| alarm.note_since(Some(begin + at(since)), LIMIT, begin + at(second));
        for second in 2..40 {
            assert_eq!(note(second - 2, second), Change::Nothing, "each look finds another wait");
        }
        assert_eq!(note(40, 60), Change::Nothing, "the machine was paused");
        assert_eq!(note(40, 61), Change::Raised(at(21)));
        assert_eq!((note(40, 62), note(62, 63)), (Change::Nothing, Change::Over(at(22))));
    }
}
