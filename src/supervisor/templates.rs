//! The templates of `--preload`: processes that have imported the application, and fork workers.
//!
//! *Owns*: the templates, one for each version of the settings that has workers. *Runs on*: the supervisor's thread.
//! *Invariants*: a worker that waits for its template ends with it. A template that no settings need ends when its link
//! is closed.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use log::Level;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::process::Process;
use super::roster::manner;
use crate::link::{Command, Event, Link};
use crate::sys;

/// A template that has lived for this long is started again as soon as it has ended. Any other is started with the next
/// worker, whose pauses grow.
const OLD: Duration = Duration::from_secs(10);

/// The templates by the versions of their settings.
#[derive(Debug, Default)]
pub(super) struct Templates {
    known: BTreeMap<u64, Template>,
    /// Whether a Python program has forked the only template, which holds the program's application. It serves all
    /// versions of the settings.
    is_of_program: bool,
    /// Whether a template has imported the application.
    has_imported: bool,
    /// Whether this process adopts orphans at the moment. `None`: it always does, or never.
    adopts: Option<bool>,
}

#[derive(Debug)]
struct Template {
    process: Process,
    began: Instant,
    is_ready: bool,
    /// Whether it has said why it cannot start.
    has_failed: bool,
    awaited: Vec<Awaited>,
}

/// A worker that a template is to fork.
#[derive(Debug)]
struct Awaited {
    slot: usize,
    number: usize,
    generation: u64,
    /// The version of its settings.
    version: u64,
    /// The worker's end of its link, until the template has it.
    link: Option<Link>,
}

/// What a template has said of a worker.
#[derive(Debug)]
pub(super) enum News {
    /// The worker has this process.
    Forked { slot: usize, pid: u32, number: usize, generation: u64, version: u64 },
    /// The worker cannot be forked.
    NotForked { slot: usize, reason: String },
    /// The application cannot be imported. The template ends.
    Failed { slot: usize, exit: u8, reason: String },
}

/// The end of a template.
#[derive(Debug)]
pub(super) struct End {
    /// The version of its settings.
    pub(super) version: u64,
    /// The workers that have waited for it.
    pub(super) slots: Vec<usize>,
    /// Whether it is to be started again at once.
    pub(super) again: bool,
}

impl Templates {
    /// Returns the templates of a service inside a Python program, which has forked its only one.
    pub(super) fn of_program(process: Process) -> Self {
        let adopts = (!sys::adopts_orphans()).then_some(false);
        let mut templates = Self { is_of_program: true, adopts, ..Self::default() };
        templates.add(0, process);
        templates
    }

    /// Returns whether a Python program has forked the only template.
    pub(super) fn is_of_program(&self) -> bool {
        self.is_of_program
    }

    /// Returns the version of the settings under which the template for these settings is kept.
    fn key(&self, version: u64) -> u64 {
        if self.is_of_program { 0 } else { version }
    }

    /// Returns whether the settings of this version have a template.
    pub(super) fn has(&self, version: u64) -> bool {
        self.known.contains_key(&self.key(version))
    }

    /// Adds a template that has been started.
    pub(super) fn add(&mut self, version: u64, process: Process) {
        let (began, awaited) = (Instant::now(), Vec::new());
        self.known.insert(version, Template { process, began, is_ready: false, has_failed: false, awaited });
    }

    /// Makes the template of this version fork a worker, as soon as it has imported the application.
    pub(super) fn fork(&mut self, version: u64, slot: usize, number: usize, generation: u64, link: Link) {
        let key = self.key(version);
        if let Some(template) = self.known.get_mut(&key) {
            template.awaited.push(Awaited { slot, number, generation, version, link: Some(link) });
        }
        self.tell();
    }

    /// Sends the orders that wait to the templates that can follow them. A worker's first parent ends at once: the
    /// supervisor adopts the worker. In a program, it adopts no other orphans.
    fn tell(&mut self) {
        let is_forking = self.known.values().any(Template::is_forking);
        if self.adopts.is_some_and(|adopts| adopts != is_forking) {
            sys::adopt_orphans(is_forking);
            self.adopts = Some(is_forking);
        }
        self.known.values_mut().for_each(Template::tell);
    }

