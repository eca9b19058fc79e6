//! The numbers as lines of StatsD, and the lines as datagrams.
//!
//! *Owns*: the names, which docs/howto/status.md describes, and what has been sent of each count. *Runs on*: the thread
//! `maypole-statsd`. *Invariants*: a count is sent as what has been added to it since the last time, so all of it is sent
//! once.

use std::collections::BTreeMap;

use super::super::Shared;
use crate::config::StatsdSettings;
use crate::metrics::{Count, Histogram, Numbers, Sums};
use crate::scoreboard::State;

/// The most bytes of a datagram with several lines: those that fit into one frame of Ethernet, also through a tunnel.
const DATAGRAM_BYTES_MAX: usize = 1432;
/// The most times of requests that are sent at once. Further requests are in the sample rate.
const TIMES_MAX: u64 = 50;

/// The lines of the log, by gunicorn's names.
const LOGGED: [(&str, Count); 3] = [
    ("gunicorn.log.error", Count::LoggedErrors),
    ("gunicorn.log.exception", Count::LoggedExceptions),
    ("gunicorn.log.warning", Count::LoggedWarnings),
];

/// What has been sent of each count.
#[derive(Debug, Default)]
pub(super) struct Reported {
    statuses: BTreeMap<u16, u64>,
    logged: [u64; LOGGED.len()],
    durations: Histogram,
}

impl Reported {
    /// Takes everything that has been counted for sent.
    pub(super) fn all_of(sums: &Sums) -> Self {
        let logged = LOGGED.map(|(_, count)| sums.count(count));
        Self { statuses: sums.statuses(), logged, durations: sums.durations() }
    }

    /// Returns the lines of what has been counted since the last time, and takes it for sent.
    pub(super) fn advance(&mut self, sums: &Sums) -> Vec<String> {
        let (mut lines, mut requests) = (Vec::new(), 0);
        for (status, now) in sums.statuses() {
            let more = added(self.statuses.entry(status).or_default(), now);
            requests += more;
            lines.extend(counter(&format!("gunicorn.request.status.{status}"), more));
        }
        lines.extend(counter("gunicorn.requests", requests));
        for (reported, (name, count)) in self.logged.iter_mut().zip(LOGGED) {
            lines.extend(counter(name, added(reported, sums.count(count))));
        }
        let durations = sums.durations();
        lines.extend(times(&durations.since(&self.durations)));
        self.durations = durations;
        lines
    }
}

/// Returns what has been added to a count since the last time. A count of one moment may be one too many: what is sent
/// never falls.
fn added(reported: &mut u64, now: u64) -> u64 {
    let more = now.saturating_sub(*reported);
    *reported += more;
    more
}

/// Returns a count as a line, unless it is 0.
fn counter(name: &str, more: u64) -> Option<String> {
    (more > 0).then(|| format!("{name}:{more}|c|@1.0"))
}

/// Returns the times of requests, in milliseconds. If there are many, each line stands for several of them.
#[allow(clippy::cast_precision_loss, reason = "the numbers are far below 2^52")]
fn times(durations: &Histogram) -> Vec<String> {
    let spread = durations.spread(TIMES_MAX);
    let rate = spread.len() as f64 / durations.count().max(1) as f64;
    let rate = if rate < 1.0 { format!("|@{rate:.9}") } else { String::new() };
    let line =
        |time: std::time::Duration| format!("gunicorn.request.duration:{:.3}|ms{rate}", time.as_secs_f64() * 1e3);
    spread.into_iter().map(line).collect()
}

/// Returns the gauges of the service.
pub(super) fn gauges(shared: &Shared) -> Vec<String> {
    let (mut workers, mut sum) = (0, Numbers::default());
    for slot in shared.processes.slots() {
        workers += u64::from(slot.state() == State::Serving);
        sum.add(&slot.meters().numbers());
    }
    let permits = sum.permits.unwrap_or_default();
    let gauges = [
        ("gunicorn.workers", workers),
        ("maypole.connections", sum.connections as u64),
        ("maypole.connections_idle", sum.idle as u64),
        ("maypole.active_requests", sum.requests as u64),
        ("maypole.threads", sum.threads as u64),
        ("maypole.threads_running", sum.threads_running as u64),
        ("maypole.calls_queued", sum.queued as u64),
        ("maypole.pool_taken", permits.taken as u64),
        ("maypole.pool_waiting", permits.waiting as u64),
    ];
    let saturation = format!("maypole.saturation_ratio:{:.3}|g", shared.saturation());
    let line = |(name, value): (&str, u64)| format!("{name}:{value}|g");
    gauges.into_iter().map(line).chain([saturation]).collect()
}

