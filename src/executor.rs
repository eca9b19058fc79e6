//! OS threads that run calls under the GIL, as many as the calls need: one while they compute, more while they wait.
//!
//! *Owns*: the queue of calls, the threads, and the decision when one more thread starts a call. *Runs on*: its own
//! threads, and a monitor thread that looks every millisecond while calls are queued or end, and sleeps otherwise.
//! `submit` is for coroutines and never waits.
//! *Invariants*: a thread keeps the GIL from call to call and releases it only to wait. While calls are queued, at most
//! one thread is awake besides those that run calls. This thread is the standby, which measures how busy the GIL is by
//! waiting for it. No thread touches a client's socket.
//!
//! How the number of threads follows what the application does. With a GIL, too many threads cost throughput: each
//! hand-over of the GIL is a context switch, and every switch interval causes a convoy. Too few threads waste the GIL
//! while calls sleep. So whenever calls have been queued for a tick, the standby asks for the GIL. If it gets the GIL
//! before the interpreter's switch interval forces the holder to release it, a running call released it in order to
//! wait. Then the standby becomes one more running thread, and the next standby is sent. If it gets the GIL later, a
//! call computes: the standby goes back to sleep, and the next attempt waits longer. So threads wait for the GIL for
//! less than a switch interval, and such a wait costs nothing.
//! If no call has ended for a long time, a stall guard starts one more thread in any case.

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

use self::policy::{Attempts, Load, Pause, SECOND_LOOK, Step, Verdict};
use crate::metrics::{Counter, Gauge, Numbers};
use crate::phrase::count;
use crate::sys::{self, Deferred, SignalMask, ThreadClock};

/// Stack size of the threads. Threads of Python itself get the same on Linux, because applications recurse.
const STACK_BYTES: usize = 8 << 20;

/// A call, as the queue sees it.
pub trait Task: Send + 'static {
    /// Returns whether the call still waits for a thread. The monitor asks some times a second, and drops calls that do
    /// not wait.
    fn still_waits(&self, now: Instant) -> bool;
}

