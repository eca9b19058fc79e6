//! What the status server asks of a process that serves.
//!
//! *Owns*: the slot in which a process without a supervisor shows its numbers. *Runs on*: the status server's threads.
//! *Invariants*: a worker listens on no address of `--status-bind`. Only its supervisor and commands reach it.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use pyo3::prelude::*;

use super::inspector::Inspector;
use super::operator::{self, Operator};
use super::place::Place;
use super::{alarms, sampler};
use crate::config::{Config, StatsdSettings};
use crate::control::{Door, Request, Response};
use crate::instance::Instance;
use crate::scoreboard::{Scoreboard, Slot, State};
use crate::status::{Errors, Processes, Requests, Service, Setup, Slowest, Sockets, Source, Stage, Status};
use crate::wsgi;

/// A process that serves, as the status server sees it.
pub(super) struct Shown {
    inspector: Arc<Inspector>,
    /// The supervisor of a worker.
    supervisor: Option<u32>,
    /// Their files are removed when the process ends.
    sockets: Sockets,
    /// Acts on commands, once the process serves.
    operator: OnceLock<Operator>,
}

impl Shown {
    /// Starts the status server. It answers from now on, although the application is not imported yet. `known` are the
    /// sockets of the program that ran in this process before.
    ///
    /// # Errors
    /// An address is in use, or there is no descriptor or thread left.
    pub(super) fn start(
        config: &Config,
        place: Option<&Place>,
        known: Sockets,
        goes_on: bool,
    ) -> anyhow::Result<(Status, Arc<Self>)> {
        let (slot, sockets, door) = if let Some(place) = place {
            (place.slot().clone(), Sockets::default(), Door::of_worker())
        } else {
            let slot = Scoreboard::create()?.slot(0);
            slot.enter(std::process::id(), 1, 0);
            (slot, Sockets::bind(&config.status, &known)?, Door::open())
        };
        // Those that the settings no longer name are closed, with the removal of their files.
        drop(known);
        let supervisor = place.map(|place| place.start().supervisor);
        let shown = Arc::new(Self {
            inspector: Arc::new(Inspector::new(slot.clone())),
            supervisor,
            sockets,
            operator: OnceLock::new(),
        });
        let status = Status::start(Setup {
            service: Service {
                name: config.service_name().to_owned(),
                pid: std::process::id(),
                started: SystemTime::now(),
                has_workers: false,
                goes_on,
                stuck_max: config.processes.worker_timeout,
            },
            processes: Processes::One(slot.clone()),
            source: shown.clone(),
            sockets: shown.sockets.clone(),
            allowed: config.status.status_allow.clone(),
            door,
            // A worker's numbers are in those of its supervisor.
            statsd: place.map_or_else(|| config.status.statsd.clone(), |_| StatsdSettings::default()),
            leads: true,
        })?;
        Ok((status, shown))
    }

    /// Returns the slot of the process.
    pub(super) fn slot(&self) -> &Slot {
        self.inspector.slot()
    }

    /// Prepares what shows the stacks. Call it before the application is imported.
    pub(super) fn prepare(&self, py: Python<'_>) {
        self.inspector.prepare(py);
        // The closure lives as long as the process, and the sockets must not.
        let inspector = Arc::clone(&self.inspector);
        wsgi::read_stacks_with(move || inspector.frozen_frames());
    }

    /// Returns the sockets on which the process shows its status.
    pub(super) fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// Shows the numbers of this instance from now on, and starts what looks at its requests. `alarm_after` is from when
    /// on a condition is an alarm.
    ///
    /// # Errors
    /// There is no thread left.
    pub(super) fn serves(
        &self,
        instance: &Arc<Instance>,
        alarm_after: Duration,
        operator: Operator,
    ) -> anyhow::Result<()> {
        // A process begins to serve once.
        let _ = self.operator.set(operator);
        self.inspector.serves(instance);
        alarms::start(alarm_after, instance, &self.inspector)?;
        sampler::start(instance, &self.inspector)
    }
}

impl Source for Shown {
    fn refresh(&self) {
        if let Some(instance) = self.inspector.instance() {
            instance.server().show();
        }
    }

    fn stage(&self) -> Stage {
        match self.inspector.instance() {
            None => Stage::Starting,
            Some(instance) if instance.is_stopping() => Stage::Stopping,
            Some(_) if self.slot().state() == State::Draining => Stage::Draining,
            Some(_) => Stage::Serving,
        }
    }

    fn requests(&self, with_stacks: bool) -> Requests {
        self.inspector.requests(with_stacks)
    }

    fn slowest(&self) -> Slowest {
        self.inspector.slowest()
    }

    fn errors(&self) -> Errors {
        Errors::of_process(Some(self.slot().number()))
    }

    fn stacks(&self) -> String {
        let pid = std::process::id();
        let name = match self.supervisor {
            Some(_) => format!("worker {}, pid {pid}", self.slot().number()),
            None => format!("pid {pid}"),
        };
        format!("{name}: {}", self.inspector.stacks())
    }

    fn command(&self, request: Request, connection: BorrowedFd<'_>) -> Response {
        let pid = std::process::id();
        match (self.supervisor, self.operator.get()) {
            (Some(supervisor), _) => Response::failure(format!(
                "process {pid} is a worker: give the command to its supervisor, process {supervisor}"
            )),
            (None, Some(operator)) => operator.act(request, connection),
            (None, None) => operator::act_early(request),
        }
    }
}
