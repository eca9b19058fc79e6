//! Receiving a request's body: whole, or while the application reads it (RFC 9112 §6, §7.1).
//!
//! *Owns*: the state of a streamed body. *Runs on*: the connection's coroutine. *Invariants*: a body that is malformed,
//! cut or late is never passed on as a complete one. `100 Continue` is sent at most once, and never inside the final
//! response.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::handler::Exchange;
use crate::http::response::CONTINUE;
use crate::http::{BodyDecoder, Framing, ParseError, RequestHead, Version};
use crate::spool::Spool;

use super::response::Response;
use crate::connection::transport::{Received, Until};
use crate::connection::{Connection, Ended, Refusal};

/// The most bytes that one read takes into the connection's buffer.
const BODY_READ_BYTES: usize = 64 * 1024;
/// The most bytes that one read takes directly into the memory of a body.
const DIRECT_READ_BYTES: usize = 256 * 1024;
/// If the application leaves a streamed body unread, the server receives at most this many bytes more, so that the
/// connection can be reused. A client has usually sent about this much already. Receiving more would cost more than a
/// new connection.
const UNREAD_BYTES_MAX: u64 = 256 * 1024;

/// A body that is received while the application reads it.
pub(in crate::connection) struct Streaming {
    head: Arc<RequestHead>,
    decoder: BodyDecoder,
    /// The longest body that is allowed.
    bytes_max: u64,
    /// The body's length, if the client declared it.
    length: Option<u64>,
    state: State,
    deadline: Option<Instant>,
    /// How long the server has waited for the client, without the current wait. Pauses of the application do not count.
    waited: Duration,
    waits_since: Option<Instant>,
}

/// The result of passing a streamed body to the application.
pub(in crate::connection) enum Pumped {
    /// No more can be passed on now. Continue after an event, or when this deadline passes.
    Until(Until),
    /// More can be passed on. Look at the exchange again, which may have changed; yield; then call again.
    Again,
}

/// The state of a streamed body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The client waits for `100 Continue` before it sends the body.
    ContinueOwed,
    /// The client is sending the body.
    Coming,
    /// The response began without `100 Continue`: the client may or may not send its body.
    Uncertain,
    /// The whole body was received.
    Complete,
    /// The body was malformed, cut or late: the connection cannot be used again.
    Failed,
}

impl Connection {
    /// Receives the whole body, of at most `bytes_max` bytes.
    pub(in crate::connection) fn read_body(&mut self, head: &RequestHead, bytes_max: u64) -> Result<Spool, Ended> {
        let mut decoder = BodyDecoder::new(head.framing(), bytes_max);
        let length = match head.framing() {
            Framing::Length(bytes) => Some(bytes),
            Framing::None | Framing::Chunked => None,
        };
        let mut spool = Spool::new(&self.shared.derived.bodies, length);
        if head.expects_continue() && self.buffer.is_empty() && !self.send_now(CONTINUE) {
            return Err(Ended::Gone);
        }
        let mut began = Instant::now();
        let mut deadline = began + self.shared.config.body_timeout;
        loop {
            if !self.buffer.is_empty() {
                let waited = self.await_room(&mut spool, self.buffer.len(), deadline)?;
                (began, deadline) = (began + waited, deadline + waited);
            }
            while !self.buffer.is_empty() && !decoder.is_complete() {
                let run = decoder.decode_run(&mut self.buffer).map_err(|error| Refusal::of_body(error, bytes_max))?;
                self.transport.turn().spend_decoding(run.framing_bytes(), run.data.len());
                if let Err(error) = self.store(&mut spool, run.data) {
                    return Err(self.not_stored(&error));
                }
                self.consume(run.consumed);
            }
            if decoder.is_complete() {
                return Ok(spool);
            }
            self.transport.take_turn();
            let received = match length {
                Some(length) if self.buffer.is_empty() => self.receive_body(length, &mut decoder, &mut spool)?,
                _ => self.fill_body(),
            };
            match received {
                Received::End => {
                    return Err(Ended::Refused(Refusal::CutBody { received: decoder.decoded_bytes() }));
                }
                Received::Broken => return Err(Ended::Gone),
                Received::Bytes(_) | Received::Part => deadline = Instant::now() + self.shared.config.body_timeout,
                Received::Nothing => {
                    let now = Instant::now();
                    let rate_due =
                        self.shared.rate_deadline(began, decoder.decoded_bytes() + self.transport.unopened());
                    if now >= deadline || now >= rate_due {
                        let (received, below_rate) = (decoder.decoded_bytes(), now < deadline);
                        return Err(Ended::Refused(Refusal::SlowBody { received, below_rate }));
                    }
                    self.transport.wait(Until::at(deadline).or(rate_due));
                }
            }
        }
    }

