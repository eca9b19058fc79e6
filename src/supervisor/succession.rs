//! A new supervisor that takes the place of the running one (SIGUSR2), with its sockets and its clients.
//!
//! *Owns*: the link between the two. *Runs on*: the thread of either supervisor. *Invariants*: the old supervisor serves
//! until the new one does. Each message is sent by one of them alone. The link never makes either of them wait, except
//! for the first message.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::settings::{Bound, Settings};
use crate::link::Link;
use crate::listener::{Listener, Record};
use crate::status::{SocketRecord, Sockets};
use crate::sys::{self, Life, Program};
use crate::tls::Seed;

/// The environment variable that tells a supervisor that it takes the place of another one: the number of its end of the
/// link.
const VARIABLE: &str = "_MAYPOLE_SUCCESSION";

/// A message between the two supervisors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
enum Message {
    /// The first message of the old supervisor. Descriptors: the sockets of each address, and those on which it shows
    /// its status.
    Inherit {
        pid: u32,
        addresses: Vec<Inherited>,
        #[serde(default)]
        shown: Vec<SocketRecord>,
        /// What the keys of the workers' tickets are derived from.
        #[serde(default)]
        ticket_seed: Vec<u8>,
    },
    /// The workers of the new supervisor serve.
    Serving,
    /// A worker of the new supervisor that received clients has ended: others are to receive them.
    Again,
    /// The service manager takes the new supervisor for the service from now on.
    Lead,
    /// The old supervisor hands clients over. Descriptor: the receiving end of a channel.
    Take,
}

/// The sockets of an address.
#[derive(Debug, Serialize, Deserialize)]
struct Inherited {
    /// The address as the settings name it.
    address: String,
    sockets: Vec<Record>,
}

/// The supervisor whose place this one takes.
pub(super) struct Predecessor {
    pid: u32,
    /// `None` once it has ended.
    link: Option<Link>,
    /// Whether the service manager still takes the old supervisor for the service.
    leads: bool,
    /// The sockets of the old supervisor, whose files stay while it leads.
    given: Given,
    /// The slots of the workers that receive clients from it.
    receivers: Vec<usize>,
    /// Whether one of them has ended since.
    lacks_receiver: bool,
}

/// The sockets of the old supervisor.
#[derive(Clone, Default)]
pub(super) struct Given {
    pub(super) bound: Vec<Bound>,
    /// Those on which it shows its status.
    pub(super) shown: Sockets,
    /// What the keys of its tickets are derived from.
    pub(super) seed: Option<Seed>,
}

/// The supervisor that takes the place of this one.
pub(super) struct Successor {
    pid: u32,
    link: Link,
    /// Whether its workers serve.
    pub(super) serves: bool,
    /// Whether it has ended.
    pub(super) has_ended: bool,
}

/// What the new supervisor has reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing yet.
    None,
    Serving,
    /// Its workers need further channels for the clients.
    Again,
    Ended,
}

/// Makes what a service manager has given to the old supervisor this process's own, if it takes the place of another
/// one. (Before the settings are read.)
pub fn prepare() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    for name in ["LISTEN_PID", "WATCHDOG_PID"] {
        if std::env::var_os(name).is_some() {
            sys::set_variable(name, &std::process::id().to_string());
        }
    }
}

impl Predecessor {
    /// Returns the supervisor whose place this process is to take, and its sockets. `None`: there is none.
    ///
    /// # Errors
    /// The other supervisor has ended, or the link is none.
    #[allow(unsafe_code, reason = "the descriptor's number comes from the environment")]
    pub(super) fn of_process() -> anyhow::Result<Option<(Self, Given)>> {
        let Some(number) = sys::take_variable(VARIABLE) else { return Ok(None) };
        let number = number.to_str().and_then(|text| text.parse().ok()).context("the link's number is none")?;
        // SAFETY: the other supervisor has left the descriptor for this process.
        let link = Link::from(unsafe { sys::inherited_descriptor(number) }?);
        let (message, descriptors) = link.receive::<Message>()?.context("the old supervisor has ended")?;
        let Some(Message::Inherit { pid, addresses, shown, ticket_seed }) = message else {
            anyhow::bail!("the first message of the old supervisor has no sockets")
        };
        link.channel().set_nonblocking(true)?;
        let mut descriptors = descriptors.into_iter();
        let mut bound = Vec::new();
        for Inherited { address, sockets } in addresses {
            let listeners = sockets.into_iter().zip(descriptors.by_ref());
            let listeners = listeners.map(|(record, fd)| Listener::from_record(record, fd)).collect();
            // The settings say whether it has TLS.
            bound.push(Bound { address, is_tls: false, listeners: Rc::new(listeners) });
        }
        let shown = shown.into_iter().zip(descriptors).collect();
        let given = Given { bound, shown, seed: Seed::from_bytes(&ticket_seed) };
        Ok(Some((Self::new(pid, link, given.clone()), given)))
    }

