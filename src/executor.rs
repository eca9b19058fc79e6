//! OS threads that run calls under the GIL, as many as the calls need: one while they compute, more while they wait.
//!
//! *Owns*: the queues of calls and of their later steps, the threads, and the decision when one more thread starts a
//! call. *Runs on*: its own threads, and a monitor thread that looks every millisecond while calls are queued or end, and
//! sleeps otherwise. `submit` is for coroutines and never waits. *Invariants*: a thread keeps the GIL from call to call and releases it
//! only to wait. While calls are queued, at most one thread is awake besides the threads that run calls. This thread is
//! the standby, which measures how busy the GIL is by waiting for it. No thread touches a client's socket.
//!
//! How the number of threads follows what the application does. With a GIL, too many threads cost throughput: each
//! hand-over of the GIL is a context switch, and every switch interval causes a convoy. Too few threads waste the GIL
//! while calls sleep. So whenever calls have been queued for a tick, the standby asks for the GIL. If it gets the GIL
//! before the interpreter's switch interval forces the holder to release it, a running call released it in order to
//! wait. Then the standby becomes one more running thread, and the next standby is sent. If it gets the GIL later, a
//! call computes: the standby goes back to sleep, and the next attempt waits longer. So threads wait for the GIL for
//! less than a switch interval, and such a wait costs nothing.
//! If no call has ended for a long time, a stall guard starts one more thread in any case.

mod end;
pub mod gate;
pub mod gil;
mod life;
mod monitor;
mod policy;
mod queue;
mod saturation;
mod standby;
mod threads;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use pyo3::Python;

use self::gil::Releases;
use self::monitor::Monitor;
use self::policy::{Attempts, Load, Step};
use self::queue::Queue;
use self::saturation::Saturation;
use self::threads::{Assignment, Threads};
use crate::metrics::{Count, Counter, Gauge, Meters, Numbers, Times};
use crate::sys::{self, Deferred, Lock, SignalMask};

/// A call, as the queue sees it.
pub trait Task: Send + 'static {
    /// Returns whether the call still waits for a thread. The monitor asks some times a second, and drops calls that do
    /// not wait.
    fn still_waits(&self, now: Instant) -> bool;
}

/// How a runner ended a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// The call has run.
    Ended,
    /// The call no longer waited, and was dropped.
    Dropped,
    /// The call has run, and its thread was given up meanwhile.
    GivenUp,
}

