//! Coroutines of `may`: starting them, waiting for a descriptor, and waking them from any thread.
//!
//! *Runs on*: the runtime has one thread, which runs all coroutines and waits in epoll for all of them. *Invariants*: a
//! registration is removed before its descriptor is closed. No timer of the runtime is used. A process that was forked
//! from one with a runtime never uses it.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Once, OnceLock};

use crossbeam::queue::SegQueue;
use may::coroutine::{self, Coroutine};
use may::io::{CoIo, WaitIo, WaitIoWaker};

use super::epoll::EventFd;
use super::forks::{self, HeldFd, HeldNumber};
use super::lock::Lock;
use super::process::{SignalAction, SignalMask};

/// How many stacks are kept for later coroutines. Each has two or three touched pages.
const STACKS_KEPT: usize = 32;

/// The process that the runtime runs in; 0 until it is started.
static RUNTIME_OWNER: AtomicU32 = AtomicU32::new(0);

/// The runtime cannot be used in a forked child: its threads did not survive fork(2), and its data belongs to the
/// parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process was forked from one that had started a server, whose threads it does not have: start servers after \
     the fork, or start the process by exec (multiprocessing's \"spawn\")"
)]
pub struct RuntimeLost;

/// Why the runtime cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The parent process has started the runtime.
    #[error(transparent)]
    Lost(#[from] RuntimeLost),
    /// The process has too few descriptors.
    #[error("cannot open the descriptors that the server needs for itself (see `ulimit -n`)")]
    Descriptors(#[source] io::Error),
    /// The process may start too few threads.
    #[error("cannot start the threads that the server needs for itself (see `ulimit -u` and the cgroup's pids.max)")]
    Threads(#[source] io::Error),
}

/// The descriptors that the runtime opens when it starts, and one or two more. The runtime panics if it cannot open
/// them, so `start_runtime` tries first.
const DESCRIPTORS: usize = 6;
/// The threads that the runtime starts. They are tried first, too.
const THREADS: usize = 2;

/// Starts the runtime, unless it is running: one thread, not pinned, with stacks of `stack_bytes`. Call it before the
/// first coroutine and after the last fork(2). Its threads block all signals, which other threads handle.
///
/// The runtime's stacks install handlers for SIGSEGV and SIGBUS, which obscure a crash inside a C extension. So the
/// previous handlers are restored.
///
/// # Errors
/// The parent process has started the runtime, or there are too few descriptors or threads.
pub fn start_runtime(stack_bytes: usize) -> Result<(), StartError> {
    static STARTING: Lock<()> = Lock::new(());
    let owner = RUNTIME_OWNER.load(Ordering::SeqCst);
    if owner != 0 && owner != std::process::id() {
        return Err(RuntimeLost.into());
    }
    super::watch_forks();
    let _starting = STARTING.lock();
    if RUNTIME_OWNER.load(Ordering::SeqCst) == 0 {
        try_descriptors(DESCRIPTORS).map_err(StartError::Descriptors)?;
        let signals = SignalMask::block_all();
        let started = try_threads();
        if started.is_ok() {
            RUNTIME_OWNER.store(std::process::id(), Ordering::SeqCst);
            launch(stack_bytes);
        }
        signals.restore();
        started.map_err(StartError::Threads)?;
    }
    LINE.open().map_err(StartError::Descriptors)?;
    DISPATCHER.coroutine();
    Ok(())
}

/// Returns whether this process or the one that it was forked from has started the runtime.
pub fn has_runtime() -> bool {
    RUNTIME_OWNER.load(Ordering::SeqCst) != 0
}

/// Opens this many descriptors, and closes them.
///
/// # Errors
/// The process may not open this many descriptors.
pub fn try_descriptors(count: usize) -> io::Result<()> {
    (0..count).map(|_| EventFd::alone()).collect::<io::Result<Vec<_>>>().map(drop)
}

/// Starts as many threads as the runtime will start, and ends them.
fn try_threads() -> io::Result<()> {
    let (end, wait) = crossbeam::channel::bounded::<()>(0);
    let start = |_| {
        let wait = wait.clone();
        // The thread ends when the other side of the channel is dropped.
        std::thread::Builder::new().name("maypole-try".into()).spawn(move || wait.recv().is_err())
    };
    let started: Vec<_> = (0..THREADS).map(start).collect();
    drop(end);
    let mut result = Ok(());
    for thread in started {
        match thread {
            Ok(thread) => drop(thread.join()),
            Err(error) => result = Err(error),
        }
    }
    result
}

fn launch(stack_bytes: usize) {
    let words = (stack_bytes / size_of::<usize>()).next_multiple_of(512);
    let config = may::config();
    config.set_stack_size(words).set_pool_capacity(1);
    let fatal = [libc::SIGSEGV, libc::SIGBUS].map(SignalAction::current);
    let (started, wait) = std::sync::mpsc::channel();
    spawn(move || {
        let _ = started.send(());
    });
    // An error means that the coroutine has ended, which is enough.
    let _ = wait.recv();
    // The runtime fills its pool of stacks when it starts, which has happened by now.
    config.set_pool_capacity(STACKS_KEPT);
    fatal.iter().for_each(SignalAction::restore);
}

/// Starts a coroutine on the runtime's thread.
pub fn spawn(code: impl FnOnce() + Send + 'static) -> Coroutine {
    use_one_thread();
    // SAFETY: a coroutine that moves to another thread could use values of the thread that it has left. The runtime has
    // one thread, and every coroutine begins and continues there. A coroutine that needs more than its stack touches
    // the page below it, which is protected: the process ends by SIGSEGV. Rust code touches each page of a large frame.
    unsafe { coroutine::spawn(code) }.coroutine().clone()
}

/// Runs a coroutine at once until it waits for the first time, if the caller is a coroutine. On any other thread, this
/// is `spawn`.
///
/// # Errors
/// There is no memory for its stack.
pub fn spawn_here(code: impl FnOnce() + Send + 'static) -> io::Result<()> {
    if !coroutine::is_coroutine() {
        spawn(code);
        return Ok(());
    }
    // SAFETY: as for `spawn`. This is the runtime's thread, because only that one runs coroutines.
    unsafe { coroutine::Builder::new().spawn_local(code) }.map(drop)
}

/// Makes the runtime start with one thread. It starts with the first coroutine or the first `Waitable`.
fn use_one_thread() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        may::config().set_workers(1).set_worker_pin(false);
    });
}

