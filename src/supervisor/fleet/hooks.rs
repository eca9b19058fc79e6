//! The process that calls the hooks of the whole service, as the supervisor sees it.
//!
//! *Owns*: the process. *Runs on*: the supervisor's thread. *Invariants*: the first workers start once `on_starting` has
//! returned. Later, the supervisor waits for no hook but `on_exit`, and for that no longer than `END_MAX`.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use signal_hook::consts::SIGKILL;

use super::Fleet;
use crate::link::{Command, Event, HookCall, Start};
use crate::phrase::seconds;
use crate::supervisor::process::Process;
use crate::supervisor::roster::manner;
use crate::sys;

/// The hook `on_exit` and the end of the process may take this long.
const END_MAX: Duration = Duration::from_secs(10);

/// The process of the hooks.
#[derive(Debug)]
pub(super) struct HookProcess {
    process: Process,
    /// The file of `--hooks`.
    file: PathBuf,
    /// The time for the start.
    limit: Duration,
    stage: Stage,
    /// Why it cannot start.
    failure: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The hook `on_starting` runs, until this time at most.
    Starting(Option<Instant>),
    Ready,
    /// The hook `on_exit` runs, until this time at most.
    Ending(Instant),
    /// It has been killed.
    Killed,
}

impl HookProcess {
    /// Returns the process as it is at its start. `limit` is the time for the start. Zero is no limit.
    fn new(process: Process, file: PathBuf, limit: Duration) -> Self {
        let end = (!limit.is_zero()).then(|| Instant::now() + limit);
        Self { process, file, limit, stage: Stage::Starting(end), failure: None }
    }

    /// Returns the descriptor of the link, if it is open.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.process.descriptor()
    }

    /// Returns the number of the process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.pid
    }

    /// Returns whether the hook `on_starting` has not returned.
    fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting(_))
    }

    /// Receives what the process has said.
    pub(super) fn receive(&mut self) {
        for event in self.process.receive() {
            match event {
                Event::Ready { .. } if self.is_starting() => self.stage = Stage::Ready,
                Event::Failed { reason, .. } => self.failure = Some(reason),
                _ => {}
            }
        }
    }

    /// Has a hook called. Does not wait for it.
    fn call(&self, call: HookCall) {
        if self.stage == Stage::Ready && !self.process.send(&Command::Hook(call), &[]) {
            log::warn!("a hook is not called: the hooks before it have not returned");
        }
    }

    /// Makes the process call `on_exit` and end.
    fn stop(&mut self) {
        if self.stage == Stage::Ready
            && self.process.send(&Command::Stop { cause: "the end of the service".into() }, &[])
        {
            self.stage = Stage::Ending(Instant::now() + END_MAX);
        } else if !matches!(self.stage, Stage::Ending(_) | Stage::Killed) {
            self.kill();
        }
    }

    /// Sends a command that may be lost.
    pub(super) fn tell(&self, command: &Command) {
        self.process.send(command, &[]);
    }

    /// Ends the process at once.
    fn kill(&mut self) {
        self.process.signal(SIGKILL);
        self.stage = Stage::Killed;
    }

    /// Returns when the process has taken too long.
    fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Starting(end) => end,
            Stage::Ending(end) => Some(end),
            Stage::Ready | Stage::Killed => None,
        }
    }

    /// Kills the process if it has taken too long.
    fn enforce_limit(&mut self) {
        if self.deadline().is_none_or(|end| end > Instant::now()) {
            return;
        }
        if self.is_starting() {
            let limit = seconds(self.limit);
            self.failure = Some(format!("on_starting has not returned within {limit} (--worker-start-timeout)"));
        } else {
            log::warn!("the hook on_exit has not returned within {}: its process is killed", seconds(END_MAX));
        }
        self.kill();
    }

    /// Returns the sentence for the end of the process, if nothing has asked for it.
    pub(super) fn ended(&self, how: ExitStatus) -> Option<String> {
        let file = self.file.display();
        match (&self.failure, self.stage) {
            (Some(reason), _) => Some(format!("the hooks in {file} cannot start: {reason}")),
            (None, Stage::Starting(_)) => {
                Some(format!("the process of the hooks in {file} has ended: {}", manner(how)))
            }
            (None, Stage::Ready) => Some(format!(
                "the process of the hooks in {file} has ended unexpectedly: {}; a reload starts it again",
                manner(how)
            )),
            (None, Stage::Ending(_) | Stage::Killed) => None,
        }
    }
}

