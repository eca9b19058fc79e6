//! Delivers the server's log lines to Python's `logging`, and finished requests to the program's `on_access`.
//!
//! *Owns*: the queue of undelivered lines. *Runs on*: any thread or coroutine adds lines to the queue. An executor
//! thread, or the thread that stops a server, delivers them with the GIL held. *Invariants*: only a delivering thread
//! waits for the program's handlers. The queue is bounded; lines that do not fit are counted, and the count is logged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::queue::SegQueue;
use log::{Level, LevelFilter, Log, Metadata, Record};
use pyo3::prelude::*;

use super::access::AccessEntry;
use crate::logs::{is_news, is_wanted};
use crate::sys::{Condition, Lock};
use crate::{logs, sys, wsgi};

/// The maximum number of lines in the queue.
const LINES_MAX: usize = 16_384;
/// The longest wait of `flush`.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// The longest wait of `flush` before it delivers again. An item may arrive while another thread ends its delivery.
const FLUSH_STEP: Duration = Duration::from_millis(100);
/// The parent of all loggers.
const ROOT: &str = "maypole";
/// The logger of access lines.
const ACCESS: &str = "maypole.access";

static QUEUE: SegQueue<Item> = SegQueue::new();
static WAITING: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Whether a delivery is scheduled.
static SCHEDULED: AtomicBool = AtomicBool::new(false);
/// How many deliveries have ended.
static DELIVERIES: Lock<u64> = Lock::new(0);
/// Notified at the end of each delivery.
static DELIVERED: Condition = Condition::new();

/// The number of forks at the time when this process began to log through Python.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// An item of the queue.
enum Item {
    Line { logger: String, level: u8, message: String, created: f64 },
    Access(Arc<Py<PyAny>>, AccessEntry),
}

/// The backend of the crate `log`.
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

/// From now on, sends the error log up to that level to Python's loggers.
pub(super) fn install(py: Python<'_>, level: LevelFilter) -> anyhow::Result<()> {
    FORKS.store(sys::forks(), Ordering::Relaxed);
    logs::route_to(Arc::new(ToPython), level)?;
    deliver(py);
    Ok(())
}

/// Returns the logger for a target: `maypole.connection` for `maypole::connection::http1`.
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

/// Queues a line of the access log.
pub(super) fn access_line(text: String) {
    push(line(ACCESS.to_owned(), 20, text));
}

/// Queues a finished request for the program's function.
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

/// Delivers an item at once, in a forked child. A child has no thread that delivers, and the queue may contain an item
/// that the parent had added only in part.
fn push_in_child(item: Item) {
    Python::attach(|py| {
        if let Err(error) = hand_over(py, item) {
            error.write_unraisable(py, None);
        }
    });
}

fn schedule() {
    if !SCHEDULED.swap(true, Ordering::AcqRel) && !wsgi::chore(deliver) {
        // There is no executor. The next thread that starts or stops a server will deliver the item.
        SCHEDULED.store(false, Ordering::Release);
    }
}

/// Delivers the queued items. Only one thread at a time delivers, so that lines keep their order.
pub(super) fn deliver(py: Python<'_>) {
    static DELIVERING: Lock<()> = Lock::new(());
    SCHEDULED.store(false, Ordering::Release);
    let Some(delivering) = DELIVERING.try_lock() else { return };
    // Leave items that arrive meanwhile to the next delivery. Otherwise, a slow handler could keep this thread here
    // forever.
    let mut left = QUEUE.len();
    while left > 0
        && let Some(item) = QUEUE.pop()
    {
        left -= 1;
        if let Err(error) = hand_over(py, item) {
            // The program's function or its logging failed, so this error cannot be logged.
            error.write_unraisable(py, None);
        }
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
    drop(delivering);
    *DELIVERIES.lock() += 1;
    DELIVERED.notify_all();
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    if dropped > 0 {
        push(line(ROOT.to_owned(), 30, format!("{dropped} log lines were dropped: their handlers are too slow")));
    }
    // Another thread may have skipped the delivery of a new item because this thread was delivering.
    if !QUEUE.is_empty() {
        schedule();
    }
}

/// Delivers all items, and waits at most 5 s for another thread that is delivering.
pub(super) fn flush(py: Python<'_>) {
    let end = Instant::now() + FLUSH_MAX;
    deliver(py);
    while WAITING.load(Ordering::Relaxed) > 0 && Instant::now() < end {
        let ended = *DELIVERIES.lock();
        let waits = |deliveries: &mut u64| *deliveries == ended && WAITING.load(Ordering::Relaxed) > 0;
        py.detach(|| drop(DELIVERED.wait_timeout_while(DELIVERIES.lock(), FLUSH_STEP, waits)));
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
