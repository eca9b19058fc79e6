//! The ends of workers that were not asked for, and the pauses before the next start.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use log::Level;
use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM};

use super::{ABORT, Roster, Stage, Was, Worker};
use crate::cli::Exit;
use crate::metrics::Departure;
use crate::phrase::seconds;
use crate::supervisor::orders::Order;

/// A worker that lives for less than this has died young.
const YOUNG: Duration = Duration::from_secs(10);
/// The pause before the replacement of a worker that has died young. It doubles with each further one.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause before a replacement.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// The pause of a number whose workers die young.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    /// How many workers have died young in a row.
    deaths: u32,
    /// The end of the pause. `None` once it is over.
    end: Option<Instant>,
}

impl Pause {
    /// Returns when the pause ends, if it is not over.
    pub(super) fn end(&self) -> Option<Instant> {
        self.end
    }
}

impl Roster {
    /// Notes that a process could not be started.
    pub(super) fn not_started(&mut self, slot: usize, reason: &str, now: Instant) {
        let Some(worker) = self.remove(slot) else { return };
        let sentence = format!("worker {} cannot be started: {reason}", worker.number);
        self.did_not_come_up(&worker, Exit::NotStarted, sentence, now);
    }

    /// Notes that a process has ended, which has cut off this many requests.
    pub(super) fn ended(&mut self, slot: usize, how: ExitStatus, lost: &str, cut: usize, now: Instant) {
        let Some(worker) = self.remove(slot) else { return };
        let name = worker.name();
        if let Some(ending) = &mut self.ending {
            ending.note(cut, worker.has_served && !how.success());
        }
        self.orders.push(Order::Count(departure(&worker, how)));
        match &worker.stage {
            Stage::Starting => {
                let (exit, sentence) = start_failure(&worker, how);
                self.did_not_come_up(&worker, exit, sentence, now);
            }
            Stage::Late { was: Was::Starting(sentence), .. } => {
                self.did_not_come_up(&worker, Exit::NotStarted, sentence.clone(), now);
            }
            Stage::Serving => {
                let pause = self.pause(&worker, now);
                self.say(Level::Error, format!("{name} has ended unexpectedly: {}{pause}{lost}", manner(how)));
            }
            Stage::Late { was: Was::Serving, .. } => {
                let pause = self.pause(&worker, now);
                self.say(Level::Error, format!("{name} has ended{pause}{lost}"));
            }
            Stage::Late { was: Was::Draining, .. } => self.say(Level::Error, format!("{name} has ended{lost}")),
            Stage::Restarting(_) => {}
            Stage::Draining(_) if how.success() => {
                // One line says so for all workers of a stop or of a reload.
                let is_one_of_all = self.ending.is_some() || worker.departure == Departure::Reload;
                self.say(if is_one_of_all { Level::Debug } else { Level::Info }, format!("{name} has ended"));
            }
            // A process that does not serve yet is told to end by SIGTERM, or by a terminal.
            Stage::Draining(_) if matches!(how.signal(), Some(SIGTERM | SIGINT)) => {}
            // It was no longer needed. What it failed at is in the log already.
            Stage::Draining(_) if !worker.has_served => self.say(Level::Debug, start_failure(&worker, how).1),
            Stage::Draining(_) => self.say(Level::Error, format!("{name} has failed to stop: {}{lost}", manner(how))),
        }
    }

    /// Ends a worker that does not respond.
    pub(super) fn stuck(&mut self, slot: usize, reason: &str, now: Instant) {
        let Some(worker) = self.worker(slot).filter(|worker| worker.stage == Stage::Serving) else { return };
        worker.stage = Stage::Late { was: Was::Serving, kill: Some(now + ABORT) };
        let name = worker.name();
        self.say(
            Level::Error,
            format!("{name} does not respond: {reason} (--worker-timeout); it writes its stacks, and is replaced"),
        );
        self.orders.push(Order::Abort { slot });
    }

    fn remove(&mut self, slot: usize) -> Option<Worker> {
        let index = self.workers.iter().position(|worker| worker.slot == slot)?;
        self.recycling.retain(|(recycled, _)| *recycled != slot);
        let worker = self.workers.remove(index);
        self.forget_receiver(slot);
        Some(worker)
    }

