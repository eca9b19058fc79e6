//! Drawing: from the numbers and the view to lines.
//!
//! *Owns*: the layout. *Runs on*: the main thread. *Invariants*: no line is wider than the terminal, and there are no
//! more lines than it has rows. Everything fits at 80 columns and 24 rows.

use std::time::Instant;

use super::numbers::Numbers;
use super::text::{Line, Style, grouped, left, rate, right, time};
use super::view::{PAGE_KEYS, Shown, TEXT_KEYS, View};
use crate::documents::{Frame, Process, Row, Stats};
use crate::phrase::terminal::width_of;
use crate::phrase::{count, seconds};

/// How old numbers may be until the page says so, in seconds.
const SILENT_AFTER: u64 = 3;
/// The share of the time from which on the saturation is an alarm, as for `/readyz`.
const SATURATED: f64 = 0.95;
/// The age from which on a request is an alarm, in seconds.
const OLD: f64 = 10.0;
/// The fewest rows that processes get, if there are as many.
const PROCESSES_MIN: usize = 2;
/// The rows of the page besides processes and requests.
const OTHER_ROWS: usize = 12;

/// Columns and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// Returns the lines of the screen. The last one has the keys, or what has come of a command.
pub(super) fn draw(view: &View, numbers: &Numbers, size: Size, now: Instant) -> Vec<Line> {
    let height = size.rows.saturating_sub(1);
    let (mut lines, keys) = match &view.shown {
        Shown::Page => (page(view, numbers, size, now), PAGE_KEYS),
        Shown::Stack => (scrolled(stack(view), view.first, height), TEXT_KEYS),
        Shown::AllStacks(text) => (scrolled(all_stacks(text.as_deref()), view.first, height), TEXT_KEYS),
    };
    lines.resize(height, Line::default());
    lines.push(match view.message() {
        Some(message) => Line::new(Style::Strong, message),
        None => Line::plain(keys),
    });
    lines.into_iter().map(|line| line.cut(size.columns)).collect()
}

/// Returns the page without keys and with all processes and requests, for an output that is no terminal.
pub(super) fn print(view: &View, numbers: &Numbers, columns: usize) -> String {
    let rows = numbers.newest().map_or(0, |stats| 2 * stats.processes.len()) + view.rows.len() + 2 * OTHER_ROWS;
    let lines = page(view, numbers, Size { columns, rows }, Instant::now());
    lines.into_iter().map(|line| line.cut(columns).text()).collect::<Vec<_>>().join("\n")
}

fn page(view: &View, numbers: &Numbers, size: Size, now: Instant) -> Vec<Line> {
    let Some(stats) = numbers.newest() else {
        return vec![Line::plain(numbers.failure.as_deref().unwrap_or("The service has not responded yet."))];
    };
    let mut lines = header(stats, numbers, size.columns, now);
    lines.push(Line::default());
    let room = size.rows.saturating_sub(OTHER_ROWS);
    lines.extend(processes(stats, numbers, (room / 2).max(PROCESSES_MIN), size.columns));
    lines.push(Line::default());
    // The titles of the requests take two rows, the keys take one.
    let room = size.rows.saturating_sub(lines.len() + 3);
    lines.extend(requests(view, numbers.requests.left_out, room, size.columns));
    lines
}

/// Returns the lines about the service.
fn header(stats: &Stats, numbers: &Numbers, columns: usize, now: Instant) -> Vec<Line> {
    let Stats { name, version, pid, stage, uptime_seconds, .. } = stats;
    let about = format!("{stage}, up {}, Maypole {version}, PID {pid}", time(*uptime_seconds));
    let name = left(name, columns.saturating_sub(width_of(&about) + 1));
    let classes = stats.total.classes.iter().filter(|(_, requests)| **requests > 0);
    let classes: Vec<String> = classes.map(|(class, requests)| format!("{class} {}", grouped(*requests))).collect();
    let classes = if classes.is_empty() { String::new() } else { format!(": {}", classes.join(", ")) };
    let total = format!("/s, {} since the start{classes}", grouped(stats.total.requests));
    let serving = stats.processes.iter().filter(|process| process.state == "serving").count();
    let mut first = Line::new(Style::Strong, &name).with(Style::Plain, &format!(" {about}"));
    let age = numbers.age(now);
    if numbers.failure.is_some() || age.as_secs() >= SILENT_AFTER {
        let reason = numbers.failure.as_deref().map(|failure| format!(": {failure}")).unwrap_or_default();
        first = Line::new(Style::Alarm, &format!("No response for {}{reason}", seconds(age)));
    }
    let alarm = if stats.saturation >= SATURATED { Style::Alarm } else { Style::Plain };
    let missing = if serving < stats.wanted { Style::Alarm } else { Style::Plain };
    let mut lines = vec![
        first,
        Line::plain("Requests   ").with(Style::Strong, &rate(numbers.rate())).with(Style::Plain, &total),
        Line::plain("Time       ").with(Style::Plain, &times(stats)),
        Line::plain("Phases     ").with(Style::Plain, &phases(numbers)),
        Line::plain("Saturation ")
            .with(alarm, &gauge(stats.saturation))
            .with(missing, &format!("   processes that serve: {serving} of {}", stats.wanted)),
    ];
    lines.extend(stats.waiting().map(|waiting| Line::plain("Waiting    ").with(Style::Plain, &waiting)));
    lines
}

