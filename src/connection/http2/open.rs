//! New streams: the rules for their heads, their admission, and refusals.
//!
//! *Runs on*: the connection's coroutine. *Invariants*: a head passes the same rules as one of HTTP/1, and the handler
//! admits or refuses the request before any byte of its body is taken.

use std::sync::Arc;
use std::time::Instant;

use h2::server::SendResponse;
use h2::{Reason, RecvStream};

use super::Serving;
use super::body::{Feed, Intake};
use super::output::send_continue;
use super::session::Chunk;
use super::stream::{Step, Stream, Waiting};
use crate::admission::{Admission, Delivery};
use crate::connection::access_record::AccessRecord;
use crate::connection::http1::{Response, context};
use crate::connection::{Connection, Refusal};
use crate::handler::RequestBody;
use crate::http::{Framing, ParseError, RequestHead, Version};
use crate::http2::request_text;

impl Connection {
    /// Opens a stream: checks its head, and begins with its body or its call.
    pub(super) fn open_stream(
        &mut self,
        serving: &mut Serving<'_>,
        (request, mut respond): (http_types::Request<RecvStream>, SendResponse<Chunk>),
    ) {
        self.transport.turn().spend_request();
        let most = self.shared.config.http2.http2_max_concurrent_streams as usize;
        if serving.streams.len() + serving.session.ghosts() >= most {
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        let (parts, body) = request.into_parts();
        let now = serving.now;
        let has_body = !body.is_end_stream();
        let text = &mut serving.text;
        let written = request_text(&parts, text, &self.shared.derived.limits);
        if let Err(error @ (ParseError::FieldValue | ParseError::HostRepeated)) = written {
            self.shared.meters().refused(Refusal::from(error).reason());
            log::debug!("{}: a malformed request is reset: {error}", self.connected.client_name());
            return respond.send_reset(Reason::PROTOCOL_ERROR);
        }
        let (shared, origin) = (&self.shared, &self.connected);
        let parse = |head: &mut RequestHead| shared.parse_http2(head, text, has_body, origin);
        let head = match written.and_then(|()| self.reused.parse_head(parse)) {
            Ok(head) => head,
            Err(error) => {
                let text = std::mem::take(text);
                return self.refuse_unread(respond, error, &parts, text, now);
            }
        };
        let told = if head.tells_of_proxies() { self.told_origin(&head) } else { None };
        self.head_began = Some(now);
        let proxy_queue = self.proxy_queue(&head);
        let record = AccessRecord { began: Some(now), received: Some(now), proxy_queue, ..AccessRecord::default() };
        let response = Response::new(&head, self.reused.queue.take().unwrap_or_default());
        let news = serving.session.begin_news();
        let mut stream = Stream::new(&self.shared, respond, news, Arc::clone(&head), told, record, response);
        let origin = stream.told.as_ref().unwrap_or(&self.connected);
        let admission = serving.handler.admit(&head, origin);
        if let Admission::Serve(terms) = &admission {
            stream.route = terms.route;
        }
        match admission {
            Admission::Refuse { status, why } => {
                self.refuse_stream(serving, &mut stream, Refusal::ByHandler { status, why });
            }
            Admission::Serve(terms) if head.framing().exceeds(terms.body_bytes_max) => {
                let bytes_max = terms.body_bytes_max;
                self.refuse_stream(serving, &mut stream, Refusal::TooLong { bytes_max });
            }
            Admission::Serve(terms) => match (head.framing(), terms.delivery) {
                (Framing::None, _) => {
                    self.queue(serving, &mut stream, Waiting::Whole(RequestBody::Empty), terms.gate, now);
                }
                (_, Delivery::Stream) => {
                    let feed = Feed::new(body, terms.body_bytes_max, terms.gate.cloned(), now);
                    self.queue_streamed(serving, &mut stream, feed);
                }
                (framing, Delivery::Buffer) => {
                    if !stream.has_continued {
                        stream.has_continued = true;
                        send_continue(&mut stream.respond);
                    }
                    let (spool, gate) = (self.spool_for(framing), terms.gate.cloned());
                    let intake = Intake::new(body, spool, terms.body_bytes_max, gate, now);
                    stream.step = Step::Intake(Box::new(intake));
                }
            },
        }
        serving.streams.push(Box::new(stream));
    }

    /// Begins an error response to a request that cannot be served.
    pub(super) fn refuse_stream(&mut self, serving: &Serving<'_>, stream: &mut Stream, refusal: Refusal) {
        self.report_refusal(stream, refusal);
        let (shared, head) = (&self.shared, Arc::clone(&stream.head));
        let mut output = refusal.output(Some(&head));
        stream
            .response
            .take(&mut output, &mut stream.record, || context(shared, Some(&head), serving.now, false, false));
        stream.step = Step::Reply;
    }

    /// Refuses a request for which nothing has been done: the client may send it again at once (RFC 9113 §8.7).
    pub(super) fn refuse_unserved(&mut self, serving: &Serving<'_>, stream: &mut Stream, refusal: Refusal) {
        if let Refusal::Overload(awaited) = refusal {
            self.shared.note_overload(awaited, Some(serving.handler));
        }
        self.report_refusal(stream, refusal);
        stream.record.status = refusal.status();
        stream.reset(Reason::REFUSED_STREAM);
    }

    fn report_refusal(&mut self, stream: &Stream, refusal: Refusal) {
        self.shared.meters().refused(refusal.reason());
        self.told.clone_from(&stream.told);
        self.log_refusal(refusal, refusal.status(), Some(&stream.head));
        self.told = None;
    }

    /// Sends an error response to a request whose head breaks a rule. It is short, so `h2` may hold all of it.
    fn refuse_unread(
        &mut self,
        mut respond: SendResponse<Chunk>,
        error: ParseError,
        parts: &http_types::request::Parts,
        text: Vec<u8>,
        now: Instant,
    ) {
        let refusal = Refusal::from(error);
        self.shared.meters().refused(refusal.reason());
        // The logs show the received bytes of a head that could not be read.
        self.buffer = if text.is_empty() { format!("{} {} HTTP/2.0", parts.method, parts.uri).into() } else { text };
        self.log_refusal(refusal, refusal.status(), None);
        let mut response = Response::to_unread(parts.method == http_types::Method::HEAD, Version::Http2);
        let mut record = AccessRecord { began: Some(now), ..AccessRecord::default() };
        response.take(&mut refusal.output(None), &mut record, || context(&self.shared, None, now, false, false));
        if let Some(Ok(head)) = response.queue.take_head().map(|head| self.reused.heads.read(head)) {
            let is_whole = response.queue.is_empty();
            if let Ok(mut send) = respond.send_response(head, is_whole)
                && !is_whole
                && let crate::sys::Io::Done(body) = response.queue.take_bytes(usize::MAX)
            {
                record.complete = send.send_data(body.into(), true).is_ok();
            }
        }
        record.note_sent(&response.queue);
        record.log_refused(&self.buffer, &self.connected, &self.shared);
        self.buffer.clear();
    }
}