/// The flag that the runtime reports instead of an event when the waker was called.
const WAKER_CALLED: u32 = 1 << 31;

/// What epoll reported for a descriptor, or that its waker was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness(u32);

impl Readiness {
    /// No events.
    pub const NONE: Self = Self(0);
    /// A read has failed.
    pub const BROKEN: Self = Self((libc::EPOLLHUP | libc::EPOLLERR).cast_unsigned());

    /// Returns whether the client closed its side, or the connection is broken: an end of file may follow the data.
    pub fn is_hangup(self) -> bool {
        self.0 & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR).cast_unsigned() != 0
    }

    /// Returns whether the connection was reset. The client no longer receives anything.
    pub fn is_broken(self) -> bool {
        self.0 & (libc::EPOLLHUP | libc::EPOLLERR).cast_unsigned() != 0
    }

    /// Returns whether epoll reported an event. A call of the waker alone is not one.
    pub fn is_event(self) -> bool {
        self.0 & !WAKER_CALLED != 0
    }

    /// Returns whether there is data to read.
    pub fn is_readable(self) -> bool {
        self.0 & libc::EPOLLIN.cast_unsigned() != 0
    }

    /// Joins earlier and later reports.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A non-blocking descriptor. One coroutine at a time can wait for it.
#[derive(Debug)]
pub struct Waitable {
    io: ManuallyDrop<CoIo<OwnedFd>>,
}

impl Drop for Waitable {
    fn drop(&mut self) {
        // Closing a descriptor before its registration is removed would make the next descriptor with this number lose
        // its own registration. So the registration is removed first.
        let undivided = forks::NoFork::begin();
        // SAFETY: it is not used again.
        forks::close(unsafe { self.take_fd() }, &undivided);
    }
}

impl AsFd for Waitable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.inner().as_fd()
    }
}

impl AsRawFd for Waitable {
    fn as_raw_fd(&self) -> RawFd {
        self.io.inner().as_raw_fd()
    }
}

impl Waitable {
    /// Registers a descriptor with the runtime and makes it non-blocking. A forked child does not keep the descriptor.
    pub fn new(fd: impl Into<HeldFd>) -> io::Result<Self> {
        use_one_thread();
        let fd = fd.into();
        let number = fd.as_raw_fd();
        let undivided = forks::NoFork::begin();
        // An error closes the descriptor.
        let io = CoIo::new(fd.into_released(&undivided))?;
        forks::hold(number);
        Ok(Self { io: ManuallyDrop::new(io) })
    }

