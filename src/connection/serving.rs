//! The running requests, for the table that SIGQUIT prints.
//!
//! *Owns*: a row for each request, from its permit to the last byte of its response. *Runs on*: the connections'
//! coroutines add and remove rows; any thread may read. *Invariants*: the cost of a row does not depend on the number
//! of rows. Memory is given back after a peak of requests.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::chain::SPARE_MIN;
use crate::handler::{Exchange, Peer, Served, Stage};
use crate::http::RequestHead;

/// The requests being served, for the table that a signal prints.
#[derive(Debug, Default)]
pub struct Serving(Mutex<ServingTable>);

#[derive(Debug)]
struct Row {
    received: Instant,
    head: Arc<RequestHead>,
    peer: Arc<Peer>,
    exchange: Arc<Exchange>,
}

impl Row {
    fn served(&self) -> Served {
        let Self { received, head, peer, exchange } = self;
        Served { received: *received, head: Arc::clone(head), peer: Arc::clone(peer), stage: exchange.stage() }
    }
}

#[derive(Debug, Default)]
struct ServingTable {
    rows: Vec<Option<Row>>,
    free: Vec<usize>,
}

impl Serving {
    pub(super) fn enter(
        &self,
        received: Instant,
        head: &Arc<RequestHead>,
        peer: &Arc<Peer>,
        exchange: &Arc<Exchange>,
    ) -> usize {
        let (head, peer, exchange) = (Arc::clone(head), Arc::clone(peer), Arc::clone(exchange));
        let row = Some(Row { received, head, peer, exchange });
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = table.free.pop()
            && let Some(free) = table.rows.get_mut(index)
        {
            *free = row;
            return index;
        }
        table.rows.push(row);
        table.rows.len() - 1
    }

    pub(super) fn leave(&self, index: usize) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.free.push(index);
        let left = table.rows.get_mut(index).and_then(Option::take);
        if table.free.len() == table.rows.len() && table.free.len() >= SPARE_MIN {
            // Gives back the memory of a peak.
            *table = ServingTable::default();
        }
        drop(table);
        drop(left);
    }

    /// Returns how many requests are being served.
    pub fn len(&self) -> usize {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.rows.len() - table.free.len()
    }

    /// Returns whether no request is being served.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns all requests, the oldest first.
    pub fn all(&self) -> Vec<Served> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = table.rows.iter().flatten().map(Row::served).collect();
        drop(table);
        all.sort_by_key(|served| served.received);
        all
    }

    /// Returns the oldest request.
    pub fn oldest(&self) -> Option<Served> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.rows.iter().flatten().min_by_key(|row| row.received).map(Row::served)
    }

    /// Returns how many of the requests the handler works on.
    pub fn handled(&self) -> usize {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.rows.iter().flatten().filter(|row| row.exchange.stage() != Stage::Sending).count()
    }
}

impl fmt::Display for Serving {
    /// Writes one line per request, the oldest first. A line break precedes each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all().iter().try_for_each(|served| write!(f, "\n  {served}"))
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
        let peer = Arc::new(Peer { remote: None, local: Arc::new(Local::Unix(PathBuf::from("s"))) });
        let (serving, exchange, now) = (Serving::default(), exchange(), Instant::now());
        let enter = || serving.enter(now, &head, &peer, &exchange);
        let crowd: Vec<_> = (0..=SPARE_MIN).map(|_| enter()).collect();
        let (last, others) = crowd.split_last().unwrap();
        for row in others {
            serving.leave(*row);
        }
        assert_eq!(serving.len(), 1);
        assert_eq!(enter(), SPARE_MIN - 1, "a free row is used again");
        serving.leave(SPARE_MIN - 1);
        serving.leave(*last);
        assert!(serving.is_empty());
        assert_eq!(serving.0.lock().unwrap().rows.capacity(), 0);
        assert_eq!((Arc::strong_count(&head), Arc::strong_count(&exchange)), (1, 1));
    }

    #[test]
    fn oldest_request_comes_first() {
        let limits = Limits { request_line_bytes_max: 100, fields_max: 1, field_bytes_max: 100, head_bytes_max: 200 };
        let head = |line: &str| {
            Arc::new(RequestHead::parse(format!("GET /{line} HTTP/1.0\r\n\r\n").as_bytes(), &limits).unwrap())
        };
        let peer = Arc::new(Peer { remote: None, local: Arc::new(Local::Unix(PathBuf::from("s"))) });
        let (serving, exchange, now) = (Serving::default(), exchange(), Instant::now());
        for (line, age) in [("new", 1), ("old", 3), ("middle", 2)] {
            serving.enter(now.checked_sub(Duration::from_secs(age)).unwrap(), &head(line), &peer, &exchange);
        }
        let text = serving.to_string();
        let lines: Vec<_> = text.lines().skip(1).map(|line| line.rsplit("  ").next().unwrap()).collect();
        assert_eq!(lines, ["\"GET /old HTTP/1.0\"", "\"GET /middle HTTP/1.0\"", "\"GET /new HTTP/1.0\""]);
        assert!(serving.oldest().unwrap().to_string().contains("unix  waits for a thread  \"GET /old "));
        assert_eq!(serving.handled(), 3);
    }
}
