//! The records of calls that are past their deadlines, with their stacks.
//!
//! *Owns*: the calls whose records are not written yet. *Runs on*: one short-lived thread that writes, and one that waits
//! for the GIL. *Invariants*: a record is written within `PYTHON_MAX`, plus the time in which the stacks are read without
//! the GIL. An exception is raised only in a thread that still runs the call.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::Lapse;
use crate::config::duration_text;
use crate::executor::gate;
use crate::handler::{Origin, Overdue};
use crate::http::RequestHead;
use crate::phrase::{count, excerpt, seconds};
use crate::sys::{self, Lock};
use crate::wsgi::report::{Slot, Stacks, stack};
use crate::wsgi::{TARGET, interrupt, threads};

/// How long a record waits for the GIL.
const PYTHON_MAX: Duration = Duration::from_millis(200);
/// The name of the threads.
const THREAD: &str = "maypole-overdue";

/// A call that is past its deadline.
pub(super) struct Record {
    pub(super) slot: Arc<Slot>,
    pub(super) head: Arc<RequestHead>,
    pub(super) origin: Arc<Origin>,
    pub(super) received: Instant,
    pub(super) began: Instant,
    pub(super) noticed: Instant,
    pub(super) limit: Duration,
    /// What the client gets. `None`: an interruption has not ended the call.
    pub(super) overdue: Option<Overdue>,
    pub(super) fate: Fate,
}

/// What happens to the thread of such a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Interrupted,
    GivenUp,
    Kept,
    /// Its server has stopped.
    Left,
}

impl Fate {
    pub(super) fn of(lapse: &Lapse) -> Self {
        match lapse {
            Lapse::None => Self::Left,
            Lapse::Interrupted => Self::Interrupted,
            Lapse::GivenUp => Self::GivenUp,
            Lapse::Kept(_) => Self::Kept,
        }
    }
}

/// Reads the stacks of all threads without the GIL.
type ReadStacks = Box<dyn Fn() -> Stacks + Send + Sync>;
static READ_STACKS: OnceLock<ReadStacks> = OnceLock::new();

/// Reads stacks with this function while no thread gets the GIL.
pub fn read_stacks_with(read: impl Fn() -> Stacks + Send + Sync + 'static) {
    // A process has one way.
    let _ = READ_STACKS.set(Box::new(read));
}

/// The records that are not written yet, and whether a thread writes them.
static WAITING: Lock<(Vec<Record>, bool)> = Lock::new((Vec::new(), false));

/// A question about the stack of a call.
struct Question {
    slot: Arc<Slot>,
    head: Arc<RequestHead>,
    interrupts: bool,
    tell: Sender<Vec<String>>,
}

/// The questions to Python, and whether a thread waits for the GIL to answer them.
static QUESTIONS: Lock<(Vec<Question>, bool)> = Lock::new((Vec::new(), false));

/// Has a thread write records.
pub(super) fn write(records: Vec<Record>) {
    if records.is_empty() {
        return;
    }
    let mut waiting = WAITING.lock();
    waiting.0.extend(records);
    if std::mem::replace(&mut waiting.1, true) {
        return;
    }
    drop(waiting);
    if sys::start_thread_without_signals(THREAD, write_waiting).is_err() {
        // There is no thread left.
        write_waiting();
    }
}

fn write_waiting() {
    loop {
        let mut waiting = WAITING.lock();
        let records = std::mem::take(&mut waiting.0);
        if records.is_empty() {
            waiting.1 = false;
            return;
        }
        drop(waiting);
        write_all(records);
    }
}

fn write_all(records: Vec<Record>) {
    let end = Instant::now() + PYTHON_MAX;
    let told: Vec<_> = records.iter().map(ask).collect();
    answer_soon();
    let answer = |told: Receiver<Vec<String>>| told.recv_timeout(end.saturating_duration_since(Instant::now())).ok();
    let lines: Vec<_> = told.into_iter().map(answer).collect();
    let frozen = if lines.contains(&None) { READ_STACKS.get().map(|read| read()) } else { None };
    for (record, lines) in records.into_iter().zip(lines) {
        let lines = lines.unwrap_or_else(|| frozen_lines(record.slot.caller.ident, frozen.as_ref()));
        record.log(&lines);
    }
}

