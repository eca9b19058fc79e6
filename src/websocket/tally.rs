//! What a server counts of its WebSockets.
//!
//! *Owns*: the numbers that rise and fall. Those that only grow are in the server's meters. *Runs on*: any thread.

use crate::metrics::{Closer, Count, Gauge, Meters, Numbers};

/// The numbers of all WebSockets of a server.
#[derive(Debug)]
pub struct Tally {
    meters: Meters,
    /// The open sockets.
    pub open: Gauge,
    /// The open sockets whose last message found no room.
    pub slow: Gauge,
    /// The bytes that wait for clients.
    pub waiting_bytes: Gauge,
}

impl Tally {
    /// Makes the numbers of a server that has these meters.
    pub fn new(meters: Meters) -> Self {
        Self { meters, open: Gauge::default(), slow: Gauge::default(), waiting_bytes: Gauge::default() }
    }

    /// Counts a message that the application could not send.
    pub fn unsent(&self) {
        self.meters.count(Count::MessagesUnsent, 1);
    }

    /// Counts messages that the application has sent.
    pub fn sent(&self, messages: u64) {
        self.meters.count(Count::MessagesSent, messages);
    }

    /// Counts a socket that opens.
    pub fn opened(&self) {
        self.open.rise();
        self.meters.count(Count::WebSocketsOpened, 1);
    }

    /// Counts a socket that has ended.
    pub fn ended(&self, closer: Closer, code: u16) {
        self.open.fall();
        self.meters.closed(closer, code);
    }

    /// Adds these numbers to those of the server.
    pub fn show(&self, numbers: &mut Numbers) {
        numbers.websockets = self.open.value();
        numbers.websockets_slow = self.slow.value();
        numbers.websocket_waiting_bytes = self.waiting_bytes.value();
        numbers.websockets_total = self.meters.counted(Count::WebSocketsOpened);
        numbers.messages_received = self.meters.counted(Count::MessagesReceived);
        numbers.messages_sent = self.meters.counted(Count::MessagesSent);
    }
}
