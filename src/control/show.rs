//! What a service shows of itself, as text for people: `maypole status`, `maypole requests`.
//!
//! *Owns*: these texts. *Runs on*: the main thread of the command. *Invariants*: the terminal
//! gets only characters that it prints.

use std::time::Duration;

use crate::documents::{Asked, Frame, Process, Requests, Stats, Times, parse};
use crate::phrase::terminal::{printable, width_of};
use crate::phrase::{count, seconds};

/// Returns the text of `maypole status`. `readiness` is the line of `/readyz`.
///
/// # Errors
/// A sentence: the numbers are no JSON.
pub(super) fn status(stats: &[u8], readiness: &str) -> Result<String, String> {
    let Stats { name, version, pid, uptime_seconds, saturation, recent, processes, .. } = parse(stats)?;
    let times = recent.duration.map_or_else(String::new, |Times { p50, p99, .. }| {
        format!(", half of them within {}, 99 % within {}", time(p50), time(p99))
    });
    let (rate, saturation) = (recent.requests_per_second, saturation * 100.0);
    let mut text = vec![
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
    text.push(table(head.map(str::to_owned), rows));
    text.extend(processes.iter().filter_map(|Process { number, stuck_seconds, .. }| {
        let stuck = time((*stuck_seconds)?);
        Some(format!("worker {number} is stuck: no request has moved for {stuck} (maypole dump shows where it is)"))
    }));
    Ok(lines(&text.join("\n")))
}

/// Returns the text of `maypole requests`.
///
/// # Errors
/// A sentence: the requests are no JSON.
pub(super) fn requests(document: &[u8]) -> Result<String, String> {
    let Requests { processes, requests, left_out } = parse(document)?;
    let head = ["age", "phase", "worker", "client", "thread", "request", "where"];
    let dash = || "-".to_owned();
    let rows = requests.iter().map(|row| {
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
    let mut text = vec![match requests.len() {
        0 => "no request is being served".to_owned(),
        _ => table(head.map(str::to_owned), rows),
    }];
    if left_out > 0 {
        text.push(format!("{} more", count(left_out, "request")));
    }
    text.extend(processes.iter().filter_map(|Asked { worker, pid, python }| match python.as_str() {
        "silent" => Some(format!("worker {worker} (pid {pid}) does not respond")),
        "busy" => Some(format!("worker {worker} (pid {pid}): a thread keeps Python's lock")),
        _ => None,
    }));
    Ok(lines(&text.join("\n")))
}

/// Returns a text without the characters that a terminal does not print, except for the ends of its lines.
pub(super) fn lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// Returns rows under a head, in columns. Numbers stand at the right of their column.
fn table<const N: usize>(head: [String; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows = std::iter::once(head).chain(rows).map(|row| row.map(|cell| printable(&cell)));
    let rows: Vec<[String; N]> = rows.collect();
    let width = |column: usize| rows.iter().map(|row| width_of(&row[column])).max().unwrap_or_default();
    let is_number =
        |column: usize| rows.iter().skip(1).all(|row| row[column].starts_with(|c: char| c.is_ascii_digit()));
    let columns: [(usize, bool); N] = std::array::from_fn(|column| (width(column), is_number(column)));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(columns).map(|(cell, (width, is_number))| {
            let space = " ".repeat(width - width_of(cell));
            if is_number { space + cell } else { format!("{cell}{space}") }
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
        assert!(text.contains("GET /\\x1b[2J HTTP/1.1") && !text.contains('\u{1b}'), "{text}");
        assert!(text.ends_with("2 requests more\nworker 1 (pid 41) does not respond"), "{text}");
        assert_eq!(requests(b"{}").unwrap(), "no request is being served");
    }

    #[test]
    fn long_time_has_two_units() {
        assert_eq!([9.9, 61.0, 7265.0, 90_000.0].map(long_time), ["9s", "1m 1s", "2h 1m", "1d 1h"]);
    }
}
