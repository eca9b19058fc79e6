//! The body of a request: as a whole, or while the application reads it (RFC 9113 §5.2, §8.1).
//!
//! *Owns*: bytes that have come and have no place yet. *Runs on*: the connection's coroutine. *Invariants*: the client
//! may send more only once the server has taken what came before, so memory is bounded by the windows. A body that is
//! cut or late never passes for a complete one.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use h2::RecvStream;
use octets::Bytes;

use super::stream::Stream;
use crate::connection::transport::Until;
use crate::connection::{Connection, Ended, Refusal};
use crate::handler::Exchange;
use crate::http::Framing;
use crate::pool::Pool;
use crate::spool::{Lack, SpaceWait, Spool, StoreError};

/// A body that is received as a whole.
pub(super) struct Intake {
    source: Source,
    spool: Spool,
    /// The wait for room in the storage.
    space: Option<SpaceWait>,
    pub(super) gate: Option<Arc<Pool>>,
}

/// A body that the application reads as it comes.
pub(super) struct Feed {
    source: Source,
    has_ended: bool,
    pub(super) gate: Option<Arc<Pool>>,
}

/// What both have.
struct Source {
    stream: RecvStream,
    /// The last bytes that have come, until they have a place.
    pending: Bytes,
    bytes: u64,
    bytes_max: u64,
    began: Instant,
    /// By when more must come.
    deadline: Option<Instant>,
}

/// How far the intake of a body is.
pub(super) enum Taken {
    /// Something must happen first: an event, or this moment.
    Until(Until),
    /// The body is complete.
    Whole(Spool),
    /// The client has reset the stream.
    Gone,
    Refused(Refusal),
}

impl Source {
    fn new(stream: RecvStream, bytes_max: u64, now: Instant) -> Self {
        Self { stream, pending: Bytes::new(), bytes: 0, bytes_max, began: now, deadline: None }
    }

