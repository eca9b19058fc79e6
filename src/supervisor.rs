//! The supervisor: binds the addresses, starts workers, watches them, and replaces a worker that ends.
//!
//! *Owns*: the listening sockets, the scoreboard, the links to the workers, and the signals of the process. *Runs on*:
//! the main thread, which waits for signals, links and deadlines and for nothing else. *Invariants*: no application
//! code, no coroutine and no GIL here. A worker that does not read its link does not stop the supervisor. Every child
//! process is reaped, also an orphan's, so that the supervisor can be process 1 of a container.

mod commands;
mod fleet;
mod host;
mod look;
mod orders;
mod process;
mod questions;
mod reading;
mod reload;
mod roster;
mod settings;
mod shown;
mod succession;
mod templates;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH};

use self::commands::Scaling;
use self::fleet::Fleet;
pub use self::host::Host;
use self::orders::{Event, Order};
use self::reading::Reading;
use self::reload::Leaving;
use self::roster::Roster;
use self::settings::Settings;
use self::shown::Shown;
pub use self::succession::prepare;
use self::succession::{News, Predecessor, Successor};
use crate::cli::Exit;
use crate::config::Config;
use crate::control::{Control, Response};
use crate::identity::Role;
use crate::link::HookCall;
use crate::phrase::count;
use crate::signals::ECHO_MAX;
use crate::status::{Callers, Sockets, Stage, Status};
use crate::sys::{self, Program, SignalMask, SignalPipe};
use crate::systemd::Systemd;
use crate::tls::{CertificateError, Seed};
use crate::{identity, instance, logs};

/// The signals that the supervisor handles.
const SIGNALS: [i32; 10] = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH, SIGCHLD];

/// The supervisor at work.
struct Supervisor {
    signals: SignalPipe,
    fleet: Fleet,
    roster: Roster,
    /// It ends with the supervisor.
    status: Status,
    /// What the status server knows of this thread.
    shown: Arc<Shown>,
    control: Control,
    /// The reload whose settings are being read.
    reading: Option<Reading>,
    /// The commands that wait for a reload: its version, and the client.
    waiting: Vec<(u64, u64)>,
    /// The reloads whose new workers serve.
    leaving: Vec<Leaving>,
    /// The commands that wait for the workers that they have asked for.
    scalings: Vec<Scaling>,
    /// The commands of the program before that wait until this one serves.
    callers: Callers,
    predecessor: Option<Predecessor>,
    successor: Option<Successor>,
    /// Whether a new supervisor is to start once the reload has ended.
    wants_successor: bool,
    /// Whether this supervisor has said that the service serves.
    is_announced: bool,
    /// When the first SIGTERM arrived.
    terminated: Option<Instant>,
    /// Whether the process had a terminal at its start.
    had_terminal: bool,
    /// systemd, if it wants to be told how the service is.
    systemd: Option<Systemd>,
    /// The Python program in whose process the supervisor runs.
    host: Option<Host>,
    /// The exit status, once all workers have ended.
    exit: Option<Exit>,
}

/// Returns whether the settings ask for workers.
pub fn is_needed(config: &Config) -> bool {
    config.needs_supervisor() && !config.check_config && !config.print_config
}

/// Serves with workers until a signal stops the service. `program` finds the program that a worker is started
/// with. Returns when every worker has ended.
/// `callers` are the commands that wait until it serves, if another program ran in this process before.
pub fn run(config: Config, program: impl FnOnce() -> io::Result<Program>, callers: Option<Callers>) -> Exit {
    run_for(config, program, None, callers)
}

/// Serves with workers that are forked from a Python program, until a signal stops the service. `program` is what the
/// process of the hooks is started with. Returns when every worker has ended and the program can go on.
pub fn run_hosted(config: Config, program: impl FnOnce() -> io::Result<Program>, host: Host) -> Exit {
    let exit = run_for(config, program, Some(host), None);
    sys::forget_signal_actions();
    exit
}

fn run_for(
    config: Config,
    program: impl FnOnce() -> io::Result<Program>,
    host: Option<Host>,
    callers: Option<Callers>,
) -> Exit {
    sys::open_standard_descriptors();
    let program = program().map_err(|error| format!("cannot find the own program: {}", sys::plain(&error)));
    let entered = program.and_then(|program| settings::enter(&config, &program).map(|()| program));
    let program = match entered {
        Ok(program) => program,
        Err(sentence) => {
            eprintln!("error: {sentence}");
            return Exit::NotStarted;
        }
    };
    // Before the thread of the logs starts. A program keeps its title, unless it names another one.
    if host.is_none() || config.processes.proc_name.is_some() {
        identity::show_title(&config, Role::Supervisor);
    }
    // The access log stays open although the supervisor writes no line to it: at SIGUSR1, a user of the workers may have
    // no right to make the new file.
    let _opened = match logs::init(&config) {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("error: {}", sys::plain(error.as_ref()));
            return if error.is::<logs::FormatError>() { Exit::Usage } else { Exit::NotStarted };
        }
    };
    instance::warn_of_variables();
    instance::announce_file(&config);
    host.iter().for_each(Host::warn_of_threads);
    let exit = Supervisor::start(config, program, host, callers).map_or_else(
        |error| {
            log::error!("{}", sys::plain(error.as_ref()));
            if error.is::<CertificateError>() { Exit::Usage } else { Exit::NotStarted }
        },
        Supervisor::serve,
    );
    identity::remove_pid_file();
    logs::flush();
    exit
}

