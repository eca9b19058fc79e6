//! Connections at rest: no coroutine and no stack, one epoll set, one wheel of deadlines.
//!
//! *Owns*: whatever is parked, until it becomes readable, its deadline passes, or it is evicted. Generic over what it
//! keeps; what becomes of it is the caller's closure. *Runs on*: one coroutine, which waits for the epoll set itself to
//! become readable; `park` may be called on any coroutine of the runtime.
//! *Invariants*: the set is the only owner of what is parked in it. A descriptor is armed only while it is parked
//! (`EPOLLONESHOT`). Nothing runs while nothing happens.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::{self, Epoll, TimerFd, Waitable};
use crate::timer::{self, Due, Lazy, Tick, Wheel};

/// How many events are taken from the epoll set at once.
const EVENTS_MAX: usize = 256;

/// The epoll data of the timer.
const TIMER: u64 = u64::MAX;

/// A place in the set, kept for the life of what is parked there again and again.
#[derive(Debug)]
#[must_use = "it has to be given back"]
pub struct Place(u32);

/// Why something leaves the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is something to read, or the client has gone.
    Readable,
    /// Its deadline has passed.
    Expired,
}

/// The set.
#[derive(Debug)]
pub struct IdleSet<T> {
    epoll: Epoll,
    timer: TimerFd,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    wheel: Wheel<u32>,
    parked: usize,
    closed: bool,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    registered: bool,
    lazy: Lazy,
    parked: Option<T>,
}

