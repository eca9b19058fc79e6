//! Permits, which limit how many requests are served at once. A request waits for a permit until its deadline.
//!
//! *Owns*: the count of free permits and the waiting requests. *Runs on*: `try_acquire`, `enter` and `claim` on
//! coroutines; a permit may be dropped on any thread. Only `wait_all` blocks; a waiting request is woken by its
//! waker. *Invariants*: no permit is free while a request waits; a free permit goes to the request that has waited
//! longest. Several servers may share a pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::chain::Queue;
use crate::metrics::Permits;
use crate::sys::{self, Condition, Lock, Waker};

/// The permits of a server.
#[derive(Debug)]
pub struct Pool {
    state: Lock<State>,
    /// Notified when the last taken permit is returned.
    quiet: Condition,
}

#[derive(Debug)]
struct State {
    size: usize,
    taken: usize,
    waiters: Queue<Arc<Waiter>>,
    /// How many threads wait until no permit is taken.
    awaiting_all: usize,
}

/// A request's wait for a permit. Dropping it ends the wait.
#[derive(Debug)]
pub struct Wait {
    waiter: Arc<Waiter>,
    /// The index among the waiters. Valid only while the state is `Waiting`.
    index: u32,
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Waiter {
    waker: Waker,
    state: Lock<WaiterState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaiterState {
    Waiting,
    Granted,
    Over,
}

/// The right to have one request served. Dropping it passes it to the request that has waited longest.
#[derive(Debug)]
pub struct Permit {
    pool: Arc<Pool>,
}

impl Pool {
    /// Returns a pool of `size` permits.
    pub fn new(size: usize) -> Arc<Self> {
        let state = Lock::new(State { size, taken: 0, waiters: Queue::default(), awaiting_all: 0 });
        Arc::new(Self { state, quiet: Condition::default() })
    }

    /// Returns the number of all permits, free and taken.
    pub fn size(&self) -> usize {
        self.state.lock().size
    }

    /// Changes the number of permits. With 0, no request gets a permit until the number grows again. Taken permits stay
    /// valid.
    pub fn resize(&self, size: usize) {
        let mut state = self.state.lock();
        state.size = size;
        while state.taken < state.size {
            let Some(waiter) = state.waiters.pop() else { break };
            if waiter.exchange(WaiterState::Waiting, WaiterState::Granted) {
                state.taken += 1;
                waiter.waker.wake_later();
            }
        }
        drop(state);
        sys::flush_wakes();
    }

    /// Waits until no permit is taken, at most for `timeout`. Returns whether none is taken. (Plain thread, without the
    /// GIL.)
    pub fn wait_all(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let mut state = self.state.lock();
        state.awaiting_all += 1;
        while state.taken > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.quiet.wait_timeout(state, left);
        }
        state.awaiting_all -= 1;
        state.taken == 0
    }

    /// Returns the numbers of all permits.
    pub fn permits(&self) -> Permits {
        let state = self.state.lock();
        Permits { size: state.size, taken: state.taken, waiting: state.waiters.len() }
    }

    /// Returns the number of taken permits.
    pub fn taken(&self) -> usize {
        self.state.lock().taken
    }

    /// Takes a permit, if one is free.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.state.lock();
        (state.taken < state.size).then(|| {
            state.taken += 1;
            Permit { pool: Arc::clone(self) }
        })
    }

    /// Begins to wait. A free permit is granted at once, without a call of the waker; a later one calls the waker.
    /// `claim` then returns it.
    pub fn enter(self: &Arc<Self>, waker: Waker) -> Wait {
        let waiter = Arc::new(Waiter { waker, state: Lock::new(WaiterState::Waiting) });
        let mut state = self.state.lock();
        let mut index = 0;
        if state.taken < state.size {
            state.taken += 1;
            waiter.set(WaiterState::Granted);
        } else {
            index = state.waiters.push(Arc::clone(&waiter));
        }
        drop(state);
        Wait { waiter, index, pool: Arc::clone(self) }
    }

    fn release(&self) {
        let mut state = self.state.lock();
        while state.taken <= state.size
            && let Some(waiter) = state.waiters.pop()
        {
            if waiter.exchange(WaiterState::Waiting, WaiterState::Granted) {
                drop(state);
                waiter.waker.wake_later();
                return;
            }
        }
        state.taken -= 1;
        // A notification is a system call, even if no thread waits.
        if state.taken == 0 && state.awaiting_all > 0 {
            self.quiet.notify_all();
        }
    }
}

impl Waiter {
    fn set(&self, to: WaiterState) {
        *self.state.lock() = to;
    }

    fn exchange(&self, from: WaiterState, to: WaiterState) -> bool {
        let mut state = self.state.lock();
        let matches = *state == from;
        if matches {
            *state = to;
        }
        matches
    }
}

