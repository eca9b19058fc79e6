//! The executor's threads: those that exist, those that rest, and the life of one.
//!
//! *Runs on*: the threads themselves; a thread is started by the monitor, and sent by the thread that needs it.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::policy::{SECOND_LOOK, Verdict};
use super::{Shared, Task, gate, lock};
use crate::phrase::count;
use crate::sys::ThreadClock;

/// Stack size of the threads. Threads of Python itself get the same on Linux, because applications recurse.
const STACK_BYTES: usize = 8 << 20;

#[derive(Default)]
pub(super) struct Crew {
    /// Resting threads. The last one rested last and is woken first, because its caches are warm.
    pub(super) idle: Vec<Arc<Seat>>,
    pub(super) total: usize,
    pub(super) number: usize,
    /// The threads' CPU clocks, by thread number.
    pub(super) clocks: Vec<(usize, ThreadClock)>,
    pub(super) handles: Vec<JoinHandle<()>>,
    pub(super) monitor_has_ended: bool,
}

impl Crew {
    /// Returns whether no thread is left and the monitor has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.total == 0 && self.monitor_has_ended
    }
}

/// The place where one thread sleeps.
pub(super) struct Seat {
    pub(super) thread: Thread,
    pub(super) clock: ThreadClock,
    pub(super) role: Mutex<Option<Role>>,
    pub(super) since: Mutex<Instant>,
}

