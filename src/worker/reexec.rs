//! Starting the process again at SIGHUP or `maypole reload`, with new code and the same clients.
//!
//! *Owns*: how the program was started, and the sockets between the stop and exec(2). *Runs on*: the guard thread asks;
//! a thread of its own tries the new code; the thread that ends the process calls `go_on`. *Invariants*: the server
//! stops only after another process has shown that the new code can be imported. The listening sockets stay open
//! throughout, so clients that connect meanwhile wait. Signals stay blocked from exec(2) until the new program handles
//! them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::print_config::CHECKED;
use super::shown::Shown;
use crate::cli::Exit;
use crate::config::Config;
use crate::connection::Moved;
use crate::control::Response;
use crate::instance::Instance;
use crate::listener::{Listener, Record};
use crate::logs;
use crate::phrase::{count, seconds};
use crate::server::Kept;
use crate::signals::{Cause, Command, CommandSender};
use crate::status::{Callers, SocketRecord, Sockets};
use crate::sys::{self, HeldFd, Lock, Program, SignalMask};
use crate::tls::Seed;

/// The environment variable that has the number of the table's descriptor.
pub const VARIABLE: &str = "_MAYPOLE_KEPT";

/// The variable that makes the trial of the new code end once it is imported, like `--check-config`. A further word of the
/// command line would be an argument after `--`.
const TRIAL: (&str, &str) = ("MAYPOLE_CHECK_CONFIG", "1");

/// How the process was started.
#[derive(Debug)]
pub(crate) struct Again {
    program: Program,
    environment: Vec<(OsString, OsString)>,
    /// The number of the table's descriptor, if another program ran in this process before.
    table: Option<OsString>,
}

/// The sockets that the program before has kept.
#[derive(Default)]
pub(super) struct Inherited {
    /// Each listener with the address in the settings that it was bound for.
    pub(super) listeners: Vec<(String, Listener)>,
    pub(super) connections: Vec<(HeldFd, Moved)>,
    /// The sockets on which it has shown its status.
    pub(super) shown: Sockets,
    /// The commands that wait until this program serves.
    pub(super) callers: Callers,
    /// What the keys of its tickets are derived from. `None`: it had no TLS.
    pub(super) seed: Option<Seed>,
}

/// The sockets, as the program before writes them down.
#[derive(Serialize, Deserialize)]
struct Table {
    listeners: Vec<(String, Record)>,
    descriptors: Vec<RawFd>,
    connections: String,
    #[serde(default)]
    shown: Vec<SocketRecord>,
    #[serde(default)]
    callers: Vec<RawFd>,
    /// What the keys of tickets are derived from. Empty without TLS.
    #[serde(default)]
    ticket_seed: Vec<u8>,
}

/// Starts the process again at SIGHUP or `maypole reload`.
pub(super) struct Restart {
    again: Again,
    /// The number of each listener's descriptor, and the address in the settings that it was bound for.
    addresses: Vec<(RawFd, String)>,
    /// What shows the status of the process.
    shown: Weak<Shown>,
    /// How long the new code may take to start. `None`: there is no limit.
    limit: Option<Duration>,
    /// Whether the process had a terminal when it began to serve.
    had_terminal: bool,
    progress: Lock<Progress>,
    sender: CommandSender,
}

/// How far it is with starting again.
struct Progress {
    state: State,
    /// The commands that wait for the outcome.
    asked: Vec<Asked>,
}

/// A command that waits for the outcome.
struct Asked {
    /// A copy of its connection, on which the new program responds.
    connection: HeldFd,
    /// How its thread gets the response if no new program starts.
    sender: Sender<Response>,
    /// Whether the trial that runs has begun after the command, or is made once more.
    is_tried: bool,
}

enum State {
    Quiet,
    /// Another process tries the new code. With `once_more`, a further request has arrived since.
    Trying {
        once_more: bool,
    },
    /// The new code has come up. The guard thread is about to hear of it.
    Proved,
    /// The server stops, and the process starts again afterwards.
    Restarting(Arc<Instance>),
    /// A thread calls exec(2).
    Going,
}

/// The one `Restart` of this process.
static RESTART: OnceLock<Arc<Restart>> = OnceLock::new();

