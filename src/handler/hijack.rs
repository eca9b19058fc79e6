//! Handing a connection's stream to the answering thread, which then speaks to the client itself (WebSocket).
//!
//! *Owns*: the stream on its way from the connection to the thread. *Runs on*: both sides; each method says which. Only
//! `Responder::take_stream` waits, for the connection's coroutine and not for the client. *Invariants*: every request
//! for the stream is answered, also if the connection ends. Once the stream is given, only the taker reads and writes
//! it. The work for the end of the call is done exactly once.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::{ApplicationTimes, Exchange, Responder, State};

/// How long a thread waits for the stream. The connection gives it away at once, unless it has to send an interim
/// response first.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection's stream, no longer the server's.
pub struct TakenStream {
    /// The socket: registered nowhere, and still non-blocking.
    pub fd: OwnedFd,
    /// What was received behind the request and not used.
    pub received: Vec<u8>,
    /// The server's own hold on the connection. Drop it when `fd` is closed, or the client does not notice before the
    /// call ends.
    pub hold: Hold,
}

/// What the server keeps of a connection that was taken over; dropped, it is let go of.
pub type Hold = Box<dyn Send + Sync>;

/// What is done when the call that has a stream ends, on its thread.
pub type AtEnd = Box<dyn FnOnce(CallEnd) + Send>;

/// How the call ended that has a stream.
#[derive(Debug)]
pub struct CallEnd {
    /// When the application ran.
    pub times: ApplicationTimes,
    /// Values of environ entries that the access log asked for.
    pub environ: Vec<(String, String)>,
    /// The owner of the stream from then on.
    pub keeps: Keeps,
}

/// Whose the stream is after the call that took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// The application's, for as long as it likes.
    Application,
    /// No one: the connection is shut down when the call ends.
    Nobody,
}

/// Why a stream was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotGiven {
    /// There is no client any more.
    #[error("the client has gone")]
    Gone,
    /// The final response is on its way, or a part of it.
    #[error("the response has begun")]
    Begun,
    /// The rest of the request's body would be taken for what follows it.
    #[error("the request's body has not been received whole")]
    BodyUnread,
    /// It was given before.
    #[error("the connection has been taken over already")]
    Taken,
    /// An interim response is still on its way to a client that does not take it.
    #[error("the client does not take what was sent before")]
    TimedOut,
    /// The system has no descriptor left.
    #[error("the server has no file descriptor left for it")]
    NoDescriptor,
}

/// A stream that was asked for.
pub(super) struct Hijack {
    keeps: Keeps,
    stage: Stage,
    at_end: Option<AtEnd>,
}

enum Stage {
    /// The thread waits.
    Wanted,
    /// The connection is letting go of it, and cannot go back.
    Promised,
    Given(TakenStream),
    Refused(NotGiven),
    /// The thread has it.
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

impl fmt::Debug for Hijack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hijack")
    }
}

impl Hijack {
    /// Whether the thread waits for the connection's answer.
    pub(super) fn is_wanted(&self) -> bool {
        matches!(self.stage, Stage::Wanted)
    }

    /// The call has ended. (Answering side, without the exchange's lock.)
    pub(super) fn end(self, times: ApplicationTimes, environ: Vec<(String, String)>) {
        if let Some(at_end) = self.at_end {
            at_end(CallEnd { times, environ, keeps: self.keeps });
        }
    }
}

impl Exchange {
    /// Notes that the connection is about to give its stream away. Returns whether the thread still waits for it; it
    /// then waits as long as that takes. (Connection's side, like the two below.)
    pub fn promise_stream(&self) -> bool {
        let mut state = self.lock();
        let Some(hijack) = state.hijack.as_mut().filter(|hijack| hijack.is_wanted()) else { return false };
        hijack.stage = Stage::Promised;
        true
    }

    /// The thread that waits will not get the stream.
    pub fn refuse_stream(&self, why: NotGiven) {
        self.answer_taker(Stage::Refused(why), None);
    }

    /// Gives the stream that was promised; `at_end` is done when the call has ended.
    pub fn give_stream(&self, stream: TakenStream, at_end: AtEnd) {
        self.answer_taker(Stage::Given(stream), Some(at_end));
    }

    fn answer_taker(&self, answer: Stage, at_end: Option<AtEnd>) {
        let mut state = self.lock();
        if let Some(hijack) = state.hijack.as_mut()
            && matches!(hijack.stage, Stage::Wanted | Stage::Promised)
        {
            hijack.stage = answer;
            hijack.at_end = at_end;
        }
        drop(state);
        self.change.notify_all();
    }
}

impl State {
    /// What there is for the thread that waits for a stream.
    fn taken(&mut self) -> Option<Result<TakenStream, NotGiven>> {
        let hijack = self.hijack.as_mut()?;
        match std::mem::replace(&mut hijack.stage, Stage::Taken) {
            Stage::Given(stream) => Some(Ok(stream)),
            Stage::Refused(why) => Some(Err(why)),
            Stage::Wanted if self.gone => Some(Err(NotGiven::Gone)),
            waiting => {
                hijack.stage = waiting;
                None
            }
        }
    }
}

impl Responder {
    /// Takes the connection over: the caller speaks with the client from now on, and what it says through this responder
    /// is dropped. Possible as long as nothing of the final response was sent, and once the request's body has come.
    /// Waits for the connection's coroutine, at most some seconds: call it without the GIL.
    ///
    /// # Errors
    /// Why not; the response can be sent as usual then.
    pub fn take_stream(&mut self, keeps: Keeps) -> Result<TakenStream, NotGiven> {
        let end = Instant::now() + PATIENCE;
        let mut state = self.exchange.lock();
        if state.hijack.is_some() {
            return Err(NotGiven::Taken);
        }
        if state.gone {
            return Err(NotGiven::Gone);
        }
        state.hijack = Some(Box::new(Hijack { keeps, stage: Stage::Wanted, at_end: None }));
        drop(state);
        self.exchange.waker.wake_now();
        let mut state = self.exchange.lock();
        let taken = loop {
            if let Some(taken) = state.taken() {
                break taken;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() && state.hijack.as_ref().is_some_and(|hijack| hijack.is_wanted()) {
                break Err(NotGiven::TimedOut);
            }
            // A thread to which it was promised gets it soon.
            let left = left.max(Duration::from_millis(1));
            state = self.exchange.change.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        if taken.is_err() {
            state.hijack = None;
        } else {
            // For the response there is no client any more.
            state.gone = true;
        }
        taken
    }
}
