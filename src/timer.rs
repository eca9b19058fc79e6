//! Deadlines, and the coroutine that wakes connections whose deadline has passed.
//!
//! *Owns*: one timerfd, and the deadlines of connections that have a coroutine. The idle set keeps those of idle
//! connections in its own `Deadlines`. *Runs on*: one coroutine; a `Timer` is used on the coroutine to which it
//! belongs. *Invariants*: no code runs while no deadline is set.

mod deadlines;

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::chain::SPARE_MIN;
use crate::sys::{self, Lock, TimerFd, Waitable, Waker};

pub use self::deadlines::Deadlines;

/// The resolution. A timer never expires early, and expires at most this much late.
const TICK: Duration = Duration::from_nanos(TICK_NANOS);
const TICK_NANOS: u64 = 4_000_000;

/// A point in time, in ticks since a day before the process began to count.
pub type Tick = u64;

/// How far back the ticks reach, for connections that another process has handed over.
const PAST: Duration = Duration::from_secs(24 * 60 * 60);

/// No deadline.
pub const NEVER: Tick = Tick::MAX;

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(|| {
        let now = Instant::now();
        now.checked_sub(PAST).unwrap_or(now)
    })
}

/// Returns the first tick that is not before `at`.
pub fn tick_of(at: Instant) -> Tick {
    let since = at.saturating_duration_since(epoch());
    u64::try_from(since.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(NEVER)
}

/// Returns when a tick begins.
pub fn moment(tick: Tick) -> Instant {
    epoch() + Duration::from_nanos(tick.saturating_mul(TICK_NANOS))
}

/// Returns the tick that began last.
fn current_tick() -> Tick {
    u64::try_from(epoch().elapsed().as_nanos() / TICK.as_nanos()).unwrap_or(NEVER)
}

/// Returns how long it is from now until `tick` begins.
fn until(tick: Tick) -> Duration {
    let nanos = u128::from(tick).saturating_mul(TICK.as_nanos());
    let at = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    at.saturating_sub(epoch().elapsed())
}

/// Sets the deadline of a key, and arms `fd` if no other deadline is earlier.
pub fn set(deadlines: &mut Deadlines, fd: &TimerFd, key: u32, tick: Tick) {
    if deadlines.set(key, tick) {
        fd.arm(until(tick));
    }
}

/// Passes on each key whose deadline has passed, and arms `fd` for the next deadline.
pub fn expire(deadlines: &mut Deadlines, fd: &TimerFd, mut passed: impl FnMut(u32)) {
    let now = current_tick();
    while let Some(key) = deadlines.expire(now) {
        passed(key);
    }
    if let Some(next) = deadlines.next() {
        fd.arm(until(next));
    }
}

/// The deadlines of all connections that have a coroutine.
#[derive(Debug)]
struct Timers {
    fd: TimerFd,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The wakers, by timer number.
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
    deadlines: Deadlines,
}

static TIMERS: OnceLock<Arc<Timers>> = OnceLock::new();

/// Makes the process's timer and its coroutine, unless they exist. `Timer::new` needs it.
///
/// # Errors
/// The process has no descriptor left.
pub fn start() -> std::io::Result<()> {
    static STARTING: Lock<()> = Lock::new(());
    let _starting = STARTING.lock();
    if TIMERS.get().is_none() {
        let (fd, waitable) = TimerFd::new()?;
        let timers = Arc::new(Timers { fd, state: Lock::default() });
        let running = Arc::clone(&timers);
        sys::spawn(move || run(&running, &waitable));
        // The lock keeps other threads from setting it.
        let _ = TIMERS.set(timers);
    }
    Ok(())
}

fn timers() -> &'static Timers {
    TIMERS.get().expect("a server calls `start` before it makes timers")
}

/// Wakes connections whose deadline has passed, forever.
fn run(timers: &Timers, waitable: &Waitable) {
    loop {
        waitable.wait();
        timers.fd.clear();
        let mut due = Vec::new();
        {
            let State { wakers, deadlines, .. } = &mut *timers.state.lock();
            expire(deadlines, &timers.fd, |index| due.extend(wakers.get(index as usize).cloned().flatten()));
        }
        for waker in due {
            waker.wake_here();
        }
    }
}

/// The deadline of one connection that has a coroutine. When it passes, the waker is called once.
#[derive(Debug)]
pub struct Timer {
    index: u32,
    /// The deadline that was set last.
    tick: Cell<Tick>,
}

impl Timer {
    /// Makes a timer without a deadline.
    pub fn new(waker: Waker) -> Self {
        let timers = timers();
        let mut state = timers.state.lock();
        let index = state.free.pop().unwrap_or_else(|| {
            state.wakers.push(None);
            u32::try_from(state.wakers.len() - 1).expect("fewer than 2^32 connections")
        });
        state.wakers[index as usize] = Some(waker);
        Self { index, tick: Cell::new(NEVER) }
    }

    /// Sets the deadline, which replaces the previous one. A deadline cannot be removed, only replaced. So a connection
    /// that then waits without a deadline may be woken once without a reason.
    pub fn set(&self, deadline: Instant) {
        let tick = tick_of(deadline);
        // An equal deadline is still set: one that has passed cannot equal a future one.
        if self.tick.replace(tick) == tick {
            return;
        }
        let timers = timers();
        set(&mut timers.state.lock().deadlines, &timers.fd, self.index, tick);
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut state = timers().state.lock();
        state.wakers[self.index as usize] = None;
        state.free.push(self.index);
        if state.free.len() == state.wakers.len() && state.free.len() >= SPARE_MIN {
            // Gives back the memory of a peak.
            *state = State::default();
        } else {
            // The heap entry stays where it is, and serves the next timer with this number.
            state.deadlines.set(self.index, NEVER);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn tick_of_a_moment_is_never_before_it() {
        let at = Instant::now() + Duration::from_millis(10);
        std::thread::sleep(until(tick_of(at)));
        assert!(Instant::now() >= at);
    }
}
