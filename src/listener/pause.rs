//! The time for which a listener leaves a client to other processes.
//!
//! *Owns*: a timer of its own, because the deadlines of connections are too coarse. *Runs on*: the listener's coroutine.
//! *Invariants*: a pause begins only with a client in the queue, and looks again until that client is gone or accepted.
//! So no client is forgotten, although the socket reports it only once.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use super::Acceptor;
use crate::sys::{TimerFd, Waitable};

/// The time to the second look. A process that sleeps is woken and has accepted by then.
const STEP_MIN: Duration = Duration::from_micros(50);
/// The longest time between two looks. Each look is at most as late.
const STEP_MAX: Duration = Duration::from_micros(400);

/// A listener's pause, which may last.
#[derive(Debug)]
pub(super) struct Pause {
    fd: TimerFd,
    waitable: Waitable,
    /// When it began.
    since: Cell<Option<Instant>>,
    step: Cell<Duration>,
}

impl Pause {
    /// Makes a pause that does not last.
    pub(super) fn new() -> io::Result<Self> {
        let (fd, waitable) = TimerFd::new()?;
        Ok(Self { fd, waitable, since: Cell::new(None), step: Cell::new(STEP_MIN) })
    }

    /// Returns whether the next client is left to other processes. Reads the clock only if it may be.
    pub(super) fn lasts(&self, acceptor: &impl Acceptor) -> bool {
        let patience = acceptor.patience();
        let lasts = !patience.is_zero() && self.since.get().is_none_or(|since| since.elapsed() < patience);
        if !lasts {
            self.end();
        }
        lasts
    }

    /// Ends the pause: the next client gets a pause of its own.
    pub(super) fn end(&self) {
        self.since.set(None);
        self.step.set(STEP_MIN);
    }

    /// Waits until the next look. (Coroutine.)
    pub(super) fn wait(&self) {
        if self.since.get().is_none() {
            self.since.set(Some(Instant::now()));
        }
        let step = self.step.get();
        self.step.set((step * 2).min(STEP_MAX));
        // Arming the timer takes back an expiry that no read has taken.
        self.fd.arm(step);
        self.waitable.wait();
    }
}
