//! The work that waits for a thread: calls, and steps of calls that have waited for an event.
//!
//! *Owns*: both queues. *Runs on*: any thread adds; the executor's threads take. *Invariants*: while calls and steps wait,
//! a thread gives each of them half of its time, and at least one turn after the other. So an event for ten thousand
//! responses delays no request by all of their steps, and many requests delay no event by all of theirs.

use std::time::Instant;

use crossbeam::queue::SegQueue;

/// Both queues.
pub(super) struct Queue<C> {
    calls: SegQueue<C>,
    steps: SegQueue<C>,
}

/// Which of the two queues one thread takes from, while something waits in both.
#[derive(Default)]
pub(super) enum Turn {
    /// One of them was empty.
    #[default]
    Free,
    /// It has taken a call, at this time.
    Call(Instant),
    /// It takes steps until this time.
    Steps(Instant),
}

impl<C> Default for Queue<C> {
    fn default() -> Self {
        Self { calls: SegQueue::new(), steps: SegQueue::new() }
    }
}

impl<C> Queue<C> {
    /// Adds a call.
    #[inline]
    pub(super) fn push(&self, call: C) {
        self.calls.push(call);
    }

    /// Adds a step of a call that has begun.
    pub(super) fn push_step(&self, step: C) {
        self.steps.push(step);
    }

    /// Returns whether nothing waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.steps.is_empty()
    }

    /// Returns how many calls and steps wait.
    pub(super) fn len(&self) -> usize {
        self.calls.len() + self.steps.len()
    }

    /// Takes what runs next on the thread that has this turn.
    #[inline]
    pub(super) fn pop(&self, turn: &mut Turn) -> Option<C> {
        if self.steps.is_empty() {
            *turn = Turn::Free;
            return self.calls.pop();
        }
        self.pop_in_turn(turn, Instant::now())
    }

    /// Takes a call, or a step, as both may wait.
    #[cold]
    fn pop_in_turn(&self, turn: &mut Turn, now: Instant) -> Option<C> {
        match *turn {
            Turn::Steps(until) if now < until => {}
            Turn::Call(since) => *turn = Turn::Steps(now + now.duration_since(since)),
            Turn::Free | Turn::Steps(_) => {
                if let Some(call) = self.calls.pop() {
                    *turn = Turn::Call(now);
                    return Some(call);
                }
            }
        }
        self.steps.pop().or_else(|| self.calls.pop())
    }

    /// Removes the calls for which `stays` is false. The others keep their order, except that calls queued meanwhile may
    /// move ahead. Steps stay.
    pub(super) fn sweep(&self, stays: impl Fn(&C) -> bool) {
        for _ in 0..self.calls.len() {
            let Some(call) = self.calls.pop() else { return };
            if stays(&call) {
                self.calls.push(call);
            }
        }
    }

    /// Drops all that waits.
    pub(super) fn clear(&self) {
        while self.calls.pop().is_some() || self.steps.pop().is_some() {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Returns the order in which one thread runs a number of calls and of steps, with the microseconds of each.
    fn order(calls: (usize, u64), steps: (usize, u64)) -> String {
        let queue = Queue::default();
        for _ in 0..calls.0 {
            queue.push(('c', calls.1));
        }
        for _ in 0..steps.0 {
            queue.push_step(('s', steps.1));
        }
        let (mut now, mut turn, mut order) = (Instant::now(), Turn::default(), String::new());
        while let Some((kind, micros)) = queue.pop_in_turn(&mut turn, now) {
            order.push(kind);
            now += Duration::from_micros(micros);
        }
        assert!(queue.is_empty());
        order
    }

    #[test]
    fn calls_and_steps_get_half_of_the_time_each() {
        assert_eq!(order((3, 80), (14, 20)), "csssscssssc".to_owned() + "ssssss");
        assert_eq!(order((3, 10), (5, 1_000)), "cscscsss", "a call waits for one step");
        assert_eq!(order((4, 1_000), (4, 600)), "csscsscc", "a step that has begun ends");
        assert_eq!(order((3, 100_000), (1_000, 20)).find('s'), Some(1), "a call comes first");
        assert_eq!(order((2, 100_000), (10_000, 20)).rfind('c'), Some(5_001));
        assert_eq!((order((3, 1), (0, 0)), order((0, 0), (3, 1))), ("ccc".to_owned(), "sss".to_owned()));
    }

    #[test]
    fn calls_before_the_first_step_do_not_count() {
        let queue = Queue::default();
        let began = Instant::now();
        let mut turn = Turn::Call(began);
        queue.push('c');
        assert_eq!(queue.pop(&mut turn), Some('c'));
        assert!(matches!(turn, Turn::Free));
        for kind in ['c', 'c', 's', 's'] {
            if kind == 'c' { queue.push(kind) } else { queue.push_step(kind) }
        }
        let later = began + Duration::from_secs(9);
        assert_eq!((0..3).map(|_| queue.pop_in_turn(&mut turn, later).unwrap()).collect::<String>(), "csc");
    }

    #[test]
    fn sweep_removes_calls_and_no_steps() {
        let queue = Queue::default();
        for number in 1..=4 {
            queue.push(number);
        }
        queue.push_step(1);
        queue.sweep(|number| number % 2 == 0);
        assert_eq!(queue.len(), 3);
        queue.clear();
        assert!(queue.is_empty());
    }
}
