//! The number of bytes in all temporary files on one file system, and the bodies that wait for space.
//!
//! *Owns*: one count for each file system and process. Servers that share a directory share its count, each with its
//! own limit. *Runs on*: any thread; waits only for a short lock. *Invariants*: counted bytes are given back when their
//! file is removed. Only the first waiting body may take space: bodies get it in the order in which they began to wait.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crate::sys::{Lock, Waker};

/// The count of one file system.
#[derive(Debug)]
pub(super) struct Ledger {
    state: Lock<State>,
    /// How many bodies wait. If it is 0, giving memory back takes no lock.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    waiters: VecDeque<(u64, Waker)>,
    last_number: u64,
    /// Whether one of the waiting bodies already holds space.
    holder_waits: bool,
}

/// A body's wait for space. Dropping it ends the wait, and the next body is the first.
#[derive(Debug)]
pub struct SpaceWait {
    ledger: Arc<Ledger>,
    number: u64,
    holds: bool,
}

impl Ledger {
    /// Returns the count of a file system, by its device number (`st_dev`, stat(2)).
    pub(super) fn of_device(device: u64) -> Arc<Self> {
        static KNOWN: Lock<Vec<(u64, Weak<Ledger>)>> = Lock::new(Vec::new());
        let mut known = KNOWN.lock();
        known.retain(|(_, ledger)| ledger.strong_count() > 0);
        let found = known.iter().find(|(other, _)| *other == device).and_then(|(_, ledger)| ledger.upgrade());
        found.unwrap_or_else(|| {
            let ledger = Self::new();
            known.push((device, Arc::downgrade(&ledger)));
            ledger
        })
    }

    /// Makes a count that no other storage shares.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Lock::default(), waiting: AtomicUsize::new(0) })
    }

    /// Takes room for this number of bytes within `limit`. Returns false if there is not enough, or if other bodies
    /// wait and `wait` is not the first of them.
    pub(super) fn take(&self, bytes: u64, limit: u64, wait: Option<&SpaceWait>) -> bool {
        let mut state = self.state.lock();
        let first = state.waiters.front().map(|(number, _)| *number);
        if first.is_some() && first != wait.map(|wait| wait.number) {
            return false;
        }
        let fits = state.used.checked_add(bytes).is_some_and(|used| used <= limit);
        if fits {
            state.used += bytes;
        }
        fits
    }

    /// Gives room back, and wakes the body that has waited longest.
    pub(super) fn give_back(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut state = self.state.lock();
        state.used = state.used.saturating_sub(bytes);
        let first = state.waiters.front().map(|(_, waker)| waker.clone());
        drop(state);
        if let Some(waker) = first {
            waker.wake_now();
        }
    }

    /// Wakes the body that has waited longest, because something other than space has become free.
    pub(super) fn wake_first(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            let first = self.state.lock().waiters.front().map(|(_, waker)| waker.clone());
            if let Some(waker) = first {
                waker.wake_now();
            }
        }
    }

    /// Begins to wait. `holds` says whether the body already holds room. Such a body goes first. Only one may wait,
    /// because two would wait for each other. Returns `None` if another such body waits.
    pub(super) fn enter(self: &Arc<Self>, waker: Waker, holds: bool) -> Option<SpaceWait> {
        let mut state = self.state.lock();
        if holds && state.holder_waits {
            return None;
        }
        state.last_number += 1;
        let number = state.last_number;
        if holds {
            state.holder_waits = true;
            state.waiters.push_front((number, waker));
        } else {
            state.waiters.push_back((number, waker));
        }
        self.waiting.store(state.waiters.len(), Ordering::Relaxed);
        Some(SpaceWait { ledger: Arc::clone(self), number, holds })
    }

    /// Returns how many bytes are taken.
    pub(super) fn used(&self) -> u64 {
        self.state.lock().used
    }
}

impl Drop for SpaceWait {
    fn drop(&mut self) {
        let mut state = self.ledger.state.lock();
        state.waiters.retain(|(number, _)| *number != self.number);
        if self.holds {
            state.holder_waits = false;
        }
        self.ledger.waiting.store(state.waiters.len(), Ordering::Relaxed);
        let first = state.waiters.front().map(|(_, waker)| waker.clone());
        drop(state);
        if let Some(waker) = first {
            waker.wake_now();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::sys::{self, Waitable};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn waker() -> (Waitable, Waker) {
        sys::start_runtime(64 * 1024).unwrap();
        let waitable = Waitable::new(OwnedFd::from(UnixStream::pair().unwrap().0)).unwrap();
        let waker = waitable.waker();
        (waitable, waker)
    }

    #[test]
    fn room_is_taken_up_to_the_limit_and_comes_back() {
        let ledger = Ledger::new();
        assert!(ledger.take(60, 100, None));
        assert!(!ledger.take(41, 100, None));
        assert!(ledger.take(40, 100, None) && ledger.take(1, 101, None), "each server has a limit of its own");
        ledger.give_back(100);
        assert_eq!(ledger.used(), 1);
        assert!(!ledger.take(u64::MAX, u64::MAX, None), "a sum that overflows does not fit");
    }

    #[test]
    fn servers_on_one_device_share_its_count() {
        let (one, two) = (Ledger::of_device(u64::MAX), Ledger::of_device(u64::MAX));
        assert!(one.take(60, 100, None));
        assert!(!two.take(60, 100, None) && Ledger::of_device(u64::MAX - 1).take(60, 100, None));
        drop((one, two));
        assert_eq!(Ledger::of_device(u64::MAX).used(), 0, "the count goes with its last server");
    }

    #[test]
    fn first_waiter_takes_before_all_others() {
        let ledger = Ledger::new();
        let (_waitable, waker) = waker();
        let first = ledger.enter(waker.clone(), false).unwrap();
        let second = ledger.enter(waker, false).unwrap();
        assert!(!ledger.take(1, 100, None) && !ledger.take(1, 100, Some(&second)));
        assert!(ledger.take(1, 100, Some(&first)));
        drop(first);
        assert!(ledger.take(1, 100, Some(&second)));
        drop(second);
        assert!(ledger.take(1, 100, None));
    }

    #[test]
    fn only_one_that_holds_room_may_wait_for_more() {
        let ledger = Ledger::new();
        let (_waitable, waker) = waker();
        let empty = ledger.enter(waker.clone(), false).unwrap();
        let holder = ledger.enter(waker.clone(), true).unwrap();
        assert!(ledger.enter(waker.clone(), true).is_none());
        assert!(!ledger.take(1, 100, Some(&empty)) && ledger.take(1, 100, Some(&holder)), "it goes first");
        drop(holder);
        assert!(ledger.take(1, 100, Some(&empty)) && ledger.enter(waker, true).is_some());
    }
}
