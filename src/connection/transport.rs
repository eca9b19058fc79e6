//! The bytes of a connection: everything between HTTP and the socket.
//!
//! *Owns*: the socket while the connection has a coroutine, its session of TLS, its waker, its timer, the events that
//! epoll has reported, and the connection's turn. *Runs on*: the connection's coroutine; `Stream::receive_little` also
//! on the coroutines of the listener and of the idle set. *Invariants*: only this file, `secured` and `kernel`
//! call the client's socket. Only `wait` and `take_turn` suspend the coroutine. A call that moves bytes is charged to the turn. After a read has
//! emptied a socket, the socket is not read again until epoll reports an event.

mod kernel;
mod secured;

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use self::secured::Secured;
use super::turn::Turn;
use crate::metrics::{Count, Meters};
use crate::sys::{self, HeldFd, HeldNumber, Io, LITTLE_BYTES, Readiness, TurnOf, Waitable, Waker};
use crate::timer::Timer;
use crate::tls::Session;

/// How the bytes of a connection reach its socket. A connection keeps this while it is at rest.
pub(super) enum Stream {
    /// Unchanged.
    Plain(Waitable),
    /// In a session of TLS.
    Tls(Box<(Waitable, Box<Secured>)>),
}

/// A stream while its connection has a coroutine.
pub(super) struct Transport {
    socket: Waitable,
    /// `None`: without TLS, or before its handshake.
    secured: Option<Box<Secured>>,
    waker: Waker,
    timer: Timer,
    /// What epoll has reported since the last read that emptied the socket.
    readiness: Readiness,
    /// Whether the last read emptied the socket and epoll has reported no new data since.
    read_dry: bool,
    turn: Turn,
    /// Counts the bytes.
    meters: Meters,
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// The number of received bytes, at least one.
    Bytes(usize),
    /// A part of a record of TLS, of which nothing can be used yet.
    Part,
    /// The client has closed its side and sends no more bytes.
    End,
    /// No bytes for now.
    Nothing,
    /// The connection is broken.
    Broken,
}

/// How the server closes its side. Dropping the transport without calling `close` is a plain close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// The client sees the end after the last byte, and knows that nothing is missing. The server can still read.
    Whole,
    /// The client sees the end after the last byte. With TLS it knows that something may be missing. The server can
    /// still read.
    Output,
    /// Closing the socket will reset the connection, so that the client does not take the close for a regular end.
    Reset,
}

/// The latest end of a wait: the earliest of several moments, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Until(Option<Instant>);

impl Until {
    /// Only an event or a wake ends the wait.
    pub(super) const EVENT: Self = Self(None);

    /// The wait ends at this moment.
    pub(super) fn at(moment: Instant) -> Self {
        Self(Some(moment))
    }

    /// The wait also ends at this moment.
    #[must_use]
    pub(super) fn or(self, moment: Instant) -> Self {
        Self(Some(self.0.map_or(moment, |earlier| earlier.min(moment))))
    }

    /// The wait also ends when the other would.
    #[must_use]
    pub(super) fn or_until(self, other: Self) -> Self {
        other.0.map_or(self, |moment| self.or(moment))
    }

    /// Returns whether the earliest moment has passed.
    pub(super) fn has_passed(self, now: Instant) -> bool {
        self.0.is_some_and(|moment| now >= moment)
    }
}

impl From<Io<usize>> for Received {
    fn from(result: Io<usize>) -> Self {
        match result {
            Io::Done(0) => Self::End,
            Io::Done(bytes) => Self::Bytes(bytes),
            Io::WouldBlock => Self::Nothing,
            Io::Failed(_) => Self::Broken,
        }
    }
}

impl Received {
    /// Returns whether a read of at most `bytes_max` bytes has emptied the socket.
    fn is_dry(self, bytes_max: usize) -> bool {
        match self {
            Self::Bytes(bytes) => bytes < bytes_max,
            Self::Nothing => true,
            Self::Part | Self::End | Self::Broken => false,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl Stream {
    /// Makes the stream of a connection that has just been accepted.
    ///
    /// # Errors
    /// The runtime cannot watch the descriptor.
    pub(super) fn new(fd: impl Into<HeldFd>) -> std::io::Result<Self> {
        Waitable::new(fd).map(Self::Plain)
    }

    fn socket(&self) -> &Waitable {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(both) => &both.0,
        }
    }

    /// Takes the socket from the runtime. A session of TLS is lost.
    pub(super) fn into_held(self) -> HeldFd {
        match self {
            Self::Plain(socket) => socket.into_held(),
            Self::Tls(both) => both.0.into_held(),
        }
    }

    /// Returns the number of the socket.
    pub(super) fn number(&self) -> HeldNumber {
        self.socket().number()
    }

    /// Returns the session of TLS, if there is one and the kernel has not got it.
    pub(super) fn session(&self) -> Option<&Session> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(both) => both.1.session(),
        }
    }

