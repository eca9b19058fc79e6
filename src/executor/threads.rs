//! The threads of an executor: how many exist, and which of them rest.
//!
//! *Owns*: the list of resting threads, and the place where each of them waits for its next assignment. *Runs on*: any
//! thread. *Invariants*: a slot is in the list or has an assignment, never both. The lock is held for a moment only.

use std::sync::Arc;
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::sys::{Condition, Lock, ThreadClock};

/// What a thread does when it wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Assignment {
    /// Run calls; the thread counts as running already.
    Run,
    /// Measure how busy the GIL is.
    Standby,
    /// End.
    End,
}

/// The place where one thread rests.
pub(super) struct ThreadSlot {
    thread: Thread,
    assignment: Lock<Option<Assignment>>,
    rests_since: Lock<Instant>,
}

impl ThreadSlot {
    /// Returns the slot of the calling thread.
    pub(super) fn new(assignment: Option<Assignment>) -> Arc<Self> {
        let rests_since = Lock::new(Instant::now());
        Arc::new(Self { thread: thread::current(), assignment: Lock::new(assignment), rests_since })
    }

    /// Sleeps until the thread gets an assignment. (The slot's thread.)
    pub(super) fn wait(&self) -> Assignment {
        loop {
            if let Some(assignment) = self.take() {
                return assignment;
            }
            thread::park();
        }
    }

    /// Returns the assignment that the thread has been given, if any.
    pub(super) fn take(&self) -> Option<Assignment> {
        self.assignment.lock().take()
    }

    /// Wakes the thread for an assignment. The slot is no longer in the list.
    pub(super) fn assign(&self, assignment: Assignment) {
        *self.assignment.lock() = Some(assignment);
        self.thread.unpark();
    }

    fn has_rested(&self, time: Duration, now: Instant) -> bool {
        now.duration_since(*self.rests_since.lock()) >= time
    }
}

/// The threads of an executor.
#[derive(Default)]
pub(super) struct Threads {
    state: Lock<State>,
    /// Notified when a thread or the monitor ends, and, once the executor is closed, when a thread rests.
    changed: Condition,
}

#[derive(Default)]
struct State {
    /// Resting threads. The last one rested last and is woken first, because its caches are warm.
    resting: Vec<Arc<ThreadSlot>>,
    total: usize,
    /// The threads among them that are given up: each runs a call past its deadline, and another one may replace it.
    given_up: usize,
    /// The number of the newest thread.
    number: usize,
    /// The threads' CPU clocks, by thread number.
    clocks: Vec<(usize, ThreadClock)>,
    handles: Vec<JoinHandle<()>>,
    monitor_has_ended: bool,
}

impl State {
    /// Returns how many threads are not given up.
    fn usable(&self) -> usize {
        self.total - self.given_up
    }

    /// Returns whether no thread is left and the monitor has ended.
    fn has_ended(&self) -> bool {
        self.total == 0 && self.monitor_has_ended
    }
}

impl Threads {
    /// Returns how many threads are not given up.
    pub(super) fn usable(&self) -> usize {
        self.state.lock().usable()
    }

    /// Returns how many threads are given up.
    pub(super) fn given_up(&self) -> usize {
        self.state.lock().given_up
    }

    /// Gives one thread up, unless `most` are given up already. Returns whether it did.
    pub(super) fn give_up(&self, most: usize) -> bool {
        let mut state = self.state.lock();
        let has_room = state.given_up < most;
        state.given_up += usize::from(has_room);
        has_room
    }

    /// Counts the calling thread again, which was given up. Returns whether it may stay: otherwise it is one more than
    /// `threads_max`, and must end.
    pub(super) fn take_back(&self, threads_max: usize) -> bool {
        let mut state = self.state.lock();
        state.given_up -= 1;
        state.usable() <= threads_max
    }

    /// Counts one more thread, and returns its number.
    pub(super) fn add(&self) -> usize {
        let mut state = self.state.lock();
        state.total += 1;
        state.number += 1;
        state.number
    }

    /// Records whether the thread that was added last could be started.
    pub(super) fn started(&self, started: std::io::Result<JoinHandle<()>>) -> std::io::Result<()> {
        let mut state = self.state.lock();
        match started {
            Ok(handle) => {
                state.handles.retain(|handle| !handle.is_finished());
                state.handles.push(handle);
                Ok(())
            }
            Err(error) => {
                state.total -= 1;
                Err(error)
            }
        }
    }

    /// Takes the calling thread's CPU clock.
    pub(super) fn enter(&self, number: usize) {
        self.state.lock().clocks.push((number, ThreadClock::current()));
    }

    /// Removes the calling thread, which is about to end.
    pub(super) fn leave(&self, number: usize) {
        let mut state = self.state.lock();
        state.total -= 1;
        state.clocks.retain(|(other, _)| *other != number);
        drop(state);
        self.changed.notify_all();
    }

    /// Returns how much processor time all threads have used.
    pub(super) fn time_used(&self) -> Duration {
        self.state.lock().clocks.iter().map(|(_, clock)| clock.elapsed()).sum()
    }

    /// Puts the calling thread into the list of resting ones.
    pub(super) fn rest(&self, slot: &Arc<ThreadSlot>) {
        *slot.rests_since.lock() = Instant::now();
        self.state.lock().resting.push(Arc::clone(slot));
    }

    /// Takes a resting thread from the list, to give it an assignment.
    pub(super) fn take(&self) -> Option<Arc<ThreadSlot>> {
        self.state.lock().resting.pop()
    }

    /// Takes a thread that has ended early from the list.
    pub(super) fn forget(&self, slot: &Arc<ThreadSlot>) {
        self.state.lock().resting.retain(|other| !Arc::ptr_eq(other, slot));
    }

    /// Ends threads that have rested for at least `rested`, but keeps `keep` threads.
    pub(super) fn end_resting(&self, rested: Duration, keep: usize) {
        let now = Instant::now();
        let mut ending = Vec::new();
        {
            let mut state = self.state.lock();
            let mut usable = state.usable();
            // The first one has rested longest.
            while usable > keep && state.resting.first().is_some_and(|slot| slot.has_rested(rested, now)) {
                ending.push(state.resting.remove(0));
                usable -= 1;
            }
        }
        for slot in ending {
            slot.assign(Assignment::End);
        }
    }

    /// Returns whether there is no thread, not even one that is given up.
    pub(super) fn are_gone(&self) -> bool {
        self.state.lock().total == 0
    }

    /// Records that the monitor has ended.
    pub(super) fn monitor_has_ended(&self) {
        self.state.lock().monitor_has_ended = true;
        self.changed.notify_all();
    }

    /// Wakes `wait_for_change`.
    pub(super) fn note_change(&self) {
        self.changed.notify_all();
    }

    /// Waits until a thread rests or all threads and the monitor have ended, at most for `timeout`.
    pub(super) fn wait_for_change(&self, timeout: Duration) {
        let goes_on = |state: &mut State| state.resting.is_empty() && !state.has_ended();
        drop(self.changed.wait_timeout_while(self.state.lock(), timeout, goes_on));
    }

    /// Returns the handles of the threads once all of them and the monitor have ended. `monitor_is_finished` is true of
    /// a monitor that has panicked, too, which records no end.
    pub(super) fn take_ended(&self, monitor_is_finished: bool) -> Option<Vec<JoinHandle<()>>> {
        let mut state = self.state.lock();
        let ended = state.has_ended() || (state.total == 0 && monitor_is_finished);
        ended.then(|| std::mem::take(&mut state.handles))
    }
}
