//! What the supervisor does at an operator's command.
//!
//! *Owns*: nothing; the state is the supervisor's. *Runs on*: the supervisor's thread. *Invariants*: each command gets a
//! response. If the supervisor ends before that, the end is the response.

use super::Supervisor;
use super::orders::Event;
use super::roster::Scaled;
use crate::config::level_name;
use crate::control::{ENDS, Request, Response};
use crate::phrase::count;
use crate::{logs, sys};

/// A command that waits for its workers.
pub(super) struct Scaling {
    client: u64,
    workers: usize,
}

impl Supervisor {
    /// Acts on a command.
    pub(super) fn command(&mut self, client: u64, request: Request) {
        match request {
            Request::Reload => self.reload("maypole reload", Some(client)),
            Request::Scale(workers) => self.scale(client, workers, "maypole scale"),
            Request::Drain => self.scale(client, 0, "maypole drain"),
            Request::Stop => {
                self.control.respond(client, &Response::success(ENDS));
                if !self.roster.is_ending() {
                    self.feed(Event::Stop { cause: "maypole stop".to_owned() });
                }
            }
            Request::Quit => {
                self.control.respond(client, &Response::success(ENDS));
                self.feed(Event::Quit { cause: "maypole quit" });
            }
            Request::LogLevel(level) => {
                let response = match logs::change_level("maypole log-level", level) {
                    Ok(()) => Response::success(format!("the log level is {}", level_name(level))),
                    Err(error) => Response::failure(sys::plain(error.as_ref())),
                };
                self.fleet.set_log_level(level);
                self.control.respond(client, &response);
            }
        }
    }

    /// Begins to change the number of workers.
    fn scale(&mut self, client: u64, workers: usize, cause: &'static str) {
        if self.fleet.holds_start() {
            let refused = Response::failure("the service is still starting: on_starting of --hooks has not returned");
            return self.control.respond(client, &refused);
        }
        self.scalings.push(Scaling { client, workers });
        self.feed(Event::Resize { workers, cause });
    }

    /// Responds to the commands whose workers serve, and to those that have failed.
    pub(super) fn tell_scaled(&mut self) {
        let Self { scalings, roster, control, .. } = self;
        scalings.retain(|scaling| {
            let wanted = count(scaling.workers, "worker");
            let response = match roster.scaled(scaling.workers) {
                Scaled::Waits => return true,
                Scaled::Done if scaling.workers == 0 => Response::success(
                    "drained: every request has ended; new clients wait until maypole scale or maypole reload starts \
                     workers",
                ),
                Scaled::Done => Response::success(format!("scaled: {wanted}")),
                Scaled::Fails(number) => Response::failure(format!(
                    "worker {number} of {wanted} does not come up: the log says why, and the supervisor tries again"
                )),
                Scaled::Superseded(other) => {
                    Response::failure(format!("a later change asks for {} instead of {wanted}", count(other, "worker")))
                }
                Scaled::Stops => Response::failure("the service stops"),
            };
            control.respond(scaling.client, &response);
            false
        });
    }
}
