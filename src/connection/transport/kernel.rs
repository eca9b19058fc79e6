//! The bytes of a connection whose records the kernel seals and opens.
//!
//! *Owns*: the rest of the session. *Runs on*: as `secured`. *Invariants*: a socket is read until it has nothing more,
//! because a message without content ends a read. The kernel may hold sealed bytes back after it has taken the content,
//! and closing the socket would lose them. So a response ends only once the socket has room for them (`has_room`).

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::secured::{Own, Read, Secured};
use super::{Received, Transport};
use crate::sys::{self, Io, TlsCipher, TlsDirection, TlsVersion, Waitable};
use crate::throttle::Throttle;
use crate::tls::{Broken, CLOSE_NOTIFY, CONTENT, KEY_UPDATE, KernelSession, Told};

/// A file of at least this size makes the kernel take the connection over. That costs some system calls and memory of
/// the kernel once, and further ones with each later request. A smaller file is read and sealed in a few steps.
const FILE_BYTES_MIN: u64 = 256 * 1024;
/// The most messages without content between two parts of the content. A client that sends more computes for nothing.
const MESSAGES_MAX: usize = 16;

/// Limits the lines about clients whose new keys the kernel does not take.
static UNREADABLE: Throttle = Throttle::new(Duration::from_secs(10));
/// Whether the kernel has refused a session that it should have taken. Then it gets no more.
static HAS_REFUSED: AtomicBool = AtomicBool::new(false);

/// What can still be received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// More content.
    Open,
    /// Nothing: the client has said so.
    Ended,
    /// Nothing: the client goes on with keys that the kernel does not take.
    Unreadable,
}

/// A session in the kernel, and what belongs to its socket.
pub(in crate::connection) struct InKernel {
    session: KernelSession,
    /// Whether the client has asked for a change of the server's keys, and has not been told of it.
    owes_update: bool,
    input: Input,
    /// Whether the client has been told that nothing follows.
    has_said_end: bool,
    /// How many bytes the records take besides their content.
    pub(super) ahead: u64,
}

impl InKernel {
    /// Receives at most `bytes_max` bytes of content.
    pub(super) fn receive(&mut self, socket: &Waitable, memory: &mut Vec<u8>, bytes_max: usize) -> Read {
        let old = memory.len();
        let read = |received, bytes, dry| Read { received, sealed_bytes: bytes, records: 0, dry };
        for messages in 0..MESSAGES_MAX {
            if self.input != Input::Open {
                return read(Received::End, 0, false);
            }
            let (record_type, bytes) = match receive(socket, memory, bytes_max) {
                Io::Done(received) => received,
                Io::WouldBlock => return Read { records: messages, ..read(Received::Nothing, 0, true) },
                Io::Failed(_) => break,
            };
            match (record_type, bytes) {
                (CONTENT, 0) => return read(Received::End, 0, false),
                (CONTENT, _) => return Read { records: messages, ..read(Received::Bytes(bytes), bytes, false) },
                _ => {}
            }
            let heard = self.session.hear(record_type, memory.get(old..).unwrap_or_default());
            memory.truncate(old);
            if bytes == 0 || self.obey(socket, heard).is_err() {
                break;
            }
        }
        read(Received::Broken, 0, false)
    }

    /// Returns whether the client uses keys that the kernel does not take.
    pub(super) fn is_unreadable(&self) -> bool {
        self.input == Input::Unreadable
    }

    /// Does what a message of the client asks for.
    fn obey(&mut self, socket: &Waitable, heard: Result<Told, Broken>) -> Result<(), Broken> {
        match heard? {
            Told::Nothing => {}
            Told::End => self.input = Input::Ended,
            Told::KeyUpdate(keys, asks) => {
                if let Err(error) = sys::set_tls_keys(socket, TlsDirection::Receive, &keys) {
                    // The server's keys stay in use: the client gets its responses, and the end.
                    self.input = Input::Unreadable;
                    note_unreadable(&error);
                } else {
                    self.owes_update |= asks;
                }
            }
        }
        Ok(())
    }

    /// Tells the client of new keys if it has asked for them, and uses them from then on.
    fn update(&mut self, socket: &Waitable) -> Io<()> {
        if !self.owes_update {
            return Io::Done(());
        }
        let (record_type, message) = KEY_UPDATE;
        match sys::send_record(socket, record_type, &message) {
            Io::Done(_) => {}
            Io::WouldBlock => return Io::WouldBlock,
            Io::Failed(error) => return Io::Failed(error),
        }
        self.owes_update = false;
        let keys = self.session.next_keys().map_err(io::Error::other);
        match keys.and_then(|keys| sys::set_tls_keys(socket, TlsDirection::Send, &keys)) {
            Ok(()) => Io::Done(()),
            Err(error) => Io::Failed(error),
        }
    }

