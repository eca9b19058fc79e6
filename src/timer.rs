//! Deadlines: a wheel of lazily moved entries, and the coroutine that wakes connections whose deadline has passed.
//!
//! *Owns*: one timerfd and the deadlines of connections that have a coroutine (those at rest have theirs in the idle
//! set, on the same wheel type). *Runs on*: one coroutine; `Timer` is used on the coroutine it belongs to.
//! *Invariants*: a connection stands on the wheel at most once per earlier deadline; moving a deadline later costs a
//! store, because the entry finds out when it comes up. Nothing ticks while no deadline is set.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::{self, TimerFd, Waitable, Waker};

/// The wheel's resolution. Deadlines are never early and at most this much late.
const TICK: Duration = Duration::from_nanos(TICK_NANOS);
const TICK_NANOS: u64 = 4_000_000;

/// A point on the wheel: ticks since the process began to count.
pub type Tick = u64;

/// No deadline.
pub const NEVER: Tick = Tick::MAX;

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// The first tick that is not before `at`.
pub fn tick_of(at: Instant) -> Tick {
    let since = at.saturating_duration_since(epoch());
    u64::try_from(since.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(NEVER)
}

/// When a tick begins.
pub fn moment(tick: Tick) -> Instant {
    epoch() + Duration::from_nanos(tick.saturating_mul(TICK_NANOS))
}

/// The tick that has begun last.
pub fn current_tick() -> Tick {
    u64::try_from(epoch().elapsed().as_nanos() / TICK.as_nanos()).unwrap_or(NEVER)
}

/// How long it is from now to the beginning of `tick`.
pub fn until(tick: Tick) -> Duration {
    let nanos = u128::from(tick).saturating_mul(TICK.as_nanos());
    let at = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    at.saturating_sub(epoch().elapsed())
}

/// Keys by the tick at which they come up.
#[derive(Debug)]
pub struct Wheel<K> {
    entries: BTreeMap<Tick, Vec<K>>,
}

impl<K> Default for Wheel<K> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<K> Wheel<K> {
    /// Puts a key up at a tick. Answers whether nothing else comes up earlier.
    pub fn insert(&mut self, tick: Tick, key: K) -> bool {
        let first = self.next().is_none_or(|next| tick < next);
        self.entries.entry(tick).or_default().push(key);
        first
    }

    /// When the next key comes up.
    pub fn next(&self) -> Option<Tick> {
        self.entries.first_key_value().map(|(tick, _)| *tick)
    }

    /// Takes all keys that have come up by `now`, one tick's worth at a time.
    pub fn pop(&mut self, now: Tick) -> Option<(Tick, Vec<K>)> {
        if self.next()? > now {
            return None;
        }
        self.entries.pop_first()
    }
}

/// One deadline that moves often, and where its entry on the wheel stands.
#[derive(Debug, Clone, Copy)]
pub struct Lazy {
    deadline: Tick,
    queued: Tick,
}

impl Default for Lazy {
    fn default() -> Self {
        Self { deadline: NEVER, queued: NEVER }
    }
}

impl Lazy {
    /// Moves the deadline. Answers true when the wheel needs an entry at that tick.
    pub fn set(&mut self, deadline: Tick) -> bool {
        self.deadline = deadline;
        let earlier = deadline < self.queued;
        if earlier {
            self.queued = deadline;
        }
        earlier
    }

    /// An entry came up that was put there for `queued`: has the deadline passed, or where does the entry go?
    pub fn come_up(&mut self, queued: Tick, now: Tick) -> Due {
        if queued != self.queued {
            return Due::Stale;
        }
        self.queued = NEVER;
        if self.deadline <= now {
            self.deadline = NEVER;
            Due::Passed
        } else if self.deadline == NEVER {
            Due::Stale
        } else {
            self.queued = self.deadline;
            Due::Later(self.deadline)
        }
    }
}

/// What `Lazy::come_up` found.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// The deadline has passed.
    Passed,
    /// It was moved: the entry goes there.
    Later(Tick),
    /// The entry means nothing any more.
    Stale,
}

/// The deadlines of all connections that have a coroutine.
#[derive(Debug)]
struct Timers {
    fd: TimerFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: Vec<Slot>,
    free: Vec<u32>,
    wheel: Wheel<u32>,
}

#[derive(Debug)]
struct Slot {
    lazy: Lazy,
    waker: Option<Waker>,
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn timers() -> &'static Timers {
    static TIMERS: OnceLock<Arc<Timers>> = OnceLock::new();
    TIMERS.get_or_init(|| {
        let (fd, waitable) = TimerFd::new().expect("a timerfd can be made: it needs one descriptor");
        let timers = Arc::new(Timers { fd, state: Mutex::default() });
        let running = Arc::clone(&timers);
        sys::spawn(move || run(&running, &waitable));
        timers
    })
}

