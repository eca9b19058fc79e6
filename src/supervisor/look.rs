//! What the supervisor sees of workers that do not respond, and of workers that have died.
//!
//! *Owns*: how often each worker was seen without a sign of life. *Runs on*: the supervisor's thread. *Invariants*: a
//! long request alone is no reason: both ticks of its worker go on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::phrase::{count, excerpt, seconds};
use crate::scoreboard::{Inside, Slot, State};
use crate::sys;
use crate::systemd::Condition;

/// The time between two looks at the workers.
const EVERY: Duration = Duration::from_secs(1);
/// A worker is stuck if this many looks in a row find it so. After a pause of the whole machine, one look finds every
/// tick old.
const LOOKS: u32 = 3;
/// The most requests that a crash report lists.
const LISTED_MAX: usize = 20;
/// The most workers whose processes the line names that says that the service listens.
const NAMED_MAX: usize = 16;

/// The looks at the workers.
pub(super) struct Looks {
    next: Instant,
    /// How many looks in a row have found the worker of a slot stuck.
    stuck: BTreeMap<usize, u32>,
    /// How many processes the kernel has killed because the memory of the control group ran out.
    killed: Option<u64>,
}

impl Looks {
    /// Begins to look at `now`.
    pub(super) fn begin(now: Instant) -> Self {
        Self { next: now + EVERY, stuck: BTreeMap::new(), killed: sys::out_of_memory_kills() }
    }

    /// Returns when the next look is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Looks at the workers if it is time. Returns the slots of workers that have not responded for `limit`, each with a
    /// sentence that says so. A limit of zero is none.
    pub(super) fn look(
        &mut self,
        slots: impl Iterator<Item = Slot>,
        limit: Duration,
        now: Instant,
    ) -> Vec<(usize, String)> {
        if now < self.next {
            return Vec::new();
        }
        self.next = now + EVERY;
        let mut found = Vec::new();
        for slot in slots {
            let index = slot.index();
            match unresponsive(&slot, limit) {
                Some(reason) if *self.stuck.entry(index).and_modify(|looks| *looks += 1).or_insert(1) >= LOOKS => {
                    self.stuck.remove(&index);
                    found.push((index, reason));
                }
                Some(_) => {}
                None => drop(self.stuck.remove(&index)),
            }
        }
        found
    }

    /// Returns whether the kernel has killed a process for want of memory since the last time that this was asked.
    pub(super) fn memory_ran_out(&mut self) -> bool {
        let killed = sys::out_of_memory_kills();
        std::mem::replace(&mut self.killed, killed) < killed
    }
}

/// Returns why a worker is taken for stuck, if it is.
fn unresponsive(slot: &Slot, limit: Duration) -> Option<String> {
    if limit.is_zero() || slot.state() != State::Serving {
        return None;
    }
    let is_late = |time: &Duration| *time >= limit;
    if let Some(time) = slot.gil_sought().filter(is_late) {
        return Some(format!("a thread has kept the GIL for {} while calls wait", seconds(time)));
    }
    let time = slot.runtime_tick().filter(is_late)?;
    Some(format!("its coroutines have stood still for {}", seconds(time)))
}

/// Returns a phrase for the workers that serve, in the order of their numbers: `2 workers (pid 4712, 4713)`. If not all
/// that are `wanted` serve: `1 of 2 workers (pid 4712)`.
pub(super) fn workers(slots: impl Iterator<Item = Slot>, wanted: usize) -> String {
    let serving =
        slots.filter(|slot| slot.state() == State::Serving).map(|slot| (slot.number(), slot.pid().to_string()));
    let serving: BTreeMap<usize, String> = serving.collect();
    let all = count(wanted, "worker");
    let shown = if serving.len() < wanted { format!("{} of {all}", serving.len()) } else { all };
    if serving.is_empty() || serving.len() > NAMED_MAX {
        return shown;
    }
    format!("{shown} (pid {})", serving.into_values().collect::<Vec<_>>().join(", "))
}

/// Returns what systemd is told of workers. `wanted` is how many are to serve.
pub(super) fn condition(slots: &[Slot], wanted: usize) -> Condition {
    let serving: Vec<_> = slots.iter().filter(|slot| slot.state() == State::Serving).collect();
    let requests = slots.iter().map(Slot::requests).sum::<usize>();
    let begun: u64 = slots.iter().map(Slot::begun).sum();
    let (workers, served) = (count(wanted, "worker"), count(begun, "request"));
    let status =
        format!("{} of {workers} serving, {} running, {served} begun", serving.len(), count(requests, "request"));
    // An operator who has stopped all workers does not want systemd to restart the service.
    let responds = wanted == 0 || serving.iter().any(|slot| slot.responds());
    Condition { status, responds }
}

/// Returns the end of a sentence that lists the requests that a worker was serving.
pub(super) fn requests_lost(inside: &[Inside]) -> String {
    if inside.is_empty() {
        return "; no request was inside".to_owned();
    }
    let listed = inside.iter().take(LISTED_MAX).map(|request| {
        let (line, age, thread) = (excerpt(&request.line), seconds(request.age), request.thread);
        let id = if request.id.is_empty() { String::new() } else { format!(", request {}", excerpt(&request.id)) };
        format!("\n  {line} (for {age}, thread {thread}{id})")
    });
    let more = match inside.len().saturating_sub(LISTED_MAX) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    format!("; {} inside:{}{more}", was_lost(inside.len()), listed.collect::<String>())
}

/// `1 request was`, `2 requests were`
fn was_lost(requests: usize) -> String {
    format!("{} {}", count(requests, "request"), if requests == 1 { "was" } else { "were" })
}
