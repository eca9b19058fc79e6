//! The response of a stream, from the handler's output to frames.
//!
//! *Runs on*: the connection's coroutine. *Invariants*: `h2` gets bytes of a body only within the client's windows, so
//! what it holds depends on the socket alone. No output is taken from the handler until `h2` has the earlier output. A
//! response that cannot be completed ends with a reset.

use std::task::{Context, Poll};
use std::time::Instant;

use h2::Reason;
use h2::server::SendResponse;

use super::session::{Chunk, Session};
use super::stream::{Stall, Step, Stream};
use crate::connection::http1::{Ending, context};
use crate::connection::overload::Awaited;
use crate::connection::transport::Until;
use crate::connection::{Connection, Refusal};
use crate::handler::{End, NotGiven};
use crate::http2::interims;
use crate::metrics::Reason as Cause;
use crate::phrase::excerpt;
use crate::sys::Io;

/// The longest DATA frame. Every client takes this size (RFC 9113 §4.2).
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// How much of a spool file is queued at once.
const SPOOL_BYTES: u64 = 1 << 20;

/// What comes next for a stream.
pub(super) enum Next {
    /// An event, or this moment.
    Until(Until),
    /// More work, after others had their turn.
    Again,
    /// The stream has ended.
    Over(Outcome),
}

/// How a stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// `h2` has the whole response.
    Sent,
    /// The client has reset the stream, or the connection has ended.
    Lost,
    /// The server has reset the stream.
    Cut,
    /// No thread began the request in time.
    Refused(Refusal),
}

/// What `Connection::send_body` has done.
enum Sending {
    /// `h2` has all bytes of the queue.
    All,
    /// `h2` has the whole response.
    End,
    /// The client takes no more for now.
    Blocked,
    /// This connection has used up its turn.
    Turn,
    Lost,
    /// A file has ended early, or cannot be read.
    Failed,
}

/// Sends `100 Continue`.
pub(super) fn send_continue(respond: &mut SendResponse<Chunk>) {
    let mut head = http_types::Response::new(());
    *head.status_mut() = http_types::StatusCode::CONTINUE;
    // An error means that the stream has ended, which its next step finds.
    let _ = respond.send_informational(head);
}

impl Connection {
    /// Sends the response as far as the handler has made it. `others` is how many responses are sent at the same time.
    pub(super) fn put_out(&mut self, stream: &mut Stream, session: &mut Session, others: usize, now: Instant) -> Next {
        if stream.is_cut {
            return cut(stream);
        }
        loop {
            // The handler may have put out more while the client took nothing of the queue.
            let may_go_on = !stream.response.queue.is_empty() || self.take_from_handler(stream, now);
            if let Some(head) = stream.response.queue.take_head() {
                let is_whole = stream.response.queue.is_empty() && stream.response.ending() == Some(Ending::Complete);
                match self.reused.heads.read(head).ok().map(|head| stream.respond.send_response(head, is_whole)) {
                    None => {
                        log::error!("the head of the response to \"{}\" cannot be sent", stream.line());
                        stream.reset(Reason::INTERNAL_ERROR);
                        return Next::Over(Outcome::Cut);
                    }
                    Some(Err(_)) => return Next::Over(Outcome::Lost),
                    Some(Ok(send)) => stream.send = Some(send),
                }
                if is_whole {
                    return Next::Over(Outcome::Sent);
                }
            }
            match self.send_body(stream, session, now) {
                Sending::All => {}
                Sending::End => return Next::Over(Outcome::Sent),
                Sending::Lost => return Next::Over(Outcome::Lost),
                Sending::Failed => return cut(stream),
                Sending::Turn => return Next::Again,
                Sending::Blocked => return self.stalled(stream, others, now),
            }
            stream.stall = None;
            match stream.response.ending() {
                None if may_go_on => {}
                None => return Next::Until(Until::EVENT),
                Some(Ending::Late) => return Next::Over(Outcome::Refused(Refusal::Overload(Awaited::Thread))),
                Some(Ending::Short) => {
                    log::error!("the response to \"{}\" is shorter than its Content-Length", stream.line());
                    return cut(stream);
                }
                // A request of HTTP/2 cannot ask for an upgrade.
                Some(Ending::Failed | Ending::Upgraded) => return cut(stream),
                Some(Ending::Complete) => {
                    let is_sent =
                        stream.send.as_mut().is_some_and(|send| send.send_data(Vec::new().into(), true).is_ok());
                    return Next::Over(if is_sent { Outcome::Sent } else { Outcome::Lost });
                }
            }
        }
    }