    /// Returns the descriptors of the links that are open.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.known.values().filter_map(|template| template.process.descriptor())
    }

    /// Returns the process of the first template, unless a Python program has forked it.
    pub(super) fn first(&self) -> Option<u32> {
        self.pids().next().filter(|_| !self.is_of_program)
    }

    /// Returns the numbers of the processes.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.known.values().filter_map(|template| template.process.pid)
    }

    /// Receives what the templates have said.
    pub(super) fn receive(&mut self) -> Vec<News> {
        // The line that says that the service listens names the first template, and a program knows its own.
        let level = if self.is_of_program || !self.has_imported { Level::Debug } else { Level::Info };
        let news = self.known.values_mut().flat_map(|template| template.receive(level)).collect();
        self.has_imported |= self.known.values().any(|template| template.is_ready);
        self.tell();
        news
    }

    /// Sends a signal to the template that a worker waits for. Returns whether there is one.
    pub(super) fn signal(&self, slot: usize, signal: i32) -> bool {
        let waits = |template: &&Template| template.awaited.iter().any(|awaited| awaited.slot == slot);
        self.known.values().find(waits).inspect(|template| template.process.signal(signal)).is_some()
    }

    /// Sends every template a command that may be lost.
    pub(super) fn tell_all(&self, command: &Command) {
        for template in self.known.values() {
            template.process.send(command, &[]);
        }
    }

    /// Notes that a process has ended. `None`: it was no template.
    pub(super) fn ended(&mut self, pid: u32, how: ExitStatus) -> Option<End> {
        let (version, _) = self.known.iter().find(|(_, template)| template.process.pid == Some(pid))?;
        let version = *version;
        let mut template = self.known.remove(&version)?;
        template.process.pid = None;
        self.tell();
        // A signal to the whole process group stops the service.
        let is_told = matches!(how.signal(), Some(SIGTERM | SIGINT));
        let again = template.is_ready && !is_told && template.began.elapsed() >= OLD;
        if !template.has_failed && !is_told {
            let (whose, then) = match again {
                _ if self.is_of_program => ("of the program", "no worker can be replaced: restart the program"),
                true => ("--preload", "it is started again"),
                false => ("--preload", "the next worker starts another"),
            };
            log::error!("the template ({whose}, pid {pid}) has ended unexpectedly: {}; {then}", manner(how));
        }
        Some(End { version, slots: template.awaited.iter().map(|awaited| awaited.slot).collect(), again })
    }

    /// Keeps only the templates of these versions. The others end.
    pub(super) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        let is_of_program = self.is_of_program;
        self.known.retain(|version, _| is_of_program || keep(*version));
    }
}

impl Template {
    /// Returns whether the template forks a worker, or is about to.
    fn is_forking(&self) -> bool {
        self.is_ready && !self.awaited.is_empty()
    }

    /// Sends the orders that wait, if the template can follow them.
    fn tell(&mut self) {
        if !self.is_ready {
            return;
        }
        for awaited in &mut self.awaited {
            let Some(link) = &awaited.link else { continue };
            let (number, generation) = (awaited.number, awaited.generation);
            // If the template has ended, its end ends the worker.
            self.process.send(&Command::Fork { number, generation }, &[link.channel().as_fd()]);
            awaited.link = None;
        }
    }

    /// Receives what the template has said. `level` is that of the line that says that it can fork.
    fn receive(&mut self, level: Level) -> Vec<News> {
        let mut news = Vec::new();
        for event in self.process.receive() {
            match event {
                Event::Ready { .. } => {
                    self.is_ready = true;
                    let pid = self.process.pid.unwrap_or(0);
                    log::log!(level, "the template (pid {pid}) has imported the application");
                }
                Event::Failed { exit, reason } => {
                    self.has_failed = true;
                    let failed = |awaited: &Awaited| News::Failed { slot: awaited.slot, exit, reason: reason.clone() };
                    news.extend(self.awaited.iter().map(failed));
                }
                Event::Forked { pid, number, generation } => {
                    let Some(Awaited { slot, version, .. }) = self.take(number, generation) else { continue };
                    news.push(News::Forked { slot, pid, number, generation, version });
                }
                Event::NotForked { number, generation, reason } => {
                    let awaited = self.take(number, generation);
                    news.extend(awaited.map(|awaited| News::NotForked { slot: awaited.slot, reason }));
                }
                // A later version sends it, or a worker.
                Event::Replace { .. } | Event::Given { .. } | Event::Left | Event::Changed { .. } => {}
            }
        }
        news
    }

    /// Takes a worker off the list.
    fn take(&mut self, number: usize, generation: u64) -> Option<Awaited> {
        let is_it = |awaited: &Awaited| (awaited.number, awaited.generation) == (number, generation);
        self.awaited.iter().position(is_it).map(|index| self.awaited.remove(index))
    }
}
