//! The messages between the supervisor and a worker.
//!
//! *Owns*: the messages and their text. *Runs on*: any thread. *Invariants*: a message is one JSON object. A reader
//! ignores members that it does not know, and gives missing members their defaults, because the two processes may be of
//! different versions after a reload. Descriptors come with the message that names them, in the order of its doc.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys::Channel;

/// The environment variable that tells a process that it is a worker: the number of its end of the channel.
pub const VARIABLE: &str = "_MAYPOLE_LINK";

/// A command of the supervisor for a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// The first message. Descriptors: the scoreboard, then the listening sockets.
    Start(Start),
    /// Hand idle connections over to another process. Descriptor: the worker's end of a channel to it.
    Give {
        /// At most this many, at once. `None`: all of them when the worker stops, and then each further connection that
        /// becomes idle. Several receivers get them in turn.
        count: Option<usize>,
    },
    /// Receive connections from another process until it closes its end. Descriptor: the worker's end of the channel.
    Take,
    /// No other process will receive connections: close those that are idle, and those that become idle. For a worker
    /// that stops.
    CloseIdle,
    /// Accept the clients in the queue of a socket on which no worker listens any more. Descriptor: the socket.
    AcceptRest {
        /// Whether clients speak TLS.
        #[serde(default)]
        is_tls: bool,
    },
    /// Stop gracefully. If a `Give` without a count came before, the listeners stay with the other workers, and the
    /// clients keep their connections.
    Stop {
        /// The reason, for the log: `SIGHUP`.
        cause: String,
    },
    /// End at once.
    StopNow {
        /// The reason, for the log.
        cause: String,
    },
    /// Write to the log what every request and every Python thread is doing.
    Report {
        /// The reason, for the log: `SIGQUIT`.
        cause: String,
    },
    /// Close the log files and open them again.
    ReopenLogs,
    /// Log lines up to this level.
    LogLevel {
        /// Its name, as the settings have it.
        level: String,
    },
    /// Start a worker by fork(2). Only for a process that has imported the application for `--preload`. Descriptor: the
    /// new worker's end of its channel, on which its own `Start` arrives.
    Fork {
        /// The number of the worker.
        number: usize,
        /// The generation of the worker.
        generation: u64,
    },
    /// Call a function of the file of `--hooks`. Only for the process of the hooks (`Start::runs_hooks`).
    Hook(HookCall),
}

/// A function of the file of `--hooks`, and what it is told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HookCall {
    /// The name of the function: `when_ready`.
    pub name: String,
    /// The addresses of the listeners: `http://127.0.0.1:8000`.
    pub addresses: Vec<String>,
    /// How many workers serve.
    pub workers: usize,
    /// How many workers served before, for `nworkers_changed`.
    pub workers_before: usize,
    /// The process of the worker that the call is about; 0 if it is about none.
    pub pid: u32,
    /// The number of that worker.
    pub number: usize,
    /// The generation of that worker.
    pub generation: u64,
}

/// The place and the settings of a new worker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Start {
    /// The number of the worker, from 1. A replacement has the number of the worker that it replaces.
    pub number: usize,
    /// How many workers serve.
    pub workers: usize,
    /// The slot of the worker in the scoreboard. No two processes that live at the same time have the same.
    pub slot: usize,
    /// How often the number has been given to a worker.
    pub generation: u64,
    /// The command line that the worker reads its settings from, the program's name first.
    pub words: Vec<Word>,
    /// Whether clients speak TLS on each listening socket. One that is missing here is plain.
    pub tls: Vec<bool>,
    /// What the keys of tickets are derived from, the same for each worker. Empty without TLS.
    pub ticket_seed: Vec<u8>,
    /// Files whose change means that the settings have to be read anew (`--reload`). One worker watches them.
    pub settings_files: Vec<Word>,
    /// When the service started, in microseconds since 1970 (UTC).
    pub service_started_us: u64,
    /// The process that the supervisor runs in.
    pub supervisor: u32,
    /// The level of the log, if it is another one than that of the settings.
    pub log_level: Option<String>,
    /// Whether the process only imports the application, and then forks workers (`Fork`).
    pub is_template: bool,
    /// Whether the process only calls the functions of `--hooks` that concern the whole service: `on_starting` before it
    /// reports `Ready`, others as told by `Hook`, and `on_exit` at `Stop`.
    pub runs_hooks: bool,
    /// Whether the file of `--hooks` is the configuration file, whose remarks the supervisor has logged.
    pub hooks_are_settings: bool,
}

/// A word of a command line. It is text, unless it is no UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Word {
    /// A word in UTF-8.
    Text(String),
    /// The bytes of any other word.
    Bytes(Vec<u8>),
}