impl<T: AsRawFd + Send + 'static> IdleSet<T> {
    /// An empty set and its coroutine. `leave` gets everything that leaves by itself, on that coroutine; it must not
    /// wait.
    pub fn new(leave: impl Fn(T, Reason) + Send + 'static) -> std::io::Result<Arc<Self>> {
        let epoll = Epoll::new()?;
        let timer = TimerFd::unregistered()?;
        epoll.add(timer.as_raw_fd(), TIMER)?;
        let waitable = Waitable::new(epoll.try_clone()?)?;
        let set = Arc::new(Self {
            epoll,
            timer,
            state: Mutex::new(State {
                slots: Vec::new(),
                free: Vec::new(),
                wheel: Wheel::default(),
                parked: 0,
                closed: false,
            }),
        });
        let running = Arc::clone(&set);
        sys::spawn(move || running.run(&waitable, &leave));
        Ok(set)
    }

    /// Takes a place for something that will be parked.
    pub fn place(&self) -> Place {
        let mut state = self.lock();
        let index = state.free.pop().unwrap_or_else(|| {
            state.slots.push(Slot { generation: 0, registered: false, lazy: Lazy::default(), parked: None });
            u32::try_from(state.slots.len() - 1).expect("fewer than 2^32 connections")
        });
        Place(index)
    }

    /// No longer watches a descriptor that stays open although its place is given back.
    pub fn unwatch(&self, place: &Place, fd: RawFd) {
        let mut state = self.lock();
        if let Some(slot) = state.slots.get_mut(place.0 as usize)
            && std::mem::take(&mut slot.registered)
        {
            self.epoll.remove(fd);
        }
    }

    /// Gives a place back whose descriptor is closed or no longer watched.
    pub fn give_back(&self, place: &Place) {
        let mut state = self.lock();
        if let Some(slot) = state.slots.get_mut(place.0 as usize) {
            // Closing has taken it out of the epoll set, but an event may have been read before.
            slot.generation = slot.generation.wrapping_add(1);
            slot.registered = false;
            // Its entry on the wheel serves the next one.
            slot.lazy.set(timer::NEVER);
            state.free.push(place.0);
        }
    }

    /// Parks something at its place until it is readable or the deadline passes.
    ///
    /// # Errors
    /// It cannot be watched; it is given back.
    pub fn park(&self, index: u32, parked: T, deadline: Instant) -> Result<(), (T, std::io::Error)> {
        let fd: RawFd = parked.as_raw_fd();
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(index as usize) else {
            return Err((parked, std::io::Error::other("no such place")));
        };
        let tick = timer::tick_of(deadline);
        slot.parked = Some(parked);
        let (generation, registered) = (slot.generation, slot.registered);
        slot.registered = true;
        let needs_entry = slot.lazy.set(tick);
        if needs_entry && state.wheel.insert(tick, index) {
            self.timer.arm(timer::until(tick));
        }
        state.parked += 1;
        // Armed last and under the lock: from here on the set's coroutine may take it.
        let data = u64::from(generation) << 32 | u64::from(index);
        let armed = if registered { self.epoll.arm(fd, data) } else { self.epoll.add_oneshot(fd, data) };
        if let Err(error) = armed {
            state.parked -= 1;
            if let Some(slot) = state.slots.get_mut(index as usize) {
                slot.registered = false;
                if let Some(parked) = slot.parked.take() {
                    return Err((parked, error));
                }
            }
        }
        Ok(())
    }

    /// How many are parked.
    pub fn len(&self) -> usize {
        self.lock().parked
    }

    /// Whether none is parked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the one that has been at rest longest: `rested` says since when, and `None` of those that stay.
    pub fn evict_oldest(&self, rested: impl Fn(&T) -> Option<Tick>) -> Option<T> {
        let mut state = self.lock();
        let since = |slot: &Slot<T>| slot.parked.as_ref().and_then(&rested);
        let (index, _) = (0..)
            .zip(&state.slots)
            .filter_map(|(index, slot)| Some((index, since(slot)?)))
            .min_by_key(|found: &(usize, Tick)| found.1)?;
        let evicted = state.slots.get_mut(index)?.parked.take();
        state.parked -= 1;
        evicted
    }

    /// Takes all that are parked.
    pub fn take_all(&self) -> Vec<T> {
        let mut state = self.lock();
        state.parked = 0;
        state.slots.iter_mut().filter_map(|slot| slot.parked.take()).collect()
    }

    /// Ends the set's coroutine. What is parked stays until the set is dropped.
    pub fn close(&self) {
        self.lock().closed = true;
        self.timer.arm(Duration::ZERO);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go what is readable or expired, until the set is closed.
    fn run(&self, waitable: &Waitable, leave: &impl Fn(T, Reason)) {
        let mut ready = Vec::with_capacity(EVENTS_MAX);
        let mut leaving = Vec::new();
        loop {
            self.epoll.poll(&mut ready, EVENTS_MAX);
            if ready.is_empty() {
                waitable.wait();
                continue;
            }
            let mut state = self.lock();
            if state.closed {
                return;
            }
            let mut timer_passed = false;
            for data in ready.drain(..) {
                if data == TIMER {
                    timer_passed = true;
                    continue;
                }
                #[allow(clippy::cast_possible_truncation, reason = "the two halves of the data")]
                let (generation, index) = ((data >> 32) as u32, data as u32);
                let Some(slot) = state.slots.get_mut(index as usize) else { continue };
                if slot.generation == generation
                    && let Some(parked) = slot.parked.take()
                {
                    state.parked -= 1;
                    leaving.push((parked, Reason::Readable));
                }
            }
            // Last: what has come in time is read, however late it is looked at.
            if timer_passed {
                self.timer.clear();
                self.expire(&mut state, &mut leaving);
            }
            drop(state);
            for (parked, reason) in leaving.drain(..) {
                leave(parked, reason);
            }
        }
    }

    fn expire(&self, state: &mut State<T>, leaving: &mut Vec<(T, Reason)>) {
        let now = timer::current_tick();
        while let Some((tick, keys)) = state.wheel.pop(now) {
            for index in keys {
                let Some(slot) = state.slots.get_mut(index as usize) else { continue };
                match slot.lazy.come_up(tick, now) {
                    Due::Passed => {
                        if let Some(parked) = slot.parked.take() {
                            state.parked -= 1;
                            leaving.push((parked, Reason::Expired));
                        }
                    }
                    Due::Later(tick) => {
                        state.wheel.insert(tick, index);
                    }
                    Due::Stale => {}
                }
            }
        }
        if let Some(next) = state.wheel.next() {
            self.timer.arm(timer::until(next));
        }
    }
}

impl Place {
    /// Its number, for `IdleSet::park`.
    pub fn index(&self) -> u32 {
        self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{self, Receiver};

    const PATIENCE: Duration = Duration::from_secs(10);

    struct Kept {
        stream: UnixStream,
        place: Place,
        set: Arc<IdleSet<Kept>>,
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            self.set.give_back(&self.place);
        }
    }

    impl AsRawFd for Kept {
        fn as_raw_fd(&self) -> RawFd {
            self.stream.as_raw_fd()
        }
    }

    fn idle_set() -> (Arc<IdleSet<Kept>>, Receiver<(Kept, Reason)>) {
        let (left, leaving) = mpsc::channel();
        // An error means that the test is over.
        let set = IdleSet::new(move |kept, reason| drop(left.send((kept, reason)))).unwrap();
        (set, leaving)
    }