    fn fill_body(&mut self) -> Received {
        self.transport.receive(&mut self.buffer, BODY_READ_BYTES)
    }

    /// Receives once, directly into the memory of a body of this length if it has room.
    fn receive_body(
        &mut self,
        length: u64,
        decoder: &mut BodyDecoder,
        spool: &mut Spool,
    ) -> Result<Received, ParseError> {
        let left = usize::try_from(length - decoder.decoded_bytes()).unwrap_or(usize::MAX).min(DIRECT_READ_BYTES);
        let Some((memory, room)) = spool.room(left) else { return Ok(self.fill_body()) };
        let old = memory.len();
        // One byte more than the body's rest shows whether other bytes follow it.
        let received = self.transport.receive(memory, room + 1);
        let end = old + decoder.decode(memory.get(old..).unwrap_or_default())?.consumed;
        self.buffer.extend_from_slice(memory.get(end..).unwrap_or_default());
        memory.truncate(end);
        Ok(received)
    }

    /// Starts to stream a body of at most `bytes_max` bytes.
    pub(in crate::connection) fn start_streaming(&self, head: &Arc<RequestHead>, bytes_max: u64) -> Streaming {
        let waits = head.expects_continue() && self.buffer.is_empty() && head.version() == Version::Http11;
        Streaming {
            head: Arc::clone(head),
            decoder: BodyDecoder::new(head.framing(), bytes_max),
            bytes_max,
            length: match head.framing() {
                Framing::Length(bytes) => Some(bytes),
                Framing::None | Framing::Chunked => None,
            },
            state: if waits { State::ContinueOwed } else { State::Coming },
            deadline: None,
            waited: Duration::ZERO,
            waits_since: None,
        }
    }

    /// Passes received bytes of a streamed body to the application, within its window and the connection's turn.
    #[inline]
    pub(in crate::connection) fn pump(
        &mut self,
        streaming: Option<&mut Streaming>,
        exchange: &Exchange,
        response: &Response,
    ) -> Pumped {
        streaming.map_or(Pumped::Until(Until::EVENT), |streaming| self.pump_streaming(streaming, exchange, response))
    }

    fn pump_streaming(&mut self, streaming: &mut Streaming, exchange: &Exchange, response: &Response) -> Pumped {
        if let Some(pumped) = self.begin_to_receive(streaming, exchange, response) {
            return pumped;
        }
        loop {
            let room = exchange.input_room();
            if room == 0 {
                streaming.waits_since = None;
                return Pumped::Until(Until::EVENT);
            }
            let come = room.min(self.buffer.len());
            let come = self.buffer.get_mut(..come).unwrap_or_default();
            let run = match streaming.decoder.decode_run(come) {
                Ok(run) => run,
                Err(error) => {
                    self.log_broken_body(Refusal::of_body(error, streaming.bytes_max), &streaming.head);
                    return streaming.end(exchange, Some(io::ErrorKind::InvalidData));
                }
            };
            self.transport.turn().spend_decoding(run.framing_bytes(), run.data.len());
            if !run.data.is_empty() {
                exchange.give_input(self.buffer.get(run.data).unwrap_or_default());
                self.transport.turn().spend_call(0);
                streaming.deadline = None;
            }
            self.consume(run.consumed);
            if streaming.decoder.is_complete() {
                return streaming.end(exchange, None);
            }
            if self.transport.turn().is_over() {
                return Pumped::Again;
            }
            if run.consumed > 0 {
                continue;
            }
            match self.fill_body() {
                Received::End | Received::Broken => {
                    return streaming.end(exchange, Some(io::ErrorKind::ConnectionReset));
                }
                received @ (Received::Bytes(_) | Received::Part) => {
                    let waited = streaming.waits_since.take().map_or(Duration::ZERO, |since| since.elapsed());
                    streaming.waited += waited;
                    if received == Received::Part {
                        streaming.deadline = None;
                    }
                }
                Received::Nothing => {
                    let now = Instant::now();
                    let since = *streaming.waits_since.get_or_insert(now);
                    let began = since.checked_sub(streaming.waited).unwrap_or(since);
                    let received = streaming.decoder.decoded_bytes() + self.transport.unopened();
                    let rate_due = self.shared.rate_deadline(began, received);
                    let deadline = *streaming.deadline.get_or_insert(now + self.shared.config.body_timeout);
                    if now >= deadline.min(rate_due) {
                        let (received, below_rate) = (streaming.decoder.decoded_bytes(), now < deadline);
                        self.log_broken_body(Refusal::SlowBody { received, below_rate }, &streaming.head);
                        return streaming.end(exchange, Some(io::ErrorKind::TimedOut));
                    }
                    return Pumped::Until(Until::at(deadline).or(rate_due));
                }
            }
        }
    }

