//! The amount of work that a connection does on the runtime's thread before other connections get their turn.
//!
//! *Owns*: the budget of one connection. *Runs on*: the connection's coroutine. *Invariants*: every loop that a client
//! or an application can prolong spends budget here and calls `Transport::take_turn`, the only place that yields. The
//! budget is refilled only after the runtime has looked for other events.

use crate::sys;

/// The unit of work is about 1 ns, which is also the cost of a byte on its way through the kernel and this server.
///
/// The work of one turn in line: about 0.2 ms.
const TURN: u32 = 256 * 1024;
/// The work that a connection may do after an event without waiting in line. A usual request needs much less.
const SHARE: u32 = 64 * 1024;
/// The same share if all connections together have done much work since the last look for events. It still suffices for
/// a small request.
const SMALL_SHARE: u32 = 8 * 1024;
/// The cost of a system call on a socket or a file.
const SYSTEM_CALL: u32 = 1000;
/// The cost of a byte of a body's framing, which the decoder reads byte by byte.
const FRAMING_BYTE: u32 = 4;
/// The cost of a record of TLS, besides its bytes.
const RECORD: u32 = 500;
/// The cost of a request: parsing its head, passing it to the application, encoding the response's head, logging.
const REQUEST: u32 = 4 * 1024;

/// The work that a connection may still do before others get their turn.
#[derive(Debug)]
pub(super) struct Turn {
    left: u32,
    /// The size of the last refill.
    filled: u32,
}

impl Turn {
    /// Returns the turn of a connection that has just got its coroutine because of an event: one share.
    pub(super) fn new() -> Self {
        let share = share(0);
        Self { left: share, filled: share }
    }

    /// Returns how many bytes may still be moved.
    pub(super) fn bytes_left(&self) -> u32 {
        self.left
    }

    /// Returns whether other connections must go first.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Charges a system call that moved `bytes`.
    pub(super) fn spend_call(&mut self, bytes: usize) {
        self.spend(saturated(bytes).saturating_add(SYSTEM_CALL));
    }

    /// Charges the decoding of a body's framing and data, in bytes.
    pub(super) fn spend_decoding(&mut self, framing_bytes: usize, bytes: usize) {
        self.spend(saturated(framing_bytes).saturating_mul(FRAMING_BYTE).saturating_add(saturated(bytes)));
    }

    /// Charges the opening of records of TLS.
    pub(super) fn spend_records(&mut self, records: usize) {
        self.spend(saturated(records).saturating_mul(RECORD));
    }

    /// Charges a request.
    pub(super) fn spend_request(&mut self) {
        self.spend(REQUEST);
    }

    fn spend(&mut self, work: u32) {
        self.left = self.left.saturating_sub(work);
    }

    /// Refills the share after the runtime has looked for events and found one of this connection.
    pub(super) fn fill_share(&mut self) {
        self.left = share(self.used());
        self.filled = self.left;
    }

    /// Ends the share before the connection waits in line for a turn.
    pub(super) fn end_share(&self) {
        sys::begin_share(self.used());
    }

    /// Refills the budget with a whole turn, which the connection has waited for in line.
    pub(super) fn fill(&mut self) {
        self.left = TURN;
        self.filled = TURN;
    }

    /// Returns how much of a share was used. A turn in line does not count here.
    fn used(&self) -> u32 {
        if self.filled > SHARE { 0 } else { self.filled - self.left }
    }
}

fn share(used: u32) -> u32 {
    if sys::begin_share(used) { SHARE } else { SMALL_SHARE }
}

fn saturated(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(left: u32) -> Turn {
        Turn { left, filled: left }
    }

    #[test]
    fn small_request_fits_into_the_smallest_share() {
        let mut turn = turn(SMALL_SHARE);
        turn.spend_call(700);
        turn.spend_request();
        turn.spend_call(700);
        assert!(!turn.is_over());
    }

    #[test]
    fn bytes_calls_and_framing_all_end_a_turn() {
        let spent = |spend: &dyn Fn(&mut Turn)| {
            let (mut turn, mut times) = (turn(TURN), 0);
            while !turn.is_over() {
                spend(&mut turn);
                times += 1;
            }
            times
        };
        assert_eq!(spent(&|turn| turn.spend_call(TURN as usize)), 1);
        assert_eq!(spent(&|turn| turn.spend_call(0)), 263);
        assert_eq!(spent(&|turn| turn.spend_decoding(5, 1)), 12_484);
        assert_eq!(spent(&Turn::spend_request), 64);
        assert_eq!(spent(&|turn| turn.spend_decoding(usize::MAX, usize::MAX)), 1);
    }
}
