//! The processes of the workers: starting them, talking to them, reaping them.
//!
//! *Owns*: the links, the scoreboard and the settings. *Runs on*: the supervisor's thread. *Invariants*: a link never
//! makes the supervisor wait. If a worker does not read its link, a signal tells it to stop.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use signal_hook::consts::{SIGKILL, SIGQUIT, SIGTERM, SIGUSR1};

use super::look::{self, Looks};
use super::orders::Event;
use super::settings::Settings;
use crate::config::Config;
use crate::link::{self, Command, Link, Start};
use crate::listener::Listener;
use crate::phrase::count;
use crate::scoreboard::{Balance, SLOTS, Scoreboard, State, Transfer};
use crate::sys::{self, Channel, Program};

/// The processes of a service.
pub(super) struct Fleet {
    program: Program,
    scoreboard: Scoreboard,
    /// The settings by their versions.
    settings: BTreeMap<u64, Settings>,
    /// The processes by their slots.
    processes: BTreeMap<usize, Process>,
    looks: Looks,
    balance: Balance,
    /// When the service started, in microseconds since 1970.
    started_us: u64,
    /// The interpreter of the workers, as the first worker that served has named it.
    python: String,
}

/// A worker's process.
struct Process {
    pid: u32,
    /// `None` once the worker has closed its end.
    link: Option<Link>,
}

