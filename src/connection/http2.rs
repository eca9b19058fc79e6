//! A connection that speaks HTTP/2 (RFC 9113): its streams, its end, and what its client may cost.
//!
//! *Owns*: the order in which frames are received, streams go on, and frames are sent. *Runs on*: one coroutine for the
//! connection and all of its streams. *Invariants*: each stream is a request with a permit and an exchange of its own.
//! A stream whose request the server has not looked at is refused in a way that lets the client try again.

mod body;
mod budget;
mod open;
mod outflow;
mod output;
mod pipe;
mod resting;
mod session;
mod stream;

use std::sync::Arc;
use std::task::Wake as _;
use std::time::{Duration, Instant};

use h2::Reason;

use self::body::{Feed, Taken};
use self::output::{Next, Outcome as StreamEnd};
pub(super) use self::session::Session;
use self::session::{Accepted, Stage};
use self::stream::{Call, Step, Stream, Waiting};
use super::http1::{LINGER, Pace};
use super::overload::Awaited;
use super::transport::{Close, Received, Until};
use super::{Connection, Outcome, Refusal};
use crate::handler::{self, Handler, Request, RequestBody, Responder};
use crate::metrics::End;
use crate::pool::Permit;
use crate::sys::Io;
use crate::throttle::Throttle;

/// The most bytes of frames that one read takes.
const READ_BYTES: usize = 32 * 1024;
/// How long a client that has been told to leave may stay without an open stream. Usually it has one round trip.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// The log reports such connections at most this often.
static FULL: Throttle = Throttle::new(Duration::from_secs(10));
static FAULTS: Throttle = Throttle::new(Duration::from_secs(10));

/// The state of a connection while it has a coroutine.
struct Serving<'a> {
    session: Box<Session>,
    #[expect(clippy::vec_box, reason = "a stream is large, and changes its place in each round")]
    streams: Vec<Box<Stream>>,
    /// Memory for a head in the form of HTTP/1.
    text: Vec<u8>,
    handler: &'a dyn Handler,
    /// How fast the client takes bytes of all streams.
    pace: Pace,
    now: Instant,
    /// When the client last sent something, or the last stream ended.
    active: Instant,
    /// Whether others had their turn in the middle of a round. A wake that came meanwhile does not come again.
    has_yielded: bool,
}

/// How a step of the whole connection has ended.
enum Stepped {
    Wait(Until),
    Again,
    /// The client is quiet: the connection may rest until this moment.
    Rest(Instant),
    End(End),
}

impl Connection {
    /// Begins with HTTP/2. The buffer has the client's preface. (Coroutine.)
    pub(super) fn begin_http2(mut self, handler: &dyn Handler) -> Outcome {
        let received = std::mem::take(&mut self.buffer);
        let mut session = match Session::begin(&self.shared, &received, Instant::now()) {
            Ok(session) => session,
            Err(error) => {
                self.report_fault(&error.to_string());
                return Outcome::Closed(End::Refused);
            }
        };
        drop(received);
        if self.shared.http2_connections.value() > self.shared.config.http2.http2_max_connections {
            session.abort(Reason::ENHANCE_YOUR_CALM);
            self.report_full();
        }
        self.serve_http2(session, handler)
    }

    /// Serves streams until the connection rests or ends. (Coroutine.)
    pub(super) fn serve_http2(mut self, session: Box<Session>, handler: &dyn Handler) -> Outcome {
        let now = Instant::now();
        let mut serving = Serving {
            session,
            streams: Vec::new(),
            text: Vec::new(),
            handler,
            pace: Pace::new(),
            now,
            active: now,
            has_yielded: false,
        };
        let drain = Arc::clone(self.shared.drain());
        let watch = drain.watch(self.transport.waker().clone());
        let end = loop {
            self.transport.take_turn();
            match self.go_round(&mut serving) {
                Stepped::Again => {}
                Stepped::Wait(until) => {
                    self.transport.wait(until);
                    if self.transport.is_broken() {
                        break End::Client;
                    }
                }
                Stepped::Rest(until) => {
                    drop(watch);
                    return Outcome::Idle(self.rest_with(serving.session), until);
                }
                Stepped::End(end) => break end,
            }
        };
        drop(watch);
        serving.now = Instant::now();
        self.end_sent_streams(&mut serving);
        for stream in std::mem::take(&mut serving.streams) {
            self.end_stream(&mut serving, stream, StreamEnd::Lost);
        }
        match end {
            End::Refused | End::Aborted => self.close_lingering(Close::Whole),
            _ => self.transport.end(),
        }
        Outcome::Closed(end)
    }