    /// Removes the registration and returns the descriptor, still non-blocking. A child forked from now on keeps its
    /// copy.
    pub fn into_fd(self) -> OwnedFd {
        let mut this = ManuallyDrop::new(self);
        let undivided = forks::NoFork::begin();
        // SAFETY: it is not used again, nor dropped.
        let fd = unsafe { this.take_fd() };
        forks::give_up(&fd, &undivided);
        fd
    }

    /// Removes the registration and returns the descriptor, still non-blocking. A forked child does not keep it.
    pub fn into_held(self) -> HeldFd {
        let mut this = ManuallyDrop::new(self);
        let _undivided = forks::NoFork::begin();
        // SAFETY: it is not used again, nor dropped.
        HeldFd::from(unsafe { this.take_fd() })
    }

    /// Returns the descriptor's number.
    pub fn number(&self) -> HeldNumber {
        HeldNumber::of(self)
    }

    /// Removes the registration and returns the descriptor.
    ///
    /// # Safety
    /// Nothing is used afterwards.
    unsafe fn take_fd(&mut self) -> OwnedFd {
        // SAFETY: as above.
        let io = unsafe { ManuallyDrop::take(&mut self.io) };
        let fd = io.into_raw_fd();
        // SAFETY: it was ours, and `into_raw_fd` has left it open.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    /// Waits until epoll reports an event or a waker is called. The reports are edges: wait only after a call that
    /// would have blocked, or after a read that returned less than its maximum. It may also return without an event or
    /// a wake.
    pub fn wait(&self) -> Readiness {
        #[allow(clippy::cast_possible_truncation, reason = "epoll's events have 32 bits")]
        Readiness(self.io.wait_io() as u32)
    }

    /// Returns the waker of the coroutine that waits for this descriptor.
    pub fn waker(&self) -> Waker {
        Waker(Arc::new(self.io.waker()))
    }
}

/// Wakes the coroutine that waits in `Waitable::wait`, or lets its next wait return at once. Any thread may call it.
#[derive(Clone)]
pub struct Waker(Arc<WaitIoWaker>);

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

impl Waker {
    /// Wakes the coroutine at the next `flush_wakes`. Any number of these wakes together cost one system call.
    pub fn wake_later(&self) {
        DISPATCHER.queue.push(self.clone());
    }

    /// Wakes the coroutine now.
    pub fn wake_now(&self) {
        self.wake_later();
        flush_wakes();
    }

    /// Wakes the coroutine now, without a system call. (The runtime's thread.)
    pub fn wake_here(&self) {
        self.0.wakeup();
    }
}

/// How many single connections in line get a turn after each poll for events. A turn takes about 0.2 ms, so other
/// connections wait about 1 ms for connections that move much data.
const TURNS: usize = 4;
/// The work that events alone may cause between two polls for events, in the units of `begin_share`: about 1 ms. All
/// coroutines share it. After that each coroutine gets only a small share, so that a burst of events does not delay the
/// next events.
const ROUND_WORK: u32 = 1 << 20;

/// The kind of turn that a coroutine waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnOf {
    /// A turn for one connection.
    One,
    /// A turn for a coroutine that serves all idle or all new connections. It does not wait behind single connections.
    Many,
}

/// Coroutines that have done much work at once and wait for a turn to continue.
struct Line {
    many: SegQueue<InLine>,
    single: SegQueue<InLine>,
    /// Signalled so that the next poll for events reports it after the other events.
    next: OnceLock<EventFd>,
    /// The rest of `ROUND_WORK`. Only the runtime's thread uses it.
    work_left: AtomicU32,
}

/// A coroutine in line, and whether its turn has come.
type InLine = (Waker, Arc<AtomicBool>);

static LINE: Line = Line {
    many: SegQueue::new(),
    single: SegQueue::new(),
    next: OnceLock::new(),
    work_left: AtomicU32::new(ROUND_WORK),
};

impl Line {
    /// Makes the line's descriptor and coroutine, unless they exist.
    fn open(&'static self) -> io::Result<()> {
        if self.next.get().is_none() {
            let (event, waitable) = EventFd::new()?;
            if self.next.set(event).is_ok() {
                spawn(move || self.run(&waitable));
            }
        }
        Ok(())
    }

    fn run(&self, waitable: &Waitable) {
        loop {
            self.work_left.store(ROUND_WORK, Ordering::Relaxed);
            // Coroutines that get in line again meanwhile wait for the next round.
            for _ in 0..self.many.len() {
                grant(self.many.pop());
            }
            for _ in 0..TURNS {
                grant(self.single.pop());
            }
            if !(self.many.is_empty() && self.single.is_empty()) {
                self.signal();
            }
            waitable.wait();
        }
    }