impl Wait {
    /// Returns the permit, once it has been granted.
    pub fn claim(&mut self) -> Option<Permit> {
        self.waiter.exchange(WaiterState::Granted, WaiterState::Over).then(|| Permit { pool: Arc::clone(&self.pool) })
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // The waiter is removed and marked as over under one lock, so that its index stays valid until then.
        let mut state = self.pool.state.lock();
        let gave_up = self.waiter.exchange(WaiterState::Waiting, WaiterState::Over);
        let waiter = if gave_up { state.waiters.remove(self.index) } else { None };
        drop(state);
        drop(waiter);
        if gave_up {
            return;
        }
        if self.waiter.exchange(WaiterState::Granted, WaiterState::Over) {
            self.pool.release();
            // Flush now: there may be no other thread that flushes wakes soon.
            sys::flush_wakes();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pool.release();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{self, Receiver};
    use std::time::Duration;

    use super::*;
    use crate::sys::Waitable;

    /// Starts a coroutine that reports when it is woken. Returns its waker and the receiver of the report.
    fn sleeper() -> (Waker, Receiver<()>) {
        let (woken, wait) = mpsc::channel();
        let (wakers, waker) = mpsc::channel();
        sys::spawn(move || {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let waitable = Waitable::new(std::os::fd::OwnedFd::from(ours)).unwrap();
            // The first event of a new descriptor says that it is writable.
            waitable.wait();
            wakers.send(waitable.waker()).unwrap();
            waitable.wait();
            woken.send(()).unwrap();
        });
        (waker.recv().unwrap(), wait)
    }

    #[test]
    fn permits_go_to_who_has_waited_longest() {
        let pool = Pool::new(1);
        let permit = pool.try_acquire().unwrap();
        let mut waits: Vec<_> = (0..3).map(|_| pool.enter(sleeper().0)).collect();
        assert!(waits.iter_mut().all(|wait| wait.claim().is_none()));
        let mut held = permit;
        for index in 0..3 {
            drop(held);
            assert!(pool.try_acquire().is_none(), "a permit goes to the request that has waited longest");
            let mut claims: Vec<_> = waits.iter_mut().map(Wait::claim).collect();
            held = claims.remove(index).unwrap();
            assert!(claims.iter().all(Option::is_none));
        }
        drop(held);
        assert_eq!(pool.taken(), 0);
    }

    #[test]
    fn free_permit_is_granted_at_the_door() {
        let pool = Pool::new(1);
        let mut wait = pool.enter(sleeper().0);
        let permit = wait.claim().unwrap();
        assert!(wait.claim().is_none(), "once");
        drop(wait);
        assert_eq!(pool.taken(), 1);
        drop(permit);
        assert_eq!(pool.taken(), 0);
    }

    #[test]
    fn wait_that_ended_is_passed_over() {
        let pool = Pool::new(1);
        let permit = pool.try_acquire().unwrap();
        let first = pool.enter(sleeper().0);
        let mut second = pool.enter(sleeper().0);
        drop(first);
        drop(permit);
        drop(second.claim().unwrap());
        assert_eq!(pool.taken(), 0);
    }

    #[test]
    fn waits_that_end_leave_nothing_behind() {
        let pool = Pool::new(1);
        let permit = pool.try_acquire().unwrap();
        let waker = sleeper().0;
        let mut waits: Vec<_> = (0..9000).map(|_| pool.enter(waker.clone())).collect();
        let mut last = waits.split_off(8999);
        while !waits.is_empty() {
            // Remove from the middle, as expired deadlines and departing clients do.
            waits.swap_remove(waits.len() / 2);
            assert_eq!(pool.state.lock().waiters.len(), waits.len() + 1);
        }
        drop(permit);
        drop(last[0].claim().unwrap());
        assert!(pool.state.lock().waiters.is_empty());
    }

    #[test]
    fn wait_that_ended_when_granted_wakes_the_next() {
        let pool = Pool::new(1);
        let permit = pool.try_acquire().unwrap();
        let first = pool.enter(sleeper().0);
        let (waker, woken) = sleeper();
        let mut second = pool.enter(waker);
        drop(permit);
        // The first request has been granted its permit but has not claimed it, because its client has just left.
        drop(first);
        woken.recv_timeout(Duration::from_secs(10)).unwrap();
        drop(second.claim().unwrap());
        assert_eq!(pool.taken(), 0);
    }

    #[test]
    fn permit_given_back_while_waiters_give_up_is_not_lost() {
        for _ in 0..200 {
            let pool = Pool::new(1);
            let permit = pool.try_acquire().unwrap();
            let wait = pool.enter(sleeper().0);
            let giving_up = std::thread::spawn(move || drop(wait));
            drop(permit);
            giving_up.join().unwrap();
            assert_eq!(pool.taken(), 0);
        }
    }

    #[test]
    fn resized_pool_grants_what_it_has() {
        let pool = Pool::new(2);
        let held = [pool.try_acquire().unwrap(), pool.try_acquire().unwrap()];
        let mut wait = pool.enter(sleeper().0);
        pool.resize(0);
        assert_eq!((pool.size(), pool.taken()), (0, 2));
        drop(held);
        assert!(wait.claim().is_none(), "an empty pool has no permit");
        assert!(pool.try_acquire().is_none());
        assert!(pool.wait_all(Duration::ZERO));
        pool.resize(1);
        let permit = wait.claim().unwrap();
        assert!(!pool.wait_all(Duration::ZERO));
        drop(permit);
        assert!(pool.wait_all(Duration::ZERO));
    }

    #[test]
    fn wait_for_all_ends_with_the_last_permit() {
        let pool = Pool::new(2);
        let permits = [pool.try_acquire().unwrap(), pool.try_acquire().unwrap()];
        let waiting = Arc::clone(&pool);
        let waiter = std::thread::spawn(move || waiting.wait_all(Duration::from_secs(60)));
        while pool.state.lock().awaiting_all == 0 {
            std::thread::yield_now();
        }
        drop(permits);
        assert!(waiter.join().unwrap());
        assert_eq!(pool.state.lock().awaiting_all, 0);
    }
}