impl Again {
    /// Remembers how the process was started. `table` is the value of `VARIABLE`, which the caller has removed from the
    /// environment. (At the start of the process.)
    pub(super) fn new(program: Program, table: Option<OsString>) -> Self {
        Self { program, environment: std::env::vars_os().collect(), table }
    }

    /// Returns the mask of signals to set, if another program ran in this process before: it has blocked all signals.
    pub(super) fn mask(&self) -> Option<SignalMask> {
        self.table.as_ref().map(|_| SignalMask::none())
    }

    /// Takes over the sockets that the program before has kept.
    ///
    /// # Errors
    /// The table cannot be read.
    pub(super) fn inherit(&self) -> anyhow::Result<Inherited> {
        self.table.as_ref().map_or_else(|| Ok(Inherited::default()), inherit)
    }
}

/// Closes the sockets that the program before has kept. For a supervisor, which cannot take them over. Returns the
/// commands that wait until it serves. `None`: no other program ran in this process before.
pub fn close_kept(table: Option<&OsString>) -> Option<Callers> {
    match inherit(table?) {
        Ok(inherited) => Some(inherited.callers),
        Err(error) => {
            eprintln!("warning: the sockets of the program before cannot be closed: {error:#}");
            Some(Callers::default())
        }
    }
}

fn inherit(table: &OsString) -> anyhow::Result<Inherited> {
    let number = table.to_str().and_then(|text| text.parse().ok()).context("the variable has no number")?;
    let mut text = String::new();
    let mut file = File::from(adopt(number)?);
    file.rewind()?;
    file.read_to_string(&mut text)?;
    let Table { listeners, descriptors, connections, shown, callers, ticket_seed } = serde_json::from_str(&text)?;
    let listener = |(address, record): (String, Record)| {
        adopt(record.number()).map(|fd| (address, Listener::from_record(record, fd)))
    };
    let connections = Moved::decode(connections.as_bytes()).context("the connections cannot be read")?;
    let descriptors = descriptors.into_iter().map(|number| adopt(number).map(HeldFd::from));
    let shown = shown.into_iter().map(|record| adopt(record.number()).map(|fd| (record, fd)));
    Ok(Inherited {
        listeners: listeners.into_iter().map(listener).collect::<std::io::Result<_>>()?,
        connections: descriptors.collect::<std::io::Result<Vec<_>>>()?.into_iter().zip(connections).collect(),
        shown: shown.collect::<std::io::Result<_>>()?,
        callers: callers.into_iter().map(adopt).collect::<std::io::Result<_>>()?,
        seed: Seed::from_bytes(&ticket_seed),
    })
}

#[allow(unsafe_code, reason = "the descriptor's number comes from the program before")]
fn adopt(number: RawFd) -> std::io::Result<OwnedFd> {
    // SAFETY: the program before has left the descriptor for this one alone.
    unsafe { sys::inherited_descriptor(number) }
}

impl Restart {
    /// Prepares for SIGHUP and `maypole reload`. Called once.
    pub(super) fn prepare(
        again: Again,
        addresses: Vec<(RawFd, String)>,
        shown: Weak<Shown>,
        config: &Config,
        sender: CommandSender,
    ) -> Arc<Self> {
        let limit = Some(config.processes.worker_start_timeout).filter(|limit| !limit.is_zero());
        let progress = Lock::new(Progress { state: State::Quiet, asked: Vec::new() });
        let had_terminal = sys::has_terminal();
        let restart = Arc::new(Self { again, addresses, shown, limit, had_terminal, progress, sender });
        // The command line prepares once for each process.
        let _ = RESTART.set(Arc::clone(&restart));
        restart
    }

    /// Returns whether the process has lost its terminal: the SIGHUP says so, and no operator has sent it.
    pub(super) fn has_lost_terminal(&self) -> bool {
        self.had_terminal && !sys::has_terminal()
    }

