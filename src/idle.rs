//! Connections without a coroutine: no stack, one epoll set, one table of deadlines.
//!
//! *Owns*: each idle value until it becomes readable, its deadline passes, or it is evicted; each value that waits for a
//! coroutine until its turn comes, its deadline passes, or the client resets the connection; and each value that sleeps
//! until it is roused, or the client ends the connection. The set is generic over the value. The caller's closure gets each value that leaves by itself. *Runs on*: one coroutine, which waits
//! until the epoll set is readable. `park`, `sleep` and `wait_for_coroutine` may be called on any coroutine of the runtime, and `rouse` on any thread.
//! *Invariants*: the set is the only owner of its values. A descriptor is armed only while it is in the set
//! (`EPOLLONESHOT`). No code runs without an event or a deadline.

mod slots;

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sys::{self, Epoll, Interest, Lock, TimerFd, TurnOf, Waitable, Waker};
use crate::timer::{self, Deadlines};

use self::slots::{Kind, Slots};

/// How many events are taken from the epoll set at once.
const EVENTS_MAX: usize = 64;
/// How long the set's coroutine keeps the runtime's thread before other events get their turn. The clients in the set
/// must get their share too: with 0.5 ms, and 1,000 clients that send all the time, the p99 was three times as long.
const TURN: Duration = Duration::from_millis(2);

/// The epoll data of the timer.
const TIMER: u64 = u64::MAX;

/// A slot number in the set, kept by a value that is parked there again and again.
#[derive(Debug)]
#[must_use = "it has to be given back"]
pub struct Slot(u32);

/// Why a value leaves the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The client has sent data or has disconnected.
    Readable,
    /// The value's idle deadline has passed.
    Expired,
    /// The value has waited for a coroutine until its deadline.
    Unserved,
    /// The client has reset the connection while it waited for a coroutine.
    Broken,
    /// The value was roused.
    Roused,
    /// The client has ended the connection, or its sending side, while the value slept.
    Left,
}

/// Whether an idle value may be evicted to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// The value may be evicted.
    Allowed,
    /// The value is never evicted.
    Refused,
}

/// A set of idle values and of values that wait for a coroutine.
#[derive(Debug)]
pub struct IdleSet<T> {
    epoll: Epoll,
    timer: TimerFd,
    state: Lock<State<T>>,
    /// The places of values that were roused.
    roused: Lock<Vec<u64>>,
    /// Wakes the set's coroutine.
    waker: Waker,
}

#[derive(Debug)]
struct State<T> {
    slots: Slots<T>,
    /// The deadlines of the values, by slot.
    deadlines: Deadlines,
    closed: bool,
}

