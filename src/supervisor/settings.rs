//! The settings of the service, with the sockets that they name.
//!
//! *Owns*: the listening sockets. *Runs on*: the supervisor's thread.

use std::rc::Rc;

use super::roster::Limits;
use crate::config::{Config, ListenAddress};
use crate::identity::{self, Identity};
use crate::link::Word;
use crate::listener::Listener;
use crate::logs;
use crate::sys::{self, Program};

/// The settings that a worker starts with.
pub(super) struct Settings {
    pub(super) config: Config,
    /// The command line for the workers.
    pub(super) words: Vec<Word>,
    /// The sockets of each address. Settings before and after a reload share those of the addresses that stay.
    listeners: Vec<Rc<Vec<Listener>>>,
}

impl Settings {
    /// Reads the command line, the environment and the configuration file again.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn read_again(&self) -> Result<Config, String> {
        let config = self.config.read_again().map_err(|error| {
            let text = error.to_string();
            text.trim_end().trim_start_matches("error: ").to_owned()
        })?;
        config.check()?;
        config.check_paths()?;
        Ok(config)
    }

    /// Binds the addresses in `config`, except those that the settings `before` have bound.
    ///
    /// # Errors
    /// The errors of `Listener::bind_one`.
    pub(super) fn bind(config: Config, before: Option<&Self>) -> anyhow::Result<Self> {
        let known = |address: &ListenAddress| {
            let before = before?;
            let index = before.config.bind.iter().position(|known| known == address)?;
            before.listeners.get(index).map(Rc::clone)
        };
        let bind = |address| match known(address) {
            Some(listeners) => Ok(listeners),
            None => Listener::bind_one(&config, address).map(Rc::new),
        };
        let listeners = config.bind.iter().map(bind).collect::<anyhow::Result<_>>()?;
        let words = config.words().iter().map(|word| Word::from(word.as_os_str())).collect();
        Ok(Self { config, words, listeners })
    }

    /// Writes the PID file, and lets the user of the workers write to the log files. The supervisor itself keeps its
    /// user: it binds addresses and opens log files again later.
    ///
    /// # Errors
    /// There is no such user, or another process has the PID file.
    pub(super) fn settle(&self) -> anyhow::Result<()> {
        if let Some(identity) = Identity::of(&self.config)? {
            let (user, group) = identity.owner();
            logs::give_to(user, group);
        }
        match &self.config.processes.pid {
            Some(path) => identity::write_pid_file(path, None),
            None => Ok(()),
        }
    }

    /// Returns the listening sockets.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().flat_map(|listeners| listeners.iter())
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

/// Changes to the directory that the program was started in, to which paths on the command line are relative.
pub(super) fn enter_first(program: &Program) -> Result<(), String> {
    let dir = program.dir();
    std::env::set_current_dir(dir)
        .map_err(|error| format!("cannot change to {}: {}", dir.display(), sys::plain(&error)))
}

/// Changes to the directory and the umask in the settings. Paths in the settings are relative to that directory, and the
/// directory to the one that the program was started in.
pub(super) fn enter(config: &Config, program: &Program) -> Result<(), String> {
    let dir = match &config.chdir {
        Some(dir) => program.dir().join(dir),
        None => program.dir().to_owned(),
    };
    std::env::set_current_dir(&dir)
        .map_err(|error| format!("cannot change to {}: {}", dir.display(), sys::plain(&error)))?;
    if let Some(mask) = config.umask {
        sys::set_umask(mask);
    }
    Ok(())
}
