//! Connections without a coroutine: no stack, one epoll set, one table of deadlines.
//!
//! *Owns*: each parked value until it becomes readable, its deadline passes, or it is evicted. Each value in line for a
//! coroutine until its turn comes, its deadline passes, or the client has gone. Generic over the value; the caller's
//! closure decides what follows. *Runs on*: one coroutine, which waits until the epoll set is readable. `park` and
//! `wait_in_line` may be called on any coroutine of the runtime. *Invariants*: the set is the only owner of its values.
//! A descriptor is armed only while it is in the set (`EPOLLONESHOT`). No code runs without an event or a deadline. A
//! method looks at one slot only, except those that take all values.

mod slots;

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::chain::{Link, NOWHERE, SPARE_MIN};
use crate::sys::{self, Epoll, Interest, TimerFd, TurnOf, Waitable};
use crate::timer;

use self::slots::{Slot, State, Stay};

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
mod tests;
