//! What the supervisor asks its workers: their requests, their stacks, and their errors.
//!
//! *Owns*: nothing. *Runs on*: the status server's threads, and one more for each worker while it is asked.
//! *Invariants*: the answer comes within `WORKER_MAX`, whatever the workers do. A worker that is silent is shown from
//! the scoreboard.

use std::thread;
use std::time::Duration;

use crate::control;
use crate::phrase::{excerpt, seconds};
use crate::scoreboard::{Scoreboard, Slot, State};
use crate::status::{Errors, Inspected, Python, Requests, Row, Slowest};

/// How long a worker may take to respond.
const WORKER_MAX: Duration = Duration::from_millis(400);

/// Returns the requests of all workers.
pub(super) fn requests(board: &Scoreboard, with_stacks: bool) -> Requests {
    let path = if with_stacks { "/requests.json?stacks" } else { "/requests.json" };
    let of_worker = |(slot, answer): (Slot, Result<Vec<u8>, String>)| {
        let read = answer.ok().and_then(|body| serde_json::from_slice(&body).ok());
        read.unwrap_or_else(|| silent(&slot))
    };
    Requests::merge(ask_all(board, path).into_iter().map(of_worker).collect())
}

/// Returns what the scoreboard says of the requests of a worker that is silent.
fn silent(slot: &Slot) -> Requests {
    let (worker, pid, websockets) = (slot.number(), slot.pid(), slot.meters().numbers().websockets);
    Requests::of_process(Inspected { worker, pid, python: Python::Silent, websockets }, noted(slot))
}

/// Returns the slowest requests of all workers in the last minutes. A worker that is silent shows none.
pub(super) fn slowest(board: &Scoreboard) -> Slowest {
    let answers = ask_all(board, "/requests.json?slowest").into_iter().filter_map(|(_, answer)| answer.ok());
    Slowest::merge(answers.filter_map(|body| serde_json::from_slice(&body).ok()))
}

/// Returns the last errors of all workers. A worker that is silent shows none.
pub(super) fn errors(board: &Scoreboard) -> Errors {
    let answers = ask_all(board, "/errors.json").into_iter().filter_map(|(_, answer)| answer.ok());
    Errors::merge(answers.filter_map(|body| serde_json::from_slice(&body).ok()))
}

/// Returns the stacks of all workers, as text.
pub(super) fn stacks(board: &Scoreboard) -> String {
    let of_worker = |(slot, answer): (Slot, Result<Vec<u8>, String>)| match answer {
        Ok(body) => String::from_utf8_lossy(&body).into_owned(),
        Err(why) => silence(&slot, &why),
    };
    ask_all(board, "/stacks").into_iter().map(of_worker).collect::<Vec<_>>().join("\n")
}

/// Returns what the scoreboard says of a worker that has not responded.
fn silence(slot: &Slot, why: &str) -> String {
    let (number, pid, limit) = (slot.number(), slot.pid(), seconds(WORKER_MAX));
    let line = |row: &Row| {
        let thread = row.thread_id.unwrap_or_default();
        format!("  {:.3} s  \"{}\"  thread {thread}\n", row.age_seconds, row.request)
    };
    let rows: Vec<_> = noted(slot).iter().map(line).collect();
    format!("worker {number}, pid {pid}, has not responded within {limit}: {why}\n{}", rows.concat())
}

/// Asks all workers at the same time.
fn ask_all(board: &Scoreboard, path: &str) -> Vec<(Slot, Result<Vec<u8>, String>)> {
    let slots: Vec<Slot> = board.slots().filter(|slot| slot.state() != State::Empty && slot.pid() != 0).collect();
    thread::scope(|scope| {
        let ask = |slot: Slot| {
            let pid = slot.pid();
            let asked = thread::Builder::new()
                .name("maypole-asks".to_owned())
                .spawn_scoped(scope, move || control::ask_worker(pid, path, WORKER_MAX));
            (slot, asked)
        };
        let asked: Vec<_> = slots.into_iter().map(ask).collect();
        let answer = |(slot, asked): (Slot, std::io::Result<thread::ScopedJoinHandle<'_, _>>)| {
            let answer = asked.map_err(|error| error.to_string());
            (
                slot,
                answer
                    .and_then(|thread| thread.join().unwrap_or_else(|_| Err("the thread that asks failed".to_owned()))),
            )
        };
        asked.into_iter().map(answer).collect()
    })
}

/// Returns the requests that a worker has noted in the scoreboard.
fn noted(slot: &Slot) -> Vec<Row> {
    let row = |inside: crate::scoreboard::Inside| Row {
        age_seconds: inside.age.as_secs_f64(),
        phase: "application".to_owned(),
        client: None,
        worker: slot.number(),
        pid: slot.pid(),
        request: excerpt(&inside.line),
        request_id: (!inside.id.is_empty()).then(|| excerpt(&inside.id)),
        thread: None,
        thread_id: Some(inside.thread.into()),
        python: Python::Silent,
        frame: None,
        stack: Vec::new(),
    };
    slot.requests_inside().into_iter().map(row).collect()
}