    /// Returns whether the connection is in a session of TLS.
    pub(super) fn is_secured(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Returns whether bytes of the client may wait that cannot be read.
    pub(super) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Tls(both) if both.1.is_unreadable())
    }

    /// Receives once, for a connection at rest. Notes in `read_dry` whether nothing more can be received for now.
    /// Returns how many bytes the socket has given, too.
    pub(super) fn receive_little(&mut self, buffer: &mut Vec<u8>, read_dry: &mut bool) -> (Received, usize) {
        match self {
            Self::Plain(socket) => {
                let received = Received::from(sys::receive_little(socket, buffer));
                *read_dry = received.is_dry(LITTLE_BYTES);
                (received, if let Received::Bytes(bytes) = received { bytes } else { 0 })
            }
            Self::Tls(both) => {
                let (socket, secured) = &mut **both;
                let read = secured.receive(socket, buffer, LITTLE_BYTES, false);
                *read_dry = read.dry;
                (read.received, read.sealed_bytes)
            }
        }
    }

    /// Returns how many bytes of a record of TLS have arrived whose rest has not.
    pub(super) fn unopened(&self) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::Tls(both) => both.1.unopened(&both.0),
        }
    }

    /// Sends some of the bytes, for a connection at rest. Returns also how many bytes the socket has taken.
    pub(super) fn send(&mut self, bytes: &[u8]) -> (Io<usize>, usize) {
        match self {
            Self::Plain(socket) => {
                let sent = sys::send(socket, bytes);
                let taken = if let Io::Done(bytes) = sent { bytes } else { 0 };
                (sent, taken)
            }
            Self::Tls(both) => {
                let (socket, secured) = &mut **both;
                secured.send(socket, &[IoSlice::new(bytes)], false)
            }
        }
    }

    /// Frees the memory that a session of TLS does not need at rest.
    pub(super) fn rest(&mut self) {
        if let Self::Tls(both) = self {
            both.1.rest();
        }
    }

    /// Closes the server's side. What follows is received as it comes.
    pub(super) fn shut_down(&mut self) {
        self.end();
        sys::shutdown_write(self.socket());
    }

    /// Tells the client of a session of TLS that nothing follows.
    pub(super) fn end(&mut self) {
        if let Self::Tls(both) = self {
            let (socket, secured) = &mut **both;
            secured.end(socket);
        }
    }
}

impl Transport {
    /// Makes a transport of a stream at rest. `read_dry` says whether the last read emptied the socket. (On the
    /// coroutine that will wait for it.)
    pub(super) fn resume(stream: Stream, read_dry: bool, meters: Meters) -> Self {
        let (socket, secured) = match stream {
            Stream::Plain(socket) => (socket, None),
            Stream::Tls(both) => (both.0, Some(both.1)),
        };
        let waker = socket.waker();
        let timer = Timer::new(waker.clone());
        Self { socket, secured, waker, timer, readiness: Readiness::NONE, read_dry, turn: Turn::new(), meters }
    }

    /// Frees everything that a stream at rest does not need. Returns the stream, and whether the last read emptied the
    /// socket.
    pub(super) fn rest(self) -> (Stream, bool) {
        let stream = match self.secured {
            None => Stream::Plain(self.socket),
            Some(mut secured) => {
                secured.rest();
                Stream::Tls(Box::new((self.socket, secured)))
            }
        };
        (stream, self.read_dry)
    }

