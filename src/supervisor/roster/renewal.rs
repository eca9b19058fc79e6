//! Replacements that are asked for: reload, recycling, more workers and fewer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use log::Level;

use super::{Roster, Stage, Worker};
use crate::config::WORKERS_MAX;
use crate::metrics::Departure;
use crate::phrase::count;
use crate::supervisor::orders::Order;

/// A change of the workers that takes its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Reload { version: u64, workers: usize },
    More,
    Fewer,
    Resize { workers: usize, cause: &'static str },
}

/// How far a change of the number of workers has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Scaled {
    /// It goes on.
    Waits,
    /// All of the workers serve. If there are to be none, all have ended.
    Done,
    /// The worker with this number does not come up.
    Fails(usize),
    /// A later change wants this many workers.
    Superseded(usize),
    /// The service stops.
    Stops,
}

/// A reload: workers are replaced, one after another.
#[derive(Debug)]
pub(super) struct Roll {
    pub(super) version: u64,
    /// How many workers are to serve in the end.
    target: usize,
    /// The numbers that are still to be replaced.
    left: VecDeque<usize>,
    /// The slot of the worker that is starting.
    current: Option<usize>,
}

impl Roster {
    /// Begins the next change once the current one is over.
    pub(super) fn renew(&mut self, now: Instant) {
        self.roll_on(now);
        // A restart ends each worker before the next one of its number starts.
        let restarts = self.workers.iter().any(|worker| matches!(worker.stage, Stage::Restarting(_)));
        while self.roll.is_none()
            && !restarts
            && let Some(change) = self.changes.pop_front()
        {
            match change {
                Change::Reload { version, workers } => self.begin_roll(version, workers, now),
                Change::More if self.target >= WORKERS_MAX => {
                    let workers = count(self.target, "worker");
                    self.say(Level::Warn, format!("SIGTTIN: {workers} stay, because there can be no more"));
                }
                Change::More => self.resize(self.target + 1, "SIGTTIN", now),
                Change::Fewer if self.target == 0 => {
                    self.say(Level::Warn, "SIGTTOU: there is no worker; SIGTTIN starts one".to_owned());
                }
                Change::Fewer if self.target == 1 => {
                    self.say(Level::Warn, "SIGTTOU: the last worker stays; SIGWINCH stops it".to_owned());
                }
                Change::Fewer => self.resize(self.target - 1, "SIGTTOU", now),
                Change::Resize { workers, .. } if workers == self.target => {}
                Change::Resize { workers, cause } => self.resize(workers, cause, now),
            }
        }
        self.recycle(now);
    }

    /// Sets how many workers are to serve. Surplus workers stop, and their idle clients go to the others.
    fn resize(&mut self, target: usize, cause: &str, now: Instant) {
        self.say(Level::Info, format!("{cause}: from {} to {target}", count(self.target, "worker")));
        self.target = target;
        self.retire(target, cause, now);
    }

    /// Returns how far a change to this many workers has come.
    pub(in super::super) fn scaled(&self, workers: usize) -> Scaled {
        // A change that is asked for later than the stop is never begun.
        if self.is_ending() {
            return Scaled::Stops;
        }
        if self.is_reloading() {
            return Scaled::Waits;
        }
        if self.target != workers {
            return Scaled::Superseded(self.target);
        }
        let missing = |number: &usize| self.serving(*number).is_none();
        match (1..=workers).filter(missing).find(|number| self.pauses.contains_key(number)) {
            Some(number) => Scaled::Fails(number),
            None if (1..=workers).any(|number| missing(&number)) => Scaled::Waits,
            None if workers == 0 && !self.workers.is_empty() => Scaled::Waits,
            None => Scaled::Done,
        }
    }

    /// Stops the workers whose numbers are above `target`.
    fn retire(&mut self, target: usize, cause: &str, now: Instant) {
        self.pauses.retain(|number, _| *number <= target);
        let surplus: Vec<usize> =
            self.workers.iter().filter(|worker| worker.number > target).map(|worker| worker.slot).collect();
        for slot in surplus {
            let stays = |worker: &&Worker| worker.number <= target && worker.stage == Stage::Serving;
            let to = self.workers.iter().filter(stays).map(|worker| worker.slot).collect();
            self.drain(slot, to, cause, now);
        }
    }

    fn begin_roll(&mut self, version: u64, target: usize, now: Instant) {
        if self.changes.iter().any(|change| matches!(change, Change::Reload { .. })) {
            // That one has newer settings, and tells how both went.
            return;
        }
        self.roll = Some(Roll { version, target, left: (1..=target).collect(), current: None });
        self.roll_on(now);
    }

