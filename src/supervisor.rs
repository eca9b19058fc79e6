//! The supervisor: binds the addresses, starts workers, watches them, and replaces those that end.
//!
//! *Owns*: the listening sockets, the scoreboard, the links to the workers, and the signals of the process. *Runs on*:
//! the main thread, which waits for signals, links and deadlines and for nothing else. *Invariants*: no application
//! code, no coroutine and no GIL here. A worker that does not read its link does not stop the supervisor. Every child
//! process is reaped, also an orphan's, so that the supervisor can be process 1 of a container.

mod fleet;
mod look;
mod orders;
mod roster;
mod settings;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH};

use self::fleet::Fleet;
use self::orders::{Event, Order};
use self::roster::Roster;
use self::settings::Settings;
use crate::cli::Exit;
use crate::config::Config;
use crate::identity::Role;
use crate::phrase::count;
use crate::sys::{self, Program, SignalPipe};
use crate::{identity, instance, logs};

/// The signals that the supervisor handles.
const SIGNALS: [i32; 10] = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH, SIGCHLD];
/// A SIGTERM within this time after the first one counts as the same request. A parent process may forward a signal that
/// the whole process group has already received.
const ECHO_MAX: Duration = Duration::from_secs(1);

/// The supervisor at work.
struct Supervisor {
    signals: SignalPipe,
    fleet: Fleet,
    roster: Roster,
    /// The command line, from which a reload reads the settings.
    words: Vec<OsString>,
    /// When the first SIGTERM arrived.
    terminated: Option<Instant>,
    /// The exit status, once all workers have ended.
    exit: Option<Exit>,
}

/// Returns whether the settings ask for workers.
pub fn is_needed(config: &Config) -> bool {
    config.needs_supervisor() && !config.check_config && !config.print_config
}

/// Serves with workers until a signal stops the service. `words` is the command line that `config` was read from, and
/// `program` finds the program that a worker is started with. Returns when every worker has ended.
pub fn run(config: Config, words: &[OsString], program: impl FnOnce() -> io::Result<Program>) -> Exit {
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
    // Before the thread of the logs starts.
    identity::show_title(&config, Role::Supervisor);
    if let Err(error) = logs::init(&config) {
        eprintln!("error: {}", sys::plain(error.as_ref()));
        return if error.is::<logs::FormatError>() { Exit::Usage } else { Exit::NotStarted };
    }
    instance::warn_of_variables();
    let exit = Supervisor::start(config, words, program).map_or_else(
        |error| {
            log::error!("{}", sys::plain(error.as_ref()));
            Exit::NotStarted
        },
        Supervisor::serve,
    );
    identity::remove_pid_file();
    logs::flush();
    exit
}

impl Supervisor {
    fn start(config: Config, words: &[OsString], program: Program) -> anyhow::Result<Self> {
        // Before the addresses are bound: a signal that arrives now waits for the loop.
        let signals = SignalPipe::install(&SIGNALS).context("cannot make a pipe")?;
        sys::adopt_orphans();
        let settings = Settings::bind(config, words, None)?;
        settings.settle()?;
        let roster = Roster::new(settings.workers(), settings.limits());
        let fleet = Fleet::new(program, settings)?;
        Ok(Self { signals, fleet, roster, words: words.to_vec(), terminated: None, exit: None })
    }

    /// Runs until every worker has ended.
    fn serve(mut self) -> Exit {
        self.feed(Event::Time);
        loop {
            if let Some(exit) = self.exit {
                log::info!("stopped");
                return exit;
            }
            let next_look = self.fleet.next_look();
            let deadline = self.roster.deadline().map_or(next_look, |end| end.min(next_look));
            let timeout = deadline.saturating_duration_since(Instant::now());
            let (has_signals, ready) = {
                let mut descriptors = vec![self.signals.as_fd()];
                descriptors.extend(self.fleet.descriptors());
                let ready = sys::wait_readable(&descriptors, Some(timeout));
                (ready[0], ready[1..].to_vec())
            };
            for event in self.fleet.receive(&ready) {
                self.feed(event);
            }
            if has_signals {
                self.signals.take().into_iter().for_each(|signal| self.handle(signal));
            }
            for event in self.fleet.look(Instant::now()) {
                self.feed(event);
            }
            self.feed(Event::Time);
        }
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
            SIGCHLD => {
                for event in self.fleet.reap() {
                    self.feed(event);
                }
            }
            SIGTTIN => self.feed(Event::More),
            SIGTTOU => self.feed(Event::Fewer),
            SIGWINCH => self.feed(Event::Pause),
            SIGQUIT => self.fleet.report("SIGQUIT"),
            SIGHUP => self.reload(),
            _ => log::warn!("signal {signal} has no effect yet"),
        }
    }

    /// Reads the settings anew, and begins to replace the workers.
    fn reload(&mut self) {
        log::info!("SIGHUP: reloading settings and application");
        let read = Settings::read(&self.words).and_then(|config| {
            settings::enter(&config, self.fleet.program())?;
            let workers = config.processes.count().unwrap_or(1);
            let added = self.fleet.add(config, &self.words).map_err(|error| sys::plain(error.as_ref()));
            added.map(|version| Event::Reload { version, workers })
        });
        match read {
            Ok(event) => self.feed(event),
            Err(reason) => reload_failed(&reason),
        }
    }

    /// Notes how a reload has ended.
    fn reloaded(&mut self, version: u64, keeps: u64, outcome: Result<(), String>) {
        let settings = self.fleet.reloaded(version, keeps);
        self.roster.set_limits(settings.limits());
        match outcome {
            Ok(()) => log::info!("reloaded: {}", count(settings.workers(), "worker")),
            Err(reason) => reload_failed(&reason),
        }
    }

    /// Takes an event, and does what follows from it.
    fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for order in self.roster.take(event, Instant::now()) {
                events.extend(self.obey(order));
            }
        }
    }

    /// Does what the roster orders. Returns what has happened.
    fn obey(&mut self, order: Order) -> Option<Event> {
        match order {
            Order::Start { slot, number, generation, version } => {
                return Some(self.fleet.start(slot, number, generation, version));
            }
            Order::HandOver { from, to } => self.fleet.hand_over(from, &to),
            Order::Stop { slot, cause } => self.fleet.stop(slot, cause),
            Order::StopNow { slot, cause } => self.fleet.stop_now(slot, cause),
            Order::Terminate { slot } => self.fleet.signal(slot, SIGTERM),
            Order::Abort { slot } => self.fleet.signal(slot, signal_hook::consts::SIGABRT),
            Order::Kill { slot } => self.fleet.signal(slot, signal_hook::consts::SIGKILL),
            Order::Announce => self.fleet.announce(),
            Order::Reloaded { version, keeps, outcome } => self.reloaded(version, keeps, outcome),
            Order::Close => self.fleet.close_listeners(),
            Order::Say(level, sentence) => log::log!(level, "{sentence}"),
            Order::End(exit) => self.exit = Some(exit),
        }
        None
    }
}

fn reload_failed(reason: &str) {
    log::error!("the reload has failed, and the workers serve on: {reason}");
}