fn times(stats: &Stats) -> String {
    let Some(times) = stats.recent.duration else { return "no request has ended in the last 10 s".to_owned() };
    let [mean, p50, p90, p99] = [times.mean, times.p50, times.p90, times.p99].map(time);
    format!("mean {mean}, p50 {p50}, p90 {p90}, p99 {p99} (last 10 s)")
}

/// Returns the mean time of a request in each phase. All have the same unit, so that they fit and compare.
fn phases(numbers: &Numbers) -> String {
    let Some(split) = numbers.split() else { return "-".to_owned() };
    let is_long = split.iter().any(|(_, seconds)| *seconds >= 1.0);
    let (unit, factor) = if is_long { ("s", 1.0) } else { ("ms", 1e3) };
    let split = split.map(|(phase, seconds)| format!("{phase} {:.1}", seconds * factor));
    format!("{} {unit}", split.join(", "))
}

/// Returns a share as a bar: `[####------]  40 %`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the share is from 0 to 1")]
fn gauge(share: f64) -> String {
    const STEPS: usize = 20;
    let full = ((share.clamp(0.0, 1.0) * 20.0).round() as usize).min(STEPS);
    format!("[{}{}] {:3.0} %", "#".repeat(full), "-".repeat(STEPS - full), share * 100.0)
}

/// Returns the table of the processes, in at most `room` rows and one for its titles. If there are more processes, those
/// that need an operator come first.
fn processes(stats: &Stats, numbers: &Numbers, room: usize, columns: usize) -> Vec<Line> {
    let titles = ["WORKER", "PID", "STATE", "REQ/S", "CONNS", "IDLE", "THREADS", "QUEUE", "POOL", "STUCK"];
    let mut lines = vec![titles_line(&cells(titles), columns)];
    let mut rows: Vec<&Process> = stats.processes.iter().collect();
    let left_out = if rows.len() > room { rows.len() + 1 - room } else { 0 };
    if left_out > 0 {
        let need = |process: &Process| (process.stuck_seconds.is_some(), process.state != "serving", process.queued);
        rows.sort_by(|one, other| need(other).cmp(&need(one)).then(one.number.cmp(&other.number)));
        rows.truncate(room - 1);
    }
    lines.extend(rows.iter().map(|row| process(row, numbers)));
    if left_out > 0 {
        lines.push(Line::plain(&format!("       and {left_out} more")));
    }
    lines
}

fn process(process: &Process, numbers: &Numbers) -> Line {
    let texts = [
        process.number.to_string(),
        process.pid.to_string(),
        process.state.clone(),
        numbers.rate_of(process.pid).map_or_else(|| "-".to_owned(), rate),
        process.connections.to_string(),
        process.idle.to_string(),
        format!("{}/{}", process.threads_running, process.threads),
        process.queued.to_string(),
        format!("{}/{}", process.pool_taken, process.pool_size),
        process.stuck_seconds.map(time).unwrap_or_default(),
    ];
    let style = if process.stuck_seconds.is_some() { Style::Alarm } else { Style::Plain };
    Line::new(style, &cells(texts.each_ref().map(String::as_str)))
}