    fn keep(set: &Arc<IdleSet<Kept>>, deadline: Duration) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        park(set, Kept { stream: ours, place: set.place(), set: Arc::clone(set) }, deadline);
        theirs
    }

    fn park(set: &IdleSet<Kept>, kept: Kept, deadline: Duration) {
        let index = kept.place.index();
        assert!(set.park(index, kept, Instant::now() + deadline).is_ok());
    }

    #[test]
    fn readable_leaves_and_can_be_parked_again() {
        let (set, leaving) = idle_set();
        let mut theirs = keep(&set, PATIENCE);
        for _ in 0..3 {
            assert_eq!(set.len(), 1);
            theirs.write_all(b"x").unwrap();
            let (mut kept, reason) = leaving.recv_timeout(PATIENCE).unwrap();
            assert_eq!(reason, Reason::Readable);
            assert!(set.is_empty());
            std::io::Read::read_exact(&mut kept.stream, &mut [0]).unwrap();
            park(&set, kept, PATIENCE);
        }
    }

    #[test]
    fn unwatched_is_out_of_the_set_and_can_be_parked_again() {
        let (set, leaving) = idle_set();
        let mut theirs = keep(&set, PATIENCE);
        theirs.write_all(b"x").unwrap();
        let (kept, _) = leaving.recv_timeout(PATIENCE).unwrap();
        set.unwatch(&kept.place, kept.as_raw_fd());
        assert!(!set.lock().slots[0].registered);
        // A descriptor that was still in the set could not be added once more.
        park(&set, kept, PATIENCE);
        assert_eq!(leaving.recv_timeout(PATIENCE).unwrap().1, Reason::Readable);
    }

    #[test]
    fn readable_before_it_is_parked_leaves_at_once() {
        let (set, leaving) = idle_set();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        park(&set, Kept { stream: ours, place: set.place(), set: Arc::clone(&set) }, PATIENCE);
        assert_eq!(leaving.recv_timeout(PATIENCE).unwrap().1, Reason::Readable);
    }

    #[test]
    fn hang_up_counts_as_readable() {
        let (set, leaving) = idle_set();
        drop(keep(&set, PATIENCE));
        assert_eq!(leaving.recv_timeout(PATIENCE).unwrap().1, Reason::Readable);
    }

    #[test]
    fn deadlines_pass_in_their_order_and_not_early() {
        let (set, leaving) = idle_set();
        let began = Instant::now();
        let late = keep(&set, Duration::from_millis(200));
        let early = keep(&set, Duration::from_millis(100));
        for (stream, after) in [(early, 100), (late, 200)] {
            let (kept, reason) = leaving.recv_timeout(PATIENCE).unwrap();
            assert_eq!(reason, Reason::Expired);
            assert!(began.elapsed() >= Duration::from_millis(after));
            drop(kept);
            let mut stream = stream;
            assert_eq!(std::io::Read::read(&mut stream, &mut [0]).unwrap(), 0, "the right one was closed");
        }
    }

    #[test]
    fn deadline_of_an_earlier_stay_means_nothing() {
        let (set, leaving) = idle_set();
        let mut theirs = keep(&set, Duration::from_millis(100));
        theirs.write_all(b"x").unwrap();
        let (mut kept, _) = leaving.recv_timeout(PATIENCE).unwrap();
        std::io::Read::read_exact(&mut kept.stream, &mut [0]).unwrap();
        park(&set, kept, Duration::from_millis(400));
        assert!(leaving.recv_timeout(Duration::from_millis(250)).is_err());
        assert_eq!(leaving.recv_timeout(PATIENCE).unwrap().1, Reason::Expired);
    }

    #[test]
    fn oldest_that_may_go_is_evicted() {
        let (set, _leaving) = idle_set();
        let streams: Vec<_> = (0..3).map(|_| keep(&set, PATIENCE)).collect();
        let rested = |kept: &Kept| [9, 8, 7].get(kept.place.index() as usize).copied();
        let evicted = set.evict_oldest(|kept| rested(kept).filter(|&since| since > 7)).unwrap();
        assert_eq!((evicted.place.index(), set.len()), (1, 2));
        assert_eq!(set.evict_oldest(rested).unwrap().place.index(), 2);
        assert!(set.evict_oldest(|_| None).is_none());
        assert_eq!(set.take_all().len(), 1);
        assert!(set.is_empty());
        drop(streams);
    }

    #[test]
    fn place_of_one_that_was_dropped_serves_the_next() {
        let (set, leaving) = idle_set();
        let gone = keep(&set, Duration::from_millis(50));
        drop(set.evict_oldest(|_| Some(0)).unwrap());
        let _stays = keep(&set, PATIENCE);
        assert_eq!(set.lock().slots.len(), 1);
        assert!(leaving.recv_timeout(Duration::from_millis(200)).is_err(), "the old deadline is not the new one's");
        drop(gone);
    }
}