impl Seat {
    /// Sleeps until the thread is given a role.
    pub(super) fn rest(&self) -> Role {
        loop {
            if let Some(role) = lock(&self.role).take() {
                return role;
            }
            thread::park();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Run calls; the thread counts as running already.
    Run,
    /// Measure how busy the GIL is.
    Standby,
    /// End.
    End,
}

impl<C: Task> Shared<C> {
    /// Gives a role to a resting thread, or to a new one.
    pub(super) fn send(self: &Arc<Self>, role: Role) {
        let seat = lock(&self.crew).idle.pop();
        if let Some(seat) = seat {
            *lock(&seat.role) = Some(role);
            seat.thread.unpark();
            return;
        }
        // A thread inherits the core mask of its parent. The caller may be a coroutine, so the monitor starts the
        // thread.
        lock(&self.monitor).wanted.push(role);
        self.monitor_wake.notify_all();
    }

    /// Starts a thread with its first role. Without a role, the thread rests.
    pub(super) fn start_thread(self: &Arc<Self>, role: Option<Role>) -> std::io::Result<()> {
        let number = {
            let mut crew = lock(&self.crew);
            crew.total += 1;
            crew.number += 1;
            crew.number
        };
        let shared = Arc::clone(self);
        let name = format!("maypole-exec-{number}");
        log::debug!("starting {name}, with {} queued", count(self.queue.len(), "call"));
        let started = thread::Builder::new().name(name.clone()).stack_size(STACK_BYTES).spawn(move || {
            shared.signals.restore();
            let seat = Arc::new(Seat {
                thread: thread::current(),
                clock: ThreadClock::current(),
                role: Mutex::new(role),
                since: Mutex::new(Instant::now()),
            });
            lock(&shared.crew).clocks.push((number, seat.clock));
            if role.is_none() {
                shared.sit_down(&seat);
            }
            shared.live(&name, &seat);
            let mut crew = lock(&shared.crew);
            crew.total -= 1;
            crew.clocks.retain(|(other, _)| *other != number);
            drop(crew);
            shared.crew_changed.notify_all();
        });
        let mut crew = lock(&self.crew);
        match started {
            Ok(handle) => {
                crew.handles.retain(|handle| !handle.is_finished());
                crew.handles.push(handle);
                Ok(())
            }
            Err(error) => {
                crew.total -= 1;
                Err(error)
            }
        }
    }

    /// Runs for a thread's whole life. The thread stays attached to the interpreter, so its thread state and the
    /// application's thread-locals live as long.
    fn live(self: &Arc<Self>, name: &str, seat: &Arc<Seat>) {
        let (began, releases) = (Instant::now(), self.releases());
        let lived = gate::attach(|py| {
            // A new thread already has its role, and attaching was its wait for the GIL. If it released the GIL now, it
            // would get it back at once, whatever the others do.
            let waited = began.elapsed();
            let mut runner = (self.make_runner)(py, name);
            let mut first = lock(&seat.role).take().map(|role| (role, waited, releases));
            loop {
                let (role, waited, releases) = first.take().unwrap_or_else(|| {
                    let (role, woken, releases) = py.detach(|| {
                        let role = seat.rest();
                        (role, Instant::now(), self.releases())
                    });
                    (role, woken.elapsed(), releases)
                });
                match role {
                    Role::End => return,
                    Role::Run => {}
                    Role::Standby => {
                        let mut verdict = self.judge(waited, releases, false);
                        if verdict == Verdict::LookAgain {
                            let (woken, releases, computes) = py.detach(|| {
                                let computes = self.compute_for(SECOND_LOOK);
                                (Instant::now(), self.releases(), computes)
                            });
                            // Calls that compute without the GIL need processors, not more threads.
                            let waited = if computes { Duration::MAX } else { woken.elapsed() };
                            verdict = self.judge(waited, releases, true);
                        }
                        if !matches!(verdict, Verdict::Start { .. }) {
                            self.begin_release();
                            py.detach(|| {
                                self.releasing.fetch_sub(1, Ordering::SeqCst);
                                self.sit_down(seat);
                                // Not before this thread rests: otherwise the next standby would be one thread more.
                                self.standby.store(false, Ordering::Release);
                                self.end_if_closed();
                            });
                            continue;
                        }
                        self.standby.store(false, Ordering::Release);
                    }
                }
                self.working.rise();
                self.work(py, &mut *runner);
                self.working.fall();
                self.begin_release();
                py.detach(|| {
                    self.releasing.fetch_sub(1, Ordering::SeqCst);
                    self.sit_down(seat);
                    self.running.fall();
                    fence(Ordering::SeqCst);
                    // A call that arrived while this thread still counted as running may have woken no thread.
                    if self.queue.is_empty() {
                        self.end_if_closed();
                    } else {
                        self.kick();
                    }
                });
            }
        });
        if lived.is_none() {
            log::debug!("{name} ends: Python is going down");
            lock(&self.crew).idle.retain(|other| !Arc::ptr_eq(other, seat));
            let role = lock(&seat.role).take();
            if let Some(role) = role {
                self.give_up(role);
            }
        }
    }

    /// Ends the resting threads if the executor is closed and its queue is empty. A thread that rests late does this
    /// itself, because `close` did not see it.
    pub(super) fn end_if_closed(&self) {
        if self.closed.load(Ordering::SeqCst) && self.queue.is_empty() {
            self.end_idle(Duration::ZERO, 0);
        }
    }

    /// Announces that this thread releases the GIL next. It counts while it holds the GIL, so that the next holder sees
    /// the count.
    pub(super) fn begin_release(&self) {
        self.releasing.fetch_add(1, Ordering::SeqCst);
        self.releases.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns how often threads have released the GIL by themselves. `None` while one is about to.
    pub(super) fn releases(&self) -> Option<u64> {
        let releases = self.releases.load(Ordering::SeqCst);
        (self.releasing.load(Ordering::SeqCst) == 0).then_some(releases)
    }

    pub(super) fn sit_down(&self, seat: &Arc<Seat>) {
        *lock(&seat.since) = Instant::now();
        lock(&self.crew).idle.push(Arc::clone(seat));
        if self.closed.load(Ordering::SeqCst) {
            self.crew_changed.notify_all();
        }
    }

    /// Drops a role that no thread can take.
    pub(super) fn give_up(&self, role: Role) {
        match role {
            Role::Run => drop(self.running.fall()),
            Role::Standby => self.standby.store(false, Ordering::Release),
            Role::End => {}
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
