//! Lines that a function takes in place of a file: Python's logging (`--log-config`).
//!
//! *Owns*: a bounded queue, and a thread of its own that alone calls the function. *Runs on*: any thread and any
//! coroutine adds a line, and never waits. The thread of the queue may wait. *Invariants*: lines keep their order. A line
//! that does not fit is dropped and counted, and the count is a line. Lines that the function no longer takes go to the
//! error log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{self, Receiver, Select, Sender, TryRecvError};
use log::{Level, Log, Metadata, Record};

use super::errors::ErrorLog;
use crate::sys::{self, Condition, Lock};

/// The most lines that may wait, as for files.
const LINES_MAX: usize = 16_384;
/// The most lines that one call of the function takes.
const BATCH_MAX: usize = 256;
/// Lines of this module say that no thread gets the GIL. They would wait for the GIL, too, so the error log has them as
/// well.
const ALARMS: &str = "maypole::worker::alarms";

/// A line that waits for the function.
#[derive(Debug)]
pub struct Line {
    /// Whether it is a line of the access log.
    pub is_access: bool,
    /// How serious it is.
    pub level: Level,
    /// Its text, without a line break at its end.
    pub message: String,
    /// The time of the event.
    pub created: SystemTime,
    /// The atoms of a line of the access log: name, NUL, value, NUL, and so on. Empty for other lines.
    pub atoms: String,
}

impl Line {
    /// Returns a line of the error log, as of now.
    fn of_error(level: Level, message: String) -> Self {
        Self { is_access: false, level, message, created: SystemTime::now(), atoms: String::new() }
    }
}

/// Takes lines. Returns whether it takes lines at all: otherwise they go to the error log. It takes a line only when it
/// need not wait any more, so that no line is lost if the process ends meanwhile.
pub type Take = Box<dyn FnMut(&mut dyn Iterator<Item = Line>) -> bool + Send>;

/// The delivery of this process, while there is one.
static CURRENT: Lock<Option<Arc<Delivery>>> = Lock::new(None);

/// Returns the delivery of this process.
pub(super) fn current() -> Option<Arc<Delivery>> {
    CURRENT.lock().clone()
}

/// Makes this the delivery of the process, or leaves the process without one. Returns the one of before.
pub(super) fn replace(delivery: Option<Arc<Delivery>>) -> Option<Arc<Delivery>> {
    std::mem::replace(&mut *CURRENT.lock(), delivery)
}

/// Queues a line of the access log. Requests are served only while there is a delivery.
pub(super) fn access_line(message: String, atoms: String) {
    if let Some(delivery) = current() {
        delivery.push(Line { is_access: true, level: Level::Info, message, created: SystemTime::now(), atoms });
    }
}

/// The queue.
pub(super) struct Delivery {
    queue: Sender<Line>,
    /// Takes the lines that are left when the function has stopped taking any.
    rest: Receiver<Line>,
    state: Arc<State>,
    /// The number of forks when the thread was started. A forked child has no such thread.
    forks: u64,
}

struct State {
    /// The error log.
    log: Arc<ErrorLog>,
    /// Lines that wait or are being taken.
    waiting: AtomicUsize,
    dropped: AtomicU64,
    /// Whether a `flush` has waited in vain, and no line has been taken since.
    is_stuck: AtomicBool,
    /// Taken by the thread before it notifies `ENDED`.
    batch: Lock<()>,
    ended: Condition,
}

impl Delivery {
    /// Starts the thread, which calls `take`.
    pub(super) fn start(take: Take, log: Arc<ErrorLog>) -> io::Result<Arc<Self>> {
        sys::watch_forks();
        let (queue, receiver) = channel::bounded(LINES_MAX);
        let state = Arc::new(State {
            log,
            waiting: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            is_stuck: AtomicBool::new(false),
            batch: Lock::new(()),
            ended: Condition::new(),
        });
        let (rest, of_thread) = (receiver.clone(), Arc::clone(&state));
        sys::start_thread_without_signals("maypole-logging", move || of_thread.run(&receiver, take))?;
        Ok(Arc::new(Self { queue, rest, state, forks: sys::forks() }))
    }

    /// Returns the error log.
    pub(super) fn log(&self) -> Arc<ErrorLog> {
        Arc::clone(&self.state.log)
    }

    fn is_forked(&self) -> bool {
        self.forks != sys::forks()
    }

    fn push(&self, line: Line) {
        if self.is_forked() {
            return self.state.write(&line);
        }
        self.state.waiting.fetch_add(1, Ordering::SeqCst);
        if self.queue.try_send(line).is_err() {
            self.state.waiting.fetch_sub(1, Ordering::SeqCst);
            self.state.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns whether a `flush` has waited in vain, and no line has been taken since.
    pub(super) fn is_stuck(&self) -> bool {
        self.state.is_stuck.load(Ordering::SeqCst)
    }

    /// Waits at most `limit` until all lines have been taken, and not at all if an earlier wait was in vain. Writes the
    /// lines that are left to the error log then. Returns whether all have been taken.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        if self.is_forked() {
            return true;
        }
        let end = Instant::now() + limit;
        let mut batch = self.state.batch.lock();
        while self.state.waiting.load(Ordering::SeqCst) > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_stuck() {
                self.state.is_stuck.store(true, Ordering::SeqCst);
                drop(batch);
                self.rest.try_iter().for_each(|line| self.state.write_waiting(&line));
                return false;
            }
            batch = self.state.ended.wait_timeout(batch, left);
        }
        true
    }
}

