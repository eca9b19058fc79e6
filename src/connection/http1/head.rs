//! Receiving a request's head (RFC 9112 §2.2, §3, §5), and detecting that the client is quiet.
//!
//! *Owns*: how long the connection keeps its coroutine while it waits for a head. *Runs on*: the connection's
//! coroutine. *Invariants*: each byte of a head is scanned once, however many reads it takes. The bytes after a head
//! stay in the buffer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connection::refusal::Refusal;
use crate::connection::transport::{Received, Until};
use crate::connection::{Connection, Ended, Opening, Reused};
use crate::http::{HeadScanner, ParseError, RequestHead};

/// How long a quiet connection keeps its coroutine. A busy keep-alive client pauses for less, so its connection is
/// never parked and woken (5 µs). A client that sends one byte a second occupies a stack for a twentieth of the time.
pub(in crate::connection) const LINGER: Duration = Duration::from_millis(50);

/// How long the connection has waited for a head.
pub(in crate::connection) struct Patience {
    /// When the last bytes arrived.
    active: Instant,
    /// Whether the coroutine has waited since then.
    has_waited: bool,
}

impl Patience {
    /// Begins a wait for a client whose turn it has been since then.
    pub(in crate::connection) fn since(active: Instant) -> Self {
        Self { active, has_waited: false }
    }
}

impl Connection {
    /// Receives the next head and removes it from the buffer; the bytes after it stay. Returns the head and the time at
    /// which its last byte arrived.
    pub(in crate::connection) fn receive_head(&mut self) -> Result<(Arc<RequestHead>, Instant), Ended> {
        let mut patience = self.patience();
        self.told = None;
        loop {
            if !self.buffer.is_empty() {
                let scanned = self.scanner.scan(&self.buffer, &self.shared.derived.limits)?;
                if let Some(bytes) = scanned {
                    self.scanner = HeadScanner::default();
                    self.transport.turn().spend_request();
                    let (shared, origin) = (&self.shared, &self.connected);
                    let text = self.buffer.get(..bytes).unwrap_or_default();
                    let head = self.reused.parse_head(|head| shared.parse_head(head, text, origin))?;
                    self.consume(bytes);
                    if head.tells_of_proxies() {
                        self.read_origin(&head);
                    }
                    return Ok((head, patience.active));
                }
            }
            self.receive_some_of_head(&mut patience)?;
        }
    }

    pub(in crate::connection) fn patience(&self) -> Patience {
        Patience::since(self.head_began.unwrap_or(self.rested))
    }

    /// Receives more of a head, or waits for it.
    pub(in crate::connection) fn receive_some_of_head(&mut self, patience: &mut Patience) -> Result<(), Ended> {
        self.transport.take_turn();
        match self.transport.receive_little(&mut self.buffer) {
            Received::End if self.transport.is_unreadable() => {
                self.transport.end();
                self.await_acknowledgement();
                return Err(Ended::Gone);
            }
            Received::End if self.has_begun() && self.opening != Opening::Handshake => {
                return Err(Refusal::CutHead.into());
            }
            Received::End => {
                self.transport.end();
                return Err(Ended::Gone);
            }
            Received::Broken => return Err(Ended::Gone),
            Received::Bytes(_) | Received::Part => {
                let now = Instant::now();
                self.head_began.get_or_insert(now);
                *patience = Patience::since(now);
                return Ok(());
            }
            Received::Nothing => {
                if self.transport.is_secured() {
                    self.forget_message();
                }
            }
        }
        let until = self.rest_deadline();
        let quiet = (patience.active + LINGER).min(until);
        if patience.has_waited && Instant::now() >= quiet {
            return Err(Ended::Quiet(until));
        }
        self.transport.wait(Until::at(quiet));
        patience.has_waited = true;
        Ok(())
    }

    /// Notes that no request has begun, if the bytes that have arrived were a message of TLS alone.
    #[cold]
    fn forget_message(&mut self) {
        if self.opening == Opening::Request && self.buffer.is_empty() && self.transport.unopened() == 0 {
            self.head_began = None;
        }
    }

    /// Removes bytes from the front of the buffer.
    pub(in crate::connection) fn consume(&mut self, bytes: usize) {
        if bytes >= self.buffer.len() {
            self.buffer.clear();
        } else {
            self.buffer.drain(..bytes);
        }
    }
}

impl Reused {
    /// Has `parse` read a head. Reuses the memory of the previous one if that memory is free.
    pub(in crate::connection) fn parse_head(
        &mut self,
        parse: impl FnOnce(&mut RequestHead) -> Result<(), ParseError>,
    ) -> Result<Arc<RequestHead>, ParseError> {
        if let Some(mut old) = self.head.take()
            && let Some(head) = Arc::get_mut(&mut old)
        {
            parse(head)?;
            return Ok(old);
        }
        let mut head = RequestHead::unread();
        parse(&mut head)?;
        Ok(Arc::new(head))
    }
}
