//! The bytes of a connection that speaks TLS: between the session and the socket.
//!
//! *Owns*: the session, and sealed bytes that the socket has not taken. *Runs on*: the connection's coroutine; a
//! connection at rest also on the coroutines of the listener and of the idle set. *Invariants*: bytes count as sent
//! once all of what they were sealed into has been taken by the socket. Until then the caller passes the same bytes
//! again. So a client that takes nothing looks as it does without TLS.

use std::cell::RefCell;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use super::kernel::InKernel;
use super::{Received, Transport};
use crate::metrics::Count;
use crate::sys::{self, Io, LITTLE_BYTES, Readiness, TlsCipher, TlsVersion, Waitable};
use crate::tls::{Broken, SEALED_BYTES_MAX, SEALING_BYTES_MAX, Session};

/// Pieces of memory up to this size together are sealed as one record.
const JOINED_BYTES_MAX: usize = 16 * 1024;
/// The most bytes that are received at once.
const RECEIVED_BYTES_MAX: usize = 128 * 1024;

/// A session, and what belongs to its socket.
pub(in crate::connection) enum Secured {
    /// The server seals and opens.
    Own(Own),
    /// The kernel does.
    Kernel(Box<InKernel>),
    /// Neither can.
    Lost,
}

/// A session of which the server seals and opens the records.
pub(in crate::connection) struct Own {
    session: Box<Session>,
    /// Sealed bytes that the socket has not taken, after the first `unsent_from`.
    unsent: Vec<u8>,
    unsent_from: usize,
    /// How many bytes of the caller they are.
    owed: usize,
    /// How many sealed bytes the socket has taken beyond the bytes that were reported as sent.
    ahead: u64,
}

/// The result of a read.
pub(super) struct Read {
    pub(super) received: Received,
    /// How many bytes the socket has given.
    pub(super) sealed_bytes: usize,
    /// How many records were opened.
    pub(super) records: usize,
    /// Whether nothing more can be received until epoll reports an event.
    pub(super) dry: bool,
}

thread_local! {
    /// Content that is about to be sealed, and sealed bytes. No coroutine suspends while it uses them.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl Secured {
    /// Returns the session, unless the kernel has it.
    pub(super) fn session(&self) -> Option<&Session> {
        match self {
            Self::Own(own) => Some(&own.session),
            Self::Kernel(_) | Self::Lost => None,
        }
    }

    /// Returns how many bytes of a record have arrived whose rest has not.
    pub(super) fn unopened(&self, socket: &Waitable) -> u64 {
        match self {
            Self::Own(own) => own.session.unopened() as u64,
            Self::Kernel(_) => sys::unread(socket),
            Self::Lost => 0,
        }
    }

    /// Returns how the kernel can take the session over. `None`: it cannot, has it, or the socket has not taken
    /// everything.
    pub(super) fn of_kernel(&self) -> Option<(TlsVersion, TlsCipher)> {
        let Self::Own(own) = self else { return None };
        if own.has_unsent() || own.owed > 0 { None } else { own.session.of_kernel() }
    }

    /// Returns whether the client uses keys that the kernel does not take.
    pub(super) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Kernel(kernel) if kernel.is_unreadable())
    }

    /// Frees the memory that a connection at rest does not need.
    pub(super) fn rest(&mut self) {
        if let Self::Own(own) = self {
            own.rest();
        }
    }

    /// Receives at most `bytes_max` bytes of content. `is_hangup` says whether an end of file may follow.
    pub(super) fn receive(
        &mut self,
        socket: &Waitable,
        memory: &mut Vec<u8>,
        bytes_max: usize,
        is_hangup: bool,
    ) -> Read {
        match self {
            Self::Own(own) => own.receive(socket, memory, bytes_max, is_hangup),
            Self::Kernel(kernel) => kernel.receive(socket, memory, bytes_max),
            Self::Lost => Read { received: Received::Broken, sealed_bytes: 0, records: 0, dry: false },
        }
    }

    /// Sends some of the pieces. Also returns how many bytes the socket has taken.
    pub(super) fn send(&mut self, socket: &Waitable, pieces: &[IoSlice<'_>], more_follows: bool) -> (Io<usize>, usize) {
        match self {
            Self::Own(own) => own.send(socket, pieces, more_follows),
            Self::Kernel(kernel) => kernel.send(socket, pieces, more_follows),
            Self::Lost => (lost(), 0),
        }
    }

    /// Sends a part of a file, as `send` does.
    pub(super) fn send_file(
        &mut self,
        socket: &Waitable,
        file: BorrowedFd<'_>,
        offset: u64,
        bytes_max: u64,
    ) -> (Io<usize>, usize) {
        match self {
            Self::Own(own) => own.send_file(socket, file, offset, bytes_max),
            Self::Kernel(kernel) => kernel.send_file(socket, file, offset, bytes_max),
            Self::Lost => (lost(), 0),
        }
    }

    /// Tells the client that nothing follows, as far as the socket takes it now. A client that has got no whole
    /// response must not be told so.
    pub(super) fn end(&mut self, socket: &Waitable) {
        match self {
            Self::Own(own) => own.end(socket),
            Self::Kernel(kernel) => kernel.end(socket),
            Self::Lost => {}
        }
    }
}

