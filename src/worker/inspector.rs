//! What the requests and the Python threads of this process do at this moment, within a limited time.
//!
//! *Owns*: the two ways to the stacks: with the GIL, and without it in a copy of the process. *Runs on*: the status
//! server's threads. *Invariants*: an inspection takes less than `INSPECTION_MAX`, whatever the application does.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

use pyo3::prelude::*;

use super::asker::{Asker, Silence};
use super::faults::FrozenStacks;
use crate::instance::Instance;
use crate::phrase::excerpt;
use crate::requests::{Frame, SlowRequest, Snapshot, Stage};
use crate::scoreboard::Slot;
use crate::status::{CodeFrame, Inspected, Python as PythonState, Requests, Row, SlowRow, Slowest};
use crate::stdlib;
use crate::sys::Lock;
use crate::wsgi::{self, Placed, Stacks};

/// How long Python may take to respond. Once the heartbeat has waited this long, nothing waits for Python.
const PYTHON_MAX: Duration = Duration::from_millis(150);
/// How many frames are searched for one of the application.
const FRAMES_MAX: usize = 100;
/// How many frames are shown.
const SHOWN_MAX: usize = 20;

/// Inspects this process.
pub(super) struct Inspector {
    slot: Slot,
    asker: Lock<Asker>,
    /// What it needs of Python, once that runs.
    prepared: OnceLock<Prepared>,
    /// The server, once it serves.
    instance: OnceLock<Arc<Instance>>,
}

struct Prepared {
    /// `None`: there is no file for the stacks.
    frozen: Option<FrozenStacks>,
    /// The directory of the standard library.
    library: String,
}

impl Inspector {
    /// Makes the inspector of the process that has this slot.
    pub(super) fn new(slot: Slot) -> Self {
        Self { slot, asker: Lock::default(), prepared: OnceLock::new(), instance: OnceLock::new() }
    }

    /// Prepares both ways. Call it before the application is imported.
    pub(super) fn prepare(&self, py: Python<'_>) {
        let frozen = FrozenStacks::prepare(py).inspect_err(|error| {
            log::warn!("no stacks can be shown while a thread keeps the GIL: {error}");
        });
        let file: Option<String> = stdlib::get(py)
            .and_then(|known| known.os.bind(py).getattr("__file__")?.extract())
            .inspect_err(|error| log::debug!("the directory of the standard library is not known: {error}"))
            .ok();
        let library = file.as_deref().and_then(|file| Path::new(file).parent()).map(|dir| dir.display().to_string());
        // A process is prepared once.
        let _ = self.prepared.set(Prepared { frozen: frozen.ok(), library: library.unwrap_or_default() });
    }

    /// Inspects this instance from now on.
    pub(super) fn serves(&self, instance: &Arc<Instance>) {
        // A process has one instance.
        let _ = self.instance.set(Arc::clone(instance));
    }

    /// Returns the server, once it serves.
    pub(super) fn instance(&self) -> Option<&Arc<Instance>> {
        self.instance.get()
    }

    /// Returns the slot of the process.
    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Returns the requests that are being served. `with_stacks` adds up to `SHOWN_MAX` frames to each.
    pub(super) fn requests(&self, with_stacks: bool) -> Requests {
        let instance = self.instance.get().cloned();
        // The requests are read with the GIL, too. Otherwise, a request could be in the queue and have a frame.
        let asked = self.ask(move |py| wsgi::placed_with_frames(py, served(instance.as_ref()), FRAMES_MAX));
        let (python, (placed, frames)) = match asked {
            Ok(Ok(found)) => (PythonState::Read, found),
            Ok(Err(_)) | Err(Silence::NoThread(_)) => {
                (PythonState::Busy, (wsgi::placed(served(self.instance.get())), Stacks::new()))
            }
            Err(Silence::Busy) => {
                (PythonState::Busy, (wsgi::placed(served(self.instance.get())), self.frozen_frames()))
            }
            Err(Silence::Absent) => (PythonState::Absent, (wsgi::placed(served(self.instance.get())), Stacks::new())),
        };
        let rows = placed.into_iter().map(|placed| self.row(placed, &frames, python, with_stacks)).collect();
        let websockets = self.instance.get().map_or(0, |instance| instance.server().numbers().websockets);
        let (worker, pid) = (self.slot.number(), self.slot.pid());
        Requests::of_process(Inspected { worker, pid, python, websockets }, rows)
    }

