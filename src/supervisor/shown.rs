//! What the status server asks of the supervisor.
//!
//! *Owns*: the stage of the service, as others see it. *Runs on*: the supervisor's thread writes; the status server's
//! threads read, and pass commands on.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use anyhow::Context as _;

use super::Supervisor;
use super::questions;
use super::settings::Settings;
use crate::config::Config;
use crate::control::{Control, Desk, Door, Request, Response};
use crate::logs::{self, LineCounts};
use crate::metrics::Count;
use crate::scoreboard::Scoreboard;
use crate::status::{Errors, Processes, Requests, Service, Setup, Slowest, Sockets, Source, Stage, Status};
use crate::sys::Lock;

/// What the status server knows of the supervisor.
#[derive(Debug)]
pub(super) struct Shown {
    desk: Desk,
    scoreboard: Scoreboard,
    /// How many workers are to serve.
    wanted: AtomicUsize,
    /// A `Stage`.
    stage: AtomicUsize,
    /// The last errors that were shown, also those of workers that have ended since.
    errors: Lock<Errors>,
    /// How many log lines of this process have been counted.
    logged: Lock<LineCounts>,
}

impl Shown {
    /// Starts the status server, which shows on these sockets. Returns it, the end at which commands arrive, and what the
    /// supervisor keeps up to date.
    ///
    /// # Errors
    /// There is no descriptor or thread left.
    pub(super) fn start(
        settings: &Settings,
        scoreboard: &Scoreboard,
        sockets: Sockets,
        (goes_on, leads): (bool, bool),
    ) -> anyhow::Result<(Status, Control, Arc<Self>)> {
        let config: &Config = &settings.config;
        let (control, desk) = Control::pair().context("cannot make the channel of the commands")?;
        let (wanted, stage) = (AtomicUsize::new(settings.workers()), AtomicUsize::new(Stage::Starting as usize));
        let (errors, logged) = (Lock::default(), Lock::default());
        let shown = Arc::new(Self { desk, scoreboard: scoreboard.clone(), wanted, stage, errors, logged });
        let status = Status::start(Setup {
            service: Service {
                name: config.service_name().to_owned(),
                pid: std::process::id(),
                started: SystemTime::now(),
                has_workers: true,
                goes_on,
                stuck_max: config.processes.worker_timeout,
            },
            processes: Processes::All(scoreboard.clone()),
            source: shown.clone(),
            sockets,
            allowed: config.status.status_allow.clone(),
            door: Door::open(),
            statsd: config.status.statsd.clone(),
            leads,
        })?;
        Ok((status, control, shown))
    }

    /// Shows the stage of the service.
    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as usize, Ordering::Relaxed);
    }

    /// Shows how many workers are to serve.
    pub(super) fn set_wanted(&self, wanted: usize) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }
}

impl Supervisor {
    /// Shows the status on the sockets of the current settings, unless the old supervisor still does.
    pub(super) fn show(&self) {
        if self.predecessor.as_ref().is_none_or(|predecessor| !predecessor.leads()) {
            let settings = self.fleet.current();
            self.status.show_on(settings.shown().clone(), settings.config.status.status_allow.clone());
            self.status.send_to(&settings.config.status.statsd);
        }
    }
}

impl Source for Shown {
    fn refresh(&self) {
        let (mut counted, now) = (self.logged.lock(), logs::line_counts());
        let ended = self.scoreboard.ended();
        ended.count(Count::LoggedErrors, now.errors.saturating_sub(counted.errors));
        ended.count(Count::LoggedExceptions, now.exceptions.saturating_sub(counted.exceptions));
        ended.count(Count::LoggedWarnings, now.warnings.saturating_sub(counted.warnings));
        *counted = now;
    }

    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            stage if stage == Stage::Serving as usize && self.wanted() == 0 => Stage::Draining,
            stage if stage == Stage::Serving as usize => Stage::Serving,
            stage if stage == Stage::Stopping as usize => Stage::Stopping,
            _ => Stage::Starting,
        }
    }

    fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    fn requests(&self, with_stacks: bool) -> Requests {
        questions::requests(&self.scoreboard, with_stacks)
    }

    fn slowest(&self) -> Slowest {
        questions::slowest(&self.scoreboard)
    }

    fn errors(&self) -> Errors {
        let asked = [Errors::of_process(None), questions::errors(&self.scoreboard)];
        let mut known = self.errors.lock();
        *known = Errors::merge(asked.into_iter().chain([std::mem::take(&mut *known)]));
        known.clone()
    }

    fn stacks(&self) -> String {
        questions::stacks(&self.scoreboard)
    }

    fn command(&self, request: Request, _: BorrowedFd<'_>) -> Response {
        self.desk.ask(request)
    }
}