impl State {
    /// Delivers lines until there is no sender. (Thread of the queue.)
    fn run(&self, queue: &Receiver<Line>, mut take: Take) {
        let mut arrival = Select::new();
        arrival.recv(queue);
        loop {
            arrival.ready();
            let first = if queue.is_empty() {
                // Either there is no sender, or `flush` has taken the lines.
                match queue.try_recv() {
                    Err(TryRecvError::Disconnected) => return,
                    Err(TryRecvError::Empty) => continue,
                    Ok(line) => Some(line),
                }
            } else {
                None
            };
            let mut taken = 0;
            let arrived = first.into_iter().chain(queue.try_iter()).take(BATCH_MAX).inspect(|_| taken += 1);
            let mut lines = arrived.chain(self.dropped_lines());
            if !take(&mut lines) {
                lines.for_each(|line| self.write(&line));
            }
            self.waiting.fetch_sub(taken, Ordering::SeqCst);
            let batch = self.batch.lock();
            self.is_stuck.store(false, Ordering::SeqCst);
            drop(batch);
            self.ended.notify_all();
        }
    }

    /// Returns a line that says how many lines did not fit since the last one.
    fn dropped_lines(&self) -> Option<Line> {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped == 0 {
            return None;
        }
        let message = format!("{dropped} log lines were dropped: the handlers of --log-config are too slow");
        Some(Line::of_error(Level::Warn, message))
    }

    fn write_waiting(&self, line: &Line) {
        self.write(line);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Writes a line to the error log.
    fn write(&self, line: &Line) {
        self.log.write(line.created, line.level, &line.message);
    }
}

/// The backend of the crate `log`.
pub(super) struct ToFunction(pub(super) Arc<Delivery>, pub(super) log::LevelFilter);

impl Log for ToFunction {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.1 && super::is_wanted(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && super::is_news(record) {
            let line = Line::of_error(record.level(), record.args().to_string());
            if record.target() == ALARMS {
                self.0.state.write(&line);
            }
            self.0.push(line);
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn line(message: &str) -> Line {
        Line::of_error(Level::Info, message.to_owned())
    }

    fn no_log() -> Arc<ErrorLog> {
        Arc::new(ErrorLog::new(None, None, None, log::LevelFilter::Info))
    }

    #[test]
    fn lines_that_do_not_fit_are_counted_in_a_line() {
        let (go, wait) = mpsc::channel::<()>();
        let (taken, lines) = mpsc::channel();
        let take = move |lines: &mut dyn Iterator<Item = Line>| {
            // The first call waits for the test, and later ones fail at once.
            let _ = wait.recv();
            lines.for_each(|line| drop(taken.send(line.message)));
            true
        };
        let delivery = Delivery::start(Box::new(take), no_log()).unwrap();
        (0..LINES_MAX + 3).for_each(|number| delivery.push(line(&number.to_string())));
        assert_eq!(delivery.state.dropped.load(Ordering::SeqCst), 3);
        drop(go);
        assert!(delivery.flush(Duration::from_secs(20)));
        drop(delivery);
        let lines: Vec<_> = lines.iter().collect();
        let numbers: Vec<_> = lines.iter().filter(|line| !line.contains("dropped")).cloned().collect();
        assert_eq!(numbers, (0..LINES_MAX).map(|number| number.to_string()).collect::<Vec<_>>());
        assert!(lines.contains(&"3 log lines were dropped: the handlers of --log-config are too slow".to_owned()));
    }

    #[test]
    fn lines_that_are_not_taken_in_time_are_taken_out() {
        let (go, wait) = mpsc::channel::<()>();
        let take = move |_: &mut dyn Iterator<Item = Line>| wait.recv().is_ok();
        let delivery = Delivery::start(Box::new(take), no_log()).unwrap();
        delivery.push(line("one"));
        assert!(!delivery.flush(Duration::from_millis(10)));
        assert!(delivery.rest.is_empty());
        drop(go);
    }

    #[test]
    fn only_the_first_of_several_flushes_waits_for_a_function_that_blocks() {
        let (go, wait) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let take = move |lines: &mut dyn Iterator<Item = Line>| {
            lines.next();
            let _ = begun.send(());
            // Without an error: the test has let it go on.
            wait.recv().is_ok()
        };
        let delivery = Delivery::start(Box::new(take), no_log()).unwrap();
        delivery.push(line("one"));
        begins.recv().unwrap();
        assert!(!delivery.flush(Duration::from_millis(10)) && delivery.is_stuck());
        // A wait of a day would end this test.
        delivery.push(line("two"));
        assert!(!delivery.flush(Duration::from_secs(86_400)));
        go.send(()).unwrap();
        drop(go);
        while delivery.is_stuck() {
            std::thread::yield_now();
        }
        // The function has returned, so that a wait makes sense again.
        assert!(delivery.flush(Duration::from_secs(86_400)));
    }
}
