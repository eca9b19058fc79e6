//! A connection that is a WebSocket: between the client's bytes and what its application sends and gets.
//!
//! *Owns*: the stream, the protocol's state, and the bytes that the client has not taken. *Runs on*: the coroutines of
//! the server; nothing here waits. *Invariants*: at rest it holds no memory for messages. The application is told of its
//! end exactly once, also if it is dropped.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shared::FAR;
use super::transport::{Received, Stream};
use super::{Connection, Outcome, Shared};
use crate::config::duration_text;
use crate::handler::{self, Upgrade};
use crate::metrics::{Closer, Count, End};
use crate::phrase::count;
use crate::sys::{Interest, Io};
use crate::throttle::Throttle;
use crate::websocket::{Closing, Event, Fault, Incoming, Kind, Limits, Session, Socket, code, encode};

/// How long a client may take to reply to a close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
/// The same when the server stops. Clients that leave now lose nothing.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// How long the server discards what a client sends that has broken the protocol. Without this, a reset could destroy
/// the close that says why.
const LINGERING: Duration = Duration::from_secs(2);
/// How often bytes are received at once before other connections get their turn.
const READS_MAX: usize = 4;
/// If replies to pings of this many bytes wait for the client, the server receives no more. Without this, a client that
/// sends pings and takes nothing fills the memory.
const PONG_BYTES_MAX: usize = 16 * 1024;
/// The log reports clients that break a rule at most this often, and in the same way those that are slow.
const FAULTY_EVERY: Duration = Duration::from_secs(10);
static FAULTY: Throttle = Throttle::new(FAULTY_EVERY);
static SLOW: Throttle = Throttle::new(FAULTY_EVERY);

/// A WebSocket.
pub struct Upgraded {
    stream: Stream,
    /// The client's address. `None`: it is on a unix socket.
    client: Option<SocketAddr>,
    socket: Arc<Socket>,
    session: Session,
    /// What the client is to get, of which `sent` bytes are sent.
    output: Vec<u8>,
    sent: usize,
    /// How many bytes of replies to pings were put there since it was empty.
    pong_bytes: usize,
    clock: Clock,
    stage: Stage,
    /// What the client gets once the application has handled its messages: replies, and the last one is a close.
    farewell: Vec<u8>,
    /// The events that were waited for last.
    awaited: Interest,
    /// What the application is told at the end, and what is counted. `None`: it has been told.
    end: Option<(u16, String)>,
    count: End,
    shared: Arc<Shared>,
}

/// When things have happened.
struct Clock {
    /// When bytes of the client have arrived.
    heard: Instant,
    /// When the server has asked whether the client is there.
    asked: Option<Instant>,
    /// When a message has passed.
    message: Instant,
    /// How many more messages the client may send now, at this moment.
    allowance: (f64, Instant),
    /// The message that the client is sending.
    unfinished: Option<Box<Unfinished>>,
}

/// A message of which a part has arrived. Its client has the time of a client that sends a body.
struct Unfinished {
    began: Instant,
    /// When a part of it last arrived.
    moved: Instant,
    bytes: u64,
}

impl Unfinished {
    /// Returns by when more of it must arrive.
    fn deadline(&self, shared: &Shared) -> Instant {
        (self.moved + shared.config.body_timeout).min(shared.rate_deadline(self.began, self.bytes))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The server has sent a close, and waits until then for the client's.
    Closing(Instant),
    /// The client has closed, or has broken a rule. Until then, the application may handle the messages before that.
    Leaving(Instant, Why),
    /// Both sides have closed. Until then, the client may take the rest.
    Closed(Instant),
    /// The client has broken a rule and gets a close. After that, until then, its bytes are discarded.
    Lingering(Instant),
    Over,
}

/// Why nothing more is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The client has closed.
    Close,
    /// The client has broken a rule.
    Fault,
}

/// What a WebSocket waits for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// For these events, at most until this moment.
    Rest(Interest, Instant),
    /// For nothing: it has ended.
    End(End),
}

impl Connection {
    /// Makes the connection a WebSocket.
    pub(super) fn upgrade(self, upgrade: Upgrade) -> Outcome {
        let Some(socket) = upgrade.socket.into_socket() else { return Outcome::Closed(End::Error) };
        let mut session = Session::new(socket.limits().message_bytes_max);
        // Bytes after the request are the first frames.
        session.memory().extend_from_slice(&self.buffer);
        self.shared.meters().transferred(Count::WebSocketReceivedBytes, self.buffer.len());
        let (stream, _) = self.transport.rest();
        let now = Instant::now();
        let allowance = (socket.limits().rate_max.map_or(0.0, f64::from), now);
        Outcome::Upgraded(Box::new(Upgraded {
            stream,
            client: self.connected.client,
            socket,
            session,
            output: Vec::new(),
            sent: 0,
            pong_bytes: 0,
            clock: Clock { heard: now, asked: None, message: now, allowance, unfinished: None },
            stage: Stage::Open,
            farewell: Vec::new(),
            awaited: Interest::Input,
            end: Some((code::ABNORMAL, String::new())),
            count: End::Client,
            shared: self.shared,
        }))
    }
}

