//! Answering a request: the permit, the hand-over to the handler, and sending the response.

mod body;
mod head;
mod send;
mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::handler::{self, End, Exchange, Handler, NotGiven, Outbox, Request, RequestBody, Responder};
use crate::http::response::Context;
use crate::http::{BodyEncoder, Framing, Persistence, RequestHead, ResponseHead};
use crate::phrase::excerpt;
use crate::pool::Permit;

use self::body::{Pumped, Streaming};
use self::send::{Flushed, Pace};
pub(super) use self::send::{Piece, SendQueue};
use super::account::Account;
use super::hijack::Unanswered;
use super::overload::Awaited;
use super::transport::{Ending, Until};
use super::{Connection, Failure, Next, Refusal, Spare};

/// How much of a spool file is handed to sendfile(2) at once.
const SPOOL_SEND_BYTES: u64 = 1 << 20;

/// The least time that a thread has to begin a request that holds a permit, even with `--queue-timeout 0`. A busy
/// machine needs this long to start a thread.
const THREAD_WAIT_MIN: Duration = Duration::from_secs(1);

/// A response that is being sent.
pub(super) struct Answer {
    exchange: Arc<Exchange>,
    queue: SendQueue,
    pace: Option<Pace>,
    encoder: Option<BodyEncoder>,
    persistence: Persistence,
    /// The application's head, until a block or the end follows.
    head: Option<ResponseHead>,
    body_bytes: Option<u64>,
    end: Option<End>,
    /// Whether the answering thread gets the stream once earlier bytes have been sent.
    lets_go: bool,
    /// Whether the handler's side need not be told that the connection is given up.
    told: bool,
}

/// How a response ended.
enum Ended {
    /// The whole response was sent.
    Sent(Persistence),
    /// The connection can no longer be used. `reset` is set if the client would take a plain close for the end of the
    /// body.
    Cut { reset: bool },
    /// The client does not read.
    TooSlow,
    /// The answering thread takes the connection over.
    LetGo,
    /// No thread began the request in time. The request is refused.
    Late,
}

impl Connection {
    /// Serves one request whose head has been received.
    pub(super) fn serve_request(
        &mut self,
        head: &Arc<RequestHead>,
        mut received: Instant,
        handler: &dyn Handler,
        spare: &mut Spare,
    ) -> Next {
        let mut account = Account { began: self.head_began, ..Account::default() };
        let body = match self.receive_body_of(head, &mut received) {
            Ok(body) => body,
            Err(failure) => return self.give_up(failure, head, &mut account, handler),
        };
        account.received = Some(received);
        let permit = match self.acquire(received) {
            Ok(permit) => permit,
            Err(failure) => return self.give_up(failure, head, &mut account, handler),
        };
        let exchange = spare.exchange(self.transport.waker(), &self.shared.derived.bounds, permit);
        let mut streaming = body.is_none().then(|| self.start_streaming(head));
        let body =
            body.unwrap_or_else(|| RequestBody::Streamed(handler::Input::new(Arc::clone(&exchange), head.framing())));
        let number = self.shared.requests.enter(received, head, &self.origin, &exchange);
        let request = Request {
            head: Arc::clone(head),
            body,
            origin: Arc::clone(&self.origin),
            received,
            begin_by: received + self.shared.config.queue_timeout.max(THREAD_WAIT_MIN),
            timed: self.shared.access_log.is_some(),
        };
        let responder = Responder::new(Arc::clone(&exchange)).with_buffers(spare.queue.renew());
        handler.call(request, responder);
        let ended = self.answer(head, exchange, streaming.as_mut(), &mut account, spare);
        if matches!(ended, Ended::LetGo) {
            let exchange = spare.exchange.take().expect("the answer has just put it there");
            return Next::LetGo(Box::new(Unanswered::new(exchange, number, Arc::clone(head), account)));
        }
        self.shared.requests.leave(number);
        if matches!(ended, Ended::Late) {
            let failure = Failure::Refused(Refusal::Overload(Awaited::Thread));
            return self.give_up(failure, head, &mut account, handler);
        }
        account.complete = matches!(ended, Ended::Sent(_));
        account.log(head, &self.origin, &self.shared);
        let received = match &mut streaming {
            Some(streaming) if matches!(ended, Ended::Sent(Persistence::KeepAlive)) && !streaming.is_complete() => {
                self.discard_body(streaming)
            }
            Some(streaming) => streaming.is_complete(),
            None => true,
        };
        match ended {
            Ended::Sent(Persistence::KeepAlive) if received => Next::Again,
            Ended::Sent(_) => Next::Close { unread: !received || self.has_more() },
            // If the client sends more, a close makes the kernel reset the connection. Then responses that are still in
            // transit are lost, including complete earlier ones.
            Ended::Cut { reset: false } => Next::Close { unread: true },
            Ended::Cut { reset: true } => {
                self.await_acknowledgement();
                self.transport.end(Ending::Reset);
                Next::Close { unread: false }
            }
            Ended::TooSlow => {
                self.transport.end(Ending::Reset);
                Next::Close { unread: false }
            }
            Ended::LetGo | Ended::Late => Next::Close { unread: false },
        }
    }

