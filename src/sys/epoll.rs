//! An epoll set and a timer outside the runtime. Neither call waits: a coroutine waits for their descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::Waitable;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The events that a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Input, the end of input, or the end of the connection.
    Input,
    /// The end of input, or the end of the connection. Input that has arrived does not count.
    Hangup,
    /// The end of the connection in both directions, which epoll always reports.
    Break,
    /// The same as `Input`, or room for output.
    Both,
    /// Room for output, or the end of the connection in both directions.
    Output,
}

impl Interest {
    fn events(self) -> libc::c_int {
        match self {
            Self::Input => libc::EPOLLIN | libc::EPOLLRDHUP,
            Self::Hangup => libc::EPOLLRDHUP,
            Self::Break => 0,
            Self::Both => libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLOUT,
            Self::Output => libc::EPOLLOUT,
        }
    }
}

/// An epoll set.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// Makes an empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1(2) makes a descriptor, which has no other owner.
        unsafe { check(libc::epoll_create1(libc::EPOLL_CLOEXEC)).map(|fd| Self(OwnedFd::from_raw_fd(fd))) }
    }

    /// Returns another descriptor of the same set.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    fn control(&self, operation: libc::c_int, fd: &impl AsFd, events: libc::c_int, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: data };
        // SAFETY: the event lives through the call.
        unsafe {
            check(libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_fd().as_raw_fd(), &raw mut event)).map(drop)
        }
    }

    /// Watches a descriptor for input, until it is removed.
    pub fn add(&self, fd: &impl AsFd, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN, data)
    }

    /// Watches a descriptor for one event. `is_known` says that the set has the descriptor already.
    pub fn arm(&self, fd: &impl AsFd, is_known: bool, data: u64, interest: Interest) -> io::Result<()> {
        let operation = if is_known { libc::EPOLL_CTL_MOD } else { libc::EPOLL_CTL_ADD };
        self.control(operation, fd, interest.events() | libc::EPOLLONESHOT, data)
    }

    /// Removes a descriptor from the set.
    pub fn remove(&self, fd: &impl AsFd) {
        // An error means that it is not in the set.
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    /// Appends the data of the ready descriptors, without waiting.
    pub fn poll(&self, ready: &mut Vec<u64>, events_max: usize) {
        let mut events: Vec<libc::epoll_event> = Vec::with_capacity(events_max);
        let room = libc::c_int::try_from(events_max).unwrap_or(libc::c_int::MAX);
        // SAFETY: the vector has room for that many events, and the kernel says how many it wrote.
        unsafe {
            let count = libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), room, 0);
            events.set_len(usize::try_from(count).unwrap_or(0));
        }
        ready.extend(events.iter().map(|event| event.u64));
    }
}

/// Makes an eventfd whose count is 0.
fn event_descriptor() -> io::Result<OwnedFd> {
    // SAFETY: eventfd(2) makes a descriptor, which has no other owner.
    unsafe { check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// Adds 1 to an eventfd's count, which makes it readable.
fn count_up(fd: &OwnedFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the buffer has the eight bytes that an eventfd takes.
    unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// An eventfd that only reports edges: it is written to and never read.
#[derive(Debug)]
pub(super) struct EventFd(OwnedFd);

impl EventFd {
    /// Makes an eventfd that no coroutine waits for.
    pub(super) fn alone() -> io::Result<Self> {
        event_descriptor().map(Self)
    }

    /// Makes an eventfd that a coroutine can wait for.
    pub(super) fn new() -> io::Result<(Self, Waitable)> {
        let fd = event_descriptor()?;
        let waitable = Waitable::new(fd.try_clone()?)?;
        Ok((Self(fd), waitable))
    }

    /// Causes the next edge. The count has room for 2^64 - 2 of them.
    pub(super) fn signal(&self) {
        count_up(&self.0);
    }
}

/// A timerfd on the monotonic clock. It is readable once its time has passed.
#[derive(Debug)]
pub struct TimerFd(OwnedFd);

impl AsFd for TimerFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl TimerFd {
    /// Makes a timer for an epoll set.
    pub fn unregistered() -> io::Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: timerfd_create(2) makes a descriptor, which has no other owner.
        unsafe { check(libc::timerfd_create(libc::CLOCK_MONOTONIC, flags)).map(|fd| Self(OwnedFd::from_raw_fd(fd))) }
    }

    /// Makes a timer that a coroutine can wait for.
    pub fn new() -> io::Result<(Self, Waitable)> {
        let timer = Self::unregistered()?;
        let waitable = Waitable::new(timer.0.try_clone()?)?;
        Ok((timer, waitable))
    }

    /// Sets the timer to expire after `after`, which replaces its earlier time.
    pub fn arm(&self, after: Duration) {
        let after = after.max(Duration::from_nanos(1));
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(after.subsec_nanos().cast_signed()),
        };
        let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: the specification lives through the call; the old value is not asked for.
        unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut()) };
    }

    /// Makes an expired timer unreadable again.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: the buffer has the eight bytes that a timerfd gives.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

/// An event. Threads wait for it in poll(2), which a signal interrupts.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// Makes an event that has not happened.
    pub fn new() -> io::Result<Self> {
        event_descriptor().map(Self)
    }

    /// Returns the same event with another descriptor.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Marks the event as happened. The descriptor stays readable until `forget`.
    pub fn happen(&self) {
        count_up(&self.0);
    }

    /// Marks the event as not happened.
    pub fn forget(&self) {
        let mut count = 0_u64;
        // SAFETY: the kernel writes eight bytes, or none if the event has not happened: the descriptor does not wait.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }

    /// Waits until the event has happened, a signal arrives, or the time is over. Returns whether the event has
    /// happened.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut asked = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = timeout.as_micros().div_ceil(1000);
        let millis = libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX);
        // SAFETY: the structure lives through the call.
        unsafe { libc::poll(&raw mut asked, 1, millis) > 0 }
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
