//! The thread that writes log lines, and its bounded queue.
//!
//! *Owns*: the queue, the count of dropped lines. *Runs on*: `send` on any thread and any coroutine,
//! and it never waits; `run` on its own thread, which may wait. *Invariants*: lines of one sender keep their order; a
//! line is written whole; at most `LINES_MAX` lines and `BYTES_MAX` bytes wait in the queue. A line that does not fit
//! is dropped and counted, and the count is written to the error log.

use std::io;
use std::mem;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};
use log::Level;

use super::errors;
use super::sink::Sink;
use super::syslog::Daemon;
use crate::sys::{self, Lock};

/// The most lines that may wait: those of a sixth of a second at 100,000 requests per second.
const LINES_MAX: usize = 16_384;

/// The most bytes that may wait: 1 KiB for each line. This also limits the memory that hostile lines can take.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The approximate number of bytes that one write collects.
const BATCH_BYTES: usize = 64 * 1024;

/// How long the thread sleeps after a write. Lines collect meanwhile without waking it: at most 50 wake-ups per second.
const GATHER: Duration = Duration::from_millis(20);

/// The shortest time between two reports of dropped lines.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The longest time that `flush` waits for files.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// The longest time that `flush` waits for syslog.
const SYSLOG_FLUSH_MAX: Duration = Duration::from_secs(2);

/// The writer, with the ID of the process that started it. A thread does not survive fork(2), so a child process starts
/// its own writer.
static OF_PROCESS: Lock<Option<(u32, Writer)>> = Lock::new(None);

/// The writer of lines for syslog, in the same way. A daemon that is slow does not delay the files.
static OF_SYSLOG: Lock<Option<(u32, Writer)>> = Lock::new(None);

/// Returns the writer of this process. The first call starts it.
pub(super) fn of_process() -> anyhow::Result<Writer> {
    started(&OF_PROCESS, "the log file")
}

/// Returns the writer of this process for syslog. The first call starts it.
pub(super) fn of_syslog() -> anyhow::Result<Writer> {
    started(&OF_SYSLOG, "syslog")
}

fn started(known: &Lock<Option<(u32, Writer)>>, destination: &'static str) -> anyhow::Result<Writer> {
    let mut known = known.lock();
    if let Some((owner, writer)) = &*known
        && *owner == process::id()
    {
        return Ok(writer.clone());
    }
    let writer = Writer::start_for(destination).context("cannot start the log's thread")?;
    *known = Some((process::id(), writer.clone()));
    Ok(writer)
}

/// Flushes the writers of this process, if there are any.
pub(super) fn flush_process() -> bool {
    let flush = |known: &Lock<Option<(u32, Writer)>>, limit| {
        let known = known.lock().clone();
        known.is_none_or(|(owner, writer)| owner != process::id() || writer.flush_within(limit))
    };
    // A loss at syslog is a line of the file, so the file is last.
    let of_syslog = flush(&OF_SYSLOG, SYSLOG_FLUSH_MAX);
    flush(&OF_PROCESS, FLUSH_MAX) && of_syslog
}

enum Message {
    Line(Arc<Sink>, Vec<u8>),
    Syslog(Arc<Daemon>, Vec<u8>),
    /// The writer sends `()` once all earlier lines have been written.
    Flush(Sender<()>),
}

/// The sending side of the queue. The thread ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: Sender<Message>,
    counters: Arc<Counters>,
    thread: Thread,
    /// The number of forks when the thread was started. A forked child has no such thread.
    forks: u64,
}

#[derive(Debug)]
struct Counters {
    /// Where the lines go, for the report.
    destination: &'static str,
    /// Bytes waiting or being written.
    bytes: AtomicUsize,
    /// Lines that did not fit, since the last report.
    dropped: AtomicU64,
    /// The log that the count is reported to.
    report_to: Lock<Option<Arc<Sink>>>,
}

impl Writer {
    #[cfg(test)]
    pub(super) fn start() -> io::Result<Self> {
        Self::start_for("the log file")
    }

    /// Starts the writer's thread.
    fn start_for(destination: &'static str) -> io::Result<Self> {
        sys::watch_forks();
        let (queue, receiver) = channel::bounded(LINES_MAX);
        let counters = Arc::new(Counters {
            destination,
            bytes: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            report_to: Lock::new(None),
        });
        let of_thread = Arc::clone(&counters);
        let started = sys::start_thread_without_signals("maypole-log", move || Batches::new(of_thread).run(&receiver))?;
        let thread = started.thread().clone();
        Ok(Self { queue, counters, thread, forks: sys::forks() })
    }

    /// Reports dropped and lost lines of all logs to `sink`.
    pub(super) fn report_to(&self, sink: &Arc<Sink>) {
        *self.counters.report_to.lock() = Some(Arc::clone(sink));
    }

    fn is_forked(&self) -> bool {
        self.forks != sys::forks()
    }

    /// Queues a line, with its line break, or drops and counts it. A forked child has no writer thread, and may hold a
    /// copy of its parent's queue, so it writes the line itself.
    pub(super) fn send(&self, sink: &Arc<Sink>, line: Vec<u8>) {
        if self.is_forked() {
            // An error is ignored, because there is no other place to report it.
            let _ = sink.write_all(&line);
            return;
        }
        let length = line.len();
        self.queue(length, Message::Line(Arc::clone(sink), line));
    }

