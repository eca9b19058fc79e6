//! What all connections of a server share: the settings, and the state that does not belong to one of them.
//!
//! *Runs on*: the connections' coroutines; `new`, `drain` and the reports on any thread.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::opening::{Opening, Proxies};
use super::overload::Overload;
use super::serving::Serving;
use crate::config::{ByteSize, Config, HttpVersion, StreamRequests};
use crate::handler::Bounds;
use crate::http::request::HeadMemory;
use crate::http::{self, Limits, ParseError, RequestHead};
use crate::logs::AccessLog;
use crate::pool::Pool;
use crate::spool::{Storage, Store};

/// The most bytes of a streamed body that wait for the application.
const STREAM_WINDOW_BYTES: usize = 64 * 1024;
/// The lower bound of that window, whatever the settings say: with a window of 0 bytes nothing would be read.
const STREAM_WINDOW_BYTES_MIN: usize = 8 * 1024;

/// State that all connections of a server share.
#[derive(Debug)]
pub struct Shared {
    pub(super) limits: Limits,
    pub(super) bounds: Arc<Bounds>,
    pub(super) bodies: Arc<Store>,
    pub(super) pool: Arc<Pool>,
    pub(super) access_log: Option<AccessLog>,
    pub(super) server_field: Option<Vec<u8>>,
    /// Whether responses are HTTP/1.0.
    pub(super) speaks_http10: bool,
    pub(super) keep_alive: Duration,
    pub(super) header_timeout: Duration,
    pub(super) body_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) queue_timeout: Duration,
    pub(super) min_rate: u64,
    pub(super) max_body_bytes: u64,
    /// How many bytes of a body wait in memory.
    pub(super) request_buffer: ByteSize,
    pub(super) stream_requests: StreamRequests,
    pub(super) proxies: Option<Proxies>,
    draining: AtomicBool,
    /// The time until which the `Date` field's value is valid, and the value.
    date: Mutex<(Instant, [u8; 29])>,
    pub(super) serving: Serving,
    pub(super) overload: Overload,
}

impl Shared {
    /// Takes the limits and times from the settings.
    pub fn new(config: &Config, storage: &Arc<Storage>, pool: Arc<Pool>, access_log: Option<AccessLog>) -> Self {
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
            pool,
            access_log,
            server_field: (!config.server_header.is_empty()).then(|| config.server_header.clone().into_bytes()),
            speaks_http10: config.max_http_version == HttpVersion::Http10,
            keep_alive: config.keep_alive,
            header_timeout: config.header_timeout,
            body_timeout: config.body_timeout,
            write_timeout: config.write_timeout,
            queue_timeout: config.queue_timeout,
            min_rate: config.min_rate,
            max_body_bytes: config.max_body_size.0,
            request_buffer: config.request_buffer,
            stream_requests: config.stream_requests,
            proxies: Proxies::new(config),
            draining: AtomicBool::new(false),
            date: Mutex::new((Instant::now(), http::date::imf_fixdate(UNIX_EPOCH))),
            serving: Serving::default(),
            overload: Overload::default(),
        }
    }

    /// Makes responses say `Connection: close` from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Returns how long a request waits for its place in the pool, and before that for a coroutine.
    pub fn queue_timeout(&self) -> Duration {
        self.queue_timeout
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Returns what a connection from this address must begin with. `None` means a client on a unix socket.
    pub fn opening(&self, remote: Option<SocketAddr>) -> Opening {
        self.proxies.as_ref().map_or(Opening::Request, |proxies| proxies.opening(remote))
    }

    /// Returns until when a connection may rest. `began` is when its head began to arrive, if one did.
    pub(super) fn rest_deadline(&self, began: Option<Instant>, rested: Instant, has_served: bool) -> Instant {
        match began {
            Some(began) => began + self.header_timeout,
            None if has_served => rested + self.keep_alive,
            None => rested + self.keep_alive.max(self.header_timeout),
        }
    }

    /// Parses a head and settles which version its response has.
    pub(super) fn parse_head(&self, memory: HeadMemory, bytes: &[u8]) -> Result<RequestHead, ParseError> {
        let mut head = RequestHead::parse_with(memory, bytes, &self.limits)?;
        if self.speaks_http10 {
            head.answer_as_http10();
        }
        Ok(head)
    }

    /// Returns the requests that are being served.
    pub fn serving(&self) -> &Serving {
        &self.serving
    }

    /// Returns the current value of the `Date` field, which is computed once a second (RFC 9110 §6.6.1).
    pub(super) fn date(&self, now: Instant) -> [u8; 29] {
        let mut cached = self.date.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= cached.0 {
            let time = SystemTime::now();
            let over = Duration::from_nanos(time.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos().into());
            let left = Duration::from_secs(1).saturating_sub(over);
            *cached = (now + left, http::date::imf_fixdate(time));
        }
        cached.1
    }
}
