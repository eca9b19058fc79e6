//! Handing a connection's stream to the handler's thread, which then speaks to the client itself (WebSocket).
//!
//! *Owns*: the stream on its way from the connection to the thread. *Runs on*: both sides; each method says which. Only
//! `Responder::take_stream` waits, for the connection's coroutine and not for the client. *Invariants*: every request
//! for the stream gets a reply, also if the connection ends. Once the stream is given, only the taker reads and writes
//! it. The closure for the end of the call runs exactly once.

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::{ApplicationTimes, Exchange, Responder, State};

/// How long a thread waits for the stream. The connection gives it away at once, unless it first has to send an interim
/// response.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection's stream that the server has given away.
pub struct TakenStream {
    /// The socket: not registered with any epoll set, still non-blocking.
    pub fd: OwnedFd,
    /// Bytes received after the request and not used.
    pub received: Vec<u8>,
    /// The server's hold on the connection. Drop it when `fd` is closed. Otherwise the client notices the end only when
    /// the call ends.
    pub hold: Hold,
}

/// The server's part of a connection that was taken over. Dropping it releases the connection.
pub type Hold = Box<dyn Send + Sync>;

/// The closure that runs, on the call's thread, when a call that has a stream ends.
pub type AtEnd = Box<dyn FnOnce(CallEnd) + Send>;

/// How a call that has a stream ended.
#[derive(Debug)]
pub struct CallEnd {
    /// When the application ran.
    pub times: ApplicationTimes,
    /// Values of environ entries that the access log asked for.
    pub environ: Vec<(String, String)>,
    /// The owner of the stream from then on.
    pub kept_by: KeptBy,
}

/// The owner of the stream after the call that took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptBy {
    /// The application keeps it for as long as it likes.
    Application,
    /// The server shuts the connection down when the call ends.
    Server,
}

/// Why a stream was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotGiven {
    /// The client has gone.
    #[error("the client has gone")]
    Gone,
    /// The final response, or a part of it, is on its way.
    #[error("the response has begun")]
    Begun,
    /// The rest of the request's body would be mistaken for the data after it.
    #[error("the request's body has not been received whole")]
    BodyUnread,
    /// The stream was given before.
    #[error("the connection has been taken over already")]
    Taken,
    /// An interim response is still on its way to a client that does not read it.
    #[error("the client does not take what was sent before")]
    TimedOut,
    /// The request is one of several on its connection.
    #[error("a connection of HTTP/2 cannot be taken over")]
    Http2,
    /// The process has no descriptor left.
    #[error("the server has no file descriptor left for it")]
    NoDescriptor,
}

/// A stream that the handler's side asked for.
pub(super) struct Takeover {
    kept_by: KeptBy,
    stage: Stage,
    at_end: Option<AtEnd>,
}

enum Stage {
    /// The thread waits.
    Wanted,
    /// The connection is letting go of the stream and cannot go back.
    Promised,
    Given(TakenStream),
    Refused(NotGiven),
    /// The thread has the stream.
    Taken,
}

impl fmt::Debug for TakenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakenStream")
            .field("fd", &self.fd)
            .field("received", &self.received.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Takeover")
    }
}

impl Takeover {
    /// Returns whether the thread still waits for the connection's reply.
    pub(super) fn is_wanted(&self) -> bool {
        matches!(self.stage, Stage::Wanted)
    }

    /// Runs the closure for the end of the call. (Handler's side, without the exchange's lock.)
    pub(super) fn end(self, times: ApplicationTimes, environ: Vec<(String, String)>) {
        if let Some(at_end) = self.at_end {
            at_end(CallEnd { times, environ, kept_by: self.kept_by });
        }
    }
}

impl Exchange {
    /// Returns whether the handler's thread has the stream. (Any thread.)
    pub fn is_taken_over(&self) -> bool {
        self.lock().takeover.as_ref().is_some_and(|takeover| matches!(takeover.stage, Stage::Given(_) | Stage::Taken))
    }

    /// Notes that the connection is about to give its stream away. Returns whether the thread still waits for it. If
    /// so, the thread waits until the stream arrives. (Connection's side, like the two methods below.)
    pub fn promise_stream(&self) -> bool {
        let mut state = self.lock();
        let Some(takeover) = state.takeover.as_mut().filter(|takeover| takeover.is_wanted()) else { return false };
        takeover.stage = Stage::Promised;
        true
    }

    /// Tells the waiting thread that it will not get the stream.
    pub fn refuse_stream(&self, why: NotGiven) {
        self.reply_to_taker(Stage::Refused(why), None);
    }

    /// Gives the promised stream; `at_end` runs when the call has ended.
    pub fn give_stream(&self, stream: TakenStream, at_end: AtEnd) {
        self.reply_to_taker(Stage::Given(stream), Some(at_end));
    }

    fn reply_to_taker(&self, reply: Stage, at_end: Option<AtEnd>) {
        let mut state = self.lock();
        if let Some(takeover) = state.takeover.as_mut()
            && matches!(takeover.stage, Stage::Wanted | Stage::Promised)
        {
            takeover.stage = reply;
            takeover.at_end = at_end;
        }
        drop(state);
        self.change.notify_all();
    }
}

impl State {
    /// Takes the reply for the thread that waits for a stream, if there is one.
    fn taken(&mut self) -> Option<Result<TakenStream, NotGiven>> {
        let takeover = self.takeover.as_mut()?;
        match std::mem::replace(&mut takeover.stage, Stage::Taken) {
            Stage::Given(stream) => Some(Ok(stream)),
            Stage::Refused(why) => Some(Err(why)),
            Stage::Wanted if self.gone => Some(Err(NotGiven::Gone)),
            waiting => {
                takeover.stage = waiting;
                None
            }
        }
    }
}

impl Responder {
    /// Takes the connection over: from now on the caller speaks with the client, and output through this responder is
    /// dropped. Possible while no byte of the final response has been sent, and once the request's body has arrived.
    /// Waits for the connection's coroutine, for at most some seconds: call it without the GIL.
    ///
    /// # Errors
    /// Says why not. The response can then be sent as usual.
    pub fn take_stream(&mut self, kept_by: KeptBy) -> Result<TakenStream, NotGiven> {
        let end = Instant::now() + PATIENCE;
        let mut state = self.exchange.lock();
        if state.takeover.is_some() {
            return Err(NotGiven::Taken);
        }
        if state.gone {
            return Err(NotGiven::Gone);
        }
        state.takeover = Some(Box::new(Takeover { kept_by, stage: Stage::Wanted, at_end: None }));
        drop(state);
        self.exchange.wake_now();
        let mut state = self.exchange.lock();
        let taken = loop {
            if let Some(taken) = state.taken() {
                break taken;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() && state.takeover.as_ref().is_some_and(|takeover| takeover.is_wanted()) {
                break Err(NotGiven::TimedOut);
            }
            // A promised stream arrives soon.
            let left = left.max(Duration::from_millis(1));
            state = self.exchange.change.wait_timeout(state, left);
        };
        if taken.is_err() {
            state.takeover = None;
        } else {
            // For the response, the client has gone.
            state.gone = true;
        }
        taken
    }
}