    /// Queues a message for syslog, or drops and counts it. A forked child sends none: its parent's thread may hold the
    /// socket's lock.
    pub(super) fn send_to_syslog(&self, daemon: &Arc<Daemon>, message: Vec<u8>) {
        if !self.is_forked() {
            let length = message.len();
            self.queue(length, Message::Syslog(Arc::clone(daemon), message));
        }
    }

    fn queue(&self, length: usize, message: Message) {
        let waiting = self.counters.bytes.fetch_add(length, Ordering::Relaxed);
        let fits = waiting.saturating_add(length) <= BYTES_MAX;
        if !fits || self.queue.try_send(message).is_err() {
            self.counters.bytes.fetch_sub(length, Ordering::Relaxed);
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            self.thread.unpark();
        }
    }

    /// Waits until all lines queued so far have been written, or `FLUSH_MAX` has passed. Returns whether they were
    /// written.
    pub(super) fn flush(&self) -> bool {
        self.flush_within(FLUSH_MAX)
    }

    fn flush_within(&self, limit: Duration) -> bool {
        if self.is_forked() {
            return true;
        }
        let deadline = Instant::now() + limit;
        let (done, wait) = channel::bounded(1);
        self.thread.unpark();
        if self.queue.send_deadline(Message::Flush(done), deadline).is_err() {
            return false;
        }
        self.thread.unpark();
        wait.recv_deadline(deadline).is_ok()
    }
}

/// The state of the writer's thread.
struct Batches {
    counters: Arc<Counters>,
    /// The lines to be written, one batch per log. There are rarely more than two logs.
    pending: Vec<Batch>,
    flushes: Vec<Sender<()>>,
    /// Lines whose write has failed since the last report. `reason` is the last error.
    lost: u64,
    reason: Option<io::Error>,
    reported: Option<Instant>,
}

struct Batch {
    sink: Arc<Sink>,
    bytes: Vec<u8>,
    lines: u64,
}

impl Batches {
    fn new(counters: Arc<Counters>) -> Self {
        Self { counters, pending: Vec::new(), flushes: Vec::new(), lost: 0, reason: None, reported: None }
    }

    fn run(mut self, queue: &Receiver<Message>) {
        loop {
            match queue.recv_timeout(if self.has_losses() { REPORT_EVERY } else { Duration::MAX }) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let mut taken = 0;
            while self.flushes.is_empty()
                && taken < LINES_MAX
                && let Ok(message) = queue.try_recv()
            {
                self.take(message);
                taken += 1;
            }
            self.write();
            self.report();
            for done in self.flushes.drain(..) {
                // The thread that asked may have stopped waiting.
                let _ = done.try_send(());
            }
            // Close logs that only this thread still holds.
            self.pending.retain(|batch| Arc::strong_count(&batch.sink) > 1);
            thread::park_timeout(GATHER);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Flush(done) => self.flushes.push(done),
            Message::Syslog(daemon, message) => {
                daemon.send_as_writer(&message);
                self.counters.bytes.fetch_sub(message.len(), Ordering::Relaxed);
            }
            Message::Line(sink, line) => {
                let known = self.pending.iter().position(|batch| Arc::ptr_eq(&batch.sink, &sink));
                let index = known.unwrap_or_else(|| {
                    self.pending.push(Batch { sink, bytes: Vec::new(), lines: 0 });
                    self.pending.len() - 1
                });
                let batch = &mut self.pending[index];
                batch.bytes.extend_from_slice(&line);
                batch.lines += 1;
                if batch.bytes.len() >= BATCH_BYTES {
                    self.write_batch(index);
                }
            }
        }
    }

    fn write(&mut self) {
        for index in 0..self.pending.len() {
            self.write_batch(index);
        }
    }

    fn write_batch(&mut self, index: usize) {
        let batch = &mut self.pending[index];
        if let Err(error) = batch.sink.write_all(&batch.bytes) {
            self.lost += batch.lines;
            self.reason = Some(error);
        }
        self.counters.bytes.fetch_sub(batch.bytes.len(), Ordering::Relaxed);
        batch.lines = 0;
        batch.bytes.clear();
        batch.bytes.shrink_to(BATCH_BYTES);
    }

    fn has_losses(&self) -> bool {
        self.lost > 0 || self.counters.dropped.load(Ordering::Relaxed) > 0
    }

    /// Writes how many lines are missing, if any are: at most once per `REPORT_EVERY`, or at once if a thread flushes.
    fn report(&mut self) {
        let recent = self.reported.is_some_and(|reported| reported.elapsed() < REPORT_EVERY);
        if !self.has_losses() || (recent && self.flushes.is_empty()) {
            return;
        }
        self.reported = Some(Instant::now());
        let dropped = self.counters.dropped.swap(0, Ordering::Relaxed);
        let (lost, reason) = (mem::take(&mut self.lost), self.reason.take());
        let Some(sink) = self.counters.report_to.lock().clone() else { return };
        if dropped > 0
            && !warn(&sink, &format!("{dropped} log lines were dropped: {} is too slow", self.counters.destination))
        {
            self.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        if let Some(reason) = reason
            && !warn(&sink, &format!("{lost} log lines were lost: {}", sys::plain(&reason)))
        {
            (self.lost, self.reason) = (lost, Some(reason));
        }
    }
}

/// Writes a warning to `sink`. Returns whether the write succeeded.
fn warn(sink: &Sink, message: &str) -> bool {
    sink.write_all(&errors::line(SystemTime::now(), Level::Warn, message)).is_ok()
}

#[cfg(test)]
mod tests;