impl Supervisor {
    fn start(
        config: Config,
        program: Program,
        mut host: Option<Host>,
        callers: Option<Callers>,
    ) -> anyhow::Result<Self> {
        let handled = host.as_ref().map_or(SIGNALS.to_vec(), |_| host::signals(&SIGNALS));
        // Before the addresses are bound: a signal that arrives now waits for the loop.
        let signals = SignalPipe::install(&handled).context("cannot make a pipe")?;
        if callers.is_some() {
            // The program before has blocked all signals, so that none is lost.
            SignalMask::none().restore();
        }
        if host.is_none() {
            sys::adopt_orphans(true);
        }
        let (predecessor, given) = Predecessor::of_process().context("cannot take a place over")?.unzip();
        let given = given.unwrap_or_default();
        let settings = Settings::bind(config, &given.bound, &given.shown)?;
        settings.settle()?;
        if predecessor.is_none() {
            settings.write_pid_file(None)?;
        }
        let roster = Roster::new(settings.workers(), settings.limits());
        let template = host.as_mut().map(Host::take_template).transpose()?.flatten();
        let seed = given.seed.map_or_else(Seed::new, Ok).map_err(anyhow::Error::msg)?;
        let mut fleet = Fleet::new(program, settings, template, seed)?;
        fleet.start_hooks().context("cannot start the process of the hooks")?;
        // The status is shown by the supervisor that leads.
        let sockets = predecessor.as_ref().map_or_else(|| fleet.current().shown().clone(), |_| Sockets::default());
        let kind = (host.is_some(), predecessor.is_none());
        let (status, control, shown) = Shown::start(fleet.current(), fleet.scoreboard(), sockets, kind)?;
        let (waiting, leaving) = (Vec::new(), Vec::new());
        let systemd = Systemd::find();
        Ok(Self {
            signals,
            fleet,
            roster,
            status,
            shown,
            control,
            reading: None,
            waiting,
            leaving,
            scalings: Vec::new(),
            callers: callers.unwrap_or_default(),
            predecessor,
            successor: None,
            wants_successor: false,
            is_announced: false,
            terminated: None,
            had_terminal: sys::has_terminal(),
            systemd,
            host,
            exit: None,
        })
    }

    /// Runs until every worker has ended.
    fn serve(mut self) -> Exit {
        self.fleet.look_at_hooks();
        self.feed(Event::Time);
        loop {
            if let Some(exit) = self.exit
                && self.fleet.end_hooks()
            {
                if self.successor.is_some() {
                    self.fleet.leave_sockets();
                }
                let (level, sentence) = self.roster.last_words(Instant::now());
                log::log!(level, "{sentence}");
                if !self.fleet.is_hosted() {
                    self.signals.end_with_process();
                }
                return exit;
            }
            let next_look = self.fleet.next_look();
            let ends = [self.roster.deadline(), self.fleet.hooks_deadline(), self.systemd.as_ref().map(Systemd::next)];
            let leaving = self.leaving.iter().map(|leaving| leaving.end);
            let deadline = ends.into_iter().flatten().chain(leaving).fold(next_look, Instant::min);
            self.wait(deadline.saturating_duration_since(Instant::now()));
            self.fleet.look_at_hooks();
            if self.fleet.hooks_have_failed() {
                self.exit = Some(Exit::NotStarted);
            }
            if self.fleet.is_hosted() {
                // SIGCHLD may be the program's, or may have come before the template had named the worker.
                self.reap();
            }
            for event in self.fleet.look(Instant::now()) {
                self.feed(event);
            }
            self.feed(Event::Time);
            self.tell_good();
            self.tell_scaled();
            if self.wants_successor && !self.is_reloading() {
                self.start_successor();
            }
            if let Some(systemd) = &mut self.systemd {
                systemd.look(Instant::now(), || self.fleet.condition(self.roster.target()));
            }
        }
    }

