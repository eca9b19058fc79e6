//! What happens to workers, and what the supervisor does about it.
//!
//! *Owns*: nothing.

use std::process::ExitStatus;

use log::Level;

use crate::cli::Exit;
use crate::metrics::Departure;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The process of a slot has been started.
    Started { slot: usize, pid: u32 },
    /// The process of a slot could not be started.
    NotStarted { slot: usize, reason: String },
    /// The worker serves.
    Ready { slot: usize },
    /// The worker cannot start, and ends.
    Failed { slot: usize, exit: u8, reason: String },
    /// The worker asks to be replaced.
    Replace { slot: usize, cause: Departure, reason: String },
    /// The worker stops, and has let go of its listeners and its idle clients.
    Left { slot: usize },
    /// The worker has found changed files of the application.
    Changed { slot: usize, file: String },
    /// The process has ended. `lost` is the end of a sentence: what was inside, and what the kernel says. `cut` is how many
    /// requests it has cut off.
    Ended { slot: usize, how: ExitStatus, lost: String, cut: usize },
    /// The worker does not respond. The sentence says since when.
    Stuck { slot: usize, reason: String },
    /// The operator wants new settings and new code. The settings have this version.
    Reload { version: u64, workers: usize },
    /// The operator wants one worker more.
    More,
    /// The operator wants one worker less.
    Fewer,
    /// The operator wants this many workers. Without any, the supervisor stays.
    Resize { workers: usize, cause: &'static str },
    /// The operator wants the service to end.
    Stop { cause: String },
    /// The operator wants the service to end at once.
    Quit { cause: &'static str },
    /// A new supervisor serves on the same addresses.
    Succeeded,
    /// A worker of the new supervisor that received clients has ended.
    GiveAgain,
    /// The new supervisor has ended after it had begun to serve.
    SuccessorEnded,
    /// Nothing but the time.
    Time,
}

/// Something that the supervisor does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// Start a process.
    Start { slot: usize, number: usize, generation: u64, version: u64 },
    /// Let the idle clients of a worker, which stops next, go to other workers.
    HandOver { from: usize, to: Vec<usize> },
    /// Let the idle clients of a worker, which stops next, go to the new supervisor.
    GiveAway { from: usize },
    /// Let a worker that stops close its idle clients: no other worker will receive them.
    CloseIdle { slot: usize },
    /// Let the worker stop gracefully.
    Stop { slot: usize, cause: String },
    /// Let the worker end at once.
    StopNow { slot: usize, cause: String },
    /// End a process that does not serve yet.
    Terminate { slot: usize },
    /// Make the process write its stacks and end.
    Abort { slot: usize },
    /// Kill the process.
    Kill { slot: usize },
    /// All first workers serve: say so.
    Announce,
    /// Tell how a reload went. From now on, workers start with the settings `keeps`. Good news waits until the workers in
    /// the slots `old` have left. An error is a sentence.
    Reloaded { version: u64, keeps: u64, outcome: Result<(), String>, old: Vec<usize> },
    /// No new connection is wanted: the workers accept the clients that wait, and end.
    Close,
    /// Count a worker that has ended.
    Count(Departure),
    /// Write a line to the log.
    Say(Level, String),
    /// End the supervisor.
    End(Exit),
}