impl Fleet {
    /// Makes a fleet without processes.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn new(program: Program, settings: Settings) -> anyhow::Result<Self> {
        let scoreboard = Scoreboard::create().context("cannot make the memory that the workers share")?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let started_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        let (settings, processes) = (BTreeMap::from([(0, settings)]), BTreeMap::new());
        let looks = Looks::begin(Instant::now());
        let balance = Balance::default();
        Ok(Self { program, scoreboard, settings, processes, looks, balance, started_us, python: String::new() })
    }

    /// Returns the program that a worker is started with.
    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// Returns the settings that the service has now.
    pub(super) fn current(&self) -> &Settings {
        self.settings.values().next().expect("a service has settings")
    }

    /// Starts a process. Returns how that went.
    pub(super) fn start(&mut self, slot: usize, number: usize, generation: u64, version: u64) -> Event {
        match self.try_start(slot, number, generation, version) {
            Ok(process) => {
                let pid = process.pid;
                self.processes.insert(slot, process);
                Event::Started { slot, pid }
            }
            Err(error) => Event::NotStarted { slot, reason: sys::plain(&error) },
        }
    }

    fn try_start(&self, slot: usize, number: usize, generation: u64, version: u64) -> io::Result<Process> {
        if slot >= SLOTS {
            return Err(io::Error::other(format!("{SLOTS} workers have not ended yet")));
        }
        let settings = self.settings.get(&version).unwrap_or_else(|| self.current());
        let start = Start {
            number,
            workers: settings.workers(),
            slot,
            generation,
            words: settings.words.clone(),
            service_started_us: self.started_us,
            supervisor: std::process::id(),
            ..Start::default()
        };
        let (ours, theirs) = Link::pair()?;
        ours.channel().set_nonblocking(true)?;
        let descriptors: Vec<BorrowedFd<'_>> =
            [self.scoreboard.as_fd()].into_iter().chain(settings.listeners().map(Listener::as_fd)).collect();
        // The message waits in the link until the process reads it.
        ours.send(&Command::Start(start), &descriptors)?;
        let pid = self.program.start(link::VARIABLE, theirs.channel().as_fd())?;
        Ok(Process { pid, link: Some(ours) })
    }

    /// Returns the descriptors of the links that are open.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.processes.values().filter_map(|process| process.link.as_ref()).map(|link| link.channel().as_fd())
    }

    /// Receives the messages of the links that are `ready`, in the order of `descriptors`.
    pub(super) fn receive(&mut self, ready: &[bool]) -> Vec<Event> {
        let open = self.processes.iter().filter(|(_, process)| process.link.is_some()).map(|(slot, _)| *slot);
        let slots: Vec<usize> = open.zip(ready).filter(|(_, is_ready)| **is_ready).map(|(slot, _)| slot).collect();
        slots.into_iter().flat_map(|slot| self.receive_from(slot)).collect()
    }

    /// Receives all messages that a worker has sent.
    fn receive_from(&mut self, slot: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let Some(process) = self.processes.get_mut(&slot) else { return events };
        while let Some(link) = &process.link {
            match link.receive::<link::Event>() {
                Ok(Some((Some(link::Event::Ready { python }), _))) => {
                    self.python = python;
                    events.push(Event::Ready { slot });
                }
                Ok(Some((Some(link::Event::Failed { exit, reason }), _))) => {
                    events.push(Event::Failed { slot, exit, reason });
                }
                Ok(Some((Some(link::Event::Replace { reason }), _))) => events.push(Event::Replace { slot, reason }),
                Ok(Some((Some(link::Event::Changed { file }), _))) => events.push(Event::Changed { slot, file }),
                Ok(Some((Some(link::Event::Given { moved, closed }), _))) => {
                    let (moved, pid) = (count(moved, "connection"), process.pid);
                    log::info!("pid {pid} has handed over {moved}, and closed {closed} that could not move");
                }
                // A later version sends it, or a template.
                Ok(Some(_)) => {}
                Ok(None) => process.link = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    log::error!("the link of pid {} cannot be read: {}", process.pid, sys::plain(&error));
                    process.link = None;
                }
            }
        }
        events
    }

    /// Reaps all processes that have ended. Returns the last messages and the ends of the workers among them.
    pub(super) fn reap(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some((pid, how)) = sys::reap(None) {
            let Some(slot) = self.processes.iter().find(|(_, process)| process.pid == pid).map(|(slot, _)| *slot)
            else {
                continue;
            };
            events.extend(self.receive_from(slot));
            self.processes.remove(&slot);
            events.push(Event::Ended { slot, how, lost: self.lost(slot, how) });
            self.scoreboard.slot(slot).leave();
        }
        events
    }

    /// Returns the end of a sentence for a worker that has ended: why, if the kernel killed it, and what was inside.
    fn lost(&mut self, slot: usize, how: ExitStatus) -> String {
        let slot = self.scoreboard.slot(slot);
        if how.success() || slot.state() == State::Empty {
            return String::new();
        }
        let memory = how.signal() == Some(SIGKILL) && self.looks.memory_ran_out();
        let memory = if memory { "; the memory of the control group ran out" } else { "" };
        format!("{memory}{}", look::requests_lost(&slot.requests_inside()))
    }

    /// Returns whether a worker that was told to stop has let go of its listeners and of its idle clients, or has ended.
    pub(super) fn has_left(&self, slot: usize) -> bool {
        let slot = self.scoreboard.slot(slot);
        slot.state() != State::Serving && slot.connections() <= slot.requests()
    }

    /// Returns the workers that do not respond, if it is time to look. Idle clients of a worker that is far busier than
    /// the others begin to move then.
    pub(super) fn look(&mut self, now: Instant) -> Vec<Event> {
        if now >= self.looks.next() {
            for transfer in self.balance.look(&self.scoreboard) {
                self.transfer(&transfer);
            }
        }
        let limit = self.current().config.processes.worker_timeout;
        let slots: Vec<_> = self.processes.keys().map(|slot| self.scoreboard.slot(*slot)).collect();
        let stuck = self.looks.look(slots.into_iter(), limit, now);
        stuck.into_iter().map(|(slot, reason)| Event::Stuck { slot, reason }).collect()
    }

    /// Returns when it is time to look again.
    pub(super) fn next_look(&self) -> Instant {
        self.looks.next()
    }

    /// Sends a command. Returns whether it is on its way.
    fn send(&self, slot: usize, command: &Command, descriptors: &[BorrowedFd<'_>]) -> bool {
        let link = self.processes.get(&slot).and_then(|process| process.link.as_ref());
        link.is_some_and(|link| link.send(command, descriptors).is_ok())
    }

    /// Tells a worker to stop gracefully.
    pub(super) fn stop(&self, slot: usize, cause: String) {
        if !self.send(slot, &Command::Stop { cause }, &[]) {
            self.signal(slot, SIGTERM);
        }
    }

    /// Tells a worker to end at once.
    pub(super) fn stop_now(&self, slot: usize, cause: String) {
        if !self.send(slot, &Command::StopNow { cause }, &[]) {
            self.signal(slot, SIGKILL);
        }
    }

    /// Tells every worker to write what it does to the log.
    pub(super) fn report(&self, cause: &str) {
        for slot in self.processes.keys() {
            if !self.send(*slot, &Command::Report { cause: cause.to_owned() }, &[]) {
                self.signal(*slot, SIGQUIT);
            }
        }
    }

    /// Sends a signal to a worker's process.
    pub(super) fn signal(&self, slot: usize, signal: i32) {
        if let Some(process) = self.processes.get(&slot) {
            sys::send_signal(process.pid, signal);
        }
    }

    /// Lets the idle clients of a worker go to others, in turn, while it stops.
    pub(super) fn hand_over(&self, from: usize, to: &[usize]) {
        if let Some(error) = to.iter().find_map(|receiver| self.connect(from, *receiver, None).err()) {
            log::warn!("not every worker gets clients of the one that stops: {}", sys::plain(&error));
        }
    }

    /// Tells every worker to open its log files again.
    pub(super) fn reopen_logs(&self) {
        for slot in self.processes.keys() {
            if !self.send(*slot, &Command::ReopenLogs, &[]) {
                self.signal(*slot, SIGUSR1);
            }
        }
    }

    /// Lets some idle clients of a busy worker go to another one.
    fn transfer(&self, transfer: &Transfer) {
        let Transfer { from, to, count: most } = *transfer;
        let number = |slot| self.scoreboard.slot(slot).number();
        let clients = count(most, "idle client");
        log::info!("worker {} is busier than worker {}: at most {clients} move", number(from), number(to));
        if let Err(error) = self.connect(from, to, Some(most)) {
            log::warn!("no client moves: {}", sys::plain(&error));
        }
    }

    /// Makes one worker hand idle clients over to another.
    fn connect(&self, from: usize, to: usize, count: Option<usize>) -> io::Result<()> {
        let (gives, takes) = Channel::pair()?;
        let sent = self.send(to, &Command::Take, &[takes.as_fd()])
            && self.send(from, &Command::Give { count }, &[gives.as_fd()]);
        if sent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    /// Logs that the service serves.
    pub(super) fn announce(&self) {
        let settings = self.current();
        let addresses: Vec<_> = settings.listeners().map(|listener| listener.address().to_string()).collect();
        log::info!(
            "maypole {} ({}), pid {}, listening on {}, pool size {}, {}",
            env!("CARGO_PKG_VERSION"),
            self.python,
            std::process::id(),
            addresses.join(", "),
            settings.config.pool_size,
            count(settings.workers(), "worker"),
        );
    }

    /// Completes no more connections, so that a client that connects now is not lost.
    pub(super) fn close_listeners(&self) {
        for settings in self.settings.values() {
            for listener in settings.listeners() {
                if let Err(error) = sys::complete_no_more(listener) {
                    log::warn!("clients that connect at this very moment may be lost: {}", sys::plain(&error));
                }
            }
        }
    }

    /// Adds the settings of a reload. Returns their version.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub(super) fn add(&mut self, config: Config) -> anyhow::Result<u64> {
        let (latest, before) = self.settings.last_key_value().expect("a service has settings");
        let (version, settings) = (latest + 1, Settings::bind(config, Some(before))?);
        self.settings.insert(version, settings);
        Ok(version)
    }

    /// Drops the settings that no further worker starts with, once the reload to `version` is over: all but `keeps` and
    /// those of later reloads. Returns the settings that the service has now.
    pub(super) fn reloaded(&mut self, version: u64, keeps: u64) -> &Settings {
        self.settings.retain(|known, _| *known == keeps || *known > version);
        self.current()
    }
}
