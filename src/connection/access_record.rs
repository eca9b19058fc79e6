//! What is known of a request that is served, for the access log and the meters: collected meanwhile, written once.
//!
//! *Runs on*: the connection's coroutine, or the thread of a call that has taken the connection over. *Invariants*: a
//! request whose head was read has exactly one line and is counted once, even if its client disconnects. A request whose
//! head was refused also has one line.

use std::time::{Duration, Instant, SystemTime};

use super::Shared;
use super::http1::SendQueue;
use crate::config::duration_text;
use crate::handler::{self, ApplicationTimes, Exchange, Origin, Outbox};
use crate::http::{RequestHead, Version};
use crate::logs::{AccessLog, Entry, Field};
use crate::metrics::{Count, Method, Served};
use crate::phrase::{excerpt, seconds};
use crate::requests::{SlowRequest, Split};
use crate::websocket::Offer;

/// The access log's status for a client that disconnected before its response began: 499, as in nginx.
const CLIENT_LEFT: u16 = 499;

/// The known part of a request's access log entry.
#[derive(Default)]
pub(super) struct AccessRecord {
    pub(super) began: Option<Instant>,
    pub(super) received: Option<Instant>,
    /// The time in the queue of a proxy, before `began`.
    pub(super) proxy_queue: Option<Duration>,
    /// The response's status; 0 until one has begun.
    pub(super) status: u16,
    /// The encoded head, if the log needs fields of it.
    pub(super) head: Vec<u8>,
    /// Whether the whole response was sent.
    pub(super) complete: bool,
    /// How long the response was suspended. `None`: it was not.
    pub(super) suspended: Option<Duration>,
    pub(super) body_bytes: u64,
    pub(super) wire_bytes: u64,
    pub(super) environ: Vec<(String, String)>,
    pub(super) times: ApplicationTimes,
}

/// The head of a request that was refused while it arrived, as far as the logs can show it.
pub(super) struct Unparsed<'a> {
    pub(super) line: &'a [u8],
    method: &'a [u8],
    path: &'a [u8],
    query: &'a [u8],
    protocol: &'static str,
}

impl<'a> Unparsed<'a> {
    /// Splits the first line of the received bytes. `None` if no byte of a request line has arrived.
    pub(super) fn of(received: &'a [u8], bytes_max: usize) -> Option<Self> {
        let start = received.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
        let line = received.get(start..)?;
        let end = line.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(line.len());
        let line = line.get(..end.min(bytes_max))?;
        let mut words = line.split(|&byte| byte == b' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        let protocol = match version {
            Some(b"HTTP/1.0") => "HTTP/1.0",
            Some(b"HTTP/1.1") => "HTTP/1.1",
            Some(b"HTTP/2.0") => "HTTP/2.0",
            _ => return Some(Self { line, method: b"", path: b"", query: b"", protocol: "" }),
        };
        let target = target.unwrap_or_default();
        let question = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
        let (path, query) = target.split_at_checked(question)?;
        let (method, query) = (method.unwrap_or_default(), query.get(1..).unwrap_or_default());
        Some(Self { line, method, path, query, protocol })
    }
}

impl AccessRecord {
    /// Notes what the handler reports about a response that has ended.
    pub(super) fn note_end(&mut self, outbox: &mut Outbox) {
        self.times = outbox.times;
        self.environ = std::mem::take(&mut outbox.environ);
    }

    /// Notes how much was sent, and how long the response was suspended. Notes when the handler began, unless the handler
    /// reported that at the end.
    pub(super) fn note_exchange(&mut self, queue: &SendQueue, exchange: &Exchange) {
        self.note_sent(queue);
        self.note_begin(exchange);
    }

    /// Notes when the handler began, unless the handler reported that at the end.
    #[inline]
    pub(super) fn note_begin(&mut self, exchange: &Exchange) {
        self.times.started = self.times.started.or_else(|| exchange.begun_at());
        self.suspended = exchange.time_suspended();
    }

    /// Notes how much was sent.
    pub(super) fn note_sent(&mut self, queue: &SendQueue) {
        self.body_bytes = queue.body_bytes;
        self.wire_bytes = queue.wire_bytes;
    }

    /// Writes the line for a request whose head was refused. `received` holds the bytes of it that arrived.
    pub(super) fn log_refused(&self, received: &[u8], origin: &Origin, shared: &Shared) {
        let Some(access_log) = &shared.access_log else { return };
        let Some(head) = Unparsed::of(received, shared.derived.limits.request_line_bytes_max) else { return };
        let now = Instant::now();
        let lookup = |name: &[u8]| field_of(&self.head, name);
        access_log.write(&Entry {
            remote: origin.client,
            request_line: head.line,
            method: head.method,
            path: head.path,
            query: head.query,
            protocol: head.protocol,
            request_id: None,
            proxy_queue: None,
            status: self.status,
            complete: self.complete,
            body_bytes: self.body_bytes,
            wire_bytes: self.wire_bytes,
            ended: SystemTime::now(),
            duration: handler::between(self.began, Some(now)),
            receive: handler::between(self.began, Some(now)),
            queue: Duration::ZERO,
            application: Duration::ZERO,
            suspended: Duration::ZERO,
            send: Duration::ZERO,
            request_field: &|_| None,
            response_field: &lookup,
            fields: &|| [Vec::new(), fields_of(&self.head).collect()],
            environ: &[],
        });
    }

