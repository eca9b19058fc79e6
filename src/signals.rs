//! The signals that a serving process handles, as commands for the one thread that acts on them.
//!
//! *Owns*: the actions for SIGTERM, SIGINT, SIGQUIT, SIGUSR1 and SIGHUP, and the program's handlers from before. *Runs on*: `install`
//! and `restore` on the main thread; `next` on the one thread that acts on commands. Other threads add commands with a
//! `CommandSender`. *Invariants*: a handler only sets a flag and writes a byte. This module acts on no signal.

mod program;

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGUSR1};

pub(crate) use self::program::{ProgramHandlers, wake_no_more, wake_on_signals};
use crate::sys::{self, Lock, OPTIONAL_SIGNALS, SIGNALS, SUPERVISOR_SIGNALS, SignalAction};

/// A SIGTERM within this time after the first one counts as the same request. Heroku, for example, may send more than
/// one. A parent process may forward a signal that the whole process group has already received.
pub(crate) const ECHO_MAX: Duration = Duration::from_secs(1);

/// What the process is to do: a signal or the supervisor says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// The first request to stop: let the running requests finish.
    Stop(Cause),
    /// A further request to stop: end now.
    StopNow(Cause),
    /// Accept no more connections, and stay.
    Drain(Cause),
    /// Report what the server is doing.
    Report(Cause),
    /// Open the log files again.
    ReopenLogs(Cause),
    /// Start again with new settings and new code, if these can be used.
    Reload(Cause),
    /// Start again: the new settings and the new code can be used.
    Restart(Cause),
    /// Serve on: the new settings or the new code cannot be used, for this reason.
    NotReloaded(String),
}

/// Why a command was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// SIGQUIT.
    Quit,
    /// SIGHUP.
    Hangup,
    /// SIGUSR1.
    User1,
    /// The supervisor gave the command, for the reason that it names.
    Supervisor(String),
    /// An operator gave the command, which is named.
    Operator(&'static str),
    /// The server can no longer accept on one of its addresses.
    Lost,
}

impl fmt::Display for Cause {
    /// Writes the cause as log lines show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Hangup => "SIGHUP",
            Self::User1 => "SIGUSR1",
            Self::Supervisor(reason) => reason,
            Self::Operator(command) => command,
            Self::Lost => "the loss of a listener",
        })
    }
}

/// The installed signal handlers, from `install` until this value is dropped.
pub(crate) struct Signals {
    /// Receives a byte for each signal, and one for each `SignalWaker`.
    wake: UnixStream,
    wake_write: UnixStream,
    terminate: Arc<AtomicBool>,
    interrupt: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
    reopen: Arc<AtomicBool>,
    hangup: Arc<AtomicBool>,
    registrations: Vec<SigId>,
    /// The actions of `OPTIONAL_SIGNALS` and `SUPERVISOR_SIGNALS` from before, if the server handles them.
    before: Vec<SignalAction>,
    /// The commands of other threads.
    given: mpsc::Receiver<Command>,
    commands: mpsc::Sender<Command>,
    /// Whether SIGINT and SIGHUP have no effect, because the process is a worker. A terminal sends them to the supervisor
    /// too.
    is_worker: bool,
    /// Whether `next` has returned a request to stop.
    stopping: bool,
    /// Whether the supervisor has told the process to stop.
    supervisor_stops: bool,
    /// When the first SIGTERM arrived.
    terminated: Option<Instant>,
}

/// Wakes the thread that waits for signals.
pub(crate) struct SignalWaker(UnixStream);

impl SignalWaker {
    /// Returns a waker that wakes the reader at the other end of `stream`.
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    pub(crate) fn wake(&self) {
        // If the socket is full, the reader wakes anyway.
        let _ = (&self.0).write(&[0]);
    }
}

/// Gives commands to the thread that acts on them.
pub(crate) struct CommandSender {
    commands: mpsc::Sender<Command>,
    waker: SignalWaker,
}

impl CommandSender {
    pub(crate) fn send(&self, command: Command) {
        // If the reader has ended, there is nothing left to command.
        let _ = self.commands.send(command);
        self.waker.wake();
    }
}

/// The actions that `signal-hook` has installed. It installs each only once per process, and a program may have installed
/// its own handlers since.
static CATCHING: Lock<Vec<SignalAction>> = Lock::new(Vec::new());

