//! Having a request answered: the permit, the hand-over to the handler, and the response on its way out.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::handler::{
    self, ApplicationTimes, End, Exchange, Handler, NotGiven, Outbox, Peer, Request, RequestBody, Responder,
};
use crate::http::request::HeadMemory;
use crate::http::response::Context;
use crate::http::{BodyEncoder, Framing, Persistence, RequestHead, ResponseHead, Version};
use crate::log::Entry;
use crate::pool::Permit;
use crate::sys;
use crate::timer::Timer;

use super::body::Streaming;
use super::hijack::Unanswered;
use super::send::{Flushed, Pace, Piece, SendQueue};
use super::{Connection, Failure, Next, Refusal, Shared, Spare};

/// How much of a spool file is handed to sendfile(2) at once.
const SPOOL_SEND_BYTES: u64 = 1 << 20;

/// What the access log says of a request, as far as it is known.
#[derive(Default)]
pub(super) struct Account {
    began: Option<Instant>,
    received: Option<Instant>,
    /// When it was given up while it waited for its place.
    queued: Option<Instant>,
    pub(super) status: u16,
    /// The encoded head, where the log wants fields of it.
    head: Vec<u8>,
    body_bytes: u64,
    wire_bytes: u64,
    pub(super) environ: Vec<(String, String)>,
    pub(super) times: ApplicationTimes,
}

/// A response on its way.
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
    /// The thread that answers gets the stream, once what was sent before has gone.
    lets_go: bool,
    /// The handler's side needs no word that the connection is given up.
    told: bool,
}

/// How an answer ended.
enum Ended {
    /// It has gone whole.
    Sent(Persistence),
    /// The connection is of no more use; with a reset where the end of the connection would look like the end of the
    /// body.
    Cut { reset: bool },
    /// The thread that answers takes the connection over.
    LetGo,
}

impl Connection {
    /// Serves one request whose head has come.
    pub(super) fn serve_request(
        &mut self,
        head: &Arc<RequestHead>,
        mut received: Instant,
        handler: &dyn Handler,
        timer: &Timer,
        spare: &mut Spare,
    ) -> Next {
        let mut account = Account { began: self.head_began, ..Account::default() };
        if let Err(error) = self.check_length(head) {
            self.refuse(error.into(), Some((head, &mut account)), timer);
            return Next::Close { unread: true };
        }
        let mut streaming = None;
        let body = match head.framing() {
            Framing::None => RequestBody::Empty,
            framing if self.streams(head) => {
                streaming = Some((self.start_streaming(head), framing));
                RequestBody::Empty
            }
            _ => match self.read_body(head, timer) {
                Ok(spool) => {
                    received = Instant::now();
                    RequestBody::Complete(spool)
                }
                Err(Failure::Refused(error)) => {
                    self.refuse(error, Some((head, &mut account)), timer);
                    return Next::Close { unread: true };
                }
                Err(Failure::Gone | Failure::Quiet(_)) => return Next::Close { unread: false },
            },
        };
        account.received = Some(received);
        timer.set(None);
        let permit = match self.acquire(timer) {
            Ok(permit) => permit,
            Err(Failure::Refused(error)) => {
                self.refuse(error, Some((head, &mut account)), timer);
                return Next::Close { unread: true };
            }
            Err(_) => return Next::Close { unread: false },
        };
        let exchange = spare.exchange(&self.waker, &self.shared.bounds);
        let (body, mut streaming) = match streaming {
            Some((streaming, framing)) => {
                (RequestBody::Streamed(handler::Input::new(Arc::clone(&exchange), framing)), Some(streaming))
            }
            None => (body, None),
        };
        let number = self.shared.serving.enter(received, head, &self.peer);
        let request = Request {
            head: Arc::clone(head),
            body,
            peer: Arc::clone(&self.peer),
            timed: self.shared.access_log.is_some(),
        };
        let responder = Responder::new(Arc::clone(&exchange), Some(permit)).with_buffers(spare.queue.renew());
        handler.call(request, responder);
        let ended = self.answer(head, exchange, streaming.as_mut(), &mut account, timer, spare);
        if matches!(ended, Ended::LetGo) {
            let exchange = spare.exchange.take().expect("the answer has just put it there");
            return Next::LetGo(Box::new(Unanswered::new(exchange, number, Arc::clone(head), account)));
        }
        self.shared.serving.leave(number);
        account.log(head, &self.peer, &self.shared);
        let received = match &mut streaming {
            Some(streaming) if matches!(ended, Ended::Sent(Persistence::KeepAlive)) && !streaming.is_complete() => {
                self.discard_body(streaming, timer)
            }
            Some(streaming) => streaming.is_complete(),
            None => true,
        };
        match ended {
            Ended::Sent(Persistence::KeepAlive) if received => Next::Again,
            Ended::Sent(_) => Next::Close { unread: !received || self.has_more() },
            Ended::Cut { reset } => {
                if reset {
                    sys::reset_on_close(&self.stream);
                }
                Next::Close { unread: false }
            }
            Ended::LetGo => Next::Close { unread: false },
        }
    }

