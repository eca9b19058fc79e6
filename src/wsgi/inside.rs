//! The requests that run, in the scoreboard: after a crash, the supervisor reads there what the worker was serving.
//!
//! *Owns*: the slot of this process. *Runs on*: executor threads. *Invariants*: without a supervisor, no thread has a
//! `NotingRunner`, and a request costs nothing here.

use std::sync::OnceLock;
use std::time::Instant;

use pyo3::prelude::*;

use super::Work;
use crate::executor::{Ran, Runner};
use crate::scoreboard::Slot;

static SLOT: OnceLock<Slot> = OnceLock::new();

/// Makes all threads that call applications note their requests in this slot. Call it before any of them starts.
pub fn note_requests(slot: Slot) {
    // A process is one worker, so it has one slot.
    let _ = SLOT.set(slot);
}

/// Returns a runner that notes each request while `runner` runs it, if this process has a slot. `thread` is the system's
/// number of the thread.
pub(super) fn noting(runner: impl Runner<Work> + 'static, thread: u32) -> Box<dyn Runner<Work>> {
    match SLOT.get() {
        Some(slot) => Box::new(NotingRunner { slot: slot.clone(), thread, runner }),
        None => Box::new(runner),
    }
}

/// Notes each request in the scoreboard while another runner runs it.
struct NotingRunner<R> {
    slot: Slot,
    thread: u32,
    runner: R,
}

impl<R: Runner<Work>> Runner<Work> for NotingRunner<R> {
    fn run(&mut self, py: Python<'_>, work: Work, clock: &mut Instant) -> Ran {
        let (head, received) = match &work {
            Work::Call(call) => (&call.request.head, call.request.received),
            Work::Resume(iteration) => (iteration.head(), iteration.received()),
            Work::Events(_) | Work::Chore(_) => return self.runner.run(py, work, clock),
        };
        let row = self.slot.note_request(self.thread, received, head.request_line(), head.id().unwrap_or_default());
        let ran = self.runner.run(py, work, clock);
        if let Some(row) = row {
            self.slot.forget_request(row);
        }
        ran
    }
}
