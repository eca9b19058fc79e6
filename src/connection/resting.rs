//! An idle connection: the state that it keeps while it waits for its client.
//!
//! *Owns*: the stream, and the part of a head that has arrived. *Runs on*: the coroutines of the listener and of the
//! idle set, which do not wait here. *Invariants*: a connection takes at most 56 bytes besides the part of a head,
//! because there may be very many idle connections.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use super::http2::Session;
use super::overload::Awaited;
use super::suspended::Suspended;
use super::transport::{Received, Stream, Transport};
use super::{Connection, Opening, Outcome, Reused, Shared};
use crate::handler::{Handler, Local, Origin, Scheme};
use crate::http::HeadScanner;
use crate::metrics::Count;
use crate::sys::{HeldFd, HeldNumber};
use crate::timer::{self, Tick};
use crate::tls::{Hello, hello_of};

/// An idle connection, or one that has just been accepted.
pub struct Resting {
    pub(super) stream: Stream,
    pub(super) origin: CompactOrigin,
    pub(super) begun: Option<Box<Begun>>,
    /// When the connection was accepted, or when its last response was sent.
    rested: Tick,
    pub(super) opening: Opening,
    pub(super) has_served: bool,
    /// Whether the last read emptied the socket.
    read_dry: bool,
}

/// What `look` found on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing to act on: no bytes, or an incomplete head.
    Nothing,
    /// Work for a coroutine.
    Something,
    /// The client has disconnected, and no response is due.
    End,
}

/// The origin of the connection's requests. Nearly all origins are IPv4 addresses, which fit here without an
/// allocation.
pub(super) enum CompactOrigin {
    V4 { address: [u8; 4], port: u16, scheme: Scheme, local: Arc<Local> },
    Other(Arc<Origin>),
}

/// The part of a head that has arrived.
pub(super) struct Begun {
    pub(super) buffer: Vec<u8>,
    pub(super) scanner: HeadScanner,
    /// When the head's first byte arrived.
    pub(super) began: Instant,
    /// The response that is suspended. The buffer then has bytes that follow its request.
    pub(super) suspended: Option<Suspended>,
    /// The session of HTTP/2, once there is one. The buffer then has bytes that have come since the connection rests.
    pub(super) session: Option<Box<Session>>,
}

impl CompactOrigin {
    fn new(client: Option<SocketAddr>, scheme: Scheme, local: Arc<Local>) -> Self {
        match client {
            Some(SocketAddr::V4(client)) => Self::v4(client, scheme, local),
            _ => Self::Other(Arc::new(Origin { scheme, ..Origin::new(client, local) })),
        }
    }

    fn v4(client: SocketAddrV4, scheme: Scheme, local: Arc<Local>) -> Self {
        Self::V4 { address: client.ip().octets(), port: client.port(), scheme, local }
    }

    pub(super) fn into_origin(self) -> Arc<Origin> {
        match self {
            Self::V4 { address, port, scheme, local } => {
                let client = SocketAddrV4::new(Ipv4Addr::from(address), port);
                Arc::new(Origin { scheme, ..Origin::new(Some(client.into()), local) })
            }
            Self::Other(origin) => origin,
        }
    }

    fn of(origin: &Arc<Origin>) -> Self {
        match **origin {
            Origin { client: Some(SocketAddr::V4(client)), scheme, host: None, ref local, told: None, tls: None } => {
                Self::v4(client, scheme, Arc::clone(local))
            }
            _ => Self::Other(Arc::clone(origin)),
        }
    }
}

impl AsFd for Resting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Resting {
    /// Returns the number of the descriptor.
    pub fn number(&self) -> HeldNumber {
        self.stream.number()
    }

    /// Makes an idle connection from one that has just been accepted. `client` is `None` for a unix socket, and
    /// `scheme` is what the listener speaks.
    ///
    /// # Errors
    /// The runtime cannot watch the descriptor.
    pub fn new(
        fd: impl Into<HeldFd>,
        client: Option<SocketAddr>,
        scheme: Scheme,
        local: Arc<Local>,
        opening: Opening,
    ) -> std::io::Result<Self> {
        Ok(Self {
            stream: Stream::new(fd)?,
            origin: CompactOrigin::new(client, scheme, local),
            begun: None,
            rested: timer::tick_of(Instant::now()),
            opening,
            has_served: false,
            read_dry: false,
        })
    }

