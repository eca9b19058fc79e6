//! The actions of SIGTERM, SIGINT and SIGQUIT before the server handles them, and in forked children.
//!
//! *Owns*: the actions that the process had before the server's. *Runs on*: the main thread. The handler runs on any
//! thread at any time, `give_back_in_child` inside fork(2). *Invariants*: the handler does only what `signal-safety(7)`
//! allows. A forked child has the actions that the process had before the server's.

use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

use super::forks::NoFork;
use super::process::SignalAction;

/// The signals that stop a server or make it report what it does.
pub const SIGNALS: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];

/// The program's own signal actions are installed.
const NONE: u8 = 0;
/// An `EndAtOnce` lives. The application may have installed handlers since it was made, and keeps them.
const STARTING: u8 = 1;
/// The server's signal actions are installed.
const SERVING: u8 = 2;

struct Before {
    stage: AtomicU8,
    actions: UnsafeCell<Option<[SignalAction; 3]>>,
}

// SAFETY: the actions are written by the main thread, while no fork can happen, and read by it and inside fork(2).
unsafe impl Sync for Before {}

static BEFORE: Before = Before { stage: AtomicU8::new(NONE), actions: UnsafeCell::new(None) };

impl Before {
    /// Remembers the current actions of the signals. (Main thread.)
    fn note(&self, stage: u8) -> [SignalAction; 3] {
        let _undivided = NoFork::begin();
        let actions = SIGNALS.map(SignalAction::current);
        // SAFETY: this is the main thread, and no fork can happen.
        unsafe { *self.actions.get() = Some(actions) };
        self.stage.store(stage, Ordering::SeqCst);
        actions
    }
}

/// While this value lives, each of the signals ends the process at once, as if the signal had no handler. Process 1
/// needs a handler for this, because the kernel drops signals to process 1 that have no handler.
#[derive(Debug)]
pub struct EndAtOnce([SignalAction; 3]);

impl EndAtOnce {
    /// Installs the handlers. (Main thread.)
    pub fn begin() -> Self {
        super::watch_forks();
        let before = BEFORE.note(STARTING);
        for mut own in before {
            own.action.sa_sigaction = handler();
            own.action.sa_flags = libc::SA_ONSTACK;
            own.restore();
        }
        Self(before)
    }
}

impl Drop for EndAtOnce {
    fn drop(&mut self) {
        for (signal, action) in SIGNALS.into_iter().zip(&self.0) {
            if is_ours(signal) {
                action.restore();
            }
        }
        BEFORE.stage.store(NONE, Ordering::SeqCst);
    }
}

/// Remembers the current actions for the signals. Forked children get these, even after the server has installed its
/// handlers. (Main thread.)
pub fn remember_signal_actions() {
    super::watch_forks();
    BEFORE.note(SERVING);
}

/// Forgets the remembered actions: the program has its signals back.
pub fn forget_signal_actions() {
    BEFORE.stage.store(NONE, Ordering::SeqCst);
}

/// Gives the child of a fork the actions that the process had before the server's.
pub(super) fn give_back_in_child() {
    let stage = BEFORE.stage.swap(NONE, Ordering::SeqCst);
    // SAFETY: what writes it does not do so during a fork.
    let Some(actions) = (unsafe { &*BEFORE.actions.get() }) else { return };
    for (signal, action) in SIGNALS.into_iter().zip(actions) {
        if stage == SERVING || (stage == STARTING && is_ours(signal)) {
            action.restore();
        }
    }
}

/// Returns the handler in the form that sigaction(2) takes.
fn handler() -> libc::sighandler_t {
    end_by as *const () as libc::sighandler_t
}

fn is_ours(signal: libc::c_int) -> bool {
    SignalAction::current(signal).action.sa_sigaction == handler()
}

/// Ends the process with the default action of the signal, so that the parent process sees which signal ended it.
extern "C" fn end_by(signal: libc::c_int) {
    // SAFETY: an all-zero sigaction is the default action; all of this may be done in a handler.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, &raw const default, ptr::null_mut());
        let mut only = std::mem::zeroed();
        libc::sigemptyset(&raw mut only);
        libc::sigaddset(&raw mut only, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const only, ptr::null_mut());
        libc::raise(signal);
        // Only process 1 of a container gets here.
        libc::_exit(128 + signal)
    }
}