impl<T: AsFd + Send + 'static> IdleSet<T> {
    /// Makes an empty set and starts its coroutine. `leave` gets every value that leaves by itself, on that coroutine,
    /// and must not wait.
    pub fn new(leave: impl Fn(T, Reason) + Send + 'static) -> std::io::Result<Arc<Self>> {
        let epoll = Epoll::new()?;
        let timer = TimerFd::unregistered()?;
        epoll.add(&timer, TIMER)?;
        let waitable = Waitable::new(epoll.try_clone()?)?;
        let state = State { slots: Slots::default(), deadlines: Deadlines::default(), closed: false };
        let waker = waitable.waker();
        let set = Arc::new(Self { epoll, timer, state: Lock::new(state), roused: Lock::default(), waker });
        let running = Arc::clone(&set);
        sys::spawn(move || running.run(&waitable, &leave));
        Ok(set)
    }

    /// Takes a slot for a value that will be parked.
    pub fn slot(&self) -> Slot {
        Slot(self.state.lock().slots.claim())
    }

    /// Stops watching a descriptor that stays open although its slot is given back.
    pub fn unwatch(&self, slot: &Slot, fd: &impl AsFd) {
        if let Some(slot) = self.state.lock().slots.get_mut(slot.0)
            && std::mem::take(&mut slot.registered)
        {
            self.epoll.remove(fd);
        }
    }

    /// Gives back a slot whose descriptor is closed or no longer watched.
    pub fn give_back(&self, slot: &Slot) {
        let mut state = self.state.lock();
        if state.slots.give_back(slot.0) {
            state.deadlines = Deadlines::default();
        } else {
            // The heap entry stays where it is, and serves the next connection at this slot.
            state.deadlines.set(slot.0, timer::NEVER);
        }
    }

    /// Parks a value at its slot until it is readable, its deadline passes, or it is evicted.
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
        let kind = if eviction == Eviction::Allowed { Kind::Evictable } else { Kind::Fixed };
        self.keep(index, parked, Some(deadline), kind)
    }

    /// Parks a value at its slot until one of these events, or until its deadline. It is never evicted.
    ///
    /// # Errors
    /// The descriptor cannot be watched. The value is returned.
    pub fn park_for(
        &self,
        index: u32,
        parked: T,
        deadline: Instant,
        interest: Interest,
    ) -> Result<(), (T, std::io::Error)> {
        self.watch(index, parked, Some(deadline), Kind::Fixed, interest)
    }

    /// Takes the value at a slot if it is there and is the wanted one.
    pub fn take_if(&self, index: u32, is_wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut state = self.state.lock();
        if !state.slots.value(index).is_some_and(is_wanted) {
            return None;
        }
        state.slots.take(index).map(|(kept, _)| kept)
    }

    /// Lets a value wait for a coroutine at its slot, until the deadline passes. Values that already wait come first.
    /// Data from the client stays unread meanwhile. If the client resets the connection, the value leaves the set.
    ///
    /// # Errors
    /// The descriptor cannot be watched. The value is returned.
    pub fn wait_for_coroutine(&self, index: u32, waiting: T, deadline: Instant) -> Result<(), (T, std::io::Error)> {
        self.keep(index, waiting, Some(deadline), Kind::Waiting)
    }

    /// Lets a value sleep at its slot until it is roused, or the client ends the connection or its sending side. Data from
    /// the client stays unread meanwhile.
    ///
    /// # Errors
    /// The descriptor cannot be watched. The value is returned.
    pub fn sleep(&self, index: u32, asleep: T) -> Result<(), (T, std::io::Error)> {
        self.keep(index, asleep, None, Kind::Asleep)
    }

    /// Returns the place of the value at this slot, for `rouse`.
    pub fn place(&self, index: u32) -> u64 {
        let generation = self.state.lock().slots.get_mut(index).map_or(0, |slot| slot.generation);
        place(generation, index)
    }

    /// Makes a value that sleeps leave the set, after the next `sys::flush_wakes`. If none sleeps at this place, nothing
    /// happens. (Any thread.)
    pub fn rouse(&self, place: u64) {
        let mut roused = self.roused.lock();
        roused.push(place);
        let is_first = roused.len() == 1;
        drop(roused);
        // The set's coroutine takes all of them at once.
        if is_first {
            self.waker.wake_later();
        }
    }

    fn keep(&self, index: u32, kept: T, deadline: Option<Instant>, kind: Kind) -> Result<(), (T, std::io::Error)> {
        let interest = match kind {
            Kind::Waiting => Interest::Break,
            Kind::Asleep => Interest::Hangup,
            Kind::Fixed | Kind::Evictable => Interest::Input,
        };
        self.watch(index, kept, deadline, kind, interest)
    }

    fn watch(
        &self,
        index: u32,
        kept: T,
        deadline: Option<Instant>,
        kind: Kind,
        interest: Interest,
    ) -> Result<(), (T, std::io::Error)> {
        let mut state = self.state.lock();
        let Some(slot) = state.slots.get_mut(index) else {
            return Err((kept, std::io::Error::other("no such slot")));
        };
        let (generation, registered) = (slot.generation, slot.registered);
        slot.registered = true;
        state.slots.keep(index, kept, kind);
        timer::set(&mut state.deadlines, &self.timer, index, deadline.map_or(timer::NEVER, timer::tick_of));
        // Armed last and under the lock: from here on the set's coroutine may take the value.
        let data = place(generation, index);
        let kept = state.slots.value(index).expect("it has just been kept");
        if let Err(error) = self.epoll.arm(kept, registered, data, interest) {
            if let Some(slot) = state.slots.get_mut(index) {
                slot.registered = false;
            }
            if let Some((kept, _)) = state.slots.take(index) {
                return Err((kept, error));
            }
        }
        Ok(())
    }

    /// Returns how many values are idle.
    pub fn len(&self) -> usize {
        self.state.lock().slots.idle_count()
    }

    /// Returns whether no value is idle.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the value that has been idle longest of all values that may be evicted.
    pub fn evict_oldest(&self) -> Option<T> {
        self.state.lock().slots.take_oldest()
    }

    /// Takes the value that has waited longest for a coroutine.
    pub fn next_waiting(&self) -> Option<T> {
        self.state.lock().slots.take_waiting()
    }

    /// Returns how many values wait for a coroutine.
    pub fn waiting(&self) -> usize {
        self.state.lock().slots.waiting_count()
    }

    /// Takes all idle values.
    pub fn take_idle(&self) -> Vec<T> {
        self.state.lock().slots.take_all(|kind| matches!(kind, Kind::Fixed | Kind::Evictable))
    }

    /// Takes all values that wait for a coroutine.
    pub fn take_waiting(&self) -> Vec<T> {
        self.state.lock().slots.take_all(|kind| kind == Kind::Waiting)
    }

    /// Returns how many values sleep.
    pub fn asleep(&self) -> usize {
        self.state.lock().slots.asleep_count()
    }

    /// Takes all values that sleep.
    pub fn take_asleep(&self) -> Vec<T> {
        self.state.lock().slots.take_all(|kind| kind == Kind::Asleep)
    }

    /// Ends the set's coroutine. Parked values stay until the set is dropped.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.timer.arm(Duration::ZERO);
    }

    /// Gives readable and expired values to `leave`, until the set is closed.
    fn run(&self, waitable: &Waitable, leave: &impl Fn(T, Reason)) {
        let mut ready = Vec::with_capacity(EVENTS_MAX);
        let mut roused = VecDeque::new();
        let mut leaving = Vec::new();
        let waker = waitable.waker();
        let mut began = Instant::now();
        loop {
            // Clients that send single bytes can keep the epoll set readable forever.
            Self::take_turn(waitable, &waker, &mut began);
            if roused.is_empty() {
                roused = VecDeque::from(std::mem::take(&mut *self.roused.lock()));
            }
            self.epoll.poll(&mut ready, EVENTS_MAX);
            if ready.is_empty() && roused.is_empty() {
                waitable.wait();
                began = Instant::now();
                continue;
            }
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            let first = roused.drain(..roused.len().min(EVENTS_MAX));
            first.for_each(|place| state.rouse(place, &mut leaving));
            let mut timer_passed = false;
            for data in ready.drain(..) {
                if data == TIMER {
                    timer_passed = true;
                    continue;
                }
                state.report(data, &mut leaving);
            }
            // Handle deadlines last: data that arrived in time is read, even if this coroutine runs late.
            if timer_passed {
                self.timer.clear();
                self.expire(&mut state, &mut leaving);
            }
            drop(state);
            for (parked, reason) in leaving.drain(..) {
                leave(parked, reason);
                Self::take_turn(waitable, &waker, &mut began);
            }
        }
    }

    /// Lets others go first if this turn, which began at `began`, has taken `TURN`.
    fn take_turn(waitable: &Waitable, waker: &Waker, began: &mut Instant) {
        if began.elapsed() >= TURN {
            waitable.take_turn(waker, TurnOf::Many);
            *began = Instant::now();
        }
    }

    fn expire(&self, state: &mut State<T>, leaving: &mut Vec<(T, Reason)>) {
        let State { slots, deadlines, .. } = state;
        timer::expire(deadlines, &self.timer, |index| {
            if let Some((kept, kind)) = slots.take(index) {
                let reason = if kind == Kind::Waiting { Reason::Unserved } else { Reason::Expired };
                leaving.push((kept, reason));
            }
        });
    }
}

