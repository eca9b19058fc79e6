//! fork(2): which descriptors a child must not keep, and what runs in the child before its own code.
//!
//! *Owns*: a set of descriptor numbers, one bit each, and the count of forks. *Runs on*: any thread that registers or
//! closes a descriptor. `before`, `in_parent` and `in_child` run inside fork(2), on the thread that calls it, from
//! Python or from a C library. *Invariants*: no fork happens after the kernel has made a client's descriptor and before
//! its number is in the set. No fork happens between the removal of a number from the set and close(2). A number in the
//! set always belongs to a descriptor of the server. *Source*: `pthread_atfork(3)`.
//!
//! If a child kept a client's socket, the client would never see it close. If it kept a listener, the address would
//! stay in use after the server has ended. `vfork(2)` and `posix_spawn(3)` do not run these handlers: their children
//! call execve(2), which closes every descriptor of the server.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Once, OnceLock};

/// How many numbers one part of the set has. Parts are allocated when they are needed.
const PART: usize = 1 << 14;
/// The number of parts. Higher descriptor numbers are not tracked (`fs.nr_open` is 2^20 by default).
const PARTS: usize = 1 << 10;

type Part = Box<[AtomicU64]>;

static HELD: [OnceLock<Part>; PARTS] = [const { OnceLock::new() }; PARTS];

/// The number of forks between this process and the first process that called `watch_forks`.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// The lock that fork(2) waits for.
struct Gate {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    /// The signals that the forking thread blocked before the fork.
    signals: UnsafeCell<MaybeUninit<libc::sigset_t>>,
}

// SAFETY: the mutex is made to be used by several threads, and `signals` only by the one that has it locked.
unsafe impl Sync for Gate {}

static GATE: Gate =
    Gate { mutex: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER), signals: UnsafeCell::new(MaybeUninit::uninit()) };

impl Gate {
    fn lock(&self) {
        // SAFETY: the mutex is initialised; nothing that has it locked locks it again.
        unsafe { libc::pthread_mutex_lock(self.mutex.get()) };
    }

    fn unlock(&self) {
        // SAFETY: the calling thread has locked it, or is the child's copy of the thread that has.
        unsafe { libc::pthread_mutex_unlock(self.mutex.get()) };
    }
}

/// While this value lives, no thread of the process can fork: fork(2) waits until it is dropped. Drop it soon.
#[derive(Debug)]
pub(super) struct NoFork(());

impl NoFork {
    pub(super) fn begin() -> Self {
        GATE.lock();
        Self(())
    }
}

impl Drop for NoFork {
    fn drop(&mut self) {
        GATE.unlock();
    }
}

/// Makes every fork of this process run the handlers below from now on.
pub fn watch_forks() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        // SAFETY: the functions live as long as the process: neither a program nor a module of Python is ever unloaded.
        let result = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        assert_eq!(result, 0, "the C library has memory for three addresses");
    });
}

/// Returns a number that differs between a process and its child. (After `watch_forks`.)
#[inline]
pub fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Waits until no `NoFork` lives, prevents new ones, and blocks all signals.
///
/// # Safety
/// Only fork(2) calls it, and calls `in_parent` or `in_child` on the same thread afterwards.
unsafe extern "C" fn before() {
    GATE.lock();
    // If a signal reached the child before `in_child`, the child would handle it with the parent's handlers.
    // SAFETY: only the thread that has locked the gate uses the set of signals.
    unsafe {
        let mut all = MaybeUninit::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), (*GATE.signals.get()).as_mut_ptr());
    }
}

/// Undoes `before`.
///
/// # Safety
/// `before` was the last of these functions that ran on this thread.
unsafe extern "C" fn in_parent() {
    // SAFETY: `before` has locked the gate and filled the set of signals, on this thread.
    let signals = unsafe { *GATE.signals.get() };
    GATE.unlock();
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, signals.as_ptr(), std::ptr::null_mut()) };
}

/// Closes the held descriptors, gives signals their earlier actions, and undoes `before`. Does only what fork(2) allows
/// in the child of a process with threads: nothing here allocates or takes a lock.
///
/// # Safety
/// Only fork(2) calls it, in the child, after `before`.
unsafe extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    close_held();
    super::signals::give_back_in_child();
    // SAFETY: the gate is as `before` left it.
    unsafe { in_parent() };
}

fn place(fd: RawFd) -> Option<(&'static OnceLock<Part>, usize, u64)> {
    let number = usize::try_from(fd).ok()?;
    Some((HELD.get(number / PART)?, number % PART / 64, 1 << (number % 64)))
}

/// Marks a descriptor that a child must not keep. The caller must `release` it before closing it.
pub(super) fn hold(fd: RawFd) {
    if let Some((part, word, bit)) = place(fd) {
        let part = part.get_or_init(|| (0..PART / 64).map(|_| AtomicU64::new(0)).collect());
        part[word].fetch_or(bit, Ordering::Relaxed);
    }
}

