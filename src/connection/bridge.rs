//! A connection with TLS that a call has taken over: between the client's session and a socket of the application's.
//!
//! *Owns*: the session, and one end of a pair of sockets, whose other end the call has. *Runs on*: the connection's
//! coroutine. A second coroutine waits for the pair, and wakes the first. *Invariants*: nothing is received from one
//! side while the other has not taken what came before. No deadline holds, as for any connection that a call has taken
//! over.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Connection;
use super::transport::{Close, Received, Until};
use crate::sys::{self, Io, Waitable};

/// The most bytes on their way in one direction.
const BYTES_MAX: usize = 64 * 1024;

/// A connection and the application's socket.
pub struct Bridge {
    connection: Connection,
    application: Arc<Waitable>,
    /// On its way to the application.
    inward: OnItsWay,
    /// On its way to the client.
    outward: OnItsWay,
}

/// Bytes of which a part has been passed on.
#[derive(Default)]
struct OnItsWay {
    bytes: Vec<u8>,
    passed: usize,
    /// Whether no more bytes come.
    has_ended: bool,
}

/// What a step has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Went,
    Waits,
    /// The client has gone.
    Gone,
}

impl OnItsWay {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.passed..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn pass(&mut self, bytes: usize) {
        self.passed += bytes;
        if self.is_empty() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.passed = 0;
    }
}

impl Bridge {
    /// Makes a bridge, and the socket for the application.
    ///
    /// # Errors
    /// The process has no descriptor left. The connection is lost.
    pub(super) fn new(connection: Connection) -> std::io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = sys::stream_pair()?;
        let application = Arc::new(Waitable::new(ours)?);
        let (inward, outward) = (OnItsWay::default(), OnItsWay::default());
        Ok((Self { connection, application, inward, outward }, theirs))
    }

    /// Passes bytes on in both directions until the application has closed its socket, or the client has gone.
    pub fn run(mut self) {
        let has_ended = Arc::new(AtomicBool::new(false));
        let (pair, ended) = (Arc::clone(&self.application), Arc::clone(&has_ended));
        let (waker, pairs_waker) = (self.connection.transport.waker().clone(), self.application.waker());
        sys::spawn(move || {
            while !ended.load(Ordering::Acquire) {
                pair.wait();
                waker.wake_here();
            }
        });
        let is_whole = self.pass_all();
        has_ended.store(true, Ordering::Release);
        pairs_waker.wake_here();
        drop(self.application);
        if is_whole {
            self.connection.close_lingering(Close::Whole);
        }
    }

    /// Returns whether the client has got everything.
    fn pass_all(&mut self) -> bool {
        loop {
            self.connection.transport.take_turn();
            let steps = [self.pass_inward(), self.pass_outward()];
            if steps.contains(&Step::Gone) || self.connection.transport.is_broken() {
                return false;
            }
            if self.outward.has_ended && self.outward.is_empty() {
                return true;
            }
            if steps == [Step::Waits; 2] {
                self.connection.transport.wait(Until::EVENT);
            }
        }
    }

    /// Passes bytes of the client to the application.
    fn pass_inward(&mut self) -> Step {
        let Self { connection, application, inward, .. } = self;
        let mut step = Step::Waits;
        if inward.is_empty() && !inward.has_ended {
            match connection.transport.receive(&mut inward.bytes, BYTES_MAX) {
                Received::Bytes(_) | Received::Part => step = Step::Went,
                Received::Nothing => {}
                Received::Broken => return Step::Gone,
                Received::End => {
                    inward.has_ended = true;
                    sys::shutdown_write(&**application);
                }
            }
        }
        if inward.is_empty() {
            return step;
        }
        match sys::send(&**application, inward.rest()) {
            Io::Done(bytes) => {
                inward.pass(bytes);
                connection.transport.turn().spend_call(bytes);
                Step::Went
            }
            Io::WouldBlock => step,
            // The application reads no more, and may still send.
            Io::Failed(_) => {
                inward.clear();
                Step::Went
            }
        }
    }

    /// Passes bytes of the application to the client.
    fn pass_outward(&mut self) -> Step {
        let Self { connection, application, outward, .. } = self;
        let mut step = Step::Waits;
        if outward.is_empty() && !outward.has_ended {
            match sys::receive(&**application, &mut outward.bytes, BYTES_MAX) {
                Io::Done(0) | Io::Failed(_) => outward.has_ended = true,
                Io::Done(bytes) => {
                    connection.transport.turn().spend_call(bytes);
                    step = Step::Went;
                }
                Io::WouldBlock => {}
            }
        }
        if outward.is_empty() {
            return step;
        }
        match connection.transport.send(outward.rest()) {
            Io::Done(bytes) => {
                outward.pass(bytes);
                Step::Went
            }
            Io::WouldBlock => step,
            Io::Failed(_) => Step::Gone,
        }
    }
}
