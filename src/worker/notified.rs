//! What a process without a supervisor tells systemd.
//!
//! *Owns*: the connection to systemd. *Runs on*: the thread `maypole-signals`, which never takes the GIL.

use std::time::Instant;

use crate::instance::Instance;
use crate::phrase::count;
use crate::scoreboard::Slot;
use crate::systemd::{Condition, Systemd};

/// systemd, and what it is told of this process.
pub(super) struct Notified {
    systemd: Systemd,
    /// The slot in which the heartbeat shows whether requests can be served.
    slot: Slot,
}

impl Notified {
    /// Finds systemd, if it started this process and wants to be told. `slot` is that of the process.
    pub(super) fn find(slot: &Slot) -> Option<Self> {
        Systemd::find().map(|systemd| Self { systemd, slot: slot.clone() })
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
        let responds = || self.slot.responds();
        self.systemd.look(Instant::now(), || Condition { status: status(instance), responds: responds() });
    }
}

fn status(instance: &Instance) -> String {
    let numbers = instance.server().numbers();
    format!("{} running, {} begun", count(numbers.calls, "call"), count(numbers.served, "request"))
}
