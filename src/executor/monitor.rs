//! The executor's monitor: looks every millisecond while there is work, starts and ends threads, and does periodic
//! work.
//!
//! *Runs on*: its own thread, which holds the GIL only for upkeep.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::policy::Move;
use super::{Role, Shared, Task, lock};
use crate::sys;
use crate::throttle::Throttle;

/// How often the monitor looks while there is work.
const TICK: Duration = Duration::from_millis(1);
/// The monitor stops looking after this long without a queued call or the end of one.
const STILL: Duration = Duration::from_millis(20);
/// A thread that has been idle for this long ends.
const THREAD_IDLE_MAX: Duration = Duration::from_secs(10);
/// How often the queue is searched for calls that no longer wait.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// How often periodic work besides calls is done.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// The longest pause after a thread could not be started.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often the log reports that no thread can be started.
static NO_THREAD: Throttle = Throttle::new(Duration::from_secs(10));

impl<C: Task> Shared<C> {
    /// Runs for the monitor's whole life.
    pub(super) fn watch(self: &Arc<Self>) {
        let now = Instant::now();
        let mut progress = Progress { completed: 0, at: now, changed: now, swept: now };
        let mut pause = Pause::default();
        let (mut upkeep_wanted, mut upkeep_next) = (true, Instant::now() + UPKEEP_EVERY);
        let mut ended_at_upkeep = 0;
        loop {
            if upkeep_wanted && Instant::now() >= upkeep_next {
                // Between calls that follow each other closely there are moments in which no call runs.
                let ended = self.completed.value();
                let quiet = self.is_quiet() && ended == ended_at_upkeep;
                ended_at_upkeep = ended;
                upkeep_wanted = (self.upkeep)(quiet);
                upkeep_next = Instant::now() + UPKEEP_EVERY;
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
                    self.start_wanted(role, &mut pause);
                }
                continue;
            }
            // Calls that have run for long while none is queued, such as long polls, need no attention. Between two
            // batches there is no work either, but sleeping then would cost each batch a wake.
            let still = progress.changed.elapsed() >= STILL;
            let rests = |shared: &Self| still && shared.queue.is_empty();
            if rests(self) {
                self.monitor_asleep.store(true, Ordering::SeqCst);
                fence(Ordering::SeqCst);
                // A call that arrived before the flag was visible has not woken the monitor.
                if rests(self) {
                    let limit = if upkeep_wanted { UPKEEP_EVERY } else { THREAD_IDLE_MAX };
                    drop(self.monitor_wake.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner));
                } else {
                    drop(state);
                }
                self.monitor_asleep.store(false, Ordering::SeqCst);
            } else {
                drop(self.monitor_wake.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner));
            }
            upkeep_wanted |= !self.is_quiet() || self.completed.value() != ended_at_upkeep;
            self.look(&mut progress);
        }
    }

    fn is_quiet(&self) -> bool {
        self.running.load(Ordering::SeqCst) == 0 && self.queue.is_empty()
    }

    /// Starts a thread for a role. If that fails, the role is dropped, and a later look tries again after a pause.
    fn start_wanted(self: &Arc<Self>, role: Role, pause: &mut Pause) {
        if lock(&self.crew).total < self.threads_max && pause.is_over(Instant::now()) {
            match self.start_thread(Some(role)) {
                Ok(()) => {
                    *pause = Pause::default();
                    return;
                }
                Err(error) => {
                    pause.begin(Instant::now());
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

    /// Drops a role that no thread can take.
    pub(super) fn give_up(&self, role: Role) {
        match role {
            Role::Run => drop(self.running.fetch_sub(1, Ordering::SeqCst)),
            Role::Standby => self.standby.store(false, Ordering::Release),
            Role::End => {}
        }
    }

    /// Does one look.
    fn look(self: &Arc<Self>, progress: &mut Progress) {
        // A response may wait for its group to fill up while the next call takes long.
        sys::flush_wakes();
        let completed = self.completed.value();
        let now = Instant::now();
        let moves = completed != progress.completed;
        if moves || !self.queue.is_empty() {
            progress.changed = now;
        }
        if moves || self.queue.is_empty() {
            progress.at = now;
        }
        progress.completed = completed;
        if now.duration_since(progress.swept) >= SWEEP_EVERY {
            progress.swept = now;
            self.sweep(now);
        }
        if self.queue.is_empty() {
            self.end_idle(THREAD_IDLE_MAX, 1);
            return;
        }
        let (average, attempts) = (self.average_nanos.load(Ordering::Relaxed), *lock(&self.attempts));
        match attempts.next_move(now.duration_since(progress.at), moves, average, now) {
            Move::Nothing => {}
            Move::Standby => self.send_standby(),
            Move::Start => {
                progress.at = now;
                if self.running.load(Ordering::Relaxed) < self.threads_max {
                    self.running.fetch_add(1, Ordering::SeqCst);
                    self.send(Role::Run);
                }
            }
        }
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

    /// Ends threads that have rested for at least `rested`, but keeps `keep` threads.
    pub(super) fn end_idle(&self, rested: Duration, keep: usize) {
        let now = Instant::now();
        let mut ending = Vec::new();
        {
            let mut crew = lock(&self.crew);
            let mut total = crew.total;
            // The first one has rested longest.
            while total > keep && crew.idle.first().is_some_and(|seat| now.duration_since(*lock(&seat.since)) >= rested)
            {
                ending.push(crew.idle.remove(0));
                total -= 1;
            }
        }
        for seat in ending {
            *lock(&seat.role) = Some(Role::End);
            seat.thread.unpark();
        }
    }
}

/// The pause after a thread could not be started. It doubles each time.
#[derive(Debug, Default)]
struct Pause {
    length: Duration,
    end: Option<Instant>,
}

impl Pause {
    fn is_over(&self, now: Instant) -> bool {
        self.end.is_none_or(|end| now >= end)
    }

    fn begin(&mut self, now: Instant) {
        self.length = (self.length * 2).clamp(TICK, PAUSE_MAX);
        self.end = Some(now + self.length);
    }
}

/// The monitor's observations.
struct Progress {
    completed: u64,
    /// Since when calls have been queued without any of them ending.
    at: Instant,
    /// When a call was last seen queued or ended.
    changed: Instant,
    /// When the queue was last searched.
    swept: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_doubles_up_to_a_second_and_a_thread_that_starts_ends_it() {
        let mut pause = Pause::default();
        let now = Instant::now();
        assert!(pause.is_over(now));
        let mut lengths = Vec::new();
        for _ in 0..12 {
            pause.begin(now);
            assert!(!pause.is_over(now) && pause.is_over(now + pause.length));
            lengths.push(pause.length.as_millis());
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000]);
        assert!(Pause::default().is_over(now));
    }
}
