//! The numbers of the service for Prometheus: `/metrics`.
//!
//! *Owns*: the names of the metrics, which docs/reference/metrics.md describes. *Runs on*: the connection's thread.
//! *Source*: the text format 0.0.4 and `OpenMetrics` 1.0; OpenTelemetry's semantic conventions for HTTP metrics.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::routes::Reply;
use super::{Shared, health};
use crate::metrics::{
    CLOSE_CODES, Class, Closer, Count, Departure, End, ErrorCode, Histogram, Method, Numbers, Phase, Reason, Sums,
};
use crate::scoreboard::State;
use crate::sys;

/// The types of the two formats.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The bounds of a histogram's buckets, as powers of two in units of 1.024 µs: 66 µs to 69 s.
const BOUNDS: std::ops::RangeInclusive<u32> = 6..=26;

/// Returns the metrics, in `OpenMetrics` if the client accepts that, else in Prometheus' text format.
pub(super) fn reply(shared: &Shared, accept: &[u8]) -> Reply {
    let is_open = accept.windows(28).any(|bytes| bytes == b"application/openmetrics-text");
    let (mut registry, mut body) = (Registry::default(), String::new());
    registry.register_collector(Box::new(Snapshot::take(shared)));
    let (kind, encoded) = if is_open {
        (OPENMETRICS, text::encode(&mut body, &registry))
    } else {
        (TEXT, prometheus_text::encode(&mut body, &registry))
    };
    match encoded {
        Ok(()) => Reply::new(kind, body),
        Err(error) => Reply::text(500, &format!("the metrics cannot be written: {error}\n")),
    }
}

/// Everything that is encoded, at one moment.
#[derive(Debug)]
struct Snapshot {
    sums: Sums,
    saturation: f64,
    started: f64,
    wanted: usize,
    /// The processes by their numbers. A worker and its replacement have the same number.
    workers: BTreeMap<usize, Worker>,
    /// The processes by their states.
    states: BTreeMap<&'static str, usize>,
}

/// The processes of one number.
#[derive(Debug, Default)]
struct Worker {
    numbers: Numbers,
    is_stuck: bool,
    memory: u64,
    descriptors: u64,
}

type Encoded = Result<(), fmt::Error>;

