//! The stop of a server: its stage, and waiting for its end.
//!
//! *Owns*: the stage, when the drain began, and the wakers of coroutines that must notice the beginning. *Runs on*: any
//! thread or coroutine; only `wait` blocks, and only on a plain thread. *Invariants*: a stage never goes back. A count
//! that a drain waits for is changed before `note` is called, so that `wait` misses no change.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use crate::chain::Queue;
use crate::sys::{self, Condition, Lock, Waker};

/// The stages of a server's life, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The server accepts connections.
    Serving,
    /// The server accepts no more connections, and hands over each connection that becomes idle to another process.
    HandingOver,
    /// Running requests may finish; then their connections close.
    Draining,
    /// All connections are closed at once.
    Cut,
}

const SERVING: u8 = Stage::Serving as u8;
const HANDING_OVER: u8 = Stage::HandingOver as u8;
const DRAINING: u8 = Stage::Draining as u8;
const CUT: u8 = Stage::Cut as u8;

/// The stop of one server. The server, its connections, its takeovers and its handler share it.
#[derive(Debug)]
pub struct Drain {
    /// A `Stage`.
    stage: AtomicU8,
    began: OnceLock<Instant>,
    /// The wakers of coroutines that must notice the beginning.
    watchers: Lock<Queue<Waker>>,
    change: Lock<()>,
    /// Notified when a count that the drain waits for has become zero.
    changed: Condition,
}

/// Keeps a coroutine's waker in the drain. Dropping it removes the waker.
#[derive(Debug)]
pub struct Watch<'a> {
    drain: &'a Drain,
    /// The waker's index. Valid only while the waker is there.
    index: u32,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            stage: AtomicU8::new(SERVING),
            began: OnceLock::new(),
            watchers: Lock::default(),
            change: Lock::default(),
            changed: Condition::default(),
        }
    }
}

impl Drain {
    /// Begins the drain, and wakes the coroutines that watch for it. Returns false if it has begun already.
    pub fn begin(&self) -> bool {
        self.advance(SERVING, DRAINING)
    }

    /// Begins a drain that hands connections over. Returns false if a drain has begun already.
    pub fn begin_handover(&self) -> bool {
        self.advance(SERVING, HANDING_OVER)
    }

    /// Continues as a drain that closes connections, because no process receives them. Returns false unless connections
    /// were handed over until now.
    pub fn end_handover(&self) -> bool {
        self.advance(HANDING_OVER, DRAINING)
    }

