//! Deadlines that move often: a heap with at most one entry for each key.
//!
//! *Owns*: the deadline of every key, and which one is next. *Runs on*: the thread that holds the lock around it.
//! *Invariants*: a key has at most one entry, so memory depends on the number of keys and not on how often their
//! deadlines move. An entry is never later than its deadline. An entry that is too early is moved when its time comes,
//! so moving a deadline to a later time costs one store.

use super::{NEVER, Tick};

/// The heap position of a key without an entry.
const ABSENT: u32 = u32::MAX;

/// How many children an entry of the heap has.
const CHILDREN: usize = 4;

/// The deadlines of keys, which are small numbers.
#[derive(Debug, Default)]
pub struct Deadlines {
    /// The deadlines, by key.
    keys: Vec<Deadline>,
    /// A heap: no entry is due before its parent.
    heap: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Deadline {
    tick: Tick,
    /// The position of its entry in the heap.
    entry_at: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    tick: Tick,
    key: u32,
}

impl Deadlines {
    /// Sets the deadline of a key; `NEVER` removes it. Returns whether it is now due before all others.
    pub fn set(&mut self, key: u32, tick: Tick) -> bool {
        let index = key as usize;
        if self.keys.len() <= index {
            self.keys.resize(index + 1, Deadline { tick: NEVER, entry_at: ABSENT });
        }
        let deadline = &mut self.keys[index];
        deadline.tick = tick;
        let place = deadline.entry_at as usize;
        if deadline.entry_at != ABSENT {
            if self.heap[place].tick <= tick {
                return false;
            }
            self.heap[place].tick = tick;
            return self.move_up(place) == 0;
        }
        if tick == NEVER {
            return false;
        }
        self.heap.push(Entry { tick, key });
        self.move_up(self.heap.len() - 1) == 0
    }

    /// Returns when the next entry is due.
    pub fn next(&self) -> Option<Tick> {
        self.heap.first().map(|entry| entry.tick)
    }

    /// Removes and returns a key whose deadline has passed by `now`.
    pub fn expire(&mut self, now: Tick) -> Option<u32> {
        loop {
            let Entry { tick, key } = *self.heap.first().filter(|entry| entry.tick <= now)?;
            let deadline = &mut self.keys[key as usize];
            debug_assert!(tick <= deadline.tick, "an entry never stands later than its deadline");
            if deadline.tick > now && deadline.tick != NEVER {
                self.heap[0].tick = deadline.tick;
                self.move_down(0);
                continue;
            }
            let passed = std::mem::replace(&mut deadline.tick, NEVER) != NEVER;
            self.take_first();
            if passed {
                return Some(key);
            }
        }
    }

    /// Returns the number of entries.
    #[cfg(test)]
    pub fn entries(&self) -> usize {
        self.heap.len()
    }

    fn take_first(&mut self) {
        let first = self.heap.swap_remove(0);
        self.keys[first.key as usize].entry_at = ABSENT;
        if !self.heap.is_empty() {
            self.move_down(0);
        }
    }

    /// Moves an entry up until it is in order. Returns its position.
    fn move_up(&mut self, mut place: usize) -> usize {
        let entry = self.heap[place];
        while place > 0 {
            let above = (place - 1) / CHILDREN;
            if self.heap[above].tick <= entry.tick {
                break;
            }
            self.put(place, self.heap[above]);
            place = above;
        }
        self.put(place, entry);
        place
    }

    fn move_down(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let first = place * CHILDREN + 1;
            let end = (first + CHILDREN).min(self.heap.len());
            let Some(below) = (first..end).min_by_key(|&below| self.heap[below].tick) else { break };
            if entry.tick <= self.heap[below].tick {
                break;
            }
            self.put(place, self.heap[below]);
            place = below;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: Entry) {
        self.heap[place] = entry;
        self.keys[entry.key as usize].entry_at = u32::try_from(place).expect("fewer than 2^32 connections");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn deadlines_pass_in_order_and_once() {
        let mut deadlines = Deadlines::default();
        assert!(deadlines.set(1, 5));
        assert!(deadlines.set(0, 3));
        assert!(!deadlines.set(2, 9));
        assert_eq!(deadlines.expire(2), None);
        assert_eq!(deadlines.expire(6), Some(0));
        assert_eq!(deadlines.expire(6), Some(1));
        assert_eq!(deadlines.expire(6), None);
        assert_eq!(deadlines.next(), Some(9));
    }

    #[test]
    fn deadline_moved_later_leaves_its_entry_until_that_comes_up() {
        let mut deadlines = Deadlines::default();
        assert!(deadlines.set(0, 10));
        assert!(!deadlines.set(0, 20));
        assert_eq!(deadlines.next(), Some(10));
        assert_eq!(deadlines.expire(10), None);
        assert_eq!(deadlines.next(), Some(20));
        assert_eq!(deadlines.expire(20), Some(0));
    }

    #[test]
    fn deadline_moved_earlier_passes_once() {
        let mut deadlines = Deadlines::default();
        assert!(deadlines.set(0, 20));
        assert!(deadlines.set(0, 10));
        assert_eq!(deadlines.expire(10), Some(0));
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn deadline_taken_away_never_passes() {
        let mut deadlines = Deadlines::default();
        deadlines.set(0, 10);
        deadlines.set(0, NEVER);
        assert_eq!(deadlines.expire(99), None);
        assert!(deadlines.set(0, 100), "and it can be set again");
        assert_eq!(deadlines.expire(100), Some(0));
    }

    #[test]
    fn deadlines_that_move_earlier_again_and_again_have_one_entry_each() {
        // Like a keep-alive time of 24 days: each request sets a far deadline, then a near one.
        let mut deadlines = Deadlines::default();
        let mut now = 0;
        for round in 0..1000 {
            for key in 0..10 {
                deadlines.set(key, now + 500_000_000);
                deadlines.set(key, now + 10);
            }
            now += 11;
            for _ in 0..10 {
                assert!(deadlines.expire(now).is_some());
            }
            for key in 0..10 {
                deadlines.set(key, now + 500_000_000);
            }
            assert_eq!(deadlines.entries(), 10, "after round {round}");
        }
    }

    #[test]
    fn deadlines_pass_as_in_a_plain_list() {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        let mut number = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut deadlines = Deadlines::default();
        let mut list = [NEVER; 50];
        for now in 0..5000_u64 {
            for _ in 0..number(6) {
                let key = usize::try_from(number(50)).unwrap();
                list[key] = if number(8) == 0 { NEVER } else { now + 1 + number(200) };
                let first = deadlines.set(u32::try_from(key).unwrap(), list[key]);
                assert!(!first || list.iter().all(|&tick| list[key] <= tick), "the first of all");
            }
            let mut due: Vec<_> = (0..50).filter(|&key| list[key as usize] <= now).collect();
            for &key in &due {
                list[key as usize] = NEVER;
            }
            let mut passed = Vec::new();
            while let Some(key) = deadlines.expire(now) {
                passed.push(key);
            }
            passed.sort_unstable();
            due.sort_unstable();
            assert_eq!(passed, due);
            let next = list.iter().min().copied().filter(|&tick| tick != NEVER);
            assert!(next.is_none_or(|next| deadlines.next().unwrap() <= next), "none is late");
        }
    }
}
