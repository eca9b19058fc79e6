//! A response whose production is suspended: no thread works on it until an event, a time-out, or the client's leaving.
//! Its connection rests meanwhile.
//!
//! *Owns*: how the producer and the resting connection are woken. *Runs on*: both sides; each method says which.
//! *Invariants*: a producer that has suspended is woken if the client leaves, the connection is given up, or the server
//! ends suspended responses. A connection that rests is woken by the next output.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Exchange, Responder, State};
use crate::http::ResponseHead;
use crate::sys;

/// The response has not been suspended.
pub(super) const NEVER: u8 = 0;
/// It has been suspended, and its producer has held a thread each time.
const HELD: u8 = 1;
/// It has been set aside: the connection may rest whenever it has nothing to send.
const MAY_REST: u8 = 2;

/// The side that produces a suspended response.
pub trait Producer: Send + Sync {
    /// Makes the producer go on. Does not wait, and may be called several times. (Any thread.)
    fn wake(&self);
}

/// Wakes connections that rest.
pub trait Rouse: Send + Sync {
    /// Gives the connection at this place a coroutine, with the next `sys::flush_wakes`. (Any thread.)
    fn rouse(&self, place: u64);
}

/// What the producer does while its response is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// It holds its thread, and with it the place in the pool.
    Held,
    /// It is set aside. The place in the pool is free, and the connection may rest.
    Aside,
}

/// What an exchange knows of its suspensions. Most responses have none, and take no memory for it.
#[derive(Debug, Default)]
pub(super) struct Suspensions(Option<Box<Known>>);

#[derive(Default)]
struct Known {
    /// The producer, while it is suspended.
    producer: Option<Arc<dyn Producer>>,
    /// Whether the server ends the response at its next suspension, or now if it is suspended.
    is_ending: bool,
    /// How the connection is woken, while it rests.
    bed: Option<(Arc<dyn Rouse>, u64)>,
    /// When the current suspension began.
    since: Option<Instant>,
    /// How long the earlier suspensions have taken.
    time: Duration,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (is_suspended, rests) = (self.producer.is_some(), self.bed.is_some());
        f.debug_struct("Known").field("is_suspended", &is_suspended).field("rests", &rests).finish_non_exhaustive()
    }
}

impl Suspensions {
    /// Takes the producer, to wake it without the exchange's lock.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Arc<dyn Producer>> {
        self.0.as_mut()?.producer.take()
    }

    fn is_ending(&self) -> bool {
        self.0.as_ref().is_some_and(|known| known.is_ending)
    }

    fn known(&mut self) -> &mut Known {
        self.0.get_or_insert_default()
    }
}

impl State {
    /// Returns whether the connection has something to do for the handler's side.
    fn has_output(&self) -> bool {
        let outbox = &self.outbox;
        !outbox.interim.is_empty()
            || !outbox.blocks.is_empty()
            || (outbox.head.is_some() && outbox.head_now)
            || outbox.end.is_some()
            || self.spooled.as_ref().is_some_and(|spooled| spooled.waiting() > 0)
            || self.takeover.as_ref().is_some_and(|takeover| takeover.is_wanted())
    }
}

impl Exchange {
    /// Wakes the connection: its coroutine, or the connection itself if it rests. (Handler's side.)
    #[inline]
    pub(super) fn wake_now(&self) {
        if self.rests.load(Ordering::Acquire) {
            self.rouse();
            sys::flush_wakes();
        } else {
            self.waker.wake_now();
        }
    }

    /// Does the same at the next `sys::flush_wakes`.
    #[inline]
    pub(super) fn wake_later(&self) {
        if self.rests.load(Ordering::Acquire) {
            self.rouse();
        } else {
            self.waker.wake_later();
        }
    }

    #[cold]
    fn rouse(&self) {
        match self.take_bed() {
            Some((rouse, place)) => rouse.rouse(place),
            // Another thread has woken the connection just now.
            None => self.waker.wake_later(),
        }
    }

