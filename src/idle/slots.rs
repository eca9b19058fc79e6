//! The places of an idle set: which values are there, why, and since when.
//!
//! *Owns*: each parked or waiting value. *Runs on*: the thread that holds the lock around it. *Invariants*: a method looks
//! at one slot only, except those that take all values.

use crate::chain::{Chain, Link, Linked};
use crate::timer::Deadlines;

#[derive(Debug)]
pub(super) struct State<T> {
    pub(super) slots: Vec<Slot<T>>,
    pub(super) free: Vec<u32>,
    pub(super) deadlines: Deadlines,
    /// The idle values that may be evicted, in the order in which they became idle.
    pub(super) evictable: Chain,
    /// The values that wait for a coroutine, in the order in which they came.
    pub(super) line: Chain,
    /// How many values are idle.
    pub(super) parked: usize,
    /// How many values are in line.
    pub(super) waiting: usize,
    /// The generation of a new slot. Events of removed slots carry an earlier one.
    pub(super) generation: u32,
    pub(super) closed: bool,
}

#[derive(Debug)]
pub(super) struct Slot<T> {
    pub(super) generation: u32,
    pub(super) registered: bool,
    pub(super) stay: Stay,
    pub(super) link: Link,
    pub(super) kept: Option<T>,
}

/// Why a value is in the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    /// The value is idle, and stays until its deadline.
    Fixed,
    /// The value is idle, and may be evicted.
    Evictable,
    /// The value waits for a coroutine.
    InLine,
}

impl<T> Linked for Slot<T> {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

impl<T> State<T> {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            deadlines: Deadlines::default(),
            evictable: Chain::default(),
            line: Chain::default(),
            parked: 0,
            waiting: 0,
            generation: 0,
            closed: false,
        }
    }

    pub(super) fn keep(&mut self, index: u32, kept: T, stay: Stay) {
        self.slots[index as usize].kept = Some(kept);
        self.slots[index as usize].stay = stay;
        match stay {
            Stay::Fixed => self.parked += 1,
            Stay::Evictable => {
                self.parked += 1;
                self.evictable.push(&mut self.slots, index);
            }
            Stay::InLine => {
                self.waiting += 1;
                self.line.push(&mut self.slots, index);
            }
        }
    }

    /// Takes the value at a slot, if there is one.
    pub(super) fn take(&mut self, index: u32) -> Option<(T, Stay)> {
        let slot = self.slots.get_mut(index as usize)?;
        let (kept, stay) = (slot.kept.take()?, slot.stay);
        match stay {
            Stay::Fixed => self.parked -= 1,
            Stay::Evictable => {
                self.parked -= 1;
                self.evictable.remove(&mut self.slots, index);
            }
            Stay::InLine => {
                self.waiting -= 1;
                self.line.remove(&mut self.slots, index);
            }
        }
        Some((kept, stay))
    }

    /// Gives back the memory of a peak of connections.
    pub(super) fn shrink(&mut self) {
        let latest = self.slots.iter().map(|slot| slot.generation).max().unwrap_or(0);
        *self = Self { generation: latest.wrapping_add(1), closed: self.closed, ..Self::new() };
    }
}
