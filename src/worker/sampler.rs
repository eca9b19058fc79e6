//! Looks again and again at requests that take long, so that the log can say where their time went (`--slow-request`).
//!
//! *Owns*: when to look next. *Runs on*: one plain thread, which exists only with the setting and never waits for the
//! GIL. *Invariants*: a request that is not slow yet is never looked at. While none is slow, the thread sleeps until one
//! can be.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::inspector::Inspector;
use crate::config::duration_text;
use crate::instance::Instance;
use crate::phrase::{excerpt, seconds};
use crate::requests::{Snapshot, Stage};
use crate::sys;

/// The most requests whose code is read at once.
const READ_MAX: usize = 32;
/// The bounds of the time between two looks at a slow request.
const STEP_MIN: Duration = Duration::from_millis(20);
const STEP_MAX: Duration = Duration::from_secs(1);
/// A slow request is looked at this often in the time that makes it slow.
const LOOKS: u32 = 20;
/// A request that takes this many times the limit is logged before it ends.
const LONG: u32 = 10;
/// The time after which the code is read again while no thread gets the GIL. Each reading copies the process.
const COPY_EVERY: Duration = Duration::from_secs(2);

struct Sampler {
    instance: Arc<Instance>,
    inspector: Arc<Inspector>,
    limit: Duration,
    next_copy: Instant,
}

/// Starts the thread if the settings ask for it.
///
/// # Errors
/// There is no thread left.
pub(super) fn start(instance: &Arc<Instance>, inspector: &Arc<Inspector>) -> anyhow::Result<()> {
    let Some(limit) = instance.server().slow().limit() else { return Ok(()) };
    let (instance, inspector) = (Arc::clone(instance), Arc::clone(inspector));
    let mut sampler = Sampler { instance, inspector, limit, next_copy: Instant::now() };
    let run = move || {
        while !sampler.instance.is_stopping() {
            let pause = sampler.look();
            thread::sleep(pause);
        }
    };
    let thread = sys::start_thread_without_signals("maypole-samples", run);
    thread.map(drop).context("cannot start the thread that looks at slow requests")
}

impl Sampler {
    /// Looks at all slow requests. Returns the time until the next look.
    fn look(&mut self) -> Duration {
        let now = Instant::now();
        let requests = self.instance.server().requests();
        let (slow, quick): (Vec<_>, Vec<_>) = requests.into_iter().partition(|request| age(request, now) >= self.limit);
        self.instance.server().slow().keep_samples(&slow.iter().map(|request| &request.head).collect::<Vec<_>>());
        // The oldest comes first, so the newest of the slow ones comes last: it has the fewest samples.
        let runs =
            |request: &Snapshot| request.stage == Stage::Running && !request.is_taken_over && !request.was_suspended;
        let running = slow.into_iter().rev().filter(runs);
        let running: Vec<_> = running.take(READ_MAX).collect();
        let step = running.first().map(|newest| self.step(age(newest, now)));
        if !running.is_empty() {
            self.sample(&running, now);
        }
        let next = quick.first().map_or(self.limit, |oldest| self.limit.saturating_sub(age(oldest, now)));
        step.map_or(next, |step| next.min(step)).max(STEP_MIN)
    }

    /// Returns the time until the next look at a request of this age.
    fn step(&self, age: Duration) -> Duration {
        (age.max(self.limit) / LOOKS).clamp(STEP_MIN, STEP_MAX)
    }

    fn sample(&mut self, running: &[Snapshot], now: Instant) {
        let may_copy = now >= self.next_copy;
        if may_copy {
            self.next_copy = now + COPY_EVERY;
        }
        let records = self.instance.server().slow();
        for (request, frame) in self.inspector.code_of(running.to_vec(), may_copy) {
            // Another thread may have begun a request since, which is not slow.
            if running.iter().any(|known| Arc::ptr_eq(&known.head, &request.head)) {
                records.sample(&request.head, frame);
            }
        }
        for request in running.iter().filter(|request| age(request, now) >= self.limit * LONG) {
            if let Some(mostly) = records.say_once(&request.head) {
                let (line, client) = (excerpt(request.head.request_line()), request.origin.client_name());
                let (time, limit) = (seconds(age(request, now)), duration_text(self.limit));
                let id = request.head.id_text();
                log::warn!("{line}{id} of {client} has run for {time} and goes on (--slow-request {limit}): {mostly}");
            }
        }
    }
}

fn age(request: &Snapshot, now: Instant) -> Duration {
    now.saturating_duration_since(request.received)
}
