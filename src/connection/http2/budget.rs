//! What a client may cost without asking for anything: frames that carry no part of a request, and streams that it
//! resets.
//!
//! *Runs on*: the connection's coroutine. *Invariants*: time fills a budget up to its limit, and never beyond. What a
//! usual client sends in return for data that it gets is earned by the data.

use std::time::Instant;

use crate::http2::Counts;

/// Frames without a part of a request, such as PING and SETTINGS.
const IDLE_FRAMES: Rule = Rule { limit: 2000, per_second: 1000 };
/// Streams that the client resets. A browser that leaves a page resets all of them at once.
const RESETS: Rule = Rule { limit: 200, per_second: 10 };
/// A client replies to each frame of data with up to two frames, for the windows of the stream and of the connection.
const EARNED_BY_DATA: u32 = 2;

struct Rule {
    /// How much a client can have saved.
    limit: u32,
    per_second: u32,
}

/// What is left of one budget.
struct Purse {
    left: u32,
    filled: Instant,
}

/// What a client has spent too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flood {
    /// Frames that carry no part of a request.
    IdleFrames,
    /// Streams that it has reset.
    Resets,
}

impl Flood {
    /// Returns the name for a log line, which follows "too many".
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::IdleFrames => "frames that carry no part of a request",
            Self::Resets => "streams that the client has reset",
        }
    }
}

/// The budgets of one connection.
pub(super) struct Budget {
    idle_frames: Purse,
    resets: Purse,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        let purse = |rule: Rule| Purse { left: rule.limit, filled: now };
        Self { idle_frames: purse(IDLE_FRAMES), resets: purse(RESETS) }
    }

    /// Spends frames that have arrived by `now`.
    pub(super) fn spend(&mut self, counts: Counts, now: Instant) -> Result<(), Flood> {
        if !self.idle_frames.spend(counts.idle, &IDLE_FRAMES, now) {
            return Err(Flood::IdleFrames);
        }
        if !self.resets.spend(counts.resets, &RESETS, now) {
            return Err(Flood::Resets);
        }
        Ok(())
    }

    /// Notes that the client gets a frame of data.
    pub(super) fn earn_by_data(&mut self) {
        self.idle_frames.earn(EARNED_BY_DATA, &IDLE_FRAMES);
    }

    /// Notes that the client has got a whole response.
    pub(super) fn earn_by_response(&mut self) {
        self.resets.earn(1, &RESETS);
    }
}

impl Purse {
    fn spend(&mut self, count: u32, rule: &Rule, now: Instant) -> bool {
        if count == 0 {
            return true;
        }
        let passed = now.saturating_duration_since(self.filled);
        let earned = passed.as_millis() * u128::from(rule.per_second) / 1000;
        if earned > 0 {
            self.filled = now;
            self.earn(u32::try_from(earned).unwrap_or(u32::MAX), rule);
        }
        let has_enough = count <= self.left;
        self.left = self.left.saturating_sub(count);
        has_enough
    }

    fn earn(&mut self, count: u32, rule: &Rule) {
        self.left = self.left.saturating_add(count).min(rule.limit);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn budget_ends_and_time_fills_it() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let idle = |idle| Counts { all: idle, idle, ..Counts::default() };
        assert_eq!(budget.spend(idle(2000), now), Ok(()));
        assert_eq!(budget.spend(idle(1), now), Err(Flood::IdleFrames));
        assert_eq!(budget.spend(idle(500), now + Duration::from_millis(500)), Ok(()));
        assert_eq!(budget.spend(idle(1), now + Duration::from_millis(500)), Err(Flood::IdleFrames));
        assert_eq!(budget.spend(idle(2001), now + Duration::from_secs(3600)), Err(Flood::IdleFrames));
    }

    #[test]
    fn data_and_responses_earn_their_replies() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let counts = Counts { all: 2200, idle: 2000, resets: 200, ..Counts::default() };
        assert_eq!(budget.spend(counts, now), Ok(()));
        budget.earn_by_data();
        budget.earn_by_response();
        assert_eq!(budget.spend(Counts { all: 3, idle: 2, resets: 1, ..Counts::default() }, now), Ok(()));
        assert_eq!(budget.spend(Counts { all: 1, resets: 1, ..Counts::default() }, now), Err(Flood::Resets));
    }
}
