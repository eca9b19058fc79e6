//! Which workers there are, which stage each is in, and what is to be done next.
//!
//! *Owns*: the plan of the supervisor. *Runs on*: the supervisor's thread. *Invariants*: no clock, no descriptor, no
//! process: events and the time come in, orders go out. At most one replacement starts at a time. A worker that serves
//! is told to stop only when another serves in its place, or when there are to be fewer.

mod clients;
mod ending;
mod failures;
mod renewal;
mod restart;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use log::Level;

use self::ending::Ending;
use self::failures::Pause;
pub(super) use self::failures::manner;
use self::renewal::{Change, Roll};
pub(super) use self::renewal::{Scaled, reload_failure};
use super::orders::{Event, Order};
use crate::metrics::Departure;
use crate::phrase::seconds;

/// After the limit of its stop, a worker has this long for the end of Python before it is killed.
const END_OF_PYTHON: Duration = Duration::from_secs(10);
/// After a second signal to stop, a worker has this long before it is killed.
const LAST_MOMENT: Duration = Duration::from_secs(4);
/// A worker that is told to abort has this long to write its stacks.
const ABORT: Duration = Duration::from_secs(2);

/// The limits of the times of a worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// `--worker-start-timeout`. Zero is no limit.
    pub(super) start: Duration,
    /// `--graceful-timeout`.
    pub(super) stop: Duration,
}

/// The workers, and what is to happen to them.
pub(super) struct Roster {
    limits: Limits,
    workers: Vec<Worker>,
    /// How many workers are to serve.
    target: usize,
    /// The settings that a new worker gets.
    version: u64,
    /// How often each number has been given to a worker.
    generations: BTreeMap<usize, u64>,
    /// The numbers whose workers have died young, or have not come up.
    pauses: BTreeMap<usize, Pause>,
    /// Whether a worker has ever served.
    has_served: bool,
    /// Whether the line with "listening" was ordered.
    is_announced: bool,
    /// `None` until the service ends.
    ending: Option<Ending>,
    roll: Option<Roll>,
    /// Changes that wait for the end of the current one.
    changes: VecDeque<Change>,
    /// Workers that have asked for a replacement: the slot, and the reason.
    recycling: VecDeque<(usize, String)>,
    orders: Vec<Order>,
}

/// A process that starts, serves or ends.
#[derive(Debug)]
struct Worker {
    slot: usize,
    number: usize,
    /// The version of its settings.
    version: u64,
    /// The process; 0 until it has been started.
    pid: u32,
    began: Instant,
    stage: Stage,
    has_served: bool,
    /// The slot of the worker whose place it takes once it is ready.
    replaces: Option<usize>,
    /// The slots of the workers that its idle clients go to, once it stops.
    receivers: Vec<usize>,
    /// Why it ends, if it is told to.
    departure: Departure,
    /// Why it has asked for a replacement, if it has.
    asks: Departure,
    /// Whether it stops, and has let go of its listeners and its idle clients.
    has_left: bool,
    /// Whether it stops, and all its receivers have ended.
    lacks_receiver: bool,
    /// The exit status and the reason that a worker has reported which cannot start.
    failure: Option<(u8, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Starting,
    Serving,
    /// It was told to stop, and is killed at this time.
    Draining(Instant),
    /// The same, and the next worker of its number starts only when it has ended (`--reload`).
    Restarting(Instant),
    /// It was too late for its stage, and is being ended. If there is a time, SIGKILL follows then.
    Late {
        was: Was,
        kill: Option<Instant>,
    },
}

/// The stage that a worker was too late for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Was {
    /// The sentence says so.
    Starting(String),
    Serving,
    Draining,
}

impl Worker {
    /// Returns its name for a sentence: `worker 2 (pid 4711)`.
    fn name(&self) -> String {
        match self.pid {
            0 => format!("worker {}", self.number),
            pid => format!("worker {} (pid {pid})", self.number),
        }
    }

    /// Returns whether no other worker may take its number: it starts, it serves, or it is being ended because it was
    /// too late for that.
    fn holds_place(&self) -> bool {
        match &self.stage {
            Stage::Starting | Stage::Serving | Stage::Restarting(_) => true,
            Stage::Draining(_) => false,
            Stage::Late { was, .. } => *was != Was::Draining,
        }
    }
}

