//! The commands of the supervisor: one thread reads the link, and passes each command on.
//!
//! *Owns*: nothing. *Runs on*: the thread `maypole-link`, which never takes the GIL. *Invariants*: if the supervisor
//! ends without a command to stop, the worker stops gracefully.

use std::sync::Arc;
use std::thread;

use anyhow::Context;

use super::place::Place;
use crate::link;
use crate::signals::{Cause, Command, CommandSender};
use crate::sys::{self, SignalMask};

/// Starts the thread that reads the link.
///
/// # Errors
/// There is no thread left.
pub(super) fn obey(place: &Arc<Place>, sender: CommandSender) -> anyhow::Result<()> {
    let place = Arc::clone(place);
    let mask = SignalMask::block_all();
    let thread = thread::Builder::new().name("maypole-link".to_owned()).spawn(move || read(&place, &sender));
    mask.restore();
    thread.map(drop).context("cannot start the thread that reads the supervisor's commands")
}

/// Passes commands on until the supervisor ends.
fn read(place: &Place, sender: &CommandSender) {
    let ended = loop {
        match place.next() {
            Ok(Some((command, _descriptors))) => {
                if let Some(command) = command_of(command) {
                    sender.send(command);
                }
            }
            Ok(None) => break "the end of the supervisor".to_owned(),
            Err(error) => break format!("the loss of the supervisor ({})", sys::plain(&error)),
        }
    };
    sender.send(Command::Stop(Cause::Supervisor(ended)));
}

/// Returns the command of a signal that does the same.
fn command_of(command: link::Command) -> Option<Command> {
    match command {
        link::Command::Stop { cause } => Some(Command::Stop(Cause::Supervisor(cause))),
        link::Command::StopNow { cause } => Some(Command::StopNow(Cause::Supervisor(cause))),
        link::Command::Report { cause } => Some(Command::Report(Cause::Supervisor(cause))),
        link::Command::ReopenLogs => Some(Command::ReopenLogs(Cause::Supervisor("the supervisor".to_owned()))),
        other => {
            log::debug!("the supervisor sent a command that this worker does not know: {other:?}");
            None
        }
    }
}
