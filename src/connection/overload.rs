//! What the error log says of requests that waited too long for their turn: one line a second, however many there are.
//!
//! *Runs on*: coroutines. *Invariants*: each of those requests is counted in exactly one line.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use crate::config::duration_text;
use crate::handler::Handler;
use crate::sys::{self, TimerFd};

/// How long refusals are counted before the line that names their number.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What a request waited for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// Its place in the pool.
    Permit,
    /// A thread of the application.
    Thread,
    /// A coroutine for its connection.
    Coroutine,
}

/// Requests that were refused since the last line.
#[derive(Debug, Default)]
pub(super) struct Overload(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    permit: u64,
    thread: u64,
    coroutine: u64,
    /// What the handler said of its threads.
    load: String,
    /// A coroutine is going to write the line.
    scheduled: bool,
}

impl Overload {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Counts a request that is refused because its turn did not come, and has that reported.
    pub(super) fn note_overload(self: &Arc<Self>, awaited: Awaited, handler: Option<&dyn Handler>) {
        let mut counts = self.overload.lock();
        match awaited {
            Awaited::Permit => counts.permit += 1,
            Awaited::Thread => counts.thread += 1,
            Awaited::Coroutine => counts.coroutine += 1,
        }
        if let Some(handler) = handler
            && counts.load.is_empty()
        {
            counts.load = handler.load();
        }
        if std::mem::replace(&mut counts.scheduled, true) {
            return;
        }
        drop(counts);
        let shared = Arc::clone(self);
        match TimerFd::new() {
            Ok((timer, waitable)) => drop(sys::spawn(move || {
                let end = Instant::now() + REPORT_EVERY;
                timer.arm(REPORT_EVERY);
                while Instant::now() < end {
                    waitable.wait();
                }
                shared.report_overload();
            })),
            // No descriptor is left to wait with: the line names what there is.
            Err(_) => shared.report_overload(),
        }
    }

    fn report_overload(&self) {
        let Counts { permit, thread, coroutine, load, .. } = std::mem::take(&mut *self.overload.lock());
        let limit = duration_text(self.queue_timeout);
        if permit > 0 {
            let (taken, size) = (self.pool.taken(), self.pool.size());
            log::warn!(
                "503 for {permit} requests: no place in the pool became free within {limit} (--queue-timeout); {taken} of \
                 {size} places are taken (--pool-size)"
            );
        }
        if coroutine > 0 {
            log::warn!(
                "503 for {coroutine} requests: their connections got no coroutine within {limit} (--queue-timeout), \
                 because as many as the process may have are busy"
            );
        }
        if thread > 0 {
            log::warn!("503 for {thread} requests: no thread began them within {limit} (--queue-timeout); {load}");
        }
    }
}
