//! What a service shows of itself, as text for people: `maypole status`, `maypole requests`.
//!
//! *Owns*: these texts. *Runs on*: the main thread of the command. *Invariants*: a member that the service does not
//! have, because it runs another version, is shown as zero or as nothing. No control character reaches the terminal.

use std::time::Duration;

use serde::Deserialize;

use crate::phrase::{count, seconds};

/// The part of `/stats.json` that is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stats {
    name: String,
    version: String,
    pid: u32,
    uptime_seconds: f64,
    saturation: f64,
    recent: Recently,
    processes: Vec<Process>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Recently {
    requests_per_second: f64,
    duration: Option<Times>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Times {
    p50: f64,
    p99: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Process {
    number: usize,
    pid: u32,
    state: String,
    served_seconds: Option<f64>,
    stuck_seconds: Option<f64>,
    served: u64,
    connections: u64,
    idle: u64,
    requests: u64,
    threads: u64,
    threads_running: u64,
    queued: u64,
}

/// The part of `/requests.json` that is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Requests {
    processes: Vec<Asked>,
    #[serde(rename = "requests")]
    rows: Vec<Row>,
    left_out: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    worker: usize,
    pid: u32,
    python: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Row {
    age_seconds: f64,
    phase: String,
    client: Option<String>,
    worker: usize,
    request: String,
    thread: Option<String>,
    frame: Option<Frame>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Frame {
    file: String,
    line: u32,
    function: String,
}

/// Returns the text of `maypole status`. `readiness` is the line of `/readyz`.
///
/// # Errors
/// A sentence: the numbers are no JSON.
pub(super) fn status(stats: &[u8], readiness: &str) -> Result<String, String> {
    let Stats { name, version, pid, uptime_seconds, saturation, recent, processes } = parse(stats)?;
    let times = recent.duration.map_or_else(String::new, |Times { p50, p99 }| {
        format!(", half of them within {}, 99 % within {}", time(p50), time(p99))
    });
    let (rate, saturation) = (recent.requests_per_second, saturation * 100.0);
    let mut lines = vec![
        format!("{name}: maypole {version}, pid {pid}, up {}", long_time(uptime_seconds)),
        readiness.trim_end().to_owned(),
        format!("{rate:.1} requests/s{times}; saturation {saturation:.0} %"),
        String::new(),
    ];
    let head = ["worker", "pid", "state", "up", "served", "clients", "idle", "requests", "threads", "queued"];
    let rows = processes.iter().map(|process| {
        [
            process.number.to_string(),
            process.pid.to_string(),
            process.state.clone(),
            process.served_seconds.map_or_else(|| "-".to_owned(), long_time),
            process.served.to_string(),
            process.connections.to_string(),
            process.idle.to_string(),
            process.requests.to_string(),
            format!("{}/{}", process.threads_running, process.threads),
            process.queued.to_string(),
        ]
    });
    lines.push(table(head.map(str::to_owned), rows));
    lines.extend(processes.iter().filter_map(|Process { number, stuck_seconds, .. }| {
        let stuck = time((*stuck_seconds)?);
        Some(format!("worker {number} is stuck: no request has moved for {stuck} (maypole dump shows where it is)"))
    }));
    Ok(printable(&lines.join("\n")))
}

/// Returns the text of `maypole requests`.
///
/// # Errors
/// A sentence: the requests are no JSON.
pub(super) fn requests(document: &[u8]) -> Result<String, String> {
    let Requests { processes, rows, left_out } = parse(document)?;
    let head = ["age", "phase", "worker", "client", "thread", "request", "where"];
    let dash = || "-".to_owned();
    let rows = rows.iter().map(|row| {
        [
            time(row.age_seconds),
            row.phase.clone(),
            row.worker.to_string(),
            row.client.clone().unwrap_or_else(dash),
            row.thread.clone().unwrap_or_else(dash),
            row.request.clone(),
            row.frame
                .as_ref()
                .map_or_else(dash, |Frame { file, line, function }| format!("{function} ({file}:{line})")),
        ]
    });
    let mut lines = vec![match rows.len() {
        0 => "no request is being served".to_owned(),
        _ => table(head.map(str::to_owned), rows),
    }];
    if left_out > 0 {
        lines.push(format!("{} more", count(left_out, "request")));
    }
    lines.extend(processes.iter().filter_map(|Asked { worker, pid, python }| match python.as_str() {
        "silent" => Some(format!("worker {worker} (pid {pid}) does not respond")),
        "busy" => Some(format!("worker {worker} (pid {pid}): a thread keeps Python's lock")),
        _ => None,
    }));
    Ok(printable(&lines.join("\n")))
}

/// Returns a text without the control characters that a terminal obeys.
pub(super) fn printable(text: &str) -> String {
    let is_safe = |character: char| !character.is_control() || character == '\n' || character == '\t';
    text.chars().map(|character| if is_safe(character) { character } else { '\u{fffd}' }).collect()
}

fn parse<'a, T: Deserialize<'a>>(document: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(document).map_err(|error| format!("what the service shows cannot be read: {error}"))
}

/// Returns rows under a head, in columns. Numbers stand at the right of their column.
fn table<const N: usize>(head: [String; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let is_number =
        |column: usize| rows.iter().skip(1).all(|row| row[column].starts_with(|c: char| c.is_ascii_digit()));
    let columns: [(usize, bool); N] = std::array::from_fn(|column| (width(column), is_number(column)));
    let line =
        |row: &[String; N]| {
            let cells = row.iter().zip(columns).map(|(cell, (width, is_number))| {
                if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Returns a time as log lines show it.
fn time(of: f64) -> String {
    seconds(Duration::try_from_secs_f64(of).unwrap_or_default())
}

/// Returns a length of time in its two largest units: `3h 20m`.
fn long_time(of: f64) -> String {
    let seconds = Duration::try_from_secs_f64(of).unwrap_or_default().as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn status_has_a_line_for_each_process() {
        let stats = br#"{"name": "shop", "version": "1.2", "pid": 40, "uptime_seconds": 7500.9, "saturation": 0.5,
            "recent": {"requests_per_second": 2.25, "duration": {"p50": 0.001, "p99": 0.25}},
            "processes": [{"number": 1, "pid": 41, "state": "serving", "served_seconds": 61.0, "served": 900,
                "connections": 7, "idle": 5, "requests": 2, "threads": 4, "threads_running": 2, "queued": 3,
                "stuck_seconds": 5.0}, {"number": 2, "pid": 42, "state": "starting"}]}"#;
        let text = status(stats, "ready: both\n").unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["shop: maypole 1.2, pid 40, up 2h 5m", "ready: both"]);
        let rate = "2.2 requests/s, half of them within 1 ms, 99 % within 250 ms; saturation 50 %";
        assert_eq!(lines[2..4], [rate, ""]);
        assert_eq!(lines[4], "worker  pid  state     up     served  clients  idle  requests  threads  queued");
        assert_eq!(lines[5], "     1   41  serving   1m 1s     900        7     5         2      2/4       3");
        assert_eq!(lines[6], "     2   42  starting  -           0        0     0         0      0/0       0");
        assert_eq!(lines[7], "worker 1 is stuck: no request has moved for 5 s (maypole dump shows where it is)");
        assert!(status(b"<html>", "").is_err());
    }

    #[test]
    fn requests_are_in_columns_and_show_where_they_are() {
        let document = br#"{"processes": [{"worker": 1, "pid": 41, "python": "silent"}], "left_out": 2, "requests": [
            {"age_seconds": 12.345, "phase": "application", "client": "10.0.0.7:51608", "worker": 1,
             "request": "GET /\u001b[2J HTTP/1.1", "thread": "maypole-exec-3",
             "frame": {"file": "/srv/report.py", "line": 31, "function": "totals"}},
            {"age_seconds": 0.5, "phase": "queue", "worker": 1, "request": "GET / HTTP/1.1"}]}"#;
        let text = requests(document).unwrap();
        assert!(text.contains("totals (/srv/report.py:31)"), "{text}");
        assert!(text.contains("GET /\u{fffd}[2J HTTP/1.1") && !text.contains('\u{1b}'), "{text}");
        assert!(text.ends_with("2 requests more\nworker 1 (pid 41) does not respond"), "{text}");
        assert_eq!(requests(b"{}").unwrap(), "no request is being served");
    }

    #[test]
    fn long_time_has_two_units() {
        assert_eq!([9.9, 61.0, 7265.0, 90_000.0].map(long_time), ["9s", "1m 1s", "2h 1m", "1d 1h"]);
    }
}
