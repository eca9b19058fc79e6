//! OS threads that run calls under the GIL, as many as the calls need: one while they compute, more while they wait.
//!
//! *Owns*: the queue of calls, the threads, and the decision when one more thread starts a call. *Runs on*: its own
//! threads, and a monitor thread that looks every millisecond while there is work and sleeps otherwise. `submit` is for
//! coroutines and never waits.
//! *Invariants*: a thread keeps the GIL from call to call and lets go of it only to wait. While calls are queued at
//! most one thread more than those that run calls is awake: the standby, which finds out how busy the GIL is by waiting
//! for it. No thread touches a client's socket.
//!
//! How the number of threads follows what the application does. With a GIL, more threads than needed cost throughput
//! (each hand-over of the GIL is a context switch, and every switch interval a convoy), and fewer than needed waste it
//! while calls sleep. So whenever calls have been queued for a tick, the standby asks for the GIL. If it gets it before
//! the interpreter's switch interval forces anybody to give it up, a running call let go of it in order to wait: the
//! standby becomes one more running thread, and the next standby is sent. If it gets it later, somebody computes: it
//! goes back to sleep and the next attempt waits longer. So a line of threads for the GIL stays shorter than a switch
//! interval, below which waiting in it costs nothing.
//! A stall guard starts a call in any case when none has ended for a long time.

pub mod gate;
pub mod gil;
mod monitor;
mod policy;
mod standby;

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam::queue::SegQueue;
use pyo3::Python;

use self::policy::{Attempts, SECOND_LOOK, Verdict};
use crate::phrase::count;
use crate::sys::{self, Deferred, SignalMask, ThreadClock};

/// Replies wake their coroutines in groups of this size at most …
const GROUP_MAX: u64 = 16;
/// … and of as many as end within this time on average, in nanoseconds, as long as calls are queued: waking the runtime
/// for each reply costs as much as a call of 30 µs does.
const GROUP_NANOS: u64 = 250_000;
/// On one processor the runtime leaves it to the calls for so long at least, or not at all …
const PAUSE_MIN: Duration = Duration::from_micros(100);
/// … and at most.
const PAUSE_MAX: Duration = Duration::from_millis(1);
/// On one processor calls that are shorter than this on average, in nanoseconds, are awaited by the runtime.
const SHORT_CALL_NANOS: u64 = 30_000;
/// Stacks of the threads: what threads of Python itself get on Linux, because applications recurse.
const STACK_BYTES: usize = 8 << 20;

/// A call as the queue sees it.
pub trait Task: Send + 'static {
    /// Whether it goes on waiting for a thread. The monitor asks some times a second, and drops a call that does not.
    fn still_waits(&self, now: Instant) -> bool;
}

