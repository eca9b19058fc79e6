//! An open-loop load generator: it sends requests at a constant rate, whatever the server does.
//!
//! A closed-loop generator, such as wrk, sends the next request when it has the last response. While the server stalls,
//! it sends nothing, so it measures least when it matters most. Here each latency counts from the time at which the
//! request was due. So it includes the wait for a free connection (no coordinated omission).
//!
//! ```text
//! cargo run --release --example open_loop -- --rate 20000 --duration 10 --connections 64 http://127.0.0.1:8000/hello
//! ```
//!
//! Exit code 0: every request got a 2xx or 3xx response. 1: at least one request failed, or the server cannot be
//! reached. 2: an argument is wrong.
//!
//! The generator is one thread, which spins for `--spin` before each request is due. At high rates it needs a whole
//! core: give it one that the server does not use. In the report, "pacing" is how late the generator itself sent
//! requests, and "busy" is the share of time in which it had work to do. If either is large, this machine cannot send
//! at this rate, and the latencies say nothing about the server. "backlog" is the number of requests without a response
//! at the time when the last one was due. It exceeds the number of connections if the server cannot serve the rate.

mod generator;
mod histogram;
mod response;
mod sys;
mod target;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::{CommandFactory, Parser};

use crate::generator::{Outcome, Plan};
use crate::histogram::Histogram;
use crate::target::Target;

/// Sends GET requests at a constant rate, and reports how long the responses took from when each request was due.
///
/// Exits with 0 if every request got a 2xx or 3xx response, with 1 if one failed, and with 2 if an argument is wrong.
#[derive(Parser)]
struct Options {
    /// The server: `http://host:port/path` or `host:port`.
    #[arg(value_name = "URL")]
    target: Target,
    /// Send this many requests per second.
    #[arg(long, default_value = "1000", value_parser = rate)]
    rate: f64,
    /// Send requests for this many seconds.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    duration: Duration,
    /// Use this many keep-alive connections; a request waits if none is free.
    #[arg(long, value_name = "N", default_value = "64", value_parser = connections)]
    connections: usize,
    /// Request this path and query; `/` by default. Not together with a URL that has a path.
    #[arg(long, value_parser = target::checked_path)]
    path: Option<String>,
    /// Send a further header field, such as `Accept: text/html`; repeatable.
    #[arg(long, value_name = "NAME: VALUE", value_parser = field)]
    header: Vec<String>,
    /// Wait at most this many seconds for the last responses.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    drain: Duration,
    /// Stop sleeping this many microseconds before a request is due.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 50)]
    spin: u64,
    /// Print the report as one line of JSON.
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| *rate > 0.0 && rate.is_finite());
    rate.ok_or_else(|| "expected requests per second, a number above 0".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "expected seconds, such as 10 or 0.5".to_owned())
}

fn connections(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&count| count > 0).ok_or_else(|| "expected a whole number of 1 or more".to_owned())
}

fn field(text: &str) -> Result<String, String> {
    let has_name = text.split_once(':').is_some_and(|(name, _)| !name.is_empty() && !name.contains(' '));
    if !has_name || text.contains(['\r', '\n']) {
        return Err("expected one header field, such as 'Accept: text/html'".to_owned());
    }
    Ok(text.to_owned())
}

const QUANTILES: [(&str, u64); 4] = [("p50", 500_000), ("p90", 900_000), ("p99", 990_000), ("p99.9", 999_000)];

/// The largest share of busy time. Above it, the generator itself is the limit.
const BUSY_MAX: f64 = 0.9;