    /// Receives the body. Returns `None` if the application reads the body while it arrives.
    fn receive_body_of(&mut self, head: &RequestHead, received: &mut Instant) -> Result<Option<RequestBody>, Failure> {
        self.check_length(head)?;
        match head.framing() {
            Framing::None => Ok(Some(RequestBody::Empty)),
            _ if self.streams(head) => Ok(None),
            _ => {
                let spool = self.read_body(head)?;
                *received = Instant::now();
                Ok(Some(RequestBody::Complete(spool)))
            }
        }
    }

    /// Ends a request without calling the application.
    fn give_up(
        &mut self,
        failure: Failure,
        head: &Arc<RequestHead>,
        account: &mut Account,
        handler: &dyn Handler,
    ) -> Next {
        let Failure::Refused(error) = failure else {
            account.log(head, &self.origin, &self.shared);
            return Next::Close { unread: false };
        };
        if let Refusal::Overload(awaited) = error {
            self.shared.note_overload(awaited, Some(handler));
        }
        self.refuse(error, Some((head, account)));
        Next::Close { unread: true }
    }

    /// Returns whether the client has sent something after the request. Only a read can tell: epoll also reports bytes
    /// that were already read, if the request arrived before the connection was registered.
    fn has_more(&mut self) -> bool {
        if self.buffer.is_empty() {
            self.transport.receive_little(&mut self.buffer);
        }
        !self.buffer.is_empty()
    }

    /// Takes a permit for a request received at `received`, at once or after waiting in line.
    fn acquire(&mut self, received: Instant) -> Result<Permit, Failure> {
        // A client that is known to have gone gets no permit.
        if self.transport.is_broken() {
            return Err(Failure::Gone);
        }
        if let Some(permit) = self.shared.pool.try_acquire() {
            return Ok(permit);
        }
        let mut waiting = self.shared.pool.enter(self.transport.waker().clone());
        let deadline = received + self.shared.config.queue_timeout;
        loop {
            if let Some(permit) = waiting.claim() {
                return Ok(permit);
            }
            if Instant::now() >= deadline {
                return Err(Failure::Refused(Refusal::Overload(Awaited::Permit)));
            }
            self.transport.wait(Until::at(deadline));
            if self.transport.is_broken() {
                return Err(Failure::Gone);
            }
        }
    }

