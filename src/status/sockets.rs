//! The sockets of `--status-bind` and `--control`.
//!
//! *Owns*: the sockets, with the files of unix sockets. *Runs on*: the main thread binds; the thread `maypole-status`
//! accepts. *Invariants*: a socket stays open as long as the settings name its address: over a reload, in a new
//! supervisor, and in the program that goes on in the same process.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::BACKLOG;
use crate::config::{ListenAddress, StatusSettings};
use crate::listener::{Listener, Record};

/// The sockets on which the status is shown, and on which commands arrive.
#[derive(Debug, Clone, Default)]
pub struct Sockets(Vec<Socket>);

#[derive(Debug, Clone)]
pub(super) struct Socket {
    /// The address in the settings.
    address: String,
    /// Whether it is that of `--control`.
    pub(super) is_door: bool,
    pub(super) listener: Arc<Listener>,
}

/// A socket without its descriptor, for another process or another program.
#[derive(Debug, Serialize, Deserialize)]
pub struct SocketRecord {
    address: String,
    is_door: bool,
    listener: Record,
}

impl SocketRecord {
    /// Returns the number of the descriptor.
    pub fn number(&self) -> i32 {
        self.listener.number()
    }
}

impl Sockets {
    /// Binds the addresses in the settings, except those of `known` sockets.
    ///
    /// # Errors
    /// As for `Listener::bind_all`.
    pub fn bind(settings: &StatusSettings, known: &Self) -> anyhow::Result<Self> {
        let mut sockets = Vec::new();
        for address in &settings.status_bind {
            let name = address.to_string();
            sockets.extend(known.of(&name, false, || Listener::bind_among(address, &settings.status_bind, BACKLOG))?);
        }
        if let Some(file) = &settings.control {
            let name = ListenAddress::Unix(file.clone()).to_string();
            sockets.extend(known.of(&name, true, || Ok(vec![Listener::bind_private(file, BACKLOG)?]))?);
        }
        Ok(Self(sockets))
    }

    /// Returns the sockets of an address, which `bind` binds if they are not known.
    fn of(
        &self,
        address: &str,
        is_door: bool,
        bind: impl FnOnce() -> anyhow::Result<Vec<Listener>>,
    ) -> anyhow::Result<Vec<Socket>> {
        let is_same = |known: &&Socket| known.address == address && known.is_door == is_door;
        let known: Vec<_> = self.0.iter().filter(is_same).cloned().collect();
        if !known.is_empty() {
            return Ok(known);
        }
        let make = |listener: Listener| {
            // Another process may accept the client that made the socket ready.
            listener.set_nonblocking()?;
            Ok(Socket { address: address.to_owned(), is_door, listener: Arc::new(listener) })
        };
        bind()?.into_iter().map(make).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.0.iter()
    }

    /// Returns whether this is one of them.
    pub(super) fn has(&self, socket: &Socket) -> bool {
        self.0.iter().any(|known| Arc::ptr_eq(&known.listener, &socket.listener))
    }

    /// Returns the sockets as a part of a message.
    pub fn records(&self) -> Vec<SocketRecord> {
        let record = |socket: &Socket| SocketRecord {
            address: socket.address.clone(),
            is_door: socket.is_door,
            listener: socket.listener.record(),
        };
        self.0.iter().map(record).collect()
    }

    /// Returns the descriptors, in the order of the records.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|socket| socket.listener.as_fd())
    }
}

impl FromIterator<(SocketRecord, OwnedFd)> for Sockets {
    /// Makes the sockets again from their records, each with its descriptor.
    fn from_iter<I: IntoIterator<Item = (SocketRecord, OwnedFd)>>(records: I) -> Self {
        let socket = |(SocketRecord { address, is_door, listener }, fd)| Socket {
            address,
            is_door,
            listener: Arc::new(Listener::from_record(listener, fd)),
        };
        Self(records.into_iter().map(socket).collect())
    }
}