    /// Takes the next bytes. `None`: the body is complete.
    fn next(&mut self, waker: &Waker) -> Poll<Option<Result<(), Refusal>>> {
        match self.stream.poll_data(&mut Context::from_waker(waker)) {
            Poll::Ready(Some(Ok(bytes))) => {
                self.bytes += bytes.len() as u64;
                (self.pending, self.deadline) = (bytes, None);
                let is_short = self.bytes <= self.bytes_max;
                Poll::Ready(Some(if is_short { Ok(()) } else { Err(Refusal::TooLong { bytes_max: self.bytes_max }) }))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(Refusal::CutBody { received: self.bytes }))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Lets the client send as many bytes more.
    fn release(&mut self, bytes: usize) {
        // An error means that the stream has ended, and needs no window any more.
        let _ = self.stream.flow_control().release_capacity(bytes);
    }
}

impl Intake {
    pub(super) fn new(stream: RecvStream, spool: Spool, bytes_max: u64, gate: Option<Arc<Pool>>, now: Instant) -> Self {
        Self { source: Source::new(stream, bytes_max, now), spool, space: None, gate }
    }
}

impl Feed {
    pub(super) fn new(stream: RecvStream, bytes_max: u64, gate: Option<Arc<Pool>>, now: Instant) -> Self {
        Self { source: Source::new(stream, bytes_max, now), has_ended: false, gate }
    }

    /// Returns the error with which the client has broken the body off.
    fn end(&mut self, exchange: &Exchange, failed: Option<io::ErrorKind>) {
        self.has_ended = true;
        exchange.end_input(failed);
    }
}

impl Connection {
    /// Receives more of a body. `others` is how many bodies come at the same time: they share the client's rate.
    pub(super) fn take_body(&mut self, intake: &mut Intake, waker: &Waker, others: usize, now: Instant) -> Taken {
        loop {
            if !intake.source.pending.is_empty()
                && let Some(taken) = self.store_body(intake, now)
            {
                return taken;
            }
            match intake.source.next(waker) {
                Poll::Ready(None) => {
                    let empty = Spool::new(&self.shared.derived.bodies, Some(0));
                    return Taken::Whole(std::mem::replace(&mut intake.spool, empty));
                }
                Poll::Ready(Some(Ok(()))) => self.transport.turn().spend_decoding(9, intake.source.pending.len()),
                Poll::Ready(Some(Err(Refusal::CutBody { .. }))) => return Taken::Gone,
                Poll::Ready(Some(Err(refusal))) => return Taken::Refused(refusal),
                Poll::Pending => {
                    return match self.await_body(&mut intake.source, others, now) {
                        Ok(until) => Taken::Until(until),
                        Err(refusal) => Taken::Refused(refusal),
                    };
                }
            }
        }
    }

    /// Stores the bytes that have come. Returns what must happen first, if there is no room.
    fn store_body(&mut self, intake: &mut Intake, now: Instant) -> Option<Taken> {
        let Intake { source, spool, space, .. } = intake;
        match spool.prepare(source.pending.len(), space.as_ref()) {
            Ok(()) => {}
            Err(Lack::Ever) => return Some(Taken::Refused(Refusal::NeverRoom)),
            Err(Lack::Now) => {
                if space.is_none() {
                    *space = spool.begin_wait(self.transport.waker().clone());
                }
                let deadline = *source.deadline.get_or_insert(now + self.shared.config.body_timeout);
                if space.is_none() || now >= deadline {
                    return Some(self.refusal_of(&StoreError::NoRoom));
                }
                return Some(Taken::Until(Until::at(deadline)));
            }
        }
        *space = None;
        if let Err(error) = spool.write(&source.pending) {
            return Some(self.refusal_of(&error));
        }
        if spool.is_in_file() {
            self.transport.turn().spend_call(source.pending.len());
        }
        let bytes = std::mem::take(&mut source.pending).len();
        source.release(bytes);
        None
    }

    fn refusal_of(&self, error: &StoreError) -> Taken {
        match self.not_stored(error) {
            Ended::Refused(refusal) => Taken::Refused(refusal),
            _ => Taken::Gone,
        }
    }

    /// Returns by when more of a body must come.
    fn await_body(&self, source: &mut Source, others: usize, now: Instant) -> Result<Until, Refusal> {
        let deadline = *source.deadline.get_or_insert(now + self.shared.config.body_timeout);
        let rate_due = self.shared.rate_deadline(source.began, source.bytes.saturating_mul(others as u64));
        if now >= deadline || now >= rate_due {
            return Err(Refusal::SlowBody { received: source.bytes, below_rate: now < deadline });
        }
        Ok(Until::at(deadline).or(rate_due))
    }

    /// Passes a body to the application as it comes, within the application's window.
    pub(super) fn feed(&mut self, stream: &mut Stream, others: usize, now: Instant) -> Until {
        let super::stream::Step::Call(call) = &mut stream.step else { return Until::EVENT };
        let super::stream::Call { exchange, feed: Some(feed), .. } = call else { return Until::EVENT };
        if feed.has_ended {
            return Until::EVENT;
        }
        if !stream.has_continued {
            if !exchange.wants_input() && !stream.response.has_begun() {
                return Until::EVENT;
            }
            stream.has_continued = true;
            if !exchange.has_continued() && !stream.response.has_begun() {
                super::output::send_continue(&mut stream.respond);
            }
        }
        loop {
            let room = exchange.input_room();
            if room == 0 {
                feed.source.deadline = None;
                // A pause of the application is none of the client's.
                feed.source.began = now;
                return Until::EVENT;
            }
            if !feed.source.pending.is_empty() {
                let part = feed.source.pending.split_to(room.min(feed.source.pending.len()));
                exchange.give_input(&part);
                self.transport.turn().spend_call(part.len());
                feed.source.release(part.len());
                continue;
            }
            match feed.source.next(&stream.waker) {
                Poll::Ready(None) => {
                    feed.end(exchange, None);
                    return Until::EVENT;
                }
                Poll::Ready(Some(Ok(()))) => {}
                Poll::Ready(Some(Err(Refusal::CutBody { .. }))) => {
                    feed.end(exchange, Some(io::ErrorKind::ConnectionReset));
                    return Until::EVENT;
                }
                Poll::Ready(Some(Err(refusal))) => {
                    self.log_broken_body(refusal, &stream.head);
                    feed.end(exchange, Some(io::ErrorKind::InvalidData));
                    return Until::EVENT;
                }
                Poll::Pending => match self.await_body(&mut feed.source, others, now) {
                    Ok(until) => return until,
                    Err(refusal) => {
                        self.log_broken_body(refusal, &stream.head);
                        feed.end(exchange, Some(io::ErrorKind::TimedOut));
                        return Until::EVENT;
                    }
                },
            }
        }
    }

    /// Makes the empty spool of a body.
    pub(super) fn spool_for(&self, framing: Framing) -> Spool {
        let length = if let Framing::Length(bytes) = framing { Some(bytes) } else { None };
        Spool::new(&self.shared.derived.bodies, length)
    }
}