impl Snapshot {
    fn take(shared: &Shared) -> Self {
        shared.source.refresh();
        let mut workers = BTreeMap::<usize, Worker>::new();
        let mut states = BTreeMap::from([("starting", 0), ("serving", 0), ("draining", 0)]);
        for slot in shared.processes.slots() {
            let state = match slot.state() {
                State::Empty => continue,
                State::Starting => "starting",
                State::Serving => "serving",
                State::Draining => "draining",
            };
            *states.entry(state).or_default() += 1;
            let worker = workers.entry(slot.number()).or_default();
            worker.numbers.add(&slot.meters().numbers());
            worker.is_stuck |= health::stuck_for(&slot).is_some();
            worker.memory += sys::resident_memory(slot.pid()).unwrap_or_default();
            worker.descriptors += sys::open_descriptors(slot.pid()).unwrap_or_default();
        }
        let since = shared.service.started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let (saturation, wanted) = (shared.saturation(), shared.source.wanted());
        Self { sums: shared.processes.sums(), saturation, started: since.as_secs_f64(), wanted, workers, states }
    }

    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "Requests that have ended, by method and by the class of their status";
        let mut family = encoder.encode_descriptor("maypole_requests", help, None, MetricType::Counter)?;
        for method in Method::ALL {
            for class in Class::ALL {
                let requests = self.sums.requests(method, class);
                // Most methods are never used.
                if requests > 0 || (method == Method::Get && class == Class::Success) {
                    let labels = [("method", method.name()), ("status_class", class.name())];
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&requests, None)?;
                }
            }
        }
        Ok(())
    }

    fn refusals(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "Requests that the server refused, by the setting or the reason";
        let mut family = encoder.encode_descriptor("maypole_requests_refused", help, None, MetricType::Counter)?;
        for why in Reason::ALL {
            let labels = [("reason", why.name())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&self.sums.refusals(why), None)?;
        }
        Ok(())
    }

    fn websockets(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let counters = [
            ("maypole_websockets_opened", None, "WebSockets that were opened", Count::WebSocketsOpened),
            (
                "maypole_websockets_refused",
                None,
                "Valid handshakes of WebSockets to which the response was a redirection or an error",
                Count::WebSocketsRefused,
            ),
            (
                "maypole_websocket_messages_received",
                None,
                "Messages that the clients of WebSockets have sent",
                Count::MessagesReceived,
            ),
            (
                "maypole_websocket_messages_sent",
                None,
                "Messages that the application has sent through WebSockets",
                Count::MessagesSent,
            ),
            (
                "maypole_websocket_messages_unsent",
                None,
                "Messages that the application could not send, because the client was slow (max_waiting)",
                Count::MessagesUnsent,
            ),
            (
                "maypole_websocket_messages_slow",
                None,
                "Messages of clients that came too slowly, so that the WebSockets were closed (body_timeout, min_rate)",
                Count::MessagesSlow,
            ),
            (
                "maypole_websocket_received",
                Some(Unit::Bytes),
                "Bytes that the clients of WebSockets have sent",
                Count::WebSocketReceivedBytes,
            ),
            (
                "maypole_websocket_sent",
                Some(Unit::Bytes),
                "Bytes that were sent through WebSockets",
                Count::WebSocketSentBytes,
            ),
        ];
        for (name, unit, help, count) in counters {
            encoder
                .encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&self.sums.count(count), None)?;
        }
        let help = "WebSockets that have ended, by who closed them and by the code";
        let mut family = encoder.encode_descriptor("maypole_websockets_closed", help, None, MetricType::Counter)?;
        for closer in Closer::ALL {
            for (code, closes) in CLOSE_CODES.into_iter().zip(self.sums.closes(closer)) {
                // Most codes are never used.
                if *closes > 0 || code == "1000" {
                    let labels = [("closed_by", closer.name()), ("code", code)];
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(closes, None)?;
                }
            }
        }
        Ok(())
    }

    fn http2(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        encoder
            .encode_descriptor(
                "maypole_http2_requests",
                "Requests of HTTP/2 that have ended",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, u64>(&self.sums.count(Count::Http2Requests), None)?;
        let help = "Streams of HTTP/2 that the server has reset, by the error code";
        let mut family = encoder.encode_descriptor("maypole_http2_resets", help, None, MetricType::Counter)?;
        for code in ErrorCode::ALL {
            let labels = [("code", code.name())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&self.sums.resets(code), None)?;
        }
        let help = "Connections of HTTP/2 that the server has told to leave, by the error code";
        let mut family = encoder.encode_descriptor("maypole_http2_goaways", help, None, MetricType::Counter)?;
        for code in ErrorCode::ALL {
            let labels = [("code", code.name())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&self.sums.goaways(code), None)?;
        }
        Ok(())
    }

    fn times(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "Time of whole requests, from their first byte to the last byte of their response";
        let name = "http_server_request_duration";
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for class in Class::ALL {
            let times = self.sums.duration(class);
            if times.count() > 0 || class == Class::Success {
                histogram(family.encode_family(&[("status_class", class.name())])?, times)?;
            }
        }
        let help = "Parts of the requests' time; gil is a thread's wait for the GIL before it runs calls";
        let name = "maypole_request_phase_duration";
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for phase in Phase::ALL {
            histogram(family.encode_family(&[("phase", phase.name())])?, self.sums.phase(phase))?;
        }
        let help = "Time of requests in the queue of their proxy, by its X-Request-Start";
        let name = "maypole_proxy_queue_duration";
        let family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        histogram(family, self.sums.proxy_queue())?;
        let help = "Time for which responses were suspended, in all; the other times leave it out";
        let name = "maypole_response_suspended_duration";
        let family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        histogram(family, self.sums.suspended())
    }

    /// Encodes one gauge with a value for each worker.
    fn of_workers(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        value: impl Fn(&Worker) -> u64,
    ) -> Encoded {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (number, worker) in &self.workers {
            family.encode_family(&[("worker", number.to_string())])?.encode_gauge(&value(worker))?;
        }
        Ok(())
    }

    fn gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        type Value = fn(&Numbers) -> u64;
        let gauges: [(&str, &str, Value); 22] = [
            ("maypole_connections", "Open connections", |numbers| numbers.connections as u64),
            ("maypole_connections_idle", "Open connections that have nothing to do", |numbers| numbers.idle as u64),
            ("maypole_connections_hijacked", "Connections that calls have taken over", |numbers| {
                numbers.hijacked as u64
            }),
            ("maypole_http2_connections", "Open connections that speak HTTP/2", |numbers| {
                numbers.http2_connections as u64
            }),
            ("maypole_http2_streams", "Open streams of HTTP/2", |numbers| numbers.http2_streams as u64),
            ("http_server_active_requests", "Requests being served", |numbers| numbers.requests as u64),
            ("maypole_responses_suspended", "Suspended responses that are set aside", |numbers| {
                numbers.suspended as u64
            }),
            ("maypole_websockets", "Open WebSockets that rest", |numbers| numbers.websockets as u64),
            ("maypole_websockets_slow", "Open WebSockets whose last message found no room (max_waiting)", |numbers| {
                numbers.websockets_slow as u64
            }),
            ("maypole_websocket_waiting_bytes", "Bytes that wait for the clients of WebSockets", |numbers| {
                numbers.websocket_waiting_bytes as u64
            }),
            ("maypole_coroutines", "Running coroutines", |numbers| numbers.coroutines as u64),
            ("maypole_threads", "Threads for the application", |numbers| numbers.threads as u64),
            ("maypole_threads_running", "Threads that run calls", |numbers| numbers.threads_running as u64),
            ("maypole_threads_max", "The most threads that may exist", |numbers| numbers.threads_max as u64),
            (
                "maypole_threads_given_up",
                "Threads that run calls past --request-timeout, besides the others",
                |numbers| numbers.threads_given_up as u64,
            ),
            (
                "maypole_threads_overdue",
                "Threads whose calls are past --request-timeout and cannot be given up",
                |numbers| numbers.threads_overdue as u64,
            ),
            ("maypole_calls", "Calls that wait or run", |numbers| numbers.calls as u64),
            ("maypole_calls_queued", "Calls that no thread has taken yet", |numbers| numbers.queued as u64),
            ("maypole_pool_size", "Places in the pool", |numbers| numbers.permits.unwrap_or_default().size as u64),
            ("maypole_pool_taken", "Places that are taken", |numbers| numbers.permits.unwrap_or_default().taken as u64),
            ("maypole_pool_waiting", "Requests that wait for a place", |numbers| {
                numbers.permits.unwrap_or_default().waiting as u64
            }),
            ("maypole_spooled_bytes", "Bytes of bodies and responses in temporary files", |numbers| numbers.spooled),
        ];
        for (name, help, value) in gauges {
            self.of_workers(encoder, (name, help), |worker| value(&worker.numbers))?;
        }
        let (name, help) = ("process_resident_memory_bytes", "Resident memory of the process, in bytes");
        self.of_workers(encoder, (name, help), |worker| worker.memory)?;
        self.of_workers(encoder, ("process_open_fds", "Open descriptors of the process"), |worker| worker.descriptors)?;
        self.of_workers(encoder, ("maypole_stuck", "1 while no request can move"), |worker| worker.is_stuck.into())
    }

    fn service(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        encoder.encode_descriptor("maypole", "The server", None, MetricType::Info)?.encode_info(&version)?;
        let help = "When the service started, in seconds since 1970";
        encoder
            .encode_descriptor("process_start_time", help, Some(&Unit::Seconds), MetricType::Gauge)?
            .encode_gauge(&self.started)?;
        let help = "Share of the last seconds in which calls waited although no more could be started";
        encoder
            .encode_descriptor("maypole_saturation_ratio", help, None, MetricType::Gauge)?
            .encode_gauge(&self.saturation)?;
        let help = "Processes that are to serve";
        encoder
            .encode_descriptor("maypole_workers_wanted", help, None, MetricType::Gauge)?
            .encode_gauge(&(self.wanted as u64))?;
        let mut family = encoder.encode_descriptor("maypole_workers", "Processes by state", None, MetricType::Gauge)?;
        for (state, number) in &self.states {
            family.encode_family(&[("state", *state)])?.encode_gauge(&(*number as u64))?;
        }
        Ok(())
    }

    fn counters(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let counters = [
            ("maypole_connections_accepted", None, "Connections that were accepted", Count::Accepted),
            (
                "maypole_connections_received",
                None,
                "Connections that have come from another process of the service",
                Count::MovedHere,
            ),
            ("maypole_received", Some(Unit::Bytes), "Bytes that clients have sent", Count::ReceivedBytes),
            ("maypole_sent", Some(Unit::Bytes), "Bytes that were sent to clients", Count::SentBytes),
            ("maypole_requests_begun", None, "Requests handed over to the application's threads", Count::Begun),
            (
                "maypole_requests_abandoned",
                None,
                "Requests whose client left after they were handed over, and before a thread was free",
                Count::Abandoned,
            ),
            (
                "maypole_requests_late",
                None,
                "Requests handed over that no thread began within --queue-timeout",
                Count::Late,
            ),
        ];
        for (name, unit, help, count) in counters {
            encoder
                .encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&self.sums.count(count), None)?;
        }
        let help = "Connections that have ended, or that have left their process, by the cause";
        let mut family = encoder.encode_descriptor("maypole_connections_ended", help, None, MetricType::Counter)?;
        for end in End::ALL {
            let labels = [("end", end.name())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&self.sums.ends(end), None)?;
        }
        let help = "Lines of the error log, by level";
        let mut family = encoder.encode_descriptor("maypole_log_lines", help, None, MetricType::Counter)?;
        let errors = self.sums.count(Count::LoggedErrors) + self.sums.count(Count::LoggedExceptions);
        for (level, lines) in [("error", errors), ("warning", self.sums.count(Count::LoggedWarnings))] {
            family.encode_family(&[("level", level)])?.encode_counter::<NoLabelSet, _, u64>(&lines, None)?;
        }
        let help = "Workers that have ended, by the cause";
        let mut family = encoder.encode_descriptor("maypole_workers_ended", help, None, MetricType::Counter)?;
        for why in Departure::ALL {
            let labels = [("cause", why.name())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&self.sums.departures(why), None)?;
        }
        Ok(())
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Encoded {
        self.service(&mut encoder)?;
        self.counters(&mut encoder)?;
        self.requests(&mut encoder)?;
        self.refusals(&mut encoder)?;
        self.websockets(&mut encoder)?;
        self.http2(&mut encoder)?;
        self.times(&mut encoder)?;
        self.gauges(&mut encoder)
    }
}

/// Encodes a histogram with a bucket for each doubling.
fn histogram(mut encoder: MetricEncoder<'_>, times: &Histogram) -> Encoded {
    let mut before = 0;
    let mut buckets = Vec::new();
    for doubling in BOUNDS {
        let below = times.below(doubling);
        buckets.push((Histogram::bound(doubling), below - before));
        before = below;
    }
    buckets.push((f64::INFINITY, times.count().saturating_sub(before)));
    encoder.encode_histogram::<NoLabelSet>(times.sum(), times.count(), &buckets, None)
}
