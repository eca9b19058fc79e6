//! An idle connection: what has to be kept while it waits for its client.
//!
//! *Owns*: the stream, and the part of a head that has arrived. *Runs on*: the coroutines of the listener and of the
//! idle set, which do not wait here. *Invariants*: at most 56 bytes besides the part of a head, because there may be
//! very many.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use super::turn::Turn;
use super::{Connection, Opening, Outcome, Shared};
use crate::handler::{Handler, Local, Peer};
use crate::http::HeadScanner;
use crate::sys::{self, HeldFd, Io, Readiness, Waitable};
use crate::timer::{self, Tick};

/// An idle connection, or one that has just been accepted.
pub struct Resting {
    stream: Waitable,
    ends: Ends,
    begun: Option<Box<Begun>>,
    /// When it came or its last response went.
    rested: Tick,
    opening: Opening,
    has_served: bool,
    /// The last read took everything there was.
    drained: bool,
}

/// What a look at a connection found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing to act on: nothing at all, or a part of a head.
    Nothing,
    /// There is something for a coroutine to do.
    Something,
    /// The client has gone, and there is nothing to answer.
    End,
}

/// Both ends. Nearly all are IPv4, which fits in here.
enum Ends {
    V4 { address: [u8; 4], port: u16, local: Arc<Local> },
    Other(Arc<Peer>),
}

/// What has come of a head.
struct Begun {
    buffer: Vec<u8>,
    scanner: HeadScanner,
    /// When its first byte came.
    began: Instant,
}

impl Ends {
    fn new(remote: Option<SocketAddr>, local: Arc<Local>) -> Self {
        match remote {
            Some(SocketAddr::V4(remote)) => Self::V4 { address: remote.ip().octets(), port: remote.port(), local },
            _ => Self::Other(Arc::new(Peer { remote, local })),
        }
    }

    fn into_peer(self) -> Arc<Peer> {
        match self {
            Self::V4 { address, port, local } => {
                let remote = SocketAddrV4::new(Ipv4Addr::from(address), port);
                Arc::new(Peer { remote: Some(remote.into()), local })
            }
            Self::Other(peer) => peer,
        }
    }

    fn of(peer: &Arc<Peer>) -> Self {
        match peer.remote {
            Some(SocketAddr::V4(_)) => Self::new(peer.remote, Arc::clone(&peer.local)),
            _ => Self::Other(Arc::clone(peer)),
        }
    }
}

impl AsRawFd for Resting {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl Resting {
    /// A connection that has just been accepted, from there unless it is a unix socket.
    ///
    /// # Errors
    /// The runtime cannot watch it.
    pub fn new(
        fd: impl Into<HeldFd>,
        remote: Option<SocketAddr>,
        local: Arc<Local>,
        opening: Opening,
    ) -> std::io::Result<Self> {
        Ok(Self {
            stream: Waitable::new(fd)?,
            ends: Ends::new(remote, local),
            begun: None,
            rested: timer::tick_of(Instant::now()),
            opening,
            has_served: false,
            drained: false,
        })
    }

    /// Whether nothing is lost when it is closed now: it has been answered, and has sent nothing since.
    pub fn is_at_rest(&self) -> bool {
        self.has_served && self.begun.is_none()
    }

    /// Whether a part of a request has come.
    pub fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Reads once, without waiting. A head that comes in many small pieces needs no coroutine before its last one.
    pub fn look(&mut self, shared: &Shared) -> Found {
        let mut received = Vec::new();
        let buffer = self.begun.as_mut().map_or(&mut received, |begun| &mut begun.buffer);
        match sys::receive_little(&self.stream, buffer) {
            Io::WouldBlock => {
                self.drained = true;
                return Found::Nothing;
            }
            Io::Done(0) => {
                self.drained = false;
                return if self.has_begun() { Found::Something } else { Found::End };
            }
            Io::Done(bytes) => self.drained = bytes < sys::LITTLE_BYTES,
            // A part of a head has a line in the access log.
            Io::Failed(_) if self.has_begun() => return Found::Something,
            Io::Failed(_) => return Found::End,
        }
        let begun = self.begun.get_or_insert_with(|| {
            Box::new(Begun { buffer: received, scanner: HeadScanner::default(), began: Instant::now() })
        });
        if self.opening != Opening::Request {
            let proxies = shared.proxies.as_ref();
            let waits = proxies.is_some_and(|proxies| proxies.wants_more(self.opening, &begun.buffer));
            return if waits && self.drained { Found::Nothing } else { Found::Something };
        }
        let before = begun.scanner.clone();
        match begun.scanner.scan(&begun.buffer, &shared.limits) {
            Ok(None) if self.drained => Found::Nothing,
            _ => {
                // The coroutine comes to the same result.
                begun.scanner = before;
                Found::Something
            }
        }
    }

    /// Until when it may rest.
    pub fn rest_deadline(&self, shared: &Shared) -> Instant {
        let began = self.begun.as_ref().map(|begun| begun.began);
        shared.rest_deadline(began, timer::moment(self.rested), self.has_served)
    }

    /// Serves requests until the connection rests or ends. (Coroutine.)
    pub fn serve(self, shared: &Arc<Shared>, handler: &dyn Handler) -> Outcome {
        self.resume(shared).serve(handler)
    }

    /// Its idle time is over. A client that has begun a request gets a 408. (Coroutine.)
    pub fn expire(self, shared: &Arc<Shared>) {
        self.resume(shared).expire();
    }

    /// It got no coroutine in time: a 503. (Coroutine.)
    pub fn turn_away(self, shared: &Arc<Shared>) {
        self.resume(shared).turn_away();
    }

    fn resume(self, shared: &Arc<Shared>) -> Connection {
        let (buffer, scanner, head_began) = match self.begun {
            Some(begun) => (begun.buffer, begun.scanner, Some(begun.began)),
            None => (Vec::new(), HeadScanner::default(), None),
        };
        Connection {
            waker: self.stream.waker(),
            stream: self.stream,
            peer: self.ends.into_peer(),
            shared: Arc::clone(shared),
            opening: self.opening,
            buffer,
            scanner,
            head_began,
            rested: timer::moment(self.rested),
            has_served: self.has_served,
            readiness: Readiness::NONE,
            drained: self.drained,
            turn: Turn::new(),
        }
    }
}

impl Connection {
    /// Lets go of everything that is not needed until there is something to do.
    pub(super) fn rest(self) -> Resting {
        let (buffer, scanner) = (self.buffer, self.scanner);
        Resting {
            ends: Ends::of(&self.peer),
            begun: self.head_began.map(|began| Box::new(Begun { buffer, scanner, began })),
            rested: timer::tick_of(self.rested),
            opening: self.opening,
            has_served: self.has_served,
            drained: self.drained,
            stream: self.stream,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resting_connection_is_small() {
        // The runtime's own part depends on its features, and tests have more of them.
        assert!(size_of::<Resting>() - size_of::<Waitable>() <= 40);
    }
}
