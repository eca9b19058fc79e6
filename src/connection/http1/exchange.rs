//! One exchange with the handler: the rest of the request's body goes in, the response comes out.
//!
//! *Owns*: the response while it is sent. *Runs on*: the connection's coroutine. *Invariants*: no output is taken from
//! the handler until the client has taken the earlier output; this bounds memory. After an exchange ends, for whatever
//! reason, no thread waits for the client.

use std::sync::Arc;
use std::time::Instant;

use super::body::{Pumped, Streaming};
use super::response::{Context, Ending, Response};
use super::send::{Flushed, Pace};
use crate::connection::access_record::AccessRecord;
use crate::connection::overload::Awaited;
use crate::connection::refusal::Refusal;
use crate::connection::suspended::Parts;
use crate::connection::takeover::TakenRequest;
use crate::connection::transport::Until;
use crate::connection::{Connection, Ended, Shared};
use crate::handler::{End, Exchange, NotGiven};
use crate::http::RequestHead;
use crate::metrics::Reason;
use crate::phrase::excerpt;

/// How much of a spool file is handed to sendfile(2) at once.
const SPOOL_SEND_BYTES: u64 = 1 << 20;

/// The status of a connection that becomes a WebSocket (RFC 9110 §15.2.2).
const SWITCHING_PROTOCOLS: u16 = 101;

/// What to do while the client takes nothing.
enum Blocked {
    /// Wait, at most until this time.
    Wait(Until),
    /// Send again: a block was moved to a file.
    Again,
    /// Give up.
    TooSlow,
}

/// Gives the exchange up when dropped, even by a panic, so that a thread that waits for the client continues.
struct GiveUp<'a>(&'a Exchange);

impl GiveUp<'_> {
    /// Keeps the exchange, because it ended normally. With `streams`, tells a thread that reads the body that the rest
    /// of it will be discarded.
    fn cancel(self, streams: bool) {
        if streams {
            self.0.close_input();
        }
        std::mem::forget(self);
    }
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.0.set_gone();
    }
}

impl Connection {
    /// Sends the response while the handler produces it, and passes the body to the application. `row` is the request's
    /// row in the table of requests. `response` is new, or was suspended.
    pub(in crate::connection) fn exchange(
        &mut self,
        head: &Arc<RequestHead>,
        exchange: &Arc<Exchange>,
        row: usize,
        mut streaming: Option<&mut Streaming>,
        record: &mut AccessRecord,
        mut response: Response,
    ) -> Ended {
        let give_up = GiveUp(exchange);
        let mut pace = Pace::new();
        self.tell_hangup(exchange);
        // Bytes of the body that have already arrived belong to the request, even if the response needs none of them.
        self.pump(streaming.as_deref_mut(), exchange, &response);
        let ended = loop {
            // The loop reads the exchange only after this yield, so it misses no change during the yield.
            self.transport.take_turn();
            let looks = response.queue.is_empty();
            if looks {
                self.take_output(head, exchange, streaming.as_deref(), &mut response, record);
            }
            let until = match self.flush(&mut response.queue, &mut pace) {
                Flushed::All => {
                    if let Some(ending) = response.ending() {
                        if let Some(upgrade) = self.reused.outbox.upgrade.take() {
                            break Some(Ended::Upgraded(upgrade));
                        }
                        break Some(ended(ending, &response, streaming.as_deref()));
                    }
                    if let Some(request) = taken(&mut response, head, exchange, row) {
                        break Some(Ended::TakenOver(Box::new(request)));
                    }
                    pace = Pace::new();
                    // A thread that added output while the socket was full called the waker at that time, and will not
                    // call it again.
                    if tell_spooled(exchange, &mut response) || self.reused.outbox.spooled || !looks {
                        continue;
                    }
                    if exchange.may_rest() && streaming.as_deref().is_none_or(Streaming::is_complete) {
                        break None;
                    }
                    Until::EVENT
                }
                Flushed::Broken => break Some(cut(&response)),
                Flushed::FileFailed(error) => {
                    response.queue.report_file(error.as_ref(), head, self.origin());
                    break Some(cut(&response));
                }
                Flushed::Turn => continue,
                Flushed::Blocked => {
                    tell_spooled(exchange, &mut response);
                    match self.blocked(head, &mut response, &mut pace) {
                        Blocked::Wait(until) => until,
                        Blocked::Again => continue,
                        Blocked::TooSlow => break Some(Ended::TooSlow),
                    }
                }
            };
            let Pumped::Until(input) = self.pump(streaming.as_deref_mut(), exchange, &response) else { continue };
            // Yielding and reading the body may have shown that the client has disconnected.
            if !self.transport.is_broken() {
                self.transport.wait(until.or_until(input));
            }
            self.tell_hangup(exchange);
            if self.transport.is_broken() {
                break Some(Ended::Cut { reset: false });
            }
        };
        if pace.has_blocked() {
            self.rested = Instant::now();
        }
        let Some(ended) = ended else {
            give_up.cancel(false);
            return Ended::Suspended(Box::new(self.set_aside(head, exchange, row, response, record)));
        };
        record.note_exchange(&response.queue, exchange);
        if matches!(ended, Ended::Cut { .. } | Ended::TooSlow) {
            record.body_bytes = response.body_bytes_sent();
        } else {
            give_up.cancel(streaming.is_some());
        }
        self.reused.queue = Some(response.queue);
        ended
    }

