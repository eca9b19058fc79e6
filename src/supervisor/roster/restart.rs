//! The restart of all workers after a change of the application's files: `--reload`.
//!
//! *Runs on*: the supervisor's thread. *Invariants*: the next worker starts when the old one has ended. So a client that
//! asks meanwhile waits for the new code, and the new process finds ports and locks of the old one free.

use std::time::{Duration, Instant};

use log::Level;

use super::{Roster, Stage};
use crate::phrase::count;
use crate::supervisor::orders::Order;

/// After the limit of its stop, a worker has this long for the end of Python before it is killed. Threads that do not
/// end must not delay a restart.
const END_OF_PYTHON: Duration = Duration::from_secs(1);

impl Roster {
    /// Stops all workers because the one in `slot` has found changed files. A worker that is stopped already may report
    /// the same change: its report is ignored.
    pub(super) fn restart(&mut self, slot: usize, file: &str, now: Instant) {
        let runs = |stage: &Stage| matches!(stage, Stage::Starting | Stage::Serving);
        if self.ending.is_some() || !self.workers.iter().any(|worker| worker.slot == slot && runs(&worker.stage)) {
            return;
        }
        let running = self.workers.iter().filter(|worker| runs(&worker.stage));
        let running: Vec<(usize, Stage)> = running.map(|worker| (worker.slot, worker.stage.clone())).collect();
        let workers = count(running.len(), "worker");
        self.say(Level::Info, format!("{file} has changed: restarting {workers} (--reload)"));
        self.put_roll_off();
        self.pauses.clear();
        let end = now + self.limits.stop + END_OF_PYTHON;
        for (slot, stage) in running {
            let cause = "--reload".to_owned();
            let is_starting = stage == Stage::Starting;
            self.orders.push(if is_starting { Order::Terminate { slot } } else { Order::Stop { slot, cause } });
            if let Some(worker) = self.worker(slot) {
                worker.stage = Stage::Restarting(end);
            }
        }
    }
}
