//! What a service shows of itself, as text for people: `maypole status`, `maypole requests`.
//!
//! *Owns*: these texts. *Runs on*: the main thread of the command. *Invariants*: the terminal
//! gets only characters that it prints.

use std::cmp::Reverse;
use std::time::Duration;

use crate::documents::{Asked, Frame, Process, Requests, Row, Stats, Times, parse};
use crate::phrase::terminal::{printable, width_of};
use crate::phrase::{count, seconds};

/// From this number of requests on, a line sums them up by their lines of code.
const MANY: usize = 6;
/// How many lines of code it has.
const PLACES_MAX: usize = 5;

/// Returns the text of `maypole status`. `readiness` is the line of `/readyz`.
///
/// # Errors
/// A sentence: the numbers are no JSON.
pub(super) fn status(stats: &[u8], readiness: &str) -> Result<String, String> {
    let stats: Stats = parse(stats)?;
    let waiting = stats.waiting();
    let Stats { name, version, pid, uptime_seconds, saturation, recent, processes, .. } = stats;
    let times = recent.duration.map_or_else(String::new, |Times { p50, p99, .. }| {
        format!(", half of them within {}, 99 % within {}", time(p50), time(p99))
    });
    let (rate, saturation) = (recent.requests_per_second, saturation * 100.0);
    let mut text = vec![
        format!("{name}: maypole {version}, pid {pid}, up {}", long_time(uptime_seconds)),
        readiness.trim_end().to_owned(),
        format!("{rate:.1} requests/s{times}; saturation {saturation:.0} %"),
    ];
    text.extend(waiting);
    text.push(String::new());
    let head = ["worker", "pid", "state", "up", "served", "clients", "idle", "requests", "threads", "queued"];
    let rows = processes.iter().map(|process| {
        [
            process.number.to_string(),
            process.pid.to_string(),
            if process.stuck_seconds.is_some() { "stuck".to_owned() } else { process.state.clone() },
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
    let Requests { processes, mut requests, left_out } = parse(document)?;
    if processes.len() > 1 {
        // Each process measures the ages at a moment of its own, so requests of almost the same age would change places.
        requests.sort_by_key(|row| (Reverse(tenths(row.age_seconds)), row.worker, row.client.clone()));
    }
    let mut text = vec![match requests.as_slice() {
        [] => "no request is being served".to_owned(),
        requests => table_of_requests(requests, processes.len() > 1),
    }];
    if left_out > 0 {
        text.push(format!("{} more", count(left_out, "request")));
    }
    text.extend(places(&requests));
    let unknown = requests.iter().filter(|row| row.thread.is_some() && row.frame.is_none()).count();
    if unknown > 0 {
        let requests = count(unknown, "request");
        text.push(format!("the line of {requests} is not known; an alarm in the log may name it"));
    }
    text.extend(processes.iter().filter_map(|Asked { worker, pid, python }| {
        let name = if processes.len() > 1 { format!("worker {worker} (pid {pid})") } else { format!("process {pid}") };
        match python.as_str() {
            "silent" => Some(format!("{name} does not respond")),
            "busy" => Some(format!("{name}: a thread keeps the GIL (Python's lock)")),
            _ => None,
        }
    }));
    Ok(lines(&text.join("\n")))
}

/// Returns the table of the requests. `has_workers` adds the worker of each.
fn table_of_requests(requests: &[Row], has_workers: bool) -> String {
    let dash = || "-".to_owned();
    let cells = |row: &Row| {
        let frame = row.frame.as_ref();
        let place = frame.map_or_else(dash, |Frame { file, line, function }| format!("{function} ({file}:{line})"));
        let (client, thread) = (row.client.clone().unwrap_or_else(dash), row.thread.clone().unwrap_or_else(dash));
        (row.worker.to_string(), [age(row.age_seconds), row.phase.clone(), client, thread, row.request.clone(), place])
    };
    let head = ["age", "phase", "client", "thread", "request", "where"].map(str::to_owned);
    let rows = requests.iter().map(cells);
    if !has_workers {
        return table(head, rows.map(|(_, row)| row));
    }
    let with = |worker: String, [age, phase, client, thread, request, place]: [String; 6]| {
        [age, phase, worker, client, thread, request, place]
    };
    table(with("worker".to_owned(), head), rows.map(|(worker, row)| with(worker, row)))
}

/// Returns a line that says how many requests are at each line of code, if there are many requests and few lines.
fn places(requests: &[Row]) -> Option<String> {
    let mut places: Vec<(&Frame, usize)> = Vec::new();
    for frame in requests.iter().filter_map(|row| row.frame.as_ref()) {
        match places.iter_mut().find(|(known, _)| *known == frame) {
            Some((_, number)) => *number += 1,
            None => places.push((frame, 1)),
        }
    }
    if requests.len() < MANY || places.iter().all(|(_, number)| *number == 1) {
        return None;
    }
    // The sort keeps the order of equal numbers: the place of the oldest request comes first.
    places.sort_by_key(|(_, number)| Reverse(*number));
    let shown = places.iter().take(PLACES_MAX).map(|(frame, number)| {
        let file = frame.file.rsplit('/').next().unwrap_or_default();
        format!("{number} at {} ({file}:{})", frame.function, frame.line)
    });
    let left: usize = places.iter().skip(PLACES_MAX).map(|(_, number)| number).sum();
    let left = (left > 0).then(|| format!("{left} at other lines"));
    Some(format!("by line: {}", shown.chain(left).collect::<Vec<_>>().join(", ")))
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

/// Returns the age of a request: with milliseconds below a minute, so that the order is seen.
fn age(of: f64) -> String {
    if of < 60.0 { format!("{of:.3} s") } else { time(of) }
}

/// Returns an age in tenths of a second.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an age is positive, and below 2^63")]
fn tenths(of: f64) -> u64 {
    (of * 10.0) as u64
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
                "stuck_seconds": 5.0, "suspended": 1}, {"number": 2, "pid": 42, "state": "starting", "websockets": 3,
                "suspended": 1, "websockets_slow": 2}]}"#;
        let text = status(stats, "ready: both\n").unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["shop: maypole 1.2, pid 40, up 2h 5m", "ready: both"]);
        let rate = "2.2 requests/s, half of them within 1 ms, 99 % within 250 ms; saturation 50 %";
        assert_eq!(lines[2..5], [rate, "2 suspended responses, 3 WebSockets (2 slow)", ""]);
        assert_eq!(lines[5], "worker  pid  state     up     served  clients  idle  requests  threads  queued");
        assert_eq!(lines[6], "     1   41  stuck     1m 1s     900        7     5         2      2/4       3");
        assert_eq!(lines[7], "     2   42  starting  -           0        0     0         0      0/0       0");
        assert_eq!(lines[8], "worker 1 is stuck: no request has moved for 5 s (maypole dump shows where it is)");
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
        assert!(text.ends_with("2 requests more\nprocess 41 does not respond"), "{text}");
        assert!(text.starts_with("     age  phase") && text.contains("12.345 s  application  10.0"), "{text}");
        assert_eq!(requests(b"{}").unwrap(), "no request is being served");
    }

    #[test]
    fn many_requests_are_summed_up_by_their_lines() {
        let row = |age: f64, worker: usize, line: u32| {
            let frame = Some(Frame { file: "/srv/mailer.py".to_owned(), line, function: "audit".to_owned() });
            let thread = Some("maypole-exec-1".to_owned());
            Row { age_seconds: age, worker, phase: "application".to_owned(), thread, frame, ..Row::default() }
        };
        let mut rows: Vec<Row> = (0..5).map(|_| row(3.0, 1, 5)).collect();
        assert_eq!(places(&rows), None, "few requests are not summed up");
        rows.extend([row(9.0, 1, 6), Row { frame: None, ..row(1.0, 1, 0) }]);
        assert_eq!(places(&rows).unwrap(), "by line: 5 at audit (mailer.py:5), 1 at audit (mailer.py:6)");
        rows.extend((10..20).map(|line| row(1.0, 2, line)));
        assert!(places(&rows).unwrap().ends_with(", 7 at other lines"), "{:?}", places(&rows));
        assert_eq!(places(&(0..9).map(|line| row(1.0, 1, line)).collect::<Vec<_>>()), None, "all are elsewhere");
    }

    #[test]
    fn requests_of_almost_the_same_age_keep_their_places() {
        let document = br#"{"processes": [{"worker": 1, "pid": 41, "python": "read"}, {"worker": 2, "pid": 42,
            "python": "busy"}], "requests": [
            {"age_seconds": 75.0, "phase": "application", "worker": 2, "request": "GET /old", "thread": "t"},
            {"age_seconds": 2.345, "phase": "application", "worker": 2, "request": "GET /b"},
            {"age_seconds": 2.341, "phase": "application", "worker": 1, "request": "GET /a"}]}"#;
        let text = requests(document).unwrap();
        let rows: Vec<_> = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!((rows[0][..2].join(" "), rows[1][0], rows[2][0]), ("75 s".to_owned(), "2.341", "2.345"));
        let end = "the line of 1 request is not known; an alarm in the log may name it\n\
                   worker 2 (pid 42): a thread keeps the GIL (Python's lock)";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn long_time_has_two_units() {
        assert_eq!([9.9, 61.0, 7265.0, 90_000.0].map(long_time), ["9s", "1m 1s", "2h 1m", "1d 1h"]);
    }
}