/// Returns the error of a session that neither the server nor the kernel has.
fn lost() -> Io<usize> {
    Io::Failed(std::io::Error::other(Broken::Ended))
}

impl Own {
    /// Makes the state of a connection whose session begins.
    pub(super) fn new(session: Box<Session>) -> Self {
        Self { session, unsent: Vec::new(), unsent_from: 0, owed: 0, ahead: 0 }
    }

    /// Gives the session away, and how far its socket is ahead.
    pub(super) fn into_parts(self) -> (Box<Session>, u64) {
        (self.session, self.ahead)
    }

    /// Keeps the session out of the kernel.
    pub(super) fn stay(&mut self) {
        self.session.stay();
    }

    fn rest(&mut self) {
        self.session.rest();
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
    }

    fn receive(&mut self, socket: &Waitable, memory: &mut Vec<u8>, bytes_max: usize, is_hangup: bool) -> Read {
        let old = memory.len();
        let read = |received, sealed_bytes, dry| Read { received, sealed_bytes, records: 0, dry };
        if self.session.is_handshaking() {
            let (received, most) = self.fill(socket, bytes_max);
            return match received {
                Received::Bytes(bytes) => read(Received::Part, bytes, bytes < most && !is_hangup),
                Received::Nothing => read(received, 0, true),
                other => read(other, 0, false),
            };
        }
        if self.session.has_content() {
            let Ok(records) = self.open(socket, memory, bytes_max) else { return read(Received::Broken, 0, false) };
            if memory.len() > old {
                return Read { records, ..read(Received::Bytes(memory.len() - old), 0, false) };
            }
        }
        if self.session.has_ended() {
            return read(Received::End, 0, false);
        }
        let (received, most) = self.fill(socket, bytes_max);
        let Received::Bytes(bytes) = received else { return read(received, 0, received == Received::Nothing) };
        let Ok(records) = self.open(socket, memory, bytes_max) else { return read(Received::Broken, bytes, false) };
        let read = |received, sealed_bytes, dry| Read { received, sealed_bytes, records, dry };
        let dry = bytes < most && !is_hangup && !self.session.has_content();
        match memory.len() - old {
            0 if self.session.has_ended() => read(Received::End, bytes, false),
            0 if self.session.unopened() > 0 => read(Received::Part, bytes, dry),
            // A message of TLS alone.
            0 => read(Received::Nothing, bytes, dry),
            opened => read(Received::Bytes(opened), bytes, dry),
        }
    }

    /// Receives sealed bytes once. Also returns the most that could have arrived.
    fn fill(&mut self, socket: &Waitable, bytes_max: usize) -> (Received, usize) {
        let memory = self.session.receiver();
        let (result, most) = if bytes_max <= LITTLE_BYTES {
            (sys::receive_little(socket, memory), LITTLE_BYTES)
        } else {
            let most = bytes_max.min(RECEIVED_BYTES_MAX);
            (sys::receive(socket, memory, most), most)
        };
        (Received::from(result), most)
    }

    /// Opens what has arrived. Replies of the session go to the client. Returns how many records were opened.
    fn open(&mut self, socket: &Waitable, memory: &mut Vec<u8>, bytes_max: usize) -> Result<usize, Broken> {
        let opened = self.session.open(memory, bytes_max, &mut self.unsent);
        if self.unsent.len() > self.unsent_from {
            // If the socket is full, they are sent with the next response.
            self.flush(socket, false);
        }
        opened
    }

    fn send(&mut self, socket: &Waitable, pieces: &[IoSlice<'_>], more_follows: bool) -> (Io<usize>, usize) {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        if let Some(result) = self.resend(socket, bytes, more_follows) {
            return result;
        }
        let Some(first) = pieces.first() else { return (Io::Done(0), 0) };
        if pieces.len() == 1 || first.len() >= JOINED_BYTES_MAX {
            let content = first.get(..SEALING_BYTES_MAX).unwrap_or(first);
            let more_follows = more_follows || content.len() < bytes;
            return SCRATCH.with_borrow_mut(|(_, sealed)| self.seal(socket, content, sealed, more_follows));
        }
        SCRATCH.with_borrow_mut(|(content, sealed)| {
            content.clear();
            for piece in pieces {
                let room = JOINED_BYTES_MAX - content.len();
                content.extend_from_slice(piece.get(..room).unwrap_or(piece));
            }
            let more_follows = more_follows || content.len() < bytes;
            self.seal(socket, content, sealed, more_follows)
        })
    }

