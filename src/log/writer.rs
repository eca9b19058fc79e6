//! The thread that writes log lines, and the bounded queue before it.
//!
//! *Owns*: the queue, the count of what did not fit, the open files.
//! *Runs on*: `send` on any thread and any coroutine: it never waits; `run` on a thread of its own, which may.
//! *Invariants*: lines of one sender keep their order; a line is written whole; at most `LINES_MAX` lines and `BYTES_MAX`
//! bytes wait; a line that does not fit is counted, and the count is written to the error log.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use ::log::Level;
use anyhow::Context as _;
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};

use super::errors;
use crate::sys;

/// Lines that may wait: a sixth of a second at 100,000 requests a second.
const LINES_MAX: usize = 16_384;

/// Bytes that may wait: 1 KiB for each line, and what hostile lines can cost at most.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// A write gathers about so many bytes.
const BATCH_BYTES: usize = 64 * 1024;

/// After a write the thread sleeps that long, and lines gather without waking anyone: at most 50 wake-ups a second.
const GATHER: Duration = Duration::from_millis(20);

/// Dropped lines are reported that often at most.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// `flush` waits that long at most.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// The writer of the process of that number. A thread does not survive fork(2), so a child gets its own.
static OF_PROCESS: Mutex<Option<(u32, Writer)>> = Mutex::new(None);

/// The writer of this process, started when it is first asked for.
pub(super) fn of_process() -> anyhow::Result<Writer> {
    let mut known = OF_PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((owner, writer)) = &*known
        && *owner == process::id()
    {
        return Ok(writer.clone());
    }
    let writer = Writer::start().context("cannot start the log's thread")?;
    *known = Some((process::id(), writer.clone()));
    Ok(writer)
}

/// Flushes the writer of this process, if there is one.
pub(super) fn flush_process() -> bool {
    let known = OF_PROCESS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    known.is_none_or(|(owner, writer)| owner != process::id() || writer.flush())
}

/// An open log.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
}

impl Sink {
    /// A file, made if need be, appended to. (`File` sets `O_CLOEXEC` by itself.)
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().append(true).create(true).open(path)? })
    }

    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self::from_fd(io::stdout().as_fd().try_clone_to_owned()?))
    }

    pub(super) fn stderr() -> io::Result<Self> {
        Ok(Self::from_fd(io::stderr().as_fd().try_clone_to_owned()?))
    }

    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self { file: File::from(fd) }
    }

    /// Writes all of `bytes`, also where somebody made the descriptor non-blocking.
    fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&self.file).write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(GATHER),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

enum Message {
    Line(Arc<Sink>, Vec<u8>),
    /// Answered when everything before it has been written.
    Flush(Sender<()>),
}

/// The sending side. The thread ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: Sender<Message>,
    counters: Arc<Counters>,
    thread: Thread,
    /// In a child of the process that started it there is no thread.
    forks: u64,
}

#[derive(Debug, Default)]
struct Counters {
    /// Bytes waiting or being written.
    bytes: AtomicUsize,
    /// Lines that did not fit, since the last report.
    dropped: AtomicU64,
    /// Where that is reported.
    report_to: Mutex<Option<Arc<Sink>>>,
}

impl Writer {
    /// Starts a thread.
    pub(super) fn start() -> io::Result<Self> {
        sys::watch_forks();
        let (queue, receiver) = channel::bounded(LINES_MAX);
        let counters = Arc::new(Counters::default());
        let of_thread = Arc::clone(&counters);
        let thread = thread::Builder::new().name("maypole-log".to_owned());
        // Signals are for the main thread.
        let signals = sys::SignalMask::block_all();
        let started = thread.spawn(move || Batches::new(of_thread).run(&receiver));
        signals.restore();
        let thread = started?.thread().clone();
        Ok(Self { queue, counters, thread, forks: sys::forks() })
    }

    /// Dropped and lost lines, whichever log they were meant for, are reported there.
    pub(super) fn report_to(&self, sink: &Arc<Sink>) {
        *self.counters.report_to.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(sink));
    }

    fn is_forked(&self) -> bool {
        self.forks != sys::forks()
    }

    /// Queues a line, its line break included, or drops and counts it. A forked child has no thread to do it, and may have
    /// a part of its parent's queue: it writes its line itself.
    pub(super) fn send(&self, sink: &Arc<Sink>, line: Vec<u8>) {
        if self.is_forked() {
            // There is nowhere else to say that it failed.
            let _ = sink.write_all(&line);
            return;
        }
        let length = line.len();
        let waiting = self.counters.bytes.fetch_add(length, Ordering::Relaxed);
        let fits = waiting.saturating_add(length) <= BYTES_MAX;
        if !fits || self.queue.try_send(Message::Line(Arc::clone(sink), line)).is_err() {
            self.counters.bytes.fetch_sub(length, Ordering::Relaxed);
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            self.thread.unpark();
        }
    }

    /// Waits until everything queued so far has been written, or `FLUSH_MAX` has passed; whether it has been written.
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

/// The thread's state.
struct Batches {
    counters: Arc<Counters>,
    /// What is about to be written: a few logs, seldom more than two.
    pending: Vec<Batch>,
    flushes: Vec<Sender<()>>,
    /// Lines whose write failed, since the last report, and why.
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
                // Whoever asked may have stopped waiting.
                let _ = done.try_send(());
            }
            // Logs that nobody holds any more are closed.
            self.pending.retain(|batch| Arc::strong_count(&batch.sink) > 1);
            thread::park_timeout(GATHER);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Flush(done) => self.flushes.push(done),
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

    /// Writes how many lines are missing, when some are; seldom, unless somebody flushes.
    fn report(&mut self) {
        let recent = self.reported.is_some_and(|reported| reported.elapsed() < REPORT_EVERY);
        if !self.has_losses() || (recent && self.flushes.is_empty()) {
            return;
        }
        self.reported = Some(Instant::now());
        let dropped = self.counters.dropped.swap(0, Ordering::Relaxed);
        let (lost, reason) = (mem::take(&mut self.lost), self.reason.take());
        let Some(sink) = self.counters.report_to.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        if dropped > 0 && !warn(&sink, &format!("{dropped} log lines were dropped: the log file is too slow")) {
            self.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        if let Some(reason) = reason
            && !warn(&sink, &format!("{lost} log lines were lost: {}", sys::plain(&reason)))
        {
            (self.lost, self.reason) = (lost, Some(reason));
        }
    }
}

/// Writes a warning to `sink`; whether that worked.
fn warn(sink: &Sink, message: &str) -> bool {
    sink.write_all(&errors::line(SystemTime::now(), Level::Warn, message)).is_ok()
}

#[cfg(test)]
mod tests;
