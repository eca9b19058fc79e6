//! The places of an idle set: which values are there, and why.
//!
//! *Owns*: each value in the set, and the order of the values that can be evicted or wait for a coroutine. *Runs on*: the
//! thread that holds the lock around it. *Invariants*: a method looks at one slot only, unless it takes all values or
//! gives memory back.

use crate::chain::{Chain, Link, Linked, NOWHERE, SPARE_MIN};

/// The places of a set.
#[derive(Debug)]
pub(super) struct Slots<T> {
    table: Vec<Slot<T>>,
    free: Vec<u32>,
    /// The idle values that may be evicted, in the order in which they became idle.
    evictable: Chain,
    /// The values that wait for a coroutine, in the order in which they came.
    waiting: Chain,
    /// How many values are idle.
    idle_count: usize,
    /// How many values wait for a coroutine.
    waiting_count: usize,
    /// How many values are asleep.
    asleep_count: usize,
    /// The generation of a new slot. Events of removed slots carry an earlier one.
    generation: u32,
}

/// One place.
#[derive(Debug)]
pub(super) struct Slot<T> {
    /// Distinguishes the current value from earlier values at this place.
    pub(super) generation: u32,
    /// Whether the epoll set knows the value's descriptor.
    pub(super) registered: bool,
    kind: Kind,
    link: Link,
    kept: Option<T>,
}

/// Why a value is in the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The value is idle, and stays until its deadline.
    Fixed,
    /// The value is idle, and may be evicted.
    Evictable,
    /// The value waits for a coroutine.
    Waiting,
    /// The value stays until it is roused, or its client leaves.
    Asleep,
}

impl<T> Linked for Slot<T> {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            table: Vec::new(),
            free: Vec::new(),
            evictable: Chain::default(),
            waiting: Chain::default(),
            idle_count: 0,
            waiting_count: 0,
            asleep_count: 0,
            generation: 0,
        }
    }
}

