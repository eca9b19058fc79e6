//! The commands that an operator gives to a running service: their sockets, their way to the process, and the command
//! line that sends them, such as `maypole reload`.
//!
//! *Owns*: the sockets, and the requests that wait. *Runs on*: the status server's threads, which accept and wait; the
//! thread that acts on requests, which never waits for a client; the main thread of the command. *Invariants*: only
//! processes of the same user and of root are heard. The name of the socket has the number of the process and that of
//! its PID namespace, because containers may share a network namespace. A request travels as HTTP: `POST /reload`.

mod client;
mod command;
mod followed;
mod request;
mod show;
mod words;

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::mpsc::{self, Receiver, Sender};
use std::{fs, io};

pub use self::client::ask_worker;
pub use self::command::{Outcome, run};
pub use self::request::{ENDS, Refusal, Request, Response};
use crate::config::ListenAddress;
use crate::listener::Listener;
use crate::sys::{self, Event, HeldFd, Io, Lock, Peer};

/// How many commands may wait to be accepted.
const BACKLOG: u32 = 16;

/// The socket on which commands arrive that name this process.
#[derive(Debug)]
pub struct Door(Listener);

impl Door {
    /// Opens the door that commands find by the number of this process. `None`: its name is taken, so that no command
    /// finds this process by its number, which is logged.
    pub fn open() -> Option<Self> {
        let opened = Self::named(name(std::process::id()));
        opened.unwrap_or_else(|error| {
            log::warn!("commands do not find this process by its number: {}", sys::plain(error.as_ref()));
            None
        })
    }

    /// Opens the door of a worker. Commands find it by the worker's number, but do not take it for a service. If the name
    /// is taken, the supervisor does not find the worker, which is logged.
    pub fn of_worker() -> Option<Self> {
        let opened = Self::named(name_of_worker(std::process::id()));
        opened.unwrap_or_else(|error| {
            log::warn!("the supervisor cannot ask this worker what it does: {}", sys::plain(error.as_ref()));
            None
        })
    }

    fn named(name: String) -> anyhow::Result<Option<Self>> {
        let door = Listener::bind_all(&[ListenAddress::Abstract(name)], BACKLOG)?.pop().map(Self);
        door.iter().try_for_each(|door| door.0.set_nonblocking())?;
        Ok(door)
    }

    /// Makes forked children close the door.
    pub fn hold(&self) {
        self.0.hold();
    }
}

/// Accepts a command. Does not wait. `None`: no command waits, or its process may not command this one.
pub fn accept(door: &impl AsFd) -> Option<HeldFd> {
    let Io::Done((connection, _)) = sys::accept(door) else { return None };
    sys::peer_of(&connection).is_ok_and(is_trusted).then_some(connection)
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The end of the thread that acts on requests.
#[derive(Debug)]
pub struct Control {
    received: Receiver<(Request, Sender<Response>)>,
    arrived: Event,
    /// The requests that wait for a response, by their numbers.
    waiting: Vec<(u64, Sender<Response>)>,
    /// How many requests there have been.
    count: u64,
}

/// The end of the threads that pass requests on.
#[derive(Debug)]
pub struct Desk {
    sender: Lock<Sender<(Request, Sender<Response>)>>,
    arrived: Event,
}

impl Control {
    /// Makes both ends.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn pair() -> io::Result<(Self, Desk)> {
        let (sender, received) = mpsc::channel();
        let arrived = Event::new()?;
        let desk = Desk { sender: Lock::new(sender), arrived: arrived.try_clone()? };
        Ok((Self { received, arrived, waiting: Vec::new(), count: 0 }, desk))
    }

    /// Returns the requests that have arrived, each with its number. Does not wait.
    pub fn receive(&mut self) -> Vec<(u64, Request)> {
        self.arrived.forget();
        let mut requests = Vec::new();
        while let Ok((request, sender)) = self.received.try_recv() {
            self.count += 1;
            self.waiting.push((self.count, sender));
            requests.push((self.count, request));
        }
        requests
    }

    /// Responds to a request.
    pub fn respond(&mut self, number: u64, response: &Response) {
        if let Some(index) = self.waiting.iter().position(|(waiting, _)| *waiting == number) {
            // An error means that the thread no longer waits.
            let _ = self.waiting.remove(index).1.send(response.clone());
        }
    }
}

impl AsFd for Control {
    /// Returns a descriptor that is readable once a request has arrived.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arrived.as_fd()
    }
}

impl Desk {
    /// Passes a request on, and waits for the response.
    pub fn ask(&self, request: Request) -> Response {
        let (sender, response) = mpsc::channel();
        let sent = self.sender.lock().send((request, sender)).is_ok();
        self.arrived.happen();
        match response.recv() {
            Ok(response) if sent => response,
            _ => Response::failure("the service ends"),
        }
    }
}

/// Returns whether a process may command this one, or be commanded by it.
fn is_trusted(peer: Peer) -> bool {
    peer.uid == 0 || peer.uid == sys::user_id_of_process()
}

/// Returns the abstract name on which a process of this PID namespace listens.
fn name(pid: u32) -> String {
    format!("{}{pid}", prefix())
}

/// Returns the abstract name on which a worker of this PID namespace listens. It is not one of a service.
fn name_of_worker(pid: u32) -> String {
    format!("{}/worker", name(pid))
}

/// Returns the part of the name that all processes of this PID namespace have.
fn prefix() -> String {
    let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
    format!("maypole/{namespace}/")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn request_waits_for_its_response() {
        let (mut control, desk) = Control::pair().unwrap();
        let asking = std::thread::spawn(move || desk.ask(Request::Reload));
        assert_eq!(sys::wait_for_any(&[control.as_fd()], None), [true]);
        let requests = control.receive();
        assert_eq!(requests, [(1, Request::Reload)]);
        control.respond(1, &Response::success("reloaded"));
        assert_eq!(asking.join().unwrap().sentence, "reloaded");
        assert!(control.receive().is_empty());
    }

    #[test]
    fn request_to_a_service_that_ends_is_told() {
        let (control, desk) = Control::pair().unwrap();
        drop(control);
        assert!(!desk.ask(Request::Reload).is_ok);
    }
}