fn ask(record: &Record) -> Receiver<Vec<String>> {
    let (tell, told) = mpsc::channel();
    let (slot, head) = (Arc::clone(&record.slot), Arc::clone(&record.head));
    let interrupts = record.fate == Fate::Interrupted;
    QUESTIONS.lock().0.push(Question { slot, head, interrupts, tell });
    told
}

/// Makes sure that a thread waits for the GIL to answer the questions. One that waits already answers these, too.
fn answer_soon() {
    if std::mem::replace(&mut QUESTIONS.lock().1, true) {
        return;
    }
    let run = || {
        let answered = gate::attach(|py| {
            if let Err(error) = answer(py, take_questions()) {
                log::debug!(target: TARGET, "a stack cannot be read: {error}");
            }
        });
        if answered.is_none() {
            // Python is going down.
            take_questions();
        }
    };
    if sys::start_thread_without_signals(THREAD, run).is_err() {
        take_questions();
    }
}

fn take_questions() -> Vec<Question> {
    let mut questions = QUESTIONS.lock();
    questions.1 = false;
    std::mem::take(&mut questions.0)
}

fn answer(py: Python<'_>, questions: Vec<Question>) -> PyResult<()> {
    // The frames are read first, and the exceptions are raised right afterwards: formatting a stack runs Python code, so
    // that the calls go on meanwhile.
    let interruption =
        if questions.iter().any(|question| question.interrupts) { Some(interrupt::class(py)?) } else { None };
    let frames = py.import("sys")?.call_method0("_current_frames")?;
    let mut asked = Vec::new();
    for Question { slot, head, interrupts, tell } in questions {
        // The call does not end here, because it ends with the slot locked. No Python code may run meanwhile: the thread
        // of the call could get the GIL then, and wait for the lock with it.
        let running = slot.running.lock();
        let runs = running.as_ref().is_some_and(|running| Arc::ptr_eq(&running.head, &head));
        if let Some(ident) = slot.caller.ident.filter(|_| runs) {
            if let Some(class) = interruption.filter(|_| interrupts) {
                interrupt::raise(class, ident);
            }
            asked.push((ident, tell));
        } else {
            // An error means that the record was written without it, here and below.
            let _ = tell.send(vec!["    its call has ended meanwhile".to_owned()]);
        }
    }
    for (ident, tell) in asked {
        let _ = tell.send(stack(&frames, ident)?);
    }
    Ok(())
}

/// Returns the lines of a stack that was read without the GIL.
fn frozen_lines(ident: Option<u64>, stacks: Option<&Stacks>) -> Vec<String> {
    let mut lines = vec![format!("    no thread has got the GIL within {}", seconds(PYTHON_MAX))];
    let frames = ident.and_then(|ident| stacks?.get(&ident));
    for frame in frames.into_iter().flatten().rev() {
        lines.push(format!("    File \"{}\", line {}, in {}", frame.file, frame.line, frame.function));
    }
    lines
}

impl Record {
    fn log(&self, lines: &[String]) {
        let (client, line, id) = (self.origin.client_name(), excerpt(self.head.request_line()), self.head.id_text());
        let (limit, thread) = (duration_text(self.limit), self.thread());
        let waited = seconds(self.began.saturating_duration_since(self.received));
        let ran = seconds(self.noticed.saturating_duration_since(self.began));
        let what = match self.overdue {
            Some(Overdue::Answered) => "504 after",
            Some(Overdue::Cut) => "the response is cut off after",
            Some(Overdue::Left) => "the client has left, and its call goes on after",
            None => "the call goes on after its interruption at",
        };
        log::error!(
            target: TARGET,
            "{client}: {what} {limit} (--request-timeout): \"{line}\"{id} waited {waited} for a thread, and has been in the \
             application for {ran}; {thread}\n{}",
            lines.join("\n")
        );
    }

    fn thread(&self) -> String {
        let name = &self.slot.caller.name;
        match self.fate {
            Fate::Interrupted => format!("its code is interrupted on {name} (--request-interrupt)"),
            Fate::GivenUp => format!("{name} is given up, and another thread takes its place"),
            Fate::Left => format!("{name} goes on"),
            Fate::Kept => {
                let most = threads::executor_of(self.slot.executor).map_or(0, |executor| executor.given_up_max());
                let most = count(most, "thread");
                format!("{name} keeps its place: at most {most} may be given up at once, a quarter of --threads")
            }
        }
    }
}
