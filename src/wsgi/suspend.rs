//! Suspended responses: an application waits for an event, and gives its thread back meanwhile.
//!
//! *Owns*: whether a suspension is announced, reached or over, for one request; the iteration that is set aside; how many
//! there are. *Runs on*: any thread; the application's threads call `suspend` and `resume`. *Invariants*: a suspension
//! ends exactly once: by `resume`, by its time-out, or because its response must end. An iteration that is set aside has
//! one owner: its suspension, or the executor's queue. Its Python objects are dropped on an executor thread. No lock is
//! held while a thread waits for the GIL. *Source*: the proposal "wsgiorg.suspend" (txwsgi).

mod timeouts;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::call::Iteration;
use crate::handler::Producer;
use crate::metrics::Gauge;
use crate::sys::{self, Condition, Lock};

/// The number of suspended responses that are set aside in one server, and its limit.
pub(super) struct Aside {
    count: Gauge,
    max: AtomicUsize,
    is_said: AtomicBool,
}

/// A place among the suspended responses that are set aside.
pub(super) struct Place(Arc<Aside>);

/// The suspensions of one request, one after the other.
#[derive(Default)]
pub(super) struct Suspension {
    state: Lock<State>,
    /// Notified for a thread that waits for the end of a suspension.
    change: Condition,
}

#[derive(Default)]
struct State {
    /// The number of the suspension that was announced last.
    round: u64,
    stage: Stage,
    /// When it ends by itself.
    until: Option<Instant>,
    /// The time of the earliest entry among the time-outs.
    entry_at: Option<Instant>,
    /// Whether the head is sent when it is reached.
    flush: bool,
}

/// How far the suspension that was announced last has come.
#[derive(Default)]
enum Stage {
    /// It is over, or none was announced.
    #[default]
    Over,
    /// It is announced. The application has not yielded its empty block.
    Announced,
    /// It was resumed before the application has yielded its empty block.
    Resumed,
    /// A thread waits for its end.
    Held,
    /// The iteration is set aside until its end.
    Aside(Box<Iteration>),
}

impl Default for Aside {
    fn default() -> Self {
        Self { count: Gauge::default(), max: AtomicUsize::new(usize::MAX), is_said: AtomicBool::new(false) }
    }
}

impl Aside {
    /// Limits how many there may be.
    pub(super) fn limit(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Returns how many there are.
    pub(super) fn count(&self) -> usize {
        self.count.value()
    }

    /// Takes a place for one more. `None`: there are as many as allowed, which is logged once.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let max = self.max.load(Ordering::Relaxed);
        if self.count.rise_below(max) {
            return Some(Place(Arc::clone(self)));
        }
        if !self.is_said.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{max} responses are suspended (--max-suspended): further ones wait for their events on their threads, \
                 and keep their places in the pool"
            );
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count.fall();
    }
}

/// A suspension whose empty block the application has yielded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reached {
    /// Whether the head is sent now.
    pub(super) flush: bool,
    /// Whether the suspension is not over yet.
    pub(super) waits: bool,
}

impl Suspension {
    /// Returns whether a suspension is announced that was neither reached nor resumed.
    pub(super) fn is_announced(&self) -> bool {
        matches!(self.state.lock().stage, Stage::Announced)
    }

    /// Announces a suspension. Returns its number.
    pub(super) fn announce(&self, until: Option<Instant>, flush: bool) -> u64 {
        let mut state = self.state.lock();
        state.round += 1;
        (state.stage, state.until, state.flush) = (Stage::Announced, until, flush);
        state.round
    }

    /// Notes an empty block. `None`: no suspension was announced.
    pub(super) fn reach(&self) -> Option<Reached> {
        let mut state = self.state.lock();
        let waits = match state.stage {
            Stage::Over | Stage::Held | Stage::Aside(_) => return None,
            Stage::Resumed => false,
            Stage::Announced => state.until.is_none_or(|until| Instant::now() < until),
        };
        if !waits {
            state.stage = Stage::Over;
        }
        Some(Reached { flush: state.flush, waits })
    }

