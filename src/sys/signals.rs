//! The actions of the server's signals before the server handles them, and in forked children.
//!
//! *Owns*: the actions that the process had before the server's. *Runs on*: the main thread. The handler runs on any
//! thread at any time, `give_back_in_child` inside fork(2). *Invariants*: the handler does only what `signal-safety(7)`
//! allows. A forked child has the actions that the process had before the server's.

use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::forks::NoFork;
use super::process::SignalAction;

/// The signals that stop a server or make it report what it does.
pub const SIGNALS: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];

/// The signals that the server handles only if neither the program nor the application has a handler for them.
pub const OPTIONAL_SIGNALS: [libc::c_int; 2] = [libc::SIGUSR1, libc::SIGHUP];

/// The signals that only a supervisor acts on. A worker drops them, unless the application has a handler for them: two of
/// them would halt it, and one would end it.
pub const SUPERVISOR_SIGNALS: [libc::c_int; 3] = [libc::SIGTTIN, libc::SIGTTOU, libc::SIGUSR2];

/// `SIGNALS`, `OPTIONAL_SIGNALS` and `SUPERVISOR_SIGNALS`.
const ALL: [libc::c_int; 8] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGHUP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGUSR2,
];

/// Whether each of the `OPTIONAL_SIGNALS` has arrived while an `EndAtOnce` lived.
static ARRIVED: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];

/// The program's own signal actions are installed.
const NONE: u8 = 0;
/// An `EndAtOnce` lives. The application may have installed handlers since it was made, and keeps them.
const STARTING: u8 = 1;
/// The server's signal actions are installed.
const SERVING: u8 = 2;

struct Before {
    stage: AtomicU8,
    actions: UnsafeCell<Option<[SignalAction; ALL.len()]>>,
}

// SAFETY: the actions are written by the main thread, while no fork can happen, and read by it and inside fork(2).
unsafe impl Sync for Before {}

static BEFORE: Before = Before { stage: AtomicU8::new(NONE), actions: UnsafeCell::new(None) };

impl Before {
    /// Remembers the current actions of the signals. (Main thread.)
    fn note(&self, stage: u8) -> [SignalAction; ALL.len()] {
        let _undivided = NoFork::begin();
        let actions = ALL.map(SignalAction::current);
        // SAFETY: this is the main thread, and no fork can happen.
        unsafe { *self.actions.get() = Some(actions) };
        self.stage.store(stage, Ordering::SeqCst);
        actions
    }
}

/// While this value lives, each of `SIGNALS` ends the process at once, as if the signal had no handler. Process 1 needs a
/// handler for this, because the kernel drops signals to process 1 that have no handler. Of `OPTIONAL_SIGNALS` it is only
/// noted that they have arrived.
#[derive(Debug)]
pub struct EndAtOnce([SignalAction; ALL.len()]);

impl EndAtOnce {
    /// Installs the handlers. (Main thread.)
    pub fn begin() -> Self {
        super::watch_forks();
        let before = BEFORE.note(STARTING);
        for (signal, mut own) in ALL.into_iter().zip(before) {
            if SIGNALS.contains(&signal) || OPTIONAL_SIGNALS.contains(&signal) && !own.has_handler() {
                own.action.sa_sigaction = handler_of(signal);
                own.action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
                own.restore();
            }
        }
        Self(before)
    }
}

impl Drop for EndAtOnce {
    fn drop(&mut self) {
        for (signal, action) in ALL.into_iter().zip(&self.0) {
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
    for (signal, action) in ALL.into_iter().zip(actions) {
        if stage == SERVING || (stage == STARTING && is_ours(signal)) {
            action.restore();
        }
    }
}

/// How many signals may have a handler, each of which may arrive while the handlers of the others run.
const HANDLERS_MAX: usize = 31;
/// What a handler needs besides the registers.
const HANDLER_BYTES: usize = 4 * 1024;

/// Gives the calling thread a stack for signal handlers that the handlers of all signals fit on, one inside the other. The
/// standard library's has room for one. Memory that no handler reaches is never used.
pub fn enlarge_signal_stack() {
    // SAFETY: a call without memory.
    let registers = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) };
    // The kernel stores all registers, 11 KiB on some processors, and the dynamic linker may store them once more.
    let handler = 2 * usize::try_from(registers).unwrap_or(0).max(libc::MINSIGSTKSZ) + HANDLER_BYTES;
    let bytes = HANDLERS_MAX * handler;
    // The thread has it until it ends. Only the main thread calls this, twice at most.
    let stack = Box::leak(vec![0_u8; bytes].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: bytes };
    // SAFETY: the memory is never freed, and no handler runs on the old stack: this code is in none.
    unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
}

/// Returns whether one of the `OPTIONAL_SIGNALS` arrived while an `EndAtOnce` lived, and forgets it.
pub fn has_arrived(signal: libc::c_int) -> bool {
    let index = OPTIONAL_SIGNALS.iter().position(|one| *one == signal);
    index.and_then(|index| ARRIVED.get(index)).is_some_and(|arrived| arrived.swap(false, Ordering::SeqCst))
}

/// Returns the handler of a signal in the form that sigaction(2) takes.
fn handler_of(signal: libc::c_int) -> libc::sighandler_t {
    let handler: extern "C" fn(libc::c_int) = if SIGNALS.contains(&signal) { end_by } else { note_arrival };
    handler as *const () as libc::sighandler_t
}

fn is_ours(signal: libc::c_int) -> bool {
    SignalAction::current(signal).action.sa_sigaction == handler_of(signal)
}

/// Notes that one of the `OPTIONAL_SIGNALS` has arrived.
extern "C" fn note_arrival(signal: libc::c_int) {
    for (one, arrived) in OPTIONAL_SIGNALS.into_iter().zip(&ARRIVED) {
        if one == signal {
            arrived.store(true, Ordering::SeqCst);
        }
    }
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
