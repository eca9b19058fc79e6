//! A process of the service, with the supervisor's end of its link.
//!
//! *Owns*: the link. *Runs on*: the supervisor's thread. *Invariants*: the link never makes the supervisor wait.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use crate::link::{self, Command, Event, Link, Start};
use crate::sys::{self, Life, Program};

/// A worker, a template, or the process of the hooks.
#[derive(Debug)]
pub(super) struct Process {
    /// The number of the process. `None`: a template has not forked it yet.
    pub(super) pid: Option<u32>,
    /// `None` once the process has closed its end.
    link: Option<Link>,
    /// Whether the process is reaped, at the latest, when this value is dropped.
    is_awaited: bool,
}

/// A process that ends with its link may take this long.
const END_MAX: Duration = Duration::from_secs(2);

impl Process {
    /// Returns a process that a Python program has forked, with the supervisor's end of its link. When the value is
    /// dropped, the process ends.
    ///
    /// # Errors
    /// Not expected.
    pub(super) fn of_program(pid: u32, link: Link) -> io::Result<Self> {
        link.channel().set_nonblocking(true)?;
        Ok(Self { pid: Some(pid), link: Some(link), is_awaited: true })
    }

    /// Starts a process and gives it its place. `descriptors` are the scoreboard and the listening sockets.
    ///
    /// # Errors
    /// The process has no descriptor left, or the program cannot be run.
    pub(super) fn start(program: &Program, start: Start, descriptors: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let (mut process, theirs) = Self::unborn()?;
        // The message waits in the link until the process reads it.
        process.try_send(&Command::Start(start), descriptors)?;
        process.pid = Some(program.start(link::VARIABLE, theirs.channel().as_fd(), Life::OfParent)?);
        Ok(process)
    }

    /// Returns a process that is still to be forked, and its end of the link.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(super) fn unborn() -> io::Result<(Self, Link)> {
        let (ours, theirs) = Link::pair()?;
        ours.channel().set_nonblocking(true)?;
        Ok((Self { pid: None, link: Some(ours), is_awaited: false }, theirs))
    }

    /// Returns the descriptor of the link, if it is open.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(|link| link.channel().as_fd())
    }

    /// Receives all messages that the process has sent.
    pub(super) fn receive(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(link) = &self.link {
            match link.receive::<Event>() {
                Ok(Some((event, _))) => events.extend(event),
                Ok(None) => self.link = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    log::error!("the link of pid {} cannot be read: {}", self.shown(), sys::plain(&error));
                    self.link = None;
                }
            }
        }
        events
    }

    /// Sends a command. Returns whether it is on its way.
    pub(super) fn send(&self, command: &Command, descriptors: &[BorrowedFd<'_>]) -> bool {
        self.try_send(command, descriptors).is_ok()
    }

    /// Sends a command.
    ///
    /// # Errors
    /// The process has ended, or does not read its link.
    pub(super) fn try_send(&self, command: &Command, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let link = self.link.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        link.send(command, descriptors)
    }

    /// Sends a signal to the process, if it has been forked.
    pub(super) fn signal(&self, signal: i32) {
        if let Some(pid) = self.pid {
            sys::send_signal(pid, signal);
        }
    }

    fn shown(&self) -> u32 {
        self.pid.unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = self.pid.filter(|_| self.is_awaited) {
            self.link = None;
            sys::await_end(pid, END_MAX);
        }
    }
}
