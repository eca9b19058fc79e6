//! The time-outs of suspended responses.
//!
//! *Owns*: a heap with the next time-out of each request, and the thread that sleeps until the first of them. *Runs on*:
//! that thread, which needs no GIL and ends when no time-out is left; `expect` on executor threads. *Invariants*: a
//! request has at most one entry that is not too late. A time-out that moves to a later time costs no new entry: the old
//! entry moves when its time comes.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Suspension;
use crate::sys::{self, Condition, Lock};

/// How long the thread stays without a time-out.
const REST: Duration = Duration::from_secs(10);

struct Entry {
    at: Instant,
    suspension: Weak<Suspension>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

struct Timeouts {
    heap: BinaryHeap<Reverse<Entry>>,
    runs: bool,
}

static TIMEOUTS: Lock<Timeouts> = Lock::new(Timeouts { heap: BinaryHeap::new(), runs: false });
static CHANGE: Condition = Condition::new();

/// Has a suspension end at this time. (Executor thread.)
///
/// # Errors
/// No thread can be started.
pub(super) fn expect(suspension: &Arc<Suspension>, at: Instant) -> std::io::Result<()> {
    let mut timeouts = TIMEOUTS.lock();
    let is_first = timeouts.heap.peek().is_none_or(|first| at < first.0.at);
    if !timeouts.runs {
        sys::start_thread_without_signals("maypole-timeouts", run)?;
        timeouts.runs = true;
    }
    timeouts.heap.push(Reverse(Entry { at, suspension: Arc::downgrade(suspension) }));
    drop(timeouts);
    if is_first {
        CHANGE.notify_all();
    }
    Ok(())
}

/// Ends suspensions whose time has come. (The thread `maypole-timeouts`.)
fn run() {
    let mut timeouts = TIMEOUTS.lock();
    loop {
        let now = Instant::now();
        match timeouts.heap.peek().map(|first| first.0.at) {
            None => {
                timeouts = CHANGE.wait_timeout_while(timeouts, REST, |timeouts| timeouts.heap.is_empty());
                if timeouts.heap.is_empty() {
                    timeouts.runs = false;
                    timeouts.heap.shrink_to_fit();
                    return;
                }
            }
            Some(at) if at > now => {
                timeouts = CHANGE.wait_timeout(timeouts, at - now);
            }
            Some(_) => {
                let Some(Reverse(entry)) = timeouts.heap.pop() else { continue };
                drop(timeouts);
                // A later time-out has taken the place of this one.
                let later = entry.suspension.upgrade().and_then(|suspension| suspension.pass(entry.at, now));
                timeouts = TIMEOUTS.lock();
                if let Some(at) = later {
                    timeouts.heap.push(Reverse(Entry { at, ..entry }));
                }
            }
        }
    }
}