    /// Waits for messages, requests and signals, and acts on them.
    fn wait(&mut self, timeout: Duration) {
        let mut descriptors: Vec<_> = self.fleet.descriptors().collect();
        let links = descriptors.len();
        descriptors.push(self.signals.as_fd());
        descriptors.push(self.control.as_fd());
        descriptors.extend(self.predecessor.as_ref().and_then(Predecessor::descriptor));
        descriptors.extend(self.reading.as_ref().map(Reading::descriptor));
        descriptors.extend(self.successor.as_ref().and_then(Successor::descriptor));
        descriptors.extend(self.host.as_ref().map(Host::descriptor));
        let ready = sys::wait_for_any(&descriptors, Some(timeout));
        for event in self.fleet.receive(&ready[..links]) {
            self.feed(event);
        }
        if let Some(file) = self.fleet.take_changed_settings() {
            self.reload(&format!("{file} has changed (--reload)"), None);
        }
        let mut signals = self.signals.take();
        // A terminal stops workers that are starting and the supervisor at the same time: their end is no failure then.
        signals.sort_by_key(|signal| *signal == SIGCHLD);
        for signal in signals {
            self.handle(signal);
        }
        for (client, request) in self.control.receive() {
            self.command(client, request);
        }
        self.go_on_with_reload();
        if let Some(predecessor) = &mut self.predecessor {
            let led = predecessor.leads();
            let channels = predecessor.receive();
            if !channels.is_empty() {
                predecessor.note_receivers(self.fleet.take(channels));
            }
            predecessor.ask_again(self.fleet.serving().next().is_some());
            if led && !predecessor.leads() {
                self.show();
                if self.is_announced {
                    self.tell_ready();
                }
            }
        }
        self.hear_successor();
        self.host.iter().for_each(Host::run_handlers);
    }

    /// Reaps the processes that have ended.
    fn reap(&mut self) {
        for event in self.fleet.reap() {
            if let (Event::Ended { slot, .. }, Some(predecessor)) = (&event, &mut self.predecessor) {
                predecessor.forget_receiver(*slot);
            }
            self.feed(event);
        }
    }

    /// Starts a new supervisor that takes the place of this one, at once or after the reload.
    fn start_successor(&mut self) {
        self.wants_successor = false;
        let refusal = match &self.successor {
            _ if self.host.is_some() => "it runs in a Python program, which an operator starts again".to_owned(),
            _ if sys::is_first_process() => "process 1 of a container cannot end without the container".to_owned(),
            Some(successor) if successor.serves => format!("{} has taken over already", successor.pid()),
            Some(successor) => format!("{} starts already", successor.pid()),
            None if self.roster.is_ending() => "the service stops".to_owned(),
            None if !self.is_announced => "the service is still starting".to_owned(),
            None if self.is_reloading() => {
                log::info!("SIGUSR2: a new supervisor starts after the reload");
                self.wants_successor = true;
                return;
            }
            None => {
                self.fleet.call_hook("pre_exec", HookCall::default());
                match Successor::start(self.fleet.program(), self.fleet.current(), self.fleet.seed()) {
                    Ok(successor) => {
                        log::info!("SIGUSR2: a new supervisor starts, pid {}", successor.pid());
                        self.successor = Some(successor);
                        return;
                    }
                    Err(error) => sys::plain(&error),
                }
            }
        };
        log::error!("SIGUSR2: no new supervisor takes over: {refusal}");
    }

    /// Acts on what the new supervisor reports.
    fn hear_successor(&mut self) {
        let Some(successor) = self.successor.as_mut().filter(|successor| !successor.has_ended) else { return };
        let pid = successor.pid();
        match successor.receive() {
            News::None => {}
            News::Serving => {
                log::info!("SIGUSR2: the new supervisor {pid} serves; the workers of this one stop");
                successor.serves = true;
                // From now on, the new supervisor speaks to systemd.
                self.systemd.take().iter().for_each(|systemd| systemd.follow(pid));
                self.status.leave_sockets();
                successor.lead();
                self.feed(Event::Succeeded);
            }
            News::Again => self.feed(Event::GiveAgain),
            News::Ended if successor.serves => {
                log::error!("the new supervisor {pid} has ended; this one has handed the service over, and ends too");
                successor.has_ended = true;
                self.feed(Event::SuccessorEnded);
            }
            News::Ended => {
                log::error!("SIGUSR2: the new supervisor {pid} has ended before it served; this one serves on");
                self.successor = None;
            }
        }
    }

    /// Says that the service serves.
    fn announce(&mut self) {
        // A client that has seen the line finds a service that is ready.
        self.shown.set_stage(Stage::Serving);
        self.fleet.announce();
        self.is_announced = true;
        let workers = count(self.roster.target(), "worker");
        self.callers.respond(&Response::success(format!("reloaded: a supervisor has started, and {workers} serve")));
        // systemd hears only the process that it takes for the service.
        if self.predecessor.as_ref().is_none_or(|predecessor| !predecessor.leads()) {
            self.tell_ready();
        }
        if let Some(predecessor) = &self.predecessor {
            if let Err(error) = self.fleet.current().write_pid_file(Some(predecessor.pid())) {
                log::error!("{}", sys::plain(error.as_ref()));
            }
            predecessor.say_serving();
        }
    }

