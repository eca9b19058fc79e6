//! A connection that becomes a WebSocket when its call has returned.
//!
//! *Owns*: the socket on its way from the handler to the connection. *Runs on*: the handler's thread. *Invariants*: if
//! the connection does not get the socket, the socket is over, and its application is told.

use std::time::Instant;

use super::{End, Responder};
use crate::websocket::Unopened;

/// What the connection needs to become a WebSocket.
#[derive(Debug)]
pub struct Upgrade {
    /// The response of the handshake, as it is sent.
    pub response: Vec<u8>,
    /// The socket.
    pub socket: Unopened,
}

impl Responder {
    /// Ends the request: its connection becomes a WebSocket. No part of a response may have been sent. Otherwise like
    /// `finish`.
    pub fn upgrade(mut self, upgrade: Upgrade, ended: Option<Instant>, environ: Vec<(String, String)>) {
        self.end(End::Complete, ended, environ, |outbox| outbox.upgrade = Some(Box::new(upgrade)));
    }
}
