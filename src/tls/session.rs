//! One session of TLS: bytes of the client in, content out, and the reverse.
//!
//! *Owns*: the keys, and the received bytes that are not opened yet. *Runs on*: the connection's coroutine; the steps
//! of the handshake on a thread of `handshakes`. *Invariants*: only this file calls the unbuffered API of `rustls`. The
//! library remembers places in the received bytes. So it always gets the same bytes, from the first one on that it has
//! not released.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};

use super::facts::Facts;
use super::hello;
use super::kernel::{self, KernelKeys, KernelSession};
use crate::sys::{TlsCipher, TlsVersion};

/// The most bytes of content that are sealed at once: four records.
pub const SEALING_BYTES_MAX: usize = 4 * RECORD_BYTES;
/// The room for these bytes once they are sealed. A record grows by 22 bytes in TLS 1.3, and by 29 in TLS 1.2. An
/// update of the keys may come first.
pub const SEALED_BYTES_MAX: usize = SEALING_BYTES_MAX + 1024;
/// The most bytes of content in a record (RFC 8446 §5.1).
const RECORD_BYTES: usize = 16 * 1024;
/// The most received bytes that are kept although no record comes out of them: the messages of a handshake, which have
/// at most 64 KiB, in small records.
const UNOPENED_BYTES_MAX: usize = 128 * 1024;
/// The memory for a message of the handshake. It grows for a longer one.
const MESSAGE_BYTES: usize = 4096;

/// The session cannot go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Broken {
    /// The client or the library has ended it.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The client sends the parts of a message that never ends.
    #[error("a message without an end")]
    Endless,
    /// Nothing can be sent or received any more.
    #[error("the session has ended")]
    Ended,
}

impl Broken {
    /// Returns whether the client has ended the session by an alert.
    pub fn is_alert(&self) -> bool {
        matches!(self, Self::Tls(rustls::Error::AlertReceived(_)))
    }
}

/// A session.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Session {
    connection: UnbufferedServerConnection,
    /// Received bytes. Those before `opened` are done with.
    received: Vec<u8>,
    opened: usize,
    /// Content that has been opened, and that did not fit into the memory of a reader.
    content: Vec<u8>,
    /// How many received bytes were left when the library waited for more.
    looked_at: usize,
    /// Whether the client has said that it sends nothing more.
    has_ended: bool,
    /// Whether the session cannot go on.
    has_failed: bool,
    /// Whether content has been sealed since the last record of the client. Then the library has nothing to send.
    has_said_all: bool,
    /// Whether the kernel may take the session over.
    may_enter_kernel: bool,
    server_name: Option<Box<str>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("received", &self.unopened()).finish_non_exhaustive()
    }
}

