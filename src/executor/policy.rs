//! Decides when one more thread starts a call, and when one rests. The decision depends only on the observations passed
//! in.
//!
//! *Runs on*: the standby thread, and the monitor. *Invariants*: reads no clock and no shared state, so that each rule
//! is tested as a table.

mod attempts;

pub(super) use self::attempts::{Attempts, Judgement, Move, SECOND_LOOK, Seen, Verdict};

/// Returns how many threads start calls without a standby. Each further one needs a standby that has seen that it
/// helps. With a GIL it is one, since only one thread can compute. Without a GIL it is one for each processor.
#[inline]
pub(super) fn started_at_once(has_gil: bool, processors: usize, threads_max: usize) -> usize {
    if has_gil { 1 } else { processors.min(threads_max).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_start_by_themselves_are_one_with_a_gil_and_one_per_processor_without() {
        for (has_gil, processors, threads_max, expected) in
            [(true, 8, 256, 1), (false, 8, 256, 8), (false, 8, 2, 2), (false, 1, 256, 1), (false, 0, 256, 1)]
        {
            let most = started_at_once(has_gil, processors, threads_max);
            assert_eq!(most, expected, "{has_gil} {processors} {threads_max}");
        }
    }
}
