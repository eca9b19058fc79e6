//! The processes of the workers: starting them, talking to them, reaping them.
//!
//! *Owns*: the links, the scoreboard and the settings. *Runs on*: the supervisor's thread. *Invariants*: a link never
//! makes the supervisor wait. If a worker does not read its link, a signal tells it to stop.

mod files;
mod hooks;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::ptr;
use std::time::Instant;

use anyhow::Context as _;
use log::LevelFilter;
use signal_hook::consts::{SIGKILL, SIGQUIT, SIGTERM, SIGUSR1};

use self::files::SettingsFiles;
use self::hooks::HookProcess;
use super::look::{self, Looks};
use super::orders::Event;
use super::process::Process;
use super::settings::{Bound, Settings};
use super::succession::Successor;
use super::templates::{End, News, Templates};
use crate::config::{Config, level_name};
use crate::link::{self, Command, HookCall, Start};
use crate::listener::Listener;
use crate::logs;
use crate::metrics::Departure;
use crate::phrase::count;
use crate::scoreboard::{Balance, SLOTS, Scoreboard, State, Transfer};
use crate::sys::{self, Channel, Program};
use crate::systemd::Condition;
use crate::tls::Seed;

/// The processes of a service.
pub(super) struct Fleet {
    program: Program,
    scoreboard: Scoreboard,
    /// The settings by their versions.
    settings: BTreeMap<u64, Settings>,
    /// The processes by their slots.
    processes: BTreeMap<usize, Process>,
    templates: Templates,
    hooks: Option<HookProcess>,
    /// Why the process of the hooks has ended, until that is logged.
    hooks_failed: Option<String>,
    settings_files: SettingsFiles,
    /// Whether the first workers may start.
    has_started: bool,
    is_ending: bool,
    /// How many workers are to serve.
    workers: usize,
    /// The level of the log that an operator has asked for, until a reload.
    log_level: Option<LevelFilter>,
    looks: Looks,
    balance: Balance,
    /// When the service started, in microseconds since 1970.
    started_us: u64,
    /// What the keys of the workers' tickets are derived from.
    seed: Seed,
    /// The interpreter of the workers, as the first worker that served has named it.
    python: String,
}

