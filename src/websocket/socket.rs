//! What an application and the server share of one WebSocket.
//!
//! *Owns*: the frames that the server has not taken yet, and the events that the application has not taken yet. *Runs
//! on*: both sides; each method says which. Only `send` may wait, for the client. *Invariants*: events reach the
//! application one at a time and in order, and the last one is the close. No lock is held while other code is called.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::{Kind, Tally, code, encode};
use crate::metrics::Closer;
use crate::sys::{Condition, Lock};

/// If this many messages wait for the application, the server receives no more.
const MESSAGES_MAX: usize = 32;
/// If messages of this many bytes wait for the application, the server receives no more.
const MESSAGE_BYTES: usize = 64 * 1024;

/// The limits of a socket.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most bytes of a message of the client.
    pub message_bytes_max: usize,
    /// The most bytes that wait for the client.
    pub waiting_bytes_max: usize,
    /// How long the client may be silent before the server asks whether it is there, and after that until the server
    /// gives it up. `None`: the server does not ask.
    pub ping_interval: Option<Duration>,
    /// How long no message may pass in either direction. `None`: for ever.
    pub idle: Option<Duration>,
    /// The most messages of the client in a second, on average. `None`: any number.
    pub rate_max: Option<u32>,
}

/// Something that has happened on a socket.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A text has arrived.
    Text(String),
    /// Bytes have arrived.
    Binary(Vec<u8>),
    /// The socket is closed: the code, and the reason.
    Closed(u16, String),
}

/// A close that the application asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// Its code.
    pub code: u16,
    /// Its reason, at most 123 bytes.
    pub reason: String,
}

/// Why a message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The socket is closed, or closes.
    #[error("the WebSocket is closed")]
    Closed,
    /// The client is slow, and as much waits for it as may.
    #[error("the client is slow, and the most bytes wait for it that may (max_waiting)")]
    Full,
}

/// The application's side: gets told of events.
pub trait Listener: Send + Sync {
    /// Has a thread take the events: `Socket::next`. Called again only after `next` has returned `None`. (Any thread.)
    fn listen(self: Arc<Self>);

    /// Frees what it holds for the application, because no further event follows. (Any thread.)
    fn abandon(&self);
}

/// The server's side: gets told that a socket needs it.
pub trait Attendant: Send + Sync {
    /// Has the server look after the socket at this place. (Any thread.)
    fn attend(&self, socket: &Arc<Socket>, place: u32);

    /// Returns what the server counts of all sockets.
    fn tally(&self) -> &Tally;
}

/// Where the server keeps a socket.
pub struct Place {
    /// Who looks after it.
    pub attendant: Arc<dyn Attendant>,
    /// Its number there.
    pub number: u32,
}

/// A WebSocket.
pub struct Socket {
    state: Lock<State>,
    /// Notified when there is room for more bytes, or the socket is closed.
    room: Condition,
    limits: Limits,
}

#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct State {
    listener: Option<Arc<dyn Listener>>,
    place: Option<Place>,
    /// Frames that the server has not taken.
    frames: Vec<u8>,
    /// The bytes of all frames that have not been sent.
    waiting_bytes: usize,
    /// The messages among the frames that the server has not taken.
    messages: u32,
    /// Whether a message has found no room, and more than half of that room is still taken.
    is_slow: bool,
    closing: Option<Closing>,
    /// Whether no further message can be sent.
    is_closed: bool,
    /// Whether the server has been told, and has not looked yet.
    is_told: bool,
    events: VecDeque<Event>,
    event_bytes: usize,
    /// Whether the listener has been told, and goes on until no event is left.
    is_heard: bool,
    /// Whether the server receives nothing, because too many events wait.
    is_paused: bool,
    /// Whether the server waits until no event is left.
    awaits_quiet: bool,
    /// Whether the last event has been added.
    has_ended: bool,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Event {
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
            Self::Closed(..) => 0,
        }
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.events.len() >= MESSAGES_MAX || self.event_bytes >= MESSAGE_BYTES
    }

    fn tally(&self) -> Option<&Tally> {
        self.place.as_ref().map(|place| place.attendant.tally())
    }

    /// Sets how many bytes wait for the client. If at most `slow_bytes` do, it is not slow any more.
    fn set_waiting(&mut self, bytes: usize, slow_bytes: usize) {
        let before = std::mem::replace(&mut self.waiting_bytes, bytes);
        let has_room = bytes <= slow_bytes && std::mem::take(&mut self.is_slow);
        let Some(tally) = self.tally() else { return };
        if bytes > before {
            tally.waiting_bytes.raise(bytes - before);
        } else if bytes < before {
            tally.waiting_bytes.lower(before - bytes);
        }
        if has_room {
            tally.slow.fall();
        }
    }

    /// Notes that a message finds no room.
    fn note_slow(&mut self) {
        let was_slow = std::mem::replace(&mut self.is_slow, true);
        if let Some(tally) = self.tally().filter(|_| !was_slow) {
            tally.slow.rise();
        }
    }

    /// Returns what tells the server that it is needed, unless it has been told.
    fn tell(&mut self) -> Option<(Arc<dyn Attendant>, u32)> {
        let place = self.place.as_ref().filter(|_| !self.is_told)?;
        let told = (Arc::clone(&place.attendant), place.number);
        self.is_told = true;
        Some(told)
    }
}

