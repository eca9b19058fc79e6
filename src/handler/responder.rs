//! The handler's side of an exchange: reading a streamed body, and sending the response.
//!
//! *Runs on*: the handler's thread. Only `Input::read_waiting` and `Responder::send_waiting` wait for the client.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{ApplicationTimes, Block, Buffers, End, Exchange, Gone, Outbox, Progress, Sent};
use crate::http::{Framing, ResponseHead};
use crate::sys;

/// The most bytes of interim responses that wait for the client.
const INTERIM_BYTES_MAX: usize = 64 * 1024;

/// Reads a body that is still arriving. (Handler's side.)
#[derive(Debug)]
pub struct Input {
    exchange: Arc<Exchange>,
    /// How the body is delimited; its length is known in advance only with `Framing::Length`.
    pub framing: Framing,
}

impl Input {
    /// Makes the input of an exchange whose body is streamed.
    pub fn new(exchange: Arc<Exchange>, framing: Framing) -> Self {
        Self { exchange, framing }
    }

    /// Expects another chunked body after the one that has ended. Some clients send one after a further `100 Continue`.
    /// Returns whether that is possible: a body with a Content-Length cannot go on.
    pub fn reopen(&self) -> bool {
        let mut state = self.exchange.lock();
        if self.framing != Framing::Chunked || state.input.progress != Progress::Complete || state.input.closed {
            return false;
        }
        state.input.progress = Progress::Again;
        drop(state);
        self.exchange.wake_now();
        true
    }

    /// Reads some bytes; 0 means the end of the body. Waits for the client: call it without the GIL.
    ///
    /// # Errors
    /// The client has gone, was too slow, or sent something malformed, or the response has ended.
    pub fn read_waiting(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut state = self.exchange.lock();
        loop {
            let available = state.input.buffer.len();
            if available > 0 {
                let bytes = state.input.take(buffer);
                drop(state);
                // The connection waits for room only above this mark.
                let low = self.exchange.bounds.input_low();
                if available > low && available - bytes <= low {
                    self.exchange.wake_now();
                }
                return Ok(bytes);
            }
            match state.input.progress {
                Progress::Complete => return Ok(0),
                Progress::Failed(io::ErrorKind::BrokenPipe) => {
                    return Err(io::Error::new(
                        io::ErrorKind::BrokenPipe,
                        "the response is over, and with it the request body",
                    ));
                }
                Progress::Failed(kind) => {
                    return Err(io::Error::new(kind, "the client did not send the whole request body"));
                }
                Progress::Coming | Progress::Again => {}
            }
            if !state.input.wanted {
                state.input.wanted = true;
                if !state.input.begun {
                    drop(state);
                    self.exchange.wake_now();
                    state = self.exchange.lock();
                    continue;
                }
            }
            state = self.exchange.change.wait(state);
        }
    }
}

/// The handler's side of an exchange. Dropping it unfinished fails the response.
#[derive(Debug)]
pub struct Responder {
    pub(super) exchange: Arc<Exchange>,
    ended: bool,
    /// Whether a part of the response was lost, so that it cannot be complete.
    lost: bool,
}