impl Roster {
    /// Makes the plan of a service with this many workers.
    pub(super) fn new(workers: usize, limits: Limits) -> Self {
        Self {
            limits,
            workers: Vec::new(),
            target: workers,
            version: 0,
            generations: BTreeMap::new(),
            pauses: BTreeMap::new(),
            has_served: false,
            is_announced: false,
            ending: None,
            roll: None,
            changes: VecDeque::new(),
            recycling: VecDeque::new(),
            orders: Vec::new(),
        }
    }

    /// Returns how many workers are to serve.
    pub(super) fn target(&self) -> usize {
        self.target
    }

    /// Sets the limits of the workers' times, which a reload may have changed.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes an event, and returns what is to be done.
    pub(super) fn take(&mut self, event: Event, now: Instant) -> Vec<Order> {
        match event {
            Event::Started { slot, pid } => {
                if let Some(worker) = self.worker(slot) {
                    worker.pid = pid;
                }
            }
            Event::NotStarted { slot, reason } => self.not_started(slot, &reason, now),
            Event::Ready { slot } => self.ready(slot, now),
            Event::Failed { slot, exit, reason } => {
                if let Some(worker) = self.worker(slot) {
                    worker.failure = Some((exit, reason));
                }
            }
            Event::Replace { slot, cause, reason } => {
                if let Some(worker) = self.worker(slot) {
                    worker.asks = cause;
                }
                self.recycling.push_back((slot, reason));
            }
            Event::Left { slot } => {
                if let Some(worker) = self.worker(slot) {
                    worker.has_left = true;
                }
            }
            Event::Changed { slot, file } => self.restart(slot, &file, now),
            Event::Ended { slot, how, lost, cut } => self.ended(slot, how, &lost, cut, now),
            Event::Stuck { slot, reason } => self.stuck(slot, &reason, now),
            Event::Reload { version, workers } => self.changes.push_back(Change::Reload { version, workers }),
            Event::More => self.changes.push_back(Change::More),
            Event::Fewer => self.changes.push_back(Change::Fewer),
            Event::Resize { workers, cause } => self.changes.push_back(Change::Resize { workers, cause }),
            Event::Stop { cause } => self.stop(&cause, now),
            Event::Quit { cause } => self.quit(cause, now),
            Event::Succeeded => self.succeeded(now),
            Event::GiveAgain => self.give_away(),
            Event::SuccessorEnded => self.close_idle(),
            Event::Time => {}
        }
        self.enforce_limits(now);
        self.settle(now);
        std::mem::take(&mut self.orders)
    }

