//! Log lines that a loop can repeat: at most one per interval, with a count of the suppressed ones.
//!
//! *Owns*: the time from which the next line may be written. *Runs on*: any thread; it waits only for a short lock.

use std::fmt;
use std::time::{Duration, Instant};

use crate::sys::Lock;

/// Lets one line per interval pass.
#[derive(Debug)]
pub struct Throttle {
    every: Duration,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    /// Lines before this time are held back.
    next: Option<Instant>,
    held_back: u64,
}

/// The end of a line that may be written. It says how many lines were held back since the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldBack(pub u64);

impl Throttle {
    /// Lets one line pass in each interval of this length.
    pub const fn new(every: Duration) -> Self {
        Self { every, state: Lock::new(State { next: None, held_back: 0 }) }
    }

    /// Returns the end of a line if the line may be written now. `None` means that it is held back.
    pub fn pass(&self) -> Option<HeldBack> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<HeldBack> {
        let mut state = self.state.lock();
        if state.next.is_some_and(|next| now < next) {
            state.held_back += 1;
            return None;
        }
        state.next = Some(now + self.every);
        Some(HeldBack(std::mem::take(&mut state.held_back)))
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(" (once more since the last such line)"),
            more => write!(f, " ({more} times more since the last such line)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_within_an_interval_are_held_back_and_counted() {
        let throttle = Throttle::new(Duration::from_secs(10));
        let begin = Instant::now();
        let at = |seconds| throttle.pass_at(begin + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(HeldBack(0)));
        assert_eq!((at(1), at(9)), (None, None));
        assert_eq!(at(10), Some(HeldBack(2)));
        assert_eq!(at(30), Some(HeldBack(0)));
    }

    #[test]
    fn count_is_written_only_if_lines_were_held_back() {
        assert_eq!(HeldBack(0).to_string(), "");
        assert_eq!(HeldBack(1).to_string(), " (once more since the last such line)");
        assert_eq!(HeldBack(7).to_string(), " (7 times more since the last such line)");
    }
}