    /// Forgets a suspension that was announced, because the response ends.
    pub(super) fn forget(&self) {
        self.state.lock().stage = Stage::Over;
    }

    /// Waits until the announced suspension is over. (Without the GIL.)
    pub(super) fn hold(&self) {
        let mut state = self.state.lock();
        if matches!(state.stage, Stage::Announced) {
            state.stage = Stage::Held;
        }
        while matches!(state.stage, Stage::Held) {
            state = match state.until {
                None => self.change.wait(state),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.change.wait_timeout(state, left)
                }
            };
        }
        state.stage = Stage::Over;
    }

    /// Sets the iteration aside until the announced suspension is over.
    ///
    /// # Errors
    /// It is over already. Returns the iteration.
    pub(super) fn set_aside(self: &Arc<Self>, iteration: Box<Iteration>) -> Result<(), Box<Iteration>> {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Announced) {
            state.stage = Stage::Over;
            return Err(iteration);
        }
        state.stage = Stage::Aside(iteration);
        let Some(until) = state.until else { return Ok(()) };
        if state.entry_at.is_some_and(|at| at <= until) {
            return Ok(());
        }
        state.entry_at = Some(until);
        drop(state);
        if let Err(error) = timeouts::expect(self, until) {
            log::error!(
                "a suspended response goes on before its time-out: no thread can be started: {}",
                sys::plain(&error)
            );
            self.end(None);
        }
        Ok(())
    }

    /// Ends the suspension if its time-out has passed. `entry` is the time of the entry that has led here. Returns when
    /// to look again, if a later time-out has taken its place. (The thread for time-outs.)
    fn pass(&self, entry: Instant, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        if state.entry_at != Some(entry) {
            // An earlier entry has taken over.
            return None;
        }
        state.entry_at = None;
        let until = state.until.filter(|_| matches!(state.stage, Stage::Aside(_)))?;
        if until > now {
            state.entry_at = Some(until);
            return Some(until);
        }
        drop(state);
        self.end(None);
        None
    }

    /// Ends the suspension of this number, or whichever there is. Returns whether it was not over.
    fn end(&self, round: Option<u64>) -> bool {
        let mut state = self.state.lock();
        if round.is_some_and(|round| round != state.round) {
            return false;
        }
        match std::mem::take(&mut state.stage) {
            Stage::Over => return false,
            Stage::Resumed => {
                state.stage = Stage::Resumed;
                return false;
            }
            Stage::Announced | Stage::Held => {
                state.stage = Stage::Resumed;
                drop(state);
                self.change.notify_all();
            }
            Stage::Aside(iteration) => {
                drop(state);
                Iteration::queue(iteration);
            }
        }
        true
    }
}

impl Producer for Suspension {
    fn wake(&self) {
        self.end(None);
    }
}

/// Ends one suspension. The application calls it from any thread, at any time, as often as it likes.
#[pyclass(frozen, module = "maypole", name = "Resume")]
pub(super) struct Resume {
    suspension: Arc<Suspension>,
    round: u64,
}

impl Resume {
    pub(super) fn new(suspension: Arc<Suspension>, round: u64) -> Self {
        Self { suspension, round }
    }
}

#[pymethods]
impl Resume {
    /// Ends the suspension. Returns whether it was not over.
    fn __call__(&self) -> bool {
        self.suspension.end(Some(self.round))
    }
}

/// Returns when a time-out ends that begins now. `None`: never.
///
/// # Errors
/// It is negative or not a number.
pub(super) fn until(timeout: Option<f64>, unit: &str, seconds: f64) -> PyResult<Option<Instant>> {
    let Some(timeout) = timeout else { return Ok(None) };
    if timeout.is_nan() || timeout < 0.0 {
        let what = "the time-out of a suspension must be a number of";
        return Err(PyValueError::new_err(format!("{what} {unit}, at least 0, or None; not {timeout}")));
    }
    // A time-out that no clock can show never ends.
    Ok(Duration::try_from_secs_f64(timeout * seconds).ok().and_then(|time| Instant::now().checked_add(time)))
}