    /// Returns the slowest requests of the last minutes.
    pub(super) fn slowest(&self) -> Slowest {
        let slowest = self.instance.get().map(|instance| instance.server().slow().slowest(Instant::now()));
        Slowest::merge([Slowest {
            slowest: slowest.into_iter().flatten().map(|request| self.slow_row(request)).collect(),
        }])
    }

    /// Returns the code of the application in which each of these requests is now, if a thread runs it. `is_patient`
    /// permits to read it without the GIL, which costs a copy of the process.
    pub(super) fn code_of(&self, requests: Vec<Snapshot>, is_patient: bool) -> Vec<(Snapshot, Frame)> {
        let its = requests.clone();
        let (placed, frames) = match self.ask(move |py| wsgi::placed_with_frames(py, its, FRAMES_MAX)) {
            Ok(Ok(found)) => found,
            Err(Silence::Busy) if is_patient => (wsgi::placed(requests), self.frozen_frames()),
            _ => return Vec::new(),
        };
        let code = |placed: Placed| {
            let frame = self.own(frames.get(&placed.caller?.ident?)?)?.clone();
            Some((placed.request, frame))
        };
        placed.into_iter().filter_map(code).collect()
    }

    /// Returns the requests and all Python threads with their stacks, as text.
    pub(super) fn stacks(&self) -> String {
        let instance = self.instance.get().cloned();
        let summary = |instance: &Option<Arc<Instance>>| match instance {
            Some(instance) => instance.server().summary(),
            None => ("the application is being imported".to_owned(), Vec::new()),
        };
        let its = instance.clone();
        let asked = self.ask(move |py| {
            let (head, served) = summary(&its);
            let stacks = wsgi::report(py, served, true).map_err(|error| wsgi::traceback(py, &error))?;
            Ok::<_, String>(format!("{head}\n{stacks}\n"))
        });
        let silence = match asked {
            Ok(Ok(report)) => return report,
            Ok(Err(why)) => why,
            Err(silence) => silence.sentence(PYTHON_MAX),
        };
        let (head, served) = summary(&instance);
        let text = match self.prepared.get().and_then(|prepared| prepared.frozen.as_ref()).map(FrozenStacks::read) {
            Some(Ok(text)) => frozen_report(&wsgi::placed(served), &text),
            Some(Err(error)) => format!("the stacks cannot be read without the GIL: {error}\n"),
            None => String::new(),
        };
        format!("{head}\n{silence}\n{text}")
    }

    /// Asks Python, unless it is known that no thread gets the GIL.
    fn ask<T: Send + 'static>(&self, question: impl FnOnce(Python<'_>) -> T + Send + 'static) -> Result<T, Silence> {
        if self.slot.is_stuck() {
            return Err(Silence::Busy);
        }
        if self.prepared.get().is_none() {
            return Err(Silence::Absent);
        }
        self.asker.lock().ask(PYTHON_MAX, question)
    }

    /// Reads the frames without the GIL.
    pub(super) fn frozen_frames(&self) -> Stacks {
        let frozen = self.prepared.get().and_then(|prepared| prepared.frozen.as_ref());
        let text = frozen.and_then(|frozen| {
            frozen.read().inspect_err(|error| log::debug!("the stacks cannot be read without the GIL: {error}")).ok()
        });
        text.map_or_else(Stacks::new, |text| frames_of(&text))
    }

    fn row(&self, placed: Placed, frames: &Stacks, python: PythonState, with_stacks: bool) -> Row {
        let Placed { request, caller } = placed;
        let stack =
            caller.as_ref().and_then(|caller| frames.get(&caller.ident?)).map(Vec::as_slice).unwrap_or_default();
        let own = self.own(stack);
        Row {
            age_seconds: request.received.elapsed().as_secs_f64(),
            phase: match request.stage {
                Stage::Queued => "queue",
                Stage::Running => "application",
                Stage::Sending => "send",
                Stage::Suspended => "suspended",
                Stage::Abandoned => "abandoned",
                Stage::Overdue => "overdue",
            }
            .to_owned(),
            client: Some(request.origin.client_name()),
            worker: self.slot.number(),
            pid: self.slot.pid(),
            request: excerpt(request.head.request_line()),
            request_id: request.head.id().map(excerpt),
            thread: caller.as_ref().map(|caller| caller.name.clone()),
            thread_id: caller.and_then(|caller| caller.native),
            python,
            frame: own.map(code_frame),
            stack: if with_stacks { stack.iter().take(SHOWN_MAX).map(code_frame).collect() } else { Vec::new() },
        }
    }

    fn slow_row(&self, request: SlowRequest) -> SlowRow {
        let SlowRequest { ended, split, status, client, line, mostly } = request;
        SlowRow {
            ended: ended.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            duration_seconds: split.duration.as_secs_f64(),
            receive_seconds: split.receive.as_secs_f64(),
            queue_seconds: split.queue.as_secs_f64(),
            application_seconds: split.application.as_secs_f64(),
            send_seconds: split.send.as_secs_f64(),
            status,
            client,
            worker: self.slot.number(),
            pid: self.slot.pid(),
            request: line,
            frame: mostly.as_ref().map(|mostly| code_frame(&mostly.frame)),
            samples_in_frame: mostly.as_ref().map_or(0, |mostly| mostly.samples),
            samples: mostly.map_or(0, |mostly| mostly.of),
        }
    }

    /// Returns the innermost frame of the application's own code, or the innermost one of all.
    fn own<'a>(&self, stack: &'a [Frame]) -> Option<&'a Frame> {
        stack.iter().find(|frame| !self.is_library(&frame.file)).or(stack.first())
    }

    /// Returns whether a file belongs to Python or to an installed package.
    fn is_library(&self, file: &str) -> bool {
        let library = self.prepared.get().map_or("", |prepared| prepared.library.as_str());
        file.starts_with('<')
            || ["/site-packages/", "/dist-packages/"].iter().any(|part| file.contains(part))
            || (!library.is_empty() && file.strip_prefix(library).is_some_and(|rest| rest.starts_with('/')))
    }
}

