//! The threads that call applications: one executor for all servers, and one more for each server with a limit.
//!
//! *Owns*: the executors, and the number of services that use each. *Runs on*: `acquire` and `release` run on plain
//! threads, upkeep on the executors' monitors. *Invariants*: services without a limit of their own share one executor.
//! A service with a limit gets a separate executor, so that no other application uses up its threads.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::call::CallRunner;
use super::report::{Caller, Slot};
use super::{TARGET, Work, block, child, inside, patched, release_pending, traceback};
use crate::config::SHARED_THREADS_MAX;
#[cfg(Py_GIL_DISABLED)]
use crate::executor::gil;
use crate::executor::{Executor, Ran, Runner, gate};
use crate::memory::Released;
use crate::sys::{self, Lock, SignalMask};

/// The name of the thread that runs late chores.
const CHORES: &str = "maypole-chores";
/// The name of the thread that does the monitor's work with the GIL.
const UPKEEP: &str = "maypole-upkeep";

/// An executor and the number of services that use it.
struct Entry {
    executor: Arc<Executor<Work>>,
    number: u64,
    /// Whether services without a limit of their own share it.
    is_shared: bool,
    users: usize,
}

static EXECUTORS: Lock<Vec<Entry>> = Lock::new(Vec::new());
/// How many executors there have been.
static EXECUTORS_EVER: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static ON_EXECUTOR: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether the calling thread is one that calls applications. Such a thread must not wait for a call to end.
pub fn on_executor() -> bool {
    ON_EXECUTOR.get()
}

fn executors() -> MutexGuard<'static, Vec<Entry>> {
    EXECUTORS.lock()
}

/// Returns an executor for one more service: a new one of at most `threads` threads, or the shared one.
pub(super) fn acquire(threads: Option<usize>) -> std::io::Result<Arc<Executor<Work>>> {
    // The gate may be closed: a program can call its exit functions and still go on.
    gate::open();
    let mut executors = executors();
    let is_shared = threads.is_none();
    if let Some(entry) = executors.iter_mut().find(|entry| is_shared && entry.is_shared) {
        entry.users += 1;
        return Ok(Arc::clone(&entry.executor));
    }
    let number = EXECUTORS_EVER.fetch_add(1, Ordering::Relaxed);
    let executor = Arc::new(start(threads.unwrap_or(SHARED_THREADS_MAX), number)?);
    executors.push(Entry { executor: Arc::clone(&executor), number, is_shared, users: 1 });
    Ok(executor)
}

/// Returns the executor of this number, unless it has been shut down.
pub(super) fn executor_of(number: u64) -> Option<Arc<Executor<Work>>> {
    executors().iter().find(|entry| entry.number == number).map(|entry| Arc::clone(&entry.executor))
}

/// Releases an executor for one service. If no other service uses the executor, its threads end, and the caller waits
/// for their end for at most `timeout`.
pub(super) fn release(executor: &Arc<Executor<Work>>, timeout: Duration) {
    let mut known = executors();
    let Some(index) = known.iter().position(|entry| Arc::ptr_eq(&entry.executor, executor)) else { return };
    known[index].users -= 1;
    if known[index].users == 0 {
        let entry = known.swap_remove(index);
        drop(known);
        entry.executor.shut_down(timeout);
    }
}

/// A chore that has waited this long is late: all threads of its executor are inside calls.
const CHORE_LATE: Duration = Duration::from_millis(500);