    /// Receives, lets streams go on, and sends, once.
    fn go_round(&mut self, serving: &mut Serving<'_>) -> Stepped {
        serving.now = Instant::now();
        let has_received = match self.receive_frames(serving) {
            Received::Bytes(_) | Received::End => true,
            Received::Part | Received::Nothing => false,
            Received::Broken => return Stepped::End(End::Client),
        };
        if self.shared.drain().has_begun() {
            serving.session.leave(serving.now);
        }
        if serving.session.news.take() || has_received {
            self.accept_streams(serving);
        }
        serving.session.stream_news.take();
        let (until, is_again) = self.go_on(serving);
        if serving.session.news.take() {
            self.accept_streams(serving);
        }
        let sent = match self.send_frames(serving) {
            Ok(sent) => sent,
            Err(end) => return Stepped::End(end),
        };
        let until = until.or_until(self.end_sent_streams(serving));
        if sent.is_none() && serving.session.pipe.take_refused() {
            // `h2` has more to send.
            serving.session.news.wake_by_ref();
        }
        let session = &serving.session;
        if session.stage == Stage::Ended {
            return match sent {
                None => Stepped::End(self.end_of(serving)),
                Some(until) => Stepped::Wait(until),
            };
        }
        let has_more = if session.pipe.is_read() {
            session.may_receive() && !self.transport.is_read_dry()
        } else {
            sent.is_none()
        };
        // The news of a stream may be its end, after which nothing reads them.
        let has_stream_news = !serving.streams.is_empty() && session.stream_news.is_set();
        if is_again || has_more || has_stream_news || session.news.is_set() || serving.has_yielded {
            serving.has_yielded = false;
            return Stepped::Again;
        }
        let until = sent.map_or(until, |blocked| until.or_until(blocked));
        match self.quiet_until(serving) {
            None => Stepped::Wait(until),
            Some(quiet) if serving.now >= quiet => self.leave_quiet(serving),
            Some(quiet) if serving.now < serving.active + LINGER => {
                Stepped::Wait(until.or(quiet).or(serving.active + LINGER))
            }
            Some(quiet) if sent.is_some() || !self.may_rest(serving) => Stepped::Wait(until.or(quiet)),
            Some(quiet) => Stepped::Rest(quiet),
        }
    }

    /// Receives frames, if those before have been read.
    fn receive_frames(&mut self, serving: &mut Serving<'_>) -> Received {
        let Serving { session, now, active, .. } = serving;
        if !session.may_receive() {
            return Received::Nothing;
        }
        let (transport, rested, meter) = (&mut self.transport, &mut self.buffer, &mut session.meter);
        let (received, counts) = session.pipe.receive(|memory| {
            let received = match rested.len() {
                0 => transport.receive(memory, READ_BYTES),
                // They have come while the connection had no coroutine.
                bytes => {
                    memory.append(rested);
                    Received::Bytes(bytes)
                }
            };
            let counts = meter.take(memory);
            (received, counts)
        });
        self.transport.turn().spend_records(counts.all as usize);
        if received == Received::End {
            session.end_input();
        }
        if received != Received::Nothing {
            *active = *now;
        }
        session.heads_due = session.heads_due.saturating_add(counts.heads);
        session.owes_since = if session.meter.is_inside() { session.owes_since.or(Some(*now)) } else { None };
        if counts.pushes > 0 {
            session.abort(Reason::PROTOCOL_ERROR);
            self.report_fault("the client pushes a response, which only a server may do");
        } else if let Err(flood) = session.budget.spend(counts, *now) {
            session.abort(Reason::ENHANCE_YOUR_CALM);
            self.report_fault(&format!("too many {}", flood.name()));
        }
        received
    }

    /// Lets `h2` work, and opens the streams that it finds.
    fn accept_streams(&mut self, serving: &mut Serving<'_>) {
        loop {
            match serving.session.accept() {
                Accepted::Request(request) => {
                    self.open_stream(serving, request);
                    if serving.session.has_no_more_heads() {
                        return;
                    }
                }
                Accepted::Nothing | Accepted::End(None) => return,
                Accepted::End(Some(error)) => {
                    if !error.is_io() && error.reason() != Some(Reason::NO_ERROR) && !error.is_remote() {
                        self.report_fault(&error.to_string());
                    }
                    return;
                }
            }
        }
    }

    /// Lets each stream go on. Returns by when the next one must, and whether one has more to do at once.
    fn go_on(&mut self, serving: &mut Serving<'_>) -> (Until, bool) {
        let (mut until, mut is_again, mut index) = (Until::EVENT, false, 0);
        while index < serving.streams.len() {
            let mut stream = serving.streams.swap_remove(index);
            match self.advance(serving, &mut stream) {
                Next::Over(StreamEnd::Sent) => self.leave_stream(serving, &mut stream),
                Next::Over(end) => {
                    self.end_stream(serving, stream, end);
                    continue;
                }
                Next::Until(next) => until = until.or_until(next),
                Next::Again => is_again = true,
            }
            serving.streams.push(stream);
            let last = serving.streams.len() - 1;
            serving.streams.swap(index, last);
            index += 1;
        }
        (until, is_again)
    }

