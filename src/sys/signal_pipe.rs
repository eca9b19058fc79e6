//! Signals as bytes in a pipe, for a loop that waits for descriptors.
//!
//! *Owns*: the actions of the signals, from `install` until the value is dropped; then the earlier ones are back, unless
//! the process ends. *Runs on*: the main thread; the handler runs on any thread at any time. *Invariants*: one pipe at a
//! time. The handler does only what `signal-safety(7)` allows. A signal that arrives in a child before exec(2) acts as it
//! does by default.

use std::io::{self, PipeReader, PipeWriter, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::process::{SignalAction, SignalMask};

/// The descriptor that the handler writes to; -1 if there is none.
static WRITE_END: AtomicI32 = AtomicI32::new(-1);
/// The process that has the pipe.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// The signals that have arrived, in order.
#[derive(Debug)]
pub struct SignalPipe {
    reader: PipeReader,
    before: Vec<SignalAction>,
    /// Open for as long as a handler may write.
    _writer: PipeWriter,
}

impl SignalPipe {
    /// Installs the handlers of `signals`.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn install(signals: &[i32]) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        for end in [reader.as_fd(), writer.as_fd()] {
            socket2::SockRef::from(&end).set_nonblocking(true)?;
        }
        OWNER.store(std::process::id(), Ordering::SeqCst);
        WRITE_END.store(writer.as_raw_fd(), Ordering::SeqCst);
        let mask = SignalMask::block_all();
        let before = signals.iter().map(|&signal| SignalAction::current(signal)).collect();
        for &signal in signals {
            SignalAction::handled_by(signal, note).restore();
        }
        mask.restore();
        Ok(Self { reader, before, _writer: writer })
    }

    /// Takes the signals that have arrived. Does not wait.
    pub fn take(&self) -> Vec<i32> {
        let mut bytes = [0; 256];
        // An error means that there is none.
        let length = (&self.reader).read(&mut bytes).unwrap_or(0);
        bytes.iter().take(length).map(|&byte| i32::from(byte)).collect()
    }

    /// Ends the value before the process ends: signals have no effect from then on. The earlier actions would end the
    /// process by a signal, although it ends by itself.
    pub fn end_with_process(mut self) {
        self.before.clear();
    }
}

impl AsFd for SignalPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl Drop for SignalPipe {
    fn drop(&mut self) {
        let mask = SignalMask::block_all();
        self.before.iter().for_each(SignalAction::restore);
        WRITE_END.store(-1, Ordering::SeqCst);
        mask.restore();
    }
}

/// Writes the signal's number into the pipe.
extern "C" fn note(signal: libc::c_int) {
    // SAFETY: each of these may be called in a handler.
    unsafe {
        if libc::getpid().cast_unsigned() != OWNER.load(Ordering::SeqCst) {
            // This is a child between fork(2) and exec(2).
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
            return;
        }
        let before = *libc::__errno_location();
        let byte = u8::try_from(signal).unwrap_or(0);
        // If the pipe is full, 64 Ki signals wait in it.
        libc::write(WRITE_END.load(Ordering::SeqCst), ptr::from_ref(&byte).cast(), 1);
        *libc::__errno_location() = before;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::wait_for_any;
    use super::*;
    use std::time::Duration;

    #[test]
    fn signal_makes_the_pipe_readable_and_the_action_returns_at_the_end() {
        let before = SignalAction::current(libc::SIGWINCH).action.sa_sigaction;
        let pipe = SignalPipe::install(&[libc::SIGWINCH]).unwrap();
        assert_eq!(wait_for_any(&[pipe.as_fd()], Some(Duration::ZERO)), [false]);
        super::super::send_signal(std::process::id(), libc::SIGWINCH);
        assert_eq!(wait_for_any(&[pipe.as_fd()], Some(Duration::from_secs(20))), [true]);
        assert_eq!(pipe.take(), [libc::SIGWINCH]);
        assert!(pipe.take().is_empty());
        drop(pipe);
        assert_eq!(SignalAction::current(libc::SIGWINCH).action.sa_sigaction, before);
        let (pipe, kept) = (SignalPipe::install(&[libc::SIGWINCH]).unwrap(), SignalAction::current(libc::SIGWINCH));
        let before = pipe.before[0];
        pipe.end_with_process();
        let now = SignalAction::current(libc::SIGWINCH);
        assert_eq!(now.action.sa_sigaction, kept.action.sa_sigaction);
        super::super::send_signal(std::process::id(), libc::SIGWINCH);
        before.restore();
    }
}
