//! The Python program in whose process the supervisor runs (`maypole.serve`).
//!
//! *Owns*: what the program has prepared: a template with the application, and a way to run the program's own signal
//! handlers. *Runs on*: the supervisor's thread, which is the program's main thread. *Invariants*: the GIL is taken only
//! after a signal has arrived that the program handles itself. The program's other children are not reaped.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};

use super::process::Process;
use crate::link::Link;
use crate::sys::{self, SignalAction};

/// What a reload reads anew.
pub(super) const RELOADED: &str =
    "the settings; workers are forked anew from the program, whose code stays as it is until the program is restarted";
/// The end of the sentence about a reload.
pub(super) const UNCHANGED: &str = "; the code of the program is unchanged until the program is restarted";

/// A Python program that serves with workers.
pub struct Host {
    /// The process that the program has forked, and the supervisor's end of its link. `None` once the fleet has it.
    template: Option<(u32, Link)>,
    /// A phrase that names the threads of the program. The workers do not have them.
    threads: Option<String>,
    /// Has a byte for each signal that Python has noted.
    wake: UnixStream,
    /// Runs the program's handlers of these signals.
    handlers: fn(),
}

impl Host {
    /// Returns a program that has forked the process `template`, and that runs the threads that the phrase names.
    /// `handlers` runs its signal handlers; it is called when `wake` has a byte.
    ///
    /// # Errors
    /// Not expected.
    pub fn new(template: (u32, Link), threads: Option<String>, wake: UnixStream, handlers: fn()) -> io::Result<Self> {
        wake.set_nonblocking(true)?;
        Ok(Self { template: Some(template), threads, wake, handlers })
    }

    /// Returns the process that the program has forked. Only the first call does.
    ///
    /// # Errors
    /// Not expected.
    pub(super) fn take_template(&mut self) -> io::Result<Option<Process>> {
        self.template.take().map(|(pid, link)| Process::of_program(pid, link)).transpose()
    }

    /// Logs which threads the program runs.
    pub(super) fn warn_of_threads(&self) {
        if let Some(threads) = &self.threads {
            log::warn!("the program runs {threads}: start threads in the hook post_fork");
        }
    }

    /// Returns the descriptor to wait for.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Runs the program's own handlers of the signals that have arrived.
    pub(super) fn run_handlers(&self) {
        if matches!((&self.wake).read(&mut [0; 64]), Ok(1..)) {
            (self.handlers)();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The service has not started.
        drop(self.take_template());
    }
}

/// Returns those of `signals` that the supervisor handles, and remembers the actions of the program, which forked children
/// get back. Of the signals that do not stop a service, the program keeps those that it handles itself.
pub(super) fn signals(signals: &[i32]) -> Vec<i32> {
    sys::remember_signal_actions();
    let is_ours =
        |signal: &i32| matches!(*signal, SIGTERM | SIGINT | SIGQUIT) || !SignalAction::current(*signal).has_handler();
    signals.iter().copied().filter(is_ours).collect()
}
