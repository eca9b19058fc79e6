//! The settings of the service, with the sockets that they name.
//!
//! *Owns*: the listening sockets. *Runs on*: the supervisor's thread.

use std::path::{PathBuf, absolute};
use std::rc::Rc;

use super::roster::Limits;
use crate::config::{Bind, Config, ListenAddress};
use crate::identity::{self, Identity, Role};
use crate::link::Word;
use crate::listener::Listener;
use crate::logs;
use crate::status::Sockets;
use crate::sys::{self, Program};
use crate::tls::Certificates;

/// The settings that a worker starts with.
pub(super) struct Settings {
    pub(super) config: Config,
    /// The command line for the workers.
    pub(super) words: Vec<Word>,
    bound: Vec<Bound>,
    /// The sockets on which the status is shown.
    shown: Sockets,
}

/// The sockets of an address.
#[derive(Clone)]
pub(super) struct Bound {
    /// The address as the settings name it.
    pub(super) address: String,
    /// Whether clients speak TLS there.
    pub(super) is_tls: bool,
    /// Settings before and after a reload share the sockets of an address that stays.
    pub(super) listeners: Rc<Vec<Listener>>,
}

impl Bound {
    /// Gives the sockets what the settings say of them now.
    fn renew(&self, config: &Config, address: &ListenAddress) -> anyhow::Result<()> {
        self.listeners.iter().try_for_each(|listener| listener.renew(config, address))
    }
}

impl Settings {
    /// Binds the addresses in `config`, except addresses that are `bound` or `shown` already.
    ///
    /// # Errors
    /// The errors of `Listener::bind_one`, and of `Certificates::load`.
    pub(super) fn bind(config: Config, bound: &[Bound], shown: &Sockets) -> anyhow::Result<Self> {
        // Before anything is bound: files that are wrong change nothing.
        Certificates::load(&config.tls, None)?;
        let bind = |bind: &Bind| {
            let (name, is_tls) = (bind.address.to_string(), config.is_tls(bind));
            match bound.iter().find(|bound| bound.address == name) {
                Some(bound) => bound.renew(&config, &bind.address).map(|()| Bound { is_tls, ..bound.clone() }),
                None => Listener::bind_one(&config, bind).map(|listeners| Bound {
                    address: name,
                    is_tls,
                    listeners: Rc::new(listeners),
                }),
            }
        };
        let bound = config.bind.iter().map(bind).collect::<anyhow::Result<_>>()?;
        let words = config.words().iter().map(|word| Word::from(word.as_os_str())).collect();
        let shown = Sockets::bind(&config.status, shown)?;
        Ok(Self { config, words, bound, shown })
    }

    /// Returns the files whose change means that the settings have to be read anew, with `--reload`: the configuration
    /// file, and that of the hooks.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let processes = &self.config.processes;
        if !processes.reload {
            return Vec::new();
        }
        let hooks = processes.hooks.as_ref().map(|path| absolute(path).unwrap_or_else(|_| path.clone()));
        self.config.file().map(|file| file.path.clone()).into_iter().chain(hooks).collect()
    }

    /// Returns the same as words of a message.
    pub(super) fn file_words(&self) -> Vec<Word> {
        self.files().iter().map(|path| Word::from(path.as_os_str())).collect()
    }

    /// Returns the addresses with their sockets.
    pub(super) fn bound(&self) -> &[Bound] {
        &self.bound
    }

    /// Returns the sockets on which the status is shown.
    pub(super) fn shown(&self) -> &Sockets {
        &self.shown
    }

    /// Returns whether these settings have the sockets of an address.
    pub(super) fn has(&self, bound: &Bound) -> bool {
        self.bound.iter().any(|own| Rc::ptr_eq(&own.listeners, &bound.listeners))
    }

    /// Writes the PID file.
    ///
    /// # Errors
    /// Another process than `predecessor` has the PID file.
    pub(super) fn write_pid_file(&self, predecessor: Option<u32>) -> anyhow::Result<()> {
        match &self.config.processes.pid {
            Some(path) => identity::write_pid_file(path, predecessor),
            None => Ok(()),
        }
    }

    /// Makes the supervisor itself follow settings that a reload has changed: its log, its PID file and its title. What
    /// cannot be changed stays as it was, which is logged.
    pub(super) fn apply(&self, before: &Config) {
        let (now, then) = (&self.config, before);
        let is_same = now.error_logfile == then.error_logfile && now.logs.syslog == then.logs.syslog;
        if !is_same || now.log_level != then.log_level {
            let changed = logs::change(now).and_then(|()| self.settle());
            complain("--error-logfile, --log-syslog, --log-level", changed);
        }
        if now.processes.pid != then.processes.pid {
            complain("--pid", identity::change_pid_file(now.processes.pid.as_deref()));
        }
        identity::show_title(now, Role::Supervisor);
    }

    /// Lets the user of the workers write to the log files. The supervisor itself keeps its
    /// user: it binds addresses and opens log files again later.
    ///
    /// # Errors
    /// There is no such user.
    pub(super) fn settle(&self) -> anyhow::Result<()> {
        if let Some(identity) = Identity::of(&self.config)? {
            let (user, group) = identity.owner();
            logs::give_to(user, group);
        }
        Ok(())
    }

    /// Returns the listening sockets.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.bound.iter().flat_map(|bound| bound.listeners.iter())
    }

    /// Returns for each listening socket whether clients speak TLS.
    pub(super) fn tls(&self) -> Vec<bool> {
        self.bound.iter().flat_map(|bound| bound.listeners.iter().map(|_| bound.is_tls)).collect()
    }

    /// Returns the listening sockets as clients and operators name them.
    pub(super) fn urls(&self) -> Vec<String> {
        self.listeners().zip(self.tls()).map(|(listener, is_tls)| listener.address().url(is_tls)).collect()
    }

    /// Returns how many workers are to serve.
    pub(super) fn workers(&self) -> usize {
        self.config.processes.count().unwrap_or(1)
    }

    /// Returns the limits of the workers' times.
    pub(super) fn limits(&self) -> Limits {
        Limits { start: self.config.processes.worker_start_timeout, stop: self.config.graceful_timeout }
    }
}

/// Logs that the supervisor cannot follow a setting that a reload has changed.
fn complain(settings: &str, changed: anyhow::Result<()>) {
    if let Err(error) = changed {
        log::error!("the supervisor itself keeps its old setting ({settings}): {}", sys::plain(error.as_ref()));
    }
}

/// Changes to the directory that the program was started in, to which paths on the command line are relative.
pub(super) fn enter_first(program: &Program) -> Result<(), String> {
    let dir = program.dir();
    std::env::set_current_dir(dir)
        .map_err(|error| format!("cannot change to {}: {}", dir.display(), sys::plain(&error)))
}

/// Changes to the directory and the umask in the settings, or to those that the program was started with. Paths in the
/// settings are relative to that directory, and the directory to the one that the program was started in.
pub(super) fn enter(config: &Config, program: &Program) -> Result<(), String> {
    let dir = match &config.chdir {
        Some(dir) => program.dir().join(dir),
        None => program.dir().to_owned(),
    };
    std::env::set_current_dir(&dir)
        .map_err(|error| format!("cannot change to {}: {}", dir.display(), sys::plain(&error)))?;
    if let Some(mask) = config.umask.or(program.umask()) {
        sys::set_umask(mask);
    }
    Ok(())
}
