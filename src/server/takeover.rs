//! Connections that calls have taken over: their number, and how they end when the server or their call ends.
//!
//! *Owns*: a second descriptor of each connection, until its call ends or its taker closes it. *Runs on*: the
//! connection's coroutine when the connection is taken over, the thread of the call when the call ends, any thread for
//! the rest. *Invariants*: this module reads and writes nothing on a connection. The client sees the end of a
//! connection as soon as its taker has closed it.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::drain::{Drain, Stage};
use crate::handler::Hold;
use crate::sys::{self, HeldFd, Lock, Waitable, Waker};
use crate::timer::Timer;

/// After the call has ended, a thread of the application may take this long to send its last data and close the
/// connection. WebSocket libraries reply to the client's close frame in a separate thread.
const SETTLING: Duration = Duration::from_secs(1);
/// After the server has closed its side, a client may take this long to close its own side.
const CLOSING: Duration = Duration::from_secs(10);

/// The connections that calls have taken over.
#[derive(Debug)]
pub(super) struct Takeovers {
    drain: Arc<Drain>,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of connections whose call still runs.
    current: usize,
    /// The number of connections taken over since the start.
    total: u64,
    /// The connections that their takers have not closed, by number.
    streams: HashMap<u64, Stream>,
}

/// A connection that a call has taken over. It is dropped when the call has ended.
pub(super) struct Takeover {
    number: u64,
    of: Arc<Takeovers>,
    /// Whether a coroutine shuts the connection down, and watches it until then.
    shuts_down: bool,
}

/// Keeps the server's descriptor of a connection.
struct Keeper {
    number: u64,
    of: Arc<Takeovers>,
    process: u32,
}

/// The server's descriptor of a connection. A forked child does not keep its copy.
#[derive(Debug)]
struct Stream {
    fd: HeldFd,
    /// Wakes the coroutine that closes the connection.
    waker: Option<Waker>,
}

impl Takeovers {
    /// Makes an empty set for the server with this drain.
    pub(super) fn new(drain: &Arc<Drain>) -> Arc<Self> {
        Arc::new(Self { drain: Arc::clone(drain), state: Lock::default() })
    }

    /// Returns the number of running calls that have taken over a connection.
    pub(super) fn current(&self) -> usize {
        self.state.lock().current
    }

    /// Returns the number of connections taken over since the start.
    pub(super) fn total(&self) -> u64 {
        self.state.lock().total
    }

    /// Registers a connection that a call takes over.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn enter(self: &Arc<Self>, stream: BorrowedFd<'_>) -> io::Result<Takeover> {
        let stream = Stream { fd: HeldFd::copy_of(stream)?, waker: None };
        let mut state = self.state.lock();
        // If a later stage begins after this check, it also ends this stream, once it gets the lock.
        match self.drain.stage() {
            Stage::Serving => {}
            Stage::HandingOver | Stage::Draining => sys::end_stream(&stream.fd, Shutdown::Read),
            Stage::Cut => sys::end_stream(&stream.fd, Shutdown::Both),
        }
        state.current += 1;
        state.total += 1;
        let number = state.total;
        state.streams.insert(number, stream);
        Ok(Takeover { number, of: Arc::clone(self), shuts_down: false })
    }

    /// Ends the input of all these connections, so that their calls read end-of-file and end.
    pub(super) fn end_input(&self) {
        self.end(Shutdown::Read);
    }

    /// Cuts off all these connections in both directions.
    pub(super) fn cut(&self) {
        self.end(Shutdown::Both);
    }

    fn end(&self, how: Shutdown) {
        self.state.lock().streams.values().for_each(|stream| sys::end_stream(&stream.fd, how));
    }

    fn forget(&self, number: u64) {
        let stream = self.state.lock().streams.remove(&number);
        if let Some(waker) = stream.and_then(|mut stream| stream.waker.take()) {
            waker.wake_now();
        }
    }
}

impl Takeover {
    /// Returns a value that the taker drops when it has closed its descriptor.
    pub(super) fn hold(&self) -> Hold {
        Box::new(self.keeper())
    }

    fn keeper(&self) -> Keeper {
        Keeper { number: self.number, of: Arc::clone(&self.of), process: std::process::id() }
    }

    /// Closes the connection of a call that has ended, if the application does not keep it.
    pub(super) fn shut_down(mut self) {
        let of = Arc::clone(&self.of);
        let mut state = of.state.lock();
        let Some(stream) = state.streams.get_mut(&self.number) else { return };
        let waitable = match HeldFd::copy_of(stream.fd.as_fd()).and_then(Waitable::new) {
            Ok(waitable) => waitable,
            Err(error) => {
                log::error!("a connection that a call has left is cut off: {}", sys::plain(&error));
                sys::end_stream(&stream.fd, Shutdown::Both);
                return;
            }
        };
        stream.waker = Some(waitable.waker());
        drop(state);
        self.shuts_down = true;
        let keeper = self.keeper();
        sys::spawn(move || keeper.see_off(&waitable));
    }
}

impl Keeper {
    /// Ends a connection that its taker may still hold: first the output to the client, then the input from it. If the
    /// taker closes the connection first, returns early. (On a separate coroutine.)
    fn see_off(&self, stream: &Waitable) {
        let timer = Timer::new(stream.waker());
        let mut client_left = false;
        for (how, patience) in [(Shutdown::Write, SETTLING), (Shutdown::Read, CLOSING)] {
            let end = Instant::now() + patience;
            timer.set(end);
            while Instant::now() < end && !(how == Shutdown::Read && client_left) {
                if !self.of.state.lock().streams.contains_key(&self.number) {
                    return;
                }
                client_left |= stream.wait().is_hangup();
            }
            sys::end_stream(stream, how);
        }
    }
}

impl Drop for Takeover {
    fn drop(&mut self) {
        let left = {
            let mut state = self.of.state.lock();
            state.current -= 1;
            state.current
        };
        if left == 0 {
            self.of.drain.note();
        }
        if !self.shuts_down {
            self.of.forget(self.number);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // A forked child does nothing. Its copy of the descriptor is already closed, and the lock may be held by a
        // thread that does not exist in the child.
        if self.process == std::process::id() {
            self.of.forget(self.number);
        }
    }
}
