//! The executor's monitor: looks every millisecond while there is work, starts and ends threads, and does periodic
//! work.
//!
//! *Runs on*: its own thread, which holds the GIL only for upkeep.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::policy::{Look, Progress, Retry, UPKEEP_EVERY, UpkeepTimes};
use super::threads::Role;
use super::{Shared, Task, lock};
use crate::sys;
use crate::throttle::Throttle;

/// How often the monitor looks while there is work.
const TICK: Duration = Duration::from_millis(1);
/// A thread that has been idle for this long ends.
const THREAD_IDLE_MAX: Duration = Duration::from_secs(10);
/// How often the log reports that no thread can be started.
static NO_THREAD: Throttle = Throttle::new(Duration::from_secs(10));

impl<C: Task> Shared<C> {
    /// Runs for the monitor's whole life.
    pub(super) fn watch(self: &Arc<Self>) {
        let now = Instant::now();
        let (mut progress, mut upkeep, mut retry) = (Progress::new(now), UpkeepTimes::new(now), Retry::default());
        loop {
            if let Some(is_quiet) = upkeep.begin(self.has_calls(), self.completed.value(), Instant::now()) {
                upkeep.end((self.upkeep)(is_quiet), Instant::now());
            }
            let mut state = lock(&self.monitor);
            if self.closed.load(Ordering::SeqCst) {
                drop(state);
                self.end_idle(Duration::ZERO, 0);
                return;
            }
            if !state.wanted.is_empty() {
                let wanted = std::mem::take(&mut state.wanted);
                drop(state);
                for role in wanted {
                    self.start_wanted(role, &mut retry);
                }
                continue;
            }
            let is_still = progress.is_still(Instant::now());
            let rests = |shared: &Self| is_still && shared.queue.is_empty();
            if rests(self) {
                self.monitor_asleep.store(true, Ordering::SeqCst);
                fence(Ordering::SeqCst);
                // A call that arrived before the flag was visible has not woken the monitor.
                if rests(self) {
                    let limit = if upkeep.is_wanted() { UPKEEP_EVERY } else { THREAD_IDLE_MAX };
                    drop(self.monitor_wake.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner));
                } else {
                    drop(state);
                }
                self.monitor_asleep.store(false, Ordering::SeqCst);
            } else {
                drop(self.monitor_wake.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner));
            }
            upkeep.note(self.has_calls(), self.completed.value());
            self.look(&mut progress);
        }
    }

    fn has_calls(&self) -> bool {
        self.running.value() > 0 || !self.queue.is_empty()
    }

    /// Starts a thread for a role. If that fails, the role is dropped, and a later look tries again after a pause.
    fn start_wanted(self: &Arc<Self>, role: Role, retry: &mut Retry) {
        if lock(&self.crew).total < self.threads_max && retry.is_allowed(Instant::now()) {
            match self.start_thread(Some(role)) {
                Ok(()) => {
                    *retry = Retry::default();
                    return;
                }
                Err(error) => {
                    retry.failed(Instant::now());
                    if let Some(more) = NO_THREAD.pass() {
                        let (threads, error) = (lock(&self.crew).total, sys::plain(&error));
                        log::error!(
                            "cannot start one more thread for the application: {error}; it has {threads}, and requests \
                             wait for these (see `ulimit -u` and the cgroup's pids.max){more}"
                        );
                    }
                }
            }
        }
        self.give_up(role);
    }

    /// Does one look.
    fn look(self: &Arc<Self>, progress: &mut Progress) {
        // A response may wait for its group to fill up while the next call takes long.
        sys::flush_wakes();
        let now = Instant::now();
        if progress.sweeps(now) {
            self.sweep(now);
        }
        let seen = Look {
            queued: !self.queue.is_empty(),
            completed: self.completed.value(),
            average_nanos: self.average_nanos.load(Ordering::Relaxed),
            running: self.running.value(),
            threads_max: self.threads_max,
        };
        let attempts = *lock(&self.attempts);
        let Some(step) = progress.look(&seen, &attempts, now) else { return self.end_idle(THREAD_IDLE_MAX, 1) };
        self.take(step);
        self.kick();
    }

    /// Drops queued calls that no longer wait. The others keep their order, except that calls queued meanwhile may move
    /// ahead.
    fn sweep(&self, now: Instant) {
        for _ in 0..self.queue.len() {
            let Some(call) = self.queue.pop() else { return };
            if call.still_waits(now) {
                self.queue.push(call);
            }
        }
    }
}
