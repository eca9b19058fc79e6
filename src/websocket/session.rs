//! The protocol of one WebSocket on bytes, on the server's side (RFC 6455 §5 to §8).
//!
//! *Owns*: the bytes of a frame of which a part has arrived, and the state of the close. *Runs on*: the thread that
//! owns the connection. *Invariants*: the state machine of `tungstenite` gets whole frames only. So it holds no memory
//! between messages, and is dropped then, because there may be very many sockets at rest.

use std::io::{self, Cursor, Read, Write};

use tungstenite::Message;
use tungstenite::error::{CapacityError, Error};
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, FrameHeader, Utf8Bytes};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::{Kind, code};

/// How many bytes the state machine takes at once.
const READ_BYTES: usize = 4096;
/// The most bytes of a control frame (RFC 6455 §5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// One side of a WebSocket.
#[derive(Debug)]
pub struct Session {
    /// The state machine, while it knows more than that the socket is open.
    machine: Option<Box<WebSocketContext>>,
    /// The part of a frame that has arrived.
    received: Vec<u8>,
    message_bytes_max: usize,
    /// How many bytes of an incomplete message have arrived. `None`: no message has begun.
    fragments: Option<u64>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The server has sent a close. The client has not.
    Closing,
    /// Both sides have closed, or the client has broken the protocol.
    Over,
}

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A whole text.
    Text(String),
    /// A whole message of bytes.
    Binary(Vec<u8>),
    /// A ping or a pong.
    Control,
    /// A close, with its code and its reason.
    Close(u16, String),
}

/// How a client broke the protocol, or a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The code of the close that the client gets.
    pub code: u16,
    /// The reason that the client gets.
    pub reason: &'static str,
}

