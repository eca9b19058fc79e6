//! Receiving a request's body: whole, or while the application reads it (RFC 9112 §6, §7.1).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::StreamRequests;
use crate::handler::Exchange;
use crate::http::response::CONTINUE;
use crate::http::{BodyDecoder, Framing, ParseError, RequestHead, Version};
use crate::spool::Spool;
use crate::sys::{self, Io};
use crate::timer::Timer;

use super::answer::Answer;
use super::{Connection, Failure, Refusal};

/// How much is read at once while a body is awaited.
const BODY_READ_BYTES: usize = 64 * 1024;
/// How much is read at once straight into the memory of a body.
const DIRECT_READ_BYTES: usize = 256 * 1024;
/// How much of a streamed body that the application left unread is received all the same, so that the connection can
/// be used again: what a client has sent anyway, more or less. A new connection costs less than a longer one.
const UNREAD_BYTES_MAX: u64 = 256 * 1024;
/// How often it is asked meanwhile whether the server stops.
const UNREAD_LOOK: Duration = Duration::from_millis(250);
/// A slow body or a slow reader is given this long before its rate counts.
pub(super) const RATE_GRACE: Duration = Duration::from_secs(5);

/// A body that is received while the application reads it.
pub(super) struct Streaming {
    head: Arc<RequestHead>,
    decoder: BodyDecoder,
    /// The body's length, if the client said it.
    length: Option<u64>,
    expectation: Expectation,
    /// The body has ended, one way or the other.
    over: bool,
    /// Something was wrong with it: the connection cannot be used again.
    failed: bool,
    deadline: Option<Instant>,
    /// How long the client has been waited for, but for the wait that lasts; the application's own pauses do not count.
    waited: Duration,
    waits_since: Option<Instant>,
}

/// How far a streamed body has been handed on.
pub(super) enum Pumped {
    /// As far as can be for now: more happens after an event, or when that moment has come.
    Until(Option<Instant>),
    /// There is more to do: look at the exchange, which may have changed meanwhile, let others go on, then again.
    Again,
}

/// What has become of a client's `Expect: 100-continue`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expectation {
    /// There is none, or it has been met.
    None,
    /// The client waits for `100 Continue`.
    Owed,
    /// The response began without one: the client may send its body, or not.
    Dropped,
}

impl Connection {
    /// Whether the settings want this body streamed.
    pub(super) fn streams(&self, head: &RequestHead) -> bool {
        match (self.shared.stream_requests, head.framing()) {
            (_, Framing::None) | (StreamRequests::Never, _) | (StreamRequests::Above(_), Framing::Chunked) => false,
            (StreamRequests::Always, _) => true,
            (StreamRequests::Above(bytes), Framing::Length(length)) => length > bytes,
        }
    }

    /// A length that is too long is refused before any of it is received, and before any `100 Continue`.
    pub(super) fn check_length(&self, head: &RequestHead) -> Result<(), ParseError> {
        if head.framing().exceeds(self.shared.max_body_bytes) { Err(ParseError::BodyTooLarge) } else { Ok(()) }
    }

    /// Receives the whole body.
    pub(super) fn read_body(&mut self, head: &RequestHead, timer: &Timer) -> Result<Spool, Failure> {
        let mut decoder = BodyDecoder::new(head.framing(), self.shared.max_body_bytes);
        let length = match head.framing() {
            Framing::Length(bytes) => Some(bytes),
            Framing::None | Framing::Chunked => None,
        };
        let mut spool = Spool::new(&self.shared.bodies, length);
        if head.expects_continue() && self.buffer.is_empty() && !self.send_now(CONTINUE, timer) {
            return Err(Failure::Gone);
        }
        let mut began = Instant::now();
        let mut deadline = began + self.shared.body_timeout;
        loop {
            if !self.buffer.is_empty() {
                let waited = self.await_room(&mut spool, self.buffer.len(), deadline, timer)?;
                (began, deadline) = (began + waited, deadline + waited);
            }
            while !self.buffer.is_empty() && !decoder.is_complete() {
                let run = decoder.decode_run(&mut self.buffer)?;
                self.turn.spend_decoding(run.framing_bytes(), run.data.len());
                if let Err(error) = self.store(&mut spool, run.data) {
                    return Err(self.not_stored(&error));
                }
                self.consume(run.consumed);
            }
            if decoder.is_complete() {
                return Ok(spool);
            }
            self.go_on();
            let received = match length {
                Some(length) if self.buffer.is_empty() => self.receive_body(length, &mut decoder, &mut spool)?,
                _ => self.fill_body(),
            };
            match received {
                Io::Done(0) => {
                    return Err(Failure::Refused(Refusal::CutBody { received: decoder.decoded_bytes() }));
                }
                Io::Failed(_) => return Err(Failure::Gone),
                Io::Done(_) => deadline = Instant::now() + self.shared.body_timeout,
                Io::WouldBlock => {
                    let now = Instant::now();
                    let rate_due = self.rate_deadline(began, decoder.decoded_bytes());
                    if now >= deadline || now >= rate_due {
                        let (received, below_rate) = (decoder.decoded_bytes(), now < deadline);
                        return Err(Failure::Refused(Refusal::SlowBody { received, below_rate }));
                    }
                    timer.set(Some(deadline.min(rate_due)));
                    self.wait();
                }
            }
        }
    }

