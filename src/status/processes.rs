//! The processes whose numbers are shown.
//!
//! *Owns*: nothing; the memory is the scoreboard's. *Runs on*: any thread of the status server. *Invariants*: a worker
//! shows itself alone, although it can read what the others do: its supervisor shows all of them.

use crate::metrics::Sums;
use crate::scoreboard::{Scoreboard, Slot};

/// The processes that are shown.
#[derive(Debug, Clone)]
pub enum Processes {
    /// All of a service, with the counts of those that have ended.
    All(Scoreboard),
    /// The process with this slot.
    One(Slot),
}

impl Processes {
    /// Returns the slots of the processes, which may be free again.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        let (all, one) = match self {
            Self::All(scoreboard) => (Some(scoreboard.slots()), None),
            Self::One(slot) => (None, Some(slot.clone())),
        };
        all.into_iter().flatten().chain(one)
    }

    /// Returns what the processes have counted.
    pub(super) fn sums(&self) -> Sums {
        match self {
            Self::All(scoreboard) => scoreboard.sums(),
            Self::One(slot) => {
                let mut sums = Sums::default();
                slot.meters().add_to(&mut sums);
                sums
            }
        }
    }
}