    /// Starts the next worker of a reload if none is starting. Ends the reload if all numbers are done.
    fn roll_on(&mut self, now: Instant) {
        let Some(roll) = self.roll.as_mut().filter(|roll| roll.current.is_none()) else { return };
        let (version, target) = (roll.version, roll.target);
        if let Some(number) = roll.left.pop_front() {
            // A worker of this number may be starting with the old settings: it is not needed any more.
            let starting = |worker: &&Worker| worker.number == number && worker.stage == Stage::Starting;
            let starting: Vec<usize> = self.workers.iter().filter(starting).map(|worker| worker.slot).collect();
            for slot in starting {
                self.end_now(slot, "SIGHUP", now);
            }
            let replaces = self.serving(number);
            let slot = self.start(number, version, replaces, now);
            if let Some(roll) = &mut self.roll {
                roll.current = Some(slot);
            }
            return;
        }
        self.roll = None;
        self.version = version;
        self.target = target;
        self.retire(target, "SIGHUP", now);
        self.report_reload(version, Ok(()));
    }

    /// Returns whether a reload waits for the worker in this slot.
    pub(super) fn is_rolling(&self, slot: usize) -> bool {
        self.roll.as_ref().is_some_and(|roll| roll.current == Some(slot))
    }

    /// Makes a reload begin again after a restart of all workers, so that its settings are not lost.
    pub(super) fn put_roll_off(&mut self) {
        if let Some(Roll { version, target: workers, .. }) = self.roll.take() {
            self.changes.push_front(Change::Reload { version, workers });
        }
    }

    /// Ends a reload whose new worker did not come up.
    pub(super) fn end_roll(&mut self, reason: String, now: Instant) {
        if let Some(roll) = self.roll.take() {
            self.retire(self.target, "SIGHUP", now);
            self.report_reload(roll.version, Err(reason));
        }
    }

    /// Orders the report of how a reload went. An error is the reason.
    pub(super) fn report_reload(&mut self, version: u64, outcome: Result<(), String>) {
        let serving = self.workers.iter().filter(|worker| worker.stage == Stage::Serving);
        let (new, old): (Vec<_>, Vec<_>) = serving.partition(|worker| worker.version == version);
        let outcome = outcome.map_err(|reason| reload_failure(new.len(), old.len(), &reason));
        let leaves = |worker: &&Worker| matches!(worker.stage, Stage::Draining(_)) && !worker.has_left;
        let old = self.workers.iter().filter(leaves).map(|worker| worker.slot).collect();
        self.orders.push(Order::Reloaded { version, keeps: self.version, outcome, old });
    }

    /// Notes that the worker in slot `new` serves in the place of the one in slot `old`.
    pub(super) fn replaced(&mut self, old: usize, new: usize, now: Instant) {
        let is_reload = self.is_rolling(new);
        let cause = if is_reload { "SIGHUP" } else { "its replacement serves" };
        if let Some(worker) = self.worker(old) {
            worker.departure = if is_reload { Departure::Reload } else { worker.asks };
        }
        self.drain(old, vec![new], cause, now);
    }

    /// Notes that a worker of a reload serves: the reload goes on.
    pub(super) fn rolled(&mut self, slot: usize) {
        if let Some(roll) = self.roll.as_mut().filter(|roll| roll.current == Some(slot)) {
            roll.current = None;
            // The new settings have proved good: a worker that dies is replaced by one that has them.
            self.version = roll.version;
        }
    }

    /// Starts a replacement for the next worker that has asked for one, unless a replacement is starting.
    fn recycle(&mut self, now: Instant) {
        let is_replacing = |worker: &Worker| worker.replaces.is_some() && worker.stage == Stage::Starting;
        if self.roll.is_some() || self.workers.iter().any(is_replacing) {
            return;
        }
        let serving = self.workers.iter().filter(|worker| worker.stage == Stage::Serving);
        let serving: BTreeMap<usize, usize> = serving.map(|worker| (worker.slot, worker.number)).collect();
        self.recycling.retain(|(slot, _)| serving.contains_key(slot));
        let Some(index) = self.recycling.iter().position(|(slot, _)| !self.is_paused(serving[slot])) else { return };
        let Some((slot, reason)) = self.recycling.remove(index) else { return };
        if let Some(name) = self.worker(slot).map(|worker| worker.name()) {
            self.say(Level::Info, format!("{name} is replaced: {reason}"));
            self.start(serving[&slot], self.version, Some(slot), now);
        }
    }
}

/// Returns the sentence on a reload that has failed, after which this many workers serve with the new settings and with
/// the old ones.
pub(in super::super) fn reload_failure(new: usize, old: usize, reason: &str) -> String {
    if new == 0 {
        return format!("the reload has failed, and the old code serves: {reason}");
    }
    let (new, old) = (count(new, "worker"), if old == 0 { "none".to_owned() } else { count(old, "worker") });
    format!("the reload has failed halfway, with {new} of the new version and {old} of the old one: {reason}")
}
