//! An open-loop load generator: requests come at a constant rate, whatever the server does.
//!
//! A closed loop, such as wrk, sends the next request when the last one is answered: while the server stalls it sends
//! none, and so measures least where it matters most. Here every latency counts from when the request was due, so one
//! that had to wait for a free connection has waited too (no coordinated omission).
//!
//! ```text
//! cargo run --release --example open_loop -- --rate 20000 --duration 10 --connections 64 --path /hello 127.0.0.1:8000
//! ```
//!
//! One thread, which spins for `--spin` before each request is due: at high rates it takes a whole core, so give it
//! one that the server does not use. "pacing" in its report is its own error, and "busy" how much of the time it had
//! something to do: where either is large, the rate is more than this machine can send, and the latencies say nothing.
//! "backlog" is what was due and not answered when the last request was due: more than the connections hold when the
//! rate is more than the server can serve.

mod generator;
mod histogram;
mod response;
mod sys;

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;

use crate::generator::{Outcome, Plan};
use crate::histogram::Histogram;

/// Sends requests at a constant rate and says how long the answers took, counted from when each request was due.
#[derive(Parser)]
struct Options {
    /// Where the server listens: `host:port`.
    address: String,
    /// Requests per second.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// How long requests are sent, in seconds.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Keep-alive connections; a request for which none is free waits.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// The request's path and query.
    #[arg(long, default_value = "/")]
    path: String,
    /// A further header field, repeatable: `Name: value`.
    #[arg(long)]
    header: Vec<String>,
    /// How long to wait for the last answers, in seconds.
    #[arg(long, default_value_t = 2.0)]
    drain: f64,
    /// How long before a request is due to stop sleeping, in microseconds.
    #[arg(long, default_value_t = 50)]
    spin: u64,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

const QUANTILES: [(&str, u64); 4] = [("p50", 500_000), ("p90", 900_000), ("p99", 990_000), ("p99.9", 999_000)];

/// A generator that is busier is itself the limit.
const BUSY_MAX: f64 = 0.9;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    anyhow::ensure!(options.rate > 0.0 && options.rate.is_finite(), "--rate must be more than 0");
    anyhow::ensure!(options.connections > 0, "--connections must be more than 0");
    let seconds = |value: f64| Duration::try_from_secs_f64(value).with_context(|| format!("{value} seconds"));
    let plan = Plan {
        address: resolve(&options.address)?,
        request: request(&options),
        rate: options.rate,
        duration: seconds(options.duration)?,
        connections: options.connections,
        drain: seconds(options.drain)?,
        spin: Duration::from_micros(options.spin),
    };
    sys::raise_descriptor_limit();
    let outcome = generator::run(&plan).with_context(|| format!("connect to {}", plan.address))?;
    if options.json {
        println!("{}", json(&outcome));
    } else {
        print(&options, &outcome);
    }
    Ok(())
}

fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let plain = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    plain
        .to_socket_addrs()
        .with_context(|| format!("{address} is not host:port"))?
        .next()
        .with_context(|| format!("{address} has no address"))
}

fn request(options: &Options) -> Vec<u8> {
    let host = options.address.strip_prefix("http://").unwrap_or(&options.address).trim_end_matches('/');
    let mut request = format!("GET {} HTTP/1.1\r\nHost: {host}\r\n", options.path);
    for field in &options.header {
        request.push_str(field);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request.into_bytes()
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

fn print(options: &Options, outcome: &Outcome) {
    println!(
        "{} requests/s for {} s over {} connections to {}{}",
        options.rate, options.duration, options.connections, options.address, options.path
    );
    println!(
        "due {}  sent {}  answered {} ({:.0}/s)  errors {} (status {}, broken {}, unanswered {})  reconnects {}",
        outcome.due,
        outcome.sent,
        outcome.answered,
        answer_rate(outcome),
        outcome.refused + outcome.broken + outcome.unanswered,
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
        println!("the generator had no time to spare: the latencies are its own too");
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
