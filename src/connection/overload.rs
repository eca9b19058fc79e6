//! The error log's lines about requests that waited too long: at most one line a second for any number of requests, and
//! one line at the end of the overload.
//!
//! *Runs on*: coroutines; the last line on the thread that stops the server. *Invariants*: each refused request is
//! counted in exactly one of the lines per second.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use crate::handler::Handler;
use crate::metrics::Numbers;
use crate::phrase::{count, seconds};
use crate::sys::{self, Lock, TimerFd};

/// How long refusals are counted before a line reports their number.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// The overload is over after this number of intervals without a refusal.
const QUIET_INTERVALS: u32 = 3;

/// The resource that a request waited for and did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// A place in the pool.
    Permit,
    /// A thread of the application.
    Thread,
    /// A coroutine for its connection.
    Coroutine,
}

impl fmt::Display for Awaited {
    /// Writes the resource's name, which follows "no" in a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permit => "place in the pool",
            Self::Thread => "thread",
            Self::Coroutine => "coroutine",
        })
    }
}

/// Requests that were refused since the last line, and since the overload began.
#[derive(Debug, Default)]
pub(super) struct Overload(Lock<State>);

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    /// The handler's description of its threads.
    load: String,
    /// The current overload. A coroutine writes its lines.
    spell: Option<Spell>,
}

/// Numbers of requests, by the resource that they waited for.
#[derive(Debug, Default)]
struct Counts {
    permit: u64,
    thread: u64,
    coroutine: u64,
}

/// An overload, since its first refusal.
#[derive(Debug)]
struct Spell {
    began: Instant,
    last: Instant,
    refused: u64,
    /// The number of intervals without a refusal.
    quiet: u32,
    /// When the last line was written, if no coroutine could be started. Then `note_overload` writes the lines.
    by_refusals: Option<Instant>,
}

impl Counts {
    fn total(&self) -> u64 {
        self.permit + self.thread + self.coroutine
    }

    /// `30 for a place in the pool, 7 for a thread`
    fn reasons(&self) -> String {
        let reasons =
            [(self.permit, Awaited::Permit), (self.thread, Awaited::Thread), (self.coroutine, Awaited::Coroutine)];
        let reasons = reasons.into_iter().filter(|(number, _)| *number > 0);
        reasons.map(|(number, what)| format!("{number} for a {what}")).collect::<Vec<_>>().join(", ")
    }
}

impl Shared {
    /// Counts a request that is refused because its turn did not come, and makes sure that it is reported.
    pub(super) fn note_overload(self: &Arc<Self>, awaited: Awaited, handler: Option<&dyn Handler>) {
        let mut state = self.overload.0.lock();
        match awaited {
            Awaited::Permit => state.counts.permit += 1,
            Awaited::Thread => state.counts.thread += 1,
            Awaited::Coroutine => state.counts.coroutine += 1,
        }
        if let Some(handler) = handler
            && state.load.is_empty()
        {
            let mut numbers = Numbers { calls: handler.running(), ..Numbers::default() };
            handler.measure(&mut numbers);
            state.load = numbers.load();
        }
        let now = Instant::now();
        if let Some(spell) = &mut state.spell {
            spell.last = now;
            if spell.by_refusals.is_some_and(|last| now >= last + REPORT_EVERY) {
                spell.by_refusals = Some(now);
                drop(state);
                self.report_overload();
            }
            return;
        }
        state.spell = Some(Spell { began: now, last: now, refused: 0, quiet: 0, by_refusals: None });
        drop(state);
        let shared = Arc::clone(self);
        let Ok((timer, waitable)) = TimerFd::new() else {
            // There is no descriptor left for a timer.
            if let Some(spell) = &mut self.overload.0.lock().spell {
                spell.by_refusals = Some(now);
            }
            self.report_overload();
            return;
        };
        drop(sys::spawn(move || {
            loop {
                let end = Instant::now() + REPORT_EVERY;
                timer.arm(REPORT_EVERY);
                while Instant::now() < end {
                    waitable.wait();
                }
                if shared.report_overload() {
                    return;
                }
            }
        }));
    }

    /// Writes the line of an interval that has ended. Returns whether the overload is over.
    fn report_overload(&self) -> bool {
        let mut state = self.overload.0.lock();
        let (counts, load) = (std::mem::take(&mut state.counts), std::mem::take(&mut state.load));
        // The server has stopped meanwhile, and has reported the rest.
        let Some(spell) = &mut state.spell else { return true };
        spell.refused += counts.total();
        spell.quiet = if counts.total() > 0 { 0 } else { spell.quiet + 1 };
        let over = if spell.quiet >= QUIET_INTERVALS { state.spell.take() } else { None };
        drop(state);
        if counts.total() > 0 {
            self.say_overload(&counts, &load);
        }
        over.inspect(Spell::say_over).is_some()
    }

    /// Reports the rest of an overload when the server stops. (Any thread.)
    pub fn end_overload(&self) {
        let State { counts, load, spell } = std::mem::take(&mut *self.overload.0.lock());
        let Some(mut spell) = spell else { return };
        if counts.total() > 0 {
            spell.refused += counts.total();
            self.say_overload(&counts, &load);
        }
        spell.say_over();
    }

    fn say_overload(&self, counts: &Counts, load: &str) {
        let (requests, reasons) = (count(counts.total(), "request"), counts.reasons());
        let places = Numbers { permits: self.permits(), ..Numbers::default() }.places();
        let limit = self.queue_limit();
        let load = if load.is_empty() { String::new() } else { format!("; {load}") };
        let longest = self.requests.oldest().map(|oldest| format!("; the longest: {oldest}")).unwrap_or_default();
        log::warn!("overload: 503 for {requests} that waited for {limit}: {reasons}; {places}{load}{longest}");
    }
}

impl Spell {
    fn say_over(&self) {
        let time = seconds(self.last.saturating_duration_since(self.began));
        let requests = count(self.refused, "request");
        log::info!("the overload is over: it lasted {time}, and {requests} got 503");
    }
}