    fn send_file(
        &mut self,
        socket: &Waitable,
        file: BorrowedFd<'_>,
        offset: u64,
        bytes_max: u64,
    ) -> (Io<usize>, usize) {
        let bytes = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(SEALING_BYTES_MAX);
        if let Some(result) = self.resend(socket, bytes, false) {
            return result;
        }
        SCRATCH.with_borrow_mut(|(content, sealed)| {
            content.clear();
            match sys::read_at(file, content, offset, bytes) {
                Io::Done(0) => (Io::Done(0), 0),
                Io::Done(_) => self.seal(socket, content, sealed, false),
                failed => (failed, 0),
            }
        })
    }

    /// Sends what the socket has not taken. `None`: there is nothing left of it, and of `bytes` none has been sent.
    fn resend(&mut self, socket: &Waitable, bytes: usize, more_follows: bool) -> Option<(Io<usize>, usize)> {
        let mut taken = 0;
        if !self.unsent.is_empty() {
            let (result, sealed_bytes) = self.flush(socket, more_follows);
            if let Some(result) = result {
                return Some((result, sealed_bytes));
            }
            taken = sealed_bytes;
        }
        if self.owed == 0 {
            return None;
        }
        let sent = bytes.min(self.owed);
        self.owed -= sent;
        self.ahead = self.ahead.saturating_sub(sent as u64);
        Some((Io::Done(sent), taken))
    }

    /// Seals content and sends it.
    fn seal(
        &mut self,
        socket: &Waitable,
        content: &[u8],
        sealed: &mut Vec<u8>,
        more_follows: bool,
    ) -> (Io<usize>, usize) {
        sealed.resize(SEALED_BYTES_MAX, 0);
        let bytes = match self.session.seal(content, sealed, &mut self.unsent) {
            Ok(bytes) => bytes,
            Err(broken) => return (Io::Failed(std::io::Error::other(broken)), 0),
        };
        let sealed = sealed.get(..bytes).unwrap_or_default();
        let mut taken = 0;
        if self.unsent.is_empty() {
            match send_once(socket, sealed, more_follows) {
                Io::Done(sent) if sent == bytes => {
                    self.ahead += (bytes - content.len()) as u64;
                    return (Io::Done(content.len()), bytes);
                }
                Io::Done(sent) => taken = sent,
                Io::WouldBlock => {}
                failed @ Io::Failed(_) => return (failed, 0),
            }
        }
        self.ahead += taken as u64;
        self.unsent.extend_from_slice(sealed.get(taken..).unwrap_or_default());
        self.owed = content.len();
        match self.resend(socket, content.len(), more_follows) {
            Some((result, more)) => (result, taken + more),
            None => (Io::WouldBlock, taken),
        }
    }

    /// Sends sealed bytes until the socket takes no more. Returns `None` if all are sent, and how many bytes the socket
    /// has taken.
    fn flush(&mut self, socket: &Waitable, more_follows: bool) -> (Option<Io<usize>>, usize) {
        let mut taken = 0;
        let result = loop {
            let rest = self.unsent.get(self.unsent_from..).unwrap_or_default();
            if rest.is_empty() {
                (self.unsent, self.unsent_from) = (Vec::new(), 0);
                break None;
            }
            match send_once(socket, rest, more_follows) {
                Io::Done(bytes) => {
                    self.unsent_from += bytes;
                    taken += bytes;
                }
                other => break Some(other),
            }
        };
        self.ahead += taken as u64;
        (result, taken)
    }

    /// Sends what a step of the handshake has made. Returns whether the connection still works, and how many bytes the
    /// socket has taken. What it has not taken is sent later.
    pub(super) fn send_handshake(&mut self, socket: &Waitable, to_send: &[u8]) -> (bool, usize) {
        self.unsent.extend_from_slice(to_send);
        let (result, taken) = self.flush(socket, false);
        (!matches!(result, Some(Io::Failed(_))), taken)
    }

    /// Returns whether the socket has not taken all sealed bytes.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    fn end(&mut self, socket: &Waitable) {
        if !self.session.is_handshaking() && self.owed == 0 && self.session.end(&mut self.unsent).is_ok() {
            self.flush(socket, false);
        }
    }
}