/// Returns the requests that are being served.
fn served(instance: Option<&Arc<Instance>>) -> Vec<Snapshot> {
    instance.map_or_else(Vec::new, |instance| instance.server().summary().1)
}

fn code_frame(frame: &Frame) -> CodeFrame {
    CodeFrame { file: frame.file.clone(), line: frame.line, function: frame.function.clone() }
}

/// Returns the frames in a text of the module `faulthandler`.
fn frames_of(text: &str) -> Stacks {
    let mut found = Stacks::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Thread 0x").or_else(|| line.strip_prefix("Current thread 0x")) {
            let digits = rest.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap_or_default();
            current = u64::from_str_radix(digits, 16).ok();
        } else if let (Some(ident), Some(frame)) = (current, frame_of(line)) {
            found.entry(ident).or_default().push(frame);
        }
    }
    found
}

/// Reads a line such as `  File "shop.py", line 3 in pay`.
fn frame_of(line: &str) -> Option<Frame> {
    let (file, rest) = line.strip_prefix("  File \"")?.rsplit_once("\", line ")?;
    let (number, function) = rest.split_once(" in ")?;
    Some(Frame { file: file.to_owned(), line: number.parse().unwrap_or(0), function: function.to_owned() })
}

/// Returns a report as that of `wsgi::report`, from a text of the module `faulthandler`. The module does not know the
/// names of threads.
fn frozen_report(placed: &[Placed], text: &str) -> String {
    let mut frames = frames_of(text);
    let stack = |frames: Vec<Frame>| {
        let line = |frame: &Frame| format!("    File \"{}\", line {}, in {}", frame.file, frame.line, frame.function);
        frames.iter().rev().map(line).collect::<Vec<_>>()
    };
    let request = |row: &Placed| {
        let ident = row.caller.as_ref().and_then(|caller| caller.ident);
        (row.line(), ident.and_then(|ident| frames.remove(&ident)).map(stack).unwrap_or_default())
    };
    let requests = placed.iter().map(request).collect();
    let others = frames.into_iter().map(|(ident, frames)| (format!("thread 0x{ident:x}"), stack(frames))).collect();
    wsgi::grouped(requests, others) + "\n"
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_from_the_text_of_faulthandler() {
        let text = "Thread 0x00007f01 (most recent call first):\n  File \"/a, line 3\", line 12 in pay\n  \
                    File \"/b.py\", line 3 in <module>\n\nCurrent thread 0x0000002a [web] (most recent call first):\n  \
                    File \"c.py\", line ??? in f\n  ...\n";
        let frames = frames_of(text);
        let frame =
            |file: &str, line, function: &str| Frame { file: file.to_owned(), line, function: function.to_owned() };
        assert_eq!(frames[&0x7f01], [frame("/a, line 3", 12, "pay"), frame("/b.py", 3, "<module>")]);
        assert_eq!(frames[&42], [frame("c.py", 0, "f")]);
        let report = frozen_report(&[], text);
        assert!(
            report.contains("  thread 0x7f01\n    File \"/b.py\", line 3, in <module>\n    File \"/a, line 3\""),
            "{report}"
        );
    }
}
