//! Settings that are read again for a reload, while the supervisor goes on.
//!
//! *Owns*: the thread that reads, and the reload that waits for it. *Runs on*: the supervisor's thread; the settings are
//! read on a thread of their own, because a configuration file in Python may take its time. *Invariants*: one thread at
//! a time. A reload that is asked for meanwhile reads the settings once more: the files may have changed since.

use std::io::{self, PipeReader};
use std::mem;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::mpsc;
use std::thread;

use crate::config::Config;

/// What a reload reads.
type Outcome = Result<Config, String>;

/// A reload whose settings are being read.
pub(super) struct Reading {
    /// The commands that wait for the reload.
    clients: Vec<u64>,
    /// The reload that comes after this one. `None`: there is none.
    next: Option<Next>,
    outcome: mpsc::Receiver<Outcome>,
    /// Ends when the settings have been read.
    end: PipeReader,
}

/// A reload that waits for the end of another one's reading.
#[derive(Default)]
pub(super) struct Next {
    /// What has asked for it first: `SIGHUP`.
    pub(super) cause: String,
    /// The commands that wait for it.
    pub(super) clients: Vec<u64>,
}

impl Reading {
    /// Begins to read the settings of `config` again, for these commands.
    ///
    /// # Errors
    /// There is no descriptor or no thread left.
    pub(super) fn start(config: &Config, clients: Vec<u64>) -> io::Result<Self> {
        let (end, writer) = io::pipe()?;
        let (sender, outcome) = mpsc::channel();
        let config = config.clone();
        let read = move || {
            // If the supervisor has ended, the settings are not needed.
            let _ = sender.send(read_again(&config));
            drop(writer);
        };
        thread::Builder::new().name("maypole-reload".to_owned()).spawn(read)?;
        Ok(Self { clients, next: None, outcome, end })
    }

    /// Returns the descriptor to wait for.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    /// Makes another reload follow.
    pub(super) fn queue(&mut self, cause: &str, client: Option<u64>) {
        let next = self.next.get_or_insert_with(|| Next { cause: cause.to_owned(), ..Next::default() });
        next.clients.extend(client);
    }

    /// Returns all commands that wait, for an answer without settings.
    pub(super) fn into_clients(self) -> Vec<u64> {
        self.clients.into_iter().chain(self.next.into_iter().flat_map(|next| next.clients)).collect()
    }

    /// Takes the settings with the commands that wait for them, and the reload that follows. `None`: they are still
    /// being read.
    pub(super) fn take(&mut self) -> Option<(Outcome, Vec<u64>, Option<Next>)> {
        let outcome = match self.outcome.try_recv() {
            Ok(outcome) => outcome,
            Err(mpsc::TryRecvError::Empty) => return None,
            Err(mpsc::TryRecvError::Disconnected) => Err("the thread that reads the settings has failed".to_owned()),
        };
        Some((outcome, mem::take(&mut self.clients), self.next.take()))
    }
}

/// Reads the command line, the environment and the configuration file again. An error is a sentence for the operator.
fn read_again(config: &Config) -> Outcome {
    let config = config.read_again().map_err(|error| {
        let text = error.to_string();
        text.trim_end().trim_start_matches("error: ").to_owned()
    })?;
    config.check()?;
    Ok(config)
}
