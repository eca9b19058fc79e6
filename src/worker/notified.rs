//! What a process without a supervisor tells systemd.
//!
//! *Owns*: the connection to systemd, and the slot in which the heartbeat shows whether requests can be served. *Runs on*:
//! the thread `maypole-signals`, which never takes the GIL. *Invariants*: without a watchdog there is no slot, so that
//! requests cost nothing more.

use std::time::Instant;

use anyhow::Context as _;

use crate::instance::Instance;
use crate::phrase::count;
use crate::scoreboard::{Scoreboard, Slot};
use crate::systemd::{Condition, Systemd};

/// systemd, and what it is told of this process.
pub(super) struct Notified {
    systemd: Systemd,
    slot: Option<Slot>,
}

impl Notified {
    /// Finds systemd, if it started this process and wants to be told.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn find() -> anyhow::Result<Option<Self>> {
        let Some(systemd) = Systemd::find() else { return Ok(None) };
        let slot = systemd.watchdog().map(|_| {
            let slot = Scoreboard::create().context("cannot make the memory for the watchdog")?.slot(0);
            slot.enter(std::process::id(), 1, 0);
            anyhow::Ok(slot)
        });
        Ok(Some(Self { systemd, slot: slot.transpose()? }))
    }

    /// Returns the slot for the heartbeat.
    pub(super) fn slot(&self) -> Option<&Slot> {
        self.slot.as_ref()
    }

    pub(super) fn ready(&mut self, instance: &Instance) {
        self.systemd.ready(&status(instance));
    }

    pub(super) fn reloading(&mut self) {
        self.systemd.reloading();
    }

    pub(super) fn not_reloaded(&mut self, instance: &Instance, reason: &str) {
        let first = reason.lines().next().unwrap_or_default().trim_end_matches(':');
        let failure = format!("the reload has failed, and the old code serves: {first} (the log says more)");
        self.systemd.reloaded(&status(instance), Some(failure));
    }

    pub(super) fn stopping(&mut self) {
        self.systemd.stopping();
    }

    pub(super) fn next(&self) -> Instant {
        self.systemd.next()
    }

    /// Tells how the process is, if it is time.
    pub(super) fn look(&mut self, instance: &Instance) {
        let slot = self.slot.as_ref();
        let responds = || slot.is_none_or(Slot::responds);
        self.systemd.look(Instant::now(), || Condition { status: status(instance), responds: responds() });
    }
}

fn status(instance: &Instance) -> String {
    let numbers = instance.server().numbers();
    format!("{} running, {} begun", count(numbers.calls, "call"), count(numbers.served, "request"))
}