    /// Makes an idle connection from all its parts.
    ///
    /// # Errors
    /// The runtime cannot watch the descriptor.
    pub(super) fn restore(
        fd: HeldFd,
        origin: &Arc<Origin>,
        opening: Opening,
        rested: Instant,
        has_served: bool,
        begun: Option<Box<Begun>>,
    ) -> std::io::Result<Self> {
        let (stream, origin, rested) = (Stream::new(fd)?, CompactOrigin::of(origin), timer::tick_of(rested));
        Ok(Self { stream, origin, begun, rested, opening, has_served, read_dry: false })
    }

    /// Returns when the connection was accepted, or when its last response was sent.
    pub(super) fn rested_at(&self) -> Instant {
        timer::moment(self.rested)
    }

    /// Returns whether closing the connection now loses nothing: its client has a response and has sent nothing since.
    pub fn is_at_rest(&self) -> bool {
        self.has_served && !self.has_begun()
    }

    /// Returns whether a part of a request has arrived.
    pub fn has_begun(&self) -> bool {
        self.begun.as_ref().is_some_and(|begun| begun.session.is_none() || !begun.buffer.is_empty())
    }

    /// Reads once, without waiting. A head that arrives in many small pieces needs no coroutine before its last piece.
    pub fn look(&mut self, shared: &Shared) -> Look {
        let mut received = Vec::new();
        let buffer = self.begun.as_mut().map_or(&mut received, |begun| &mut begun.buffer);
        match self.stream.receive_little(buffer, &mut self.read_dry) {
            (Received::Bytes(_) | Received::Part, bytes) => shared.meters.transferred(Count::ReceivedBytes, bytes),
            (Received::Nothing, _) => {
                self.forget_message();
                return Look::Nothing;
            }
            // The client of an incomplete head gets a response, or at least a line in the access log.
            (Received::End | Received::Broken, _) if self.has_begun() => return Look::Something,
            (Received::Broken, _) => return Look::End,
            // The coroutine waits until the client has its last response.
            (Received::End, _) if self.stream.is_unreadable() => return Look::Something,
            (Received::End, _) => {
                // Each side tells the other (RFC 8446 §6.1).
                self.stream.end();
                return Look::End;
            }
        }
        self.begun.get_or_insert_with(|| {
            let (scanner, began) = (HeadScanner::default(), Instant::now());
            Box::new(Begun { buffer: received, scanner, began, suspended: None, session: None })
        });
        self.judge(shared)
    }

    /// Reads once, like `look`, and also judges what had arrived before.
    pub fn look_again(&mut self, shared: &Shared) -> Look {
        match self.look(shared) {
            Look::Nothing if self.has_begun() => self.judge(shared),
            look => look,
        }
    }

    /// Decides whether the bytes that have arrived are work for a coroutine.
    fn judge(&mut self, shared: &Shared) -> Look {
        let Some(begun) = &mut self.begun else { return Look::Nothing };
        if begun.session.is_some() {
            return if begun.buffer.is_empty() && self.read_dry { Look::Nothing } else { Look::Something };
        }
        if self.opening == Opening::Handshake {
            let is_due = match self.stream.session() {
                Some(session) => session.has_record(),
                None => hello_of(&begun.buffer) != Hello::Incomplete,
            };
            return if is_due || !self.read_dry { Look::Something } else { Look::Nothing };
        }
        if !self.opening.is_request() {
            let proxies = shared.derived.proxies.as_ref();
            let waits = proxies.is_some_and(|proxies| proxies.wants_more(self.opening, &begun.buffer));
            return if waits && self.read_dry { Look::Nothing } else { Look::Something };
        }
        let before = begun.scanner.clone();
        match begun.scanner.scan(&begun.buffer, &shared.derived.limits) {
            Ok(None) if self.read_dry => Look::Nothing,
            _ => {
                // The coroutine scans again and comes to the same result.
                begun.scanner = before;
                Look::Something
            }
        }
    }

    /// Notes that no request has begun, if the bytes that have arrived were a message of TLS alone.
    fn forget_message(&mut self) {
        if self.opening == Opening::Request
            && self.is_secured()
            && self.stream.unopened() == 0
            && self.begun.as_ref().is_some_and(|begun| begun.buffer.is_empty())
        {
            self.begun = None;
        }
    }