fn send_once(socket: &Waitable, bytes: &[u8], more_follows: bool) -> Io<usize> {
    if more_follows { sys::send_all(socket, &[IoSlice::new(bytes)], true) } else { sys::send(socket, bytes) }
}

impl Transport {
    /// Returns whether the connection is in a session of TLS.
    pub(in crate::connection) fn is_secured(&self) -> bool {
        self.secured.is_some()
    }

    /// Returns the session.
    pub(in crate::connection) fn session(&self) -> Option<&Session> {
        self.secured.as_deref().and_then(Secured::session)
    }

    /// Takes the session, for a step of its handshake. Everything that it has made has been sent.
    pub(in crate::connection) fn take_session(&mut self) -> Option<Box<Session>> {
        match *self.secured.take()? {
            Secured::Own(own) => Some(own.into_parts().0),
            Secured::Kernel(_) | Secured::Lost => None,
        }
    }

    /// Begins a session, or continues one after a step of its handshake. Sends what the step has made. Returns whether
    /// the connection still works.
    pub(in crate::connection) fn secure(&mut self, session: Box<Session>, to_send: &[u8]) -> bool {
        let mut own = Own::new(session);
        let (works, taken) = own.send_handshake(&self.socket, to_send);
        self.secured = Some(Box::new(Secured::Own(own)));
        // Bytes behind the handshake may have arrived with it.
        self.read_dry = false;
        self.meters.transferred(Count::SentBytes, taken);
        self.turn.spend_call(taken);
        works
    }

    /// Sends the rest of what the handshake has made. Returns whether all of it is sent; `None` if the connection is
    /// broken.
    pub(in crate::connection) fn send_rest(&mut self) -> Option<bool> {
        let Some(Secured::Own(secured)) = self.secured.as_deref_mut() else { return Some(true) };
        let (works, taken) = secured.send_handshake(&self.socket, &[]);
        let is_sent = !secured.has_unsent();
        self.meters.transferred(Count::SentBytes, taken);
        self.turn.spend_call(taken);
        works.then_some(is_sent)
    }

    /// Returns how many bytes of a record have arrived whose rest has not.
    pub(in crate::connection) fn unopened(&self) -> u64 {
        self.secured.as_ref().map_or(0, |secured| secured.unopened(&self.socket))
    }

    /// Returns how many bytes the socket has taken beyond those that were reported as sent.
    pub(in crate::connection) fn ahead(&self) -> u64 {
        match self.secured.as_deref() {
            Some(Secured::Own(own)) => own.ahead,
            Some(Secured::Kernel(kernel)) => kernel.ahead,
            Some(Secured::Lost) | None => 0,
        }
    }

    /// Tells the client of a session that nothing follows. Without TLS it does nothing.
    pub(in crate::connection) fn end(&mut self) {
        if let Some(secured) = &mut self.secured {
            secured.end(&self.socket);
        }
    }

    /// Receives content of a session.
    #[cold]
    pub(super) fn receive_opened(&mut self, memory: &mut Vec<u8>, bytes_max: usize) -> Received {
        let Some(secured) = &mut self.secured else { return Received::Broken };
        let read = secured.receive(&self.socket, memory, bytes_max, self.readiness.is_hangup());
        if read.received == Received::Broken {
            self.readiness = Readiness::BROKEN;
        }
        self.read_dry = read.dry;
        if read.dry {
            self.readiness = Readiness::NONE;
        } else if read.received == Received::Nothing {
            // There may be more behind a message of TLS, for which no event comes.
            self.waker.wake_here();
        }
        self.meters.transferred(Count::ReceivedBytes, read.sealed_bytes);
        self.turn.spend_call(read.sealed_bytes);
        self.turn.spend_records(read.records);
        read.received
    }

    /// Seals some of the pieces, and sends them.
    #[cold]
    pub(super) fn send_sealed(&mut self, pieces: &[IoSlice<'_>], more_follows: bool) -> Io<usize> {
        let Some(secured) = &mut self.secured else { return Io::WouldBlock };
        let (sent, sealed_bytes) = secured.send(&self.socket, pieces, more_follows);
        self.note_sealed(sent, sealed_bytes)
    }

    pub(super) fn note_sealed(&mut self, sent: Io<usize>, sealed_bytes: usize) -> Io<usize> {
        self.meters.transferred(Count::SentBytes, sealed_bytes);
        let content_bytes = if let Io::Done(bytes) = sent { bytes } else { 0 };
        self.turn.spend_call(content_bytes.max(sealed_bytes));
        sent
    }
}