/// Returns lines as datagrams, with the prefix and the tags of the settings.
pub(super) fn datagrams(lines: &[String], settings: &StatsdSettings) -> Vec<Vec<u8>> {
    let text = |setting: &Option<String>| setting.clone().filter(|text| !text.is_empty());
    let prefix = text(&settings.statsd_prefix).map(|prefix| prefix + ".").unwrap_or_default();
    let tags = text(&settings.dogstatsd_tags).map(|tags| format!("|#{tags}")).unwrap_or_default();
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        let line = format!("{prefix}{line}{tags}");
        match datagrams.last_mut() {
            Some(last) if last.len() + 1 + line.len() <= DATAGRAM_BYTES_MAX => {
                last.push(b'\n');
                last.extend_from_slice(line.as_bytes());
            }
            _ => datagrams.push(line.into_bytes()),
        }
    }
    datagrams
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::metrics::{Meters, Method, Served};

    fn serve(meters: &Meters, status: u16, millis: u64) {
        let now = Instant::now();
        let sent = now + Duration::from_millis(millis);
        let (began, received, started) = (Some(now), Some(now), Some(now));
        meters.served(&Served { method: Method::Get, status, began, received, started, ended: Some(sent), sent });
    }

    fn sums(meters: &Meters) -> Sums {
        let mut sums = Sums::default();
        meters.add_to(&mut sums);
        sums
    }

    #[test]
    fn each_count_is_sent_once() {
        let (meters, mut reported) = (Meters::create().unwrap(), Reported::default());
        serve(&meters, 200, 1);
        serve(&meters, 204, 1);
        serve(&meters, 503, 1);
        serve(&meters, 0, 1);
        meters.count(Count::LoggedWarnings, 2);
        let (times, counts): (Vec<_>, Vec<_>) =
            reported.advance(&sums(&meters)).into_iter().partition(|line| line.contains("|ms"));
        let expected = [
            "gunicorn.request.status.200:1|c|@1.0",
            "gunicorn.request.status.204:1|c|@1.0",
            "gunicorn.request.status.499:1|c|@1.0",
            "gunicorn.request.status.503:1|c|@1.0",
            "gunicorn.requests:4|c|@1.0",
            "gunicorn.log.warning:2|c|@1.0",
        ];
        assert_eq!((counts, times.len()), (expected.map(str::to_owned).to_vec(), 4));
        assert!(reported.advance(&sums(&meters)).is_empty());
        serve(&meters, 200, 1);
        assert_eq!(
            reported.advance(&sums(&meters))[..2],
            ["gunicorn.request.status.200:1|c|@1.0", "gunicorn.requests:1|c|@1.0"]
        );
        assert!(Reported::all_of(&sums(&meters)).advance(&sums(&meters)).is_empty());
    }

    #[test]
    fn many_times_are_a_few_lines_with_a_sample_rate() {
        let meters = Meters::create().unwrap();
        (0..200).for_each(|_| serve(&meters, 200, 100));
        let lines = times(&sums(&meters).durations());
        assert_eq!(lines.len(), 50);
        for line in lines {
            let (name, rest) = line.split_once(':').unwrap();
            let (millis, rest) = rest.split_once('|').unwrap();
            assert_eq!((name, rest), ("gunicorn.request.duration", "ms|@0.250000000"));
            assert!((80.0..125.0).contains(&millis.parse::<f64>().unwrap()), "{millis}");
        }
    }

    #[test]
    fn lines_have_prefix_and_tags_and_fill_datagrams() {
        let lines: Vec<_> = (0..100).map(|number| format!("maypole.number:{number}|g")).collect();
        let named = |text: &str| Some(text.to_owned());
        let settings = StatsdSettings {
            statsd_prefix: named("shop"),
            dogstatsd_tags: named("a:b,c"),
            ..StatsdSettings::default()
        };
        let sent = datagrams(&lines, &settings);
        assert!(sent.len() > 1 && sent.iter().all(|datagram| datagram.len() <= DATAGRAM_BYTES_MAX));
        let received = sent.iter().map(|datagram| String::from_utf8_lossy(datagram).into_owned()).collect::<Vec<_>>();
        assert_eq!(received.join("\n").lines().count(), 100);
        assert!(received[0].starts_with("shop.maypole.number:0|g|#a:b,c\nshop."), "{}", received[0]);
        let empty = StatsdSettings { statsd_prefix: named(""), dogstatsd_tags: named(""), ..StatsdSettings::default() };
        assert_eq!(datagrams(&lines[..1], &empty), [b"maypole.number:0|g"]);
        assert!(datagrams(&[], &empty).is_empty());
    }
}
