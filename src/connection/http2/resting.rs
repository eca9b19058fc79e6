//! A connection of HTTP/2 without an open stream: it rests without a coroutine, as one of HTTP/1 does.
//!
//! *Owns*: nothing; the session is in `Begun`. *Runs on*: the coroutine that the connection gives up, and those of the
//! listener and of the idle set, which do not wait here. *Invariants*: everything to send has been sent, and what has
//! come has been read. A client is told before its connection is closed.

use std::time::Instant;

use h2::Reason;

use super::session::{Accepted, Session};
use crate::connection::resting::Begun;
use crate::connection::{Connection, Resting, Shared};
use crate::http::HeadScanner;

impl Connection {
    /// Frees everything that is not needed until the client sends something.
    pub(super) fn rest_with(mut self, mut session: Box<Session>) -> Resting {
        session.rest();
        let began = session.quiet_since;
        (self.has_served, self.rested, self.head_began) = (session.has_served, began, None);
        let mut resting = self.rest();
        let (buffer, scanner, suspended) = (Vec::new(), HeadScanner::default(), None);
        resting.begun = Some(Box::new(Begun { buffer, scanner, began, suspended, session: Some(session) }));
        resting
    }
}

impl Resting {
    fn session(&self) -> Option<&Session> {
        self.begun.as_ref()?.session.as_deref()
    }

    /// Takes the session out, to go on with it.
    pub(in crate::connection) fn take_session(&mut self) -> Option<Box<Session>> {
        self.begun.as_mut()?.session.take()
    }

    /// Returns whether the connection has begun with HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.session().is_some()
    }

    /// Returns by when the next request must come, if the connection has begun with HTTP/2.
    pub(in crate::connection) fn http2_deadline(&self, shared: &Shared) -> Option<Instant> {
        self.session().map(|session| session.rest_deadline(shared))
    }

    /// Tells the client of HTTP/2 that the connection ends, and which of its requests was the last one (RFC 9113 §6.8).
    pub(in crate::connection) fn say_goodbye(&mut self) {
        let Some(mut session) = self.take_session() else { return };
        session.abort(Reason::NO_ERROR);
        while let Accepted::Request(_) = session.accept() {}
        // It is one short frame. A client that has taken nothing for so long that it has no room misses it.
        session.pipe.send(|bytes| self.stream.send(bytes), |_| 0);
    }
}
