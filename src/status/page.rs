//! The page for people: `/`, with its script and its style.
//!
//! *Owns*: the files of the page. *Runs on*: the connection's thread. *Invariants*: the page loads nothing from
//! elsewhere, and its policy permits only its own script and style. Without the script it shows the numbers of one
//! moment, and loads itself anew. *Source*: Content Security Policy Level 3, §6.

use super::Shared;
use super::routes::Reply;
use super::stats::{self, Process, Stats};
use crate::phrase::{html, seconds};

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What a browser lets the page load and do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Returns the page.
pub(super) fn reply(shared: &Shared) -> Reply {
    let mut reply = Reply::new("text/html; charset=utf-8", page(&stats::of(shared)));
    reply.fields.push(("Content-Security-Policy", POLICY.to_owned()));
    reply.fields.push(("Referrer-Policy", "no-referrer".to_owned()));
    reply
}

/// Returns the style of the page.
pub(super) fn style() -> Reply {
    Reply::new("text/css; charset=utf-8", STYLE)
}

/// Returns the script of the page.
pub(super) fn script() -> Reply {
    Reply::new("text/javascript; charset=utf-8", SCRIPT)
}

fn page(stats: &Stats) -> String {
    let processes: String = stats.processes.iter().map(process).collect();
    let totals: String = stats.total.classes.iter().map(class).collect();
    html::fill(
        HTML,
        &[
            ("{name}", &html::escape(&stats.name)),
            ("{summary}", &html::escape(&summary(stats))),
            ("{processes}", &processes),
            ("{totals}", &totals),
        ],
    )
}

/// Returns what the service does, in one line.
fn summary(stats: &Stats) -> String {
    let serving = stats.processes.iter().filter(|process| process.state == "serving").count();
    let Stats { stage, wanted, version, pid, .. } = stats;
    let rate = stats.recent.requests_per_second;
    format!(
        "{stage}: {serving} of {wanted} processes serve, {rate:.1} requests per second, Maypole {version}, PID {pid}"
    )
}

/// Returns the responses of a class as a row of the table.
fn class((name, requests): (&&str, &u64)) -> String {
    format!("<tr><th scope=\"row\">{name}</th><td>{requests}</td></tr>\n")
}

/// Returns a process as a row of the table.
fn process(process: &Process) -> String {
    let number = |name: &str| process.numbers.get(name).copied().unwrap_or_default().to_string();
    let cells = [
        process.number.to_string(),
        process.pid.to_string(),
        process.state.to_owned(),
        // The script knows how many requests came since it last asked.
        String::new(),
        number("served"),
        number("connections"),
        number("idle"),
        number("http2_connections"),
        number("websockets"),
        format!("{} of {}", number("threads"), number("threads_max")),
        number("threads_running"),
        number("queued"),
        format!("{} of {}", number("pool_taken"), number("pool_size")),
        process.stuck_seconds.map(|time| seconds(std::time::Duration::from_secs_f64(time))).unwrap_or_default(),
    ];
    format!("<tr><td>{}</td></tr>\n", cells.join("</td><td>"))
}