/// A chore, and the start of its wait.
type Waiting = (fn(Python<'_>), Instant);

/// The chore that no thread has begun yet.
static CHORE: Lock<Option<Waiting>> = Lock::new(None);

fn waiting_chore() -> MutexGuard<'static, Option<Waiting>> {
    CHORE.lock()
}

/// Has an executor thread run a short function with the GIL. Prefers an executor that can still start threads. Returns
/// whether there is an executor. If all its threads stay inside calls, a new thread runs the function after one or two
/// seconds.
pub fn chore(chore: fn(Python<'_>)) -> bool {
    // Do not wait for the lock: this is also called for a log line that `acquire` writes while it holds the lock.
    let Some(executors) = EXECUTORS.try_lock() else { return false };
    let found = executors.iter().find(|entry| !entry.executor.is_full()).or_else(|| executors.first());
    let Some(executor) = found.map(|entry| Arc::clone(&entry.executor)) else { return false };
    drop(executors);
    *waiting_chore() = Some((chore, Instant::now()));
    executor.submit_now(Work::Chore(chore));
    true
}

/// Records that an executor thread begins a chore.
pub(super) fn chore_begins() {
    *waiting_chore() = None;
}

/// Starts a thread for a chore that is late. (An executor's monitor.)
fn run_late_chore(signals: SignalMask) {
    let Some((chore, since)) = waiting_chore().take_if(|(_, since)| since.elapsed() >= CHORE_LATE) else { return };
    let run = move || {
        signals.restore();
        gate::attach(|py| {
            let thread = begin_thread(py, CHORES);
            chore(py);
            if let Some(thread) = thread {
                end_thread(py, &thread);
            }
        });
    };
    if thread::Builder::new().name(CHORES.to_owned()).spawn(run).is_err() {
        // No thread can be started now. The monitor tries again the next time.
        *waiting_chore() = Some((chore, since));
    }
}

fn start(threads_max: usize, executor: u64) -> std::io::Result<Executor<Work>> {
    let make_runner = move |py: Python<'_>, name: &str| -> Box<dyn Runner<Work>> {
        ON_EXECUTOR.set(true);
        let hooks = HOOKS.load(Ordering::Relaxed);
        let thread = begin_thread(py, name);
        let number = |of| thread.as_ref().and_then(|thread| thread.bind(py).getattr(of).ok()?.extract::<u64>().ok());
        let (ident, native) = (number("ident"), number("native_id"));
        let slot = Slot::register(Caller { name: name.to_owned(), ident, native }, executor);
        let runner = ThreadRunner { runner: CallRunner::with_slot(Arc::clone(&slot)), slot, thread, hooks };
        inside::noting(runner, native.and_then(|native| native.try_into().ok()).unwrap_or(0))
    };
    let upkeep = Upkeep { signals: SignalMask::current(), released: Arc::default(), asking: Arc::default() };
    let upkeep = Box::new(move |quiet| upkeep.run(quiet));
    Executor::start(threads_max, Box::new(make_runner), upkeep)
}

/// The periodic work of an executor's monitor: late chores, the release of response blocks, the report of their memory,
/// and the check for patched threads.
#[derive(Debug)]
struct Upkeep {
    /// The signal mask of threads that run Python.
    signals: SignalMask,
    released: Arc<Released>,
    /// Whether a thread waits for the GIL, or has it, to do the due work.
    asking: Arc<AtomicBool>,
}

impl Upkeep {
    /// Does the due work, and returns whether more may become due without further calls. Does not wait for the GIL,
    /// which a C extension may hold for long, because the monitor has to time requests out and to start threads. (The
    /// executor's monitor.)
    fn run(&self, quiet: bool) -> bool {
        run_late_chore(self.signals);
        if self.asking.load(Ordering::SeqCst) {
            return true;
        }
        // Check for patched threads here too: a call that hangs because of a patch never reaches the check at its end.
        let look: Option<fn(Python<'_>)> = (!quiet).then_some(look);
        let wanted = look.or((release_pending() > 0).then_some(super::release));
        let done = wanted.is_none_or(|what| self.with_gil(what, quiet));
        if wanted.is_none() {
            self.released.settle(block::released_total(), quiet);
        }
        // Blocks for slow clients may still be unsent.
        !done || !quiet || block::lent_total() > 0 || waiting_chore().is_some()
    }

    /// Starts a thread that runs `what` with the GIL, and then settles what has been released. Returns false if no
    /// thread can be started.
    fn with_gil(&self, what: fn(Python<'_>), quiet: bool) -> bool {
        self.asking.store(true, Ordering::SeqCst);
        let (asking, released) = (Arc::clone(&self.asking), Arc::clone(&self.released));
        let run = move || {
            gate::attach(what);
            released.settle(block::released_total(), quiet);
            asking.store(false, Ordering::SeqCst);
        };
        let started = thread::Builder::new().name(UPKEEP.to_owned()).spawn(run);
        if started.is_err() {
            self.asking.store(false, Ordering::SeqCst);
        }
        started.is_ok()
    }
}

/// Checks whether threads have been patched, and on a free-threaded Python whether it has enabled its GIL.
fn look(py: Python<'_>) {
    patched::look(py);
    #[cfg(Py_GIL_DISABLED)]
    gil::look(py);
}

/// Returns the Python module `threads.py`.
fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let code = pyo3::ffi::c_str!(include_str!("threads.py"));
    let make = || PyModule::from_code(py, code, c"<maypole/threads.py>", c"maypole_threads").map(Bound::unbind);
    Ok(MODULE.get_or_try_init(py, make)?.bind(py))
}

/// Registers the calling thread with `threading`, and installs the trace functions of `threading.settrace`.
fn begin_thread(py: Python<'_>, name: &str) -> Option<Py<PyAny>> {
    let thread = module(py).and_then(|module| module.call_method1("begin", (name,)));
    let thread = thread.inspect_err(|error| {
        log::warn!(target: TARGET, "the module threading does not know a thread:\n{}", traceback(py, error));
    });
    thread.ok().map(Bound::unbind)
}

/// Removes the calling thread, which is about to end, from the list of `threading`.
fn end_thread(py: Python<'_>, thread: &Py<PyAny>) {
    if let Err(error) = thread.bind(py).call_method0("end") {
        log::debug!(target: TARGET, "a thread cannot be forgotten: {error}");
    }
}

/// The number of detected changes of the hooks of `threading.settrace` and `threading.setprofile`.
static HOOKS: AtomicU64 = AtomicU64::new(0);

/// Prepares the threads for a new application: threads that run already get the current hooks of `threading`, as
/// new threads do.
pub(super) fn prepare(py: Python<'_>) -> PyResult<()> {
    // The application and its modules are imported now, and one of them may have enabled the GIL.
    #[cfg(Py_GIL_DISABLED)]
    gil::look(py);
    if module(py)?.call_method0("hooks_have_changed")?.is_truthy()? {
        HOOKS.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The state of one executor thread. The thread drops it at its end, with the GIL held.
struct ThreadRunner {
    runner: CallRunner,
    /// The thread's entry in a report.
    slot: Arc<Slot>,
    /// Its `threading.Thread`.
    thread: Option<Py<PyAny>>,
    /// The value of `HOOKS` when the thread applied the hooks.
    hooks: u64,
}

impl ThreadRunner {
    #[cold]
    fn apply_hooks(&mut self, py: Python<'_>) {
        self.hooks = HOOKS.load(Ordering::Relaxed);
        if let Err(error) = module(py).and_then(|module| module.call_method0("apply_hooks")) {
            log::warn!(target: TARGET, "a thread cannot be traced:\n{}", traceback(py, &error));
        }
    }
}

impl Runner<Work> for ThreadRunner {
    fn run(&mut self, py: Python<'_>, work: Work, clock: &mut Instant) -> Ran {
        if self.hooks != HOOKS.load(Ordering::Relaxed) {
            self.apply_hooks(py);
        }
        let forks = sys::forks();
        let ran = self.runner.run(py, work, clock);
        if sys::forks() != forks {
            // The fork was not in an application but in another function, for example `on_access`.
            child::leave(py, None);
        }
        ran
    }
}

impl Drop for ThreadRunner {
    fn drop(&mut self) {
        self.slot.unregister();
        let Some(thread) = self.thread.take() else { return };
        // If the interpreter has ended, its list of threads is gone too.
        let _ = Python::try_attach(|py| end_thread(py, &thread));
    }
}