impl Signals {
    /// Installs the handlers. The caller blocks the signals meanwhile. A worker ignores SIGINT, SIGHUP and
    /// `SUPERVISOR_SIGNALS`. A program that continues after the server keeps its own action for SIGHUP.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(crate) fn install(is_worker: bool, goes_on: bool) -> anyhow::Result<Self> {
        let (wake, wake_write) = UnixStream::pair().context("cannot make a socket pair")?;
        wake_write.set_nonblocking(true)?;
        let (commands, given) = mpsc::channel();
        let mut signals = Self {
            wake,
            wake_write,
            terminate: Arc::default(),
            interrupt: Arc::default(),
            report: Arc::default(),
            reopen: Arc::default(),
            hangup: Arc::default(),
            registrations: Vec::new(),
            before: Vec::new(),
            given,
            commands,
            is_worker,
            stopping: false,
            supervisor_stops: false,
            terminated: None,
        };
        // A forked child gets the current actions back.
        sys::remember_signal_actions();
        // Python's own handler would run after the server's. It would raise KeyboardInterrupt in the code that the main
        // thread runs at that time.
        SignalAction::default_of(SIGINT).restore();
        for signal in SIGNALS {
            signals.catch(signal)?;
        }
        for action in OPTIONAL_SIGNALS.map(SignalAction::current) {
            if !(action.has_handler() || goes_on && action.signal() == SIGHUP) {
                signals.before.push(action);
                signals.catch(action.signal())?;
            }
        }
        if is_worker {
            signals.drop_all(&SUPERVISOR_SIGNALS)?;
        }
        // The signal may have come during the import of the application.
        signals.reopen.store(sys::has_arrived(SIGUSR1), Ordering::SeqCst);
        signals.hangup.store(sys::has_arrived(SIGHUP), Ordering::SeqCst);
        Ok(signals)
    }

    /// Handles a signal from now on.
    fn catch(&mut self, signal: i32) -> anyhow::Result<()> {
        let flag = match signal {
            SIGQUIT => &self.report,
            SIGINT => &self.interrupt,
            SIGUSR1 => &self.reopen,
            SIGHUP => &self.hangup,
            _ => &self.terminate,
        };
        let flagged = signal_hook::flag::register(signal, Arc::clone(flag))?;
        let woken = signal_hook::low_level::pipe::register(signal, self.wake_write.try_clone()?)?;
        self.registrations.extend([flagged, woken]);
        let mut catching = CATCHING.lock();
        match catching.iter().find(|action| action.signal() == signal) {
            Some(action) => action.restore(),
            None => catching.push(SignalAction::current(signal)),
        }
        Ok(())
    }

    /// Drops signals from now on, unless the application has handlers for them. A program that the application starts gets
    /// them again, which an ignored signal would not be.
    fn drop_all(&mut self, dropped: &[i32]) -> io::Result<()> {
        for action in dropped.iter().copied().map(SignalAction::current).filter(|action| !action.has_handler()) {
            self.registrations.push(signal_hook::flag::register(action.signal(), Arc::default())?);
            self.before.push(action);
        }
        Ok(())
    }

    /// Returns a waker that wakes `next`, which then returns `None`.
    pub(crate) fn waker(&self) -> io::Result<SignalWaker> {
        self.wake_write.try_clone().map(SignalWaker)
    }

    /// Returns a sender of commands.
    pub(crate) fn sender(&self) -> io::Result<CommandSender> {
        Ok(CommandSender { commands: self.commands.clone(), waker: self.waker()? })
    }

    /// Returns a function that stops the server, to be called when a listener is lost.
    pub(crate) fn stopper(&self) -> io::Result<impl Fn() + Send + Sync + 'static> {
        let sender = self.sender()?;
        Ok(move || sender.send(Command::Stop(Cause::Lost)))
    }

    /// Waits for a signal, a call of `SignalWaker::wake`, or `end`.
    ///
    /// # Errors
    /// The socket pair cannot be read. This is not expected to happen.
    pub(crate) fn next(&mut self, end: Option<Instant>) -> io::Result<Option<Command>> {
        if let Some(command) = self.command() {
            return Ok(Some(command));
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(None);
        }
        self.wake.set_read_timeout(left)?;
        match self.wake.read(&mut [0; 64]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(self.command()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the command for the signals that have arrived, or the next command of another thread.
    fn command(&mut self) -> Option<Command> {
        if self.report.swap(false, Ordering::SeqCst) {
            return Some(Command::Report(Cause::Quit));
        }
        if self.reopen.swap(false, Ordering::SeqCst) {
            return Some(Command::ReopenLogs(Cause::User1));
        }
        if self.terminate.swap(false, Ordering::SeqCst) && !self.is_echo() {
            return Some(self.stop(Cause::Terminate));
        }
        if self.interrupt.swap(false, Ordering::SeqCst) && !self.is_worker {
            return Some(self.stop(Cause::Interrupt));
        }
        if self.hangup.swap(false, Ordering::SeqCst) && !self.is_worker {
            return Some(Command::Reload(Cause::Hangup));
        }
        while let Ok(command) = self.given.try_recv() {
            match command {
                Command::Stop(Cause::Supervisor(_)) => {
                    self.supervisor_stops = true;
                    // A SIGTERM to the whole process group may have come first: both are the same request.
                    if !std::mem::replace(&mut self.stopping, true) {
                        return Some(command);
                    }
                }
                // The service stops already.
                Command::Stop(Cause::Operator(_)) if self.stopping => {}
                Command::Stop(cause) => return Some(self.stop(cause)),
                command => return Some(command),
            }
        }
        None
    }

    /// Notes that a SIGTERM has arrived. Returns whether it counts as the same request as an earlier one: the first
    /// SIGTERM, or the supervisor's request.
    fn is_echo(&mut self) -> bool {
        let echoes = match self.terminated {
            Some(first) => first.elapsed() < ECHO_MAX,
            None => self.supervisor_stops,
        };
        self.terminated.get_or_insert_with(Instant::now);
        echoes
    }

    fn stop(&mut self, cause: Cause) -> Command {
        if std::mem::replace(&mut self.stopping, true) { Command::StopNow(cause) } else { Command::Stop(cause) }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for registration in self.registrations.drain(..) {
            signal_hook::low_level::unregister(registration);
        }
        self.before.iter().for_each(SignalAction::restore);
        sys::forget_signal_actions();
    }
}
