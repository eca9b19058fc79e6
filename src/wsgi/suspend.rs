//! Suspended responses: an application waits for an event, and gives its thread back meanwhile.
//!
//! *Owns*: whether a suspension is announced, reached or over, for one request. *Runs on*: any thread; the
//! application's threads call `suspend` and `resume`. *Invariants*: a suspension ends exactly once: by `resume`, by its
//! time-out, or because its response must end. No lock is held while a thread waits for the GIL. *Source*: the proposal
//! "wsgiorg.suspend" (txwsgi).

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::handler::Producer;
use crate::sys::{Condition, Lock};

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
    /// Whether the head is sent when it is reached.
    flush: bool,
}

/// How far the suspension that was announced last has come.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
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
        self.state.lock().stage == Stage::Announced
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
            Stage::Over | Stage::Held => return None,
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
        if state.stage == Stage::Announced {
            state.stage = Stage::Held;
        }
        while state.stage == Stage::Held {
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

    /// Ends the suspension of this number, or whichever there is. Returns whether it was not over.
    fn end(&self, round: Option<u64>) -> bool {
        let mut state = self.state.lock();
        if round.is_some_and(|round| round != state.round) {
            return false;
        }
        match state.stage {
            Stage::Over | Stage::Resumed => return false,
            Stage::Announced | Stage::Held => state.stage = Stage::Resumed,
        }
        drop(state);
        self.change.notify_all();
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
