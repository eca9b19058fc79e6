//! Connections that calls have taken over: how many there are, and how they end when the server or their call ends.
//!
//! *Owns*: a second descriptor of each, until its call ends or its taker closes it. *Runs on*: the connection's
//! coroutine when it is taken over, the thread of the call when that ends, any thread for the rest. *Invariants*:
//! nothing is read or written here; the client sees the end of a connection as soon as its taker has closed it.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::handler::Hold;
use crate::sys::{self, HeldFd, Waitable, Waker};
use crate::timer::Timer;

/// How long a thread of the application may take to send its last word and close after the call has ended: libraries
/// for WebSocket answer the client's close in a thread of their own.
const SETTLING: Duration = Duration::from_secs(1);
/// How long a client may take to close its side after ours has been closed.
const CLOSING: Duration = Duration::from_secs(10);

/// The connections that calls have taken over.
#[derive(Debug, Default)]
pub(super) struct Takeovers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Those whose call runs.
    current: usize,
    /// All that there ever were.
    total: u64,
    /// By their numbers, those whose taker has not closed them.
    streams: HashMap<u64, Stream>,
    /// The server stops.
    ended: Option<Shutdown>,
}

/// One connection that a call has taken over; dropped when the call has ended.
pub(super) struct Takeover {
    number: u64,
    of: Arc<Takeovers>,
    /// It is still watched while it is shut down.
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
    /// Wakes the coroutine that closes it.
    waker: Option<Waker>,
}

impl Takeovers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls that have taken one over run.
    pub(super) fn current(&self) -> usize {
        self.lock().current
    }

    /// How many there have been.
    pub(super) fn total(&self) -> u64 {
        self.lock().total
    }

    /// A call takes a connection over.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn enter(self: &Arc<Self>, stream: BorrowedFd<'_>) -> io::Result<Takeover> {
        let stream = Stream { fd: HeldFd::copy_of(stream)?, waker: None };
        let mut state = self.lock();
        if let Some(how) = state.ended {
            sys::end_stream(&stream.fd, how);
        }
        state.current += 1;
        state.total += 1;
        let number = state.total;
        state.streams.insert(number, stream);
        Ok(Takeover { number, of: Arc::clone(self), shuts_down: false })
    }

    /// From now on all of them read the end of their input, so that their calls end.
    pub(super) fn end_input(&self) {
        self.end(Shutdown::Read);
    }

    /// From now on nothing comes or goes on any of them.
    pub(super) fn cut(&self) {
        self.end(Shutdown::Both);
    }

    fn end(&self, how: Shutdown) {
        let mut state = self.lock();
        state.ended = Some(how);
        state.streams.values().for_each(|stream| sys::end_stream(&stream.fd, how));
    }

    fn forget(&self, number: u64) {
        let stream = self.lock().streams.remove(&number);
        if let Some(waker) = stream.and_then(|mut stream| stream.waker.take()) {
            waker.wake_now();
        }
    }
}

impl Takeover {
    /// What the taker drops when it has closed its descriptor.
    pub(super) fn hold(&self) -> Hold {
        Box::new(self.keeper())
    }

    fn keeper(&self) -> Keeper {
        Keeper { number: self.number, of: Arc::clone(&self.of), process: std::process::id() }
    }

    /// The call has ended, and the application does not keep the connection: closes it.
    pub(super) fn shut_down(mut self) {
        let of = Arc::clone(&self.of);
        let mut state = of.lock();
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
    /// Ends a connection that its taker may still have: first what goes to the client, then what comes from it, unless
    /// the taker closes it before. (A coroutine of its own.)
    fn see_off(&self, stream: &Waitable) {
        let timer = Timer::new(stream.waker());
        let mut client_left = false;
        for (how, patience) in [(Shutdown::Write, SETTLING), (Shutdown::Read, CLOSING)] {
            let end = Instant::now() + patience;
            timer.set(Some(end));
            while Instant::now() < end && !(how == Shutdown::Read && client_left) {
                if !self.of.lock().streams.contains_key(&self.number) {
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
        self.of.lock().current -= 1;
        if !self.shuts_down {
            self.of.forget(self.number);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // In a forked child the descriptor is closed already, and a thread that does not exist there may hold the lock.
        if self.process == std::process::id() {
            self.of.forget(self.number);
        }
    }
}