/// Lets a child keep the descriptor from now on. Returns whether the descriptor was held. In a forked child it is no
/// longer held, and its number may belong to another file.
fn release(fd: RawFd) -> bool {
    let Some((part, word, bit)) = place(fd) else { return true };
    part.get().is_some_and(|part| part[word].fetch_and(!bit, Ordering::Relaxed) & bit != 0)
}

/// Returns whether a descriptor with this number is held.
fn is_held(fd: RawFd) -> bool {
    place(fd)
        .is_some_and(|(part, word, bit)| part.get().is_some_and(|part| part[word].load(Ordering::Relaxed) & bit != 0))
}

/// The number of a held descriptor. It can be kept for longer than the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldNumber(RawFd);

impl HeldNumber {
    /// A number that belongs to no descriptor.
    pub const NONE: Self = Self(-1);

    pub(super) fn of(held: &impl AsFd) -> Self {
        Self(held.as_fd().as_raw_fd())
    }

    /// Returns whether this is `NONE`.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Ends the connection in both directions (shutdown(2)). A thread that waits for the connection then sees its end.
    /// The descriptor stays open. Does nothing unless a descriptor with this number is held.
    pub fn shut_down(self) {
        let _undivided = NoFork::begin();
        if is_held(self.0) {
            // SAFETY: a held descriptor is the server's, and it is neither closed nor given away before `_undivided` is
            // dropped. An error means that the connection has ended already.
            unsafe { libc::shutdown(self.0, libc::SHUT_RDWR) };
        }
    }
}

/// Lets children keep a descriptor that was held.
pub(super) fn give_up(fd: &OwnedFd, _undivided: &NoFork) {
    release(fd.as_raw_fd());
}

/// Closes a descriptor that was held.
pub(super) fn close(fd: OwnedFd, _undivided: &NoFork) {
    if !release(fd.as_raw_fd()) {
        // This process is a forked child, and `in_child` has already closed the descriptor.
        std::mem::forget(fd);
    }
}

/// A descriptor that a child does not keep.
#[derive(Debug)]
pub struct HeldFd(Option<OwnedFd>);

impl HeldFd {
    /// Makes another descriptor of the same file.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn copy_of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let _undivided = NoFork::begin();
        let copy = fd.try_clone_to_owned()?;
        hold(copy.as_raw_fd());
        Ok(Self(Some(copy)))
    }

    /// Returns the descriptor, which is no longer held.
    pub(super) fn into_released(mut self, _undivided: &NoFork) -> OwnedFd {
        release(self.as_raw_fd());
        self.0.take().expect("it is there until it is dropped")
    }
}

impl From<OwnedFd> for HeldFd {
    fn from(fd: OwnedFd) -> Self {
        hold(fd.as_raw_fd());
        Self(Some(fd))
    }
}

impl AsFd for HeldFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("it is there until it is dropped").as_fd()
    }
}

impl AsRawFd for HeldFd {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for HeldFd {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take() {
            close(fd, &NoFork::begin());
        }
    }
}

/// A descriptor that a child keeps, unless the child is forked between `hold` and `let_go`.
#[derive(Debug)]
pub struct HoldableFd {
    /// `None` only while it is dropped.
    fd: Option<OwnedFd>,
    is_held: AtomicBool,
}

impl HoldableFd {
    /// Makes forked children close the descriptor from now on.
    pub fn hold(&self) {
        hold(self.as_fd().as_raw_fd());
        self.is_held.store(true, Ordering::Relaxed);
    }

    /// Lets children keep the descriptor from now on.
    pub fn let_go(&self) {
        // In a child, which has closed the descriptor, the mark stays, so that `drop` does not close another file.
        if self.is_held.load(Ordering::Relaxed) && release(self.as_fd().as_raw_fd()) {
            self.is_held.store(false, Ordering::Relaxed);
        }
    }
}

impl From<OwnedFd> for HoldableFd {
    fn from(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), is_held: AtomicBool::new(false) }
    }
}

impl AsFd for HoldableFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("it is there until it is dropped").as_fd()
    }
}

impl Drop for HoldableFd {
    fn drop(&mut self) {
        if *self.is_held.get_mut()
            && let Some(fd) = self.fd.take()
        {
            close(fd, &NoFork::begin());
        }
    }
}

/// Closes all held descriptors. Only for a forked child: its copies of the parent's descriptors belong to values whose
/// threads do not run in it. Closing a copy changes nothing for the parent, whose registrations stay.
fn close_held() {
    for (number, part) in HELD.iter().enumerate() {
        let Some(part) = part.get() else { continue };
        for (word, bits) in part.iter().enumerate() {
            let mut bits = bits.swap(0, Ordering::Relaxed);
            while bits != 0 {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let fd = number * PART + word * 64 + bit;
                // SAFETY: close(2) on a number of ours, whose owners do not run in this process.
                unsafe { libc::close(RawFd::try_from(fd).unwrap_or(-1)) };
            }
        }
    }
}