impl Socket {
    /// Makes a socket that is not open yet.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { state: Lock::default(), room: Condition::default(), limits })
    }

    /// Returns its limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns how many bytes may wait for a client that is not slow any more.
    fn slow_bytes(&self) -> usize {
        self.limits.waiting_bytes_max / 2
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn tell(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let told = state.tell();
        drop(state);
        if let Some((attendant, place)) = told {
            attendant.attend(self, place);
        }
    }

    /// Sets who gets its events. (Application's side, like the methods below.)
    pub fn set_listener(&self, listener: Arc<dyn Listener>) {
        self.lock().listener = Some(listener);
    }

    /// Queues a message, or a ping. If the most bytes wait already, waits until `until` for room: call it without the
    /// GIL then. If nothing waits, a message of any size may.
    ///
    /// # Errors
    /// The message is not sent.
    pub fn send(self: &Arc<Self>, kind: Kind, content: &[u8], until: Option<Instant>) -> Result<(), NotSent> {
        let mut state = self.lock();
        loop {
            if state.is_closed || state.closing.is_some() {
                return Err(NotSent::Closed);
            }
            let bytes = state.waiting_bytes.saturating_add(content.len());
            if state.waiting_bytes == 0 || bytes <= self.limits.waiting_bytes_max {
                break;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let Some(left) = left.filter(|left| !left.is_zero()) else {
                state.note_slow();
                return Err(NotSent::Full);
            };
            state = self.room.wait_timeout(state, left);
        }
        let before = state.frames.len();
        encode(kind, content, &mut state.frames);
        let waiting = state.waiting_bytes + (state.frames.len() - before);
        state.set_waiting(waiting, self.slow_bytes());
        state.messages += u32::from(kind != Kind::Ping);
        self.tell(state);
        Ok(())
    }

    /// Counts a message that the application gives up, because it found no room.
    pub fn count_unsent(&self) {
        if let Some(tally) = self.lock().tally() {
            tally.unsent();
        }
    }

    /// Asks for a close, after everything that was sent. Returns false if the socket is closed, or closes already.
    pub fn close(self: &Arc<Self>, closing: Closing) -> bool {
        let mut state = self.lock();
        if state.is_closed || state.closing.is_some() {
            return false;
        }
        state.closing = Some(closing);
        self.room.notify_all();
        self.tell(state);
        true
    }

    /// Returns whether a message can be sent.
    pub fn is_open(&self) -> bool {
        let state = self.lock();
        !state.is_closed && state.closing.is_none()
    }

    /// Returns whether the application has asked for a close.
    pub fn is_closing(&self) -> bool {
        self.lock().closing.is_some()
    }

    /// Returns how many bytes wait for the client.
    pub fn waiting_bytes(&self) -> usize {
        self.lock().waiting_bytes
    }

    /// Takes the next event. `None`: there is none, and the listener is told of the next one.
    pub fn next(self: &Arc<Self>) -> Option<Event> {
        let mut state = self.lock();
        let Some(event) = state.events.pop_front() else {
            state.is_heard = false;
            if state.has_ended {
                state.listener = None;
            }
            if std::mem::take(&mut state.awaits_quiet) {
                self.tell(state);
            }
            return None;
        };
        state.event_bytes -= event.bytes();
        if state.is_paused && !state.is_full() {
            state.is_paused = false;
            self.tell(state);
        }
        Some(event)
    }

    /// Frees what a socket holds that is never opened, or whose events no thread takes any more.
    pub fn abandon(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.has_ended = true;
        let (listener, events) = (state.listener.take(), std::mem::take(&mut state.events));
        drop(state);
        self.room.notify_all();
        drop(events);
        if let Some(listener) = listener {
            listener.abandon();
        }
    }

    /// Sets where the server keeps the socket, which is open from now on. (Server's side, like the methods below.)
    pub fn open(&self, place: Place) {
        let mut state = self.lock();
        let tally = place.attendant.tally();
        tally.opened();
        tally.waiting_bytes.raise(state.waiting_bytes);
        if state.is_slow {
            tally.slow.rise();
        }
        state.place = Some(place);
        state.is_told = false;
    }

    /// Moves the frames that wait behind `frames`. Returns the close that the application asks for.
    pub fn take(&self, frames: &mut Vec<u8>) -> Option<Closing> {
        let mut state = self.lock();
        state.is_told = false;
        if frames.is_empty() {
            std::mem::swap(frames, &mut state.frames);
        } else {
            frames.append(&mut state.frames);
        }
        state.frames = Vec::new();
        let messages = std::mem::take(&mut state.messages);
        if let Some(tally) = state.tally().filter(|_| messages > 0) {
            tally.sent(messages.into());
        }
        state.closing.clone()
    }

    /// Notes how many bytes still wait for the client, besides those that have not been taken.
    pub fn note_unsent(&self, bytes: usize) {
        let mut state = self.lock();
        let waiting = state.frames.len() + bytes;
        let has_room = waiting < state.waiting_bytes;
        state.set_waiting(waiting, self.slow_bytes());
        drop(state);
        if has_room {
            self.room.notify_all();
        }
    }

    /// Returns whether the application must take events before the server receives more.
    pub fn pauses(&self) -> bool {
        let mut state = self.lock();
        state.is_paused = state.is_full() && !state.has_ended;
        state.is_paused
    }

    /// Returns whether the application has handled all events. If not, the server is told once it has.
    pub fn is_quiet(&self) -> bool {
        let mut state = self.lock();
        state.awaits_quiet = state.is_heard;
        !state.is_heard
    }

    /// Makes all later sends fail.
    pub fn shut(&self) {
        self.lock().is_closed = true;
        self.room.notify_all();
    }

    /// Adds a message.
    pub fn deliver(&self, event: Event) {
        let mut state = self.lock();
        if !state.has_ended {
            state.event_bytes += event.bytes();
            state.events.push_back(event);
        }
        Self::hear(state);
    }

    /// Ends the socket, which this side has closed: the last event follows those that wait.
    pub fn end(&self, closer: Closer, code: u16, reason: String) {
        let mut state = self.lock();
        state.is_closed = true;
        state.frames = Vec::new();
        state.set_waiting(0, self.slow_bytes());
        if let Some(place) = state.place.take() {
            place.attendant.tally().ended(closer, code);
        }
        if !state.has_ended {
            state.events.push_back(Event::Closed(code, reason));
            state.has_ended = true;
        }
        self.room.notify_all();
        Self::hear(state);
    }

    fn hear(mut state: MutexGuard<'_, State>) {
        if state.events.is_empty() || std::mem::replace(&mut state.is_heard, true) {
            return;
        }
        let listener = state.listener.clone();
        drop(state);
        if let Some(listener) = listener {
            listener.listen();
        }
    }
}

/// A socket whose handshake is not complete. If it is dropped, the socket is over before it was open.
#[derive(Debug)]
pub struct Unopened(Option<Arc<Socket>>);

impl Unopened {
    /// Makes it.
    pub fn new(socket: Arc<Socket>) -> Self {
        Self(Some(socket))
    }

    /// Returns the socket, whose handshake is complete.
    pub fn into_socket(mut self) -> Option<Arc<Socket>> {
        self.0.take()
    }
}

impl Drop for Unopened {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            socket.end(Closer::Client, code::ABNORMAL, String::new());
        }
    }
}