/// Wakes whose deadline has passed, for ever.
fn run(timers: &Timers, waitable: &Waitable) {
    loop {
        waitable.wait();
        timers.fd.clear();
        let now = current_tick();
        let mut wakers = Vec::new();
        {
            let mut state = timers.lock();
            while let Some((tick, keys)) = state.wheel.pop(now) {
                for index in keys {
                    let Some(slot) = state.slots.get_mut(index as usize) else { continue };
                    match slot.lazy.come_up(tick, now) {
                        Due::Passed => wakers.extend(slot.waker.clone()),
                        Due::Later(tick) => {
                            state.wheel.insert(tick, index);
                        }
                        Due::Stale => {}
                    }
                }
            }
            if let Some(next) = state.wheel.next() {
                timers.fd.arm(until(next));
            }
        }
        for waker in wakers {
            waker.wake_here();
        }
    }
}

/// One connection's deadline while it has a coroutine. When it passes, the waker is called, once.
#[derive(Debug)]
pub struct Timer {
    index: u32,
    /// The deadline that was set last.
    tick: Cell<Tick>,
}

impl Timer {
    /// A timer without a deadline.
    pub fn new(waker: Waker) -> Self {
        let timers = timers();
        let mut state = timers.lock();
        if let Some(index) = state.free.pop()
            && let Some(slot) = state.slots.get_mut(index as usize)
        {
            slot.waker = Some(waker);
            return Self { index, tick: Cell::new(NEVER) };
        }
        let index = u32::try_from(state.slots.len()).expect("fewer than 2^32 connections");
        state.slots.push(Slot { lazy: Lazy::default(), waker: Some(waker) });
        Self { index, tick: Cell::new(NEVER) }
    }

    /// Sets the deadline. Without one, the waker may still be called for the last: most are followed by a new one before
    /// they pass, and a wake for nothing is allowed.
    pub fn set(&self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        let tick = tick_of(deadline);
        // One that has passed is before every moment that is still to come.
        if self.tick.replace(tick) == tick {
            return;
        }
        let timers = timers();
        let mut state = timers.lock();
        let Some(slot) = state.slots.get_mut(self.index as usize) else { return };
        if slot.lazy.set(tick) && state.wheel.insert(tick, self.index) {
            timers.fd.arm(until(tick));
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut state = timers().lock();
        if let Some(slot) = state.slots.get_mut(self.index as usize) {
            // Its entry on the wheel serves the next one.
            slot.lazy.set(NEVER);
            slot.waker = None;
            state.free.push(self.index);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn wheel_entries_come_up_in_order() {
        let mut wheel = Wheel::default();
        assert!(wheel.insert(5, 'b'));
        assert!(wheel.insert(3, 'a'));
        assert!(!wheel.insert(9, 'c'));
        assert_eq!(wheel.pop(2), None);
        assert_eq!(wheel.pop(6), Some((3, vec!['a'])));
        assert_eq!(wheel.pop(6), Some((5, vec!['b'])));
        assert_eq!(wheel.pop(6), None);
        assert_eq!(wheel.next(), Some(9));
    }

    #[test]
    fn deadline_moved_later_costs_no_entry() {
        let mut lazy = Lazy::default();
        assert!(lazy.set(10));
        assert!(!lazy.set(20));
        assert_eq!(lazy.come_up(10, 10), Due::Later(20));
        assert_eq!(lazy.come_up(20, 20), Due::Passed);
    }

    #[test]
    fn deadline_moved_earlier_passes_once() {
        let mut lazy = Lazy::default();
        assert!(lazy.set(20));
        assert!(lazy.set(10));
        assert_eq!(lazy.come_up(10, 10), Due::Passed);
        assert_eq!(lazy.come_up(20, 20), Due::Stale);
    }

    #[test]
    fn deadline_taken_away_never_passes() {
        let mut lazy = Lazy::default();
        lazy.set(10);
        lazy.set(NEVER);
        assert_eq!(lazy.come_up(10, 99), Due::Stale);
        assert!(lazy.set(100), "and the wheel needs a new entry afterwards");
    }

    #[test]
    fn tick_of_a_moment_is_never_before_it() {
        let at = Instant::now() + Duration::from_millis(10);
        std::thread::sleep(until(tick_of(at)));
        assert!(Instant::now() >= at);
    }
}