impl Fleet {
    /// Makes a fleet without processes, or with the template that a Python program has forked.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn new(
        program: Program,
        settings: Settings,
        template: Option<Process>,
        seed: Seed,
    ) -> anyhow::Result<Self> {
        let scoreboard = Scoreboard::create().context("cannot make the memory that the workers share")?;
        let (settings, processes) = (BTreeMap::from([(0, settings)]), BTreeMap::new());
        let (looks, balance) = (Looks::begin(Instant::now()), Balance::default());
        let workers = settings.values().map(Settings::workers).sum();
        let mut fleet = Self {
            program,
            scoreboard,
            settings,
            processes,
            templates: Templates::default(),
            hooks: None,
            hooks_failed: None,
            settings_files: SettingsFiles::default(),
            has_started: false,
            is_ending: false,
            workers,
            log_level: None,
            looks,
            balance,
            started_us: sys::unix_micros(),
            seed,
            python: String::new(),
        };
        fleet.read_settings();
        if let Some(template) = template {
            let start = Start { is_template: true, ..fleet.place(fleet.current(), 0, 0, 0) };
            template.try_send(&Command::Start(start), &[fleet.scoreboard.as_fd()]).context("the program's template")?;
            fleet.templates = Templates::of_program(template);
        }
        Ok(fleet)
    }

    /// Returns whether the supervisor runs in a Python program.
    pub(super) fn is_hosted(&self) -> bool {
        self.templates.is_of_program()
    }

    /// Returns the program that a worker is started with.
    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// Returns what the keys of the workers' tickets are derived from.
    pub(super) fn seed(&self) -> &Seed {
        &self.seed
    }

    /// Returns what the processes show.
    pub(super) fn scoreboard(&self) -> &Scoreboard {
        &self.scoreboard
    }

    /// Returns the settings that the service has now.
    pub(super) fn current(&self) -> &Settings {
        self.settings.values().next().expect("a service has settings")
    }

    fn current_version(&self) -> u64 {
        *self.settings.keys().next().expect("a service has settings")
    }

    /// Starts a process. Returns how that went, unless a template is to fork the process.
    pub(super) fn start(&mut self, slot: usize, number: usize, generation: u64, version: u64) -> Option<Event> {
        match self.try_start(slot, number, generation, version) {
            Ok(process) => {
                let pid = process.pid;
                self.processes.insert(slot, process);
                pid.map(|pid| Event::Started { slot, pid })
            }
            Err(error) => Some(Event::NotStarted { slot, reason: sys::plain(&error) }),
        }
    }

    fn try_start(&mut self, slot: usize, number: usize, generation: u64, version: u64) -> io::Result<Process> {
        if slot >= SLOTS {
            return Err(io::Error::other(format!("{SLOTS} workers have not ended yet")));
        }
        let version = if self.settings.contains_key(&version) { version } else { self.current_version() };
        let settings = &self.settings[&version];
        if self.is_hosted() || settings.config.processes.preload {
            self.start_template(version)?;
            if self.is_hosted() {
                self.call_hook("pre_fork", HookCall { number, generation, ..HookCall::default() });
            }
            let (process, link) = Process::unborn()?;
            self.templates.fork(version, slot, number, generation, link);
            return Ok(process);
        }
        self.call_hook("pre_fork", HookCall { number, generation, ..HookCall::default() });
        let start = self.place(settings, slot, number, generation);
        Process::start(&self.program, start, &self.descriptors_of(settings))
    }

    /// Starts the template of these settings, if there is none.
    fn start_template(&mut self, version: u64) -> io::Result<()> {
        if !self.templates.has(version) {
            if self.is_hosted() {
                return Err(io::Error::other("the template has ended: restart the program"));
            }
            let settings = &self.settings[&version];
            let start = Start { is_template: true, ..self.place(settings, 0, 0, 0) };
            let process = Process::start(&self.program, start, &[self.scoreboard.as_fd()])?;
            self.templates.add(version, process);
        }
        Ok(())
    }

    /// Returns the place of a worker with these settings.
    fn place(&self, settings: &Settings, slot: usize, number: usize, generation: u64) -> Start {
        // New settings name a level of their own.
        let log_level = self.log_level.filter(|_| ptr::eq(settings, self.current()));
        Start {
            number,
            workers: settings.workers(),
            slot,
            generation,
            words: settings.words.clone(),
            tls: settings.tls(),
            ticket_seed: self.seed.as_bytes().to_vec(),
            settings_files: if number == 1 { settings.file_words() } else { Vec::new() },
            service_started_us: self.started_us,
            supervisor: std::process::id(),
            log_level: log_level.map(|level| level_name(level).to_owned()),
            ..Start::default()
        }
    }

    /// Returns the descriptors that a worker gets: the scoreboard and the listening sockets.
    fn descriptors_of<'a>(&'a self, settings: &'a Settings) -> Vec<BorrowedFd<'a>> {
        [self.scoreboard.as_fd()].into_iter().chain(settings.listeners().map(Listener::as_fd)).collect()
    }

    /// Returns the descriptors of the links that are open.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let hooks = self.hooks.as_ref().and_then(HookProcess::descriptor);
        self.processes.values().filter_map(Process::descriptor).chain(self.templates.descriptors()).chain(hooks)
    }

    /// Receives the messages of the links that are `ready`, in the order of `descriptors`.
    pub(super) fn receive(&mut self, ready: &[bool]) -> Vec<Event> {
        let open = self.processes.iter().filter(|(_, process)| process.descriptor().is_some()).map(|(slot, _)| *slot);
        let open: Vec<usize> = open.collect();
        // The process of the hooks is looked at after each wait.
        let (of_workers, of_templates) = ready.split_at(open.len());
        let slots = open.into_iter().zip(of_workers).filter(|(_, is_ready)| **is_ready);
        let mut events: Vec<Event> = slots.flat_map(|(slot, _)| self.receive_from(slot)).collect();
        if of_templates.contains(&true) {
            events.extend(self.receive_from_templates());
        }
        events
    }

    /// Returns a file of the settings that has changed since the last call.
    pub(super) fn take_changed_settings(&mut self) -> Option<String> {
        self.settings_files.take_changed()
    }

    /// Notes that the settings are read now.
    pub(super) fn read_settings(&mut self) {
        self.settings_files.read(self.current().files());
    }

    /// Receives all messages that a worker has sent.
    fn receive_from(&mut self, slot: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let Some(process) = self.processes.get_mut(&slot) else { return events };
        for event in process.receive() {
            match event {
                link::Event::Ready { python } => {
                    self.python = python;
                    self.settings_files.look();
                    events.push(Event::Ready { slot });
                }
                link::Event::Failed { exit, reason } => events.push(Event::Failed { slot, exit, reason }),
                link::Event::Replace { reason, cause } => {
                    events.push(Event::Replace { slot, cause: Departure::asked(&cause), reason });
                }
                link::Event::Left => events.push(Event::Left { slot }),
                link::Event::Changed { file, is_of_settings: true } => self.settings_files.reported(file),
                link::Event::Changed { file, .. } => events.push(Event::Changed { slot, file }),
                link::Event::Given { moved, closed, stayed } => {
                    let (moved, pid) = (count(moved, "connection"), process.pid.unwrap_or_default());
                    let rest = if stayed > 0 { format!("kept {stayed}") } else { format!("closed {closed}") };
                    log::info!("pid {pid} has handed over {moved}, and {rest} that could not move");
                }
                // A template sends them.
                link::Event::Forked { .. } | link::Event::NotForked { .. } => {}
            }
        }
        events
    }

    /// Receives what the templates have said, and gives the workers that they have forked their places.
    fn receive_from_templates(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for news in self.templates.receive() {
            events.push(match news {
                News::Forked { slot, pid, number, generation, version } => {
                    let settings = self.settings.get(&version).unwrap_or_else(|| self.current());
                    let start = Command::Start(self.place(settings, slot, number, generation));
                    let descriptors = self.descriptors_of(settings);
                    // If the worker has ended, it is reaped.
                    self.processes.get(&slot).map(|process| process.send(&start, &descriptors));
                    if let Some(process) = self.processes.get_mut(&slot) {
                        process.pid = Some(pid);
                    }
                    Event::Started { slot, pid }
                }
                News::NotForked { slot, reason } => {
                    self.processes.remove(&slot);
                    Event::NotStarted { slot, reason }
                }
                News::Failed { slot, exit, reason } => Event::Failed { slot, exit, reason },
            });
        }
        events
    }

    /// Reaps all processes that have ended. Returns the last messages and the ends of the workers among them.
    pub(super) fn reap(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some((pid, how)) = self.ended() {
            // The process may be a worker whose template has just said so.
            events.extend(self.receive_from_templates());
            if let Some(end) = self.templates.ended(pid, how) {
                events.extend(self.template_ended(end, how));
                continue;
            }
            if self.hooks_ended(pid, how) {
                continue;
            }
            let is_it = |process: &Process| process.pid == Some(pid);
            let Some(slot) = self.processes.iter().find(|(_, process)| is_it(process)).map(|(slot, _)| *slot) else {
                continue;
            };
            events.extend(self.receive_from(slot));
            self.processes.remove(&slot);
            let (number, generation) = (self.scoreboard.slot(slot).number(), self.scoreboard.slot(slot).generation());
            self.call_hook("child_exit", HookCall { pid, number, generation, ..HookCall::default() });
            events.push(Event::Ended { slot, how, lost: self.lost(slot, how), cut: self.scoreboard.slot(slot).cut() });
            self.scoreboard.slot(slot).leave();
        }
        events
    }

    /// Reaps a process that has ended. In a Python program it is one of the service's: the program reaps its own children.
    fn ended(&self) -> Option<(u32, ExitStatus)> {
        if !self.is_hosted() {
            return sys::reap();
        }
        let workers = self.processes.values().filter_map(|process| process.pid);
        let hooks = self.hooks.as_ref().and_then(HookProcess::pid);
        workers.chain(self.templates.pids()).chain(hooks).find_map(|pid| {
            let Ok(how) = sys::reap_one(pid) else {
                log::warn!("the program has reaped pid {pid}, a process of the service: its exit status is unknown");
                return Some((pid, ExitStatus::default()));
            };
            how.map(|how| (pid, how))
        })
    }

    /// Notes that a template has ended, and with it the workers that have waited for it.
    fn template_ended(&mut self, end: End, how: ExitStatus) -> Vec<Event> {
        for slot in &end.slots {
            self.processes.remove(slot);
        }
        if end.again
            && self.settings.contains_key(&end.version)
            && let Err(error) = self.start_template(end.version)
        {
            log::error!("the template cannot be started: {}", sys::plain(&error));
        }
        end.slots.into_iter().map(|slot| Event::Ended { slot, how, lost: String::new(), cut: 0 }).collect()
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

    /// Returns what systemd is told of the service. `wanted` is how many workers are to serve.
    pub(super) fn condition(&self, wanted: usize) -> Condition {
        let slots = self.processes.keys().map(|slot| self.scoreboard.slot(*slot));
        look::condition(&slots.collect::<Vec<_>>(), wanted)
    }

    /// Sends a command. Returns whether it is on its way.
    fn send(&self, slot: usize, command: &Command, descriptors: &[BorrowedFd<'_>]) -> bool {
        self.processes.get(&slot).is_some_and(|process| process.send(command, descriptors))
    }

    /// Tells a worker to stop gracefully.
    pub(super) fn stop(&self, slot: usize, cause: String) {
        if !self.send(slot, &Command::Stop { cause }, &[]) {
            self.signal(slot, SIGTERM);
        }
    }

    /// Tells a worker that stops that no other process receives its clients.
    pub(super) fn close_idle(&self, slot: usize) {
        // If the message does not arrive, the end of the stop closes them.
        self.send(slot, &Command::CloseIdle, &[]);
    }

    /// Tells a worker to end at once.
    pub(super) fn stop_now(&self, slot: usize, cause: String) {
        if !self.send(slot, &Command::StopNow { cause }, &[]) {
            self.signal(slot, SIGKILL);
        }
    }

    /// Tells every process to write what it does to the log.
    pub(super) fn report(&self, cause: &str) {
        let report = Command::Report { cause: cause.to_owned() };
        for slot in self.processes.keys() {
            if !self.send(*slot, &report, &[]) {
                self.signal(*slot, SIGQUIT);
            }
        }
        self.templates.tell_all(&report);
        self.hooks.iter().for_each(|hooks| hooks.tell(&report));
    }

    /// Sends a signal to a worker's process, or to the template that is still to fork it.
    pub(super) fn signal(&self, slot: usize, signal: i32) {
        if !self.templates.signal(slot, signal)
            && let Some(process) = self.processes.get(&slot)
        {
            process.signal(signal);
        }
    }

    /// Lets the idle clients of a worker go to others, in turn, while it stops.
    pub(super) fn hand_over(&self, from: usize, to: &[usize]) {
        for receiver in to {
            // A receiver that has just died must not keep the others from being connected.
            if let Err(error) = self.connect(from, *receiver, None) {
                log::warn!("some workers cannot get clients of the worker that stops: {}", sys::plain(&error));
            }
        }
    }

    /// Lets the idle clients of a worker that stops next go to the new supervisor.
    pub(super) fn give_away(&self, from: usize, successor: &Successor) {
        let pair = Channel::pair();
        let sent = pair.is_ok_and(|(gives, takes)| {
            successor.give(takes.as_fd()) && self.send(from, &Command::Give { count: None }, &[gives.as_fd()])
        });
        if !sent {
            log::warn!("idle clients cannot be handed over to the new supervisor: their connections are closed");
        }
    }

    /// Returns the slots of the workers that serve.
    pub(super) fn serving(&self) -> impl Iterator<Item = usize> + Clone {
        let serves = |slot: &&usize| self.scoreboard.slot(**slot).state() == State::Serving;
        self.processes.keys().filter(serves).copied()
    }

    /// Lets workers take the clients that come on these channels: the workers that serve, in turn. Returns their slots.
    pub(super) fn take(&self, channels: Vec<OwnedFd>) -> Vec<usize> {
        let taken = channels.into_iter().zip(self.serving().cycle());
        taken
            .filter(|(channel, slot)| self.send(*slot, &Command::Take, &[channel.as_fd()]))
            .map(|(_, slot)| slot)
            .collect()
    }

    /// Leaves the sockets, with their files, to the new supervisor.
    pub(super) fn leave_sockets(&mut self) {
        // The process ends soon, which closes the descriptors.
        std::mem::forget(std::mem::take(&mut self.settings));
    }

    /// Tells every worker to open its log files again.
    pub(super) fn reopen_logs(&self) {
        for slot in self.processes.keys() {
            if !self.send(*slot, &Command::ReopenLogs, &[]) {
                self.signal(*slot, SIGUSR1);
            }
        }
        self.templates.tell_all(&Command::ReopenLogs);
        self.hooks.iter().for_each(|hooks| hooks.tell(&Command::ReopenLogs));
    }

    /// Makes every worker log lines up to this level, also workers that are still to start.
    pub(super) fn set_log_level(&mut self, level: LevelFilter) {
        self.log_level = Some(level);
        let command = Command::LogLevel { level: level_name(level).to_owned() };
        for slot in self.processes.keys() {
            self.send(*slot, &command, &[]);
        }
    }

    /// Lets some idle clients of a busy worker go to another one.
    fn transfer(&self, transfer: &Transfer) {
        let Transfer { from, to, count: most } = *transfer;
        let number = |slot| self.scoreboard.slot(slot).number();
        let clients = count(most, "idle client");
        log::info!("worker {} is busier than worker {}: at most {clients} move there", number(from), number(to));
        if let Err(error) = self.connect(from, to, Some(most)) {
            log::warn!("idle clients cannot move to another worker: {}", sys::plain(&error));
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
        let addresses = settings.urls();
        log::info!(
            "maypole {} ({}), pid {}, listening on {}, pool size {}, {}{}",
            env!("CARGO_PKG_VERSION"),
            self.python,
            std::process::id(),
            addresses.join(", "),
            settings.config.pool_size,
            look::workers(self.scoreboard.slots(), settings.workers()),
            self.templates.first().map(|pid| format!(", forked by the template (pid {pid})")).unwrap_or_default(),
        );
    }

    /// Completes no more connections, so that a client that connects now is not lost.
    pub(super) fn close_listeners(&self) {
        self.settings.values().flat_map(Settings::listeners).for_each(complete_no_more);
    }

    /// Lets the workers accept the clients in the queues of the addresses that only `over` has. These are closed next.
    /// All workers get the sockets, because one that shows that it serves may be about to stop.
    fn pass_queues(&self, over: &Settings) {
        let is_kept = |bound: &&Bound| self.settings.values().any(|kept| kept.has(bound));
        let serves = |slot: &&usize| self.scoreboard.slot(**slot).state() == State::Serving;
        for bound in over.bound().iter().filter(|bound| !is_kept(bound)) {
            for listener in bound.listeners.iter() {
                complete_no_more(listener);
                for slot in self.processes.keys().filter(serves) {
                    self.send(*slot, &Command::AcceptRest { is_tls: bound.is_tls }, &[listener.as_fd()]);
                }
            }
        }
    }

    /// Adds the settings of a reload. Returns their version, and the settings.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub(super) fn add(&mut self, config: Config) -> anyhow::Result<(u64, &Settings)> {
        let (latest, before) = self.settings.last_key_value().expect("a service has settings");
        let (version, settings) = (latest + 1, Settings::bind(config, before.bound(), before.shown())?);
        self.settings_files.replace(settings.files());
        Ok((version, self.settings.entry(version).or_insert(settings)))
    }

    /// Drops the settings that no further worker starts with, once the reload to `version` is over: all but `keeps` and
    /// those of later reloads. Returns the settings that the service has now.
    pub(super) fn reloaded(&mut self, version: u64, keeps: u64) -> &Settings {
        let before = self.current().config.clone();
        if keeps != self.current_version() && self.log_level.take().is_some() {
            // The level of the settings holds again.
            if let Err(error) = logs::set_level(before.log_level) {
                log::warn!("the log level stays: {}", sys::plain(error.as_ref()));
            }
        }
        let (kept, over) = std::mem::take(&mut self.settings)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(known, _)| *known == keeps || *known > version);
        self.settings = kept;
        for settings in over.values() {
            self.pass_queues(settings);
        }
        self.current().apply(&before);
        self.templates.retain(|known| self.settings.contains_key(&known));
        self.current()
    }
}

/// Makes the kernel complete no more connections of a socket, which is closed next.
fn complete_no_more(listener: &Listener) {
    if let Err(error) = sys::complete_no_more(listener) {
        log::warn!("clients that connect at this very moment may be lost: {}", sys::plain(&error));
    }
}
