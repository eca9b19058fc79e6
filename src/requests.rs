//! The requests that are being served, for reports and for the lines of a server that stops.
//!
//! *Owns*: a row for each request, from its permit to the last byte of its response. *Runs on*: the connections'
//! coroutines add and remove rows; any thread may read. *Invariants*: the cost of a row does not depend on the number
//! of rows. Memory is given back after a peak of requests.

mod slow;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::chain::SPARE_MIN;
use crate::handler::{Exchange, Origin};
use crate::http::RequestHead;
use crate::phrase::excerpt;
use crate::sys::Lock;

pub use self::slow::{Frame, Mostly, SlowRequest, SlowRequests, Split};

/// The table of a server's requests.
#[derive(Debug, Default)]
pub struct Requests(Lock<Table>);

/// A request that is being served, as it is at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When the last byte arrived, or the last byte of the head if the body is streamed.
    pub received: Instant,
    /// Its head.
    pub head: Arc<RequestHead>,
    /// Where it comes from.
    pub origin: Arc<Origin>,
    /// How far the request has come.
    pub stage: Stage,
    /// Whether its call has taken the connection over, for a WebSocket for example.
    pub is_taken_over: bool,
    /// Whether its response has been suspended, so that its age says nothing.
    pub was_suspended: bool,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// No thread has begun it.
    Queued,
    /// A thread works on it.
    Running,
    /// The application waits for an event, without a thread or with one that is held.
    Suspended,
    /// The application has finished, and the client has not received the whole response.
    Sending,
    /// The client has left, and a thread still works on the request.
    Abandoned,
    /// The request is past its deadline, and a thread still works on it.
    Overdue,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "waits for a thread",
            Self::Running => "in the application",
            Self::Suspended => "suspended",
            Self::Sending => "sends its response",
            Self::Abandoned => "in the application, its client has left",
            Self::Overdue => "in the application, past its deadline",
        })
    }
}

impl fmt::Display for Snapshot {
    /// Writes age, client, stage and request line: `12.345 s  10.0.0.7:51608  in the application  "GET / HTTP/1.1"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (age, client, stage) = (self.received.elapsed().as_secs_f64(), self.origin.client_name(), self.stage);
        write!(f, "{age:.3} s  {client}  {stage}  \"{}\"", excerpt(self.head.request_line()))?;
        self.head.id().map_or(Ok(()), |id| write!(f, "  request {}", excerpt(id)))
    }
}

#[derive(Debug)]
struct Row {
    received: Instant,
    head: Arc<RequestHead>,
    origin: Arc<Origin>,
    exchange: Arc<Exchange>,
}

impl Row {
    fn snapshot(&self) -> Snapshot {
        let (head, origin) = (Arc::clone(&self.head), Arc::clone(&self.origin));
        let (stage, is_taken_over, was_suspended) =
            (self.stage(), self.exchange.is_taken_over(), self.exchange.was_suspended());
        Snapshot { received: self.received, head, origin, stage, is_taken_over, was_suspended }
    }