    /// Sends the response while the handler produces it.
    fn answer(
        &mut self,
        head: &RequestHead,
        exchange: Arc<Exchange>,
        mut streaming: Option<&mut Streaming>,
        account: &mut Account,
        spare: &mut Spare,
    ) -> Ended {
        let mut answer = Answer {
            exchange,
            queue: std::mem::take(&mut spare.queue),
            pace: None,
            encoder: None,
            persistence: head.persistence(),
            head: None,
            body_bytes: None,
            end: None,
            lets_go: false,
            told: false,
        };
        self.tell_hangup(&answer.exchange);
        // Bytes of the body that have already arrived belong to the request, even if the response needs none of them.
        self.pump(streaming.as_deref_mut(), &answer);
        let ended = loop {
            // The exchange has not been looked at yet, so no change during the yield is missed.
            self.transport.take_turn();
            // While the client does not take earlier bytes, no more are taken from the exchange. This bounds memory.
            let mut looked = false;
            if answer.queue.is_empty() {
                looked = true;
                if answer.exchange.take(&mut spare.outbox) {
                    let lasts = streaming.as_deref().is_none_or(|body| body.is_complete() || body.can_be_finished());
                    if spare.outbox.end.is_some() && !lasts {
                        answer.persistence = Persistence::Close;
                    }
                    if spare.outbox.end == Some(End::Late) {
                        break Ended::Late;
                    }
                    self.rested = Instant::now();
                    self.queue_up(head, &mut answer, &mut spare.outbox, account);
                    if spare.outbox.stream_wanted {
                        let is_received = streaming.as_deref().is_none_or(Streaming::is_complete);
                        answer.consider_letting_go(is_received);
                    }
                }
            }
            let mut until = Until::EVENT;
            let pace = answer.pace.get_or_insert_with(Pace::new);
            match self.flush(&mut answer.queue, pace) {
                Flushed::All if answer.is_over() => break answer.ended(),
                Flushed::All if answer.lets_go && answer.exchange.promise_stream() => break Ended::LetGo,
                Flushed::All => {
                    answer.pace = None;
                    answer.lets_go = false;
                    // A thread that added bytes while the socket was full called the waker at that time, and does not
                    // call it again now.
                    if answer.tell_spooled() || spare.outbox.spooled || !looked {
                        continue;
                    }
                }
                Flushed::Broken => break answer.cut(),
                Flushed::Turn => continue,
                Flushed::Blocked => {
                    answer.tell_spooled();
                    let deadline = answer.pace.as_mut().and_then(|pace| self.send_deadline(pace));
                    if let Some(pace) = answer.pace.as_mut()
                        && let Some(due) = self.spill_due(&answer.queue, pace)
                    {
                        if Instant::now() >= due {
                            self.spill(&mut answer.queue, pace);
                            continue;
                        }
                        until = Until::at(due);
                    }
                    let Some(deadline) = deadline else {
                        let (client, line) = (self.origin.client_name(), excerpt(head.request_line()));
                        let why = answer.pace.as_ref().map(|pace| self.slowness(pace)).unwrap_or_default();
                        log::info!("{client}: the response to \"{line}\" is cut off: {why}");
                        break Ended::TooSlow;
                    };
                    until = until.or(deadline);
                }
            }
            let Pumped::Until(input) = self.pump(streaming.as_deref_mut(), &answer) else { continue };
            // Yielding and reading the body may have shown that the client has gone.
            if !self.transport.is_broken() {
                self.transport.wait(until.or_until(input));
            }
            self.tell_hangup(&answer.exchange);
            if self.transport.is_broken() {
                break Ended::Cut { reset: false };
            }
        };
        answer.told = !matches!(ended, Ended::Cut { .. } | Ended::TooSlow);
        if streaming.is_some() && answer.told {
            // The rest of the body will be discarded. A thread that reads it is told.
            answer.exchange.close_input();
        }
        self.after_answer(&mut answer, account, spare);
        ended
    }

    /// Tells the exchange if the client has closed its side.
    fn tell_hangup(&self, exchange: &Exchange) {
        if self.transport.is_hangup() && exchange.set_disconnected() {
            self.transport.probe();
        }
    }

    /// Records the access log's facts about a response, and keeps memory for the next one.
    fn after_answer(&mut self, answer: &mut Answer, account: &mut Account, spare: &mut Spare) {
        if account.times.started.is_none() {
            account.times.started = answer.exchange.begun_at();
        }
        account.body_bytes = answer.queue.body_bytes;
        account.wire_bytes = answer.queue.wire_bytes;
        if answer.pace.as_ref().is_some_and(Pace::has_blocked) {
            self.rested = Instant::now();
        }
        spare.queue = std::mem::take(&mut answer.queue);
        spare.exchange = Some(Arc::clone(&answer.exchange));
    }