    /// Returns when `Event::Time` is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let limits = self.workers.iter().filter_map(|worker| self.limit_of(worker));
        limits.chain(self.pauses.values().filter_map(Pause::end)).min()
    }

    /// Returns when a worker has taken too long for its stage.
    fn limit_of(&self, worker: &Worker) -> Option<Instant> {
        match &worker.stage {
            Stage::Starting if self.limits.start.is_zero() => None,
            Stage::Starting => Some(worker.began + self.limits.start),
            Stage::Serving => None,
            Stage::Draining(end) | Stage::Restarting(end) => Some(*end),
            Stage::Late { kill, .. } => *kill,
        }
    }

    /// Ends the workers that have taken too long for their stages.
    fn enforce_limits(&mut self, now: Instant) {
        let is_late = |worker: &&Worker| self.limit_of(worker).is_some_and(|limit| limit <= now);
        let late: Vec<usize> = self.workers.iter().filter(is_late).map(|worker| worker.slot).collect();
        for slot in late {
            let limits = self.limits;
            let Some(worker) = self.worker(slot) else { continue };
            let name = worker.name();
            match worker.stage.clone() {
                Stage::Starting => {
                    let limit = seconds(limits.start);
                    let sentence = format!("{name} has not started within {limit} (--worker-start-timeout)");
                    worker.stage = Stage::Late { was: Was::Starting(sentence), kill: Some(now + ABORT) };
                    self.orders.push(Order::Abort { slot });
                }
                Stage::Draining(_) | Stage::Restarting(_) => {
                    worker.stage = Stage::Late { was: Was::Draining, kill: None };
                    self.say(Level::Warn, format!("{name} has not ended in time, and is killed"));
                    self.orders.push(Order::Kill { slot });
                }
                Stage::Late { was, .. } => {
                    worker.stage = Stage::Late { was, kill: None };
                    self.orders.push(Order::Kill { slot });
                }
                Stage::Serving => {}
            }
        }
    }

    fn worker(&mut self, slot: usize) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.slot == slot)
    }

    /// Returns the slot of the worker that serves with a number.
    fn serving(&self, number: usize) -> Option<usize> {
        let serves = |worker: &&Worker| worker.number == number && worker.stage == Stage::Serving;
        self.workers.iter().find(serves).map(|worker| worker.slot)
    }

    /// Orders the start of a worker. Returns its slot.
    fn start(&mut self, number: usize, version: u64, replaces: Option<usize>, now: Instant) -> usize {
        let is_free = |slot: &usize| self.workers.iter().all(|worker| worker.slot != *slot);
        let slot = (0..=self.workers.len()).find(is_free).unwrap_or_default();
        let generation = self.generations.entry(number).or_default();
        *generation += 1;
        self.orders.push(Order::Start { slot, number, generation: *generation, version });
        let (stage, began) = (Stage::Starting, now);
        self.workers.push(Worker {
            slot,
            number,
            version,
            pid: 0,
            began,
            stage,
            has_served: false,
            replaces,
            receivers: Vec::new(),
            departure: Departure::Stopped,
            asks: Departure::Recycled,
            has_left: false,
            lacks_receiver: false,
            failure: None,
        });
        slot
    }

    /// Orders a graceful stop of a worker, whose idle clients go to the workers in `to`.
    fn drain(&mut self, slot: usize, to: Vec<usize>, cause: &str, now: Instant) {
        let end = now + self.limits.stop + END_OF_PYTHON;
        let Some(worker) = self.worker(slot) else { return };
        let stage = std::mem::replace(&mut worker.stage, Stage::Draining(end));
        match stage {
            Stage::Starting => self.orders.push(Order::Terminate { slot }),
            Stage::Serving => {
                self.forward(slot, &to);
                self.hand_over(slot, to);
                self.orders.push(Order::Stop { slot, cause: cause.to_owned() });
            }
            Stage::Draining(_) | Stage::Restarting(_) | Stage::Late { .. } => worker.stage = stage,
        }
    }

    /// Returns whether a reload runs or waits for another change.
    pub(super) fn is_reloading(&self) -> bool {
        self.roll.is_some() || !self.changes.is_empty()
    }

    fn say(&mut self, level: Level, sentence: String) {
        self.orders.push(Order::Say(level, sentence));
    }

    /// Notes that a worker serves.
    fn ready(&mut self, slot: usize, now: Instant) {
        let Some(worker) = self.worker(slot).filter(|worker| worker.stage == Stage::Starting) else { return };
        worker.stage = Stage::Serving;
        worker.has_served = true;
        let (name, replaced) = (worker.name(), worker.replaces.take());
        self.has_served = true;
        // The line that says that the service listens names the first workers.
        let level = if self.is_announced { Level::Info } else { Level::Debug };
        self.say(level, format!("{name} serves"));
        self.receive_lost(slot);
        if let Some(old) = replaced {
            self.replaced(old, slot, now);
        }
        self.rolled(slot);
    }

    /// Orders what the number of workers demands.
    fn settle(&mut self, now: Instant) {
        if let Some(exit) = self.ending.as_ref().map(Ending::exit) {
            if self.workers.is_empty() {
                self.orders.push(Order::End(exit));
            }
            return;
        }
        self.end_pauses(now);
        if self.is_announced {
            self.renew(now);
        }
        for number in 1..=self.target {
            let has_one = self.workers.iter().any(|worker| worker.number == number && worker.holds_place());
            if !has_one && !self.is_paused(number) {
                self.start(number, self.version, None, now);
            }
        }
        let is_settled = |number| self.serving(number).is_some() || self.pauses.contains_key(&number);
        if !self.is_announced && self.has_served && (1..=self.target).all(is_settled) {
            self.is_announced = true;
            self.orders.push(Order::Announce);
        }
    }
}