impl AsFd for Upgraded {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Upgraded {
    /// Returns what the application has of it.
    pub fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Does everything that can be done now. With `going_away`, also begins the close of a server that stops.
    /// `has_event` says that one of the events has come that it waited for.
    pub fn attend(&mut self, going_away: bool, has_event: bool) -> Next {
        let now = Instant::now();
        if has_event && self.awaited == Interest::Break {
            self.stage = Stage::Over;
        }
        self.take_orders(now, going_away);
        // Frames may have arrived together with the request, or before the application took its events.
        if self.stage == Stage::Open && !self.session.memory().is_empty() && self.may_receive() {
            self.take_frames(now);
        }
        self.flush();
        let mut reads = 0;
        let mut dry = false;
        while !dry && reads < READS_MAX && self.stage != Stage::Over && self.may_receive() {
            dry = self.receive(now);
            reads += 1;
        }
        // Look at the clock last. Otherwise, a server that was held up would give up clients whose bytes have arrived.
        self.keep_time(now);
        self.flush();
        if self.stage == Stage::Over {
            self.tell_end();
            // A client with TLS is told that no byte is missing (RFC 8446 §6.1).
            self.stream.end();
            return Next::End(self.count);
        }
        self.stream.rest();
        self.awaited = self.interest();
        Next::Rest(self.awaited, if dry || !self.may_receive() { self.deadline() } else { now })
    }

    /// Takes what the application has sent.
    fn take_orders(&mut self, now: Instant, going_away: bool) {
        let before = self.output.len();
        let closing = self.socket.take(&mut self.output);
        if self.output.len() > before {
            self.clock.message = now;
        }
        match self.stage {
            Stage::Open => {}
            Stage::Leaving(..) => return,
            _ => return self.output.truncate(before),
        }
        if let Some(Closing { code, reason }) = closing {
            self.close(code, &reason, End::Response, now);
        } else if going_away {
            self.close(code::GOING_AWAY, "the server stops", End::Stopped, now);
        }
    }

    /// Begins the close from the server's side.
    fn close(&mut self, code: u16, reason: &str, count: End, now: Instant) {
        self.socket.shut();
        self.session.close(code, reason, &mut self.output);
        self.end = Some((code, reason.to_owned()));
        self.count = count;
        let patience = if count == End::Stopped { STOP_PATIENCE } else { CLOSE_PATIENCE };
        self.stage = Stage::Closing(now + patience);
    }

    /// Ends what has lasted too long, and asks silent clients whether they are there.
    fn keep_time(&mut self, now: Instant) {
        match self.stage {
            Stage::Open => {}
            Stage::Leaving(until, why) if now >= until || self.socket.is_quiet() => return self.depart(why, now),
            Stage::Closing(until) | Stage::Closed(until) | Stage::Lingering(until) if now >= until => {
                return self.stage = Stage::Over;
            }
            _ => return,
        }
        self.note_unfinished(now);
        if self.message_due().is_some_and(|due| now >= due) {
            return self.end_slow_message(now);
        }
        let Limits { ping_interval, idle, .. } = *self.socket.limits();
        if idle.is_some_and(|idle| now >= self.clock.message + idle) {
            return self.close(code::GOING_AWAY, "no message for a long time", End::KeepAlive, now);
        }
        // While the server receives nothing, it cannot know whether the client is there.
        let Some(interval) = ping_interval.filter(|_| !self.socket.pauses()) else { return };
        match self.clock.asked {
            Some(asked) if now >= asked + interval => {
                self.count = End::KeepAlive;
                self.stage = Stage::Over;
            }
            None if now >= self.clock.heard + interval => {
                encode(Kind::Ping, b"", &mut self.output);
                self.clock.asked = Some(now);
            }
            _ => {}
        }
    }

    fn may_receive(&self) -> bool {
        match self.stage {
            Stage::Open => self.pong_bytes < PONG_BYTES_MAX && !self.socket.pauses(),
            Stage::Leaving(..) => false,
            _ => true,
        }
    }

