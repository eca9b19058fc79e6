//! The place of a worker: its link to the supervisor, and what the first message on the link gives it.
//!
//! *Owns*: the worker's end of the link, its slot, and the listening sockets until the server has
//! them. *Runs on*: the main thread, until the thread `maypole-link` reads the link.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, anyhow, bail};

use crate::cli::Exit;
use crate::link::{Command, Event, Link, Start};
use crate::listener::Listener;
use crate::metrics::Departure;
use crate::scoreboard::{SLOTS, Scoreboard, Slot};
use crate::server::Given;
use crate::sys::{self, Lock, errno};
use crate::tls::Seed;

/// The place of a worker.
pub(crate) struct Place {
    link: Link,
    start: Start,
    /// The worker's slot in the scoreboard.
    slot: Slot,
    /// The listening sockets, until `listeners`.
    sockets: Lock<Vec<OwnedFd>>,
    /// Whether the supervisor knows how the start has ended.
    told: AtomicBool,
}

impl Place {
    /// Takes over the link whose number the supervisor has put into the environment, and waits for the first message.
    ///
    /// # Errors
    /// The number is not that of a link, or the supervisor has ended.
    #[allow(unsafe_code, reason = "the descriptor's number comes from the environment")]
    pub(super) fn receive(number: &OsStr) -> anyhow::Result<Self> {
        let number = number.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| anyhow!("it is no number"))?;
        // SAFETY: the supervisor has left the descriptor for this process, and nothing else has run yet.
        Self::first_of(Link::from(unsafe { sys::inherited_descriptor(number) }?))
    }

    /// Waits for the first message on a link.
    ///
    /// # Errors
    /// The supervisor has ended, or the message gives no place.
    pub(super) fn first_of(link: Link) -> anyhow::Result<Self> {
        let (command, descriptors) = link.receive::<Command>()?.context("the supervisor has ended")?;
        let Some(Command::Start(start)) = command else { bail!("the first message gives no place to a worker") };
        let mut descriptors = descriptors.into_iter();
        let scoreboard = descriptors.next().context("the first message has no scoreboard")?;
        let scoreboard = Scoreboard::open(scoreboard).context("the supervisor's scoreboard")?;
        if start.slot >= SLOTS {
            bail!("the scoreboard has no slot {}", start.slot);
        }
        let slot = scoreboard.slot(start.slot);
        if !start.is_template && !start.runs_hooks {
            slot.enter(std::process::id(), start.number, start.generation);
        }
        let (sockets, told) = (Lock::new(descriptors.collect()), AtomicBool::new(false));
        Ok(Self { link, start, slot, sockets, told })
    }

    /// Returns the command line that the settings are read from.
    pub(super) fn words(&self) -> Vec<OsString> {
        self.start.words.iter().cloned().map(OsString::from).collect()
    }

    /// Returns the files whose change means that the settings have to be read anew. If one is a link, the file that it
    /// leads to is among them.
    pub(super) fn settings_files(&self) -> BTreeSet<PathBuf> {
        let named = self.start.settings_files.iter().cloned().map(|word| PathBuf::from(OsString::from(word)));
        named.flat_map(|path| [path.canonicalize().unwrap_or_else(|_| path.clone()), path]).collect()
    }

    /// Returns what the supervisor says of the place.
    pub(super) fn start(&self) -> &Start {
        &self.start
    }

    /// Returns what the keys of the service's tickets are derived from.
    pub(super) fn seed(&self) -> Option<Seed> {
        Seed::from_bytes(&self.start.ticket_seed)
    }

    /// Returns the worker's slot in the scoreboard.
    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Makes listeners of the supervisor's sockets.
    ///
    /// # Errors
    /// A descriptor is not that of a listening socket.
    pub(super) fn listeners(&self) -> anyhow::Result<Vec<Listener>> {
        std::mem::take(&mut *self.sockets.lock())
            .into_iter()
            .zip(self.start.tls.iter().copied().chain(std::iter::repeat(false)))
            .map(|(socket, is_tls)| Listener::adopt(socket).map(|listener| listener.with_tls(is_tls)))
            .collect::<anyhow::Result<_>>()
            .context("a socket of the supervisor")
    }

    /// Closes the supervisor's sockets, in a process that does not serve.
    pub(super) fn let_go_of_sockets(&self) {
        self.sockets.lock().clear();
    }

    /// Waits for the next command. `Ok(None)`: the supervisor has ended. A command of a later version is left out.
    pub(super) fn next(&self) -> std::io::Result<Option<(Command, Vec<OwnedFd>)>> {
        loop {
            let received = match self.link.receive::<Command>() {
                Err(error) if error.raw_os_error() == Some(errno::EMFILE) => {
                    log::warn!("a command of the supervisor is lost: the process has no descriptor left for it");
                    continue;
                }
                received => received?,
            };
            match received {
                None => return Ok(None),
                Some((Some(command), descriptors)) => return Ok(Some((command, descriptors))),
                Some((None, _)) => log::debug!("the supervisor sent a command that this version does not know"),
            }
        }
    }

    /// Tells the supervisor that the worker serves.
    pub(super) fn say_ready(&self, python: String) {
        self.told.store(true, Ordering::SeqCst);
        self.say(&Event::Ready { python });
    }

    /// Tells the supervisor why the worker cannot start, unless the supervisor knows how the start has ended.
    pub(super) fn say_failed(&self, exit: Exit, reason: String) {
        if !self.told.swap(true, Ordering::SeqCst) {
            self.say(&Event::Failed { exit: exit as u8, reason });
        }
    }

    /// Asks the supervisor for a replacement. The worker serves until it is told to stop.
    pub(super) fn say_replace(&self, cause: Departure, reason: String) {
        self.say(&Event::Replace { reason, cause: cause.name().to_owned() });
    }

    /// Tells the supervisor what became of the connections that were to move while the worker serves.
    pub(super) fn say_given(&self, Given { moved, stayed }: Given) {
        self.say(&Event::Given { moved, closed: 0, stayed });
    }

    /// Tells the supervisor what became of the connections that the stop should move.
    pub(super) fn say_given_at_stop(&self, Given { moved, stayed }: Given) {
        self.say(&Event::Given { moved, closed: stayed, stayed: 0 });
    }

    /// Tells the supervisor that files of the application have changed, or one of the settings.
    pub(super) fn say_changed(&self, file: String, is_of_settings: bool) {
        self.say(&Event::Changed { file, is_of_settings });
    }

    pub(super) fn say(&self, event: &Event) {
        // If the supervisor has ended, the thread `maypole-link` sees that.
        if let Err(error) = self.link.send(event, &[]) {
            log::debug!("cannot tell the supervisor: {}", sys::plain(&error));
        }
    }
}
