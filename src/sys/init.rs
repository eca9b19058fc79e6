//! Process 1 of a container: an init that reaps orphans and passes signals on, with the server as its child.
//!
//! *Owns*: process 1, from the fork to its exit. *Runs on*: the only thread of the process. *Invariants*: the child
//! runs as if it had been started directly. Process 1 ends when the child ends, with the same status. *Source*:
//! `pid_namespaces(7)`, and the behaviour of `tini`.
//!
//! The kernel makes process 1 the parent of every orphan in the container, and drops signals to process 1 that have no
//! handler. If the server itself reaped every child, the application would lose the exit status of its own children.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use super::process::SignalMask;

/// Signals that a process causes itself. They are not passed on.
const OWN_FAULTS: [libc::c_int; 7] =
    [libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP];

/// Returns whether this is process 1.
pub fn is_first_process() -> bool {
    std::process::id() == 1
}

/// Forks with `fork`, which returns 0 in the child. This function returns only in the child. The parent becomes the
/// init, and exits with the child's status.
///
/// # Errors
/// The process has several threads, or `fork` fails: a sentence for the operator. The process is unchanged.
pub fn run_behind_init(fork: impl FnOnce() -> Result<libc::pid_t, String>) -> Result<(), String> {
    require_one_thread()?;
    // Signals that arrive before the child has handlers stay pending in the init, which passes them on.
    let before = SignalMask::block_all();
    let child = fork().inspect_err(|_| before.restore())?;
    if child != 0 {
        keep_house(child);
    }
    become_foreground();
    before.restore();
    Ok(())
}

/// fork(2), for a process with one thread and without Python.
///
/// # Errors
/// The process has several threads, the limit of processes is reached, or there is no memory: a sentence for the
/// operator.
pub fn fork_alone() -> Result<libc::pid_t, String> {
    require_one_thread()?;
    // SAFETY: with one thread the child may do what its parent may.
    match unsafe { libc::fork() } {
        -1 => Err(super::plain(&io::Error::last_os_error())),
        child => Ok(child),
    }
}

/// Refuses a fork if the process has other threads. The child would not have these threads, and their locks would stay
/// locked.
fn require_one_thread() -> Result<(), String> {
    match super::threads() {
        1 => Ok(()),
        threads => {
            Err(format!("the process has {threads} threads already; start it with an init such as `docker run --init`"))
        }
    }
}

/// Makes this process group the terminal's foreground group. A terminal sends its signals only to that group, so the
/// server gets each signal once.
fn become_foreground() {
    // SAFETY: system calls without memory; without a terminal the second one fails, which is as good. It would stop a
    // process in the background by SIGTTOU, which is blocked.
    unsafe {
        libc::setpgid(0, 0);
        libc::tcsetpgrp(libc::STDIN_FILENO, libc::getpgrp());
    }
}

/// Runs the init: passes signals on and reaps children until `child` has ended.
fn keep_house(child: libc::pid_t) -> ! {
    close_descriptors();
    let mut all = MaybeUninit::uninit();
    // SAFETY: sigfillset(3) makes it a set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    loop {
        // SAFETY: the set is one, and all of it is blocked.
        let signal = unsafe { libc::sigwaitinfo(all.as_ptr(), ptr::null_mut()) };
        if signal == libc::SIGCHLD {
            if let Some(status) = reap(child) {
                // SAFETY: ends the process, and with it every process that is left in the container.
                unsafe { libc::_exit(status) }
            }
        } else if signal > 0 && !OWN_FAULTS.contains(&signal) {
            // SAFETY: the child has not been reaped, so the number is still its own.
            unsafe { libc::kill(child, signal) };
        }
    }
}

/// Closes all descriptors above 2. Listeners and log files belong to the child alone.
fn close_descriptors() {
    let first = libc::STDERR_FILENO + 1;
    // SAFETY: the process has one thread, which never returns to the code that owns a descriptor.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) != 0 {
            // Linux before 5.9 has no close_range(2).
            let limit = libc::c_int::try_from(super::descriptor_limit()).unwrap_or(libc::c_int::MAX);
            for fd in first..limit.min(1 << 16) {
                libc::close(fd);
            }
        }
    }
}

/// Reaps every process that has ended. Returns the exit status if `child` is among them: 128 + N if signal N ended it.
fn reap(child: libc::pid_t) -> Option<libc::c_int> {
    let mut ended = None;
    loop {
        let mut status = 0;
        // SAFETY: the number lives through the call.
        let reaped = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if reaped <= 0 {
            return ended;
        }
        if reaped == child {
            ended =
                Some(if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) });
        }
    }
}