    /// Returns whether the connection is in a session of TLS, which only this process can continue.
    pub fn is_secured(&self) -> bool {
        self.stream.is_secured()
    }

    /// Tells the client of HTTP/2 or of a session of TLS that nothing follows, unless it has begun a request.
    pub fn end(&mut self) {
        if !self.has_begun() {
            self.say_goodbye();
            self.stream.end();
        }
    }

    /// Returns the time until which the connection may rest.
    pub fn rest_deadline(&self, shared: &Shared) -> Instant {
        if let Some(deadline) = self.http2_deadline(shared) {
            return deadline;
        }
        let began = self.begun.as_ref().map(|begun| begun.began);
        shared.rest_deadline(began, timer::moment(self.rested), self.has_served)
    }

    /// Serves requests until the connection rests or ends. (Coroutine.)
    pub fn serve(mut self, shared: &Arc<Shared>, handler: &dyn Handler) -> Outcome {
        match self.take_session() {
            None => self.resume(shared).serve(handler),
            Some(session) => self.resume(shared).serve_http2(session, handler),
        }
    }

    /// Ends a connection whose idle time is over. If the client has begun a request, sends it a 408. (Coroutine.)
    pub fn expire(self, shared: &Arc<Shared>) {
        self.resume(shared).expire();
    }

    /// Sends a 503 on a connection that got no coroutine in time, or ends its session of HTTP/2. (Coroutine.)
    pub fn turn_away(mut self, shared: &Arc<Shared>) {
        if self.is_http2() {
            shared.note_overload(Awaited::Coroutine, None);
            self.say_goodbye();
            return self.stream.shut_down();
        }
        self.resume(shared).turn_away();
    }

    fn resume(self, shared: &Arc<Shared>) -> Connection {
        let (buffer, scanner, head_began, suspended) = match self.begun {
            Some(begun) => (begun.buffer, begun.scanner, Some(begun.began), begun.suspended),
            None => (Vec::new(), HeadScanner::default(), None, None),
        };
        Connection {
            transport: Transport::resume(self.stream, self.read_dry, shared.meters.clone()),
            connected: self.origin.into_origin(),
            told: None,
            shared: Arc::clone(shared),
            opening: self.opening,
            buffer,
            scanner,
            head_began,
            rested: timer::moment(self.rested),
            has_served: self.has_served,
            suspended,
            reused: Reused::default(),
        }
    }
}

impl Connection {
    /// Frees everything that is not needed until there is work to do.
    pub(super) fn rest(self) -> Resting {
        let (mut buffer, scanner, suspended) = (self.buffer, self.scanner, self.suspended);
        let (stream, read_dry) = self.transport.rest();
        let began = if suspended.is_some() { Some(self.head_began.unwrap_or(self.rested)) } else { self.head_began };
        if suspended.is_some() {
            buffer.shrink_to_fit();
        }
        Resting {
            origin: CompactOrigin::of(&self.connected),
            begun: began.map(|began| Box::new(Begun { buffer, scanner, began, suspended, session: None })),
            rested: timer::tick_of(self.rested),
            opening: self.opening,
            has_served: self.has_served,
            read_dry,
            stream,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resting_connection_is_small() {
        // The runtime's own part is not counted, because its size depends on features, and tests enable more of them.
        assert!(size_of::<Resting>() - size_of::<Stream>() <= 40);
    }

    #[test]
    fn resting_connection_keeps_the_whole_origin() {
        let local = Arc::new(Local::Tcp(([127, 0, 0, 1], 80).into()));
        let plain = Origin::new(Some(([10, 0, 0, 7], 51608).into()), Arc::clone(&local));
        let host = Some(Box::from(*b"example.com"));
        for origin in [
            Origin { scheme: Scheme::Https, ..plain.clone() },
            Origin { client: Some("[fe80::1]:7".parse().expect("an address")), ..plain.clone() },
            Origin { client: None, ..plain.clone() },
            Origin { host, ..plain.clone() },
            plain,
        ] {
            let compact = CompactOrigin::of(&Arc::new(origin.clone()));
            assert_eq!(*compact.into_origin(), origin);
        }
    }
}
