//! The executor's monitor: looks every millisecond while there is work, starts and ends threads, and does periodic
//! work.
//!
//! *Runs on*: its own thread, which holds the GIL only for upkeep.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::policy::{Look, Progress, Retry, UPKEEP_EVERY, UpkeepTimes};
use super::threads::Assignment;
use super::{Shared, Task, gil};
use crate::sys::{self, Condition, Lock};
use crate::throttle::Throttle;

/// How often the monitor looks while there is work.
const TICK: Duration = Duration::from_millis(1);
/// A thread that has rested for this long ends.
const THREAD_REST_MAX: Duration = Duration::from_secs(10);
/// How often the log reports that no thread can be started.
static NO_THREAD: Throttle = Throttle::new(Duration::from_secs(10));

/// What the monitor waits for.
#[derive(Default)]
pub(super) struct Monitor {
    /// Threads to start, by their first assignment.
    wanted: Lock<Vec<Assignment>>,
    wake: Condition,
    /// Whether it sleeps until it is woken.
    is_asleep: AtomicBool,
}

impl Monitor {
    /// Has the monitor start a thread.
    pub(super) fn want(&self, assignment: Assignment) {
        self.wanted.lock().push(assignment);
        self.wake.notify_all();
    }

    /// Takes the assignments for which no thread was started.
    pub(super) fn take_wanted(&self) -> Vec<Assignment> {
        std::mem::take(&mut *self.wanted.lock())
    }

    /// Wakes the monitor.
    pub(super) fn wake(&self) {
        drop(self.wanted.lock());
        self.wake.notify_all();
    }

    /// Wakes the monitor if it sleeps until it is woken.
    pub(super) fn rouse(&self) {
        if self.is_asleep.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wait(&self, wanted: MutexGuard<'_, Vec<Assignment>>, timeout: Duration) {
        drop(self.wake.wait_timeout(wanted, timeout));
    }

    /// Waits until the monitor is woken, at most for `timeout`. Marks the monitor as asleep first, and then waits only
    /// if `rests` still holds: a call that arrived before the mark has not woken it.
    fn sleep(&self, wanted: MutexGuard<'_, Vec<Assignment>>, timeout: Duration, rests: impl Fn() -> bool) {
        self.is_asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if rests() {
            self.wait(wanted, timeout);
        }
        self.is_asleep.store(false, Ordering::SeqCst);
    }
}

impl<C: Task> Shared<C> {
    /// Runs for the monitor's whole life.
    pub(super) fn watch(self: &Arc<Self>) {
        let now = Instant::now();
        let (mut progress, mut upkeep, mut retry) = (Progress::new(now), UpkeepTimes::new(now), Retry::default());
        loop {
            if let Some(is_quiet) = upkeep.begin(self.has_calls(), self.completed.value(), Instant::now()) {
                upkeep.end((self.upkeep)(is_quiet), Instant::now());
            }
            let mut wanted = self.monitor.wanted.lock();
            if self.closed.load(Ordering::SeqCst) {
                drop(wanted);
                self.threads.end_resting(Duration::ZERO, 0);
                return;
            }
            if !wanted.is_empty() {
                let assignments = std::mem::take(&mut *wanted);
                drop(wanted);
                for assignment in assignments {
                    self.start_wanted(assignment, &mut retry);
                }
                continue;
            }
            let is_still = progress.is_still(Instant::now());
            if is_still && self.queue.is_empty() {
                let timeout = if upkeep.is_wanted() { UPKEEP_EVERY } else { THREAD_REST_MAX };
                self.monitor.sleep(wanted, timeout, || self.queue.is_empty());
            } else {
                self.monitor.wait(wanted, TICK);
            }
            upkeep.note(self.has_calls(), self.completed.value());
            self.look(&mut progress);
        }
    }

    fn has_calls(&self) -> bool {
        self.running.value() > 0 || !self.queue.is_empty()
    }

    /// Starts a thread for an assignment. If that fails, the assignment is dropped, and a later look tries again after
    /// a pause.
    fn start_wanted(self: &Arc<Self>, assignment: Assignment, retry: &mut Retry) {
        if self.threads.usable() < self.threads_max && retry.is_allowed(Instant::now()) {
            match self.start_thread(Some(assignment)) {
                Ok(()) => {
                    *retry = Retry::default();
                    return;
                }
                Err(error) => {
                    retry.failed(Instant::now());
                    if let Some(more) = NO_THREAD.pass() {
                        let (threads, error) = (self.threads.usable(), sys::plain(&error));
                        log::error!(
                            "cannot start one more thread for the application: {error}; it has {threads}, and requests \
                             wait for these (see `ulimit -u` and the cgroup's pids.max){more}"
                        );
                    }
                }
            }
        }
        self.give_up(assignment);
    }

    /// Does one look.
    fn look(self: &Arc<Self>, progress: &mut Progress) {
        // A response may wait for its group to fill up while the next call takes long.
        sys::flush_wakes();
        let now = Instant::now();
        if progress.sweeps(now) {
            self.queue.sweep(|call| call.still_waits(now));
        }
        let running = self.running.value();
        let seen = Look {
            queued: !self.queue.is_empty(),
            completed: self.completed.value(),
            average_nanos: self.average_nanos.load(Ordering::Relaxed),
            running,
            waits_for_gil: gil::is_on() && self.working.value() < running,
            threads_max: self.threads_max,
        };
        let average = Duration::from_nanos(seen.average_nanos);
        self.saturation.look(self.queue.len(), average, seen.running, seen.completed, now);
        let attempts = *self.attempts.lock();
        let Some(step) = progress.look(&seen, &attempts, now) else {
            return self.threads.end_resting(THREAD_REST_MAX, 1);
        };
        self.take(step);
        self.kick();
    }
}
