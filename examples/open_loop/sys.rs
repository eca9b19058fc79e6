//! System calls that std lacks: epoll(7), and a wait that is precise to some microseconds (`timerfd_create(2)`).
#![allow(unsafe_code, reason = "this is the file for it; every block says why it is sound")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The most events per call.
const EVENTS_MAX: usize = 512;
/// The key of the timer.
const TIMER: u64 = u64::MAX;

/// A ready descriptor, by the key that it was added with.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub key: usize,
    pub writable: bool,
    pub readable: bool,
}

/// A set of descriptors and one timer. `epoll_wait(2)` alone counts in milliseconds. Precise forms of poll are late by
/// the timer slack (50 µs), which a timer descriptor does not have.
pub struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    buffer: Vec<libc::epoll_event>,
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor is new and has no other owner.
        let epoll = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        // SAFETY: as above.
        let timer = unsafe {
            OwnedFd::from_raw_fd(check(libc::timerfd_create(
                libc::CLOCK_MONOTONIC,
                libc::TFD_NONBLOCK | libc::TFD_CLOEXEC,
            ))?)
        };
        let poller = Self { epoll, timer, buffer: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX] };
        poller.control(libc::EPOLL_CTL_ADD, poller.timer.as_raw_fd(), TIMER, libc::EPOLLIN)?;
        Ok(poller)
    }

    /// Watches a descriptor for input, and for room to write if `write` is set.
    pub fn add(&self, fd: RawFd, key: usize, write: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, key as u64, interest(write))
    }

    /// Changes the events that a descriptor is watched for.
    pub fn change(&self, fd: RawFd, key: usize, write: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, key as u64, interest(write))
    }

    fn control(&self, operation: i32, fd: RawFd, key: u64, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: key };
        // SAFETY: the event lives through the call, and the kernel checks the descriptors.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) }).map(drop)
    }

    /// Waits until a descriptor is ready or the time is over. With zero, it only looks.
    pub fn wait(&mut self, time: Duration, ready: &mut Vec<Event>) -> io::Result<()> {
        let timeout = if time.is_zero() {
            0
        } else {
            self.arm(time)?;
            -1
        };
        let room = i32::try_from(self.buffer.len()).unwrap_or(i32::MAX);
        // SAFETY: the buffer has room for that number of events, and lives through the call.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), self.buffer.as_mut_ptr(), room, timeout) };
        let count = match check(count) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            count => count?,
        };
        let has = |events: u32, wanted: i32| events & wanted.cast_unsigned() != 0;
        ready.clear();
        ready.extend(
            self.buffer.iter().take(usize::try_from(count).unwrap_or(0)).filter(|event| event.u64 != TIMER).map(
                |event| Event {
                    key: usize::try_from(event.u64).unwrap_or(usize::MAX),
                    writable: has(event.events, libc::EPOLLOUT),
                    readable: has(event.events, libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
                },
            ),
        );
        Ok(())
    }

    /// Sets the timer, and forgets an earlier expiry.
    fn arm(&self, time: Duration) -> io::Result<()> {
        let setting = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: time.subsec_nanos().into(),
            },
        };
        // SAFETY: the setting lives through the call; the old one is not asked for.
        check(unsafe { libc::timerfd_settime(self.timer.as_raw_fd(), 0, &raw const setting, std::ptr::null_mut()) })
            .map(drop)
    }
}

fn interest(write: bool) -> i32 {
    libc::EPOLLIN | libc::EPOLLRDHUP | if write { libc::EPOLLOUT } else { 0 }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Raises the soft limit of descriptors to the hard limit, if possible.
pub fn raise_descriptor_limit() {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives through both calls; failing changes nothing.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) == 0 {
            limits.rlim_cur = limits.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits);
        }
    }
}