/// Returns the cells of the table of processes, 80 columns wide.
fn cells(texts: [&str; 10]) -> String {
    const WIDTHS: [usize; 10] = [6, 8, 9, 8, 6, 6, 8, 6, 8, 6];
    let cell =
        |(at, (text, width)): (usize, (&str, usize))| if at == 2 { left(text, width) } else { right(text, width) };
    texts.into_iter().zip(WIDTHS).enumerate().map(cell).collect::<Vec<_>>().join(" ")
}

fn titles_line(text: &str, columns: usize) -> Line {
    Line::new(Style::Reversed, &left(text, columns))
}

/// Returns the table of the requests, in at most `room` rows and two for its titles.
fn requests(view: &View, left_out: usize, room: usize, columns: usize) -> Vec<Line> {
    let (total, order) = (view.rows.len() + left_out, view.order.name());
    let title = format!("{}, by {order}", count(total, "request"));
    let widths = Widths::of(columns);
    let titles = widths.line(' ', ["AGE", "PHASE", "W", "CLIENT", "REQUEST", "INNERMOST FRAME"]);
    let mut lines = vec![Line::plain(&title), titles_line(&titles, columns)];
    // The chosen one is in the middle, if there are more requests than rows.
    let first = view.at.saturating_sub(room / 2).min(view.rows.len().saturating_sub(room));
    let shown = view.rows.iter().enumerate().skip(first).take(room);
    lines.extend(shown.map(|(at, row)| request(row, at == view.at, &widths)));
    lines
}

fn request(row: &Row, is_chosen: bool, widths: &Widths) -> Line {
    let (age, worker) = (time(row.age_seconds), row.worker.to_string());
    let frame = match &row.frame {
        Some(Frame { file, line, function }) => {
            format!("{}:{line} {function}", file.rsplit('/').next().unwrap_or_default())
        }
        None => no_frame(row).to_owned(),
    };
    // The version says little, and the column is narrow.
    let line = row.request.strip_suffix(" HTTP/1.1").unwrap_or(&row.request);
    let client = row.client.as_deref().unwrap_or("-");
    let mark = if is_chosen { '>' } else { ' ' };
    let text = widths.line(mark, [&age, &row.phase, &worker, client, line, &frame]);
    let style = match is_chosen {
        true => Style::Reversed,
        false if row.age_seconds >= OLD => Style::Alarm,
        false => Style::Plain,
    };
    Line::new(style, &text)
}

/// Returns why a request has no frame.
fn no_frame(row: &Row) -> &'static str {
    match row.python.as_str() {
        "silent" => "(no response)",
        "absent" => "(no Python)",
        _ => "-",
    }
}

/// The widths of the columns whose width depends on the terminal's.
struct Widths {
    client: usize,
    request: usize,
    frame: usize,
}

impl Widths {
    /// The columns of the mark, age, phase and worker, with the spaces between all columns.
    const FIXED: usize = 1 + 7 + 11 + 3 + 5;

    fn of(columns: usize) -> Self {
        let client = if columns >= 110 { 21 } else { 15 };
        let rest = columns.saturating_sub(Self::FIXED + client);
        Self { client, request: rest / 2, frame: rest - rest / 2 }
    }

    fn line(&self, mark: char, [age, phase, worker, client, request, frame]: [&str; 6]) -> String {
        let (age, phase, worker) = (right(age, 7), left(phase, 11), right(worker, 3));
        let (client, request) = (left(client, self.client), left(request, self.request));
        format!("{mark}{age} {phase} {worker} {client} {request} {}", left(frame, self.frame))
    }
}

/// Returns the lines about the chosen request.
fn stack(view: &View) -> Vec<Line> {
    let Some(row) = view.chosen() else { return vec![Line::plain("No request is chosen.")] };
    let Row { age_seconds, phase, worker, pid, request, .. } = row;
    let client = row.client.as_deref().unwrap_or("unknown");
    let thread = match (&row.thread, row.thread_id) {
        (Some(name), Some(id)) => format!("{name} ({id})"),
        _ => "none".to_owned(),
    };
    let mut lines = vec![
        Line::new(Style::Strong, request),
        Line::plain(&format!("phase {phase} for {}, client {client}", time(*age_seconds))),
        Line::plain(&format!("worker {worker}, PID {pid}, thread {thread}")),
        Line::default(),
    ];
    if !view.is_served {
        lines.push(Line::new(Style::Strong, "The request has ended. It was last seen here:"));
    } else if row.python == "busy" {
        lines.push(Line::new(Style::Alarm, "No thread gets Python's lock. The frames were read without it:"));
    } else if row.stack.is_empty() {
        lines.push(Line::plain(match row.python.as_str() {
            "silent" => "The process has not responded.",
            "absent" => "Python does not run in the process.",
            _ if row.thread.is_none() => "No thread works on the request.",
            _ => "The stack has not arrived yet.",
        }));
    }
    let width = row.stack.iter().map(|frame| width_of(&frame.function)).max().unwrap_or(0).min(40);
    let frame = |frame: &Frame| format!("  {}  {}:{}", left(&frame.function, width), frame.file, frame.line);
    lines.extend(row.stack.iter().map(|one| Line::plain(&frame(one))));
    lines
}