    /// Returns the socket, for a call that takes the connection over.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.socket.into_fd()
    }

    /// Returns the waker of the connection's coroutine.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Returns whether nothing can be received until epoll reports it.
    pub(super) fn is_read_dry(&self) -> bool {
        self.read_dry
    }

    /// Returns the work that this connection may still do before others get their turn.
    pub(super) fn turn(&mut self) -> &mut Turn {
        &mut self.turn
    }

    /// Returns whether the connection is known to be broken: bytes sent on it no longer arrive.
    pub(super) fn is_broken(&self) -> bool {
        self.readiness.is_broken()
    }

    /// Returns whether the client is known to have closed its side, or the connection is known to be broken.
    pub(super) fn is_hangup(&self) -> bool {
        self.readiness.is_hangup()
    }

    /// Lets other connections go first if this one has used up its turn. Every loop calls this before it continues.
    pub(super) fn take_turn(&mut self) {
        if self.turn.is_over() {
            self.turn.end_share();
            let reported = self.socket.take_turn(&self.waker, TurnOf::One);
            self.note_report(reported);
            self.turn.fill();
        }
    }

    /// Waits for an event, a wake, or the given moment.
    pub(super) fn wait(&mut self, until: Until) {
        if let Until(Some(deadline)) = until {
            self.timer.set(deadline);
        }
        let reported = self.socket.wait();
        self.note_report(reported);
        // A wake may come without a look for events.
        if reported.is_event() {
            self.turn.fill_share();
        }
    }

    /// Records what epoll reported.
    fn note_report(&mut self, reported: Readiness) {
        if reported.is_readable() || reported.is_hangup() {
            self.read_dry = false;
        }
        self.readiness = self.readiness.and(reported);
    }

    /// Receives a part of a head. The buffer grows only by the bytes that have arrived.
    pub(super) fn receive_little(&mut self, buffer: &mut Vec<u8>) -> Received {
        if self.read_dry {
            return Received::Nothing;
        }
        if self.secured.is_some() {
            return self.receive_opened(buffer, LITTLE_BYTES);
        }
        let result = sys::receive_little(&self.socket, buffer);
        self.note_read(Received::from(result), LITTLE_BYTES)
    }

    /// Receives at most `bytes_max` bytes, directly into the memory of a body or of a buffer.
    pub(super) fn receive(&mut self, memory: &mut Vec<u8>, bytes_max: usize) -> Received {
        if self.read_dry {
            return Received::Nothing;
        }
        if self.secured.is_some() {
            return self.receive_opened(memory, bytes_max);
        }
        let result = sys::receive(&self.socket, memory, bytes_max);
        self.note_read(Received::from(result), bytes_max)
    }

    /// Notes a read: its cost, and whether the socket may hold more bytes.
    fn note_read(&mut self, received: Received, bytes_max: usize) -> Received {
        if received == Received::Broken {
            self.readiness = Readiness::BROKEN;
        }
        // A short read emptied the socket. But epoll reports an end of file after it only once.
        self.read_dry = received.is_dry(bytes_max) && (received == Received::Nothing || !self.readiness.is_hangup());
        if self.read_dry {
            self.readiness = Readiness::NONE;
        }
        let bytes = if let Received::Bytes(bytes) = received { bytes } else { 0 };
        self.meters.transferred(Count::ReceivedBytes, bytes);
        self.turn.spend_call(bytes);
        received
    }

    /// Sends some of the bytes.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Io<usize> {
        if self.secured.is_some() {
            return self.send_sealed(&[IoSlice::new(bytes)], false);
        }
        let sent = sys::send(&self.socket, bytes);
        self.note_sent(sent)
    }

    /// Sends some of the pieces in one call. With `more_follows`, the kernel may hold back the last packet.
    pub(super) fn send_pieces(&mut self, pieces: &[IoSlice<'_>], more_follows: bool) -> Io<usize> {
        if self.secured.is_some() {
            return self.send_sealed(pieces, more_follows);
        }
        let sent = sys::send_all(&self.socket, pieces, more_follows);
        self.note_sent(sent)
    }

    /// Sends a part of a file of which `left` bytes are still to be sent. If it sends 0 bytes, the file has ended.
    pub(super) fn send_file(&mut self, file: BorrowedFd<'_>, offset: u64, left: u64, bytes_max: u64) -> Io<usize> {
        let bytes_max = left.min(bytes_max);
        if self.secured.is_some() {
            self.enter_kernel(left);
        }
        if let Some(secured) = &mut self.secured {
            let (sent, sealed_bytes) = secured.send_file(&self.socket, file, offset, bytes_max);
            return self.note_sealed(sent, sealed_bytes);
        }
        let sent = sys::send_file(&self.socket, file, offset, bytes_max);
        self.note_sent(sent)
    }

    /// Reads a part of a file that is not sent as it is.
    pub(super) fn read_file(file: BorrowedFd<'_>, memory: &mut Vec<u8>, offset: u64, bytes_max: usize) -> Io<usize> {
        sys::read_at(file, memory, offset, bytes_max)
    }

    fn note_sent(&mut self, sent: Io<usize>) -> Io<usize> {
        if let Io::Done(bytes) = &sent {
            self.meters.transferred(Count::SentBytes, *bytes);
            self.turn.spend_call(*bytes);
        }
        sent
    }

    /// Returns the number of sent bytes that the client has not acknowledged. Acknowledgements cause no event.
    pub(super) fn unacknowledged(&self) -> u64 {
        sys::unacknowledged(&self.socket)
    }

    /// Makes the kernel check at intervals whether a client that has closed its side is still connected.
    pub(super) fn probe(&self) {
        sys::probe_peer(&self.socket);
    }

    /// Closes the server's side, now or when the transport is dropped. What follows is received as it comes, without
    /// TLS.
    pub(super) fn close(&mut self, how: Close) {
        match how {
            Close::Whole => self.end(),
            Close::Output | Close::Reset => {}
        }
        // The kernel goes on to open what it receives.
        if self.session().is_some() {
            self.secured = None;
        }
        match how {
            Close::Whole | Close::Output => sys::shutdown_write(&self.socket),
            Close::Reset => sys::reset_on_close(&self.socket),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn wait_ends_at_the_earliest_moment() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        assert_eq!(Until::at(later).or(now), Until::at(now));
        assert_eq!(Until::at(now).or_until(Until::EVENT), Until::at(now));
        assert_eq!(Until::EVENT.or_until(Until::at(now)).or(later), Until::at(now));
        assert!(Until::at(now).has_passed(now) && !Until::at(later).has_passed(now) && !Until::EVENT.has_passed(later));
    }

    #[test]
    fn short_read_empties_the_socket_and_an_end_does_not() {
        let dry = [Received::Bytes(9), Received::Bytes(10), Received::Nothing, Received::End, Received::Broken];
        assert_eq!(dry.map(|received| received.is_dry(10)), [true, false, true, false, false]);
    }
}