    /// Keeps a copy of a command's connection. Its thread gets the response if this program goes on or ends. If another
    /// one goes on in this process, that one responds. The caller then gives `Command::Reload` to the guard thread.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn ask(&self, connection: BorrowedFd<'_>) -> std::io::Result<Receiver<Response>> {
        let (connection, (sender, response)) = (HeldFd::copy_of(connection)?, mpsc::channel());
        self.progress.lock().asked.push(Asked { connection, sender, is_tried: false });
        Ok(response)
    }

    /// Begins to try the new code. Returns whether the guard thread gets the outcome: `Command::Restart` if the code can
    /// be imported, else `Command::NotReloaded`.
    pub(super) fn begin(self: &Arc<Self>, cause: &Cause) -> bool {
        let mut progress = self.progress.lock();
        progress.asked.iter_mut().for_each(|asked| asked.is_tried = true);
        match &mut progress.state {
            State::Trying { once_more } => {
                log::info!("{cause}: the new code is tried once more, because it may have changed meanwhile");
                *once_more = true;
                true
            }
            state @ (State::Quiet | State::Proved) => {
                log::info!("{cause}: trying the new settings and the new code");
                let (restart, why) = (Arc::clone(self), cause.clone());
                let started = sys::start_thread_without_signals("maypole-reload", move || restart.try_all(&why));
                match started {
                    Ok(_) => *state = State::Trying { once_more: false },
                    Err(error) => {
                        *state = State::Quiet;
                        let reason = sys::plain(&error);
                        log::error!("{cause}: nothing changes: {reason}");
                        progress.fail(&reload_failure(&reason));
                        return false;
                    }
                }
                true
            }
            State::Restarting(_) | State::Going => false,
        }
    }

    /// Lets the commands that have arrived wait for the new program, if the process is about to start again. Otherwise
    /// they fail, because it stops.
    pub(super) fn join(&self, cause: &Cause) {
        let mut progress = self.progress.lock();
        match progress.state {
            State::Restarting(_) | State::Going => log::info!("{cause}: the process starts again anyway"),
            State::Quiet | State::Trying { .. } | State::Proved => progress.refuse(),
        }
    }

    /// Lets the commands fail, because the process stops.
    pub(super) fn refuse(&self) {
        self.progress.lock().refuse();
    }

    /// Tries the new code, again for each request that arrives meanwhile.
    fn try_all(&self, cause: &Cause) {
        loop {
            let tried = self.try_once();
            let mut progress = self.progress.lock();
            if let State::Trying { once_more: once_more @ true } = &mut progress.state {
                *once_more = false;
                continue;
            }
            let Err(reason) = tried else {
                progress.state = State::Proved;
                drop(progress);
                return self.sender.send(Command::Restart(cause.clone()));
            };
            progress.state = State::Quiet;
            log::error!("{cause}: nothing changes, because {reason}");
            progress.fail(&reload_failure(&reason));
            drop(progress);
            return self.sender.send(Command::NotReloaded(reason));
        }
    }

    fn try_once(&self) -> Result<(), String> {
        let Again { program, environment, .. } = &self.again;
        let tried = program
            .try_with(environment, TRIAL, self.limit)
            .map_err(|error| format!("the program cannot be started: {}", sys::plain(&error)))?;
        let output = String::from_utf8_lossy(&tried.output);
        match tried.status {
            Some(status) if status.success() && output.lines().any(|line| line.starts_with(CHECKED)) => Ok(()),
            Some(status) if status.success() => {
                Err(format!("the new code ends the process before it is imported ({status}):\n{}", output.trim_end()))
            }
            Some(status) => Err(format!("the new code does not come up ({status}):\n{}", output.trim_end())),
            None => {
                let limit = seconds(self.limit.unwrap_or_default());
                Err(format!("the new code has not come up within {limit} (--worker-start-timeout): {output}"))
            }
        }
    }

    /// Makes the process start again when the server has stopped. Returns false if it does not: a further trial has begun.
    pub(super) fn keep(&self, instance: &Arc<Instance>) -> bool {
        let mut progress = self.progress.lock();
        let is_proved = matches!(progress.state, State::Proved);
        if is_proved {
            instance.server().keep_at_stop();
            progress.state = State::Restarting(Arc::clone(instance));
        }
        is_proved
    }

    /// Makes the process end when the server has stopped. Returns false if it was to end anyway.
    pub(super) fn cancel(&self) -> bool {
        let mut progress = self.progress.lock();
        let State::Restarting(instance) = &progress.state else { return false };
        instance.server().keep_no_more();
        progress.state = State::Quiet;
        progress.refuse();
        true
    }

    /// Runs the program again in this process.
    fn exec(&self, kept: &Kept, seed: Option<&Seed>) -> ! {
        let clients = count(kept.connections.len(), "idle connection");
        log::info!("starting again in the same process; {clients} and the listening sockets stay open");
        logs::flush();
        let error = match self.write_down(kept, seed) {
            Ok((table, numbers)) => {
                let Again { program, environment, .. } = &self.again;
                program.replace(environment, (VARIABLE, table.as_fd()), &numbers)
            }
            Err(error) => error,
        };
        log::error!("cannot start again: {}", sys::plain(&error));
        logs::flush();
        sys::exit_now(Exit::Failure as i32)
    }

    /// Writes the table. Returns it, and the numbers of the descriptors in it.
    fn write_down(&self, kept: &Kept, seed: Option<&Seed>) -> std::io::Result<(File, Vec<RawFd>)> {
        let address_of =
            |number| self.addresses.iter().find(|(known, _)| *known == number).map(|(_, text)| text.clone());
        let listeners = kept.listeners.iter().map(Listener::record);
        let listeners: Vec<_> =
            listeners.map(|record| (address_of(record.number()).unwrap_or_default(), record)).collect();
        let descriptors: Vec<_> = kept.connections.iter().map(|(fd, _)| fd.as_raw_fd()).collect();
        let encoded: Vec<_> = kept.connections.iter().map(|(_, moved)| moved.encode()).collect();
        let shown = self.shown.upgrade().map(|shown| shown.sockets().records()).unwrap_or_default();
        let numbers = listeners.iter().map(|(_, record)| record.number()).chain(descriptors.iter().copied());
        // Their copies stay open until exec(2), because nothing takes them out of the list any more.
        let callers: Vec<_> = self.progress.lock().asked.iter().map(|asked| asked.connection.as_raw_fd()).collect();
        let numbers = numbers.chain(shown.iter().map(SocketRecord::number)).chain(callers.iter().copied()).collect();
        let connections = String::from_utf8_lossy(&Moved::message(&encoded)).into_owned();
        let ticket_seed = seed.map(|seed| seed.as_bytes().to_vec()).unwrap_or_default();
        let table = Table { listeners, descriptors, connections, shown, callers, ticket_seed };
        let mut file = sys::memory_file()?;
        file.write_all(&serde_json::to_vec(&table)?)?;
        Ok((file, numbers))
    }
}