    /// Whether the client has sent something behind the request. Only a read tells: epoll reports what has been read
    /// already, too, where a request had come before the connection was registered.
    fn has_more(&mut self) -> bool {
        if self.buffer.is_empty() && !self.drained {
            self.fill_little();
        }
        !self.buffer.is_empty()
    }

    /// A permit, at once or after waiting in line.
    fn acquire(&mut self, timer: &Timer) -> Result<Permit, Failure> {
        if let Some(permit) = self.shared.pool.try_acquire() {
            return Ok(permit);
        }
        let mut waiting = self.shared.pool.enter(self.waker.clone());
        let deadline = Instant::now() + self.shared.queue_timeout;
        loop {
            if let Some(permit) = waiting.claim() {
                return Ok(permit);
            }
            if Instant::now() >= deadline {
                return Err(Failure::Refused(Refusal::Overload));
            }
            timer.set(Some(deadline));
            self.wait();
            if self.readiness.is_broken() {
                return Err(Failure::Gone);
            }
        }
    }

    /// Sends what the handler answers, while it answers.
    fn answer(
        &mut self,
        head: &RequestHead,
        exchange: Arc<Exchange>,
        mut streaming: Option<&mut Streaming>,
        account: &mut Account,
        timer: &Timer,
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
        if self.readiness.is_hangup() {
            answer.exchange.set_disconnected();
        }
        // What has come already belongs to the request, even where the answer needs none of it.
        let mut input = streaming.as_deref_mut().and_then(|body| self.pump(body, &answer, timer));
        let ended = loop {
            // Nothing more is taken while the client does not take what it has: that is what bounds memory.
            let mut looked = false;
            if answer.queue.is_empty() {
                looked = true;
                if answer.exchange.take(&mut spare.outbox) {
                    let lasts = streaming.as_deref().is_none_or(|body| body.is_complete() || body.can_be_finished());
                    if spare.outbox.end.is_some() && !lasts {
                        answer.persistence = Persistence::Close;
                    }
                    self.rested = Instant::now();
                    self.queue_up(head, &mut answer, &mut spare.outbox, account);
                    if spare.outbox.stream_wanted {
                        let is_received = streaming.as_deref().is_none_or(Streaming::is_complete);
                        answer.consider_letting_go(is_received);
                    }
                }
            }
            let mut until = None;
            let pace = answer.pace.get_or_insert_with(Pace::new);
            match self.flush(&mut answer.queue, pace) {
                Flushed::All if answer.is_over() => break answer.ended(),
                Flushed::All if answer.lets_go && answer.exchange.promise_stream() => break Ended::LetGo,
                Flushed::All => {
                    answer.pace = None;
                    answer.lets_go = false;
                    // Whoever put something in while the socket was full has called the waker then, not again now.
                    if answer.tell_spooled() || spare.outbox.spooled || !looked {
                        continue;
                    }
                }
                Flushed::Broken => break answer.cut(),
                Flushed::Turn => {
                    self.take_turn();
                    continue;
                }
                Flushed::Blocked => {
                    answer.tell_spooled();
                    until = answer.pace.as_mut().and_then(|pace| self.send_deadline(pace));
                    let due = answer.pace.as_ref().and_then(|pace| self.spill_due(&answer.queue, pace));
                    if let Some(due) = due {
                        if Instant::now() >= due {
                            if self.spill(&mut answer.queue) {
                                continue;
                            }
                            break answer.cut();
                        }
                        until = until.map(|until| until.min(due));
                    }
                    if until.is_none() {
                        log::info!("{}: cut off, because it reads too slowly", self.peer.client());
                        break Ended::Cut { reset: true };
                    }
                }
            }
            if let Some(streaming) = streaming.as_deref_mut() {
                input = self.pump(streaming, &answer, timer);
            }
            timer.set([until, input].into_iter().flatten().min());
            self.wait();
            if self.readiness.is_hangup() {
                answer.exchange.set_disconnected();
                if self.readiness.is_broken() {
                    break Ended::Cut { reset: false };
                }
            }
        };
        answer.told = !matches!(ended, Ended::Cut { .. });
        account.body_bytes = answer.queue.body_bytes;
        account.wire_bytes = answer.queue.wire_bytes;
        if answer.pace.as_ref().is_some_and(Pace::has_blocked) {
            self.rested = Instant::now();
        }
        spare.queue = std::mem::take(&mut answer.queue);
        spare.exchange = Some(Arc::clone(&answer.exchange));
        ended
    }