    fn new(pid: u32, link: Link, given: Given) -> Self {
        Self { pid, link: Some(link), leads: true, given, receivers: Vec::new(), lacks_receiver: false }
    }

    /// Returns its process.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Notes that workers receive clients from it. None: no worker serves at this moment.
    pub(super) fn note_receivers(&mut self, slots: Vec<usize>) {
        self.lacks_receiver |= slots.is_empty();
        self.receivers.extend(slots);
    }

    /// Notes that the worker of a slot has ended.
    pub(super) fn forget_receiver(&mut self, slot: usize) {
        let before = self.receivers.len();
        self.receivers.retain(|receiver| *receiver != slot);
        self.lacks_receiver |= self.receivers.len() < before;
    }

    /// Asks it for the clients of receivers that have ended, if there are such and another worker can receive them.
    pub(super) fn ask_again(&mut self, can_receive: bool) {
        if can_receive && std::mem::take(&mut self.lacks_receiver) {
            drop(self.link.as_ref().map(|link| link.send(&Message::Again, &[])));
        }
    }

    /// Tells it that this one serves.
    pub(super) fn say_serving(&self) {
        // If it has ended, there is nothing to take over.
        drop(self.link.as_ref().map(|link| link.send(&Message::Serving, &[])));
    }

    /// Returns the descriptor to wait for.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(|link| link.channel().as_fd())
    }

    /// Returns whether the service manager takes it for the service, so that only it may speak to the manager.
    pub(super) fn leads(&self) -> bool {
        self.leads
    }

    /// Receives the ends of channels on which clients come. Does not wait.
    pub(super) fn receive(&mut self) -> Vec<OwnedFd> {
        let mut channels = Vec::new();
        while let Some(link) = &self.link {
            match link.receive::<Message>() {
                Ok(Some((Some(Message::Take), descriptors))) => channels.extend(descriptors),
                Ok(Some((Some(Message::Lead), _))) => self.lead(),
                Ok(Some(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(None) | Err(_) => {
                    self.link = None;
                    self.lead();
                }
            }
        }
        channels
    }

    /// Notes that this supervisor leads.
    fn lead(&mut self) {
        self.leads = false;
        self.given = Given::default();
    }
}

impl Drop for Predecessor {
    fn drop(&mut self) {
        if self.leads {
            // The old supervisor serves on, and needs the files of its sockets.
            std::mem::forget(std::mem::take(&mut self.given));
        }
    }
}

impl Successor {
    /// Starts the new supervisor, which gets the sockets of `settings`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(super) fn start(program: &Program, settings: &Settings, seed: &Seed) -> io::Result<Self> {
        let (link, theirs) = Link::pair()?;
        let addresses = settings.bound().iter().map(|bound| Inherited {
            address: bound.address.clone(),
            sockets: bound.listeners.iter().map(Listener::record).collect(),
        });
        let (addresses, shown) = (addresses.collect(), settings.shown().records());
        let ticket_seed = seed.as_bytes().to_vec();
        let message = Message::Inherit { pid: std::process::id(), addresses, shown, ticket_seed };
        let descriptors: Vec<_> =
            settings.listeners().map(Listener::as_fd).chain(settings.shown().descriptors()).collect();
        link.channel().set_nonblocking(true)?;
        link.send(&message, &descriptors)?;
        let pid = program.start(VARIABLE, theirs.channel().as_fd(), Life::Own)?;
        Ok(Self { pid, link, serves: false, has_ended: false })
    }

    /// Returns its process.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the descriptor to wait for.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (!self.has_ended).then(|| self.link.channel().as_fd())
    }

    /// Receives its report. Does not wait.
    pub(super) fn receive(&self) -> News {
        match self.link.receive::<Message>() {
            Ok(Some((Some(Message::Serving), _))) => News::Serving,
            Ok(Some((Some(Message::Again), _))) => News::Again,
            Ok(Some(_)) => News::None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => News::None,
            Ok(None) | Err(_) => News::Ended,
        }
    }

    /// Tells it that the service manager takes it for the service from now on.
    pub(super) fn lead(&self) {
        // If it has ended, the service manager knows.
        drop(self.link.send(&Message::Lead, &[]));
    }

    /// Passes it the receiving end of a channel. Returns whether it is on its way.
    pub(super) fn give(&self, channel: BorrowedFd<'_>) -> bool {
        self.link.send(&Message::Take, &[channel]).is_ok()
    }
}
