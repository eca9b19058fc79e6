//! Connections without a coroutine: no stack, one epoll set, one table of deadlines.
//!
//! *Owns*: each parked value until it becomes readable, its deadline passes, or it is evicted. Each value in line for a
//! coroutine until its turn comes, its deadline passes, or the client has gone. Generic over the value; the caller's
//! closure decides what follows. *Runs on*: one coroutine, which waits until the epoll set is readable. `park` and
//! `wait_in_line` may be called on any coroutine of the runtime. *Invariants*: the set is the only owner of its values.
//! A descriptor is armed only while it is in the set (`EPOLLONESHOT`). No code runs without an event or a deadline. A
//! method looks at one slot only, except those that take all values.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::chain::{Chain, Link, Linked, NOWHERE, SPARE_MIN};
use crate::sys::{self, Epoll, Interest, TimerFd, TurnOf, Waitable};
use crate::timer::{self, Deadlines};

/// How many events are taken from the epoll set at once.
const EVENTS_MAX: usize = 64;

/// The epoll data of the timer.
const TIMER: u64 = u64::MAX;

/// A slot number in the set, kept by a value that is parked there again and again.
#[derive(Debug)]
#[must_use = "it has to be given back"]
pub struct Place(u32);

/// Why a value leaves the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The client has sent data, or has gone.
    Readable,
    /// The value's idle deadline has passed.
    Expired,
    /// The value's deadline in line has passed.
    Unserved,
    /// The client has reset the connection while it waited in line.
    Broken,
}

/// Whether an idle value may be evicted to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// It may.
    Allowed,
    /// It stays.
    Refused,
}

/// A set of idle values and of values in line.
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
    deadlines: Deadlines,
    /// The idle values that may be evicted, in the order in which they became idle.
    evictable: Chain,
    /// The values that wait for a coroutine, in the order in which they came.
    line: Chain,
    /// How many values are idle.
    parked: usize,
    /// How many values are in line.
    waiting: usize,
    /// The generation of a new slot. Events of removed slots carry an earlier one.
    generation: u32,
    closed: bool,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    registered: bool,
    stay: Stay,
    link: Link,
    kept: Option<T>,
}

/// Why a value is in the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stay {
    /// The value is idle, and stays until its deadline.
    Fixed,
    /// The value is idle, and may be evicted.
    Evictable,
    /// The value waits for a coroutine.
    InLine,
}

impl<T> Linked for Slot<T> {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

impl<T> State<T> {
    fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            deadlines: Deadlines::default(),
            evictable: Chain::default(),
            line: Chain::default(),
            parked: 0,
            waiting: 0,
            generation: 0,
            closed: false,
        }
    }

    fn keep(&mut self, index: u32, kept: T, stay: Stay) {
        self.slots[index as usize].kept = Some(kept);
        self.slots[index as usize].stay = stay;
        match stay {
            Stay::Fixed => self.parked += 1,
            Stay::Evictable => {
                self.parked += 1;
                self.evictable.push(&mut self.slots, index);
            }
            Stay::InLine => {
                self.waiting += 1;
                self.line.push(&mut self.slots, index);
            }
        }
    }

    /// Takes the value at a slot, if there is one.
    fn take(&mut self, index: u32) -> Option<(T, Stay)> {
        let slot = self.slots.get_mut(index as usize)?;
        let (kept, stay) = (slot.kept.take()?, slot.stay);
        match stay {
            Stay::Fixed => self.parked -= 1,
            Stay::Evictable => {
                self.parked -= 1;
                self.evictable.remove(&mut self.slots, index);
            }
            Stay::InLine => {
                self.waiting -= 1;
                self.line.remove(&mut self.slots, index);
            }
        }
        Some((kept, stay))
    }

    /// Gives back the memory of a peak of connections.
    fn shrink(&mut self) {
        let latest = self.slots.iter().map(|slot| slot.generation).max().unwrap_or(0);
        *self = Self { generation: latest.wrapping_add(1), closed: self.closed, ..Self::new() };
    }
}