impl<T> State<T> {
    /// Takes the value for which epoll has reported an event.
    fn report(&mut self, place: u64, leaving: &mut Vec<(T, Reason)>) {
        if let Some(index) = self.index_of(place)
            && let Some((kept, kind)) = self.slots.take(index)
        {
            let reason = match kind {
                Kind::Waiting => Reason::Broken,
                Kind::Asleep => Reason::Left,
                Kind::Fixed | Kind::Evictable => Reason::Readable,
            };
            leaving.push((kept, reason));
        }
    }

    /// Takes a value that was roused, unless it no longer sleeps.
    fn rouse(&mut self, place: u64, leaving: &mut Vec<(T, Reason)>) {
        if let Some(index) = self.index_of(place)
            && self.slots.is_asleep(index)
            && let Some((kept, _)) = self.slots.take(index)
        {
            leaving.push((kept, Reason::Roused));
        }
    }

    /// Returns the index of the slot at a place. `None`: it has another value since.
    fn index_of(&mut self, place: u64) -> Option<u32> {
        #[allow(clippy::cast_possible_truncation, reason = "the two halves of the place")]
        let (generation, index) = ((place >> 32) as u32, place as u32);
        self.slots.get_mut(index).filter(|slot| slot.generation == generation).map(|_| index)
    }
}

/// Joins the two parts of a place.
fn place(generation: u32, index: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}

impl Slot {
    /// Returns its slot number, for `IdleSet::park` and `IdleSet::wait_for_coroutine`.
    pub fn index(&self) -> u32 {
        self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