    /// Keeps what belongs to a request whose response is suspended.
    fn set_aside(
        &mut self,
        head: &Arc<RequestHead>,
        exchange: &Arc<Exchange>,
        row: usize,
        mut response: Response,
        record: &mut AccessRecord,
    ) -> Parts {
        if response.suspend() {
            // A client whose machine has gone sends nothing, so the kernel asks for it.
            self.transport.probe();
        }
        Parts {
            head: Arc::clone(head),
            exchange: Arc::clone(exchange),
            row,
            response,
            record: std::mem::take(record),
            origin: Arc::clone(self.origin()),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Moves the handler's output into the queue of the response.
    fn take_output(
        &mut self,
        head: &RequestHead,
        exchange: &Exchange,
        streaming: Option<&Streaming>,
        response: &mut Response,
        record: &mut AccessRecord,
    ) {
        let outbox = &mut self.reused.outbox;
        if !exchange.take(outbox) {
            return;
        }
        self.rested = Instant::now();
        if outbox.end.is_some() {
            if outbox.end == Some(End::Overdue) && response.ending().is_none() {
                self.shared.meters().refused(Reason::RequestTimeout);
            }
            record.note_end(outbox);
            if !streaming.is_none_or(|body| body.is_complete() || body.can_be_finished()) {
                response.close();
            }
        }
        if let Some(upgrade) = &mut outbox.upgrade {
            record.status = SWITCHING_PROTOCOLS;
            return response.upgrade(std::mem::take(&mut upgrade.response));
        }
        let (has_more, stays) = (!self.buffer.is_empty(), self.transport.is_secured());
        response.take(outbox, record, || context(&self.shared, Some(head), self.rested, has_more, stays));
        if outbox.spooled
            && response.queue.is_empty()
            && let Some((file, offset, bytes)) = exchange.take_spooled(SPOOL_SEND_BYTES)
        {
            response.take_spooled(file, offset, bytes);
        }
        if response.ending() == Some(Ending::Short) {
            let (line, id) = (excerpt(head.request_line()), head.id_text());
            log::error!("the response to \"{line}\"{id} is shorter than its Content-Length");
        }
        if outbox.stream_wanted {
            consider_takeover(exchange, streaming, response);
        }
    }

    /// Decides what to do when the client takes no more bytes.
    fn blocked(&mut self, head: &RequestHead, response: &mut Response, pace: &mut Pace) -> Blocked {
        let deadline = self.send_deadline(pace);
        let due = self.spill_due(&response.queue, pace);
        if due.is_some_and(|due| Instant::now() >= due) {
            self.spill(&mut response.queue, pace);
            return Blocked::Again;
        }
        let Some(deadline) = deadline else {
            let (client, line, id) = (self.origin().client_name(), excerpt(head.request_line()), head.id_text());
            let why = self.slowness(pace);
            log::info!("{client}: the response to \"{line}\"{id} is cut off: {why}");
            return Blocked::TooSlow;
        };
        let until = Until::at(deadline);
        Blocked::Wait(due.map_or(until, |due| until.or(due)))
    }

    /// Tells the exchange if the client has closed its side.
    fn tell_hangup(&self, exchange: &Exchange) {
        if self.transport.is_hangup() && exchange.set_disconnected() {
            self.transport.probe();
        }
    }
}

/// Returns the fields and decisions that the server adds to the head of a response. `request` is the request's head, if
/// it was read. `has_more` says whether more bytes of the client have arrived, and `stays` whether the connection cannot
/// move to another process.
pub(in crate::connection) fn context<'a>(
    shared: &'a Shared,
    request: Option<&'a RequestHead>,
    now: Instant,
    has_more: bool,
    stays: bool,
) -> Context<'a> {
    // Requests that have already arrived are still served while the server drains.
    let drains = (shared.is_draining() || (stays && shared.hands_over())) && !has_more;
    Context {
        date: shared.date.at(now),
        server: shared.server_field(),
        request_id: shared.derived.request_ids.as_ref().and_then(|ids| Some((ids.field(), request?.id()?))),
        closes: drains || shared.derived.keeps_none_alive,
        speaks_http10: shared.speaks_http10(),
        logs_head: shared.access_log.is_some(),
    }
}

