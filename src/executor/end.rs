//! The end of an executor: its threads end, and what is queued then or later still runs.
//!
//! *Runs on*: the plain thread that shuts the executor down, and any thread that queues work. *Invariants*: work that has
//! begun, such as a response that was suspended, is not dropped: its objects are to be closed, which needs the GIL. After
//! the last thread of a closed executor has ended, one more thread runs what is queued, and ends again. If Python is going
//! down or no thread can be started, the work is dropped.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::threads::Assignment;
use super::{Executor, Shared, Task};
use crate::sys;

impl<C: Task> Executor<C> {
    /// Ends the threads and the monitor. Waits at most `timeout` for their end, and returns whether all have ended. A
    /// thread whose call still runs ends after the call. What is queued is run first. (Plain thread, without the GIL.)
    pub fn shut_down(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        self.close();
        loop {
            self.shared.threads.end_resting(Duration::ZERO, 0);
            if self.has_ended() {
                self.shared.end();
                if !self.shared.has_last.load(Ordering::SeqCst) {
                    return true;
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.shared.threads.wait_for_change(left);
        }
    }

    /// Returns whether the threads and the monitor have ended. Joins them, which takes no time then.
    fn has_ended(&self) -> bool {
        let mut monitor = self.monitor.lock();
        let monitor_is_finished = monitor.as_ref().is_none_or(JoinHandle::is_finished);
        let Some(handles) = self.shared.threads.take_ended(monitor_is_finished) else { return false };
        for handle in handles.into_iter().chain(monitor.take()) {
            // It does not matter here whether the thread panicked.
            drop(handle.join());
        }
        true
    }

    pub(super) fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.monitor.wake();
    }
}

impl<C: Task> Shared<C> {
    /// Notes that a thread has ended, which was perhaps the last one.
    pub(super) fn note_end(self: &Arc<Self>) {
        if self.closed.load(Ordering::SeqCst) && self.threads.are_gone() {
            self.has_last.store(false, Ordering::SeqCst);
            self.end();
        }
    }

    /// Notes that all threads of the closed executor have ended.
    fn end(self: &Arc<Self>) {
        self.ended.store(true, Ordering::SeqCst);
        self.finish();
    }

    /// Has one more thread run what was queued, if the threads have ended. (Any thread.)
    pub(super) fn finish(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        if !self.ended.load(Ordering::Relaxed) || self.queue.is_empty() || self.has_last.swap(true, Ordering::SeqCst) {
            return;
        }
        // The monitor has ended, and starts none of these.
        self.monitor.take_wanted().into_iter().for_each(|assignment| self.give_up(assignment));
        self.running.rise();
        if let Err(error) = self.start_thread(Some(Assignment::Run)) {
            let error = sys::plain(&error);
            log::error!(
                "what was queued after the threads of the application had ended is dropped: no thread: {error}"
            );
            self.give_up(Assignment::Run);
            self.queue.clear();
            self.has_last.store(false, Ordering::SeqCst);
        }
    }

    /// Drops what is queued after a thread could not attach to Python, which is going down. (The thread.)
    pub(super) fn drop_if_closed(&self) {
        if self.closed.load(Ordering::SeqCst) {
            self.queue.clear();
        }
    }
}