/// A frame for the state machine, and the place for what it sends.
struct Pipe<'a> {
    frame: &'a [u8],
    output: &'a mut Vec<u8>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.frame.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.frame.read(buffer) }
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Session {
    /// Makes the session of a socket that has just been opened. A message has at most this many bytes.
    pub fn new(message_bytes_max: usize) -> Self {
        Self { machine: None, received: Vec::new(), message_bytes_max, fragments: None, state: State::Open }
    }

    /// Returns how many bytes of a message have arrived that is not complete. `None`: no message has begun.
    pub fn unfinished_bytes(&self) -> Option<u64> {
        let (before, part) = (self.fragments, self.received.len() as u64);
        (before.is_some() || part > 0).then(|| before.unwrap_or(0) + part)
    }

    /// Returns the memory to which received bytes are appended.
    pub fn memory(&mut self) -> &mut Vec<u8> {
        &mut self.received
    }

    /// Returns whether messages may still be sent.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Returns whether nothing follows in either direction.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Reads the frames that have arrived. Replies are appended to `output`.
    ///
    /// # Errors
    /// The client has broken the protocol or a limit. Call `fail`.
    pub fn receive(&mut self, output: &mut Vec<u8>, taken: &mut Vec<Incoming>) -> Result<(), Fault> {
        let received = std::mem::take(&mut self.received);
        let mut used = 0;
        let result = loop {
            if self.is_over() {
                break Ok(());
            }
            let rest = received.get(used..).unwrap_or_default();
            match self.frame_bytes(rest) {
                Err(fault) => break Err(fault),
                Ok(None) => break Ok(()),
                Ok(Some(bytes)) => {
                    let frame = rest.get(..bytes).unwrap_or_default();
                    used += bytes;
                    if let Err(fault) = self.take_frame(frame, output, taken) {
                        break Err(fault);
                    }
                }
            }
        };
        if self.is_over() || result.is_err() {
            return result;
        }
        self.received = received;
        if used > 0 {
            self.received.drain(..used);
            self.received.shrink_to_fit();
        }
        if self.fragments.is_none() && self.is_open() {
            self.machine = None;
        }
        Ok(())
    }

    /// Returns the length of the next frame, once all of it has arrived. Refuses a frame that is too long before its
    /// content arrives.
    fn frame_bytes(&mut self, rest: &[u8]) -> Result<Option<usize>, Fault> {
        let mut cursor = Cursor::new(rest);
        let Some((header, bytes)) = FrameHeader::parse(&mut cursor).map_err(|error| fault_of(&error))? else {
            return Ok(None);
        };
        if header.mask.is_none() {
            return Err(Fault { code: code::PROTOCOL, reason: "a frame of a client must be masked" });
        }
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Fault { code: code::PROTOCOL, reason: "a reserved bit is set" });
        }
        let is_control = matches!(header.opcode, OpCode::Control(_));
        if is_control && bytes > CONTROL_BYTES_MAX {
            return Err(Fault { code: code::PROTOCOL, reason: "a control frame is too long" });
        }
        let before = self.fragments.unwrap_or(0);
        if !is_control && before.saturating_add(bytes) > self.message_bytes_max as u64 {
            return Err(TOO_BIG);
        }
        let whole = cursor.position().saturating_add(bytes);
        if (rest.len() as u64) < whole {
            return Ok(None);
        }
        if !is_control {
            self.fragments = if header.is_final { None } else { Some(before.saturating_add(bytes)) };
        }
        Ok(usize::try_from(whole).ok())
    }

    /// Gives a whole frame to the state machine.
    fn take_frame(&mut self, frame: &[u8], output: &mut Vec<u8>, taken: &mut Vec<Incoming>) -> Result<(), Fault> {
        let mut pipe = Pipe { frame, output };
        loop {
            let incoming = match self.machine().read(&mut pipe) {
                Ok(Message::Text(text)) => Incoming::Text(text.as_str().to_owned()),
                Ok(Message::Binary(bytes)) => Incoming::Binary(bytes.into()),
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Incoming::Control,
                Ok(Message::Close(None)) => Incoming::Close(code::NONE, String::new()),
                Ok(Message::Close(Some(close))) => Incoming::Close(close.code.into(), close.reason.as_str().to_owned()),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    self.state = State::Over;
                    return Ok(());
                }
                Err(error) => return Err(fault_of(&error)),
            };
            taken.push(incoming);
        }
    }

    fn machine(&mut self) -> &mut WebSocketContext {
        let bytes_max = Some(self.message_bytes_max);
        self.machine.get_or_insert_with(|| {
            let config = WebSocketConfig::default()
                .read_buffer_size(READ_BYTES)
                .max_message_size(bytes_max)
                .max_frame_size(bytes_max);
            Box::new(WebSocketContext::new(Role::Server, Some(config)))
        })
    }

    /// Begins the close, unless one side has. The client gets this code and this reason.
    pub fn close(&mut self, code: u16, reason: &str, output: &mut Vec<u8>) {
        if self.state != State::Open {
            return;
        }
        self.state = State::Closing;
        let close = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from(reason) };
        // A failure means that the client has closed just now.
        let _ = self.machine().close(&mut Pipe { frame: &[], output }, Some(close));
    }

    /// Ends the session after a fault. The client is told why.
    pub fn fail(&mut self, fault: Fault, output: &mut Vec<u8>) {
        self.close(fault.code, fault.reason, output);
        *self = Self { state: State::Over, ..Self::new(0) };
    }
}

const TOO_BIG: Fault = Fault { code: code::TOO_BIG, reason: "the message is too big" };

/// Returns the close for an error of the state machine.
fn fault_of(error: &Error) -> Fault {
    match error {
        Error::Utf8(_) => Fault { code: code::NOT_TEXT, reason: "the text is not UTF-8" },
        Error::Capacity(CapacityError::MessageTooLong { .. }) => TOO_BIG,
        _ => Fault { code: code::PROTOCOL, reason: "the frame breaks the protocol" },
    }
}

/// Appends a whole message, or a ping, as one frame.
pub fn encode(kind: Kind, content: &[u8], output: &mut Vec<u8>) {
    let opcode = match kind {
        Kind::Text => OpCode::Data(Data::Text),
        Kind::Binary => OpCode::Data(Data::Binary),
        Kind::Ping => OpCode::Control(Control::Ping),
    };
    let (header, bytes) = (FrameHeader { opcode, ..FrameHeader::default() }, content.len() as u64);
    output.reserve(header.len(bytes) + content.len());
    header.format(bytes, output).expect("a vector takes all");
    output.extend_from_slice(content);
}
