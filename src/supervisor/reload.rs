//! A reload: the settings are read anew, the workers are replaced, and operators hear of the outcome.
//!
//! *Owns*: nothing; the state is the supervisor's. *Runs on*: the supervisor's thread. *Invariants*: good news waits
//! until the old workers have let go of their clients.

use std::time::{Duration, Instant};

use log::Level;

use super::orders::Event;
use super::reading::Reading;
use super::{Supervisor, host, roster, settings};
use crate::config::Config;
use crate::control::Response;
use crate::instance;
use crate::phrase::count;
use crate::sys;
use crate::systemd::Systemd;

/// The outcome of a reload is told at the latest this long after the last new worker has begun to serve.
const LEAVING_MAX: Duration = Duration::from_secs(1);

/// A reload whose new workers serve, while the old ones let go of their clients. Until then, a client may still get a
/// response of the old code.
pub(super) struct Leaving {
    /// The slots of the workers that have not let go of them yet.
    pub(super) old: Vec<usize>,
    pub(super) end: Instant,
    /// The sentence that tells of it.
    pub(super) good: String,
    /// The commands that wait for it.
    pub(super) clients: Vec<u64>,
}

impl Supervisor {
    /// Returns whether a reload runs, or its settings are being read.
    pub(super) fn is_reloading(&self) -> bool {
        self.reading.is_some() || self.roster.is_reloading()
    }

    /// Begins a reload. `client` waits for the outcome.
    pub(super) fn reload(&mut self, cause: &str, client: Option<u64>) {
        if self.roster.is_ending() {
            log::warn!("{cause}: nothing is reloaded, because the service stops");
            self.refuse_reload(client.into_iter().collect());
        } else if let Some(reading) = &mut self.reading {
            log::info!("{cause}: another reload follows: the settings are still being read for the one before");
            reading.queue(cause, client);
        } else {
            self.begin_reload(cause, client.into_iter().collect());
        }
    }

    /// Begins to read the settings anew.
    fn begin_reload(&mut self, cause: &str, clients: Vec<u64>) {
        let what = if self.host.is_some() { host::RELOADED } else { "settings and application" };
        log::info!("{cause}: reloading {what}");
        self.systemd.iter_mut().for_each(Systemd::reloading);
        self.fleet.read_settings();
        match Reading::start(&self.fleet.current().config, clients.clone()) {
            Ok(reading) => self.reading = Some(reading),
            Err(error) => self.reload_failed(clients, &sys::plain(&error)),
        }
    }

    /// Begins to replace the workers, if the settings have been read.
    pub(super) fn go_on_with_reload(&mut self) {
        if let Some(reading) = self.reading.take_if(|_| self.roster.is_ending()) {
            self.refuse_reload(reading.into_clients());
        }
        let Some((read, clients, next)) = self.reading.as_mut().and_then(Reading::take) else { return };
        self.reading = None;
        match read.and_then(|config| self.renew_settings(config)) {
            Ok((version, workers)) => {
                self.waiting.extend(clients.into_iter().map(|client| (version, client)));
                self.fleet.reload_hooks();
                self.feed(Event::Reload { version, workers });
            }
            Err(reason) => self.reload_failed(clients, &reason),
        }
        if let Some(next) = next {
            self.begin_reload(&next.cause, next.clients);
        }
    }

    /// Tells the commands that wait for a reload that the service stops.
    fn refuse_reload(&mut self, clients: Vec<u64>) {
        let response = Response::failure("nothing is reloaded, because the service stops");
        for client in clients {
            self.control.respond(client, &response);
        }
    }

    /// Tells that a reload has failed before any worker was replaced.
    fn reload_failed(&mut self, clients: Vec<u64>, reason: &str) {
        let sentence = roster::reload_failure(0, self.roster.target(), reason);
        self.tell(clients, Err(sentence));
    }

    /// Binds the addresses of settings that have been read. Returns their version, and how many workers they ask for.
    fn renew_settings(&mut self, config: Config) -> Result<(u64, usize), String> {
        settings::enter_first(self.fleet.program())?;
        config.check_paths()?;
        instance::announce_file(&config);
        settings::enter(&config, self.fleet.program())?;
        let workers = config.processes.count().unwrap_or(1);
        let (version, settings) = self.fleet.add(config).map_err(|error| sys::plain(error.as_ref()))?;
        // They hold for the workers of the reload. If it fails, the old ones hold again.
        self.roster.set_limits(settings.limits());
        Ok((version, workers))
    }

    /// Notes how a reload has ended. A good end is told once the workers in the slots `old` have left.
    pub(super) fn reloaded(&mut self, version: u64, keeps: u64, outcome: Result<(), String>, old: Vec<usize>) {
        let settings = self.fleet.reloaded(version, keeps);
        self.roster.set_limits(settings.limits());
        let hosted = if self.host.is_some() { host::UNCHANGED } else { "" };
        let good = format!("reloaded: {} with the new settings{hosted}", count(settings.workers(), "worker"));
        self.show();
        // A reload takes the place of those before it that had not begun.
        let clients = self.waiting.extract_if(.., |(waits, _)| *waits <= version).map(|(_, client)| client).collect();
        match outcome {
            Ok(()) => self.leaving.push(Leaving { old, end: Instant::now() + LEAVING_MAX, good, clients }),
            Err(sentence) => self.tell(clients, Err(sentence)),
        }
    }

    /// Tells of the reloads whose old workers have left.
    pub(super) fn tell_good(&mut self) {
        let now = Instant::now();
        let is_over = |leaving: &mut Leaving| leaving.old.is_empty() || now >= leaving.end;
        for over in self.leaving.extract_if(.., is_over).collect::<Vec<_>>() {
            self.tell(over.clients, Ok(over.good));
        }
    }

    /// Logs how a reload has ended, and tells systemd and the clients that wait for that.
    fn tell(&mut self, clients: Vec<u64>, outcome: Result<String, String>) {
        let is_ok = outcome.is_ok();
        let (Ok(sentence) | Err(sentence)) = outcome;
        log::log!(if is_ok { Level::Info } else { Level::Error }, "{sentence}");
        if let Some(systemd) = &mut self.systemd {
            let status = self.fleet.condition(self.roster.target()).status;
            systemd.reloaded(&status, (!is_ok).then(|| sentence.clone()));
        }
        let response = Response { is_ok, sentence };
        for client in clients {
            self.control.respond(client, &response);
        }
    }
}
