//! The life of one executor thread: it waits for an assignment, does it, and rests again.
//!
//! *Runs on*: the executor's threads; a thread is started by the monitor. *Invariants*: the thread stays attached to
//! the interpreter, so its thread state and the application's thread-locals live as long as the thread.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::Duration;

use pyo3::Python;

use super::standby::Asked;
use super::threads::{Assignment, ThreadSlot};
use super::{Shared, Task, gate};
use crate::phrase::count;

/// Stack size of the threads. Threads of Python itself get the same on Linux, because applications recurse.
const STACK_BYTES: usize = 8 << 20;

/// An assignment, and how the thread got the GIL for it.
struct Turn {
    assignment: Assignment,
    asked: Asked,
    /// How long the thread waited for the GIL.
    waited: Duration,
}

impl<C: Task> Shared<C> {
    /// Starts a thread with its first assignment. Without one, the thread rests.
    pub(super) fn start_thread(self: &Arc<Self>, assignment: Option<Assignment>) -> std::io::Result<()> {
        let number = self.threads.add();
        let shared = Arc::clone(self);
        let name = format!("maypole-exec-{number}");
        log::debug!("starting {name}, with {} queued", count(self.queue.len(), "call"));
        let started = thread::Builder::new().name(name.clone()).stack_size(STACK_BYTES).spawn(move || {
            shared.signals.restore();
            shared.threads.enter(number);
            let slot = ThreadSlot::new(assignment);
            if assignment.is_none() {
                shared.rest(&slot);
            }
            shared.live(&name, &slot);
            shared.threads.leave(number);
            shared.note_end();
        });
        self.threads.started(started)
    }

    /// Runs for a thread's whole life.
    fn live(self: &Arc<Self>, name: &str, slot: &Arc<ThreadSlot>) {
        let asked = self.ask();
        let lived = gate::attach(|py| {
            // A new thread already has its assignment, and attaching was its wait for the GIL. If it released the GIL
            // now, it would get it back at once, whatever the others do.
            let waited = asked.at.elapsed();
            let mut runner = (self.make_runner)(py, name);
            let mut turn = match slot.take() {
                Some(assignment) => Turn { assignment, asked, waited },
                None => self.next_turn(py, slot),
            };
            loop {
                let runs = match turn.assignment {
                    Assignment::End => return,
                    Assignment::Run => true,
                    Assignment::Standby => self.stand_by(py, &turn.asked, turn.waited),
                };
                self.gil_waits.observe(turn.waited);
                let mut is_given_up = false;
                if runs {
                    self.working.rise();
                    is_given_up = !self.work(py, &mut *runner);
                    if !is_given_up {
                        self.working.fall();
                    } else if !self.threads.take_back(self.threads_max) {
                        return;
                    }
                }
                self.releases.begin();
                py.detach(|| {
                    self.releases.end();
                    match (runs, is_given_up) {
                        (true, false) => self.rest_after_calls(slot),
                        (true, true) => self.rest_after_return(slot),
                        (false, _) => self.rest_after_standby(slot),
                    }
                });
                turn = self.next_turn(py, slot);
            }
        });
        if lived.is_none() {
            log::debug!("{name} ends: Python is going down");
            self.threads.forget(slot);
            if let Some(assignment) = slot.take() {
                self.give_up(assignment);
            }
            self.drop_if_closed();
        }
    }

    /// Sleeps without the GIL until the thread gets an assignment, and takes the GIL.
    fn next_turn(&self, py: Python<'_>, slot: &ThreadSlot) -> Turn {
        let (assignment, asked) = py.detach(|| {
            let assignment = slot.wait();
            (assignment, self.ask())
        });
        let waited = asked.at.elapsed();
        Turn { assignment, asked, waited }
    }

    /// Puts the calling thread into the list of resting ones.
    fn rest(&self, slot: &Arc<ThreadSlot>) {
        self.threads.rest(slot);
        if self.closed.load(Ordering::SeqCst) {
            self.threads.note_change();
        }
    }

    fn rest_after_calls(self: &Arc<Self>, slot: &Arc<ThreadSlot>) {
        self.rest(slot);
        self.running.fall();
        self.look_after_rest();
    }

    /// Rests after a call during which the thread was given up. It has not counted as running since then.
    fn rest_after_return(self: &Arc<Self>, slot: &Arc<ThreadSlot>) {
        self.rest(slot);
        self.look_after_rest();
    }

    fn look_after_rest(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        // A call that arrived while this thread still counted as running may have woken no thread.
        if self.queue.is_empty() {
            self.end_if_closed();
        } else {
            self.kick();
        }
    }

    fn rest_after_standby(&self, slot: &Arc<ThreadSlot>) {
        self.rest(slot);
        // Clear the flag only after this thread rests. Otherwise the next standby would be an additional thread.
        self.standby.store(false, Ordering::Release);
        self.end_if_closed();
    }

    /// Ends the resting threads if the executor is closed and its queue is empty. A thread that rests late does this
    /// itself, because `close` did not see it.
    fn end_if_closed(&self) {
        if self.closed.load(Ordering::SeqCst) && self.queue.is_empty() {
            self.threads.end_resting(Duration::ZERO, 0);
        }
    }

    /// Gives an assignment to a resting thread, or to a new one.
    pub(super) fn send(&self, assignment: Assignment) {
        match self.threads.take() {
            Some(slot) => slot.assign(assignment),
            // A thread inherits the core mask of its parent. The caller may be a coroutine, so the monitor starts the
            // thread.
            None => self.monitor.want(assignment),
        }
    }

    /// Drops an assignment that no thread can take.
    pub(super) fn give_up(&self, assignment: Assignment) {
        match assignment {
            Assignment::Run => drop(self.running.fall()),
            Assignment::Standby => self.standby.store(false, Ordering::Release),
            Assignment::End => {}
        }
    }
}