    /// Counts the request, and writes its line. `sent` is when its last bytes were sent, a few microseconds early unless
    /// the client made them wait. (The connection's coroutine.)
    pub(super) fn end(&self, head: &RequestHead, origin: &Origin, shared: &Shared, sent: Instant) {
        // A line has the exact time. Without one, the time need not be read again.
        let now = if shared.access_log.is_some() { Instant::now() } else { sent };
        let served = self.served(head, now);
        if let Some(suspended) = self.suspended {
            shared.meters.suspended(suspended);
        }
        let nanos = shared.meters.served(&served);
        if self.status >= 300 && head.asks_for_upgrade() && Offer::of(head).is_some() {
            shared.meters.count(Count::WebSocketsRefused, 1);
        }
        if let Some(queued) = self.proxy_queue {
            shared.meters.proxied(queued);
        }
        if let Some(log) = &shared.access_log {
            self.log(head, origin, log, &served);
        }
        // A stream that has lived for long may have run for long, and is not slow.
        if shared.slow.is_slow(nanos) && self.suspended.is_none() {
            self.enter_slow(head, origin, shared, &served);
        }
    }

    /// Returns when the parts of the request happened. The time for which its response was suspended is left out: what
    /// came before it moves to later moments.
    #[inline]
    fn served(&self, head: &RequestHead, sent: Instant) -> Served {
        let mut served = Served {
            method: Method::of(head.method()),
            status: self.status,
            began: self.began,
            received: self.received,
            started: self.times.started,
            ended: self.times.ended,
            sent,
        };
        if let Some(suspended) = self.suspended {
            served.leave_out(suspended);
        }
        served
    }

    /// Keeps a request that took long, and logs it if it took as long as `--slow-request` says.
    #[cold]
    fn enter_slow(&self, head: &RequestHead, origin: &Origin, shared: &Shared, served: &Served) {
        let (split, status, slow) = (self.split(served), self.shown_status(), &shared.slow);
        let (client, line, mostly) = (origin.client_name(), excerpt(head.request_line()), slow.take_samples(head));
        if let Some(limit) = slow.limit().filter(|limit| split.duration >= *limit) {
            let Split { duration, receive, queue, application, send } = split;
            let [duration, receive, queue, application, send] =
                [duration, receive, queue, application, send].map(seconds);
            let (limit, seen) =
                (duration_text(limit), mostly.as_ref().map(|seen| format!("; {seen}")).unwrap_or_default());
            let id = head.id_text();
            log::warn!(
                "{line}{id} of {client}, status {status}, took {duration} (--slow-request {limit}): receive {receive}, queue \
                 {queue}, application {application}, send {send}{seen}"
            );
        }
        slow.enter(SlowRequest { ended: SystemTime::now(), split, status, client, line, mostly }, served.sent);
    }

    /// Returns where the request's time went. The whole has the time for which the response was suspended, its parts do
    /// not.
    fn split(&self, served: &Served) -> Split {
        let sent = Some(served.sent);
        Split {
            duration: handler::between(self.began, sent),
            receive: handler::between(served.began, served.received.or(sent)),
            queue: handler::between(served.received, served.started.or(sent)),
            // The call may still run after its client has disconnected.
            application: handler::between(served.started, served.ended.or(sent)),
            send: handler::between(served.ended, sent),
        }
    }

    /// Returns the status that the logs show.
    fn shown_status(&self) -> u16 {
        if self.status == 0 { CLIENT_LEFT } else { self.status }
    }

    /// Counts a request whose call had taken the connection over, and writes its line. (The call's thread.)
    pub(super) fn end_taken(&self, head: &RequestHead, origin: &Origin, shared: &Shared) {
        let now = Instant::now();
        shared.meters.taken(Method::of(head.method()), handler::between(self.began, Some(now)));
        if let Some(log) = &shared.access_log {
            self.log(head, origin, log, &self.served(head, now));
        }
    }

    /// Writes the line of the access log.
    fn log(&self, head: &RequestHead, origin: &Origin, log: &AccessLog, served: &Served) {
        let Split { duration, receive, queue, application, send } = self.split(served);
        let lookup = |name: &[u8]| field_of(&self.head, name);
        log.write(&Entry {
            remote: origin.client,
            request_line: head.request_line(),
            method: head.method(),
            path: head.path(),
            query: head.query(),
            protocol: match head.version() {
                Version::Http10 => "HTTP/1.0",
                Version::Http11 => "HTTP/1.1",
                Version::Http2 => "HTTP/2.0",
            },
            request_id: head.id(),
            proxy_queue: self.proxy_queue,
            status: self.shown_status(),
            complete: self.complete,
            body_bytes: self.body_bytes,
            wire_bytes: self.wire_bytes,
            ended: SystemTime::now(),
            duration,
            receive,
            queue,
            application,
            suspended: self.suspended.unwrap_or_default(),
            send,
            request_field: &|name| head.field(name),
            response_field: &lookup,
            fields: &|| [head.fields().collect(), fields_of(&self.head).collect()],
            environ: &self.environ,
        });
    }
}

/// Returns the value of a field of an encoded head.
fn field_of<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    fields_of(head).find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Returns the fields of an encoded head.
fn fields_of(head: &[u8]) -> impl Iterator<Item = Field<'_>> {
    head.split(|&byte| byte == b'\n').skip(1).filter_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        Some((name, value.get(1..).unwrap_or_default().trim_ascii()))
    })
}
