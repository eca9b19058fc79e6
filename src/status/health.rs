//! Whether the service lives, and whether it can take requests: `/livez` and `/readyz`.
//!
//! *Owns*: nothing. *Runs on*: the connection's thread. *Invariants*: the verdict follows from memory, so a probe never
//! waits.

use std::time::Duration;

use super::routes::Reply;
use super::{Service, Shared, Stage};
use crate::phrase::{count, seconds};
use crate::scoreboard::{Slot, State};

/// The share of the last seconds in which calls must have waited for a service to count as saturated.
const SATURATED: f64 = 0.95;

/// Returns the time for which a process cannot run Python, or its coroutines stand still, if it cannot serve now.
pub(super) fn stuck_for(slot: &Slot) -> Option<Duration> {
    // The tick of the coroutines comes once a second.
    let stands = slot.runtime_tick().filter(|age| *age > Duration::from_secs(2));
    let waits = slot.gil_sought().filter(|_| slot.is_stuck());
    stands.max(waits)
}

/// `/livez`: fails if only a restart helps. A supervisor replaces workers that are stuck, so it lives.
pub(super) fn livez(shared: &Shared) -> Reply {
    let Service { has_workers, stuck_max, .. } = shared.service;
    let overdue = shared.processes.slots().map(|slot| slot.meters().numbers().threads_overdue).max();
    if let Some(overdue) = overdue.filter(|overdue| !has_workers && *overdue > 0) {
        let calls = count(overdue, "call");
        return Reply::text(503, &format!("stuck: {calls} past --request-timeout cannot be given up any more\n"));
    }
    let stuck =
        shared.processes.slots().filter(|slot| slot.state() != State::Empty).filter_map(|slot| stuck_for(&slot));
    match stuck.max().filter(|time| !has_workers && !stuck_max.is_zero() && *time >= stuck_max) {
        Some(time) => {
            Reply::text(503, &format!("stuck: no request has moved for {} (--worker-timeout)\n", seconds(time)))
        }
        None => Reply::text(200, "alive\n"),
    }
}

/// `/readyz`: fails unless the service can take requests. `is_strict` also fails if it is saturated.
pub(super) fn readyz(shared: &Shared, is_strict: bool) -> Reply {
    match shared.source.stage() {
        Stage::Starting => return Reply::text(503, "starting: the application is being imported\n"),
        Stage::Draining => {
            return Reply::text(503, "draining: no process accepts requests any more (maypole drain, SIGWINCH)\n");
        }
        Stage::Stopping => return Reply::text(503, "draining: the service stops\n"),
        Stage::Serving => {}
    }
    let serving: Vec<Slot> = shared.processes.slots().filter(|slot| slot.state() == State::Serving).collect();
    let stuck = serving.iter().filter_map(stuck_for).collect::<Vec<_>>();
    if let Some(longest) = stuck.iter().max().filter(|_| stuck.len() == serving.len()) {
        let stuck = seconds(*longest);
        return Reply::text(503, &format!("stuck: no process has run Python for {stuck}; maypole dump shows why\n"));
    }
    if serving.is_empty() {
        return Reply::text(503, "starting: no worker serves\n");
    }
    let saturation = shared.saturation();
    if saturation >= SATURATED {
        let status = if is_strict { 503 } else { 200 };
        let sentence = format!("saturated: calls have waited in {:.0} % of the last seconds\n", saturation * 100.0);
        return Reply::text(status, &sentence);
    }
    let free = serving.len() - stuck.len();
    Reply::text(200, &format!("ready: {} of {} can take requests\n", free, count(serving.len(), "process")))
}
