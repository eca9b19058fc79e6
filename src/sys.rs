//! System calls, and everything that touches the coroutine runtime: the only `unsafe` outside the pyo3 glue.
#![allow(unsafe_code, reason = "this is the room for it")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam::queue::SegQueue;
use may::coroutine::{self, Coroutine};
use may::io::{CoIo, WaitIo, WaitIoWaker};

/// What epoll reported for a descriptor: `EPOLLIN`, `EPOLLRDHUP`, …, or that it was woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness(u32);

impl Readiness {
    /// The client closed its side, or the connection is broken: there may be an end of file to read.
    pub fn is_hangup(self) -> bool {
        self.0 & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }
    /// Both directions are closed, or the connection was reset: nothing that is sent arrives any more.
    pub fn is_broken(self) -> bool {
        self.0 & (libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }
    /// There is something to read.
    pub fn is_readable(self) -> bool {
        self.0 & libc::EPOLLIN as u32 != 0
    }
}

/// A non-blocking descriptor that a coroutine can wait for. Its registration is taken back before it is closed.
#[derive(Debug)]
pub struct Waitable {
    // Declared first, so dropped first: a descriptor that is closed before its registration is gone would let a new
    // one of the same number lose its own.
    io: CoIo<Borrowed>,
    waker: Waker,
    fd: OwnedFd,
}

#[derive(Debug)]
struct Borrowed(RawFd);

impl AsRawFd for Borrowed {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl AsRawFd for Waitable {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Waitable {
    /// Registers a descriptor with the runtime, which starts with the first.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let io = CoIo::new(Borrowed(fd.as_raw_fd())).map_err(io::Error::from)?;
        let waker = Waker(Arc::new(io.waker()));
        Ok(Self { io, waker, fd })
    }

    /// Waits until epoll reports something or the waker is called. Edge-triggered: use it only after a call that
    /// would have blocked. It may return for nothing.
    pub fn wait(&self) -> Readiness {
        #[allow(clippy::cast_possible_truncation, reason = "epoll's events are 32 bits")]
        Readiness(self.io.wait_io() as u32)
    }

    /// Wakes whoever waits for this.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// Wakes a coroutine that waits in `Waitable::wait`; it may be called at any time from any thread.
#[derive(Clone)]
pub struct Waker(Arc<WaitIoWaker>);

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

impl Waker {
    /// Wakes with the next `flush_wakes`: many wakes cost one system call.
    pub fn wake_later(&self) {
        dispatcher().queue.push(self.clone());
    }

    /// Wakes now.
    pub fn wake_now(&self) {
        self.wake_later();
        flush_wakes();
    }
}

/// The coroutine that resumes others on their own thread, where that is a push to a local queue.
struct Dispatcher {
    queue: SegQueue<Waker>,
    /// Set from the moment somebody wakes the coroutine until it is about to look at the queue for the last time.
    awake: AtomicBool,
    coroutine: OnceLock<Coroutine>,
}

fn dispatcher() -> &'static Dispatcher {
    static DISPATCHER: Dispatcher =
        Dispatcher { queue: SegQueue::new(), awake: AtomicBool::new(false), coroutine: OnceLock::new() };
    &DISPATCHER
}

/// Wakes everybody for whom `wake_later` was called.
pub fn flush_wakes() {
    let dispatcher = dispatcher();
    if dispatcher.queue.is_empty() || dispatcher.awake.swap(true, Ordering::AcqRel) {
        return;
    }
    dispatcher
        .coroutine
        .get_or_init(|| {
            spawn(move || {
                loop {
                    while let Some(waker) = dispatcher.queue.pop() {
                        waker.0.wakeup();
                    }
                    dispatcher.awake.store(false, Ordering::SeqCst);
                    if !dispatcher.queue.is_empty() && !dispatcher.awake.swap(true, Ordering::AcqRel) {
                        continue;
                    }
                    coroutine::park();
                }
            })
        })
        .unpark();
}

/// Starts a coroutine on the runtime's thread.
pub fn spawn(code: impl FnOnce() + Send + 'static) -> Coroutine {
    // SAFETY: our coroutines keep no thread-local across a suspension, and their stacks hold no large buffers.
    let handle = unsafe { coroutine::spawn(code) };
    handle.coroutine().clone()
}
