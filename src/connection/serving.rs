//! The running requests, for the table that SIGQUIT prints.
//!
//! *Owns*: a row for each request, from its permit to the last byte of its response. *Runs on*: the connections'
//! coroutines add and remove rows; any thread may read. *Invariants*: the cost of a row does not depend on their
//! number, and memory is given back when a crowd of requests has gone.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::chain::SPARE_MIN;
use crate::handler::Peer;
use crate::http::RequestHead;

/// The requests being served, for the table that a signal prints.
#[derive(Debug, Default)]
pub struct Serving(Mutex<ServingTable>);

/// Since when, which request, from where.
type ServingRow = (Instant, Arc<RequestHead>, Arc<Peer>);

#[derive(Debug, Default)]
struct ServingTable {
    rows: Vec<Option<ServingRow>>,
    free: Vec<usize>,
}

impl Serving {
    pub(super) fn enter(&self, since: Instant, head: &Arc<RequestHead>, peer: &Arc<Peer>) -> usize {
        let row = Some((since, Arc::clone(head), Arc::clone(peer)));
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
            // The memory of a crowd that has gone.
            *table = ServingTable::default();
        }
        drop(table);
        drop(left);
    }

    /// How many requests are being served.
    pub fn len(&self) -> usize {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.rows.len() - table.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Serving {
    /// A line per request, the oldest first: for how long, from where, which.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = table.rows.iter().flatten().collect();
        rows.sort_by_key(|(since, ..)| *since);
        write!(f, "{} requests are being served", rows.len())?;
        for (since, head, peer) in rows {
            let line = head.request_line().escape_ascii();
            write!(f, "\n{:>12.6} s  {}  \"{line}\"", since.elapsed().as_secs_f64(), peer.client())?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::handler::Local;
    use crate::http::Limits;

    #[test]
    fn table_of_a_crowd_that_has_gone_takes_no_memory() {
        let limits = Limits { request_line_bytes_max: 100, fields_max: 1, field_bytes_max: 100, head_bytes_max: 200 };
        let head = Arc::new(RequestHead::parse(b"GET / HTTP/1.0\r\n\r\n", &limits).unwrap());
        let peer = Arc::new(Peer { remote: None, local: Arc::new(Local::Unix(PathBuf::from("s"))) });
        let serving = Serving::default();
        let crowd: Vec<_> = (0..=SPARE_MIN).map(|_| serving.enter(Instant::now(), &head, &peer)).collect();
        let (last, others) = crowd.split_last().unwrap();
        for row in others {
            serving.leave(*row);
        }
        assert_eq!(serving.len(), 1);
        assert_eq!(serving.enter(Instant::now(), &head, &peer), SPARE_MIN - 1, "a free row is used again");
        serving.leave(SPARE_MIN - 1);
        serving.leave(*last);
        assert!(serving.is_empty());
        assert_eq!(serving.0.lock().unwrap().rows.capacity(), 0);
        assert_eq!(Arc::strong_count(&head), 1);
    }
}