    /// Puts what the handler said into the send queue.
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
            if self.shared.speaks_http10 {
                head.say_http10();
            }
            // Requests that have come already are still answered while the server drains.
            let drains = self.shared.is_draining() && self.buffer.is_empty();
            let closes = drains || self.shared.keep_alive.is_zero();
            let context = Context {
                version: request.response_version(),
                is_head: request.is_head(),
                persistence: if closes { Persistence::Close } else { answer.persistence },
                body_bytes: answer.body_bytes,
                date: &self.shared.date(self.rested),
                server: self.shared.server_field.as_deref(),
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
                        log::error!(
                            "the response to \"{}\" is shorter than its Content-Length",
                            request.request_line().escape_ascii()
                        );
                        answer.end = Some(End::Failed);
                    }
                    (End::Failed, _) => {}
                }
            }
        }
    }

    /// Answers a request that cannot be served, and makes the connection end.
    pub(super) fn refuse(&mut self, error: Refusal, request: Option<(&Arc<RequestHead>, &mut Account)>, timer: &Timer) {
        let status = error.status();
        let remote = self.peer.client();
        if status < 500 || status == 501 || status == 505 {
            log::info!("{remote}: {status}: {error}");
        } else {
            log::warn!("{remote}: {status}: {error}");
        }
        let (mut head, body) = ResponseHead::plain_error(status);
        if self.shared.speaks_http10 {
            head.say_http10();
        }
        if status == 503 {
            // The field is well-formed.
            let _ = head.push_field(b"Retry-After", b"1");
        }
        let is_head = request.as_ref().map_or_else(|| self.begins_with_head(), |(head, _)| head.is_head());
        let context = Context {
            version: request.as_ref().map_or(Version::Http11, |(head, _)| head.response_version()),
            is_head,
            persistence: Persistence::Close,
            body_bytes: Some(body.len() as u64),
            date: &self.shared.date(Instant::now()),
            server: self.shared.server_field.as_deref(),
        };
        let (bytes, ..) = head.encode(&context);
        let mut account = Account { began: self.head_began, ..Account::default() };
        let mut queue = SendQueue::default();
        if self.shared.access_log.is_some() {
            account.head.clone_from(&bytes);
        }
        account.status = status;
        queue.push(Piece::Owned(bytes));
        if !is_head {
            account.body_bytes = body.len() as u64;
            queue.push(Piece::Owned(body));
        }
        self.send_queue(&mut queue, timer);
        if let Some((head, told)) = request {
            account.wire_bytes = queue.wire_bytes;
            account.received = told.received;
            account.queued = told.received.map(|_| Instant::now());
            account.log(head, &self.peer, &self.shared);
        }
    }

    /// Answers a request that got no coroutine in time, as one that got no permit.
    pub(super) fn turn_away(&mut self) {
        let timer = Timer::new(self.waker.clone());
        let head = match self.scanner.scan(&self.buffer, &self.shared.limits) {
            Ok(Some(bytes)) => {
                self.shared.parse_head(HeadMemory::default(), self.buffer.get(..bytes).unwrap_or_default()).ok()
            }
            _ => None,
        };
        let mut account = Account { began: self.head_began, received: self.head_began, ..Account::default() };
        let head = head.map(Arc::new);
        self.refuse(Refusal::Overload, head.as_ref().map(|head| (head, &mut account)), &timer);
        sys::shutdown_write(&self.stream);
    }

    /// Whether the request that could not be read asked for a head alone (RFC 9110 §9.3.2). Only empty lines may stand
    /// before a request line (RFC 9112 §2.2).
    fn begins_with_head(&self) -> bool {
        let mut rest = &*self.buffer;
        while let [b'\r', b'\n', after @ ..] = rest {
            rest = after;
        }
        rest.starts_with(b"HEAD ")
    }
}

