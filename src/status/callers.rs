//! Commands whose connections came from the program that ran in this process before, and that wait for this one.
//!
//! *Owns*: the connections. *Runs on*: the main thread. *Invariants*: each command gets a response, also if this program
//! does not come up. If the process ends without a chance to respond, the end of the connection says so.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::exchange;
use super::routes::Reply;
use crate::control::Response;
use crate::sys::HeldFd;

/// How long a client may take to read its response, which fits into the buffer of its socket.
const SEND_MAX: Duration = Duration::from_secs(1);

/// The connections of the commands that wait until this program serves.
#[derive(Debug, Default)]
pub struct Callers(Vec<HeldFd>);

impl Callers {
    /// Responds to all of them.
    pub fn respond(&mut self, response: &Response) {
        for connection in self.0.drain(..) {
            // An error means that the client has left.
            let _ = exchange::respond(&connection, Reply::of(response), Instant::now() + SEND_MAX);
        }
    }
}

impl FromIterator<OwnedFd> for Callers {
    fn from_iter<I: IntoIterator<Item = OwnedFd>>(connections: I) -> Self {
        Self(connections.into_iter().map(HeldFd::from).collect())
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        let pid = std::process::id();
        self.respond(&Response::failure(format!(
            "process {pid} has started again, and ends because it does not come up: its log says why"
        )));
    }
}
