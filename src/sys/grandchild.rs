//! A process that is forked by one process and becomes the child of another: fork(2) twice.
//!
//! *Owns*: nothing. *Runs on*: the main thread of a process that forks workers. *Invariants*: the process in between ends
//! at once, so that the kernel gives its child to the next ancestor that adopts orphans. *Source*: fork(2), prctl(2).

use std::io::{self, Read as _, Write as _};
use std::ptr;

use super::process::{SignalMask, exit_now};

/// The process that `fork_twice` returns in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The process that has called it. The new process has this number.
    Here(u32),
    /// The new process.
    There,
}

/// Forks twice with `fork`, which returns 0 in the child.
///
/// # Errors
/// A process cannot be forked: a sentence for the operator.
pub fn fork_twice(fork: impl Fn() -> Result<libc::pid_t, String>) -> Result<Forked, String> {
    let (mut reader, mut writer) = io::pipe().map_err(|error| super::plain(&error))?;
    let mask = SignalMask::block_all();
    let between = fork().inspect_err(|_| mask.restore())?;
    if between == 0 {
        drop(reader);
        let told = match fork() {
            Ok(0) => {
                mask.restore();
                return Ok(Forked::There);
            }
            Ok(pid) => pid.to_string(),
            Err(sentence) => sentence,
        };
        // If the reader has ended, nothing waits for the number.
        let _ = writer.write_all(told.as_bytes());
        exit_now(0);
    }
    drop(writer);
    let mut told = String::new();
    let read = reader.read_to_string(&mut told);
    // SAFETY: a system call without memory. All signals are blocked, so nothing interrupts it.
    unsafe { libc::waitpid(between, ptr::null_mut(), 0) };
    mask.restore();
    read.map_err(|error| super::plain(&error))?;
    told.parse().map(Forked::Here).map_err(|_| told)
}

/// Makes the kernel send SIGTERM to this process when its parent ends. Returns whether `parent` is still its parent.
pub fn end_with_parent(parent: u32) -> bool {
    // SAFETY: system calls without memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as libc::c_ulong);
        libc::getppid().cast_unsigned() == parent
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn error_of_fork_is_returned() {
        let outcome = fork_twice(|| Err("no process left".to_owned()));
        assert_eq!(outcome, Err("no process left".to_owned()));
    }
}
