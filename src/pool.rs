//! Permits, which limit how many requests are served at once. Requests wait in line for a permit until their deadline.
//!
//! *Owns*: the count of free permits and the line of waiting requests. *Runs on*: `try_acquire`, `enter` and `claim` on
//! coroutines; a permit may be dropped on any thread. Only `wait_all` blocks; requests in line are woken by their
//! wakers. *Invariants*: no permit is free while a request waits; a free permit goes to the request that has waited
//! longest. Several servers may share a pool.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::chain::Line;
use crate::sys::{self, Waker};

/// The permits of a server.
#[derive(Debug)]
pub struct Pool {
    state: Mutex<State>,
    /// Notified when the last taken permit is returned.
    quiet: Condvar,
}

#[derive(Debug)]
struct State {
    size: usize,
    taken: usize,
    line: Line<Arc<Place>>,
}

/// A place in the line. Dropping it gives the place up.
#[derive(Debug)]
pub struct Waiting {
    place: Arc<Place>,
    /// The index in the line. Valid only while the place is in line.
    index: u32,
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Place {
    waker: Waker,
    state: Mutex<PlaceState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlaceState {
    InLine,
    Granted,
    Over,
}

/// The right to have one request served. Dropping it passes it to the next request in line.
#[derive(Debug)]
pub struct Permit {
    pool: Arc<Pool>,
}

impl Pool {
    /// Returns a pool of `size` permits.
    pub fn new(size: usize) -> Arc<Self> {
        let state = Mutex::new(State { size, taken: 0, line: Line::default() });
        Arc::new(Self { state, quiet: Condvar::new() })
    }

    /// Returns the number of all permits, free and taken.
    pub fn size(&self) -> usize {
        self.lock().size
    }

    /// Changes the number of permits. With 0, no request gets a permit until the number grows again. Taken permits stay
    /// valid.
    pub fn resize(&self, size: usize) {
        let mut state = self.lock();
        state.size = size;
        while state.taken < state.size {
            let Some(place) = state.line.pop() else { break };
            if place.exchange(PlaceState::InLine, PlaceState::Granted) {
                state.taken += 1;
                place.waker.wake_later();
            }
        }
        drop(state);
        sys::flush_wakes();
    }

    /// Waits until no permit is taken, at most for `timeout`. Returns whether none is taken. (Plain thread, without the
    /// GIL.)
    pub fn wait_all(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let mut state = self.lock();
        while state.taken > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.quiet.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Returns the number of requests that wait for a permit.
    pub fn waiting(&self) -> usize {
        self.lock().line.len()
    }

    /// Returns the number of taken permits.
    pub fn taken(&self) -> usize {
        self.lock().taken
    }

    /// Takes a permit, if one is free.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.lock();
        (state.taken < state.size).then(|| {
            state.taken += 1;
            Permit { pool: Arc::clone(self) }
        })
    }

    /// Enters the line. A free permit is granted at once, without a call of the waker; a later one calls the waker.
    /// `claim` then returns it.
    pub fn enter(self: &Arc<Self>, waker: Waker) -> Waiting {
        let place = Arc::new(Place { waker, state: Mutex::new(PlaceState::InLine) });
        let mut state = self.lock();
        let mut index = 0;
        if state.taken < state.size {
            state.taken += 1;
            place.set(PlaceState::Granted);
        } else {
            index = state.line.push(Arc::clone(&place));
        }
        drop(state);
        Waiting { place, index, pool: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self) {
        let mut state = self.lock();
        while state.taken <= state.size
            && let Some(place) = state.line.pop()
        {
            if place.exchange(PlaceState::InLine, PlaceState::Granted) {
                drop(state);
                place.waker.wake_later();
                return;
            }
        }
        state.taken -= 1;
        if state.taken == 0 {
            self.quiet.notify_all();
        }
    }
}

impl Place {
    fn set(&self, to: PlaceState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }

    fn exchange(&self, from: PlaceState, to: PlaceState) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let matches = *state == from;
        if matches {
            *state = to;
        }
        matches
    }
}

impl Waiting {
    /// Returns the permit, once it has been granted.
    pub fn claim(&mut self) -> Option<Permit> {
        self.place.exchange(PlaceState::Granted, PlaceState::Over).then(|| Permit { pool: Arc::clone(&self.pool) })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // The place is removed from the line and marked as over under one lock, so that its index stays valid until
        // then.
        let mut state = self.pool.lock();
        let gave_up = self.place.exchange(PlaceState::InLine, PlaceState::Over);
        let place = if gave_up { state.line.remove(self.index) } else { None };
        drop(state);
        drop(place);
        if gave_up {
            return;
        }
        if self.place.exchange(PlaceState::Granted, PlaceState::Over) {
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
        let mut line: Vec<_> = (0..3).map(|_| pool.enter(sleeper().0)).collect();
        assert!(line.iter_mut().all(|waiting| waiting.claim().is_none()));
        let mut held = permit;
        for index in 0..3 {
            drop(held);
            assert!(pool.try_acquire().is_none(), "a permit goes to the first in line");
            let mut claims: Vec<_> = line.iter_mut().map(Waiting::claim).collect();
            held = claims.remove(index).unwrap();
            assert!(claims.iter().all(Option::is_none));
        }
        drop(held);
        assert_eq!(pool.taken(), 0);
    }

    #[test]
    fn free_permit_is_granted_at_the_door() {
        let pool = Pool::new(1);
        let mut waiting = pool.enter(sleeper().0);
        let permit = waiting.claim().unwrap();
        assert!(waiting.claim().is_none(), "once");
        drop(waiting);
        assert_eq!(pool.taken(), 1);
        drop(permit);
        assert_eq!(pool.taken(), 0);
    }

    #[test]
    fn place_given_up_in_line_is_passed_over() {
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
    fn line_that_gives_up_leaves_nothing_behind() {
        let pool = Pool::new(1);
        let permit = pool.try_acquire().unwrap();
        let waker = sleeper().0;
        let mut line: Vec<_> = (0..9000).map(|_| pool.enter(waker.clone())).collect();
        let mut last = line.split_off(8999);
        while !line.is_empty() {
            // Remove from the middle, as expired deadlines and departing clients do.
            line.swap_remove(line.len() / 2);
            assert_eq!(pool.lock().line.len(), line.len() + 1);
        }
        drop(permit);
        drop(last[0].claim().unwrap());
        assert!(pool.lock().line.is_empty());
    }

    #[test]
    fn place_given_up_when_granted_wakes_the_next() {
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
            let waiting = pool.enter(sleeper().0);
            let giving_up = std::thread::spawn(move || drop(waiting));
            drop(permit);
            giving_up.join().unwrap();
            assert_eq!(pool.taken(), 0);
        }
    }

    #[test]
    fn resized_pool_grants_what_it_has() {
        let pool = Pool::new(2);
        let held = [pool.try_acquire().unwrap(), pool.try_acquire().unwrap()];
        let mut waiting = pool.enter(sleeper().0);
        pool.resize(0);
        assert_eq!((pool.size(), pool.taken()), (0, 2));
        drop(held);
        assert!(waiting.claim().is_none(), "an empty pool has no permit");
        assert!(pool.try_acquire().is_none());
        assert!(pool.wait_all(Duration::ZERO));
        pool.resize(1);
        let permit = waiting.claim().unwrap();
        assert!(!pool.wait_all(Duration::ZERO));
        drop(permit);
        assert!(pool.wait_all(Duration::ZERO));
    }
}