    /// Makes the line's coroutine run after the next poll for events. (The runtime's thread.)
    fn signal(&self) {
        if let Some(next) = self.next.get() {
            next.signal();
        }
    }
}

fn grant(next: Option<InLine>) {
    if let Some((waker, granted)) = next {
        granted.store(true, Ordering::Release);
        waker.wake_here();
    }
}

/// Begins a share of the runtime's thread after an event. `used` is the work done in the previous share. Returns
/// whether this round still allows a large share. (The runtime's thread.)
pub fn begin_share(used: u32) -> bool {
    let left = LINE.work_left.load(Ordering::Relaxed);
    if left == 0 {
        return false;
    }
    let left = left.saturating_sub(used);
    LINE.work_left.store(left, Ordering::Relaxed);
    if left == 0 {
        // The round ends with the next poll for events.
        LINE.signal();
    }
    true
}

impl Waitable {
    /// Lets other coroutines and new events go first, after the calling coroutine has done much work at once. Returns
    /// the events that epoll has reported for this descriptor meanwhile.
    pub fn take_turn(&self, waker: &Waker, of: TurnOf) -> Readiness {
        // The line is open once the runtime has started. Some tests start none.
        if LINE.open().is_err() {
            return Readiness::NONE;
        }
        let granted = Arc::new(AtomicBool::new(false));
        let line = match of {
            TurnOf::One => &LINE.single,
            TurnOf::Many => &LINE.many,
        };
        line.push((waker.clone(), Arc::clone(&granted)));
        LINE.signal();
        let mut reported = Readiness::NONE;
        while !granted.load(Ordering::Acquire) {
            reported = reported.and(self.wait());
        }
        reported
    }
}

/// The coroutine that resumes other coroutines on the runtime's thread. Resuming one there only pushes it to a local
/// queue.
struct Dispatcher {
    queue: SegQueue<Waker>,
    /// Whether the coroutine has been woken. It clears this just before it checks the queue for the last time.
    awake: AtomicBool,
    coroutine: OnceLock<Coroutine>,
}

static DISPATCHER: Dispatcher =
    Dispatcher { queue: SegQueue::new(), awake: AtomicBool::new(false), coroutine: OnceLock::new() };

impl Dispatcher {
    fn coroutine(&'static self) -> &'static Coroutine {
        self.coroutine.get_or_init(|| spawn(|| self.run()))
    }

    fn resume_all(&self) {
        while let Some(waker) = self.queue.pop() {
            waker.wake_here();
        }
    }

    fn run(&self) {
        loop {
            self.resume_all();
            self.awake.store(false, Ordering::SeqCst);
            if !self.queue.is_empty() && !self.awake.swap(true, Ordering::SeqCst) {
                continue;
            }
            coroutine::park();
        }
    }
}

/// Wakes all coroutines for which `wake_later` was called.
pub fn flush_wakes() {
    if DISPATCHER.queue.is_empty() || DISPATCHER.awake.swap(true, Ordering::SeqCst) {
        return;
    }
    DISPATCHER.coroutine().unpark();
}

/// Runs `action`, during which other threads may use this processor. Then resumes the coroutines that they have woken,
/// without a system call. (The runtime's thread.)
pub fn collect_wakes(action: impl FnOnce()) {
    let was_awake = DISPATCHER.awake.swap(true, Ordering::SeqCst);
    action();
    if was_awake {
        return;
    }
    DISPATCHER.resume_all();
    DISPATCHER.awake.store(false, Ordering::SeqCst);
    flush_wakes();
}

/// An action that runs once after many coroutines have asked for it. It runs after all coroutines that can run already,
/// so the consequences of a batch of events are handled together.
pub struct Deferred {
    asked: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    coroutine: Coroutine,
}

impl std::fmt::Debug for Deferred {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deferred")
    }
}

impl Deferred {
    /// Makes the action, which runs on a coroutine and must not wait.
    pub fn new(action: impl Fn() + Send + 'static) -> Self {
        let (asked, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (wanted, over) = (Arc::clone(&asked), Arc::clone(&ended));
        let coroutine = spawn(move || {
            while !over.load(Ordering::Acquire) {
                if wanted.swap(false, Ordering::AcqRel) {
                    action();
                } else {
                    coroutine::park();
                }
            }
        });
        Self { asked, ended, coroutine }
    }

    /// Asks for the action.
    pub fn ask(&self) {
        if !self.asked.load(Ordering::Relaxed) && !self.asked.swap(true, Ordering::AcqRel) {
            self.coroutine.unpark();
        }
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        self.coroutine.unpark();
    }
}