    /// Sends `100 Continue` if the client waits for it. Returns `None` if the body can be received now.
    fn begin_to_receive(
        &mut self,
        streaming: &mut Streaming,
        exchange: &Exchange,
        response: &Response,
    ) -> Option<Pumped> {
        match streaming.state {
            State::ContinueOwed => {}
            State::Coming | State::Uncertain => return None,
            State::Complete if exchange.take_again() => {
                streaming.decoder = BodyDecoder::new(Framing::Chunked, streaming.bytes_max);
                streaming.state = State::Coming;
                return None;
            }
            State::Complete | State::Failed => return Some(Pumped::Until(Until::EVENT)),
        }
        // Inside the final response, `100 Continue` would be a part of it (RFC 9110 §15.2).
        if response.has_begun() {
            streaming.state = State::Uncertain;
            return None;
        }
        if !response.may_continue() || !exchange.wants_input() {
            return Some(Pumped::Until(Until::EVENT));
        }
        streaming.state = State::Coming;
        // All output from before the application began to read has been sent, or is taken next.
        if !exchange.has_continued() && !self.send_now(CONTINUE) {
            return Some(streaming.end(exchange, Some(io::ErrorKind::ConnectionReset)));
        }
        // Sending may have waited, and may have used up a wake that was meant for the exchange.
        Some(Pumped::Again)
    }
}

impl Connection {
    /// Receives and discards the rest of a body that the application left unread. Returns whether the body ended
    /// without an error.
    pub(in crate::connection) fn discard_body(&mut self, streaming: &mut Streaming) -> bool {
        let deadline = Instant::now() + self.shared.config.body_timeout;
        let most = streaming.decoder.decoded_bytes().saturating_add(UNREAD_BYTES_MAX);
        let drain = Arc::clone(self.shared.drain());
        let mut watch = None;
        while streaming.can_be_finished() && streaming.decoder.decoded_bytes() <= most {
            while !self.buffer.is_empty() && !streaming.decoder.is_complete() {
                let Ok(run) = streaming.decoder.decode_run(&mut self.buffer) else { return false };
                self.transport.turn().spend_decoding(run.framing_bytes(), run.data.len());
                self.consume(run.consumed);
            }
            if streaming.decoder.is_complete() {
                return true;
            }
            self.transport.take_turn();
            match self.fill_body() {
                Received::End | Received::Broken => return false,
                Received::Bytes(_) | Received::Part => {}
                Received::Nothing => {
                    // The drain wakes this coroutine when it closes idle connections from then on.
                    watch.get_or_insert_with(|| drain.watch(self.transport.waker().clone()));
                    if Instant::now() >= deadline || drain.closes_idle() {
                        return false;
                    }
                    self.transport.wait(Until::at(deadline));
                }
            }
        }
        false
    }
}

impl Streaming {
    fn end(&mut self, exchange: &Exchange, failed: Option<io::ErrorKind>) -> Pumped {
        self.state = if failed.is_some() { State::Failed } else { State::Complete };
        exchange.end_input(failed);
        Pumped::Until(Until::EVENT)
    }

    /// Returns whether the whole body was received without an error, so that another request can follow.
    pub(in crate::connection) fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Returns whether the missing rest of the body is probably small enough to receive and discard.
    pub(in crate::connection) fn can_be_finished(&self) -> bool {
        let missing = self.length.map_or(0, |length| length.saturating_sub(self.decoder.decoded_bytes()));
        matches!(self.state, State::Coming | State::Complete) && missing <= UNREAD_BYTES_MAX
    }
}
