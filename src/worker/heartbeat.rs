//! The heartbeat of a worker: shows the supervisor whether a thread can get the GIL, and what the worker has done, and
//! asks for a replacement when it is time. It also tells the executor how many workers share the processors.
//!
//! *Owns*: the tick of the GIL. *Runs on*: one plain thread, which waits for the GIL only while calls wait or run.
//! *Invariants*: a long call alone does not stop the tick, but a thread that keeps the GIL does. Calls that end prove
//! that the GIL moves, so the thread asks for it only if none has ended.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::place::Place;
use super::recycling::Recycling;
use crate::config::Config;
use crate::executor::{self, gate};
use crate::instance::Instance;
use crate::scoreboard::Slot;
use crate::sys;

/// The time between two looks while no call waits or runs.
const REST: Duration = Duration::from_secs(1);
/// The time between two looks while calls wait or run. A worker that keeps its GIL gets no new connection about this
/// time later.
const EVERY: Duration = Duration::from_millis(100);

/// The state of the thread.
struct Heartbeat {
    slot: Slot,
    instance: Arc<Instance>,
    /// The worker's place, and when to ask for a replacement. `None`: there is no supervisor.
    recycling: Option<(Arc<Place>, Recycling)>,
    /// How many calls had ended at the last look.
    ended: u64,
}

/// Starts the thread. It shows in `slot` what the process does.
///
/// # Errors
/// There is no thread left.
pub(super) fn start(
    slot: Slot,
    place: Option<&Arc<Place>>,
    config: &Config,
    instance: &Arc<Instance>,
) -> anyhow::Result<()> {
    let recycling = place.map(|place| (Arc::clone(place), Recycling::begin(config, Instant::now())));
    let mut heartbeat = Heartbeat { slot, instance: Arc::clone(instance), recycling, ended: 0 };
    let thread = sys::start_thread_without_signals("maypole-heartbeat", move || heartbeat.run());
    thread.map(drop).context("cannot start the thread of the heartbeat")
}

impl Heartbeat {
    /// Looks until Python ends.
    fn run(&mut self) {
        while let Some(pause) = self.look() {
            thread::sleep(pause);
        }
    }

    /// Records what the worker does. Returns the time until the next look. `None`: Python is ending.
    fn look(&mut self) -> Option<Duration> {
        let (slot, numbers) = (&self.slot, self.instance.server().show());
        slot.set_calls(numbers.calls);
        slot.set_begun(numbers.served);
        executor::share_processors(slot.scoreboard().serving());
        if let Some((place, recycling)) = &mut self.recycling
            && let Some((cause, reason)) = recycling.due(numbers.served, numbers.threads_overdue, Instant::now())
        {
            place.say_replace(cause, reason);
        }
        if numbers.calls == 0 {
            return Some(REST);
        }
        let ended = numbers.served.saturating_sub(numbers.calls as u64);
        if std::mem::replace(&mut self.ended, ended) == ended {
            slot.seek_gil();
            gate::attach(|_| ())?;
        }
        slot.tick_gil();
        Some(EVERY)
    }
}
