//! What the status server asks of a process without a supervisor.
//!
//! *Owns*: the slot in which the process shows its numbers. *Runs on*: the status server's threads.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::config::Config;
use crate::control::{Door, Request, Response};
use crate::instance::Instance;
use crate::scoreboard::{Scoreboard, Slot};
use crate::status::{self, Service, Setup, Source, Stage, Status};

/// A process without a supervisor, as the status server sees it.
pub(super) struct Shown {
    slot: Slot,
    /// The server, once it serves.
    instance: OnceLock<Arc<Instance>>,
}

impl Shown {
    /// Starts the status server. It answers from now on, although the application is not imported yet.
    ///
    /// # Errors
    /// An address is in use, or there is no descriptor or thread left.
    pub(super) fn start(config: &Config) -> anyhow::Result<(Status, Arc<Self>)> {
        let scoreboard = Scoreboard::create()?;
        let slot = scoreboard.slot(0);
        slot.enter(std::process::id(), 1, 0);
        let shown = Arc::new(Self { slot, instance: OnceLock::new() });
        let status = Status::start(Setup {
            service: Service {
                name: config.service_name().to_owned(),
                pid: std::process::id(),
                started: SystemTime::now(),
                has_workers: false,
                stuck_max: config.processes.worker_timeout,
            },
            scoreboard,
            source: shown.clone(),
            listeners: status::bind(&config.status.status_bind)?,
            allowed: config.status.status_allow.clone(),
            doors: Door::open(config.status.control.as_deref())?,
        })?;
        Ok((status, shown))
    }

    /// Returns the slot of the process.
    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Shows the numbers of this instance from now on.
    pub(super) fn serves(&self, instance: &Arc<Instance>) {
        // A process has one instance.
        let _ = self.instance.set(Arc::clone(instance));
    }
}

impl Source for Shown {
    fn refresh(&self) {
        if let Some(instance) = self.instance.get() {
            instance.server().show();
        }
    }

    fn stage(&self) -> Stage {
        match self.instance.get() {
            None => Stage::Starting,
            Some(instance) if instance.is_stopping() => Stage::Stopping,
            Some(_) => Stage::Serving,
        }
    }

    fn command(&self, request: Request) -> Response {
        match request {
            Request::Reload => Response::failure(format!(
                "process {} has no workers: send it SIGHUP, and its log says whether the new code serves",
                std::process::id()
            )),
        }
    }
}