/// What a thread does with its calls. Made on the thread it lives on, with the GIL held, and dropped there.
pub trait Runner<C> {
    /// Runs one call, or drops it if it no longer waits. Returns whether it ran. It must not unwind and may let go of the
    /// GIL meanwhile.
    fn run(&mut self, py: Python<'_>, call: C) -> bool;
}

/// Makes the runner of a new thread.
pub type MakeRunner<C> = Box<dyn Fn(Python<'_>, &str) -> Box<dyn Runner<C>> + Send + Sync>;

/// What is to be done now and then besides calls: the monitor calls it at most once a second while calls run (`false`)
/// and after they have ended (`true`), until it answers that there is nothing more to do.
pub type Upkeep = Box<dyn Fn(bool) -> bool + Send + Sync>;

/// The threads and their queue. Dropped, it ends its threads as soon as they have nothing to do.
pub struct Executor<C: Task> {
    shared: Arc<Shared<C>>,
    kick: Deferred,
    monitor: Mutex<Option<JoinHandle<()>>>,
}

/// A look at an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Threads that exist.
    pub threads: usize,
    /// Threads that run calls, waiting inside the application included.
    pub running: usize,
    /// Threads that there can be.
    pub threads_max: usize,
    /// Calls that no thread has taken yet.
    pub queued: usize,
    /// Calls that have ended.
    pub completed: u64,
}

struct Shared<C> {
    queue: SegQueue<C>,
    make_runner: MakeRunner<C>,
    upkeep: Upkeep,
    threads_max: usize,
    processors: usize,
    /// What its threads block: what the thread that started the executor did. A call may start processes, which take it
    /// over.
    signals: SignalMask,
    /// Threads that run calls or have been told to.
    running: AtomicUsize,
    /// Those of them that have had the GIL since they were told to.
    working: AtomicUsize,
    completed: AtomicU64,
    /// The moving average of a call's length in nanoseconds; 0: none has ended yet.
    average_nanos: AtomicU64,
    /// How often a thread let go of the GIL by itself, between calls.
    releases: AtomicU64,
    /// How many threads are just about to.
    releasing: AtomicUsize,
    /// A standby is on its way.
    standby: AtomicBool,
    /// The last standby got the GIL early: calls wait inside the application, so send the next one at once.
    waits_seen: AtomicBool,
    /// One running thread is to rest after its call.
    retire: AtomicBool,
    attempts: Mutex<Attempts>,
    crew: Mutex<Crew>,
    monitor: Mutex<MonitorState>,
    monitor_wake: Condvar,
    /// The monitor sleeps until it is woken.
    monitor_asleep: AtomicBool,
    /// Nothing more will be queued: a thread that has nothing to do ends.
    closed: AtomicBool,
}

#[derive(Default)]
struct Crew {
    /// Threads that rest; the last one rested last and is woken first, its caches being warm.
    idle: Vec<Arc<Seat>>,
    total: usize,
    number: usize,
    /// The threads' clocks.
    clocks: Vec<(usize, ThreadClock)>,
    handles: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct MonitorState {
    /// Threads to start, and what they are to do first.
    wanted: Vec<Role>,
    closed: bool,
}

/// Where one thread sleeps.
struct Seat {
    thread: Thread,
    clock: ThreadClock,
    role: Mutex<Option<Role>>,
    since: Mutex<Instant>,
}

impl Seat {
    /// Sleeps until there is a role to play.
    fn rest(&self) -> Role {
        loop {
            if let Some(role) = lock(&self.role).take() {
                return role;
            }
            thread::park();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Run calls; the thread counts as running already.
    Run,
    /// See how busy the GIL is.
    Standby,
    /// End.
    End,
}

impl<C: Task> std::fmt::Debug for Executor<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Executor").field(&self.stats()).finish()
    }
}

impl<C: Task> Executor<C> {
    /// An executor of at most `threads_max` threads, and its first thread. Call it from a plain thread: threads take
    /// over the core mask of the one that starts them.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(threads_max: usize, make_runner: MakeRunner<C>, upkeep: Upkeep) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: SegQueue::new(),
            make_runner,
            upkeep,
            threads_max: threads_max.max(1),
            processors: sys::processors(),
            signals: SignalMask::current(),
            running: AtomicUsize::new(0),
            working: AtomicUsize::new(0),
            completed: AtomicU64::new(0),
            average_nanos: AtomicU64::new(0),
            releases: AtomicU64::new(0),
            releasing: AtomicUsize::new(0),
            standby: AtomicBool::new(false),
            waits_seen: AtomicBool::new(false),
            retire: AtomicBool::new(false),
            attempts: Mutex::new(Attempts::new(Instant::now())),
            crew: Mutex::default(),
            monitor: Mutex::default(),
            monitor_wake: Condvar::new(),
            monitor_asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        shared.start_thread(None)?;
        let watching = Arc::clone(&shared);
        let signals = SignalMask::block_all();
        let monitor = thread::Builder::new().name("maypole-monitor".into()).spawn(move || watching.watch());
        signals.restore();
        let kicked = Arc::clone(&shared);
        Ok(Self {
            shared,
            monitor: Mutex::new(Some(monitor?)),
            kick: Deferred::new(move || {
                if kicked.processors == 1 {
                    // Whom threads wake meanwhile is resumed at once afterwards: that saves waking the runtime for it.
                    sys::collect_wakes(|| {
                        kicked.kick();
                        kicked.give_way();
                    });
                } else {
                    kicked.kick();
                }
            }),
        })
    }

    /// Queues a call. While calls are short it starts after everything that can run on the runtime's thread right now
    /// has run, so that a whole batch of calls wakes a thread once. Long ones start one by one: started together, calls
    /// that sleep would also end together.
    pub fn submit(&self, call: C) {
        self.shared.queue.push(call);
        if self.shared.group() == 1 {
            self.shared.kick();
        } else {
            self.kick.ask();
        }
    }

    /// Has a thread that holds the GIL run this soon. For what is not a call of the application, from any thread.
    pub fn submit_now(&self, call: C) {
        self.shared.queue.push(call);
        self.shared.kick();
    }

