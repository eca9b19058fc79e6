//! The tick of the runtime's thread, which tells the supervisor that coroutines run.
//!
//! *Owns*: a timer. *Runs on*: one coroutine. *Invariants*: it ticks until the server is dropped.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Inner;
use crate::sys::{self, TimerFd, Waitable};

/// The time between two ticks.
const EVERY: Duration = Duration::from_secs(1);

/// Starts the coroutine that ticks, if the process has a slot.
///
/// # Errors
/// The process has no descriptor left.
pub(super) fn start(inner: &Arc<Inner>) -> io::Result<()> {
    if inner.slot.is_some() {
        let (timer, waitable) = TimerFd::new()?;
        let inner = Arc::downgrade(inner);
        sys::spawn(move || run(&inner, &timer, &waitable));
    }
    Ok(())
}

fn run(inner: &Weak<Inner>, timer: &TimerFd, waitable: &Waitable) {
    while let Some(inner) = inner.upgrade() {
        if let Some(slot) = &inner.slot {
            slot.tick_runtime();
            // A worker that accepts nothing shows its load here.
            inner.show_load(slot);
        }
        // A coroutine that waits must not keep the server.
        drop(inner);
        timer.arm(EVERY);
        waitable.wait();
        timer.clear();
    }
}
