//! Work in a copy of this process, which may crash without harm.
//!
//! *Owns*: the copy, until it has ended. *Runs on*: any thread waits; the work runs in the copy, which has no other
//! thread. *Invariants*: the copy leaves no zombie, no core file and no SIGCHLD. It shares open files with this process,
//! and nothing else. *Source*: clone(2), `signal-safety(7)`.

use std::io;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

/// How often the end of the copy is looked for.
const LOOK: Duration = Duration::from_micros(500);

/// The signals that end a process that reads or runs what it may not.
const FAULTS: [libc::c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];

/// Runs `work` in a copy of this process, and waits for its end. The copy sees the memory as it is at this moment. It is
/// killed after `limit`.
///
/// # Errors
/// There is no memory for a copy, the copy has crashed, or its time was over.
///
/// # Safety
/// `work` does only what a signal handler may do: it takes no lock and does not allocate.
pub unsafe fn run_in_copy(limit: Duration, work: impl FnOnce()) -> io::Result<()> {
    let end = Instant::now() + limit;
    // The system call itself, because handlers of fork(2) may wait for locks. Without a signal in the flags, only a wait
    // with `__WALL` sees the copy's end, so no other wait in this process takes it.
    // SAFETY: without `CLONE_VM`, the copy has memory of its own. It runs only what a signal handler may do.
    let copy = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    if copy == 0 {
        prepare_copy();
        work();
        // SAFETY: ends the copy without running anything of this process.
        unsafe { libc::_exit(0) }
    }
    let copy = libc::pid_t::try_from(copy).unwrap_or(-1);
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    await_end(copy, end)
}

/// Makes a fault end the copy, as the end of this process does. (In the copy.)
fn prepare_copy() {
    // SAFETY: an all-zero sigaction is the default action; a signal handler may make all of these calls.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for fault in FAULTS {
            libc::sigaction(fault, &raw const default, ptr::null_mut());
        }
        let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
}

/// Waits until the copy has ended. Kills it at `end`.
fn await_end(copy: libc::pid_t, end: Instant) -> io::Result<()> {
    let mut status = 0;
    loop {
        let is_late = Instant::now() >= end;
        if is_late {
            // SAFETY: the copy has not been waited for, so the number is still its own.
            unsafe { libc::kill(copy, libc::SIGKILL) };
        }
        let options = if is_late { libc::__WALL } else { libc::__WALL | libc::WNOHANG };
        // SAFETY: the number lives through the call.
        match unsafe { libc::waitpid(copy, &raw mut status, options) } {
            0 => thread::sleep(LOOK),
            waited if waited == copy && status == 0 => return Ok(()),
            waited if waited == copy && is_late => return Err(io::ErrorKind::TimedOut.into()),
            waited if waited == copy => return Err(io::Error::other("the copy of the process has crashed")),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::sys::SharedMemory;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn copy_sees_this_process_and_changes_only_what_is_shared() {
        let (shared, own) = (SharedMemory::create(512).unwrap(), AtomicU64::new(7));
        let work = || {
            shared.words()[0].store(own.load(Ordering::SeqCst), Ordering::SeqCst);
            own.store(8, Ordering::SeqCst);
        };
        // SAFETY: the work only reads and writes memory.
        unsafe { run_in_copy(PATIENCE, work) }.unwrap();
        assert_eq!((shared.words()[0].load(Ordering::SeqCst), own.load(Ordering::SeqCst)), (7, 7));
    }

    #[test]
    fn copy_that_crashes_or_hangs_is_told() {
        let crash = || {
            // SAFETY: ends the copy.
            unsafe { libc::raise(libc::SIGSEGV) };
        };
        // SAFETY: the work only makes a system call.
        let crashed = unsafe { run_in_copy(PATIENCE, crash) };
        assert_eq!(crashed.unwrap_err().kind(), io::ErrorKind::Other);
        let hang = || loop {
            // SAFETY: waits for a signal that never arrives.
            unsafe { libc::pause() };
        };
        // SAFETY: as above.
        let late = unsafe { run_in_copy(Duration::from_millis(20), hang) };
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
