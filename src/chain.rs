//! A doubly linked list through the slots of a table. Any slot can leave the list.
//!
//! *Owns*: the two ends; each slot holds its own `Link`. `Queue` has its own table. *Runs on*: the thread that holds the
//! lock around the table. *Invariants*: a slot is in at most one chain. Appending a slot and removing a slot each touch
//! at most three slots, however long the chain is.

/// A table with at least this many places gives its memory back when all its places are free.
pub const SPARE_MIN: usize = 1024;

/// The index that means "no place".
pub const NOWHERE: u32 = u32::MAX;

/// The neighbours of a place in its chain.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    before: u32,
    behind: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self { before: NOWHERE, behind: NOWHERE }
    }
}

/// A slot that can be in a chain.
pub trait Linked {
    /// Returns the neighbours of this slot.
    fn link(&mut self) -> &mut Link;
}

/// The two ends of a chain.
#[derive(Debug)]
pub struct Chain {
    first: u32,
    last: u32,
}

impl Default for Chain {
    fn default() -> Self {
        Self { first: NOWHERE, last: NOWHERE }
    }
}

impl Chain {
    /// Returns the first place: the one that has been in the chain longest.
    pub fn first(&self) -> Option<u32> {
        (self.first != NOWHERE).then_some(self.first)
    }

    /// Appends a place that is not in a chain.
    pub fn push(&mut self, table: &mut [impl Linked], index: u32) {
        *table[index as usize].link() = Link { before: self.last, behind: NOWHERE };
        match self.last {
            NOWHERE => self.first = index,
            last => table[last as usize].link().behind = index,
        }
        self.last = index;
    }

    /// Removes a place that is in this chain.
    pub fn remove(&mut self, table: &mut [impl Linked], index: u32) {
        let Link { before, behind } = std::mem::take(table[index as usize].link());
        match before {
            NOWHERE => self.first = behind,
            before => table[before as usize].link().behind = behind,
        }
        match behind {
            NOWHERE => self.last = before,
            behind => table[behind as usize].link().before = before,
        }
    }
}

/// A queue from which any element can leave in the middle.
#[derive(Debug)]
pub struct Queue<T> {
    nodes: Vec<Node<T>>,
    free: Vec<u32>,
    chain: Chain,
}

#[derive(Debug)]
struct Node<T> {
    link: Link,
    element: Option<T>,
}

impl<T> Linked for Node<T> {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), chain: Chain::default() }
    }
}

impl<T> Queue<T> {
    /// Appends an element. Returns its place, which stays the same until the element leaves.
    pub fn push(&mut self, element: T) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node { link: Link::default(), element: None });
            u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 elements")
        });
        self.nodes[index as usize].element = Some(element);
        self.chain.push(&mut self.nodes, index);
        index
    }

    /// Removes the element that has been in the queue longest, and returns it.
    pub fn pop(&mut self) -> Option<T> {
        self.chain.first().and_then(|first| self.remove(first))
    }

    /// Removes the element at a place, and returns it.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let element = self.nodes.get_mut(index as usize)?.element.take()?;
        self.chain.remove(&mut self.nodes, index);
        self.free.push(index);
        if self.free.len() == self.nodes.len() && self.free.len() >= SPARE_MIN {
            *self = Self::default();
        }
        Some(element)
    }

    /// Returns the elements, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.nodes.iter().filter_map(|place| place.element.as_ref())
    }

    /// Returns the number of elements in the queue.
    pub fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Returns whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// A place that counts how often places are touched.
    #[derive(Clone)]
    struct Counted(Link, Rc<Cell<usize>>);

    impl Linked for Counted {
        fn link(&mut self) -> &mut Link {
            self.1.set(self.1.get() + 1);
            &mut self.0
        }
    }

    #[test]
    fn chain_of_15000_touches_three_places_at_most() {
        const PLACES: u32 = 15_000;
        let steps = Rc::new(Cell::new(0));
        let mut table = vec![Counted(Link::default(), Rc::clone(&steps)); PLACES as usize];
        let mut chain = Chain::default();
        for index in 0..PLACES {
            steps.set(0);
            chain.push(&mut table, index);
            assert!(steps.get() <= 2);
        }
        // Remove from the middle, from both ends, and then the rest in order.
        for index in [PLACES / 2, 0, PLACES - 1] {
            steps.set(0);
            chain.remove(&mut table, index);
            assert!(steps.get() <= 3);
        }
        let mut order = Vec::new();
        while let Some(first) = chain.first() {
            steps.set(0);
            chain.remove(&mut table, first);
            assert!(steps.get() <= 3);
            order.push(first);
        }
        let left: Vec<_> = (1..PLACES - 1).filter(|&index| index != PLACES / 2).collect();
        assert_eq!(order, left);
        chain.push(&mut table, 7);
        assert_eq!(chain.first(), Some(7));
    }

    #[test]
    fn line_of_which_many_leave_keeps_its_order_and_no_memory() {
        let mut queue = Queue::default();
        let places: Vec<_> = (0..9000).map(|number| queue.push(number)).collect();
        for &place in places.iter().step_by(2) {
            queue.remove(place);
        }
        assert_eq!((queue.len(), queue.nodes.len()), (4500, 9000));
        assert!(queue.remove(places[0]).is_none(), "once");
        for number in 10_000..14_500 {
            queue.push(number);
        }
        assert_eq!(queue.nodes.len(), 9000, "places are used again");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert!(order.iter().copied().eq((1..9000).step_by(2).chain(10_000..14_500)));
        assert_eq!((queue.len(), queue.nodes.capacity(), queue.free.capacity()), (0, 0, 0));
    }
}
