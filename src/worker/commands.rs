//! The commands of the supervisor: one thread reads the link, and obeys or passes each command on.
//!
//! *Owns*: nothing. *Runs on*: the thread `maypole-link`, which never takes the GIL. *Invariants*: if the supervisor
//! ends without a command to stop, the worker stops gracefully.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context;

use super::place::Place;
use crate::config::level_named;
use crate::instance::Instance;
use crate::link;
use crate::listener::Listener;
use crate::logs;
use crate::signals::{Cause, Command, CommandSender};
use crate::sys::{self, Channel};

/// What the thread acts on.
struct Reader {
    place: Arc<Place>,
    instance: Arc<Instance>,
    /// Gives commands to the thread that acts on signals.
    guard: CommandSender,
}

/// Starts the thread that reads the link.
///
/// # Errors
/// There is no thread left.
pub(super) fn obey(place: &Arc<Place>, instance: &Arc<Instance>, guard: CommandSender) -> anyhow::Result<()> {
    let reader = Reader { place: Arc::clone(place), instance: Arc::clone(instance), guard };
    let thread = sys::start_thread_without_signals("maypole-link", move || reader.run());
    thread.map(drop).context("cannot start the thread that reads the supervisor's commands")
}

impl Reader {
    /// Obeys until the supervisor ends.
    fn run(&self) {
        let ended = loop {
            match self.place.next() {
                Ok(Some((command, descriptors))) => self.obey(command, descriptors),
                Ok(None) => break "the end of the supervisor".to_owned(),
                Err(error) => break format!("the loss of the supervisor ({})", sys::plain(&error)),
            }
        };
        self.instance.server().promise_no_receiver();
        self.guard.send(Command::Stop(Cause::Supervisor(ended)));
    }

    fn obey(&self, command: link::Command, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        if let link::Command::AcceptRest { is_tls } = command {
            return descriptors.for_each(|socket| self.accept_rest(socket, is_tls));
        }
        match (command, descriptors.next().map(Channel::from)) {
            (link::Command::Stop { cause }, _) => self.guard.send(Command::Stop(Cause::Supervisor(cause))),
            (link::Command::StopNow { cause }, _) => self.guard.send(Command::StopNow(Cause::Supervisor(cause))),
            (link::Command::Report { cause }, _) => self.guard.send(Command::Report(Cause::Supervisor(cause))),
            (link::Command::ReopenLogs, _) => {
                self.guard.send(Command::ReopenLogs(Cause::User1));
            }
            (link::Command::LogLevel { level }, _) => set_log_level(&level),
            (link::Command::CloseIdle, _) => self.instance.server().promise_no_receiver(),
            (link::Command::Give { count }, Some(channel)) => self.give(channel, count),
            (link::Command::Take, Some(channel)) => {
                if let Err(error) = self.instance.server().receive(channel) {
                    log::warn!("this worker cannot receive connections of another one: {}", sys::plain(&error));
                }
            }
            _ => log::debug!("the supervisor sent a command that is not for a worker that serves"),
        }
    }

    /// Accepts the clients in the queue of a socket that a reload has left out.
    fn accept_rest(&self, socket: OwnedFd, is_tls: bool) {
        let listener = Listener::adopt(socket).map(|listener| listener.with_tls(is_tls));
        let accepts = listener.and_then(|listener| Ok(self.instance.server().accept_rest(listener)?));
        if let Err(error) = accepts {
            log::warn!(
                "a reload has removed an address, and clients that waited there are lost: {}",
                sys::plain(error.as_ref())
            );
        }
    }

    /// Hands connections over to another process: `count` at once, or all of them at the stop.
    fn give(&self, channel: Channel, count: Option<usize>) {
        let server = self.instance.server();
        let place = Arc::clone(&self.place);
        let given = match count {
            Some(count) => server.hand_over(channel, count, move |given| place.say_given(given)),
            None => server.hand_over_at_stop(channel),
        };
        if let Err(error) = given {
            log::warn!("this worker cannot hand connections over to another one: {}", sys::plain(&error));
        }
    }
}

/// Logs lines up to the level with this name.
pub(super) fn set_log_level(name: &str) {
    if let Some(Err(error)) = level_named(name).map(logs::set_level) {
        log::warn!("the log level stays: {}", sys::plain(error.as_ref()));
    }
}
