//! The threads that call applications: one executor for all servers, and one more for each server with a limit.
//!
//! *Owns*: the executors, and how many services use each. *Runs on*: `acquire` and `release` on plain threads; upkeep
//! on the executors' monitors. *Invariants*: one set of threads shares the GIL; a service with a limit of its own gets
//! threads of its own, so that no other application counts against it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::call::CallRunner;
use super::report::Slot;
use super::{TARGET, Work, block, child, patched, release_pending, traceback};
use crate::config::THREADS_DEFAULT;
#[cfg(Py_GIL_DISABLED)]
use crate::executor::gil;
use crate::executor::{Executor, Runner, gate};
use crate::sys::{self, SignalMask};

/// The thread that does late work.
const CHORES: &str = "maypole-chores";
/// The thread that looks after Python for the monitor.
const UPKEEP: &str = "maypole-upkeep";

/// An executor and how many services use it.
struct Entry {
    executor: Arc<Executor<Work>>,
    threads_max: usize,
    users: usize,
}

static EXECUTORS: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

thread_local! {
    static ON_EXECUTOR: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is one that calls applications: it must not wait for a call to end.
pub fn on_executor() -> bool {
    ON_EXECUTOR.get()
}

fn executors() -> MutexGuard<'static, Vec<Entry>> {
    EXECUTORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An executor of at most `threads_max` threads, for one more service.
pub(super) fn acquire(threads_max: usize) -> std::io::Result<Arc<Executor<Work>>> {
    // Python did not go down, if it was going to: a program may run its exit functions and go on.
    gate::open();
    let mut executors = executors();
    let shared = executors.iter_mut().find(|entry| threads_max == THREADS_DEFAULT && entry.threads_max == threads_max);
    if let Some(entry) = shared {
        entry.users += 1;
        return Ok(Arc::clone(&entry.executor));
    }
    let executor = Arc::new(start(threads_max)?);
    executors.push(Entry { executor: Arc::clone(&executor), threads_max, users: 1 });
    Ok(executor)
}

/// A service needs it no more. Without others its threads end, for which it waits so long.
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

/// A chore that waits for this long is late: all threads of its executor are inside calls.
const CHORE_LATE: Duration = Duration::from_millis(500);

/// A chore, and since when it waits.
type Waiting = (fn(Python<'_>), Instant);

/// The chore that no thread has begun yet.
static CHORE: Mutex<Option<Waiting>> = Mutex::new(None);

fn waiting_chore() -> MutexGuard<'static, Option<Waiting>> {
    CHORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a thread of some executor do something short with the GIL, of one that has threads to spare if there is one; returns
/// whether there is an executor. If all its threads stay inside calls, a thread of its own does it after a second or two.
pub fn chore(chore: fn(Python<'_>)) -> bool {
    // A log line can come from everywhere, from within `acquire` too.
    let Ok(executors) = EXECUTORS.try_lock() else { return false };
    let found = executors.iter().find(|entry| !entry.executor.is_full()).or_else(|| executors.first());
    let Some(executor) = found.map(|entry| Arc::clone(&entry.executor)) else { return false };
    drop(executors);
    *waiting_chore() = Some((chore, Instant::now()));
    executor.submit_now(Work::Chore(chore));
    true
}

/// A thread of an executor begins a chore.
pub(super) fn chore_begins() {
    *waiting_chore() = None;
}

/// Has a thread of its own do a chore that is late. (An executor's monitor.)
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
        // No thread can be started now. The next look tries again.
        *waiting_chore() = Some((chore, since));
    }
}

fn start(threads_max: usize) -> std::io::Result<Executor<Work>> {
    let make_runner = |py: Python<'_>, name: &str| -> Box<dyn Runner<Work>> {
        ON_EXECUTOR.set(true);
        let hooks = HOOKS.load(Ordering::Relaxed);
        let thread = begin_thread(py, name);
        let ident = thread.as_ref().and_then(|thread| thread.bind(py).getattr("ident").ok()?.extract().ok());
        let slot = Slot::register(name, ident);
        Box::new(OfThread { runner: CallRunner::with_slot(Arc::clone(&slot)), slot, thread, hooks })
    };
    let upkeep = Upkeep {
        signals: SignalMask::current(),
        trimmed_at: AtomicUsize::new(0),
        busy: AtomicBool::new(false),
        asking: Arc::default(),
    };
    let upkeep = Box::new(move |quiet| upkeep.run(quiet));
    Executor::start(threads_max, Box::new(make_runner), upkeep)
}

/// After this many bytes of response blocks have been released, the allocator gives memory back.
const TRIM_BYTES: usize = 64 << 20;

/// Gives back to the system what responses needed: while calls run, large amounts; afterwards, everything. Looks after the
/// threads' being threads as well.
#[derive(Debug)]
struct Upkeep {
    /// What the threads that run Python block.
    signals: SignalMask,
    trimmed_at: AtomicUsize,
    busy: AtomicBool,
    /// A thread waits for the GIL, or has it, in order to do the due work.
    asking: Arc<AtomicBool>,
}

impl Upkeep {
    /// Does what is due, and returns whether more may become due without further calls. (The executor's monitor, which must
    /// not wait for the GIL: a C extension may keep it for long, and meanwhile requests become late and threads are needed.)
    fn run(&self, quiet: bool) -> bool {
        run_late_chore(self.signals);
        if self.asking.load(Ordering::SeqCst) {
            return true;
        }
        let released = block::released_total();
        let grown = released.wrapping_sub(self.trimmed_at.load(Ordering::Relaxed)) >= TRIM_BYTES;
        let trims = grown || (quiet && self.busy.load(Ordering::Relaxed));
        // Calls that hang because of a patch do not come to an end, where it would be seen.
        let look: Option<fn(Python<'_>)> = (!quiet).then_some(look);
        let wanted = look.or((release_pending() > 0).then_some(super::release));
        let done = wanted.is_none_or(|what| self.with_gil(what, trims));
        if wanted.is_none() {
            trim(trims);
        }
        if done {
            if trims {
                self.trimmed_at.store(released, Ordering::Relaxed);
            }
            self.busy.store(!quiet, Ordering::Relaxed);
        }
        // Blocks may still be on their way to slow clients.
        !done || !quiet || block::lent_total() > 0 || waiting_chore().is_some()
    }

    /// Has a thread of its own do something with the GIL, and then ask the allocator for memory if it `trims`. Returns false
    /// if no thread can be started.
    fn with_gil(&self, what: fn(Python<'_>), trims: bool) -> bool {
        self.asking.store(true, Ordering::SeqCst);
        let asking = Arc::clone(&self.asking);
        let run = move || {
            gate::attach(what);
            trim(trims);
            asking.store(false, Ordering::SeqCst);
        };
        let started = thread::Builder::new().name(UPKEEP.to_owned()).spawn(run);
        if started.is_err() {
            self.asking.store(false, Ordering::SeqCst);
        }
        started.is_ok()
    }
}

/// Looks whether threads have been patched, and on a free-threaded Python whether it has got a GIL again.
fn look(py: Python<'_>) {
    patched::look(py);
    #[cfg(Py_GIL_DISABLED)]
    gil::look(py);
}

/// Lets the allocator give its free memory back, if that is wanted.
fn trim(wanted: bool) {
    if wanted {
        sys::give_memory_back();
    }
}

/// The module with the threads' Python side.
fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let code = pyo3::ffi::c_str!(include_str!("threads.py"));
    let make = || PyModule::from_code(py, code, c"<maypole/threads.py>", c"maypole_threads").map(Bound::unbind);
    Ok(MODULE.get_or_try_init(py, make)?.bind(py))
}

/// Makes the calling thread one of `threading`, traced as `threading` says.
fn begin_thread(py: Python<'_>, name: &str) -> Option<Py<PyAny>> {
    let thread = module(py).and_then(|module| module.call_method1("begin", (name,)));
    let thread = thread.inspect_err(|error| {
        log::warn!(target: TARGET, "the module threading does not know a thread:\n{}", traceback(py, error));
    });
    thread.ok().map(Bound::unbind)
}

/// The calling thread ends: otherwise `threading` would go on listing it.
fn end_thread(py: Python<'_>, thread: &Py<PyAny>) {
    if let Err(error) = thread.bind(py).call_method0("end") {
        log::debug!(target: TARGET, "a thread cannot be forgotten: {error}");
    }
}

/// How often the hooks of `threading.settrace` and `threading.setprofile` were seen to have changed.
static HOOKS: AtomicU64 = AtomicU64::new(0);

/// An application begins to be served: threads that are there already trace it with what `threading` says now, as new ones
/// do.
pub(super) fn prepare(py: Python<'_>) -> PyResult<()> {
    // The application has been imported, with all that it needs.
    #[cfg(Py_GIL_DISABLED)]
    gil::look(py);
    if module(py)?.call_method0("hooks_have_changed")?.is_truthy()? {
        HOOKS.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// What a thread of the executor has; dropped on it, with the GIL held, when it ends.
struct OfThread {
    runner: CallRunner,
    /// What a report knows it by.
    slot: Arc<Slot>,
    /// Its `threading.Thread`.
    thread: Option<Py<PyAny>>,
    /// The number of changes of the hooks that it knows of.
    hooks: u64,
}

impl OfThread {
    #[cold]
    fn apply_hooks(&mut self, py: Python<'_>) {
        self.hooks = HOOKS.load(Ordering::Relaxed);
        if let Err(error) = module(py).and_then(|module| module.call_method0("apply_hooks")) {
            log::warn!(target: TARGET, "a thread cannot be traced:\n{}", traceback(py, &error));
        }
    }
}

impl Runner<Work> for OfThread {
    fn run(&mut self, py: Python<'_>, work: Work) -> bool {
        if self.hooks != HOOKS.load(Ordering::Relaxed) {
            self.apply_hooks(py);
        }
        let forks = sys::forks();
        let ran = self.runner.run(py, work);
        if sys::forks() != forks {
            // What forked was no application, but for example a function that is told of finished requests.
            child::leave(py, None);
        }
        ran
    }
}

impl Drop for OfThread {
    fn drop(&mut self) {
        self.slot.unregister();
        let Some(thread) = self.thread.take() else { return };
        // Where the interpreter is gone, so is its list of threads.
        let _ = Python::try_attach(|py| end_thread(py, &thread));
    }
}