    /// Lets a stream go on until it waits for something.
    fn advance(&mut self, serving: &mut Serving<'_>, stream: &mut Stream) -> Next {
        let (now, others) = (serving.now, serving.streams.len() + 1);
        if stream.is_reset() {
            return Next::Over(StreamEnd::Lost);
        }
        if let Some(moved) = stream.leaving {
            return self.await_leave(stream, &serving.session, moved, now);
        }
        if let Step::Intake(intake) = &mut stream.step {
            match self.take_body(intake, &stream.waker, others, now) {
                Taken::Until(until) => return Next::Until(until),
                Taken::Gone => return Next::Over(StreamEnd::Lost),
                Taken::Refused(refusal) => self.refuse_stream(serving, stream, refusal),
                Taken::Whole(spool) => {
                    stream.record.received = Some(now);
                    let gate = intake.gate.take();
                    self.queue(
                        serving,
                        stream,
                        Waiting::Whole(RequestBody::Complete(Box::new(spool))),
                        gate.as_ref(),
                        now,
                    );
                }
            }
        }
        if let Step::Queue(wait, _, deadline) = &mut stream.step {
            let deadline = *deadline;
            match wait.claim() {
                Some(permit) => {
                    if let Step::Queue(_, waiting, _) = std::mem::replace(&mut stream.step, Step::Over) {
                        self.call(serving, stream, waiting, Some(permit));
                    }
                }
                None if now < deadline => return Next::Until(Until::at(deadline)),
                None => return Next::Over(StreamEnd::Refused(Refusal::Overload(Awaited::Permit))),
            }
        }
        let input = self.feed(stream, others, now);
        match self.put_out(stream, &mut serving.session, others, now) {
            Next::Until(until) => Next::Until(until.or_until(input)),
            next => next,
        }
    }

    /// Calls the handler, once the request has a permit.
    fn call(&mut self, serving: &mut Serving<'_>, stream: &mut Stream, waiting: Waiting, permit: Option<Permit>) {
        let received = stream.record.received.unwrap_or(serving.now);
        let exchange = self.reused.exchange(self.transport.waker(), &self.shared.derived.bounds, permit);
        let (body, feed) = match waiting {
            Waiting::Whole(body) => (body, None),
            Waiting::Streamed(feed) => {
                let input = handler::Input::new(Arc::clone(&exchange), stream.head.framing());
                (RequestBody::Streamed(input), Some(feed))
            }
        };
        let origin = stream.told.as_ref().unwrap_or(&self.connected);
        let row = self.shared.requests.enter(received, &stream.head, origin, &exchange);
        let derived = &self.shared.derived;
        let request = Request {
            head: Arc::clone(&stream.head),
            body,
            origin: Arc::clone(origin),
            received,
            route: stream.route,
            begin_by: received + derived.thread_wait,
            deadline: derived.request_timeout.map(|time| received + time),
        };
        let responder = Responder::new(Arc::clone(&exchange));
        stream.step = Step::Call(Call::new(&self.shared, exchange, feed, row));
        serving.handler.call(request, responder);
    }

    /// Ends a stream whose response is not complete.
    fn end_stream(&mut self, serving: &mut Serving<'_>, mut stream: Box<Stream>, end: StreamEnd) {
        if let StreamEnd::Refused(refusal) = end {
            self.refuse_unserved(serving, &mut stream, refusal);
        }
        if let Step::Call(call) = std::mem::replace(&mut stream.step, Step::Over) {
            stream.record.note_begin(&call.exchange);
            if end == StreamEnd::Lost || end == StreamEnd::Cut {
                let exchange = Arc::clone(&call.exchange);
                drop(call);
                serving.session.haunt(exchange);
            } else {
                self.reused.exchange = Some(call.end());
            }
        }
        self.close_stream(serving, stream, false);
    }

