//! What of each stream the client has really got, and the end of streams whose responses `h2` has.
//!
//! *Runs on*: the connection's coroutine. *Invariants*: a response that is complete for `h2` counts as sent once the socket
//! has taken its last byte. Until then, the stream is leaving. The access log's numbers are those of the socket.

use std::time::Instant;

use h2::Reason;

use super::output::{Next, Outcome};
use super::session::Stage;
use super::stream::{Step, Stream};
use super::{Serving, Session};
use crate::connection::Connection;
use crate::connection::transport::Until;
use crate::http::Framing;
use crate::http2::{SentMeter, Shown};
use crate::metrics::{Count, ErrorCode, Meters};

/// Follows what the socket takes.
#[derive(Default)]
pub(super) struct Outflow {
    meter: SentMeter,
    /// Where the stream of the next frame probably is: behind that of the last one.
    next: usize,
    /// How many streams are leaving.
    leaving: usize,
    /// Whether a stream has a fate.
    has_fates: bool,
    /// Whether the client was told to leave.
    is_leaving: bool,
}

/// How a stream has ended, by what the socket has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The whole response was sent.
    Sent,
    /// `h2` has reset the stream, because the client has broken a rule.
    Reset,
}

impl Outflow {
    /// Takes the next bytes that the socket has taken.
    pub(super) fn take(&mut self, bytes: &[u8], streams: &mut [Box<Stream>], meters: &Meters, now: Instant) {
        let Self { meter, next, has_fates, is_leaving, .. } = self;
        meter.take(bytes, |shown| {
            count(shown, is_leaving, meters);
            let (Shown::Part { stream: number, .. } | Shown::Reset { stream: number, .. }) = shown else { return };
            let Some(index) = position(streams, number, *next) else { return };
            let Some(stream) = streams.get_mut(index) else { return };
            let fate = match shown {
                Shown::Part { sent, is_last, .. } => {
                    *next = index + 1;
                    stream.sent.add(sent);
                    if stream.leaving.is_some() {
                        stream.leaving = Some(now);
                    }
                    is_last.then_some(Fate::Sent)
                }
                _ => Some(Fate::Reset),
            };
            if stream.fate.is_none() && fate.is_some() {
                stream.fate = fate;
                *has_fates = true;
            }
        });
    }
}

/// Counts a stream that the server has reset, and a connection that it has told to leave.
fn count(shown: Shown, is_leaving: &mut bool, meters: &Meters) {
    let code = match shown {
        Shown::Part { .. } => return,
        Shown::Reset { code, .. } => return meters.reset(ErrorCode::of(code)),
        Shown::GoAway(code) => ErrorCode::of(code),
        Shown::Announced => ErrorCode::NoError,
    };
    // The second of two has the same reason, unless the client has done something wrong between them.
    if !std::mem::replace(is_leaving, true) || code != ErrorCode::NoError {
        meters.told_to_leave(code);
    }
}

/// Returns the place of the stream with this number. It is looked for from `next` on.
fn position(streams: &[Box<Stream>], number: u32, next: usize) -> Option<usize> {
    let (before, from) = streams.split_at_checked(next).unwrap_or((streams, &[]));
    let find = |streams: &[Box<Stream>]| streams.iter().position(|stream| stream.number == number);
    find(from).map(|index| before.len() + index).or_else(|| find(before))
}

impl Connection {
    /// Notes that `h2` has the whole response. The stream ends once the socket has it, too.
    pub(super) fn leave_stream(&mut self, serving: &mut Serving<'_>, stream: &mut Stream) {
        stream.leaving = Some(serving.now);
        serving.session.outflow.leaving += 1;
        if let Step::Call(call) = std::mem::replace(&mut stream.step, Step::Over) {
            stream.record.note_begin(&call.exchange);
            self.reused.exchange = Some(call.end());
        }
        if self.shared.derived.keeps_none_alive {
            serving.session.leave(serving.now);
        }
    }

    /// Looks after a stream that is leaving since `moved`, or of which something was sent then.
    pub(super) fn await_leave(&self, stream: &mut Stream, session: &Session, moved: Instant, now: Instant) -> Next {
        let deadline = moved + self.shared.config.write_timeout;
        if now < deadline {
            return Next::Until(Until::at(deadline));
        }
        if !session.pipe.is_sent() {
            // The time of the whole connection is running.
            return Next::Until(Until::EVENT);
        }
        // The client has made its window smaller after `h2` had got the rest.
        self.report_cut(stream, &self.slowness_of(true, 0));
        stream.reset(Reason::CANCEL);
        Next::Over(Outcome::Cut)
    }

    /// Ends the streams whose last bytes the socket has taken. Returns by when others that are leaving must go on.
    pub(super) fn end_sent_streams(&mut self, serving: &mut Serving<'_>) -> Until {
        let mut index = 0;
        if std::mem::take(&mut serving.session.outflow.has_fates) {
            serving.session.outflow.next = 0;
            while let Some(stream) = serving.streams.get(index) {
                let Some(fate) = stream.fate else {
                    index += 1;
                    continue;
                };
                let stream = serving.streams.swap_remove(index);
                match fate {
                    Fate::Sent => self.close_sent(serving, stream),
                    Fate::Reset => self.end_stream(serving, stream, Outcome::Lost),
                }
            }
        }
        match serving.session.outflow.leaving {
            0 => Until::EVENT,
            _ => Until::at(serving.now + self.shared.config.write_timeout),
        }
    }

    /// Closes a stream whose response was sent. `h2` then wakes the connection, because it may end after its last stream,
    /// or because the client may send as much more as the rest of a body was long. The wake of the last stream is
    /// dropped if neither can be. Other streams need it: `h2` wakes a connection once until it is asked again.
    fn close_sent(&mut self, serving: &mut Serving<'_>, stream: Box<Stream>) {
        let had_news = serving.session.news.is_set() || stream.head.framing() != Framing::None;
        self.close_stream(serving, stream, true);
        if !had_news && serving.streams.is_empty() && serving.session.stage == Stage::Open {
            serving.session.news.take();
        }
    }

    /// Counts a stream that has ended, and writes its line of the access log.
    pub(super) fn close_stream(&mut self, serving: &mut Serving<'_>, mut stream: Box<Stream>, is_complete: bool) {
        let (session, now) = (&mut serving.session, serving.now);
        if stream.leaving.is_some() {
            session.outflow.leaving -= 1;
        }
        let record = &mut stream.record;
        (record.complete, record.body_bytes, record.wire_bytes) = (is_complete, stream.sent.body, stream.sent.wire);
        let origin = stream.told.as_ref().unwrap_or(&self.connected);
        record.end(&stream.head, origin, &self.shared, now);
        self.shared.meters.count(Count::Http2Requests, 1);
        if is_complete {
            session.budget.earn_by_response();
        }
        session.has_served = true;
        (session.quiet_since, serving.active) = (now, now);
        if self.shared.derived.keeps_none_alive {
            session.leave(now);
        }
        let Stream { head, mut response, news, waker, send, respond, .. } = *stream;
        drop((send, respond));
        session.end_news(news, waker);
        response.queue.renew();
        (self.reused.head, self.reused.queue) = (Some(head), Some(response.queue));
    }
}
