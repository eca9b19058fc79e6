//! The workers that get the idle clients of a worker that stops.
//!
//! *Runs on*: the supervisor's thread. *Invariants*: a worker that stops knows a worker that serves, as long as there is
//! one. A client whose request has just ended may otherwise go to a worker that has ended meanwhile.

use super::{Roster, Stage};
use crate::supervisor::orders::Order;

impl Roster {
    /// Orders that the idle clients of a worker go to the workers in `to`.
    pub(super) fn hand_over(&mut self, from: usize, mut to: Vec<usize>) {
        let Some(worker) = self.worker(from) else { return };
        to.retain(|receiver| !worker.receivers.contains(receiver));
        if !to.is_empty() {
            worker.receivers.extend(&to);
            worker.lacks_receiver = false;
            self.orders.push(Order::HandOver { from, to });
        }
    }

    /// Orders that the clients of workers that stop, and that should go to the worker in `slot`, can go to the workers
    /// in `to`: the one in `slot` stops, too.
    pub(super) fn forward(&mut self, slot: usize, to: &[usize]) {
        for from in self.senders(slot) {
            self.hand_over(from, to.to_vec());
        }
    }

    /// Notes that the process of a slot has ended. If it was the only receiver of a worker that stops, all workers that
    /// serve become its receivers. If none serves, the next one will.
    pub(super) fn forget_receiver(&mut self, slot: usize) {
        let serving: Vec<usize> =
            self.workers.iter().filter(|worker| worker.stage == Stage::Serving).map(|worker| worker.slot).collect();
        for from in self.senders(slot) {
            let Some(worker) = self.worker(from) else { continue };
            worker.receivers.retain(|receiver| *receiver != slot);
            if worker.receivers.is_empty() {
                worker.lacks_receiver = true;
                self.hand_over(from, serving.clone());
            }
        }
    }

    /// Orders that the clients of workers that have lost their receivers go to the worker in `slot`, which serves now.
    pub(super) fn receive_lost(&mut self, slot: usize) {
        let lacks = |worker: &&super::Worker| matches!(worker.stage, Stage::Draining(_)) && worker.lacks_receiver;
        for from in self.workers.iter().filter(lacks).map(|worker| worker.slot).collect::<Vec<_>>() {
            self.hand_over(from, vec![slot]);
        }
    }

    /// Returns the workers that stop and hand their clients over to the worker in `slot`.
    fn senders(&self, slot: usize) -> Vec<usize> {
        let sends =
            |worker: &&super::Worker| matches!(worker.stage, Stage::Draining(_)) && worker.receivers.contains(&slot);
        self.workers.iter().filter(sends).map(|worker| worker.slot).collect()
    }
}