    fn stage(&self) -> Stage {
        if self.exchange.waits_for_thread() {
            Stage::Queued
        } else if self.exchange.has_ended() {
            Stage::Sending
        } else if self.exchange.is_suspended() {
            Stage::Suspended
        } else {
            Stage::Running
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    rows: Vec<Option<Row>>,
    free: Vec<usize>,
}

impl Requests {
    #[allow(clippy::inline_always, reason = "a call would cost each request of HTTP/1")]
    #[inline(always)]
    pub(crate) fn enter(
        &self,
        received: Instant,
        head: &Arc<RequestHead>,
        origin: &Arc<Origin>,
        exchange: &Arc<Exchange>,
    ) -> usize {
        let (head, origin, exchange) = (Arc::clone(head), Arc::clone(origin), Arc::clone(exchange));
        let row = Some(Row { received, head, origin, exchange });
        let mut table = self.0.lock();
        if let Some(index) = table.free.pop()
            && let Some(free) = table.rows.get_mut(index)
        {
            *free = row;
            return index;
        }
        table.rows.push(row);
        table.rows.len() - 1
    }

    pub(crate) fn leave(&self, index: usize) {
        let mut table = self.0.lock();
        table.free.push(index);
        let left = table.rows.get_mut(index).and_then(Option::take);
        if table.free.len() == table.rows.len() && table.free.len() >= SPARE_MIN {
            // Gives back the memory of a peak.
            *table = Table::default();
        }
        drop(table);
        drop(left);
    }

    /// Returns how many requests are being served.
    pub fn len(&self) -> usize {
        let table = self.0.lock();
        table.rows.len() - table.free.len()
    }

    /// Returns whether no request is being served.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns all requests, the oldest first.
    pub fn all(&self) -> Vec<Snapshot> {
        let table = self.0.lock();
        let mut all: Vec<_> = table.rows.iter().flatten().map(Row::snapshot).collect();
        drop(table);
        all.sort_by_key(|request| request.received);
        all
    }

    /// Returns the oldest request.
    pub fn oldest(&self) -> Option<Snapshot> {
        let table = self.0.lock();
        table.rows.iter().flatten().min_by_key(|row| row.received).map(Row::snapshot)
    }

    /// Ends the responses that are suspended, and the others at their next suspension, because the server stops. Returns
    /// how many are suspended.
    pub fn end_suspended(&self) -> usize {
        let table = self.0.lock();
        let exchanges: Vec<_> = table.rows.iter().flatten().map(|row| Arc::clone(&row.exchange)).collect();
        drop(table);
        exchanges.iter().filter(|exchange| exchange.end_suspended()).count()
    }

    /// Returns how many of the requests the handler works on.
    pub fn handled(&self) -> usize {
        let table = self.0.lock();
        table.rows.iter().flatten().filter(|row| row.stage() != Stage::Sending).count()
    }
}

impl fmt::Display for Requests {
    /// Writes one line per request, the oldest first. A line break precedes each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all().iter().try_for_each(|request| write!(f, "\n  {request}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::path::{Path, PathBuf};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::handler::{Bounds, Local};
    use crate::http::Limits;
    use crate::spool::Storage;
    use crate::sys::{self, Waitable};

    fn exchange() -> Arc<Exchange> {
        let storage = Storage::open(Path::new("/"), false, Some(0)).unwrap();
        let bounds = Bounds { response_buffer: 1, response_spool: 0, storage, request_buffer: 1 };
        let (tell, told) = mpsc::channel();
        sys::spawn(move || {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let waitable = Waitable::new(std::os::fd::OwnedFd::from(ours)).unwrap();
            tell.send(Exchange::new(waitable.waker(), Arc::new(bounds))).unwrap();
        });
        told.recv().unwrap()
    }

    #[test]
    fn table_of_a_crowd_that_has_gone_takes_no_memory() {
        let limits = Limits { request_line_bytes_max: 100, fields_max: 1, field_bytes_max: 100, head_bytes_max: 200 };
        let head = Arc::new(RequestHead::parse(b"GET / HTTP/1.0\r\n\r\n", &limits).unwrap());
        let origin = Arc::new(Origin::new(None, Arc::new(Local::Unix(PathBuf::from("s")))));
        let (requests, exchange, now) = (Requests::default(), exchange(), Instant::now());
        let enter = || requests.enter(now, &head, &origin, &exchange);
        let crowd: Vec<_> = (0..=SPARE_MIN).map(|_| enter()).collect();
        let (last, others) = crowd.split_last().unwrap();
        for row in others {
            requests.leave(*row);
        }
        assert_eq!(requests.len(), 1);
        assert_eq!(enter(), SPARE_MIN - 1, "a free row is used again");
        requests.leave(SPARE_MIN - 1);
        requests.leave(*last);
        assert!(requests.is_empty());
        assert_eq!(requests.0.lock().rows.capacity(), 0);
        assert_eq!((Arc::strong_count(&head), Arc::strong_count(&exchange)), (1, 1));
    }

    #[test]
    fn oldest_request_comes_first() {
        let limits = Limits { request_line_bytes_max: 100, fields_max: 1, field_bytes_max: 100, head_bytes_max: 200 };
        let head = |line: &str| {
            Arc::new(RequestHead::parse(format!("GET /{line} HTTP/1.0\r\n\r\n").as_bytes(), &limits).unwrap())
        };
        let origin = Arc::new(Origin::new(None, Arc::new(Local::Unix(PathBuf::from("s")))));
        let (requests, exchange, now) = (Requests::default(), exchange(), Instant::now());
        for (line, age) in [("new", 1), ("old", 3), ("middle", 2)] {
            requests.enter(now.checked_sub(Duration::from_secs(age)).unwrap(), &head(line), &origin, &exchange);
        }
        let text = requests.to_string();
        let lines: Vec<_> = text.lines().skip(1).map(|line| line.rsplit("  ").next().unwrap()).collect();
        assert_eq!(lines, ["\"GET /old HTTP/1.0\"", "\"GET /middle HTTP/1.0\"", "\"GET /new HTTP/1.0\""]);
        assert!(requests.oldest().unwrap().to_string().contains("unix  waits for a thread  \"GET /old "));
        assert_eq!(requests.handled(), 3);
    }
}