fn all_stacks(text: Option<&[String]>) -> Vec<Line> {
    text.map_or_else(
        || vec![Line::plain("The stacks have not arrived yet.")],
        |lines| lines.iter().map(|line| Line::plain(line)).collect(),
    )
}

/// Returns the part of a text that fits, from line `first` on.
fn scrolled(lines: Vec<Line>, first: usize, height: usize) -> Vec<Line> {
    let first = first.min(lines.len().saturating_sub(height));
    lines.into_iter().skip(first).take(height).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::keys::Key;
    use super::*;
    use crate::documents::Requests;

    const USUAL: Size = Size { columns: 80, rows: 24 };

    fn stats(processes: usize) -> Stats {
        let process = |number| {
            format!(
                r#"{{"number": {number}, "pid": {}, "state": "serving", "served": 900, "connections": 20, "idle": 12,
                    "threads": 4, "threads_running": 3, "queued": 0, "pool_taken": 3, "pool_size": 64,
                    "stuck_seconds": {}}}"#,
                4710 + number,
                if number == 9 { "12.4" } else { "null" }
            )
        };
        let processes: Vec<String> = (1..=processes).map(process).collect();
        let text = format!(
            r#"{{"name": "shop:app", "version": "1.2.3", "pid": 4710, "stage": "serving", "uptime_seconds": 273600,
                "wanted": {}, "saturation": 0.35, "total": {{"requests": 1234567, "classes": {{"2xx": 1234560, "4xx": 0,
                "5xx": 7}}}}, "recent": {{"requests_per_second": 612.25, "duration": {{"mean": 0.01, "p50": 0.0005,
                "p90": 0.04, "p99": 1.31}}}}, "processes": [{}]}}"#,
            processes.len(),
            processes.join(",")
        );
        serde_json::from_str(&text).unwrap()
    }

    fn rows(count: usize) -> Requests {
        let row = |at: usize| {
            format!(
                r#"{{"age_seconds": {}, "phase": "application", "client": "10.0.0.7:51608", "worker": 1, "pid": 4711,
                    "request": "GET /report/{at}?month=november HTTP/1.1", "thread": "maypole-exec-3", "thread_id": 4725,
                    "python": "read", "frame": {{"file": "/srv/shop/report.py", "line": 31, "function": "totals"}},
                    "stack": [{{"file": "/srv/shop/report.py", "line": 31, "function": "totals"}},
                    {{"file": "/srv/shop/\u001b[2J.py", "line": 5, "function": "app"}}]}}"#,
                count - at
            )
        };
        let text = format!(r#"{{"requests": [{}], "left_out": 0}}"#, (0..count).map(row).collect::<Vec<_>>().join(","));
        serde_json::from_str(&text).unwrap()
    }

    fn drawn(stats: Stats, requests: Requests, keys: &[Key], size: Size) -> Vec<String> {
        let (mut numbers, mut view) = (Numbers::default(), View::default());
        numbers.add(stats, requests, Instant::now());
        view.update(&numbers);
        for key in keys {
            view.press(*key, &numbers);
        }
        draw(&view, &numbers, size, Instant::now()).iter().map(Line::text).collect()
    }

    #[test]
    fn page_fits_into_a_usual_terminal() {
        let lines = drawn(stats(2), rows(30), &[Key::Down], USUAL);
        let expected = "\
shop:app                                serving, up 3 d, Maypole 1.2.3, PID 4710
Requests   612/s, 1,234,567 since the start: 2xx 1,234,560, 5xx 7
Time       mean 10 ms, p50 0.5 ms, p90 40 ms, p99 1.3 s (last 10 s)
Phases     -
Saturation [#######-------------]  35 %   processes that serve: 2 of 2

WORKER      PID STATE        REQ/S  CONNS   IDLE  THREADS  QUEUE     POOL  STUCK
     1     4711 serving          -     20     12      3/4      0     3/64
     2     4712 serving          -     20     12      3/4      0     3/64

30 requests, by age
     AGE PHASE         W CLIENT          REQUEST             INNERMOST FRAME
  30.0 s application   1 10.0.0.7:51608  GET /report/0?mont… report.py:31 totals
> 29.0 s application   1 10.0.0.7:51608  GET /report/1?mont… report.py:31 totals
  28.0 s application   1 10.0.0.7:51608  GET /report/2?mont… report.py:31 totals";
        assert_eq!(lines[..15].join("\n"), expected);
        assert_eq!((lines.len(), lines[23].as_str()), (24, PAGE_KEYS));
        assert!(lines[22].starts_with("  20.0 s"), "{}", lines[22]);
    }

    #[test]
    fn clients_that_wait_without_a_thread_have_a_line() {
        let mut stats = stats(2);
        (stats.processes[0].suspended, stats.processes[1].websockets) = (1, 2000);
        let lines = drawn(stats, rows(30), &[], USUAL);
        assert_eq!(lines[5..7], ["Waiting    1 suspended response, 2000 WebSockets", ""]);
        assert_eq!((lines.len(), lines[23].as_str()), (24, PAGE_KEYS));
    }

    #[test]
    fn page_fits_into_every_terminal() {
        for (columns, rows_of_terminal) in [(1, 1), (10, 3), (40, 10), (79, 12), (80, 24), (200, 60), (500, 2)] {
            let size = Size { columns, rows: rows_of_terminal };
            for keys in [&[][..], &[Key::End], &[Key::Enter], &[Key::Character('d')], &[Key::Character('r')]] {
                let (mut numbers, mut view) = (Numbers::default(), View::default());
                let mut stats = stats(64);
                stats.processes[0].websockets = 7;
                numbers.add(stats, rows(100), Instant::now());
                view.update(&numbers);
                for key in keys {
                    view.press(*key, &numbers);
                }
                let lines = draw(&view, &numbers, size, Instant::now());
                let width = |line: &Line| line.0.iter().map(|(_, text)| width_of(text)).sum::<usize>();
                assert_eq!(lines.len(), rows_of_terminal, "{size:?}");
                assert!(lines.iter().all(|line| width(line) <= columns), "{size:?} {keys:?}");
            }
        }
    }

    #[test]
    fn worker_that_is_stuck_comes_first_if_there_are_too_many() {
        let lines = drawn(stats(64), rows(1), &[], USUAL);
        assert!(lines[7].starts_with("     9 ") && lines[7].ends_with(" 12.4 s"), "{}", lines[7]);
        assert_eq!(lines[12], "       and 59 more");
    }

    #[test]
    fn stack_of_the_chosen_request_is_shown_as_text() {
        let lines = drawn(stats(1), rows(2), &[Key::Enter], USUAL);
        let expected = [
            "GET /report/0?month=november HTTP/1.1",
            "phase application for 2.0 s, client 10.0.0.7:51608",
            "worker 1, PID 4711, thread maypole-exec-3 (4725)",
            "",
            "  totals  /srv/shop/report.py:31",
            "  app     /srv/shop/\\x1b[2J.py:5",
        ];
        assert_eq!(lines[..6], expected);
        assert_eq!(lines[23], TEXT_KEYS);
        let scrolled = drawn(stats(1), rows(2), &[Key::Enter, Key::End], Size { columns: 80, rows: 4 });
        assert_eq!(scrolled[..3], ["", expected[4], expected[5]]);
    }

    #[test]
    fn service_that_does_not_respond_is_named() {
        let (mut numbers, mut view, now) = (Numbers::default(), View::default(), Instant::now());
        numbers.add(stats(1), rows(1), now);
        view.update(&numbers);
        let first = |numbers: &Numbers, seconds| {
            draw(&view, numbers, USUAL, now + std::time::Duration::from_secs(seconds))[0].text()
        };
        assert!(first(&numbers, 2).starts_with("shop:app "));
        assert_eq!(first(&numbers, 75), "No response for 75 s");
        numbers.failure = Some("no service of Maypole runs here".to_owned());
        assert_eq!(first(&numbers, 2), "No response for 2 s: no service of Maypole runs here");
    }
}