    /// Tells systemd that the service serves.
    fn tell_ready(&mut self) {
        let status = self.fleet.condition(self.roster.target()).status;
        self.systemd.iter_mut().for_each(|systemd| systemd.ready(&status));
    }

    /// Acts on a signal.
    fn handle(&mut self, signal: i32) {
        let now = Instant::now();
        match signal {
            SIGTERM if self.terminated.is_some_and(|first| now - first < ECHO_MAX) => {}
            SIGTERM => {
                self.terminated.get_or_insert(now);
                self.feed(Event::Stop { cause: "SIGTERM".to_owned() });
            }
            SIGINT => self.feed(Event::Stop { cause: "SIGINT".to_owned() }),
            SIGCHLD => self.reap(),
            SIGTTIN => self.feed(Event::More),
            SIGTTOU => self.feed(Event::Fewer),
            SIGWINCH if sys::has_terminal() => {
                log::debug!("SIGWINCH: nothing changes, because a terminal sends it when its window changes");
            }
            SIGWINCH => self.feed(Event::Resize { workers: 0, cause: "SIGWINCH" }),
            SIGQUIT => self.fleet.report("SIGQUIT"),
            // The kernel and the shell of a terminal that goes both send it.
            SIGHUP if self.had_terminal && !sys::has_terminal() && self.roster.is_ending() => {}
            SIGHUP if self.had_terminal && !sys::has_terminal() => {
                self.feed(Event::Stop { cause: "SIGHUP".to_owned() });
            }
            SIGHUP => self.reload("SIGHUP", None),
            SIGUSR1 => {
                logs::reopen("SIGUSR1");
                self.fleet.reopen_logs();
            }
            SIGUSR2 => self.start_successor(),
            _ => {}
        }
    }

    /// Takes an event, and does what follows from it.
    fn feed(&mut self, event: Event) {
        // The first workers start once `on_starting` has returned.
        if self.fleet.holds_start() {
            if matches!(event, Event::Stop { .. } | Event::Quit { .. }) {
                self.fleet.kill_hooks();
                self.exit = Some(Exit::Ok);
            }
            return;
        }
        let ends_hooks = self.exit.is_some() && matches!(event, Event::Stop { .. });
        if ends_hooks || matches!(event, Event::Quit { .. }) {
            self.fleet.kill_hooks();
        }
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if let Event::Left { slot } | Event::Ended { slot, .. } = event {
                self.leaving.iter_mut().for_each(|leaving| leaving.old.retain(|old| *old != slot));
            }
            for order in self.roster.take(event, Instant::now()) {
                events.extend(self.obey(order));
            }
        }
        self.fleet.set_workers(self.roster.target());
        self.shown.set_wanted(self.roster.target());
    }

    /// Does what the roster orders. Returns what has happened.
    fn obey(&mut self, order: Order) -> Option<Event> {
        match order {
            Order::Start { slot, number, generation, version } => {
                return self.fleet.start(slot, number, generation, version);
            }
            Order::HandOver { from, to } => self.fleet.hand_over(from, &to),
            Order::CloseIdle { slot } => self.fleet.close_idle(slot),
            Order::Stop { slot, cause } => self.fleet.stop(slot, cause),
            Order::StopNow { slot, cause } => self.fleet.stop_now(slot, cause),
            Order::Terminate { slot } => self.fleet.signal(slot, SIGTERM),
            Order::Abort { slot } => self.fleet.signal(slot, signal_hook::consts::SIGABRT),
            Order::Kill { slot } => self.fleet.signal(slot, signal_hook::consts::SIGKILL),
            Order::Announce => {
                self.announce();
                self.fleet.call_hook("when_ready", HookCall::default());
            }
            Order::Reloaded { version, keeps, outcome, old } => self.reloaded(version, keeps, outcome, old),
            // A new supervisor has the same sockets, and needs them.
            Order::Close if self.successor.is_some() => {}
            Order::Close => {
                self.fleet.close_listeners();
                self.shown.set_stage(Stage::Stopping);
                self.systemd.iter_mut().for_each(Systemd::stopping);
            }
            Order::GiveAway { from } => {
                if let Some(successor) = &self.successor {
                    self.fleet.give_away(from, successor);
                }
            }
            Order::Count(why) => self.fleet.scoreboard().ended().departed(why),
            Order::Say(level, sentence) => log::log!(level, "{sentence}"),
            Order::End(exit) => self.exit = Some(exit),
        }
        None
    }
}
