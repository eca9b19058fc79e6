//! A process that serves the files of a directory and nothing else, from its settings to its exit: `maypole files DIR`.
//!
//! *Owns*: the process. *Runs on*: the main thread, which waits for signals and for nothing else. *Invariants*: Python is
//! neither started nor entered. There is no thread of an application, and no permit.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};

use crate::cli::Exit;
use crate::config::Config;
use crate::identity::{self, Role};
use crate::instance::{self, Drained, Instance, Parts};
use crate::listener::Listener;
use crate::logs;
use crate::phrase::count;
use crate::server::{Descriptors, Stop};
use crate::signals::ECHO_MAX;
use crate::sys::{self, Event, SignalPipe};
use crate::systemd::{Condition, Systemd};
use crate::tls::{CertificateError, Certificates};

/// The signals that the process handles.
const SIGNALS: [i32; 5] = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1];

/// The process at work.
struct Process {
    instance: Instance,
    signals: SignalPipe,
    /// Happens when the server has lost a listener.
    lost: Event,
    certificates: Option<Arc<Certificates>>,
    systemd: Option<Systemd>,
    graceful_timeout: Duration,
    had_terminal: bool,
}

/// Serves the directories in the settings until a signal stops the process. Returns its exit status.
pub fn serve(config: Config) -> Exit {
    let opened = identity::enter(&config, Role::Alone).and_then(|()| Descriptors::of_process().check());
    if let Err(sentence) = opened {
        eprintln!("error: {sentence}");
        return Exit::NotStarted;
    }
    let log = match logs::init(&config) {
        Ok(opened) => opened.access,
        Err(error) => {
            eprintln!("error: {}", sys::plain(error.as_ref()));
            return if error.is::<logs::FormatError>() { Exit::Usage } else { Exit::NotStarted };
        }
    };
    instance::warn_of_variables();
    instance::announce_file(&config);
    let exit = run(config, log).unwrap_or_else(|error| {
        log::error!("{}", sys::plain(error.as_ref()));
        if error.is::<CertificateError>() { Exit::Usage } else { Exit::NotStarted }
    });
    identity::remove_pid_file();
    logs::flush();
    exit
}

/// Runs the process once its logs are open.
fn run(config: Config, access_log: Option<logs::AccessLog>) -> anyhow::Result<Exit> {
    // Before the process listens, and while it may still read the keys.
    let certificates = Certificates::load(&config.tls, None)?;
    if config.check_config {
        identity::settle(&config, false)?;
        // A reader that has closed the pipe is not a failure.
        let _ =
            std::io::stdout().write_all(b"OK: the settings and the log files are usable, and the directories exist\n");
        return Ok(Exit::Ok);
    }
    let listeners = Listener::bind_configured(&config)?;
    identity::settle(&config, true)?;
    let signals = SignalPipe::install(&SIGNALS)?;
    let config = Arc::new(config);
    let instance = Instance::start(Parts {
        config: Arc::clone(&config),
        listeners,
        applications: Vec::new(),
        access_log,
        pool: None,
        slot: None,
        certificates: certificates.clone(),
        is_worker: false,
    })?;
    let lost = Event::new()?;
    let told = lost.try_clone()?;
    instance.server().on_lost(move || told.happen());
    let (graceful_timeout, had_terminal, systemd) = (config.graceful_timeout, sys::has_terminal(), Systemd::find());
    let process = Process { instance, signals, lost, certificates, systemd, graceful_timeout, had_terminal };
    Ok(process.run(&config))
}

impl Process {
    fn run(mut self, config: &Config) -> Exit {
        let addresses: Vec<_> = self.instance.server().urls().collect();
        let directories: Vec<_> = config.files.static_files.iter().map(ToString::to_string).collect();
        log::info!(
            "maypole {} (without Python), pid {}, listening on {}, files of {}",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            addresses.join(", "),
            directories.join(", "),
        );
        self.systemd.iter_mut().for_each(|systemd| systemd.ready("Serving files"));
        let stop = self.wait_for_stop();
        self.systemd.iter_mut().for_each(Systemd::stopping);
        self.instance.begin_stop(&stop);
        let drained = self.instance.drain(&stop, || self.look_while_stopping(&stop)) == Drained::Wholly;
        self.instance.say_end(&stop, drained);
        let is_lost = self.instance.server().lost().is_some();
        self.instance.close(drained);
        self.signals.end_with_process();
        if is_lost { Exit::Failure } else { Exit::Ok }
    }

    /// Serves until the server is to stop.
    fn wait_for_stop(&mut self) -> Stop {
        let stop = |who: &str, limit| Stop::new(who, limit, "--graceful-timeout");
        loop {
            let next = self.systemd.as_ref().map(|systemd| systemd.next().saturating_duration_since(Instant::now()));
            sys::wait_for_any(&[self.signals.as_fd(), self.lost.as_fd()], next);
            for signal in self.signals.take() {
                match signal {
                    SIGTERM => return stop("SIGTERM", self.graceful_timeout),
                    SIGINT => return stop("SIGINT", self.graceful_timeout),
                    SIGHUP if self.had_terminal && !sys::has_terminal() => {
                        return stop("SIGHUP", self.graceful_timeout);
                    }
                    SIGHUP => self.reload(),
                    SIGQUIT => self.report(),
                    _ => logs::reopen("SIGUSR1"),
                }
            }
            if let Some(lost) = self.instance.server().lost() {
                return stop(&lost.sentence, self.graceful_timeout);
            }
            let status = || Condition { status: "Serving files".to_owned(), responds: true };
            self.systemd.iter_mut().for_each(|systemd| systemd.look(Instant::now(), status));
        }
    }

    /// Logs how busy the process is.
    fn report(&self) {
        let numbers = self.instance.server().numbers();
        let (connections, requests) = (count(numbers.connections, "connection"), count(numbers.requests, "request"));
        log::info!("SIGQUIT: {connections}, {requests}");
    }

    /// Reads what can change while the process serves: the certificates. Directories are looked up for each request.
    fn reload(&self) {
        match self.certificates.as_ref().map(|certificates| certificates.reload()) {
            None => log::info!("SIGHUP: there is nothing to read again; changed settings need a new start"),
            Some(Ok(())) => log::info!("SIGHUP: the certificates were read again; changed settings need a new start"),
            Some(Err(error)) => log::error!("SIGHUP: the certificates stay as they were: {error}"),
        }
    }

    /// Ends the wait for requests at a second signal.
    fn look_while_stopping(&self, stop: &Stop) -> ControlFlow<()> {
        let is_echo = |signal: i32| signal == SIGTERM && stop.who == "SIGTERM" && stop.began.elapsed() < ECHO_MAX;
        let signals = self.signals.take();
        let again = signals.into_iter().find(|signal| matches!(*signal, SIGTERM | SIGINT) && !is_echo(*signal));
        if again.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