/// A report of a worker to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The worker serves. A template reports it when it has imported the application.
    Ready {
        /// The interpreter, for the log: `CPython 3.11.7, /srv/shop/venv`.
        python: String,
    },
    /// The worker cannot start, and ends. It has logged the details.
    Failed {
        /// The exit status of the worker.
        exit: u8,
        /// One sentence.
        reason: String,
    },
    /// The worker asks to be replaced, and serves until it is told to stop.
    Replace {
        /// The reason, for the log: `it has served 1000 requests (--max-requests)`.
        reason: String,
        /// The name of its cause in metrics: `requests`.
        #[serde(default)]
        cause: String,
    },
    /// The worker has handed connections over.
    Given {
        /// How many have moved.
        moved: usize,
        /// How many could not move, and were closed.
        closed: usize,
        /// How many could not move, and have stayed with the worker.
        #[serde(default)]
        stayed: usize,
    },
    /// A worker that stops has left its listeners, and none of its idle connections is on its way any more. It ends once
    /// its requests have ended.
    Left,
    /// A template has forked a worker.
    Forked {
        /// The process of the new worker.
        pid: u32,
        /// The number of the worker.
        number: usize,
        /// The generation of the worker.
        generation: u64,
    },
    /// A template could not fork a worker.
    NotForked {
        /// The number of the worker.
        number: usize,
        /// The generation of the worker.
        generation: u64,
        /// One sentence.
        reason: String,
    },
    /// A file of the application has changed (`--reload`).
    Changed {
        /// The file.
        file: String,
        /// Whether it is one of those that `Start` names: the settings have to be read anew.
        #[serde(default)]
        is_of_settings: bool,
    },
}

/// One end of the channel between the supervisor and a worker.
#[derive(Debug)]
pub struct Link(Channel);

impl Link {
    /// Makes a link: the supervisor's end and the worker's end.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn pair() -> io::Result<(Self, Self)> {
        Channel::pair().map(|(one, other)| (Self(one), Self(other)))
    }

    /// Sends a message with copies of the descriptors that belong to it.
    ///
    /// # Errors
    /// The errors of `Channel::send`.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.send(&serde_json::to_vec(message)?, descriptors)
    }

    /// Receives the next message. `None`: the other process has closed its end. `Ok(Some(None, …))` is a message that
    /// this version does not know.
    ///
    /// # Errors
    /// The errors of `Channel::receive`.
    #[allow(clippy::type_complexity, reason = "a message with its descriptors, or the end")]
    pub fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(Option<M>, Vec<OwnedFd>)>> {
        let Some(message) = self.0.receive()? else { return Ok(None) };
        Ok(Some((serde_json::from_slice(&message.bytes).ok(), message.descriptors)))
    }

    /// Returns the channel.
    pub fn channel(&self) -> &Channel {
        &self.0
    }
}

impl From<OwnedFd> for Link {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl From<&OsStr> for Word {
    fn from(word: &OsStr) -> Self {
        match word.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(word.as_bytes().to_vec()),
        }
    }
}

impl From<Word> for OsString {
    fn from(word: Word) -> Self {
        match word {
            Word::Text(text) => text.into(),
            Word::Bytes(bytes) => Self::from_vec(bytes),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn message_arrives_as_it_was_sent() {
        let (supervisor, worker) = Link::pair().unwrap();
        let words = ["maypole", "shop:app"].map(|word| Word::from(OsStr::new(word)));
        let odd = Word::from(OsStr::from_bytes(b"/srv/\xff"));
        let start = Start { number: 2, words: words.into_iter().chain([odd.clone()]).collect(), ..Start::default() };
        let commands = [Command::Start(start), Command::Give { count: None }, Command::Stop { cause: "SIGHUP".into() }];
        for command in commands {
            supervisor.send(&command, &[]).unwrap();
            let (received, descriptors) = worker.receive::<Command>().unwrap().unwrap();
            assert_eq!((received, descriptors.len()), (Some(command), 0));
        }
        assert_eq!(OsString::from(odd).as_bytes(), b"/srv/\xff");
    }

    #[test]
    fn message_of_another_version_is_read_as_far_as_it_is_known() {
        let (one, other) = Link::pair().unwrap();
        one.channel().send(br#"{"command": "start", "number": 3, "later": [1]}"#, &[]).unwrap();
        one.channel().send(br#"{"command": "unheard_of"}"#, &[]).unwrap();
        let (start, _) = other.receive::<Command>().unwrap().unwrap();
        assert_eq!(start, Some(Command::Start(Start { number: 3, ..Start::default() })));
        assert_eq!(other.receive::<Command>().unwrap().unwrap().0, None);
        drop(one);
        assert!(other.receive::<Command>().unwrap().is_none());
    }
}