    fn advance(&self, from: u8, to: u8) -> bool {
        if from == SERVING {
            self.began.get_or_init(Instant::now);
        }
        if self.stage.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return false;
        }
        // The wakers stay in the queue: each watch removes its own.
        self.watchers.lock().iter().for_each(Waker::wake_later);
        sys::flush_wakes();
        true
    }

    /// Goes on to the last stage.
    pub fn cut(&self) {
        self.begin();
        self.stage.store(CUT, Ordering::SeqCst);
    }

    /// Returns the stage.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            SERVING => Stage::Serving,
            HANDING_OVER => Stage::HandingOver,
            DRAINING => Stage::Draining,
            _ => Stage::Cut,
        }
    }

    /// Returns whether the drain has begun.
    pub fn has_begun(&self) -> bool {
        self.stage() > Stage::Serving
    }

    /// Returns whether a connection that becomes idle is closed.
    #[inline]
    pub fn closes_idle(&self) -> bool {
        self.stage.load(Ordering::SeqCst) > HANDING_OVER
    }

    /// Returns whether a connection that becomes idle is handed over to another process.
    #[inline]
    pub fn hands_over(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == HANDING_OVER
    }

    /// Returns when the drain began.
    pub fn began(&self) -> Option<Instant> {
        self.began.get().copied()
    }

    /// Has the drain wake a coroutine when it begins, and when it ends the handover. A coroutine that calls `closes_idle`
    /// afterwards, before each wait, does not miss that idle connections are closed from now on.
    pub fn watch(&self, waker: Waker) -> Watch<'_> {
        Watch { drain: self, index: self.watchers.lock().push(waker) }
    }

    /// Wakes the threads in `wait`. Call it when a count that they wait for has become zero.
    pub fn note(&self) {
        if self.has_begun() {
            // A thread that has looked at the count before its change waits by now.
            drop(self.change.lock());
            self.changed.notify_all();
        }
    }

    /// Waits until `is_over` returns true, at most until `end`. Returns whether it did. Call it once the drain has
    /// begun. (Plain thread.)
    pub fn wait(&self, end: Instant, is_over: impl Fn() -> bool) -> bool {
        let mut change = self.change.lock();
        loop {
            if is_over() {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            change = self.changed.wait_timeout(change, left);
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.drain.watchers.lock().remove(self.index);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::sys::TimerFd;

    /// Longer than any step of these tests takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn stages_follow_each_other_and_never_go_back() {
        let drain = Drain::default();
        assert_eq!((drain.stage(), drain.has_begun(), drain.began()), (Stage::Serving, false, None));
        assert!(drain.begin());
        let began = drain.began().unwrap();
        assert_eq!((drain.stage(), drain.begin()), (Stage::Draining, false));
        drain.cut();
        assert_eq!((drain.stage(), drain.begin(), drain.began()), (Stage::Cut, false, Some(began)));
        let cut = Drain::default();
        cut.cut();
        assert!(cut.began().is_some(), "a cut begins the drain");
    }

    #[test]
    fn drain_may_begin_with_a_handover_and_then_closes() {
        let drain = Drain::default();
        assert!(!drain.end_handover(), "none has begun");
        assert!(drain.begin_handover());
        assert_eq!((drain.stage(), drain.has_begun(), drain.closes_idle()), (Stage::HandingOver, true, false));
        assert!(!drain.begin() && !drain.begin_handover());
        assert!(drain.end_handover());
        assert_eq!((drain.stage(), drain.closes_idle(), drain.end_handover()), (Stage::Draining, true, false));
    }

    #[test]
    fn wait_ends_with_the_last_of_many_and_not_before() {
        for _ in 0..200 {
            let (drain, left) = (Drain::default(), AtomicUsize::new(4));
            drain.begin();
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                            drain.note();
                        }
                    });
                }
                assert!(drain.wait(Instant::now() + PATIENCE, || left.load(Ordering::SeqCst) == 0));
            });
        }
    }

    #[test]
    fn wait_that_gets_nothing_ends_at_its_deadline() {
        let drain = Drain::default();
        drain.begin();
        let end = Instant::now() + Duration::from_millis(20);
        assert!(!drain.wait(end, || false));
        assert!(Instant::now() >= end);
        assert!(!drain.wait(Instant::now(), || false), "a deadline that has passed is no wait");
        assert!(drain.wait(Instant::now(), || true), "what is over is over at any deadline");
    }

    #[test]
    fn coroutine_that_watches_is_woken_by_the_beginning_alone() {
        sys::start_runtime(64 * 1024).unwrap();
        let drain = Arc::new(Drain::default());
        let (watching, watches) = mpsc::channel();
        let (woken, wakes) = mpsc::channel();
        for _ in 0..2 {
            let (drain, watching, woken) = (Arc::clone(&drain), watching.clone(), woken.clone());
            sys::spawn(move || {
                let (_timer, waitable) = TimerFd::new().unwrap();
                let watch = drain.watch(waitable.waker());
                watching.send(()).unwrap();
                while !drain.has_begun() {
                    waitable.wait();
                }
                drop(watch);
                woken.send(()).unwrap();
            });
        }
        watches.recv_timeout(PATIENCE).unwrap();
        watches.recv_timeout(PATIENCE).unwrap();
        assert!(wakes.try_recv().is_err(), "nothing has happened");
        drain.begin();
        wakes.recv_timeout(PATIENCE).unwrap();
        wakes.recv_timeout(PATIENCE).unwrap();
        assert!(drain.watchers.lock().is_empty());
    }
}
