//! Which descriptors a forked child must not keep: those that the runtime watches.
//!
//! *Owns*: a set of numbers, one bit each. *Runs on*: `hold` and `release` on whichever thread registers or closes a
//! descriptor; `close_inherited` on the only thread of a child, right after fork(2). *Invariants*: no lock, so that a
//! child finds the set as it was; a number leaves the set before its descriptor is closed, so a child never closes a
//! stranger's.
//!
//! A client's socket that lives on in a child would never be seen to close by the client, and a listener would keep its
//! address in use after the server has gone.

use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers in one part of the set: parts come into being as they are needed.
const PART: usize = 1 << 14;
/// As many descriptors as a process can have (`fs.nr_open` is 2^20 where nobody raised it); those above are not followed.
const PARTS: usize = 1 << 10;

type Part = Box<[AtomicU64]>;

static HELD: [OnceLock<Part>; PARTS] = [const { OnceLock::new() }; PARTS];

fn place(fd: RawFd) -> Option<(&'static OnceLock<Part>, usize, u64)> {
    let number = usize::try_from(fd).ok()?;
    Some((HELD.get(number / PART)?, number % PART / 64, 1 << (number % 64)))
}

/// A descriptor that a child must not keep.
pub fn hold(fd: RawFd) {
    if let Some((part, word, bit)) = place(fd) {
        let part = part.get_or_init(|| (0..PART / 64).map(|_| AtomicU64::new(0)).collect());
        part[word].fetch_or(bit, Ordering::Relaxed);
    }
}

/// It is going to be closed, or belongs to somebody else from now on.
pub fn release(fd: RawFd) {
    if let Some((part, word, bit)) = place(fd)
        && let Some(part) = part.get()
    {
        part[word].fetch_and(!bit, Ordering::Relaxed);
    }
}

/// Closes them all. Only for a forked child, which has copies of its parent's descriptors and none of the runtime's
/// threads: closing a copy changes nothing for the parent, whose registrations stay.
pub fn close_inherited() {
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