    /// Returns whether the connection may rest whenever it has nothing to send. (Connection's side.)
    #[inline]
    pub fn may_rest(&self) -> bool {
        self.suspended.load(Ordering::Relaxed) == MAY_REST
    }

    /// Returns whether the response has been suspended. (Any thread.)
    #[inline]
    pub fn was_suspended(&self) -> bool {
        self.suspended.load(Ordering::Relaxed) != NEVER
    }

    /// Returns how long the response has been suspended in all, until a thread went on with it. `None`: it has not been.
    /// (Any thread.)
    #[inline]
    pub fn time_suspended(&self) -> Option<Duration> {
        if self.was_suspended() { self.sum_suspensions() } else { None }
    }

    #[cold]
    fn sum_suspensions(&self) -> Option<Duration> {
        let state = self.lock();
        let known = state.suspensions.0.as_ref()?;
        Some(known.time + known.since.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Lets the connection rest: the next output wakes it. Returns false if there is output already. (Connection's side.)
    pub fn rest(&self, rouse: Arc<dyn Rouse>, place: u64) -> bool {
        let mut state = self.lock();
        if state.has_output() {
            return false;
        }
        state.outbox.blocks.shrink_to(0);
        state.suspensions.known().bed = Some((rouse, place));
        self.rests.store(true, Ordering::Release);
        true
    }

    /// Records that the connection no longer rests. (Connection's side.)
    pub fn get_up(&self) {
        drop(self.take_bed());
    }

    fn take_bed(&self) -> Option<(Arc<dyn Rouse>, u64)> {
        let mut state = self.lock();
        self.rests.store(false, Ordering::Release);
        state.suspensions.0.as_mut()?.bed.take()
    }

    /// Returns whether the response is suspended. (Any thread.)
    pub fn is_suspended(&self) -> bool {
        self.lock().suspensions.0.as_ref().is_some_and(|known| known.producer.is_some())
    }

    /// Ends the response at its next suspension, or now if it is suspended, because the server stops. Returns whether it
    /// is suspended. (Any thread.)
    pub fn end_suspended(&self) -> bool {
        let mut state = self.lock();
        state.suspensions.known().is_ending = true;
        let producer = state.suspensions.take();
        drop(state);
        producer.is_some_and(|producer| {
            producer.wake();
            true
        })
    }
}

impl Responder {
    /// Records that the response is suspended. Returns false if it must end instead: the client has gone, or the server
    /// ends suspended responses.
    pub fn suspend(&mut self, producer: Arc<dyn Producer>, pause: Pause) -> bool {
        let mut state = self.exchange.lock();
        if state.gone || state.suspensions.is_ending() {
            return false;
        }
        let known = state.suspensions.known();
        (known.producer, known.since) = (Some(producer), Some(Instant::now()));
        self.exchange.suspended.fetch_max(HELD, Ordering::Relaxed);
        if pause == Pause::Held {
            return true;
        }
        let permit = state.permit.take();
        drop(state);
        drop(permit);
        self.exchange.suspended.store(MAY_REST, Ordering::Relaxed);
        if !self.exchange.rests.load(Ordering::Acquire) {
            // The coroutine waits for output, and may rest from now on.
            self.exchange.waker.wake_later();
        }
        true
    }

    /// Records that the response goes on. Returns false if it must end instead.
    pub fn resume(&mut self) -> bool {
        let mut state = self.exchange.lock();
        let producer = state.suspensions.take();
        let goes_on = !state.gone && !state.suspensions.is_ending();
        let known = state.suspensions.known();
        known.time += known.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        drop(state);
        drop(producer);
        goes_on
    }

    /// Returns whether the server ends the response because it was suspended and the server stops.
    pub fn is_ended_by_server(&self) -> bool {
        let state = self.exchange.lock();
        state.suspensions.is_ending() && !state.gone
    }

    /// Sends the head now, before the first block.
    pub fn send_head(&mut self, head: ResponseHead) {
        let mut state = self.exchange.lock();
        if state.is_overdue {
            return;
        }
        state.head_given = true;
        state.outbox.head = Some(head);
        state.outbox.head_now = true;
        drop(state);
        self.exchange.wake_now();
    }
}