impl Fleet {
    /// Starts the process of the hooks, if the newest settings name a file of hooks and no such process runs.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(in super::super) fn start_hooks(&mut self) -> io::Result<()> {
        let settings = self.settings.values().next_back().expect("a service has settings");
        if let (Some(file), None) = (&settings.config.processes.hooks, &self.hooks) {
            let config = &settings.config;
            let hooks_are_settings = config.file().map(|file| &file.path) == config.processes.hooks.as_ref();
            let start = Start { runs_hooks: true, hooks_are_settings, ..self.place(settings, 0, 0, 0) };
            let process = Process::start(&self.program, start, &[self.scoreboard.as_fd()])?;
            let limit = settings.config.processes.worker_start_timeout;
            self.hooks = Some(HookProcess::new(process, file.clone(), limit));
        }
        Ok(())
    }

    /// Calls `on_reload`. If the newest settings name another file, starts another process.
    pub(in super::super) fn reload_hooks(&mut self) {
        self.call_hook("on_reload", HookCall::default());
        let newest = self.settings.values().next_back().and_then(|settings| settings.config.processes.hooks.as_ref());
        if let Some(hooks) = &mut self.hooks
            && newest != Some(&hooks.file)
        {
            hooks.stop();
        } else if let Err(error) = self.start_hooks() {
            log::error!("the process of the hooks cannot be started: {}", sys::plain(&error));
        }
    }

    /// Has a hook called that concerns the whole service.
    pub(in super::super) fn call_hook(&self, name: &str, mut call: HookCall) {
        let Some(hooks) = &self.hooks else { return };
        name.clone_into(&mut call.name);
        call.addresses = self.current().urls();
        call.workers = self.workers;
        hooks.call(call);
    }

    /// Notes how many workers are to serve, and calls `nworkers_changed`.
    pub(in super::super) fn set_workers(&mut self, workers: usize) {
        let workers_before = std::mem::replace(&mut self.workers, workers);
        self.scoreboard.set_workers(workers);
        if workers != workers_before {
            self.call_hook("nworkers_changed", HookCall { workers_before, ..HookCall::default() });
        }
    }

    /// Returns whether the first workers may not start yet, because `on_starting` has not returned.
    pub(in super::super) fn holds_start(&self) -> bool {
        !self.has_started && (self.hooks.is_some() || self.hooks_failed.is_some() || self.is_ending)
    }

    /// Notes what the process of the hooks has said, and kills it if it has taken too long.
    pub(in super::super) fn look_at_hooks(&mut self) {
        if let Some(hooks) = &mut self.hooks {
            hooks.receive();
            hooks.enforce_limit();
        }
        let is_ready = self.hooks.as_ref().is_none_or(|hooks| hooks.stage == Stage::Ready);
        self.has_started |= is_ready && self.hooks_failed.is_none() && !self.is_ending;
    }

    /// Returns when the process of the hooks has taken too long.
    pub(in super::super) fn hooks_deadline(&self) -> Option<Instant> {
        self.hooks.as_ref().and_then(HookProcess::deadline)
    }

    /// Logs why the process of the hooks has ended. Returns whether the service cannot start without it.
    pub(in super::super) fn hooks_have_failed(&mut self) -> bool {
        let Some(sentence) = self.hooks_failed.take() else { return false };
        log::error!("{sentence}");
        self.is_ending |= !self.has_started;
        !self.has_started
    }

    /// Notes the end of a process. Returns whether it was that of the hooks.
    pub(super) fn hooks_ended(&mut self, pid: u32, how: ExitStatus) -> bool {
        let Some(mut hooks) = self.hooks.take_if(|hooks| hooks.process.pid == Some(pid)) else { return false };
        hooks.receive();
        self.hooks_failed = hooks.ended(how);
        // A reload that names another file has ended it.
        if matches!(hooks.stage, Stage::Ending(_))
            && !self.is_ending
            && let Err(error) = self.start_hooks()
        {
            log::error!("the process of the hooks cannot be started: {}", sys::plain(&error));
        }
        true
    }

    /// Makes the process of the hooks call `on_exit` and end. Returns whether it has ended.
    pub(in super::super) fn end_hooks(&mut self) -> bool {
        if !std::mem::replace(&mut self.is_ending, true)
            && let Some(hooks) = &mut self.hooks
        {
            hooks.stop();
        }
        self.hooks.is_none()
    }

    /// Ends the process of the hooks at once.
    pub(in super::super) fn kill_hooks(&mut self) {
        self.is_ending = true;
        if let Some(hooks) = &mut self.hooks {
            hooks.kill();
        }
    }
}