/// Tells the exchange how many bytes of its spool file have been sent. Returns whether there were any.
fn tell_spooled(exchange: &Exchange, response: &mut Response) -> bool {
    let sent = std::mem::take(&mut response.queue.spooled_sent);
    if sent > 0 {
        exchange.spooled_sent(sent);
    }
    sent > 0
}

/// Replies to a thread that has asked for the connection: it gets the connection later, or now the reason for a
/// refusal.
fn consider_takeover(exchange: &Exchange, streaming: Option<&Streaming>, response: &mut Response) {
    if !response.may_be_taken_over() {
        exchange.refuse_stream(NotGiven::Begun);
    } else if !streaming.is_none_or(Streaming::is_complete) {
        exchange.refuse_stream(NotGiven::BodyUnread);
    } else {
        response.promise_takeover();
    }
}

/// Returns how an exchange ends after everything in the response's queue has been sent.
fn ended(ending: Ending, response: &Response, streaming: Option<&Streaming>) -> Ended {
    match ending {
        Ending::Complete => {
            let body_received = streaming.is_none_or(Streaming::is_complete);
            Ended::Sent { persistence: response.persistence(), body_received }
        }
        Ending::Late => Ended::Refused(Refusal::Overload(Awaited::Thread)),
        Ending::Short | Ending::Failed | Ending::Upgraded => cut(response),
    }
}

/// Returns the request if its call takes the connection over. Called once the queue is empty.
fn taken(
    response: &mut Response,
    head: &Arc<RequestHead>,
    exchange: &Arc<Exchange>,
    row: usize,
) -> Option<TakenRequest> {
    if response.is_takeover() && exchange.promise_stream() {
        return Some(TakenRequest { exchange: Arc::clone(exchange), row, head: Arc::clone(head) });
    }
    response.forget_takeover();
    None
}

/// Ends a response early, so that the client cannot mistake it for a complete one.
fn cut(response: &Response) -> Ended {
    Ended::Cut { reset: response.ends_by_close() }
}
