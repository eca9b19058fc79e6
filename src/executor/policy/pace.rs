//! Decides how many calls make a group, and when the runtime leaves the processor to the calls.
//!
//! *Runs on*: the executor's threads, and the runtime's thread.

use std::time::Duration;

/// The most responses whose coroutines are woken together …
const GROUP_MAX: u64 = 16;
/// … limited to as many as end within this time on average, in nanoseconds, while calls are queued. Waking the runtime
/// for each response costs as much as a call of 30 µs.
const GROUP_NANOS: u64 = 250_000;
/// With one processor, the shortest pause in which the runtime leaves the processor to the calls …
const PAUSE_MIN: Duration = Duration::from_micros(100);
/// … and the longest.
const PAUSE_MAX: Duration = Duration::from_millis(1);
/// With one processor, the runtime yields to calls that are shorter than this on average, in nanoseconds.
const SHORT_CALL_NANOS: u64 = 30_000;

/// Returns how many calls form a group: they start together, and their responses are sent together. The result is 1 if
/// calls are long or no call has ended (an average of 0).
#[inline]
pub(in crate::executor) fn group(average_nanos: u64) -> u64 {
    GROUP_NANOS.checked_div(average_nanos).unwrap_or(1).clamp(1, GROUP_MAX)
}

/// Returns the moving average of a call's length after calls of this length. An average of 0 means that no call has
/// ended yet, so the result is at least 1.
#[inline]
pub(in crate::executor) fn moving_average(average_nanos: u64, nanos: u64) -> u64 {
    let moved = if average_nanos == 0 { nanos } else { average_nanos - average_nanos / 8 + nanos / 8 };
    moved.max(1)
}

/// What the runtime does on the only processor when it has queued calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::executor) enum Pause {
    /// It goes on.
    None,
    /// It lets one waiting thread run.
    Yield,
    Sleep(Duration),
}

/// Returns how long the runtime leaves the only processor to the calls: for a part of the queued ones. Without the
/// pause, every incoming packet would interrupt a call. Two switches and cold caches cost more than 30 µs. New requests
/// would only join the queue anyway.
pub(in crate::executor) fn pause(queued: usize, average_nanos: u64, running: usize) -> Pause {
    let nanos = u64::try_from(queued).unwrap_or(u64::MAX).saturating_mul(average_nanos);
    let pause = Duration::from_nanos(nanos / 4).min(PAUSE_MAX);
    if pause >= PAUSE_MIN {
        Pause::Sleep(pause)
    } else if average_nanos <= SHORT_CALL_NANOS && running > 0 {
        Pause::Yield
    } else {
        Pause::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: u64 = 1_000;
    const MILLI: u64 = 1_000_000;

    #[test]
    fn short_calls_make_groups_and_long_ones_do_not() {
        for (average, expected) in [
            (0, 1),
            (1, 16),
            (15 * MICRO, 16),
            (16 * MICRO, 15),
            (50 * MICRO, 5),
            (250 * MICRO, 1),
            (10 * MILLI, 1),
            (u64::MAX, 1),
        ] {
            assert_eq!(group(average), expected, "{average}");
        }
    }

    #[test]
    fn average_begins_with_the_first_calls_and_moves_by_an_eighth() {
        for (average, nanos, expected) in [
            (0, 0, 1),
            (0, 800, 800),
            (800, 800, 800),
            (800, 1600, 900),
            (800, 0, 700),
            (1, 0, 1),
            (u64::MAX, u64::MAX, u64::MAX - 7),
        ] {
            let moved = moving_average(average, nanos);
            assert!(moved.abs_diff(expected) < 8, "{average} {nanos}: {moved}");
            assert!(moved > 0);
        }
    }

    #[test]
    fn runtime_sleeps_for_a_quarter_of_the_queued_calls_and_yields_to_a_short_one() {
        let micros = Duration::from_micros;
        for (queued, average, running, expected) in [
            (0, 0, 0, Pause::None),
            (1, 0, 1, Pause::Yield),
            (1, 30 * MICRO, 1, Pause::Yield),
            (1, 31 * MICRO, 1, Pause::None),
            (1, 30 * MICRO, 0, Pause::None),
            (13, 30 * MICRO, 1, Pause::Yield),
            (14, 30 * MICRO, 1, Pause::Sleep(micros(105))),
            (1, MILLI, 0, Pause::Sleep(micros(250))),
            (1, 10 * MILLI, 1, Pause::Sleep(micros(1_000))),
            (usize::MAX, u64::MAX, 1, Pause::Sleep(micros(1_000))),
        ] {
            assert_eq!(pause(queued, average, running), expected, "{queued} {average} {running}");
        }
    }
}
