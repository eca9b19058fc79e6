//! Runs calls, in groups that begin and end together.
//!
//! *Runs on*: the executor's threads.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use pyo3::Python;

use super::policy::{self, Pause};
use super::queue::Turn;
use super::{Ran, Runner, Shared, Task};
use crate::sys;

impl<C: Task> Shared<C> {
    /// Pauses the runtime of a process with one processor, so that threads can run a part of the queued calls. (The
    /// runtime's thread.)
    pub(super) fn give_way(&self) {
        let average = self.average_nanos.load(Ordering::Relaxed);
        match policy::pause(self.queue.len(), average, self.running.value()) {
            Pause::None => {}
            Pause::Yield => thread::yield_now(),
            Pause::Sleep(time) => thread::sleep(time),
        }
    }

    /// Runs calls until the queue is empty, or until this thread is one too many. Returns false if the thread was given
    /// up meanwhile.
    pub(super) fn work(self: &Arc<Self>, py: Python<'_>, runner: &mut dyn Runner<C>) -> bool {
        let mut turn = Turn::default();
        let Some(mut call) = self.queue.pop(&mut turn) else { return true };
        self.start_more();
        let mut clock = Instant::now();
        let mut batch_began = clock;
        let mut batch = 0_u32;
        loop {
            let ran = panic::catch_unwind(AssertUnwindSafe(|| runner.run(py, call, &mut clock))).unwrap_or_else(|_| {
                log::error!("a call ended by a panic; this is a defect of the server");
                Ran::Ended
            });
            if ran == Ran::GivenUp {
                sys::flush_wakes();
                // The length of this call says nothing about the next one.
                self.completed.add(u64::from(batch));
                return false;
            }
            batch += u32::from(ran == Ran::Ended);
            if u64::from(batch) >= self.group() {
                sys::flush_wakes();
                self.account(&mut batch, &mut batch_began);
                clock = batch_began;
            }
            if policy::rests(self.retire.load(Ordering::Relaxed), self.running.value())
                && self.retire.swap(false, Ordering::Relaxed)
            {
                break;
            }
            let Some(next) = self.queue.pop(&mut turn) else { break };
            call = next;
        }
        sys::flush_wakes();
        if batch > 0 {
            self.account(&mut batch, &mut batch_began);
        }
        true
    }

    /// Returns how many calls form a group: they start together, and their responses are sent together.
    pub(super) fn group(&self) -> u64 {
        policy::group(self.average_nanos.load(Ordering::Relaxed))
    }

    /// Counts the calls that have ended, and updates the average.
    fn account(&self, batch: &mut u32, began: &mut Instant) {
        let now = Instant::now();
        let nanos = u64::try_from(now.duration_since(*began).as_nanos()).unwrap_or(u64::MAX) / u64::from(*batch);
        let average = policy::moving_average(self.average_nanos.load(Ordering::Relaxed), nanos);
        self.average_nanos.store(average, Ordering::Relaxed);
        self.completed.add(u64::from(*batch));
        *batch = 0;
        *began = now;
    }
}