/// Runs the calls of one thread. It is made and dropped on that thread, with the GIL held.
pub trait Runner<C> {
    /// Runs one call, or drops it if it no longer waits. It must not unwind, and may release
    /// the GIL meanwhile. `clock` is the time at which the call begins. A runner that reads the clock at the end of the
    /// call leaves that time there, so that the next call needs no reading.
    fn run(&mut self, py: Python<'_>, call: C, clock: &mut Instant) -> Ran;
}

/// Makes the runner of a new thread, given its name.
pub type MakeRunner<C> = Box<dyn Fn(Python<'_>, &str) -> Box<dyn Runner<C>> + Send + Sync>;

/// Periodic work besides calls. The monitor runs it at most once a second, while calls run (`false`) and after they
/// have ended (`true`), until it returns false: no more work.
pub type Upkeep = Box<dyn Fn(bool) -> bool + Send + Sync>;

/// How many workers of the service share the processors with this process, itself included.
static WORKERS: AtomicUsize = AtomicUsize::new(1);

/// Tells the executors of this process how many workers of the service serve, this process included. If they are as
/// many as the processors, the runtime leaves its processor to the calls, because no other one is free for them.
pub fn share_processors(workers: usize) {
    WORKERS.store(workers, Ordering::Relaxed);
}

/// The threads and their queue. Dropping it ends its threads as soon as they rest.
pub struct Executor<C: Task> {
    shared: Arc<Shared<C>>,
    kick: Deferred,
    monitor: Lock<Option<JoinHandle<()>>>,
}

struct Shared<C> {
    queue: Queue<C>,
    make_runner: MakeRunner<C>,
    upkeep: Upkeep,
    threads_max: usize,
    processors: usize,
    /// The signals that its threads block, the same as the thread that started the executor. Processes that a call
    /// starts inherit them.
    signals: SignalMask,
    /// Threads that run calls or have been told to.
    running: Gauge,
    /// Running threads that have had the GIL since they were told to run.
    working: Gauge,
    /// Calls past their deadline whose threads could not be given up.
    overdue: Gauge,
    /// Calls that have ended.
    completed: Counter,
    /// The waits of threads for the GIL.
    gil_waits: Times,
    saturation: Saturation,
    /// The moving average of a call's length, in nanoseconds; 0 until a call has ended.
    average_nanos: AtomicU64,
    releases: Releases,
    /// Whether a standby is on its way.
    standby: AtomicBool,
    /// Whether the last standby got the GIL early. Then calls wait inside the application, and the next standby is sent
    /// at once.
    waits_seen: AtomicBool,
    /// Whether one running thread must rest after its call.
    retire: AtomicBool,
    attempts: Lock<Attempts>,
    threads: Threads,
    monitor: Monitor,
    /// Whether the queue is closed. Then resting threads end.
    closed: AtomicBool,
    /// Whether all threads have ended. Work that is queued from now on needs a thread of its own.
    ended: AtomicBool,
    /// Whether such a thread is on its way, or runs.
    has_last: AtomicBool,
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
            queue: Queue::default(),
            make_runner,
            upkeep,
            threads_max: threads_max.max(1),
            processors: sys::processors(),
            signals: SignalMask::current(),
            running: Gauge::default(),
            working: Gauge::default(),
            overdue: Gauge::default(),
            completed: Counter::default(),
            gil_waits: Times::default(),
            saturation: Saturation::default(),
            average_nanos: AtomicU64::new(0),
            releases: Releases::default(),
            standby: AtomicBool::new(false),
            waits_seen: AtomicBool::new(false),
            retire: AtomicBool::new(false),
            attempts: Lock::new(Attempts::new(Instant::now())),
            threads: Threads::default(),
            monitor: Monitor::default(),
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            has_last: AtomicBool::new(false),
        });
        shared.start_thread(None)?;
        let watching = Arc::clone(&shared);
        let signals = SignalMask::block_all();
        let monitor = thread::Builder::new().name("maypole-monitor".into()).spawn(move || {
            watching.watch();
            watching.threads.monitor_has_ended();
        });
        signals.restore();
        let kicked = Arc::clone(&shared);
        Ok(Self {
            shared,
            monitor: Lock::new(Some(monitor?)),
            kick: Deferred::new(move || {
                if policy::has_one_processor(kicked.processors, WORKERS.load(Ordering::Relaxed)) {
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

    /// Does the same for work that may come at any time, also after the threads have ended: then one more thread runs it.
    pub fn submit_at_any_time(&self, call: C) {
        self.submit(call);
        self.shared.finish();
    }

    /// Queues work for a thread that holds the GIL, from any thread and at any time. For work that is not a call of the
    /// application.
    pub fn submit_now(&self, call: C) {
        self.shared.queue.push(call);
        self.shared.kick();
        self.shared.finish();
    }

    /// Queues a step of a call that has begun and has waited for an event, from any thread and at any time. While calls
    /// wait, too, steps and calls get half of the time each.
    pub fn submit_step(&self, step: C) {
        self.shared.queue.push_step(step);
        self.shared.kick();
        self.shared.finish();
    }

    /// Gives a thread up, because its call is past its deadline: another thread may take its place, and when the call
    /// returns, its runner must say `Ran::GivenUp`. Returns false if too many threads are given up already. The thread
    /// keeps its place then, and `overdue_ended` must be called when the call returns. The caller makes sure that the
    /// call does not return meanwhile.
    pub fn give_up(&self) -> bool {
        if !self.shared.threads.give_up(policy::given_up_max(self.shared.threads_max)) {
            self.shared.overdue.rise();
            return false;
        }
        self.shared.running.fall();
        self.shared.working.fall();
        self.shared.kick();
        true
    }

    /// Records that a call has returned whose thread could not be given up.
    pub fn overdue_ended(&self) {
        self.shared.overdue.fall();
    }

    /// Returns how many threads may be given up at once.
    pub fn given_up_max(&self) -> usize {
        policy::given_up_max(self.shared.threads_max)
    }

    /// Returns whether as many threads run calls as allowed.
    pub fn is_full(&self) -> bool {
        self.shared.running.value() >= self.shared.threads_max
    }

    /// Returns whether the executor has been shut down.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    /// Shows how long its threads have waited for the GIL, and how long calls have waited for them.
    pub fn show(&self, meters: &Meters) {
        meters.set_gil_waits(&self.shared.gil_waits);
        meters.set(Count::SaturatedMicros, self.shared.saturation.micros());
    }

    /// Fills in the numbers of the threads.
    pub fn measure(&self, numbers: &mut Numbers) {
        numbers.threads = self.shared.threads.usable();
        numbers.threads_given_up = self.shared.threads.given_up();
        numbers.threads_overdue = self.shared.overdue.value();
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

impl<C: Task> Shared<C> {
    /// Makes sure that a thread runs the queued calls.
    fn kick(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        if self.start_more() {
            self.monitor.rouse();
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

    /// Takes a step for the queued calls. Returns false if another thread has started meanwhile, so that one more may
    /// be too many.
    fn take(self: &Arc<Self>, step: Step) -> bool {
        match step {
            Step::Nothing => {}
            Step::Run { below } if self.running.rise_below(below) => self.send(Assignment::Run),
            Step::Run { .. } => return false,
            // Another standby may be on its way.
            Step::Standby if self.standby.swap(true, Ordering::AcqRel) => {}
            Step::Standby => self.send(Assignment::Standby),
        }
        true
    }
}