    /// Puts the handler's output into the send queue.
    fn queue_up(&self, request: &RequestHead, answer: &mut Answer, outbox: &mut Outbox, account: &mut Account) {
        if !outbox.interim.is_empty() && answer.encoder.is_none() {
            answer.queue.push(Piece::Owned(std::mem::take(&mut outbox.interim)));
        }
        if let Some(head) = outbox.head.take() {
            answer.head = Some(head);
            answer.body_bytes = outbox.body_bytes;
        }
        if outbox.end.is_some() {
            account.times = outbox.times;
            account.environ = std::mem::take(&mut outbox.environ);
        }
        let begins = !outbox.blocks.is_empty() || outbox.spooled || outbox.end.is_some();
        if answer.encoder.is_none() && begins {
            let failed_before = answer.head.is_none();
            let (mut head, body) = if let Some(head) = answer.head.take() {
                (head, None)
            } else {
                let (head, body) = ResponseHead::plain_error(500);
                answer.body_bytes = Some(body.len() as u64);
                (head, Some(body))
            };
            account.status = head.status();
            if self.shared.speaks_http10() {
                head.say_http10();
            }
            // Requests that have already arrived are still served while the server drains.
            let drains = self.shared.is_draining() && self.buffer.is_empty();
            let closes = drains || self.shared.config.keep_alive.is_zero();
            let context = Context {
                version: request.response_version(),
                is_head: request.is_head(),
                persistence: if closes { Persistence::Close } else { answer.persistence },
                body_bytes: answer.body_bytes,
                date: &self.shared.date.at(self.rested),
                server: self.shared.server_field(),
            };
            let (bytes, encoder, persistence) = head.encode(&context);
            if self.shared.access_log.is_some() {
                account.head.clone_from(&bytes);
            }
            answer.queue.push(Piece::Owned(bytes));
            answer.encoder = Some(encoder);
            answer.persistence = persistence;
            if let Some(body) = body {
                outbox.blocks.clear();
                outbox.blocks.push_back(crate::handler::Block::Owned(body));
            }
            if failed_before {
                outbox.end = Some(End::Complete);
            }
        }
        if let Some(encoder) = answer.encoder.as_mut() {
            for block in outbox.blocks.drain(..) {
                let (bytes, line) = encoder.block(block.len());
                if bytes > 0 {
                    answer.queue.body_bytes += bytes;
                    answer.queue.push(Piece::ChunkHead(line));
                    answer.queue.push(Piece::from_block(block, bytes));
                    answer.queue.push(Piece::Static(encoder.block_end()));
                }
            }
            if outbox.spooled
                && answer.queue.is_empty()
                && let Some((file, offset, bytes)) = answer.exchange.take_spooled(SPOOL_SEND_BYTES)
            {
                let (wanted, line) = encoder.block(bytes);
                if wanted == 0 {
                    answer.exchange.spooled_sent(bytes);
                } else {
                    answer.queue.body_bytes += wanted;
                    answer.queue.push(Piece::ChunkHead(line));
                    answer.queue.push(Piece::Spooled(file, offset, wanted));
                    answer.queue.push(Piece::Static(encoder.block_end()));
                }
            }
            if answer.end.is_none()
                && let Some(end) = outbox.end
            {
                answer.end = Some(end);
                match (end, encoder.finish()) {
                    (End::Complete, Some(last)) => answer.queue.push(Piece::Static(last)),
                    (End::Complete, None) => {
                        let line = excerpt(request.request_line());
                        log::error!("the response to \"{line}\" is shorter than its Content-Length");
                        answer.end = Some(End::Failed);
                    }
                    (End::Failed | End::Late, _) => {}
                }
            }
        }
    }
}

impl Answer {
    fn is_over(&self) -> bool {
        self.end.is_some()
    }

    fn ended(&self) -> Ended {
        match self.end {
            Some(End::Complete) => Ended::Sent(self.persistence),
            _ => self.cut(),
        }
    }

    /// Ends the response early, so that the client cannot mistake it for a complete one.
    fn cut(&self) -> Ended {
        Ended::Cut { reset: self.encoder == Some(BodyEncoder::UntilClose) }
    }

    /// Replies to a thread that has asked for the stream: it will get the stream, or gets the reason why not.
    fn consider_letting_go(&mut self, body_is_received: bool) {
        if self.has_begun() || self.head.is_some() {
            self.exchange.refuse_stream(NotGiven::Begun);
        } else if body_is_received {
            self.lets_go = true;
        } else {
            self.exchange.refuse_stream(NotGiven::BodyUnread);
        }
    }

    /// Returns whether no byte of the final response has been sent, and no other message is partly sent.
    pub(super) fn may_continue(&self) -> bool {
        self.encoder.is_none() && self.queue.is_empty()
    }

    /// Returns whether the final response has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.encoder.is_some()
    }

    pub(super) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Tells the exchange how many bytes of its spool file have been sent. Returns whether there were any.
    fn tell_spooled(&mut self) -> bool {
        let sent = std::mem::take(&mut self.queue.spooled_sent);
        if sent > 0 {
            self.exchange.spooled_sent(sent);
        }
        sent > 0
    }
}

impl Drop for Answer {
    /// Leaves no thread waiting for this client, however the response ends, also by a panic.
    fn drop(&mut self) {
        if !self.told {
            self.exchange.set_gone();
        }
    }
}