fn main() -> ExitCode {
    let options = Options::parse();
    if options.path.is_some() && options.target.path.is_some() {
        let sentence = "the URL has a path already: give the path in the URL or by --path, not in both";
        Options::command().error(clap::error::ErrorKind::ArgumentConflict, sentence).exit();
    }
    match run(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the test and prints its report. Returns how many requests failed.
fn run(options: &Options) -> anyhow::Result<u64> {
    let path = options.path.as_ref().or(options.target.path.as_ref()).map_or("/", String::as_str);
    let plan = Plan {
        address: options.target.resolve()?,
        request: request(options, path),
        rate: options.rate,
        duration: options.duration,
        connections: options.connections,
        drain: options.drain,
        spin: Duration::from_micros(options.spin),
    };
    sys::raise_descriptor_limit();
    let outcome =
        generator::run(&plan).map_err(|error| anyhow!("cannot connect to {}: {}", plan.address, error.kind()))?;
    if options.json {
        println!("{}", json(&outcome));
    } else {
        print(options, path, &outcome);
    }
    Ok(errors(&outcome))
}

fn request(options: &Options, path: &str) -> Vec<u8> {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", options.target.authority);
    for field in &options.header {
        request.push_str(field);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request.into_bytes()
}

/// Returns the number of requests without a 2xx or 3xx response.
fn errors(outcome: &Outcome) -> u64 {
    outcome.refused + outcome.broken + outcome.unanswered
}

fn micros(nanos: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 ns")]
    let micros = nanos as f64 / 1000.0;
    micros
}

fn answer_rate(outcome: &Outcome) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 answers")]
    let answered = outcome.answered as f64;
    answered / outcome.elapsed.as_secs_f64()
}

fn busy(outcome: &Outcome) -> f64 {
    outcome.busy.as_secs_f64() / outcome.elapsed.as_secs_f64()
}

fn print(options: &Options, path: &str, outcome: &Outcome) {
    println!(
        "{} requests/s for {} s over {} connections to http://{}{path}",
        options.rate,
        options.duration.as_secs_f64(),
        options.connections,
        options.target.authority
    );
    println!(
        "due {}  sent {}  answered {} ({:.0}/s)  errors {} (status {}, broken {}, unanswered {})  reconnects {}",
        outcome.due,
        outcome.sent,
        outcome.answered,
        answer_rate(outcome),
        errors(outcome),
        outcome.refused,
        outcome.broken,
        outcome.unanswered,
        outcome.reconnects
    );
    println!("backlog {}  generator busy {:.0} %", outcome.backlog, busy(outcome) * 100.0);
    for (name, histogram) in [("latency", &outcome.latency), ("pacing", &outcome.pacing)] {
        print!("{name:7} µs");
        for (quantile, rank) in QUANTILES {
            print!("  {quantile} {:.1}", micros(histogram.quantile(rank)));
        }
        println!("  max {:.1}", micros(histogram.max()));
    }
    if busy(outcome) > BUSY_MAX {
        println!(
            "the generator was busy more than {:.0} % of the time: the latencies include its own delays",
            BUSY_MAX * 100.0
        );
    }
    if let Some(complaint) = &outcome.complaint {
        println!("first error: {complaint}");
    }
}

fn json(outcome: &Outcome) -> String {
    let histogram = |histogram: &Histogram| {
        let quantiles = QUANTILES.map(|(name, rank)| format!("\"{name}\":{:.1}", micros(histogram.quantile(rank))));
        format!("{{{},\"max\":{:.1}}}", quantiles.join(","), micros(histogram.max()))
    };
    format!(
        "{{\"due\":{},\"sent\":{},\"answered\":{},\"refused\":{},\"broken\":{},\"unanswered\":{},\"reconnects\":{},\
         \"answered_per_second\":{:.1},\"backlog\":{},\"busy\":{:.2},\"latency_us\":{},\"pacing_us\":{}}}",
        outcome.due,
        outcome.sent,
        outcome.answered,
        outcome.refused,
        outcome.broken,
        outcome.unanswered,
        outcome.reconnects,
        answer_rate(outcome),
        outcome.backlog,
        busy(outcome),
        histogram(&outcome.latency),
        histogram(&outcome.pacing)
    )
}