impl Account {
    /// Writes the line of the access log.
    pub(super) fn log(&self, head: &RequestHead, peer: &Peer, shared: &Shared) {
        let Some(access_log) = &shared.access_log else { return };
        let now = Instant::now();
        let times = self.times;
        let lookup = |name: &[u8]| field_of(&self.head, name);
        access_log.write(&Entry {
            remote: peer.remote,
            request_line: head.request_line(),
            method: head.method(),
            path: head.path(),
            query: head.query(),
            protocol: match head.version() {
                Version::Http10 => "HTTP/1.0",
                Version::Http11 => "HTTP/1.1",
            },
            status: self.status,
            body_bytes: self.body_bytes,
            wire_bytes: self.wire_bytes,
            ended: SystemTime::now(),
            duration: handler::between(self.began, Some(now)),
            receive: handler::between(self.began, self.received.or(Some(now))),
            queue: handler::between(self.received, times.started.or(self.queued)),
            application: handler::between(times.started, times.ended),
            send: handler::between(times.ended, Some(now)),
            request_field: &|name| head.field(name),
            response_field: &lookup,
            environ: &self.environ,
        });
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

    /// Ends before its end, in a way that the client cannot take for the end.
    fn cut(&self) -> Ended {
        Ended::Cut { reset: self.encoder == Some(BodyEncoder::UntilClose) }
    }

    /// The thread wants the stream: it gets it, or word why not.
    fn consider_letting_go(&mut self, body_is_received: bool) {
        if self.has_begun() || self.head.is_some() {
            self.exchange.refuse_stream(NotGiven::Begun);
        } else if body_is_received {
            self.lets_go = true;
        } else {
            self.exchange.refuse_stream(NotGiven::BodyUnread);
        }
    }

    /// Whether nothing of the final response has been sent, and nothing else is half sent.
    pub(super) fn may_continue(&self) -> bool {
        self.encoder.is_none() && self.queue.is_empty()
    }

    /// Whether the final response has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.encoder.is_some()
    }

    pub(super) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Tells the exchange what has gone of its spool file. Answers whether there was anything to tell.
    fn tell_spooled(&mut self) -> bool {
        let sent = std::mem::take(&mut self.queue.spooled_sent);
        if sent > 0 {
            self.exchange.spooled_sent(sent);
        }
        sent > 0
    }
}

impl Drop for Answer {
    /// However it ends, by a panic too, no thread goes on waiting for this client.
    fn drop(&mut self) {
        if !self.told {
            self.exchange.set_gone();
        }
    }
}

/// A field of an encoded head.
fn field_of<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|&byte| byte == b'\n').skip(1).find_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (found, value) = line.split_at_checked(colon)?;
        found.eq_ignore_ascii_case(name).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}