    /// Whether as many threads run calls as there may be.
    pub fn is_full(&self) -> bool {
        self.shared.running.load(Ordering::Relaxed) >= self.shared.threads_max
    }

    /// Whether it has been shut down.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    /// Ends its threads and its monitor. Waits at most `timeout` until they are gone, and returns whether they are. A
    /// thread whose call still runs ends after the call. (Plain thread, without the GIL.)
    pub fn shut_down(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        self.close();
        loop {
            self.shared.end_idle(Duration::ZERO, 0);
            if self.has_ended() {
                while self.shared.queue.pop().is_some() {}
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether its threads and its monitor are gone. It joins those that have ended, which takes no time.
    fn has_ended(&self) -> bool {
        let mut crew = lock(&self.shared.crew);
        let mut monitor = lock(&self.monitor);
        if crew.total > 0 || monitor.as_ref().is_some_and(|monitor| !monitor.is_finished()) {
            return false;
        }
        let handles = std::mem::take(&mut crew.handles);
        drop(crew);
        for handle in handles.into_iter().chain(monitor.take()) {
            // Whether it panicked changes nothing here.
            drop(handle.join());
        }
        true
    }

    fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        lock(&self.shared.monitor).closed = true;
        self.shared.monitor_wake.notify_all();
    }

    /// Numbers.
    pub fn stats(&self) -> Stats {
        Stats {
            threads: lock(&self.shared.crew).total,
            running: self.shared.running.load(Ordering::Relaxed),
            threads_max: self.shared.threads_max,
            queued: self.shared.queue.len(),
            completed: self.shared.completed.load(Ordering::Relaxed),
        }
    }
}

impl<C: Task> Drop for Executor<C> {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C: Task> Shared<C> {
    /// Leaves the only processor to the threads for a part of what is queued. Otherwise every packet that comes would
    /// interrupt a call, and two switches and cold caches cost more than 30 µs; and what comes would only be queued behind
    /// the rest. (The runtime's thread.)
    fn give_way(&self) {
        let average = self.average_nanos.load(Ordering::Relaxed);
        let queued = u64::try_from(self.queue.len()).unwrap_or(u64::MAX).saturating_mul(average);
        let pause = Duration::from_nanos(queued / 4).min(PAUSE_MAX);
        if pause >= PAUSE_MIN {
            thread::sleep(pause);
        } else if average <= SHORT_CALL_NANOS && self.running.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
    }

    /// Sees to it that somebody runs what is queued.
    fn kick(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        if self.queue.is_empty() {
            return;
        }
        if self.begin_running() {
            self.send(Role::Run);
        } else if self.waits_seen.load(Ordering::Relaxed) {
            self.send_standby();
        }
        if self.monitor_asleep.load(Ordering::SeqCst) {
            self.wake_monitor();
        }
    }

    fn wake_monitor(&self) {
        drop(lock(&self.monitor));
        self.monitor_wake.notify_all();
    }

    /// Sends a standby unless one is on its way or there are threads enough.
    fn send_standby(self: &Arc<Self>) {
        if self.running.load(Ordering::Relaxed) < self.threads_max && !self.standby.swap(true, Ordering::AcqRel) {
            self.send(Role::Standby);
        }
    }

    /// Gives a role to a resting thread, or to a new one.
    fn send(self: &Arc<Self>, role: Role) {
        let seat = lock(&self.crew).idle.pop();
        if let Some(seat) = seat {
            *lock(&seat.role) = Some(role);
            seat.thread.unpark();
            return;
        }
        // A thread takes over the core mask of its parent, and this may be a coroutine: the monitor starts it.
        lock(&self.monitor).wanted.push(role);
        self.monitor_wake.notify_all();
    }

    /// Starts a thread with its first role; without one it rests.
    fn start_thread(self: &Arc<Self>, role: Option<Role>) -> std::io::Result<()> {
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
                lock(&shared.crew).idle.push(Arc::clone(&seat));
            }
            shared.live(&name, &seat);
            let mut crew = lock(&shared.crew);
            crew.total -= 1;
            crew.clocks.retain(|(other, _)| *other != number);
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

    /// A thread's life. It is attached to the interpreter throughout, so its thread state and the application's
    /// thread-locals live as long.
    fn live(self: &Arc<Self>, name: &str, seat: &Arc<Seat>) {
        let (began, releases) = (Instant::now(), self.releases());
        let lived = gate::attach(|py| {
            // A new thread has its role already, and this was its wait for the GIL: what it let go of now it would get
            // back at once, whatever the others do.
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
                            // Calls that compute without the GIL need processors, not threads.
                            let waited = if computes { Duration::MAX } else { woken.elapsed() };
                            verdict = self.judge(waited, releases, true);
                        }
                        if verdict != Verdict::Start {
                            self.begin_release();
                            py.detach(|| {
                                self.releasing.fetch_sub(1, Ordering::SeqCst);
                                self.sit_down(seat);
                                // Not before it sits: the next standby would be one thread more.
                                self.standby.store(false, Ordering::Release);
                                self.end_if_closed();
                            });
                            continue;
                        }
                        self.standby.store(false, Ordering::Release);
                    }
                }
                self.working.fetch_add(1, Ordering::SeqCst);
                self.work(py, &mut *runner);
                self.working.fetch_sub(1, Ordering::SeqCst);
                self.begin_release();
                py.detach(|| {
                    self.releasing.fetch_sub(1, Ordering::SeqCst);
                    self.sit_down(seat);
                    self.running.fetch_sub(1, Ordering::SeqCst);
                    fence(Ordering::SeqCst);
                    // A call that came while this thread still counted as running may have woken nobody.
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

    /// Nothing more comes and nothing is left: those that rest end. A thread that sits down late does this itself, for
    /// whoever closed the executor has not seen it.
    fn end_if_closed(&self) {
        if self.closed.load(Ordering::SeqCst) && self.queue.is_empty() {
            self.end_idle(Duration::ZERO, 0);
        }
    }

    /// This thread lets go of the GIL next. Counted while it holds it: whoever gets it then must see that.
    fn begin_release(&self) {
        self.releasing.fetch_add(1, Ordering::SeqCst);
        self.releases.fetch_add(1, Ordering::SeqCst);
    }

    /// How often threads have let go of the GIL by themselves; `None` while one is about to.
    fn releases(&self) -> Option<u64> {
        let releases = self.releases.load(Ordering::SeqCst);
        (self.releasing.load(Ordering::SeqCst) == 0).then_some(releases)
    }

    fn sit_down(&self, seat: &Arc<Seat>) {
        *lock(&seat.since) = Instant::now();
        lock(&self.crew).idle.push(Arc::clone(seat));
    }

    /// Runs calls until there are none, or until it is one thread too many.
    fn work(self: &Arc<Self>, py: Python<'_>, runner: &mut dyn Runner<C>) {
        let Some(mut call) = self.queue.pop() else { return };
        if !gil::is_on() {
            self.kick();
        } else if self.waits_seen.load(Ordering::Relaxed) && !self.queue.is_empty() {
            self.send_standby();
        }
        let mut batch_began = Instant::now();
        let mut batch = 0_u32;
        loop {
            let ran = panic::catch_unwind(AssertUnwindSafe(|| runner.run(py, call))).unwrap_or_else(|_| {
                log::error!("a call ended by a panic; this is a defect of the server");
                true
            });
            batch += u32::from(ran);
            if u64::from(batch) >= self.group() {
                sys::flush_wakes();
                self.account(&mut batch, &mut batch_began);
            }
            if self.retire.load(Ordering::Relaxed)
                && self.running.load(Ordering::Relaxed) > 1
                && self.retire.swap(false, Ordering::Relaxed)
            {
                break;
            }
            let Some(next) = self.queue.pop() else { break };
            call = next;
        }
        sys::flush_wakes();
        if batch > 0 {
            self.account(&mut batch, &mut batch_began);
        }
    }

    /// So many calls are begun and answered together; one where they are long.
    fn group(&self) -> u64 {
        let average = self.average_nanos.load(Ordering::Relaxed);
        GROUP_NANOS.checked_div(average).unwrap_or(1).clamp(1, GROUP_MAX)
    }

    /// Counts what has ended and moves the average.
    fn account(&self, batch: &mut u32, began: &mut Instant) {
        let now = Instant::now();
        let nanos = u64::try_from(now.duration_since(*began).as_nanos()).unwrap_or(u64::MAX) / u64::from(*batch);
        let average = self.average_nanos.load(Ordering::Relaxed);
        let moved = if average == 0 { nanos } else { average - average / 8 + nanos / 8 };
        self.average_nanos.store(moved.max(1), Ordering::Relaxed);
        self.completed.fetch_add(u64::from(*batch), Ordering::Relaxed);
        *batch = 0;
        *began = now;
    }
}