    /// Sends some of the pieces. Also returns how many bytes the socket has taken.
    pub(super) fn send(&mut self, socket: &Waitable, pieces: &[IoSlice<'_>], more_follows: bool) -> (Io<usize>, usize) {
        self.send_by(socket, || match pieces {
            [only] if !more_follows => sys::send(socket, only),
            _ => sys::send_all(socket, pieces, more_follows),
        })
    }

    /// Sends a part of a file, as `send` does. The kernel reads it.
    pub(super) fn send_file(
        &mut self,
        socket: &Waitable,
        file: BorrowedFd<'_>,
        offset: u64,
        bytes_max: u64,
    ) -> (Io<usize>, usize) {
        self.send_by(socket, || sys::send_file(socket, file, offset, bytes_max))
    }

    fn send_by(&mut self, socket: &Waitable, call: impl FnOnce() -> Io<usize>) -> (Io<usize>, usize) {
        match self.update(socket) {
            Io::Done(()) => {}
            Io::WouldBlock => return (Io::WouldBlock, 0),
            Io::Failed(error) => return (Io::Failed(error), 0),
        }
        match call() {
            Io::Done(bytes) => match self.session.spend(bytes) {
                Ok(more) => {
                    self.ahead += more;
                    let sealed_bytes = bytes + usize::try_from(more).unwrap_or(0);
                    (Io::Done(bytes), sealed_bytes)
                }
                Err(broken) => (Io::Failed(io::Error::other(broken)), bytes),
            },
            other => (other, 0),
        }
    }

    /// Tells the client that nothing follows, as far as the socket takes it now.
    pub(super) fn end(&mut self, socket: &Waitable) {
        if !self.has_said_end {
            self.has_said_end = true;
            let (record_type, alert) = CLOSE_NOTIFY;
            // An error means that the client has gone.
            let _ = sys::send_record(socket, record_type, &alert);
        }
    }
}

/// Logs that a client has changed its keys in vain.
#[cold]
fn note_unreadable(error: &io::Error) {
    if let Some(more) = UNREADABLE.pass() {
        log::info!(
            "a client with TLS has changed its keys, and the kernel does not take them ({}): the connection ends after \
             its response. Linux takes them since 6.14{more}",
            sys::plain(error)
        );
    }
}

/// Receives bytes of records of one type.
fn receive(socket: &Waitable, memory: &mut Vec<u8>, bytes_max: usize) -> Io<(u8, usize)> {
    if bytes_max > sys::LITTLE_BYTES {
        return sys::receive_records(socket, memory, bytes_max);
    }
    sys::receive_little_records(socket, memory, bytes_max)
}

/// Gives a session to the kernel, which knows its version and its cipher. Returns who has it then.
fn enter(socket: &Waitable, mut own: Own, kinds: (TlsVersion, TlsCipher)) -> Secured {
    if sys::begin_kernel_tls(socket).is_err() {
        // Such as a unix socket.
        own.stay();
        return Secured::Own(own);
    }
    let (session, ahead) = own.into_parts();
    let given = session.into_kernel(kinds).map_err(io::Error::other).and_then(|(session, keys)| {
        sys::set_tls_keys(socket, TlsDirection::Send, &keys.send)?;
        sys::set_tls_keys(socket, TlsDirection::Receive, &keys.receive)?;
        Ok(session)
    });
    match given {
        Ok(session) => Secured::Kernel(Box::new(InKernel {
            session,
            owes_update: false,
            input: Input::Open,
            has_said_end: false,
            ahead,
        })),
        Err(error) => {
            // It has taken a session with this cipher when the server started.
            HAS_REFUSED.store(true, Ordering::Relaxed);
            log::warn!(
                "the kernel refuses TLS: {}. A connection is closed, and the server seals files itself from now on",
                sys::plain(&error)
            );
            Secured::Lost
        }
    }
}

impl Transport {
    /// Lets the kernel take the session over before a file of this size is sent, if it can.
    pub(super) fn enter_kernel(&mut self, file_bytes: u64) {
        if file_bytes < FILE_BYTES_MIN || HAS_REFUSED.load(Ordering::Relaxed) {
            return;
        }
        let Some(kinds) = self.secured.as_deref().and_then(Secured::of_kernel) else { return };
        self.secured = self.secured.take().map(|mut secured| {
            if let Secured::Own(own) = *secured {
                *secured = enter(&self.socket, own, kinds);
            }
            secured
        });
        // Bytes that have arrived are records for the kernel now.
        self.read_dry = false;
    }

    /// Returns whether bytes of the client may wait that cannot be read. Closing the socket makes the kernel send a reset
    /// then, which destroys a response in transit.
    pub(in crate::connection) fn is_unreadable(&self) -> bool {
        self.secured.as_deref().is_some_and(Secured::is_unreadable)
    }

    /// Returns whether nothing of a response is lost if the socket is closed. Without TLS of the kernel, it never is.
    pub(in crate::connection) fn has_room(&self) -> bool {
        !matches!(self.secured.as_deref(), Some(Secured::Kernel(_))) || sys::has_tls_room(&self.socket)
    }
}