    /// Notes that a worker did not come up. If none ever has, that is the end of the service.
    fn did_not_come_up(&mut self, worker: &Worker, exit: Exit, sentence: String, now: Instant) {
        if self.ending.is_some() {
            return;
        }
        if !self.has_served {
            self.say(Level::Error, sentence);
            self.begin_end(exit, None, now);
            let slots: Vec<usize> = self.workers.iter().map(|worker| worker.slot).collect();
            for slot in slots {
                self.end_now(slot, "another worker cannot start", now);
            }
            return;
        }
        if self.is_rolling(worker.slot) {
            self.end_roll(sentence, now);
            return;
        }
        let pause = self.pause(worker, now);
        match worker.replaces.filter(|old| self.workers.iter().any(|worker| worker.slot == *old)) {
            Some(old) => {
                self.say(Level::Error, format!("{sentence}; the worker that it was to replace serves on{pause}"));
                self.recycling.push_back((old, "another try".to_owned()));
            }
            None => self.say(Level::Error, format!("{sentence}{pause}")),
        }
    }

    /// Sets the pause before the next start of a worker with this number. Returns the end of a sentence that says so.
    fn pause(&mut self, worker: &Worker, now: Instant) -> String {
        let has_served = matches!(worker.stage, Stage::Serving | Stage::Late { was: Was::Serving, .. });
        if has_served && now.saturating_duration_since(worker.began) >= YOUNG {
            self.pauses.remove(&worker.number);
            return String::new();
        }
        let deaths = self.pauses.get(&worker.number).map_or(0, |pause| pause.deaths) + 1;
        let length = BACK_OFF_MAX.min(BACK_OFF_MIN * 2_u32.saturating_pow(deaths - 1));
        self.pauses.insert(worker.number, Pause { deaths, end: Some(now + length) });
        format!("; the next one starts in {}", seconds(length))
    }

    /// Ends the pauses whose time is over. How many workers have died young is kept.
    pub(super) fn end_pauses(&mut self, now: Instant) {
        for pause in self.pauses.values_mut() {
            pause.end = pause.end.filter(|end| *end > now);
        }
    }

    /// Returns whether no worker with this number may be started yet.
    pub(super) fn is_paused(&self, number: usize) -> bool {
        self.pauses.get(&number).is_some_and(|pause| pause.end.is_some())
    }
}

/// Returns why a worker has ended.
fn departure(worker: &Worker, how: ExitStatus) -> Departure {
    match &worker.stage {
        Stage::Starting | Stage::Late { was: Was::Starting(_), .. } => Departure::Start,
        Stage::Serving if how.signal().is_some() => Departure::Signal,
        Stage::Serving => Departure::Exit,
        Stage::Late { was: Was::Serving, .. } => Departure::Stuck,
        Stage::Late { was: Was::Draining, .. } => Departure::Killed,
        Stage::Restarting(_) => Departure::Reload,
        Stage::Draining(_) => worker.departure,
    }
}

/// Returns the exit status of the service, and the sentence, for a worker that has ended before it served.
fn start_failure(worker: &Worker, how: ExitStatus) -> (Exit, String) {
    let name = worker.name();
    if let Some((exit, reason)) = &worker.failure {
        let exit = if *exit == Exit::NotImportable as u8 { Exit::NotImportable } else { Exit::NotStarted };
        return (exit, format!("{name} cannot start: {reason}"));
    }
    // The kernel kills a process when memory runs out. Anything else is the application's.
    let exit = if how.signal() == Some(SIGKILL) { Exit::NotStarted } else { Exit::NotImportable };
    (exit, format!("{name} has ended before it served: {}", manner(how)))
}

/// Returns a phrase for the way in which a process has ended: `signal SIGSEGV`, `exit status 3`.
pub(in super::super) fn manner(how: ExitStatus) -> String {
    match (how.signal(), how.code()) {
        (Some(signal), _) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("signal {name}"),
            None => format!("signal {signal}"),
        },
        (None, code) => format!("exit status {}", code.unwrap_or_default()),
    }
}
