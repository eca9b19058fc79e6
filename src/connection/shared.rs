//! State that all connections of a server share: the settings, and everything that does not belong to one connection.
//!
//! *Runs on*: the connections' coroutines; `new` and the reports on any thread. *Invariants*: a setting is read from
//! `config`. `derived` holds only values that are computed from settings.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::date::DateCache;
use super::opening::{Opening, Proxies};
use super::overload::Overload;
use super::request_id::RequestIds;
use crate::config::{Config, HttpVersion, HttpVersions, UrlScheme, duration_text};
use crate::drain::Drain;
use crate::forwarded::Trust;
use crate::handler::{Bounds, Origin, Scheme};
use crate::http::{Limits, ParseError, RequestHead};
use crate::logs::AccessLog;
use crate::metrics::{Gauge, Meters, Permits};
use crate::pool::Pool;
use crate::requests::{Requests, SlowRequests};
use crate::spool::{Storage, Store};
use crate::tls::{Handshakes, Offered};

/// The most bytes of a streamed body that wait for the application.
const STREAM_WINDOW_BYTES: usize = 64 * 1024;
/// The lower bound of that window. With a smaller `--request-buffer`, such as 0, no byte would ever be read.
const STREAM_WINDOW_BYTES_MIN: usize = 8 * 1024;

/// A thread gets at least this long to begin a request that holds a permit, even with `--queue-timeout 0`. A busy
/// machine needs this long to start a thread.
const THREAD_WAIT_MIN: Duration = Duration::from_secs(1);

/// The lowest allowed rate of a slow sender or slow reader applies only after this time.
const RATE_GRACE: Duration = Duration::from_secs(5);
/// A deadline that is no deadline.
pub(super) const FAR: Duration = Duration::from_secs(365 * 86_400);

/// State that all connections of a server share.
#[derive(Debug)]
pub struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) derived: Derived,
    /// The pool that is shown in reports.
    pub(super) pool: Option<Arc<Pool>>,
    pub(super) access_log: Option<AccessLog>,
    pub(super) date: DateCache,
    pub(super) requests: Requests,
    pub(super) meters: Meters,
    pub(super) slow: SlowRequests,
    pub(super) overload: Overload,
    /// The handshakes of TLS. `None`: no listener speaks TLS.
    pub(super) handshakes: Option<Handshakes>,
    /// How many connections speak HTTP/2.
    pub(super) http2_connections: Gauge,
    /// How many streams they have.
    pub(super) http2_streams: Gauge,
    drain: Arc<Drain>,
}

/// Values that are computed from the settings when the server starts.
#[derive(Debug)]
pub(super) struct Derived {
    /// The limits of a head.
    pub(super) limits: Limits,
    /// The limits of an exchange.
    pub(super) bounds: Arc<Bounds>,
    /// Where bodies are stored.
    pub(super) bodies: Arc<Store>,
    /// The proxies that may connect. `None`: clients connect directly.
    pub(super) proxies: Option<Proxies>,
    /// Gives each request its id. `None`: requests have none.
    pub(super) request_ids: Option<RequestIds>,
    /// The proxies whose fields count.
    pub(super) trust: Trust,
    /// The scheme of requests whose proxies name none.
    scheme: Scheme,
    /// Whether each connection closes after its first response.
    pub(super) keeps_none_alive: bool,
    /// How long a request may take once it is complete. `None`: as long as it likes.
    pub(super) request_timeout: Option<Duration>,
    /// How long a request waits for a coroutine or a permit.
    pub(super) queue_timeout: Duration,
    /// How long a request waits for a thread.
    pub(super) thread_wait: Duration,
}

impl Derived {
    fn new(config: &Config, storage: &Arc<Storage>) -> Self {
        let request_timeout = Some(config.request_timeout).filter(|time| !time.is_zero());
        let at_most = request_timeout.unwrap_or(Duration::MAX);
        Self {
            limits: Limits {
                request_line_bytes_max: config.limit_request_line,
                fields_max: config.limit_request_fields,
                field_bytes_max: config.limit_request_field_size,
                head_bytes_max: config.limit_request_head.as_usize(),
            },
            bounds: Arc::new(Bounds {
                response_buffer: config.response_buffer.0,
                response_spool: config.response_spool.0,
                storage: Arc::clone(storage),
                request_buffer: config.request_buffer.as_usize().clamp(STREAM_WINDOW_BYTES_MIN, STREAM_WINDOW_BYTES),
            }),
            bodies: Store::new(config.request_buffer.as_usize(), storage),
            proxies: Proxies::new(config),
            request_ids: config.logs.request_id_header.as_deref().map(RequestIds::new),
            trust: Trust::new(config),
            scheme: match config.sites.scheme {
                UrlScheme::Http => Scheme::Http,
                UrlScheme::Https => Scheme::Https,
            },
            keeps_none_alive: config.keep_alive.is_zero(),
            request_timeout,
            queue_timeout: config.queue_timeout.min(at_most),
            thread_wait: config.queue_timeout.max(THREAD_WAIT_MIN).min(at_most),
        }
    }
}

impl Shared {
    /// Returns the state of a server with these settings.
    pub fn new(
        config: Arc<Config>,
        storage: &Arc<Storage>,
        pool: Option<Arc<Pool>>,
        access_log: Option<AccessLog>,
        meters: Meters,
        handshakes: Option<Handshakes>,
    ) -> Self {
        Self {
            derived: Derived::new(&config, storage),
            slow: SlowRequests::new(config.status.slow_request),
            config,
            pool,
            access_log,
            date: DateCache::default(),
            requests: Requests::default(),
            meters,
            overload: Overload::default(),
            handshakes,
            http2_connections: Gauge::default(),
            http2_streams: Gauge::default(),
            drain: Arc::default(),
        }
    }