/// Runs the calls of one thread. It is made and dropped on that thread, with the GIL held.
pub trait Runner<C> {
    /// Runs one call, or drops it if it no longer waits. Returns whether it ran. It must not unwind, and may release
    /// the GIL meanwhile.
    fn run(&mut self, py: Python<'_>, call: C) -> bool;
}

/// Makes the runner of a new thread, given its name.
pub type MakeRunner<C> = Box<dyn Fn(Python<'_>, &str) -> Box<dyn Runner<C>> + Send + Sync>;

/// Periodic work besides calls. The monitor runs it at most once a second, while calls run (`false`) and after they
/// have ended (`true`), until it returns false: no more work.
pub type Upkeep = Box<dyn Fn(bool) -> bool + Send + Sync>;

/// The threads and their queue. Dropping it ends its threads as soon as they are idle.
pub struct Executor<C: Task> {
    shared: Arc<Shared<C>>,
    kick: Deferred,
    monitor: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<C> {
    queue: SegQueue<C>,
    make_runner: MakeRunner<C>,
    upkeep: Upkeep,
    threads_max: usize,
    processors: usize,
    /// The signals that its threads block: those that the starting thread blocked. Processes that a call starts inherit
    /// them.
    signals: SignalMask,
    /// Threads that run calls or have been told to.
    running: Gauge,
    /// Running threads that have had the GIL since they were told to run.
    working: Gauge,
    /// Calls that have ended.
    completed: Counter,
    /// The moving average of a call's length, in nanoseconds; 0 until a call has ended.
    average_nanos: AtomicU64,
    /// How often a thread has released the GIL by itself, between calls.
    releases: AtomicU64,
    /// How many threads are about to release the GIL.
    releasing: AtomicUsize,
    /// Whether a standby is on its way.
    standby: AtomicBool,
    /// Whether the last standby got the GIL early. Then calls wait inside the application, and the next standby is sent
    /// at once.
    waits_seen: AtomicBool,
    /// Whether one running thread must rest after its call.
    retire: AtomicBool,
    attempts: Mutex<Attempts>,
    crew: Mutex<Crew>,
    /// Notified when a thread or the monitor ends, and, once the executor is closed, when a thread rests.
    crew_changed: Condvar,
    monitor: Mutex<MonitorState>,
    monitor_wake: Condvar,
    /// Whether the monitor sleeps until it is woken.
    monitor_asleep: AtomicBool,
    /// Whether the queue is closed. Then idle threads end.
    closed: AtomicBool,
}

#[derive(Default)]
struct Crew {
    /// Resting threads. The last one rested last and is woken first, because its caches are warm.
    idle: Vec<Arc<Seat>>,
    total: usize,
    number: usize,
    /// The threads' CPU clocks, by thread number.
    clocks: Vec<(usize, ThreadClock)>,
    handles: Vec<JoinHandle<()>>,
    monitor_has_ended: bool,
}

#[derive(Default)]
struct MonitorState {
    /// Threads to start, by their first role.
    wanted: Vec<Role>,
}

impl Crew {
    /// Returns whether no thread is left and the monitor has ended.
    fn has_ended(&self) -> bool {
        self.total == 0 && self.monitor_has_ended
    }
}

/// The place where one thread sleeps.
struct Seat {
    thread: Thread,
    clock: ThreadClock,
    role: Mutex<Option<Role>>,
    since: Mutex<Instant>,
}

impl Seat {
    /// Sleeps until the thread is given a role.
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
    /// Measure how busy the GIL is.
    Standby,
    /// End.
    End,
}

impl<C: Task> std::fmt::Debug for Executor<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut numbers = Numbers::default();
        self.measure(&mut numbers);
        f.debug_tuple("Executor").field(&numbers).finish()
    }
}

impl<C: Task> Executor<C> {
    /// Starts an executor of at most `threads_max` threads, and its first thread. Call it from a plain thread: threads
    /// inherit the core mask of the thread that starts them.
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
            running: Gauge::default(),
            working: Gauge::default(),
            completed: Counter::default(),
            average_nanos: AtomicU64::new(0),
            releases: AtomicU64::new(0),
            releasing: AtomicUsize::new(0),
            standby: AtomicBool::new(false),
            waits_seen: AtomicBool::new(false),
            retire: AtomicBool::new(false),
            attempts: Mutex::new(Attempts::new(Instant::now())),
            crew: Mutex::default(),
            crew_changed: Condvar::new(),
            monitor: Mutex::default(),
            monitor_wake: Condvar::new(),
            monitor_asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        shared.start_thread(None)?;
        let watching = Arc::clone(&shared);
        let signals = SignalMask::block_all();
        let monitor = thread::Builder::new().name("maypole-monitor".into()).spawn(move || {
            watching.watch();
            lock(&watching.crew).monitor_has_ended = true;
            watching.crew_changed.notify_all();
        });
        signals.restore();
        let kicked = Arc::clone(&shared);
        Ok(Self {
            shared,
            monitor: Mutex::new(Some(monitor?)),
            kick: Deferred::new(move || {
                if kicked.processors == 1 {
                    // Coroutines that threads wake meanwhile are resumed right afterwards, which saves waking the
                    // runtime.
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

    /// Queues a call. While calls are short, it starts after all coroutines that can run right now have run, so that a
    /// batch of calls wakes a thread once. Long calls start one by one: sleeping calls that start together would also
    /// end together.
    pub fn submit(&self, call: C) {
        self.shared.queue.push(call);
        if self.shared.group() == 1 {
            self.shared.kick();
        } else {
            self.kick.ask();
        }
    }

    /// Queues work for a thread that holds the GIL, from any thread. For work that is not a call of the application.
    pub fn submit_now(&self, call: C) {
        self.shared.queue.push(call);
        self.shared.kick();
    }

    /// Returns whether as many threads run calls as allowed.
    pub fn is_full(&self) -> bool {
        self.shared.running.value() >= self.shared.threads_max
    }

    /// Returns whether the executor has been shut down.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    /// Ends the threads and the monitor. Waits at most `timeout` for their end, and returns whether all have ended. A
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
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let goes_on = |crew: &mut Crew| crew.idle.is_empty() && !crew.has_ended();
            let crew = lock(&self.shared.crew);
            drop(self.shared.crew_changed.wait_timeout_while(crew, left, goes_on));
        }
    }

    /// Returns whether the threads and the monitor have ended. Joins them, which takes no time then.
    fn has_ended(&self) -> bool {
        let mut crew = lock(&self.shared.crew);
        let mut monitor = lock(&self.monitor);
        // A monitor that has panicked has only finished.
        if !crew.has_ended() && (crew.total > 0 || monitor.as_ref().is_some_and(|monitor| !monitor.is_finished())) {
            return false;
        }
        let handles = std::mem::take(&mut crew.handles);
        drop(crew);
        for handle in handles.into_iter().chain(monitor.take()) {
            // It does not matter here whether the thread panicked.
            drop(handle.join());
        }
        true
    }

    fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.wake_monitor();
    }

    /// Fills in the numbers of the threads.
    pub fn measure(&self, numbers: &mut Numbers) {
        numbers.threads = lock(&self.shared.crew).total;
        numbers.threads_running = self.shared.running.value();
        numbers.threads_max = self.shared.threads_max;
        numbers.queued = self.shared.queue.len();
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
    /// Leaves the only processor to the threads for a part of the queued calls. (The runtime's thread.)
    fn give_way(&self) {
        let average = self.average_nanos.load(Ordering::Relaxed);
        match policy::pause(self.queue.len(), average, self.running.value()) {
            Pause::None => {}
            Pause::Yield => thread::yield_now(),
            Pause::Sleep(time) => thread::sleep(time),
        }
    }

    /// Makes sure that a thread runs the queued calls.
    fn kick(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        if self.start_more() && self.monitor_asleep.load(Ordering::SeqCst) {
            self.wake_monitor();
        }
    }

    /// Has one more thread run the queued calls, or a standby ask for the GIL, if they need it. Returns whether calls
    /// are queued.
    fn start_more(self: &Arc<Self>) -> bool {
        loop {
            let load = Load {
                queued: !self.queue.is_empty(),
                running: self.running.value(),
                at_once: self.started_at_once(),
                threads_max: self.threads_max,
                waits_seen: self.waits_seen.load(Ordering::Relaxed),
            };
            if self.take(load.step()) {
                return load.queued;
            }
        }
    }

    /// Takes a step for the queued calls. Returns false if another thread has started meanwhile, so that one more may be
    /// too many.
    fn take(self: &Arc<Self>, step: Step) -> bool {
        match step {
            Step::Nothing => {}
            Step::Run { below } if self.running.rise_below(below) => self.send(Role::Run),
            Step::Run { .. } => return false,
            // Another standby may be on its way.
            Step::Standby if self.standby.swap(true, Ordering::AcqRel) => {}
            Step::Standby => self.send(Role::Standby),
        }
        true
    }

    fn wake_monitor(&self) {
        drop(lock(&self.monitor));
        self.monitor_wake.notify_all();
    }

    /// Gives a role to a resting thread, or to a new one.
    fn send(self: &Arc<Self>, role: Role) {
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
    fn end_if_closed(&self) {
        if self.closed.load(Ordering::SeqCst) && self.queue.is_empty() {
            self.end_idle(Duration::ZERO, 0);
        }
    }

    /// Announces that this thread releases the GIL next. It counts while it holds the GIL, so that the next holder sees
    /// the count.
    fn begin_release(&self) {
        self.releasing.fetch_add(1, Ordering::SeqCst);
        self.releases.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns how often threads have released the GIL by themselves. `None` while one is about to.
    fn releases(&self) -> Option<u64> {
        let releases = self.releases.load(Ordering::SeqCst);
        (self.releasing.load(Ordering::SeqCst) == 0).then_some(releases)
    }

    fn sit_down(&self, seat: &Arc<Seat>) {
        *lock(&seat.since) = Instant::now();
        lock(&self.crew).idle.push(Arc::clone(seat));
        if self.closed.load(Ordering::SeqCst) {
            self.crew_changed.notify_all();
        }
    }

    /// Runs calls until the queue is empty, or until this thread is one too many.
    fn work(self: &Arc<Self>, py: Python<'_>, runner: &mut dyn Runner<C>) {
        let Some(mut call) = self.queue.pop() else { return };
        self.start_more();
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
            if policy::rests(self.retire.load(Ordering::Relaxed), self.running.value())
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

    /// Returns how many calls are started, and their responses sent, as a group.
    fn group(&self) -> u64 {
        policy::group(self.average_nanos.load(Ordering::Relaxed))
    }

    /// Counts the calls that have ended, and updates the average.
    fn account(&self, batch: &mut u32, began: &mut Instant) {
        let now = Instant::now();
        let nanos = u64::try_from(now.duration_since(*began).as_nanos()).unwrap_or(u64::MAX) / u64::from(*batch);
        let average = policy::moving_average(self.average_nanos.load(Ordering::Relaxed), nanos);
        self.average_nanos.store(average, Ordering::Relaxed);
        self.completed.add(u64::from(*batch));
        *batch = 0;
        *began = now;
    }
}
