//! Deadlines of requests: ends the responses of calls that take too long, gives up their threads, and logs their stacks.
//!
//! *Owns*: the thread that waits for the next deadline, and the threads that write the records. *Runs on*: these; `begin`
//! and `Due::end` on the threads that run the calls. *Invariants*: the thread that waits never needs the GIL. A call that
//! ends in time costs one comparison: there is no timer for each request.

mod record;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use self::record::Record;
use super::report::{Running, Slot};
use super::{Application, Ran, Work, interrupt, threads};
use crate::executor::Executor;
use crate::handler::{Exchange, Request, Responder};
use crate::sys::{self, Condition, Lock};

pub use self::record::read_stacks_with;

/// How long an interrupted call may take to end before its thread is given up.
const INTERRUPTION_MAX: Duration = Duration::from_secs(1);
/// The shortest time between two looks at all threads.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(4);

/// The deadline of a call that runs.
#[derive(Debug, Clone)]
pub(super) struct Due {
    /// When the call is looked at next. `None`: it is not looked at any more.
    at: Option<Instant>,
    exchange: Arc<Exchange>,
    limit: Duration,
    interrupts: bool,
    lapse: Lapse,
}

/// What has become of a call that is past its deadline.
#[derive(Debug, Clone, Default)]
enum Lapse {
    /// It is not, or not noticed.
    #[default]
    None,
    /// An exception was raised in its code, or will be.
    Interrupted,
    /// Its thread is given up.
    GivenUp,
    /// Its thread cannot be given up.
    Kept(Arc<Executor<Work>>),
}

/// A service whose requests have a deadline. Dropping it ends the watch.
pub(super) struct Watched(Duration);

/// The state of the thread that waits for deadlines.
#[derive(Debug, Default)]
struct Watch {
    /// The limits of all services.
    limits: Vec<Duration>,
    /// Whether a call has begun whose deadline comes before the next look, or a service has come or gone.
    has_changed: bool,
    runs: bool,
}

static WATCH: Lock<Watch> = Lock::new(Watch { limits: Vec::new(), has_changed: false, runs: false });
static CHANGE: Condition = Condition::new();
/// When the next look is, in microseconds since `epoch`.
static NEXT: AtomicU64 = AtomicU64::new(u64::MAX);

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

fn micros(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(epoch()).as_micros()).unwrap_or(u64::MAX)
}

/// Watches the deadlines of a service from now on. `None`: its requests have none.
///
/// # Errors
/// No thread can be started.
pub(super) fn watch(limit: Duration) -> std::io::Result<Option<Watched>> {
    if limit.is_zero() {
        return Ok(None);
    }
    epoch();
    let mut watch = WATCH.lock();
    if !watch.runs {
        sys::start_thread_without_signals("maypole-deadlines", run)?;
        watch.runs = true;
    }
    watch.limits.push(limit);
    watch.has_changed = true;
    drop(watch);
    CHANGE.notify_all();
    Ok(Some(Watched(limit)))
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut watch = WATCH.lock();
        if let Some(index) = watch.limits.iter().position(|limit| *limit == self.0) {
            watch.limits.swap_remove(index);
        }
        watch.has_changed = true;
        drop(watch);
        CHANGE.notify_all();
    }
}

/// Returns the deadline of a call that begins now.
pub(super) fn begin(at: Instant, request: &Request, responder: &Responder, application: &Application) -> Due {
    begin_again(at, at.saturating_duration_since(request.received), responder, application)
}

/// Returns the deadline of a call that goes on now, after a suspension.
pub(super) fn begin_again(at: Instant, limit: Duration, responder: &Responder, application: &Application) -> Due {
    Due {
        at: Some(at),
        exchange: Arc::clone(responder.exchange()),
        limit,
        interrupts: application.request_interrupt,
        lapse: Lapse::None,
    }
}

/// Makes sure that a look comes at the deadline of a call that its slot shows. The call may have waited for a thread, so
/// that its deadline comes before the next look.
pub(super) fn expect(at: Instant) {
    if micros(at) < NEXT.load(Ordering::SeqCst) {
        WATCH.lock().has_changed = true;
        CHANGE.notify_all();
    }
}