    /// Returns the drain of the server. Once it closes idle connections, responses say `Connection: close`.
    pub fn drain(&self) -> &Arc<Drain> {
        &self.drain
    }

    /// Returns whether a connection closes when it becomes idle.
    pub(super) fn is_draining(&self) -> bool {
        self.drain.closes_idle()
    }

    /// Returns whether a connection that becomes idle moves to another process.
    pub(super) fn hands_over(&self) -> bool {
        self.drain.hands_over()
    }

    /// Returns how long a request waits for a coroutine, and how long it waits after that for its place in the pool.
    pub fn queue_timeout(&self) -> Duration {
        self.derived.queue_timeout
    }

    /// Returns that time as text, with the setting that it comes from.
    pub(super) fn queue_limit(&self) -> String {
        let (limit, config) = (self.derived.queue_timeout, &self.config);
        let setting = if limit < config.queue_timeout { "--request-timeout" } else { "--queue-timeout" };
        format!("{} ({setting})", duration_text(limit))
    }

    /// Returns the numbers of all permits. `None`: requests need no permit.
    pub fn permits(&self) -> Option<Permits> {
        self.pool.as_ref().map(|pool| pool.permits())
    }

    /// Returns how many connections speak HTTP/2.
    pub fn http2_connections(&self) -> usize {
        self.http2_connections.value()
    }

    /// Returns how many streams they have.
    pub fn http2_streams(&self) -> usize {
        self.http2_streams.value()
    }

    /// Returns how many bytes of bodies and responses are in temporary files.
    pub fn spooled(&self) -> u64 {
        self.derived.bounds.storage.used()
    }

    /// Returns the scheme of requests whose proxies name none, on a connection whose listener speaks this scheme.
    pub fn scheme(&self, spoken: Scheme) -> Scheme {
        if spoken == Scheme::Https { spoken } else { self.derived.scheme }
    }

    /// Returns what a connection with this scheme from this address must begin with. `None` means a client on a unix
    /// socket.
    pub fn opening(&self, remote: Option<SocketAddr>, scheme: Scheme) -> Opening {
        self.derived.proxies.as_ref().map_or(Opening::of(scheme), |proxies| proxies.opening(remote, scheme))
    }

    /// Returns the time until which a connection may rest. `began` is when its head began to arrive, if one did.
    pub(super) fn rest_deadline(&self, began: Option<Instant>, rested: Instant, has_served: bool) -> Instant {
        let (keep_alive, header_timeout) = (self.config.keep_alive, self.config.header_timeout);
        match began {
            Some(began) => began + header_timeout,
            None if has_served => rested + keep_alive,
            None => rested + keep_alive.max(header_timeout),
        }
    }

    /// Returns when a transfer that began at `began` and has moved `bytes` falls below the lowest rate allowed.
    pub(super) fn rate_deadline(&self, began: Instant, bytes: u64) -> Instant {
        let earned = match self.config.min_rate {
            0 => return began + FAR,
            rate => Duration::from_secs(bytes / rate),
        };
        began + RATE_GRACE + earned.min(FAR)
    }

    /// Parses a head in place of an earlier one, sets the version of its response, and gives the request its id.
    pub(super) fn parse_head(&self, head: &mut RequestHead, bytes: &[u8], origin: &Origin) -> Result<(), ParseError> {
        head.parse_again(bytes, &self.derived.limits)?;
        if let Some(ids) = &self.derived.request_ids {
            ids.identify(head, self.derived.trust.trusts(origin.client));
        }
        if self.speaks_http10() {
            head.respond_as_http10();
        }
        Ok(())
    }

    /// Parses the head of an HTTP/2 request in the form of HTTP/1 in place of an earlier one, and gives the request its
    /// id.
    pub(super) fn parse_http2(
        &self,
        head: &mut RequestHead,
        text: &[u8],
        has_body: bool,
        origin: &Origin,
    ) -> Result<(), ParseError> {
        head.parse_http2_again(text, &self.derived.limits, has_body)?;
        if let Some(ids) = &self.derived.request_ids {
            ids.identify(head, self.derived.trust.trusts(origin.client));
        }
        Ok(())
    }

    /// Returns the versions of HTTP from which a client with TLS chooses.
    pub(super) fn offered(&self) -> Offered {
        match self.config.http2.http {
            _ if !self.speaks_http2() => Offered::Http1,
            HttpVersions::Two => Offered::Http2,
            _ if self.http2_connections.value() >= self.config.http2.http2_max_connections => Offered::Http1,
            HttpVersions::One | HttpVersions::Auto => Offered::All,
        }
    }

    /// Returns whether clients may speak HTTP/2.
    pub(super) fn speaks_http2(&self) -> bool {
        self.config.http2.http != HttpVersions::One && !self.speaks_http10()
    }

    /// Returns whether responses are HTTP/1.0.
    pub(super) fn speaks_http10(&self) -> bool {
        self.config.max_http_version == HttpVersion::Http10
    }

    /// Returns the value of the `Server` field. `None`: responses have no such field.
    pub(super) fn server_field(&self) -> Option<&[u8]> {
        Some(self.config.server_header.as_bytes()).filter(|value| !value.is_empty())
    }

    /// Returns what has been counted.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Returns the requests that are being served.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Returns the slow requests.
    pub fn slow(&self) -> &SlowRequests {
        &self.slow
    }
}