    /// Moves the handler's output into the response's queue. Returns whether there was any.
    fn take_from_handler(&mut self, stream: &mut Stream, now: Instant) -> bool {
        let Step::Call(call) = &stream.step else { return false };
        let (exchange, outbox) = (&call.exchange, &mut self.reused.outbox);
        let sent = std::mem::take(&mut stream.response.queue.spooled_sent);
        if sent > 0 {
            exchange.spooled_sent(sent);
        }
        if !exchange.take(outbox) {
            return false;
        }
        self.rested = now;
        if outbox.stream_wanted {
            exchange.refuse_stream(NotGiven::Http2);
        }
        let interim = std::mem::take(&mut outbox.interim);
        if !stream.response.has_begun() {
            for head in interims(&interim).flatten() {
                // An error means that the stream has ended, which its next step finds.
                let _ = stream.respond.send_informational(head);
            }
        }
        if outbox.end.is_some() {
            if outbox.end == Some(End::Overdue) && stream.response.ending().is_none() {
                self.shared.meters.refused(Cause::RequestTimeout);
            }
            stream.record.note_end(outbox);
        }
        let (shared, head) = (&self.shared, &stream.head);
        stream.response.take(outbox, &mut stream.record, || context(shared, Some(head), now, false, false));
        if outbox.spooled
            && stream.response.queue.is_empty()
            && let Some((file, offset, bytes)) = exchange.take_spooled(SPOOL_BYTES)
        {
            stream.response.take_spooled(file, offset, bytes);
        }
        true
    }

    /// Passes bytes of the queue to `h2`, as many as the client's windows allow.
    fn send_body(&mut self, stream: &mut Stream, session: &mut Session, now: Instant) -> Sending {
        let (Some(send), response, head) = (&mut stream.send, &mut stream.response, &stream.head) else {
            return Sending::All;
        };
        let origin = stream.told.as_ref().unwrap_or(&self.connected);
        while !response.queue.is_empty() {
            if self.transport.turn().is_over() {
                return Sending::Turn;
            }
            send.reserve_capacity(response.queue.waiting_bytes(FRAME_BYTES_MAX));
            let mut room = send.capacity();
            while room == 0 {
                match send.poll_capacity(&mut Context::from_waker(&stream.waker)) {
                    Poll::Ready(Some(Ok(more))) => room = more,
                    Poll::Ready(Some(Err(_)) | None) => return Sending::Lost,
                    Poll::Pending => return Sending::Blocked,
                }
            }
            let bytes = match response.queue.take_bytes(room.min(FRAME_BYTES_MAX)) {
                Io::Done(bytes) if bytes.is_empty() => {
                    response.queue.report_file(None, head, origin);
                    return Sending::Failed;
                }
                Io::Done(bytes) => bytes,
                Io::WouldBlock => return Sending::Failed,
                Io::Failed(error) => {
                    response.queue.report_file(Some(&error), head, origin);
                    return Sending::Failed;
                }
            };
            self.transport.turn().spend_call(bytes.len());
            session.budget.earn_by_data();
            if let Some(stall) = &mut stream.stall {
                stall.moved = now;
                stall.bytes += bytes.len() as u64;
            }
            let is_last = response.queue.is_empty() && response.ending() == Some(Ending::Complete);
            if send.send_data(Chunk::from(bytes), is_last).is_err() {
                return Sending::Lost;
            }
            if is_last {
                return Sending::End;
            }
        }
        Sending::All
    }

    /// Decides what to do with a response of which the client takes nothing. Streams share the client's rate.
    fn stalled(&mut self, stream: &mut Stream, others: usize, now: Instant) -> Next {
        let stall = stream.stall.get_or_insert(Stall { began: now, moved: now, bytes: 0 });
        let stalls = stall.moved + self.shared.config.write_timeout;
        let deadline = stalls.min(self.shared.rate_deadline(stall.began, stall.bytes.saturating_mul(others as u64)));
        if now < deadline {
            return Next::Until(Until::at(deadline));
        }
        let why = self.slowness_of(now >= stalls, stall.bytes);
        self.report_cut(stream, &why);
        stream.reset(Reason::CANCEL);
        Next::Over(Outcome::Cut)
    }

    /// Logs that a response is cut off.
    pub(super) fn report_cut(&self, stream: &Stream, why: &str) {
        let client = stream.told.as_ref().unwrap_or(&self.connected).client_name();
        log::info!("{client}: the response to \"{}\"{} is cut off: {why}", stream.line(), stream.head.id_text());
    }
}

/// Resets the stream of a response that cannot be completed, once `h2` has passed on what came before.
fn cut(stream: &mut Stream) -> Next {
    if !std::mem::replace(&mut stream.is_cut, true) {
        return Next::Again;
    }
    stream.reset(Reason::INTERNAL_ERROR);
    Next::Over(Outcome::Cut)
}

impl Stream {
    /// Returns the request line for a log line.
    pub(super) fn line(&self) -> String {
        excerpt(self.head.request_line())
    }
}