impl Responder {
    /// Makes the handler's side of `exchange`.
    pub fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange, ended: false, lost: false }
    }

    /// Takes the buffers for the response: empty, possibly without capacity.
    pub fn take_buffers(&self) -> Buffers {
        std::mem::take(&mut self.exchange.lock().buffers)
    }

    /// Returns whether the client has closed its side of the connection. It may still read (shutdown(2)).
    pub fn client_disconnected(&self) -> bool {
        self.exchange.disconnected.load(Ordering::Acquire)
    }

    /// Returns whether no more output can arrive: the connection is broken or was given up.
    pub fn is_gone(&self) -> bool {
        self.exchange.lock().gone
    }

    /// Returns a view of the client's state that outlives the responder.
    pub fn watch(&self) -> Watch {
        Watch { exchange: Arc::clone(&self.exchange) }
    }

    /// Returns the exchange, whose response another thread may end.
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// Lets a thread take the request, at this time. Returns false if the client has left or the request's deadline has
    /// passed. Drop the responder then.
    pub fn begin(&self, at: Instant) -> bool {
        self.exchange.beginning.begin(at)
    }

    /// Returns whether the request still waits for a thread.
    pub fn is_waiting(&self) -> bool {
        self.exchange.beginning.is_waiting()
    }

    /// Ends the request because its deadline has passed. Returns whether no thread has begun it. If so, drop the
    /// responder, and the client gets an error response.
    pub fn expire(&self) -> bool {
        self.exchange.beginning.expire()
    }

    /// Sends an interim response (1xx), given in wire format. Returns whether it will be sent: interim responses that
    /// do not fit into memory are not sent to a client that does not read.
    ///
    /// # Errors
    /// `Gone`: the client has gone.
    pub fn interim(&mut self, bytes: &[u8]) -> Result<bool, Gone> {
        self.push_interim(bytes, false)
    }

    /// Sends a `100 Continue`. The connection then sends none itself for this request's body.
    ///
    /// # Errors
    /// `Gone`: the client has gone.
    pub fn interim_continue(&mut self, bytes: &[u8]) -> Result<bool, Gone> {
        self.push_interim(bytes, true)
    }

    fn push_interim(&mut self, bytes: &[u8], continues: bool) -> Result<bool, Gone> {
        let mut state = self.exchange.lock();
        if state.gone {
            return Err(Gone);
        }
        if state.outbox.interim.len() + bytes.len() > INTERIM_BYTES_MAX {
            return Ok(false);
        }
        state.outbox.interim.extend_from_slice(bytes);
        state.input.continued |= continues;
        drop(state);
        self.exchange.wake_now();
        Ok(true)
    }

    /// Sets the head, with the body's length if it is known. No byte is sent before the first block or the end, so the
    /// caller must follow with one of these.
    pub fn head(&mut self, head: ResponseHead, body_bytes: Option<u64>) {
        let mut state = self.exchange.lock();
        if state.is_overdue {
            return;
        }
        state.head_given = true;
        state.outbox.head = Some(head);
        state.outbox.body_bytes = body_bytes;
    }

    /// Sends a block, without delay and without waiting.
    ///
    /// # Errors
    /// `Gone`: the client has gone. Stop.
    pub fn send(&mut self, block: Block) -> Result<Sent, Gone> {
        let mut state = self.exchange.lock();
        if state.gone {
            return Err(Gone);
        }
        let spooling = state.spooled.is_some();
        let bytes = if matches!(block, Block::File { .. }) { 0 } else { block.len() };
        if spooling || !self.exchange.fits(&state, bytes) {
            return Ok(Sent::WouldWait(block));
        }
        state.waiting_bytes += bytes;
        state.outbox.blocks.push(block);
        drop(state);
        self.exchange.wake_now();
        Ok(Sent::Done)
    }

    /// Sends a block that did not fit into memory. It goes into the spool file. If the file is full or cannot be
    /// written, this waits for the client. Call it without the GIL.
    ///
    /// # Errors
    /// `Gone`: the client has gone, or a file of the application could not be read. That failure is logged, and the
    /// response ends as failed.
    pub fn send_waiting(&mut self, block: Block) -> Result<(), Gone> {
        let sent = self.store(block);
        self.lost |= sent.is_err();
        sent
    }

    /// Ends the response and frees the place in the pool. The coroutine is woken with the next `sys::flush_wakes`,
    /// which a thread that runs calls one after another has to call.
    pub fn finish(mut self, end: End, ended: Option<Instant>, environ: Vec<(String, String)>) {
        self.end(end, ended, environ, |_| ());
    }

    /// Sends head, all blocks and the end at once: the usual response. Otherwise like `finish`.
    #[allow(clippy::inline_always, reason = "a call would cost each response")]
    #[inline(always)]
    pub fn respond(
        mut self,
        head: ResponseHead,
        body_bytes: u64,
        blocks: impl IntoIterator<Item = Block>,
        ended: Option<Instant>,
        environ: Vec<(String, String)>,
    ) {
        self.end(End::Complete, ended, environ, |outbox| {
            outbox.head = Some(head);
            outbox.body_bytes = Some(body_bytes);
            outbox.blocks.extend(blocks);
        });
    }

    #[allow(clippy::inline_always, reason = "a call would cost each response")]
    #[inline(always)]
    pub(super) fn end(
        &mut self,
        end: End,
        ended: Option<Instant>,
        environ: Vec<(String, String)>,
        before: impl FnOnce(&mut Outbox),
    ) {
        self.ended = true;
        let times = ApplicationTimes { started: self.exchange.beginning.begun_at(), ended };
        let mut state = self.exchange.lock();
        if state.is_overdue {
            // The connection has been told the end.
            return;
        }
        let permit = state.permit.take();
        if let Some(takeover) = state.takeover.take() {
            drop(state);
            // The call spoke with the client itself, so there is nothing to send.
            takeover.end(times, environ);
            drop(permit);
            return;
        }
        let outbox = &mut state.outbox;
        before(outbox);
        outbox.end = Some(if self.lost { End::Failed } else { end });
        outbox.times = times;
        outbox.environ = environ;
        drop(state);
        drop(permit);
        self.exchange.wake_later();
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.ended {
            let end = if self.exchange.beginning.is_late() { End::Late } else { End::Failed };
            self.end(end, None, Vec::new(), |_| ());
            sys::flush_wakes();
        }
    }
}

/// A view of the client's state, valid for as long as it is kept.
#[derive(Debug, Clone)]
pub struct Watch {
    exchange: Arc<Exchange>,
}

impl Watch {
    /// Returns whether the client has closed its side of the connection.
    pub fn client_disconnected(&self) -> bool {
        self.exchange.disconnected.load(Ordering::Acquire)
    }
}