impl<T: AsFd + Send + 'static> IdleSet<T> {
    /// Makes an empty set and starts its coroutine. `leave` gets every value that leaves by itself, on that coroutine,
    /// and must not wait.
    pub fn new(leave: impl Fn(T, Reason) + Send + 'static) -> std::io::Result<Arc<Self>> {
        let epoll = Epoll::new()?;
        let timer = TimerFd::unregistered()?;
        epoll.add(&timer, TIMER)?;
        let waitable = Waitable::new(epoll.try_clone()?)?;
        let set = Arc::new(Self { epoll, timer, state: Mutex::new(State::new()) });
        let running = Arc::clone(&set);
        sys::spawn(move || running.run(&waitable, &leave));
        Ok(set)
    }

    /// Takes a place for a value that will be parked.
    pub fn place(&self) -> Place {
        let mut state = self.lock();
        let index = state.free.pop().unwrap_or_else(|| {
            let generation = state.generation;
            let (stay, link) = (Stay::Fixed, Link::default());
            state.slots.push(Slot { generation, registered: false, stay, link, kept: None });
            u32::try_from(state.slots.len() - 1)
                .ok()
                .filter(|&index| index < NOWHERE)
                .expect("fewer than 2^32 connections")
        });
        Place(index)
    }

    /// Stops watching a descriptor that stays open although its place is given back.
    pub fn unwatch(&self, place: &Place, fd: &impl AsFd) {
        let mut state = self.lock();
        if let Some(slot) = state.slots.get_mut(place.0 as usize)
            && std::mem::take(&mut slot.registered)
        {
            self.epoll.remove(fd);
        }
    }

    /// Gives back a place whose descriptor is closed or no longer watched.
    pub fn give_back(&self, place: &Place) {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(place.0 as usize) else { return };
        // Closing has removed the descriptor from the epoll set, but an event may have been read before.
        slot.generation = slot.generation.wrapping_add(1);
        slot.registered = false;
        state.free.push(place.0);
        if state.free.len() == state.slots.len() && state.free.len() >= SPARE_MIN {
            state.shrink();
        } else {
            // The heap entry stays where it is, and serves the next connection at this place.
            state.deadlines.set(place.0, timer::NEVER);
        }
    }

    /// Parks a value at its place until it is readable, its deadline passes, or it is evicted.
    ///
    /// # Errors
    /// The descriptor cannot be watched. The value is returned.
    pub fn park(
        &self,
        index: u32,
        parked: T,
        deadline: Instant,
        eviction: Eviction,
    ) -> Result<(), (T, std::io::Error)> {
        let stay = if eviction == Eviction::Allowed { Stay::Evictable } else { Stay::Fixed };
        self.keep(index, parked, deadline, stay)
    }

    /// Lets a value wait for a coroutine at its place, behind all that already wait, until the deadline passes. Data
    /// from the client stays unread meanwhile; a reset is noticed.
    ///
    /// # Errors
    /// The descriptor cannot be watched. The value is returned.
    pub fn wait_in_line(&self, index: u32, waiting: T, deadline: Instant) -> Result<(), (T, std::io::Error)> {
        self.keep(index, waiting, deadline, Stay::InLine)
    }

    fn keep(&self, index: u32, kept: T, deadline: Instant, stay: Stay) -> Result<(), (T, std::io::Error)> {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(index as usize) else {
            return Err((kept, std::io::Error::other("no such place")));
        };
        let (generation, registered) = (slot.generation, slot.registered);
        slot.registered = true;
        state.keep(index, kept, stay);
        let tick = timer::tick_of(deadline);
        if state.deadlines.set(index, tick) {
            self.timer.arm(timer::until(tick));
        }
        // Armed last and under the lock: from here on the set's coroutine may take the value.
        let data = u64::from(generation) << 32 | u64::from(index);
        let interest = if stay == Stay::InLine { Interest::Break } else { Interest::Input };
        let kept = state.slots[index as usize].kept.as_ref().expect("it has just been kept");
        if let Err(error) = self.epoll.arm(kept, registered, data, interest) {
            state.slots[index as usize].registered = false;
            if let Some((kept, _)) = state.take(index) {
                return Err((kept, error));
            }
        }
        Ok(())
    }

    /// Returns how many values are idle.
    pub fn len(&self) -> usize {
        self.lock().parked
    }

    /// Returns whether no value is idle.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the value that has been idle longest among those that may be evicted.
    pub fn evict_oldest(&self) -> Option<T> {
        let mut state = self.lock();
        let index = state.evictable.first()?;
        state.take(index).map(|(evicted, _)| evicted)
    }

    /// Takes the value that has waited longest for a coroutine.
    pub fn next_in_line(&self) -> Option<T> {
        let mut state = self.lock();
        let index = state.line.first()?;
        state.take(index).map(|(next, _)| next)
    }

    /// Returns how many values wait for a coroutine.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// Takes all idle values.
    pub fn take_all(&self) -> Vec<T> {
        self.take_where(|stay| stay != Stay::InLine)
    }

    /// Takes all values that wait for a coroutine.
    pub fn take_line(&self) -> Vec<T> {
        self.take_where(|stay| stay == Stay::InLine)
    }

    fn take_where(&self, wanted: impl Fn(Stay) -> bool) -> Vec<T> {
        let mut state = self.lock();
        let places = 0..u32::try_from(state.slots.len()).unwrap_or(NOWHERE);
        let takes = |index: u32| wanted(state.slots[index as usize].stay).then(|| state.take(index)).flatten();
        places.filter_map(takes).map(|(kept, _)| kept).collect()
    }

    /// Ends the set's coroutine. Parked values stay until the set is dropped.
    pub fn close(&self) {
        self.lock().closed = true;
        self.timer.arm(Duration::ZERO);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives readable and expired values to `leave`, until the set is closed.
    fn run(&self, waitable: &Waitable, leave: &impl Fn(T, Reason)) {
        let mut ready = Vec::with_capacity(EVENTS_MAX);
        let mut leaving = Vec::new();
        let waker = waitable.waker();
        let mut since_turn = 0;
        loop {
            // Clients that send byte by byte can keep the set ready forever.
            if since_turn >= EVENTS_MAX {
                since_turn = 0;
                waitable.take_turn(&waker, TurnOf::Many);
            }
            self.epoll.poll(&mut ready, EVENTS_MAX);
            if ready.is_empty() {
                since_turn = 0;
                waitable.wait();
                continue;
            }
            since_turn += ready.len();
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
                if state.slots.get(index as usize).is_some_and(|slot| slot.generation == generation)
                    && let Some((kept, stay)) = state.take(index)
                {
                    let reason = if stay == Stay::InLine { Reason::Broken } else { Reason::Readable };
                    leaving.push((kept, reason));
                }
            }
            // Deadlines come last: data that arrived in time is read, however late the set looks.
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
        while let Some(index) = state.deadlines.expire(now) {
            if let Some((kept, stay)) = state.take(index) {
                let reason = if stay == Stay::InLine { Reason::Unserved } else { Reason::Expired };
                leaving.push((kept, reason));
            }
        }
        if let Some(next) = state.deadlines.next() {
            self.timer.arm(timer::until(next));
        }
    }
}

