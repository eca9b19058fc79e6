//! The guard: the thread that acts on signals, and ends the process at its deadline.
//!
//! *Owns*: the signals. *Runs on*: the thread `maypole-signals`, which never takes the GIL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::exits::{end_process, leave_now};
use super::{END_MIN, Stage};
use crate::cli::Exit;
use crate::instance::Instance;
use crate::logs;
use crate::phrase::seconds;
use crate::server::Stop;
use crate::signals::{Cause, Command, SignalWaker, Signals};
use crate::sys::{self, Lock};
use crate::worker::notified::Notified;
use crate::worker::reexec::Restart;
use crate::worker::reporter::Reporter;

/// If the main thread has not acted this long after the graceful timeout, the guard ends the process.
const MAIN_LATE: Duration = Duration::from_secs(2);

/// The thread that acts on signals.
pub(super) struct GuardThread {
    pub(super) signals: Signals,
    /// Writes the report that SIGQUIT asks for.
    pub(super) reporter: Arc<Reporter>,
    pub(super) stage: Arc<Lock<Stage>>,
    pub(super) instance: Arc<Instance>,
    pub(super) main: SignalWaker,
    /// `None`: SIGHUP has no effect.
    pub(super) restart: Option<Arc<Restart>>,
    pub(super) graceful_timeout: Duration,
    /// systemd, if it wants to be told how the process is.
    pub(super) systemd: Option<Notified>,
}

impl GuardThread {
    pub(super) fn run(mut self) {
        self.systemd.iter_mut().for_each(|systemd| systemd.ready(&self.instance));
        loop {
            let end = match &*self.stage.lock() {
                Stage::Serving | Stage::Leaving => None,
                Stage::Draining(stop) => Some(stop.end() + MAIN_LATE),
                Stage::Ending(ending) => Some(ending.end),
                Stage::Over => return,
            };
            let next_look = self.systemd.as_ref().map(Notified::next);
            match self.signals.next(end.into_iter().chain(next_look).min()) {
                Ok(Some(Command::Report(cause))) => self.reporter.report(&self.instance, &cause),
                Ok(Some(Command::Drain(cause))) => self.drain(&cause),
                Ok(Some(Command::ReopenLogs(cause))) => logs::reopen(&cause.to_string()),
                Ok(Some(Command::Reload(cause))) => self.reload(&cause),
                Ok(Some(Command::Restart(cause))) => self.restart(&cause),
                Ok(Some(Command::NotReloaded(reason))) => self.not_reloaded(&reason),
                Ok(Some(Command::Stop(cause))) => self.stop(&cause),
                Ok(Some(Command::StopNow(cause))) => self.stop_now(&cause),
                Ok(None) if end.is_some_and(|end| Instant::now() >= end) => self.late(),
                Ok(None) => {}
                Err(error) => {
                    log::error!("signals cannot be read: {}", sys::plain(&error));
                    leave_now(Exit::Failure);
                }
            }
            self.systemd.iter_mut().for_each(|systemd| systemd.look(&self.instance));
        }
    }

    fn is_serving(&self) -> bool {
        matches!(*self.stage.lock(), Stage::Serving)
    }

    /// Begins to reload, or stops the server because its terminal has gone.
    fn reload(&mut self, cause: &Cause) {
        let Some(restart) = &self.restart else { return };
        if !self.is_serving() {
            // The shell of a terminal that goes sends the signal too.
            restart.join(cause);
        } else if *cause == Cause::Hangup && restart.has_lost_terminal() {
            self.stop(&Cause::Hangup);
        } else if restart.begin(cause) {
            self.systemd.iter_mut().for_each(Notified::reloading);
        }
    }

    /// Tells systemd that the reload has ended without an effect.
    fn not_reloaded(&mut self, reason: &str) {
        if self.is_serving() {
            self.systemd.iter_mut().for_each(|systemd| systemd.not_reloaded(&self.instance, reason));
        }
    }

    /// Begins to stop the server, and starts the process again then.
    fn restart(&mut self, cause: &Cause) {
        if let Some(restart) = self.restart.as_ref().filter(|_| self.is_serving())
            && restart.keep(&self.instance)
        {
            self.begin_stop(cause);
        }
    }

    /// Begins to stop the server. If the server is stopping for another reason, ends the process.
    fn stop(&mut self, cause: &Cause) {
        if self.is_serving() {
            self.systemd.iter_mut().for_each(Notified::stopping);
            self.restart.iter().for_each(|restart| restart.refuse());
            self.begin_stop(cause);
        } else if self.restart.as_ref().is_some_and(|restart| restart.cancel()) {
            self.systemd.iter_mut().for_each(Notified::stopping);
            log::info!("{cause}: the process ends, and does not start again");
        } else {
            self.stop_now(cause);
        }
    }

    /// Makes the server accept no more connections. The process stays.
    fn drain(&self, cause: &Cause) {
        if self.is_serving() {
            log::info!("{cause}: no further connection is accepted; the process stays until it is told to stop");
            self.instance.server().begin_drain();
        }
    }

    fn begin_stop(&self, cause: &Cause) {
        let mut stage = self.stage.lock();
        let stop = Stop::new(cause.to_string(), self.graceful_timeout, "--graceful-timeout");
        // Hold the stage's lock until the log says that the server stops. Only after that may the main thread log that
        // it has stopped.
        self.instance.begin_stop(&stop);
        *stage = Stage::Draining(stop);
        self.main.wake();
    }

    /// Ends the process, even if requests or threads still run.
    fn stop_now(&self, cause: &Cause) {
        // A supervisor says by itself that a second signal came, and a command may be the first.
        let why = if matches!(cause, Cause::Supervisor(_) | Cause::Operator(_)) {
            ""
        } else {
            ", because a second signal came"
        };
        // The end of the process must not become another start.
        if let Some(restart) = &self.restart {
            restart.cancel();
        }
        let mut stage = self.stage.lock();
        match &*stage {
            Stage::Serving | Stage::Draining(_) => {
                *stage = Stage::Leaving;
                drop(stage);
                let unended = self.instance.server().cut_off().unwrap_or_else(|| "nothing".to_owned());
                log::warn!("{cause}: stopping at once{why}; it cuts off {unended}");
                leave_now(Exit::Ok);
            }
            Stage::Leaving => end_process(Exit::Ok),
            Stage::Ending(ending) => {
                let left = ending.left();
                log::warn!("{cause}: stopping at once{why}, and Python has not ended; {left}");
                end_process(ending.exit);
            }
            Stage::Over => {}
        }
    }

    /// Ends the process if the deadline of the current stage has passed.
    fn late(&self) {
        let mut stage = self.stage.lock();
        match &*stage {
            Stage::Draining(stop) => {
                // The main thread is waiting for the GIL, which it needs to run signal handlers.
                let stop = stop.clone();
                *stage = Stage::Leaving;
                drop(stage);
                self.instance.say_end(&stop, false);
                leave_now(Exit::Ok);
            }
            Stage::Ending(ending) => {
                let (limit, min, left) = (seconds(ending.limit), seconds(END_MIN), ending.left());
                log::warn!(
                    "stopping although Python has not ended within {limit} (the rest of --graceful-timeout, at least \
                     {min}); {left}"
                );
                end_process(ending.exit);
            }
            Stage::Serving | Stage::Leaving | Stage::Over => {}
        }
    }
}