impl<T> Slots<T> {
    /// Takes a free place, and returns its index.
    pub(super) fn claim(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let (generation, kind, link) = (self.generation, Kind::Fixed, Link::default());
            self.table.push(Slot { generation, registered: false, kind, link, kept: None });
            let index = u32::try_from(self.table.len() - 1).ok();
            index.filter(|&index| index < NOWHERE).expect("fewer than 2^32 connections")
        })
    }

    /// Gives a place back. Returns whether the memory of all places was given back with it, because all are free.
    pub(super) fn give_back(&mut self, index: u32) -> bool {
        let Some(slot) = self.table.get_mut(index as usize) else { return false };
        // Closing has removed the descriptor from the epoll set, but an event may have been read before.
        slot.generation = slot.generation.wrapping_add(1);
        slot.registered = false;
        self.free.push(index);
        let all_free = self.free.len() == self.table.len() && self.free.len() >= SPARE_MIN;
        if all_free {
            let latest = self.table.iter().map(|slot| slot.generation).max().unwrap_or(0);
            *self = Self { generation: latest.wrapping_add(1), ..Self::default() };
        }
        all_free
    }

    /// Returns the slot of a place.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        self.table.get_mut(index as usize)
    }

    /// Returns the value at a place.
    pub(super) fn value(&self, index: u32) -> Option<&T> {
        self.table.get(index as usize)?.kept.as_ref()
    }

    /// Puts a value at its place, which is empty.
    pub(super) fn keep(&mut self, index: u32, kept: T, kind: Kind) {
        self.table[index as usize].kept = Some(kept);
        self.table[index as usize].kind = kind;
        match kind {
            Kind::Fixed => self.idle_count += 1,
            Kind::Evictable => {
                self.idle_count += 1;
                self.evictable.push(&mut self.table, index);
            }
            Kind::Waiting => {
                self.waiting_count += 1;
                self.waiting.push(&mut self.table, index);
            }
            Kind::Asleep => self.asleep_count += 1,
        }
    }

    /// Takes the value at a place, if there is one.
    pub(super) fn take(&mut self, index: u32) -> Option<(T, Kind)> {
        let slot = self.table.get_mut(index as usize)?;
        let (kept, kind) = (slot.kept.take()?, slot.kind);
        match kind {
            Kind::Fixed => self.idle_count -= 1,
            Kind::Evictable => {
                self.idle_count -= 1;
                self.evictable.remove(&mut self.table, index);
            }
            Kind::Waiting => {
                self.waiting_count -= 1;
                self.waiting.remove(&mut self.table, index);
            }
            Kind::Asleep => self.asleep_count -= 1,
        }
        Some((kept, kind))
    }

    /// Takes the value that has been idle longest of all values that may be evicted.
    pub(super) fn take_oldest(&mut self) -> Option<T> {
        self.take(self.evictable.first()?).map(|(oldest, _)| oldest)
    }

    /// Takes the value that has waited longest for a coroutine.
    pub(super) fn take_waiting(&mut self) -> Option<T> {
        self.take(self.waiting.first()?).map(|(next, _)| next)
    }

    /// Takes all values of the kinds that are wanted.
    pub(super) fn take_all(&mut self, wanted: impl Fn(Kind) -> bool) -> Vec<T> {
        let places = 0..u32::try_from(self.table.len()).unwrap_or(NOWHERE);
        let takes = |index: u32| wanted(self.table[index as usize].kind).then(|| self.take(index)).flatten();
        places.filter_map(takes).map(|(kept, _)| kept).collect()
    }

    /// Returns how many values are idle.
    pub(super) fn idle_count(&self) -> usize {
        self.idle_count
    }

    /// Returns how many values wait for a coroutine.
    pub(super) fn waiting_count(&self) -> usize {
        self.waiting_count
    }

    /// Returns how many values are asleep.
    pub(super) fn asleep_count(&self) -> usize {
        self.asleep_count
    }

    /// Returns whether the value at a place is asleep.
    pub(super) fn is_asleep(&self, index: u32) -> bool {
        self.table.get(index as usize).is_some_and(|slot| slot.kept.is_some() && slot.kind == Kind::Asleep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_of_the_evictable_leaves_first_and_fixed_ones_never() {
        let mut slots = Slots::default();
        let kinds = [Kind::Fixed, Kind::Evictable, Kind::Waiting, Kind::Evictable, Kind::Asleep];
        for (value, kind) in ('a'..).zip(kinds) {
            let index = slots.claim();
            slots.keep(index, value, kind);
        }
        assert_eq!((slots.idle_count(), slots.waiting_count(), slots.asleep_count()), (3, 1, 1));
        assert!(slots.is_asleep(4) && !slots.is_asleep(0) && !slots.is_asleep(9));
        assert_eq!((slots.take_oldest(), slots.take_oldest(), slots.take_oldest()), (Some('b'), Some('d'), None));
        assert_eq!((slots.take_waiting(), slots.take_waiting()), (Some('c'), None));
        assert_eq!(slots.take_all(|kind| kind == Kind::Fixed), ['a']);
        assert_eq!(slots.take(4), Some(('e', Kind::Asleep)));
        assert_eq!((slots.idle_count(), slots.waiting_count(), slots.asleep_count()), (0, 0, 0));
    }

    #[test]
    fn memory_of_a_peak_is_given_back_when_all_places_are_free() {
        let mut slots = Slots::<()>::default();
        let places: Vec<_> = (0..SPARE_MIN).map(|_| slots.claim()).collect();
        let given_back = places.iter().filter(|&&place| slots.give_back(place)).count();
        assert_eq!((given_back, slots.table.capacity(), slots.free.capacity()), (1, 0, 0));
        assert_eq!(slots.generation, 2, "an event of the peak carries an earlier generation");
    }

    #[test]
    fn slot_is_small() {
        assert!(size_of::<Slot<Box<u8>>>() <= 32);
    }
}
