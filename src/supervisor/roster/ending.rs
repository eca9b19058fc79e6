//! The end of the service: gracefully, at once, or because a new supervisor serves.
//!
//! *Owns*: what is said of the end once all workers have ended.
//! *Runs on*: the supervisor's thread. *Invariants*: once the service ends, no process is started any more.

use std::time::Instant;

use log::Level;

use super::renewal::Change;
use super::{LAST_MOMENT, Roster, Stage, Worker};
use crate::cli::Exit;
use crate::phrase::{count, seconds};
use crate::supervisor::orders::Order;

/// The end of the service, from its first moment on.
#[derive(Debug)]
pub(super) struct Ending {
    /// The exit status of the supervisor.
    exit: Exit,
    /// Who has asked for it. `None`: no worker has come up.
    cause: Option<String>,
    began: Instant,
    /// How many requests the workers have cut off.
    cut: usize,
    /// How many workers have failed to stop by themselves.
    failed: usize,
}

impl Ending {
    /// Returns the exit status of the supervisor.
    pub(super) fn exit(&self) -> Exit {
        self.exit
    }

    /// Notes that a worker has ended, which has cut off this many requests.
    pub(super) fn note(&mut self, cut: usize, failed: bool) {
        self.cut += cut;
        self.failed += usize::from(failed);
    }

    /// Returns the sentence on the end, with its level.
    fn sentence(&self, now: Instant) -> (Level, String) {
        let Some(cause) = &self.cause else { return (Level::Info, "stopped: no worker has come up".to_owned()) };
        let stopped = format!("stopped {} after {cause}", seconds(now.saturating_duration_since(self.began)));
        let were = |number: usize| if number == 1 { "was" } else { "were" };
        let cut = (self.cut > 0).then(|| format!("{} {} cut off", count(self.cut, "request"), were(self.cut)));
        let failed = (self.failed > 0).then(|| format!("{} did not stop by itself", count(self.failed, "worker")));
        match [cut, failed].into_iter().flatten().collect::<Vec<_>>() {
            losses if losses.is_empty() => (Level::Info, format!("{stopped}: every request has ended")),
            losses => (Level::Warn, format!("{stopped}: {}", losses.join(", and "))),
        }
    }
}

impl Roster {
    /// Returns the last line of the log, with its level. (Once all workers have ended.)
    pub(in super::super) fn last_words(&self, now: Instant) -> (Level, String) {
        self.ending.as_ref().map_or_else(|| (Level::Info, "stopped".to_owned()), |ending| ending.sentence(now))
    }

    /// Ends a worker at once.
    pub(super) fn end_now(&mut self, slot: usize, cause: &str, now: Instant) {
        let Some(worker) = self.worker(slot) else { return };
        let is_starting = worker.stage == Stage::Starting;
        worker.stage = Stage::Draining(now + LAST_MOMENT);
        let cause = cause.to_owned();
        self.orders.push(if is_starting { Order::Terminate { slot } } else { Order::StopNow { slot, cause } });
    }

    /// Begins the end of the service, or ends it at once if it has begun.
    pub(super) fn stop(&mut self, cause: &str, now: Instant) {
        let slots: Vec<usize> = self.workers.iter().map(|worker| worker.slot).collect();
        let workers = count(slots.len(), "worker");
        if self.ending.is_some() {
            self.say(Level::Warn, format!("{cause}: stopping at once, because a second signal came; {workers} left"));
            for slot in slots {
                self.end_now(slot, cause, now);
            }
            return;
        }
        let limit = seconds(self.limits.stop);
        if slots.is_empty() {
            self.say(Level::Info, format!("{cause}: stopping; no worker runs"));
        } else {
            self.say(
                Level::Info,
                format!("{cause}: stopping {workers}; requests may run for {limit} more (--graceful-timeout)"),
            );
        }
        self.begin_end(Exit::Ok, Some(cause), now);
        self.orders.push(Order::Close);
        self.close_idle();
        for slot in slots {
            self.drain(slot, Vec::new(), cause, now);
        }
    }

    /// Ends the service at once.
    pub(super) fn quit(&mut self, cause: &str, now: Instant) {
        let slots: Vec<usize> = self.workers.iter().map(|worker| worker.slot).collect();
        self.say(Level::Warn, format!("{cause}: stopping {} at once", count(slots.len(), "worker")));
        if self.ending.is_none() {
            self.begin_end(Exit::Ok, Some(cause), now);
            self.orders.push(Order::Close);
        }
        for slot in slots {
            self.end_now(slot, cause, now);
        }
    }

    /// Ends this supervisor's part of the service, because a new supervisor serves. The clients go there.
    pub(super) fn succeeded(&mut self, now: Instant) {
        if self.ending.is_some() {
            return;
        }
        self.begin_end(Exit::Ok, Some("SIGUSR2"), now);
        self.give_away();
        let slots: Vec<usize> = self.workers.iter().map(|worker| worker.slot).collect();
        for slot in slots {
            self.drain(slot, Vec::new(), "SIGUSR2", now);
        }
    }

    /// Orders that workers that stop close their idle clients, because no process receives them any more.
    pub(super) fn close_idle(&mut self) {
        let drains = |worker: &&Worker| matches!(worker.stage, Stage::Draining(_));
        let orders = self.workers.iter().filter(drains).map(|worker| Order::CloseIdle { slot: worker.slot });
        self.orders.extend(orders);
    }

    /// Returns whether the service ends.
    pub(in super::super) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Orders that the idle clients of all workers go to the new supervisor. A worker that stops already gives its
    /// clients to another one of this supervisor, which may end before it.
    pub(super) fn give_away(&mut self) {
        let gives = |worker: &&Worker| worker.has_served && matches!(worker.stage, Stage::Serving | Stage::Draining(_));
        let orders = self.workers.iter().filter(gives).map(|worker| Order::GiveAway { from: worker.slot });
        self.orders.extend(orders);
    }

    /// Notes that the service ends: nothing is started any more. Without a `cause`, no worker has come up.
    pub(super) fn begin_end(&mut self, exit: Exit, cause: Option<&str>, now: Instant) {
        self.ending = Some(Ending { exit, cause: cause.map(str::to_owned), began: now, cut: 0, failed: 0 });
        let waits = |change: Change| if let Change::Reload { version, .. } = change { Some(version) } else { None };
        let waiting = self.changes.drain(..).filter_map(waits).max();
        self.recycling.clear();
        self.pauses.clear();
        let running = self.roll.take().map(|roll| roll.version);
        if let Some(version) = waiting.max(running) {
            let outcome = Err("nothing is reloaded, because the service stops".to_owned());
            self.orders.push(Order::Reloaded { version, keeps: self.version, outcome, old: Vec::new() });
        }
    }
}
