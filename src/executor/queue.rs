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

    /// What each call and each step takes.
    fn order(calls: &[u64], steps: &[u64]) -> String {
        let queue = Queue::default();
        calls.iter().for_each(|micros| queue.push(('c', *micros)));
        steps.iter().for_each(|micros| queue.push_step(('s', *micros)));
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
        assert_eq!(order(&[80; 3], &[20; 14]), "csssscssssc".to_owned() + "ssssss");
        assert_eq!(order(&[10; 3], &[1_000; 5]), "cscscsss", "a call waits for one step");
        assert_eq!(order(&[1_000; 4], &[600; 4]), "csscsscc", "a step that has begun ends");
        assert_eq!(order(&[100_000; 3], &[20; 1_000]).find('s'), Some(1), "a call comes first");
        assert_eq!(order(&[100_000; 2], &[20; 10_000]).rfind('c'), Some(5_001));
        assert_eq!((order(&[1; 3], &[]), order(&[], &[1; 3])), ("ccc".to_owned(), "sss".to_owned()));
    }

    #[test]
    fn calls_before_the_first_step_do_not_count() {
        let queue = Queue::default();
        let mut turn = Turn::Call(Instant::now() - Duration::from_secs(9));
        queue.push('c');
        assert_eq!(queue.pop(&mut turn), Some('c'));
        (0..2).for_each(|_| queue.push('c'));
        (0..2).for_each(|_| queue.push_step('s'));
        assert_eq!((0..2).map(|_| queue.pop(&mut turn).unwrap()).collect::<String>(), "cs");
    }

    #[test]
    fn sweep_removes_calls_and_no_steps() {
        let queue = Queue::default();
        (1..=4).for_each(|number| queue.push(number));
        queue.push_step(1);
        queue.sweep(|number| number % 2 == 0);
        assert_eq!(queue.len(), 3);
        queue.clear();
        assert!(queue.is_empty());
    }
}