    /// Receives once, unless the last read showed that there is nothing.
    fn fill_body(&mut self) -> Io<usize> {
        if self.drained { Io::WouldBlock } else { self.fill(BODY_READ_BYTES) }
    }

    /// Receives once, straight into the memory of a body of that length, while there is any.
    fn receive_body(
        &mut self,
        length: u64,
        decoder: &mut BodyDecoder,
        spool: &mut Spool,
    ) -> Result<Io<usize>, ParseError> {
        let left = usize::try_from(length - decoder.decoded_bytes()).unwrap_or(usize::MAX).min(DIRECT_READ_BYTES);
        let Some((memory, room)) = spool.room(left).filter(|_| !self.drained) else { return Ok(self.fill_body()) };
        let old = memory.len();
        // One byte more than the body has shows whether there is anything behind it.
        let result = sys::receive(&self.stream, memory, room + 1);
        let end = old + decoder.decode(memory.get(old..).unwrap_or_default())?.consumed;
        self.buffer.extend_from_slice(memory.get(end..).unwrap_or_default());
        memory.truncate(end);
        Ok(self.note(result, room + 1))
    }

    /// Returns when a transfer that began at `began` and has moved `bytes` falls below the lowest rate allowed.
    pub(super) fn rate_deadline(&self, began: Instant, bytes: u64) -> Instant {
        let earned = match self.shared.min_rate {
            0 => return began + Duration::from_secs(365 * 86_400),
            rate => Duration::from_secs(bytes / rate),
        };
        began + RATE_GRACE + earned.min(Duration::from_secs(365 * 86_400))
    }

    /// Begins to stream a body.
    pub(super) fn start_streaming(&self, head: &Arc<RequestHead>) -> Streaming {
        let waits = head.expects_continue() && self.buffer.is_empty() && head.version() == Version::Http11;
        Streaming {
            head: Arc::clone(head),
            decoder: BodyDecoder::new(head.framing(), self.shared.max_body_bytes),
            length: match head.framing() {
                Framing::Length(bytes) => Some(bytes),
                Framing::None | Framing::Chunked => None,
            },
            expectation: if waits { Expectation::Owed } else { Expectation::None },
            over: false,
            failed: false,
            deadline: None,
            waited: Duration::ZERO,
            waits_since: None,
        }
    }

    /// Hands on what has come of a body, if it is streamed, as far as there is room and this connection's turn goes.
    #[inline]
    pub(super) fn pump(&mut self, streaming: Option<&mut Streaming>, answer: &Answer, timer: &Timer) -> Pumped {
        streaming.map_or(Pumped::Until(None), |streaming| self.pump_streaming(streaming, answer, timer))
    }