/// Returns a time as Python's `time.monotonic()` counts.
pub(super) fn python_time(at: Instant) -> f64 {
    static BASE: OnceLock<(Instant, Duration)> = OnceLock::new();
    let (instant, time) = *BASE.get_or_init(|| (Instant::now(), sys::machine_time()));
    (time + at.saturating_duration_since(instant)).saturating_sub(instant.saturating_duration_since(at)).as_secs_f64()
}

impl Due {
    /// Returns whether the call is past its deadline.
    pub(super) fn is_overdue(&self) -> bool {
        !matches!(self.lapse, Lapse::None)
    }

    /// Records that the call has ended. Returns how, for its thread. (The call's thread.)
    pub(super) fn end(self, py: Python<'_>, slot: &Slot) -> Ran {
        if self.interrupts
            && self.is_overdue()
            && let Some(ident) = slot.caller.ident
        {
            // The exception may not have come: the call was in C, or has ended by itself.
            interrupt::forget(py, ident);
        }
        match self.lapse {
            Lapse::None | Lapse::Interrupted => Ran::Ended,
            Lapse::GivenUp => Ran::GivenUp,
            Lapse::Kept(executor) => {
                executor.overdue_ended();
                Ran::Ended
            }
        }
    }
}

/// Waits for deadlines until no service has any. (The thread `maypole-deadlines`.)
fn run() {
    loop {
        let begun = Instant::now();
        // A call that begins during the look is seen by the next one.
        NEXT.store(u64::MAX, Ordering::SeqCst);
        let next = look(begun);
        let mut watch = WATCH.lock();
        let Some(shortest) = watch.limits.iter().min().copied() else {
            watch.runs = false;
            NEXT.store(u64::MAX, Ordering::SeqCst);
            return;
        };
        // A request that arrives later has its deadline later.
        let next = next.unwrap_or(begun + shortest).min(begun + shortest).max(begun + LOOK_EVERY_MIN);
        NEXT.store(micros(next), Ordering::SeqCst);
        let left = next.saturating_duration_since(Instant::now());
        let mut watch = CHANGE.wait_timeout_while(watch, left, |watch| !watch.has_changed);
        watch.has_changed = false;
    }
}

/// Looks at all calls that run, and acts on those whose deadline has passed. Returns the next deadline.
fn look(now: Instant) -> Option<Instant> {
    let mut next: Option<Instant> = None;
    let mut records = Vec::new();
    for slot in Slot::all() {
        let executor = threads::executor_of(slot.executor);
        let mut running = slot.running.lock();
        // While the slot is locked, the call cannot end.
        let Some(call) = &mut *running else { continue };
        if call.due.as_ref().and_then(|due| due.at).is_some_and(|at| at <= now) {
            records.extend(act(&slot, call, executor, now));
        }
        if let Some(at) = call.due.as_ref().and_then(|due| due.at) {
            next = Some(next.map_or(at, |next| next.min(at)));
        }
    }
    record::write(records);
    next
}

/// Acts on a call that is past its deadline. Returns what is logged.
fn act(slot: &Arc<Slot>, call: &mut Running, executor: Option<Arc<Executor<Work>>>, now: Instant) -> Option<Record> {
    let (head, origin, received) = (Arc::clone(&call.head), Arc::clone(&call.origin), call.received);
    let due = call.due.as_mut()?;
    due.at = None;
    let is_first = matches!(due.lapse, Lapse::None);
    let overdue = if is_first { Some(due.exchange.end_overdue()?) } else { None };
    if is_first && due.interrupts {
        due.at = Some(now + INTERRUPTION_MAX);
        due.lapse = Lapse::Interrupted;
    } else if let Some(executor) = executor {
        due.lapse = if executor.give_up() { Lapse::GivenUp } else { Lapse::Kept(executor) };
    }
    Some(Record {
        slot: Arc::clone(slot),
        head,
        origin,
        received,
        began: due.exchange.begun_at().unwrap_or(received),
        noticed: now,
        limit: due.limit,
        overdue,
        fate: record::Fate::of(&due.lapse),
    })
}