impl Session {
    /// Begins a session with the client's first message.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn new(config: Arc<ServerConfig>, hello: Vec<u8>) -> Result<Self, Broken> {
        let server_name = hello::server_name(&hello);
        let may_enter_kernel = config.enable_secret_extraction;
        let connection = UnbufferedServerConnection::new(config)?;
        let (received, content) = (hello, Vec::new());
        Ok(Self {
            connection,
            received,
            opened: 0,
            content,
            looked_at: 0,
            has_ended: false,
            has_failed: false,
            has_said_all: false,
            may_enter_kernel,
            server_name,
        })
    }

    /// Returns whether the handshake has not ended.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Returns what is known of the session, once its handshake has ended.
    pub fn facts(&mut self) -> Facts {
        Facts::of(&self.connection, self.server_name.take())
    }

    /// Returns the memory to which bytes of the client are appended.
    pub fn receiver(&mut self) -> &mut Vec<u8> {
        if self.opened > 0 {
            self.received.drain(..self.opened);
            self.opened = 0;
        }
        &mut self.received
    }

    /// Returns how many received bytes are not opened yet.
    pub fn unopened(&self) -> usize {
        self.received.len() - self.opened
    }

    /// Returns whether the received bytes begin with a whole record, and the library has not seen all of them. It keeps
    /// the record of a message whose rest is missing.
    pub fn has_record(&self) -> bool {
        if self.unopened() == self.looked_at {
            return false;
        }
        let rest = self.received.get(self.opened..).unwrap_or_default();
        let [_, _, _, high, low, content @ ..] = rest else { return false };
        content.len() >= usize::from(u16::from_be_bytes([*high, *low]))
    }

    /// Returns whether content can be opened without a further byte of the client.
    pub fn has_content(&self) -> bool {
        !self.content.is_empty() || self.has_record()
    }

    /// Returns whether the client has said that it sends nothing more, and all of its content has been opened.
    pub fn has_ended(&self) -> bool {
        self.has_ended && self.content.is_empty()
    }

    /// Frees the memory that a session at rest does not need.
    pub fn rest(&mut self) {
        if self.unopened() == 0 {
            (self.received, self.opened) = (Vec::new(), 0);
        }
        if self.content.is_empty() {
            self.content = Vec::new();
        }
    }

    /// Goes on with the handshake as far as the received bytes allow. Appends what has to be sent to the client.
    ///
    /// # Errors
    /// The handshake has failed. `to_send` may end with an alert for the client then.
    pub fn shake_hands(&mut self, to_send: &mut Vec<u8>) -> Result<(), Broken> {
        while self.step(&mut Vec::new(), 0, to_send)? == Step::Went {}
        Ok(())
    }

    /// Opens received bytes until `memory` has got `bytes_max` bytes of content, or no whole record is left. Appends
    /// what has to be sent to the client. Returns how many steps that took, about one for each record.
    ///
    /// # Errors
    /// The client breaks the protocol, or has ended the session by an alert. `to_send` may end with an alert then.
    pub fn open(&mut self, memory: &mut Vec<u8>, bytes_max: usize, to_send: &mut Vec<u8>) -> Result<usize, Broken> {
        let end = memory.len() + bytes_max;
        let kept = self.content.len().min(bytes_max);
        memory.extend(self.content.drain(..kept));
        let mut steps = 0;
        while memory.len() < end && !self.has_ended {
            steps += 1;
            if self.step(memory, end - memory.len(), to_send)? == Step::Waits {
                break;
            }
        }
        Ok(steps)
    }

    /// Seals content into `sealed`, which has room for `SEALED_BYTES_MAX` bytes. Returns how many bytes it takes there.
    /// What has to be sent before them is appended to `first`.
    ///
    /// # Errors
    /// The session cannot go on.
    pub fn seal(&mut self, content: &[u8], sealed: &mut [u8], first: &mut Vec<u8>) -> Result<usize, Broken> {
        let sent = self.send(first, |session| session.encrypt(content, sealed).map_err(|error| error.to_string()));
        self.has_said_all = sent.is_ok();
        sent
    }

    /// Returns how the kernel can take the session over. `None`: it does not know the cipher, or something is on its
    /// way.
    pub fn of_kernel(&self) -> Option<(TlsVersion, TlsCipher)> {
        let is_quiet = self.has_said_all && !self.has_failed && !self.has_ended;
        if !self.may_enter_kernel || !is_quiet || self.unopened() > 0 || !self.content.is_empty() {
            return None;
        }
        kernel::of_kernel(&self.connection)
    }

    /// Keeps the session out of the kernel.
    pub fn stay(&mut self) {
        self.may_enter_kernel = false;
    }

    /// Gives the secrets to the kernel, after `of_kernel` has said how.
    ///
    /// # Errors
    /// The library does not give them. The session is lost then.
    pub fn into_kernel(self, kinds: (TlsVersion, TlsCipher)) -> Result<(KernelSession, KernelKeys), Broken> {
        KernelSession::new(self.connection, kinds)
    }

    /// Ends the server's side. Appends the message that tells the client so.
    ///
    /// # Errors
    /// The session cannot go on.
    pub fn end(&mut self, to_send: &mut Vec<u8>) -> Result<(), Broken> {
        let mut alert = [0; 128];
        let bytes =
            self.send(to_send, |session| session.queue_close_notify(&mut alert).map_err(|error| error.to_string()))?;
        to_send.extend_from_slice(&alert[..bytes]);
        Ok(())
    }

    /// Calls `action` once content can be sent. What has to be sent before that is appended to `first`.
    fn send(
        &mut self,
        first: &mut Vec<u8>,
        action: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> Result<usize, String>,
    ) -> Result<usize, Broken> {
        if self.has_failed {
            return Err(Broken::Ended);
        }
        let sent = self.send_next(first, action);
        self.has_failed = sent.is_err();
        sent
    }

    fn send_next(
        &mut self,
        first: &mut Vec<u8>,
        action: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> Result<usize, String>,
    ) -> Result<usize, Broken> {
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut self.received[self.opened..]);
            match state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let sent = action(&mut traffic).map_err(rustls::Error::General)?;
                    self.opened += discard;
                    self.looked_at = self.unopened();
                    return Ok(sent);
                }
                // Received bytes that are still to be opened.
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        self.content.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, first)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.has_ended = true,
                _ => return Err(Broken::Ended),
            }
            self.opened += discard;
        }
    }

    /// Takes one step. Opened content goes to `memory`, as far as it has `room`.
    fn step(&mut self, memory: &mut Vec<u8>, room: usize, to_send: &mut Vec<u8>) -> Result<Step, Broken> {
        if self.has_failed {
            return Err(Broken::Ended);
        }
        let UnbufferedStatus { mut discard, state } =
            self.connection.process_tls_records(&mut self.received[self.opened..]);
        let step = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    let free = if self.content.is_empty() { room.min(record.payload.len()) } else { 0 };
                    let (fitting, rest) = record.payload.split_at(free);
                    memory.extend_from_slice(fitting);
                    self.content.extend_from_slice(rest);
                }
                Ok(Step::Went)
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, to_send).map(|()| Step::Went),
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Step::Went)
            }
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                self.has_ended = true;
                Ok(Step::Waits)
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Step::Waits),
            // The server takes no early data.
            Ok(_) => Err(Broken::Ended),
            Err(error) => Err(Broken::Tls(error)),
        };
        self.opened += discard;
        self.has_said_all &= discard == 0;
        self.looked_at = if matches!(step, Ok(Step::Waits)) { self.unopened() } else { 0 };
        let step = match step {
            Ok(Step::Waits) if self.unopened() > UNOPENED_BYTES_MAX => Err(Broken::Endless),
            step => step,
        };
        step.inspect_err(|_| self.fail(to_send))
    }

    /// Ends a session that has failed. Appends its alert, if there is one.
    fn fail(&mut self, to_send: &mut Vec<u8>) {
        self.has_failed = true;
        // The library would fail again at a second look at the same bytes. The alert comes before them.
        let status = self.connection.process_tls_records(&mut self.received[self.opened..]);
        if let Ok(ConnectionState::EncodeTlsData(mut alert)) = status.state {
            // Without an alert, the client sees the end alone.
            let _ = encode(&mut alert, to_send);
        }
    }
}

/// What a step has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Something. There may be more to do.
    Went,
    /// Nothing. The client has to send more first.
    Waits,
}

/// Appends a message of the handshake, or an alert.
fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, to_send: &mut Vec<u8>) -> Result<(), Broken> {
    let old = to_send.len();
    to_send.resize(old + MESSAGE_BYTES, 0);
    let mut encoded = data.encode(&mut to_send[old..]);
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = encoded {
        to_send.resize(old + required_size, 0);
        encoded = data.encode(&mut to_send[old..]);
    }
    to_send.truncate(old + encoded.as_ref().unwrap_or(&0));
    encoded.map(drop).map_err(|error| rustls::Error::General(error.to_string()).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