    fn pump_streaming(&mut self, streaming: &mut Streaming, answer: &Answer, timer: &Timer) -> Pumped {
        let exchange = answer.exchange();
        if let Some(pumped) = self.begin_to_receive(streaming, answer, timer) {
            return pumped;
        }
        loop {
            let room = exchange.input_room();
            if room == 0 {
                streaming.waits_since = None;
                return Pumped::Until(None);
            }
            let come = room.min(self.buffer.len());
            let come = self.buffer.get_mut(..come).unwrap_or_default();
            let run = match streaming.decoder.decode_run(come) {
                Ok(run) => run,
                Err(error) => {
                    self.log_broken_body(error.into(), &streaming.head);
                    return streaming.end(exchange, Some(io::ErrorKind::InvalidData));
                }
            };
            self.turn.spend_decoding(run.framing_bytes(), run.data.len());
            if !run.data.is_empty() {
                exchange.give_input(self.buffer.get(run.data).unwrap_or_default());
                self.turn.spend_call(0);
                streaming.deadline = None;
            }
            self.consume(run.consumed);
            if streaming.decoder.is_complete() {
                return streaming.end(exchange, None);
            }
            if self.turn.is_over() {
                return Pumped::Again;
            }
            if run.consumed > 0 {
                continue;
            }
            match self.fill_body() {
                Io::Done(0) | Io::Failed(_) => return streaming.end(exchange, Some(io::ErrorKind::ConnectionReset)),
                Io::Done(_) => {
                    let waited = streaming.waits_since.take().map_or(Duration::ZERO, |since| since.elapsed());
                    streaming.waited += waited;
                }
                Io::WouldBlock => {
                    let now = Instant::now();
                    let since = *streaming.waits_since.get_or_insert(now);
                    let began = since.checked_sub(streaming.waited).unwrap_or(since);
                    let rate_due = self.rate_deadline(began, streaming.decoder.decoded_bytes());
                    let deadline = *streaming.deadline.get_or_insert(now + self.shared.body_timeout);
                    if now >= deadline.min(rate_due) {
                        let (received, below_rate) = (streaming.decoder.decoded_bytes(), now < deadline);
                        self.log_broken_body(Refusal::SlowBody { received, below_rate }, &streaming.head);
                        return streaming.end(exchange, Some(io::ErrorKind::TimedOut));
                    }
                    return Pumped::Until(Some(deadline.min(rate_due)));
                }
            }
        }
    }

    /// What comes before more of a streamed body is received: `100 Continue` where the client waits for it. `None`: go
    /// on to receive.
    fn begin_to_receive(&mut self, streaming: &mut Streaming, answer: &Answer, timer: &Timer) -> Option<Pumped> {
        let exchange = answer.exchange();
        if streaming.over {
            if streaming.failed || !exchange.take_again() {
                return Some(Pumped::Until(None));
            }
            streaming.decoder = BodyDecoder::new(Framing::Chunked, self.shared.max_body_bytes);
            streaming.over = false;
        }
        if streaming.expectation != Expectation::Owed {
            return None;
        }
        // Within the final response it would be a part of it (RFC 9110 §15.2).
        if answer.has_begun() {
            streaming.expectation = Expectation::Dropped;
            return None;
        }
        if !answer.may_continue() || !exchange.wants_input() {
            return Some(Pumped::Until(None));
        }
        streaming.expectation = Expectation::None;
        // What the application sent before it began to read is sent or will be taken next.
        if !exchange.has_continued() && !self.send_now(CONTINUE, timer) {
            return Some(streaming.end(exchange, Some(io::ErrorKind::ConnectionReset)));
        }
        // Sending may have waited, for the same waker as the exchange's.
        Some(Pumped::Again)
    }
}

impl Connection {
    /// Receives the rest of a body that the application left unread, and throws it away. Returns whether it ended well.
    pub(super) fn discard_body(&mut self, streaming: &mut Streaming, timer: &Timer) -> bool {
        let deadline = Instant::now() + self.shared.body_timeout;
        let most = streaming.decoder.decoded_bytes().saturating_add(UNREAD_BYTES_MAX);
        while streaming.can_be_finished() && streaming.decoder.decoded_bytes() <= most {
            while !self.buffer.is_empty() && !streaming.decoder.is_complete() {
                let Ok(run) = streaming.decoder.decode_run(&mut self.buffer) else { return false };
                self.turn.spend_decoding(run.framing_bytes(), run.data.len());
                self.consume(run.consumed);
            }
            if streaming.decoder.is_complete() {
                return true;
            }
            self.go_on();
            match self.fill_body() {
                Io::Done(0) | Io::Failed(_) => return false,
                Io::Done(_) => {}
                Io::WouldBlock => {
                    let now = Instant::now();
                    if now >= deadline || self.shared.is_draining() {
                        return false;
                    }
                    // Nothing wakes this coroutine when the server stops, so it looks now and then.
                    timer.set(Some(deadline.min(now + UNREAD_LOOK)));
                    self.wait();
                }
            }
        }
        false
    }
}

impl Streaming {
    fn end(&mut self, exchange: &Exchange, failed: Option<io::ErrorKind>) -> Pumped {
        self.over = true;
        self.failed = failed.is_some();
        exchange.end_input(failed);
        Pumped::Until(None)
    }

    /// Whether the whole body was received well, so that another request can follow.
    pub(super) fn is_complete(&self) -> bool {
        self.over && !self.failed
    }

    /// Whether the missing rest of the body is probably small enough to be received and thrown away.
    pub(super) fn can_be_finished(&self) -> bool {
        let missing = self.length.map_or(0, |length| length.saturating_sub(self.decoder.decoded_bytes()));
        !self.failed && self.expectation == Expectation::None && missing <= UNREAD_BYTES_MAX
    }
}