impl Progress {
    /// Lets the commands fail whose request the last trial has tried.
    fn fail(&mut self, sentence: &str) {
        for asked in self.asked.extract_if(.., |asked| asked.is_tried) {
            // An error means that the thread has ended.
            let _ = asked.sender.send(Response::failure(sentence));
        }
    }

    /// Lets all commands fail, because the process stops.
    fn refuse(&mut self) {
        self.asked.iter_mut().for_each(|asked| asked.is_tried = true);
        self.fail("nothing is reloaded, because the process stops");
    }
}

/// Returns the sentence on a reload that has failed.
fn reload_failure(reason: &str) -> String {
    format!("the reload has failed, and the old code serves: {reason}")
}

/// Returns whether the process starts again instead of ending.
pub(super) fn is_due() -> bool {
    RESTART.get().is_some_and(|restart| matches!(restart.progress.lock().state, State::Restarting(_) | State::Going))
}

/// Starts the process again, if that is due. Returns if the process is to end.
pub(super) fn go_on() {
    let Some(restart) = RESTART.get() else { return };
    let mut progress = restart.progress.lock();
    match std::mem::replace(&mut progress.state, State::Going) {
        State::Restarting(instance) => {
            drop(progress);
            restart.exec(&instance.server().take_kept(), instance.seed())
        }
        State::Going => {
            drop(progress);
            // Another thread calls exec(2), which ends this one.
            loop {
                thread::park();
            }
        }
        before @ (State::Quiet | State::Trying { .. } | State::Proved) => progress.state = before,
    }
}