    /// Sends what is in the pipe. Returns `None` if all of it is sent, otherwise by when the client must take more.
    fn send_frames(&mut self, serving: &mut Serving<'_>) -> Result<Option<Until>, End> {
        loop {
            let room = self.transport.turn().bytes_left() as usize;
            if room == 0 {
                self.transport.take_turn();
                serving.has_yielded = true;
                continue;
            }
            let (transport, meters, now) = (&mut self.transport, self.shared.meters(), serving.now);
            let Session { pipe, outflow, .. } = &mut *serving.session;
            let send = |bytes: &[u8]| {
                let sent = transport.send(bytes.get(..room).unwrap_or(bytes));
                if let Io::Done(taken) = sent {
                    outflow.take(bytes.get(..taken).unwrap_or(bytes), &mut serving.streams, meters, now);
                }
                sent
            };
            match pipe.send(send, |sent| if let Io::Done(bytes) = sent { *bytes } else { 0 }) {
                None => {
                    serving.pace = Pace::new();
                    return Ok(None);
                }
                Some(Io::Done(bytes)) => {
                    serving.pace.take(bytes);
                    if serving.streams.is_empty() {
                        serving.session.quiet_since = serving.now;
                        serving.active = serving.now;
                    }
                }
                Some(Io::Failed(_)) => return Err(End::Client),
                Some(Io::WouldBlock) => {
                    if let Some(deadline) = self.send_deadline(&mut serving.pace) {
                        return Ok(Some(Until::at(deadline)));
                    }
                    let (client, why) = (self.connected.client_name(), self.slowness(&serving.pace));
                    log::info!("{client}: the HTTP/2 connection is closed: {why}");
                    self.transport.close(Close::Reset);
                    return Err(End::Aborted);
                }
            }
        }
    }

    /// Returns by when something must come from a client that owes something or has no open stream.
    fn quiet_until(&self, serving: &Serving<'_>) -> Option<Instant> {
        let (session, config) = (&serving.session, &self.shared.config);
        if let Some(since) = session.owes_since {
            return Some(since + config.header_timeout);
        }
        if !serving.streams.is_empty() {
            return None;
        }
        Some(match session.stage {
            // Only the rest of a response waits, for a client that has made its window smaller.
            _ if session.has_streams() => session.quiet_since + config.write_timeout,
            Stage::Leaving(told) => told.max(session.quiet_since) + LEAVE_WITHIN,
            _ => session.rest_deadline(&self.shared),
        })
    }

    /// Returns whether the connection needs no coroutine until its client sends something, if everything is sent.
    fn may_rest(&self, serving: &mut Serving<'_>) -> bool {
        serving.streams.is_empty() && serving.session.may_rest() && self.transport.is_read_dry()
    }

    /// Ends a connection whose client has had its time.
    fn leave_quiet(&self, serving: &mut Serving<'_>) -> Stepped {
        let session = &mut serving.session;
        if session.owes_since.is_some() {
            self.report_fault("the rest of a head or of a short frame has not come in time (--header-timeout)");
            session.abort(Reason::ENHANCE_YOUR_CALM);
        } else {
            session.abort(Reason::NO_ERROR);
        }
        session.owes_since = None;
        Stepped::Again
    }

    /// Returns how a connection has ended of which everything has been sent.
    fn end_of(&self, serving: &Serving<'_>) -> End {
        if self.shared.is_draining() || self.shared.hands_over() {
            End::Stopped
        } else if serving.session.is_at_fault {
            End::Refused
        } else if self.transport.is_hangup() {
            End::Client
        } else {
            End::KeepAlive
        }
    }

    /// Logs that there are too many connections.
    fn report_full(&self) {
        if let Some(more) = FULL.pass() {
            let (client, limit) = (self.connected.client_name(), self.shared.config.http2.http2_max_connections);
            log::warn!("{client}: the HTTP/2 connection is closed: there are {limit} (--http2-max-connections){more}");
        }
    }

    /// Logs a fault of the client in HTTP/2.
    fn report_fault(&self, what: &str) {
        if let Some(more) = FAULTS.pass() {
            log::info!("{}: the HTTP/2 connection is closed: {what}{more}", self.connected.client_name());
        }
    }
}

impl Connection {
    /// Has a request wait for a permit, unless one is free or none is needed.
    fn queue(
        &mut self,
        serving: &mut Serving<'_>,
        stream: &mut Stream,
        waiting: Waiting,
        gate: Option<&Arc<crate::pool::Pool>>,
        received: Instant,
    ) {
        let Some(pool) = gate else { return self.call(serving, stream, waiting, None) };
        if let Some(permit) = pool.try_acquire() {
            return self.call(serving, stream, waiting, Some(permit));
        }
        let deadline = received + self.shared.queue_timeout();
        stream.step = Step::Queue(pool.enter(self.transport.waker().clone()), waiting, deadline);
    }

    /// Begins a body that the application reads as it comes.
    fn queue_streamed(&mut self, serving: &mut Serving<'_>, stream: &mut Stream, mut feed: Feed) {
        let gate = feed.gate.take();
        let now = serving.now;
        self.queue(serving, stream, Waiting::Streamed(Box::new(feed)), gate.as_ref(), now);
    }
}