impl Place {
    /// Returns its slot number, for `IdleSet::park` and `IdleSet::wait_in_line`.
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

    impl AsFd for Kept {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.stream.as_fd()
        }
    }

    fn idle_set() -> (Arc<IdleSet<Kept>>, Receiver<(Kept, Reason)>) {
        let (left, leaving) = mpsc::channel();
        // An error means that the test has ended.
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
        assert!(set.park(index, kept, Instant::now() + deadline, Eviction::Allowed).is_ok());
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
        set.unwatch(&kept.place, &kept);
        assert!(!set.lock().slots[0].registered);
        // A descriptor that was still in the set could not be added again.
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

    fn keep_fixed(set: &Arc<IdleSet<Kept>>) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let kept = Kept { stream: ours, place: set.place(), set: Arc::clone(set) };
        assert!(set.park(kept.place.index(), kept, Instant::now() + PATIENCE, Eviction::Refused).is_ok());
        theirs
    }

    #[test]
    fn oldest_that_may_go_is_evicted() {
        let (set, leaving) = idle_set();
        let mut streams: Vec<_> = (0..2).map(|_| keep(&set, PATIENCE)).collect();
        streams.insert(0, keep_fixed(&set));
        streams.extend((0..2).map(|_| keep(&set, PATIENCE)));
        // The second value comes back and is idle again, so it has been idle for the shortest time.
        let second = set.evict_oldest().unwrap();
        let index = second.place.index();
        park(&set, second, PATIENCE);
        // A value that left by itself can no longer be evicted.
        streams[3].write_all(b"x").unwrap();
        let (left, _) = leaving.recv_timeout(PATIENCE).unwrap();
        let mut evicted = Vec::new();
        while let Some(kept) = set.evict_oldest() {
            evicted.push(kept.place.index());
        }
        assert_eq!((evicted, left.place.index()), (vec![1, 4, index], 3));
        assert_eq!(set.len(), 1, "the one that stays");
        assert_eq!(set.take_all().len(), 1);
        assert!(set.is_empty());
    }

    #[test]
    fn line_is_served_first_come_first_served() {
        let (set, leaving) = idle_set();
        let mut streams = Vec::new();
        for _ in 0..4 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let kept = Kept { stream: ours, place: set.place(), set: Arc::clone(&set) };
            assert!(set.wait_in_line(kept.place.index(), kept, Instant::now() + PATIENCE).is_ok());
            streams.push(theirs);
        }
        assert!(set.is_empty() && set.evict_oldest().is_none() && set.take_all().is_empty(), "none of them rests");
        // Data does not take a value out of the line; a disconnect does.
        streams[0].write_all(b"x").unwrap();
        drop(streams.remove(1));
        let (gone, reason) = leaving.recv_timeout(PATIENCE).unwrap();
        assert_eq!((gone.place.index(), reason), (1, Reason::Broken));
        assert_eq!(set.next_in_line().unwrap().place.index(), 0);
        assert_eq!(set.next_in_line().unwrap().place.index(), 2);
        assert_eq!(set.take_line().len(), 1);
        assert!(set.next_in_line().is_none());
    }

    #[test]
    fn deadline_in_line_passes() {
        let (set, leaving) = idle_set();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let kept = Kept { stream: ours, place: set.place(), set: Arc::clone(&set) };
        assert!(set.wait_in_line(kept.place.index(), kept, Instant::now() + Duration::from_millis(50)).is_ok());
        assert_eq!(leaving.recv_timeout(PATIENCE).unwrap().1, Reason::Unserved);
        assert!(set.next_in_line().is_none());
    }

    #[test]
    fn memory_of_a_crowd_is_given_back_when_it_has_gone() {
        let (set, _leaving) = idle_set();
        let crowd: Vec<_> = (0..SPARE_MIN).map(|_| set.place()).collect();
        for place in &crowd {
            set.give_back(place);
        }
        let state = set.lock();
        assert_eq!((state.slots.capacity(), state.free.capacity()), (0, 0));
        assert_eq!(state.generation, 2, "an event of the crowd is of an earlier one");
    }

    #[test]
    fn slot_is_small() {
        assert!(size_of::<Slot<Box<u8>>>() <= 32);
    }

    #[test]
    fn place_of_one_that_was_dropped_serves_the_next() {
        let (set, leaving) = idle_set();
        let gone = keep(&set, Duration::from_millis(50));
        drop(set.evict_oldest().unwrap());
        let _stays = keep(&set, PATIENCE);
        assert_eq!(set.lock().slots.len(), 1);
        assert!(leaving.recv_timeout(Duration::from_millis(200)).is_err(), "the old deadline is not the new one's");
        drop(gone);
    }
}
