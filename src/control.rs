//! The socket on which a supervisor takes requests, and the command that sends them: `maypole reload`.
//!
//! *Owns*: the socket, and the channels to the commands that wait. *Runs on*: the supervisor's thread, which never
//! waits; the main thread of the command. *Invariants*: only processes of the same user and of root are heard. The name
//! of the socket has the number of the process and that of its PID namespace, because containers may share a network
//! namespace.

mod command;

use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::{fs, io};

use serde::{Deserialize, Serialize};

pub use self::command::{Outcome, reload};
use crate::sys::{self, Channel, ChannelListener, Peer};

/// What a command asks of the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Read the settings and the application anew.
    Reload,
}

/// What the supervisor responds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Whether the request had its effect.
    pub is_ok: bool,
    /// A sentence for the operator.
    pub sentence: String,
}

/// The supervisor's end.
#[derive(Debug, Default)]
pub struct Control {
    listener: Option<ChannelListener>,
    clients: Vec<Client>,
    /// How many clients there have been.
    accepted: u64,
}

/// A command that is connected.
#[derive(Debug)]
struct Client {
    number: u64,
    channel: Channel,
}

impl Control {
    /// Listens for commands. If the name is taken, no command reaches this process, which is logged.
    pub fn listen() -> Self {
        let listener = match ChannelListener::bind(&name(std::process::id())) {
            Ok(listener) => Some(listener),
            Err(error) => {
                log::warn!("`maypole reload` cannot reach this process: {}", sys::plain(&error));
                None
            }
        };
        Self { listener, ..Self::default() }
    }

    /// Returns the descriptors to wait for.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listener.iter().map(ChannelListener::as_fd).chain(self.clients.iter().map(|client| client.channel.as_fd()))
    }

    /// Receives requests, and accepts commands. Does not wait. Returns each request with the number of its client.
    pub fn receive(&mut self) -> Vec<(u64, Request)> {
        while let Some(Ok(Some((channel, peer)))) = self.listener.as_ref().map(ChannelListener::accept) {
            if is_trusted(peer) {
                self.accepted += 1;
                self.clients.push(Client { number: self.accepted, channel });
            }
        }
        let mut requests = Vec::new();
        self.clients.retain(|client| {
            loop {
                match client.channel.receive() {
                    Ok(Some(message)) => match serde_json::from_slice(&message.bytes) {
                        Ok(request) => requests.push((client.number, request)),
                        Err(_) => break false,
                    },
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                    Ok(None) | Err(_) => break false,
                }
            }
        });
        requests
    }

    /// Responds to a client, and closes the channel. A client that has gone away is left out.
    pub fn respond(&mut self, number: u64, response: &Response) {
        let Some(index) = self.clients.iter().position(|client| client.number == number) else { return };
        let client = self.clients.remove(index);
        if let Ok(bytes) = serde_json::to_vec(response) {
            // An error means that the client has gone away.
            let _ = client.channel.send(&bytes, &[]);
        }
    }
}

/// Returns whether a process may command this one, or be commanded by it.
fn is_trusted(peer: Peer) -> bool {
    peer.uid == 0 || peer.uid == sys::user_id_of_process()
}

/// Returns the abstract name on which a process of this PID namespace listens.
fn name(pid: u32) -> String {
    format!("{}{pid}", prefix())
}

/// Returns the part of the name that all processes of this PID namespace have.
fn prefix() -> String {
    let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
    format!("maypole/{namespace}/")
}
