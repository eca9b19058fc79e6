//! What a process without a supervisor does at an operator's command.
//!
//! *Owns*: nothing. *Runs on*: the status server's threads, which may wait here. *Invariants*: nothing here takes the
//! GIL, so the application cannot hold a command up.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signal_hook::consts::SIGTERM;

use super::reexec::Restart;
use crate::config::level_name;
use crate::control::{ENDS, Request, Response};
use crate::instance::Instance;
use crate::phrase::{count, seconds};
use crate::signals::{Cause, Command, CommandSender};
use crate::{logs, sys};

/// How often a command that waits for the end of requests looks whether the process stops.
const LOOK: Duration = Duration::from_millis(100);

/// Acts on commands.
pub(super) struct Operator {
    /// Gives commands to the thread that acts on signals.
    guard: CommandSender,
    instance: Arc<Instance>,
    /// `None`: the process cannot start again.
    restart: Option<Arc<Restart>>,
    graceful_timeout: Duration,
}

impl Operator {
    /// Makes it act on this instance.
    pub(super) fn new(
        guard: CommandSender,
        instance: &Arc<Instance>,
        restart: Option<Arc<Restart>>,
        graceful_timeout: Duration,
    ) -> Self {
        Self { guard, instance: Arc::clone(instance), restart, graceful_timeout }
    }

    /// Acts on a command, and returns what has come of it. A reload that succeeds does not return: the new program
    /// responds on the command's `connection`.
    pub(super) fn act(&self, request: Request, connection: BorrowedFd<'_>) -> Response {
        match request {
            Request::Reload => self.reload(connection),
            Request::Stop => self.end(Command::Stop(Cause::Operator("maypole stop"))),
            Request::Quit => self.end(Command::StopNow(Cause::Operator("maypole quit"))),
            Request::Drain => self.drain(),
            _ => act_always(request),
        }
    }

    fn end(&self, command: Command) -> Response {
        self.guard.send(command);
        Response::success(ENDS)
    }

    /// Lets the process start again with new settings and new code, and waits for a failure.
    fn reload(&self, connection: BorrowedFd<'_>) -> Response {
        let Some(restart) = &self.restart else {
            let pid = std::process::id();
            let sentence = format!("process {pid} is a Python program that has imported its code: start it again");
            return Response::failure(sentence);
        };
        match restart.ask(connection) {
            Ok(response) => {
                self.guard.send(Command::Reload(Cause::Operator("maypole reload")));
                response.recv().unwrap_or_else(|_| Response::failure("the process ends"))
            }
            Err(error) => Response::failure(format!("nothing is reloaded: {}", sys::plain(&error))),
        }
    }

    /// Accepts no more connections, and waits until every request has ended.
    fn drain(&self) -> Response {
        self.guard.send(Command::Drain(Cause::Operator("maypole drain")));
        let end = Instant::now() + self.graceful_timeout;
        let server = self.instance.server();
        while !server.wait_drained(end.min(Instant::now() + LOOK)) {
            server.end_suspended_before(end);
            if self.instance.is_stopping() {
                return Response::failure("the process stops");
            }
            if Instant::now() >= end {
                let (requests, limit) = (count(server.numbers().requests, "request"), seconds(self.graceful_timeout));
                return Response::failure(format!(
                    "no further connection is accepted, but after {limit} (--graceful-timeout) {requests} still run"
                ));
            }
        }
        Response::success("drained: every request has ended, and no further connection is accepted")
    }
}

/// Returns the response to a reload, once the new program serves.
pub(super) fn reloaded() -> Response {
    Response::success(format!("reloaded: process {} serves the new code with the new settings", std::process::id()))
}

/// Acts on a command while the application is being imported.
pub(super) fn act_early(request: Request) -> Response {
    match request {
        Request::Stop | Request::Quit => {
            // It ends the process at once, as long as nothing is served.
            sys::send_signal(std::process::id(), SIGTERM);
            Response::success(ENDS)
        }
        Request::Drain | Request::Reload => Response::failure("the application is still being imported"),
        _ => act_always(request),
    }
}

/// Acts on a command that needs no server.
fn act_always(request: Request) -> Response {
    let pid = std::process::id();
    match request {
        Request::LogLevel(level) => match logs::change_level("maypole log-level", level) {
            Ok(()) => Response::success(format!("the log level is {}", level_name(level))),
            Err(error) => Response::failure(sys::plain(error.as_ref())),
        },
        Request::Scale(_) => Response::failure(format!(
            "process {pid} has no supervisor, so it has no workers: start the service with --workers"
        )),
        _ => Response::failure("this version has no such command"),
    }
}
