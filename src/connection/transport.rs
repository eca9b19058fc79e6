//! The bytes of a connection: everything between HTTP and the socket.
//!
//! *Owns*: the socket while the connection has a coroutine, its waker, its timer, the events that epoll has reported,
//! and the connection's turn. *Runs on*: the connection's coroutine; `Stream::receive_little` also on the coroutines of
//! the listener and of the idle set. *Invariants*: no other file of this module calls a socket. Only `wait` and
//! `take_turn` suspend the coroutine. A call that moves bytes is charged to the turn. After a read has emptied a
//! socket, the socket is not read again until epoll reports an event.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use super::turn::Turn;
use crate::metrics::{Count, Meters};
use crate::sys::{self, HeldFd, HeldNumber, Io, LITTLE_BYTES, Readiness, TurnOf, Waitable, Waker};
use crate::timer::Timer;

/// How the bytes of a connection reach its socket. A connection keeps this while it is at rest.
pub(super) enum Stream {
    /// Unchanged.
    Plain(Waitable),
}

/// A stream while its connection has a coroutine.
pub(super) struct Transport {
    stream: Stream,
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
    /// The client sees the end after the last byte. The server can still read.
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
            Self::End | Self::Broken => false,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
        }
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

    /// Takes the socket from the runtime.
    pub(super) fn into_held(self) -> HeldFd {
        match self {
            Self::Plain(socket) => socket.into_held(),
        }
    }

    /// Returns the number of the socket.
    pub(super) fn number(&self) -> HeldNumber {
        match self {
            Self::Plain(socket) => socket.number(),
        }
    }

    /// Receives once, for a connection at rest. Notes in `read_dry` whether the read has emptied the socket.
    pub(super) fn receive_little(&self, buffer: &mut Vec<u8>, read_dry: &mut bool) -> Received {
        let received = match self {
            Self::Plain(socket) => Received::from(sys::receive_little(socket, buffer)),
        };
        *read_dry = received.is_dry(LITTLE_BYTES);
        received
    }
}

impl Transport {
    /// Makes a transport of a stream at rest. `read_dry` says whether the last read emptied the socket. (On the
    /// coroutine that will wait for it.)
    pub(super) fn resume(stream: Stream, read_dry: bool, meters: Meters) -> Self {
        let waker = match &stream {
            Stream::Plain(socket) => socket.waker(),
        };
        let timer = Timer::new(waker.clone());
        Self { stream, waker, timer, readiness: Readiness::NONE, read_dry, turn: Turn::new(), meters }
    }

    /// Frees everything that a stream at rest does not need. Returns the stream, and whether the last read emptied the
    /// socket.
    pub(super) fn rest(self) -> (Stream, bool) {
        (self.stream, self.read_dry)
    }

    /// Returns the socket, for a call that takes the connection over.
    pub(super) fn into_fd(self) -> OwnedFd {
        match self.stream {
            Stream::Plain(socket) => socket.into_fd(),
        }
    }

    /// Returns the waker of the connection's coroutine.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
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
            let reported = match &self.stream {
                Stream::Plain(socket) => socket.take_turn(&self.waker, TurnOf::One),
            };
            self.note_report(reported);
            self.turn.fill();
        }
    }

    /// Waits for an event, a wake, or the given moment.
    pub(super) fn wait(&mut self, until: Until) {
        if let Until(Some(deadline)) = until {
            self.timer.set(deadline);
        }
        let reported = match &self.stream {
            Stream::Plain(socket) => socket.wait(),
        };
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
        let result = match &self.stream {
            Stream::Plain(socket) => sys::receive_little(socket, buffer),
        };
        self.note_read(Received::from(result), LITTLE_BYTES)
    }

    /// Receives at most `bytes_max` bytes, directly into the memory of a body or of a buffer.
    pub(super) fn receive(&mut self, memory: &mut Vec<u8>, bytes_max: usize) -> Received {
        if self.read_dry {
            return Received::Nothing;
        }
        let result = match &self.stream {
            Stream::Plain(socket) => sys::receive(socket, memory, bytes_max),
        };
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
        let sent = match &self.stream {
            Stream::Plain(socket) => sys::send(socket, bytes),
        };
        self.note_sent(sent)
    }

    /// Sends some of the pieces in one call. With `more_follows`, the kernel may hold back the last packet.
    pub(super) fn send_pieces(&mut self, pieces: &[IoSlice<'_>], more_follows: bool) -> Io<usize> {
        let sent = match &self.stream {
            Stream::Plain(socket) => sys::send_all(socket, pieces, more_follows),
        };
        self.note_sent(sent)
    }

    /// Sends a part of a file. If it sends 0 bytes, the file has ended.
    pub(super) fn send_file(&mut self, file: BorrowedFd<'_>, offset: u64, bytes_max: u64) -> Io<usize> {
        let sent = match &self.stream {
            Stream::Plain(socket) => sys::send_file(socket, file, offset, bytes_max),
        };
        self.note_sent(sent)
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
        match &self.stream {
            Stream::Plain(socket) => sys::unacknowledged(socket),
        }
    }

    /// Makes the kernel check at intervals whether a client that has closed its side is still connected.
    pub(super) fn probe(&self) {
        match &self.stream {
            Stream::Plain(socket) => sys::probe_peer(socket),
        }
    }

    /// Closes the server's side, now or when the transport is dropped.
    pub(super) fn close(&self, how: Close) {
        match (&self.stream, how) {
            (Stream::Plain(socket), Close::Output) => sys::shutdown_write(socket),
            (Stream::Plain(socket), Close::Reset) => sys::reset_on_close(socket),
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
