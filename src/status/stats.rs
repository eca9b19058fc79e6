//! The numbers of the service as JSON: `/stats.json`.
//!
//! *Owns*: the shape of the document, which docs/howto/status.md describes. *Runs on*: the connection's thread.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde::Serialize;

use super::{Shared, Stage, health};
use crate::metrics::{Class, Histogram, Phase, Sums};
use crate::scoreboard::{Slot, State};

/// The time of rates and quantiles.
const RECENT: Duration = Duration::from_secs(10);

/// The document.
#[derive(Debug, Serialize)]
pub(super) struct Stats {
    pub(super) name: String,
    pub(super) version: &'static str,
    pub(super) pid: u32,
    /// In seconds since 1970.
    started: f64,
    uptime_seconds: f64,
    pub(super) stage: &'static str,
    has_workers: bool,
    /// How many processes are to serve.
    pub(super) wanted: usize,
    saturation: f64,
    /// Since the start.
    pub(super) total: Total,
    /// In about the last ten seconds.
    pub(super) recent: Recently,
    pub(super) processes: Vec<Process>,
}

#[derive(Debug, Serialize)]
pub(super) struct Total {
    requests: u64,
    /// By the class of their status.
    pub(super) classes: BTreeMap<&'static str, u64>,
    phases: BTreeMap<&'static str, Sum>,
}

/// How often something happened, and how long all of it took.
#[derive(Debug, Serialize)]
struct Sum {
    count: u64,
    seconds: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Recently {
    seconds: f64,
    pub(super) requests_per_second: f64,
    /// `None` without requests.
    duration: Option<Times>,
    phases: BTreeMap<&'static str, Option<Times>>,
}

/// In seconds. The quantiles are up to a quarter too long.
#[derive(Debug, Serialize)]
struct Times {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Process {
    pub(super) number: usize,
    pub(super) pid: u32,
    generation: u64,
    pub(super) state: &'static str,
    served_seconds: Option<f64>,
    /// For how long no request could move.
    pub(super) stuck_seconds: Option<f64>,
    /// Those of Python's `stats()`, and further ones.
    #[serde(flatten)]
    pub(super) numbers: BTreeMap<&'static str, u64>,
}

/// Returns the document.
pub(super) fn of(shared: &Shared) -> Stats {
    shared.source.refresh();
    let (service, sums) = (&shared.service, shared.processes.sums());
    let recent = shared.history.lock().recent(RECENT, &sums, Instant::now());
    let since = service.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    Stats {
        name: service.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        pid: service.pid,
        started: since.as_secs_f64(),
        uptime_seconds: service.started.elapsed().unwrap_or_default().as_secs_f64(),
        stage: match shared.source.stage() {
            Stage::Starting => "starting",
            Stage::Serving => "serving",
            Stage::Draining => "draining",
            Stage::Stopping => "stopping",
        },
        has_workers: service.has_workers,
        wanted: shared.source.wanted(),
        saturation: shared.saturation(),
        total: total(&sums),
        recent: Recently {
            seconds: recent.time.as_secs_f64(),
            requests_per_second: recent.per_second(all(&recent.sums)),
            duration: times(&recent.sums.durations()),
            phases: Phase::ALL.map(|phase| (phase.name(), times(recent.sums.phase(phase)))).into(),
        },
        processes: shared
            .processes
            .slots()
            .filter(|slot| slot.state() != State::Empty)
            .map(|slot| process(&slot))
            .collect(),
    }
}

fn total(sums: &Sums) -> Total {
    let of_phase = |phase: Phase| {
        let times = sums.phase(phase);
        (phase.name(), Sum { count: times.count(), seconds: times.sum() })
    };
    Total {
        requests: all(sums),
        classes: Class::ALL.map(|class| (class.name(), sums.of_class(class))).into(),
        phases: Phase::ALL.map(of_phase).into(),
    }
}

/// Returns how many requests have ended.
fn all(sums: &Sums) -> u64 {
    Class::ALL.iter().map(|class| sums.of_class(*class)).sum()
}

#[allow(clippy::cast_precision_loss, reason = "the numbers are far below 2^52")]
fn times(histogram: &Histogram) -> Option<Times> {
    let quantile = |share| histogram.quantile(share).map(|time| time.as_secs_f64());
    let mean = histogram.sum() / histogram.count() as f64;
    Some(Times { mean, p50: quantile(0.5)?, p90: quantile(0.9)?, p99: quantile(0.99)? })
}

fn process(slot: &Slot) -> Process {
    let state = match slot.state() {
        State::Empty => "ended",
        State::Starting => "starting",
        State::Serving => "serving",
        State::Draining => "draining",
    };
    let seconds = |time: Duration| time.as_secs_f64();
    let shown = slot.meters().numbers();
    let mut numbers = BTreeMap::from_iter(shown.published());
    numbers.insert("threads_max", shown.threads_max as u64);
    numbers.insert("threads_given_up", shown.threads_given_up as u64);
    numbers.insert("threads_overdue", shown.threads_overdue as u64);
    numbers.insert("pool_waiting", shown.permits.unwrap_or_default().waiting as u64);
    Process {
        number: slot.number(),
        pid: slot.pid(),
        generation: slot.generation(),
        state,
        served_seconds: slot.served_for().map(seconds),
        stuck_seconds: health::stuck_for(slot).map(seconds),
        numbers,
    }
}