    /// Receives once. Returns whether nothing more can be received for now.
    fn receive(&mut self, now: Instant) -> bool {
        let mut discarded = Vec::new();
        let is_lingering = matches!(self.stage, Stage::Lingering(_) | Stage::Closed(_));
        let memory = if is_lingering { &mut discarded } else { self.session.memory() };
        let mut dry = false;
        let (received, bytes) = self.stream.receive_little(memory, &mut dry);
        self.shared.meters().transferred(Count::ReceivedBytes, bytes);
        self.shared.meters().transferred(Count::WebSocketReceivedBytes, bytes);
        match received {
            Received::Bytes(_) | Received::Part => {
                self.clock.heard = now;
                self.clock.asked = None;
                if !is_lingering {
                    self.take_frames(now);
                }
            }
            Received::Nothing => return true,
            Received::End | Received::Broken => self.stage = Stage::Over,
        }
        dry
    }

    /// Takes the frames that have arrived.
    fn take_frames(&mut self, now: Instant) {
        let (mut taken, mut replies) = (Vec::new(), Vec::new());
        let mut result = self.session.receive(&mut replies, &mut taken);
        for incoming in taken {
            if let Err(fault) = self.take_incoming(incoming, now) {
                result = Err(fault);
                break;
            }
        }
        if let Err(fault) = result {
            self.output.append(&mut replies);
            self.refuse(fault, now);
        } else if self.session.is_over() {
            self.farewell = replies;
            self.leave(Why::Close, now);
        } else {
            self.pong_bytes += replies.len();
            self.output.append(&mut replies);
        }
    }

    /// Notes how much has arrived of a message that is not complete. While the server receives nothing, its time does not
    /// run.
    fn note_unfinished(&mut self, now: Instant) {
        let (part, unopened) = (self.session.unfinished_bytes(), self.stream.unopened());
        if !self.may_receive() || (part.is_none() && unopened == 0) {
            return self.clock.unfinished = None;
        }
        let bytes = part.unwrap_or(0) + unopened;
        let begun = || Box::new(Unfinished { began: now, moved: now, bytes });
        let unfinished = self.clock.unfinished.get_or_insert_with(begun);
        if bytes > unfinished.bytes {
            (unfinished.moved, unfinished.bytes) = (now, bytes);
        }
    }

    /// Returns by when more must arrive of the message that the client is sending.
    fn message_due(&self) -> Option<Instant> {
        self.clock.unfinished.as_ref().map(|unfinished| unfinished.deadline(&self.shared))
    }

    /// Closes the socket of a client whose message comes too slowly.
    fn end_slow_message(&mut self, now: Instant) {
        self.shared.meters().count(Count::MessagesSlow, 1);
        if let Some(unfinished) = &self.clock.unfinished
            && let Some(more) = SLOW.pass()
        {
            let (config, came) = (&self.shared.config, count(unfinished.bytes, "byte"));
            let why = if now >= unfinished.moved + config.body_timeout {
                format!("and then nothing more, --body-timeout is {}", duration_text(config.body_timeout))
            } else {
                format!("too slowly, --min-rate is {} bytes/s", config.min_rate)
            };
            let client = handler::client_name(self.client);
            log::info!("{client}: the WebSocket is closed (1008): {came} of a message came {why}{more}");
        }
        self.fail(Fault { code: code::POLICY, reason: "the message comes too slowly" }, now);
    }

    /// Closes the socket of a client that has broken a rule, and logs it.
    fn refuse(&mut self, fault: Fault, now: Instant) {
        if self.stage == Stage::Open
            && let Some(more) = FAULTY.pass()
        {
            let (client, Fault { code, reason }) = (handler::client_name(self.client), fault);
            let Limits { message_bytes_max, rate_max, .. } = *self.socket.limits();
            let limit = match (code, rate_max) {
                (code::TOO_BIG, _) => format!(", max_message is {message_bytes_max}"),
                (code::POLICY, Some(rate)) => format!(", max_rate is {rate}"),
                _ => String::new(),
            };
            log::info!("{client}: the WebSocket is closed ({code}): {reason}{limit}{more}");
        }
        self.fail(fault, now);
    }

    /// Closes the socket because of the client.
    fn fail(&mut self, fault: Fault, now: Instant) {
        let mut close = Vec::new();
        self.session.fail(fault, &mut close);
        self.farewell = close;
        if self.stage == Stage::Open {
            self.end = Some((fault.code, fault.reason.to_owned()));
            self.count = End::Refused;
        }
        self.leave(Why::Fault, now);
    }

    /// Receives no more. The application may handle the messages that it has first.
    fn leave(&mut self, why: Why, now: Instant) {
        if self.stage == Stage::Open && !self.socket.is_quiet() {
            self.stage = Stage::Leaving(now + CLOSE_PATIENCE, why);
        } else {
            self.depart(why, now);
        }
    }

