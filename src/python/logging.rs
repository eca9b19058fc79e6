//! The server's log lines for Python's `logging`, and answered requests for the program's `on_access`.
//!
//! *Owns*: the queue of undelivered lines. *Runs on*: any thread and coroutine puts lines into the queue; threads that
//! hold the GIL deliver them: an executor's, or the one that stops a server. *Invariants*: only a delivering thread
//! waits for the program's handlers. The queue is bounded; lines that do not fit are counted, and the count is logged.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::log::{Level, LevelFilter, Log, Metadata, Record};
use crossbeam::queue::SegQueue;
use pyo3::prelude::*;

use super::server::AccessEntry;
use crate::log::{is_news, is_wanted};
use crate::{log as logs, sys, wsgi};

/// As many lines wait for Python at most.
const LINES_MAX: usize = 16_384;
/// `flush` waits that long at most.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// What a line without a room of ours is called after.
const ROOT: &str = "maypole";
/// The logger of access lines.
const ACCESS: &str = "maypole.access";

static QUEUE: SegQueue<Item> = SegQueue::new();
static WAITING: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// A thread is going to deliver.
static SCHEDULED: AtomicBool = AtomicBool::new(false);

/// The number of forks when this process began to log in this way.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// What waits for a thread with the GIL.
enum Item {
    Line { logger: String, level: u8, message: String, created: f64 },
    Access(Arc<Py<PyAny>>, AccessEntry),
}

/// The crate `log`'s backend.
struct ToPython;

impl Log for ToPython {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_wanted(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && is_news(record) {
            let level = match record.level() {
                Level::Error => 40,
                Level::Warn => 30,
                Level::Info => 20,
                Level::Debug | Level::Trace => 10,
            };
            push(line(logger_of(record.target()), level, record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Has error lines up to that level go to Python's loggers from now on.
pub(super) fn install(py: Python<'_>, level: LevelFilter) -> anyhow::Result<()> {
    FORKS.store(sys::forks(), Ordering::Relaxed);
    logs::route_to(Arc::new(ToPython), level)?;
    deliver(py);
    Ok(())
}

/// `maypole::connection::answer` logs as `maypole.connection`.
fn logger_of(target: &str) -> String {
    let words: Vec<_> = target.split("::").flat_map(|word| word.split('.')).collect();
    match words.as_slice() {
        [ROOT, room, ..] => format!("{ROOT}.{room}"),
        [ROOT] => ROOT.to_owned(),
        words => format!("{ROOT}.{}", words.join(".")),
    }
}

fn line(logger: String, level: u8, message: String) -> Item {
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    Item::Line { logger, level, message, created }
}

/// A line of the access log.
pub(super) fn access_line(text: String) {
    push(line(ACCESS.to_owned(), 20, text));
}

/// A request that has ended, for the program's function.
pub(super) fn access_entry(function: &Arc<Py<PyAny>>, entry: AccessEntry) {
    push(Item::Access(Arc::clone(function), entry));
}

fn push(item: Item) {
    if sys::forks() != FORKS.load(Ordering::Relaxed) {
        return push_in_child(item);
    }
    if WAITING.fetch_add(1, Ordering::Relaxed) >= LINES_MAX {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        DROPPED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    QUEUE.push(item);
    schedule();
}

/// A forked child has no thread that delivers, and maybe half of an item that its parent was queueing: it delivers its own
/// at once.
fn push_in_child(item: Item) {
    Python::attach(|py| {
        if let Err(error) = hand_over(py, item) {
            error.write_unraisable(py, None);
        }
    });
}

fn schedule() {
    if !SCHEDULED.swap(true, Ordering::AcqRel) && !wsgi::chore(deliver) {
        // No executor thread lives: the thread that stops or starts a server delivers it.
        SCHEDULED.store(false, Ordering::Release);
    }
}

/// Delivers what waits, by one thread at a time, so that lines keep their order.
pub(super) fn deliver(py: Python<'_>) {
    static DELIVERING: Mutex<()> = Mutex::new(());
    SCHEDULED.store(false, Ordering::Release);
    let Ok(delivering) = DELIVERING.try_lock() else { return };
    // What comes meanwhile is for the next one, or a slow handler would keep this thread for ever.
    let mut left = QUEUE.len();
    while left > 0
        && let Some(item) = QUEUE.pop()
    {
        left -= 1;
        if let Err(error) = hand_over(py, item) {
            // The program's own function failed, or its logging is broken: there is nowhere else to say so.
            error.write_unraisable(py, None);
        }
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
    drop(delivering);
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    if dropped > 0 {
        push(line(ROOT.to_owned(), 30, format!("{dropped} log lines were dropped: their handlers are too slow")));
    }
    // The thread that should have delivered it saw this one delivering.
    if !QUEUE.is_empty() {
        schedule();
    }
}

/// Delivers everything, and waits for a thread that is at it, 5 s at most.
pub(super) fn flush(py: Python<'_>) {
    let end = Instant::now() + FLUSH_MAX;
    deliver(py);
    while WAITING.load(Ordering::Relaxed) > 0 && Instant::now() < end {
        py.detach(|| std::thread::sleep(Duration::from_millis(1)));
        deliver(py);
    }
}

fn hand_over(py: Python<'_>, item: Item) -> PyResult<()> {
    match item {
        Item::Access(function, entry) => {
            let entry = Bound::new(py, entry)?;
            wsgi::call_python(function.bind(py), [entry.as_any()])?;
        }
        Item::Line { logger, level, message, created } => {
            let function = py.import("maypole._logging")?.getattr("deliver")?;
            let line = (logger, level, message, created).into_pyobject(py)?;
            wsgi::call_python(&function, [line.as_any()])?;
        }
    }
    Ok(())
}
