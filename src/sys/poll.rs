//! Waiting for descriptors on a plain thread (`poll(2)`).
//!
//! *Owns*: nothing. *Invariants*: a descriptor is ready if it has input, if its other end is closed, or if it has
//! failed: the read that follows says which.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::time::Duration;

/// Returns whether a read or an accept would return without waiting.
pub fn is_readable(descriptor: &impl AsFd) -> bool {
    poll(&mut [asked(descriptor.as_fd())], Some(Duration::ZERO)).is_ok_and(|ready| ready > 0)
}

/// Waits until a descriptor is ready. (Plain thread.)
pub(super) fn wait_readable(descriptor: &impl AsFd) -> io::Result<()> {
    loop {
        match poll(&mut [asked(descriptor.as_fd())], None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}

/// Waits until one of the descriptors is ready, a signal arrives, or the time is over. Returns which are ready. (Plain
/// thread.)
pub fn wait_for_any(descriptors: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Vec<bool> {
    let mut all: Vec<_> = descriptors.iter().map(|descriptor| asked(*descriptor)).collect();
    let has_any = poll(&mut all, timeout).is_ok_and(|ready| ready > 0);
    all.iter().map(|one| has_any && one.revents != 0).collect()
}

/// Waits until a descriptor takes output or its other end is closed, at most for this long. Returns whether it is so.
/// (Plain thread.)
pub fn wait_writable(descriptor: BorrowedFd<'_>, timeout: Duration) -> bool {
    let asked = libc::pollfd { events: libc::POLLOUT, ..asked(descriptor) };
    poll(&mut [asked], Some(timeout)).is_ok_and(|ready| ready > 0)
}

fn asked(descriptor: BorrowedFd<'_>) -> libc::pollfd {
    libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// Returns how many descriptors are ready. `None` waits without a limit.
fn poll(asked: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<libc::c_int> {
    // Rounded up: a wait that ends early would be repeated again and again.
    let millis = timeout
        .map_or(-1, |timeout| libc::c_int::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX));
    let count = libc::nfds_t::try_from(asked.len()).unwrap_or(0);
    // SAFETY: the structures live through the call.
    let ready = unsafe { libc::poll(asked.as_mut_ptr(), count, millis) };
    if ready < 0 { Err(io::Error::last_os_error()) } else { Ok(ready) }
}