    /// Lets the client go: it gets what the application has sent meanwhile, and the close.
    fn depart(&mut self, why: Why, now: Instant) {
        self.socket.shut();
        self.socket.take(&mut self.output);
        self.output.append(&mut self.farewell);
        self.stage = match why {
            Why::Close => Stage::Closed(now + LINGERING),
            Why::Fault => Stage::Lingering(now + LINGERING),
        };
        self.flush();
        self.tell_end();
    }

    fn take_incoming(&mut self, incoming: Incoming, now: Instant) -> Result<(), Fault> {
        match incoming {
            Incoming::Control => {}
            Incoming::Close(code, reason) => {
                // The first close counts.
                if self.stage == Stage::Open {
                    self.end = Some((code, reason));
                }
            }
            Incoming::Text(_) | Incoming::Binary(_) => {
                self.clock.message = now;
                self.clock.unfinished = None;
                self.shared.meters().transferred(Count::MessagesReceived, 1);
                self.charge(now)?;
                if self.stage == Stage::Open {
                    self.socket.deliver(match incoming {
                        Incoming::Binary(bytes) => Event::Binary(bytes),
                        Incoming::Text(text) => Event::Text(text),
                        Incoming::Control | Incoming::Close(..) => return Ok(()),
                    });
                }
            }
        }
        Ok(())
    }

    /// Counts a message against the limit of its rate, of which a second's messages may come at once.
    fn charge(&mut self, now: Instant) -> Result<(), Fault> {
        let Some(rate) = self.socket.limits().rate_max.map(f64::from) else { return Ok(()) };
        let (left, at) = self.clock.allowance;
        let left = now.saturating_duration_since(at).as_secs_f64().mul_add(rate, left).min(rate);
        self.clock.allowance = (left - 1.0, now);
        if left < 1.0 { Err(Fault { code: code::POLICY, reason: "too many messages" }) } else { Ok(()) }
    }

    fn is_flushed(&self) -> bool {
        self.sent >= self.output.len()
    }

    /// Sends what the client takes now.
    fn flush(&mut self) {
        let was_blocked = matches!(self.awaited, Interest::Both | Interest::Output);
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let (result, taken) = self.stream.send(rest);
            if was_blocked && taken > 0 {
                // The client takes what stands before the ping.
                self.clock.asked = self.clock.asked.map(|_| Instant::now());
            }
            self.shared.meters().transferred(Count::SentBytes, taken);
            self.shared.meters().transferred(Count::WebSocketSentBytes, taken);
            match result {
                Io::Done(bytes) => self.sent += bytes,
                Io::WouldBlock => break,
                Io::Failed(_) => {
                    self.stage = Stage::Over;
                    break;
                }
            }
        }
        if self.is_flushed() {
            self.output = Vec::new();
            (self.sent, self.pong_bytes) = (0, 0);
            match self.stage {
                Stage::Lingering(_) => self.stream.shut_down(),
                Stage::Closed(_) => self.stage = Stage::Over,
                _ => {}
            }
        }
        self.socket.note_unsent(self.output.len() - self.sent);
    }

    fn interest(&self) -> Interest {
        match (self.is_flushed(), self.may_receive()) {
            (true, true) => Interest::Input,
            (true, false) => Interest::Break,
            (false, true) => Interest::Both,
            (false, false) => Interest::Output,
        }
    }

    /// Returns when the socket needs attention without an event.
    fn deadline(&self) -> Instant {
        let Limits { ping_interval, idle, .. } = *self.socket.limits();
        match self.stage {
            Stage::Closing(until) | Stage::Leaving(until, _) | Stage::Closed(until) | Stage::Lingering(until) => until,
            Stage::Open | Stage::Over => {
                let ping = ping_interval
                    .filter(|_| !self.socket.pauses())
                    .map(|interval| self.clock.asked.unwrap_or(self.clock.heard) + interval);
                let idle = idle.map(|idle| self.clock.message + idle);
                let far = self.clock.heard + FAR;
                ping.into_iter().chain(idle).chain(self.message_due()).fold(far, Instant::min)
            }
        }
    }

    fn tell_end(&mut self) {
        let closer = match self.count {
            End::Client => Closer::Client,
            End::Response => Closer::Application,
            _ => Closer::Server,
        };
        if let Some((code, reason)) = self.end.take() {
            self.socket.end(closer, code, reason);
        }
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        // The server drops the socket of a client that is still there.
        if self.count == End::Client && self.stage != Stage::Over {
            self.count = End::Stopped;
        }
        self.tell_end();
    }
}
