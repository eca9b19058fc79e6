//! Finished requests for the program: the access log's lines and the argument of `on_access`.
//!
//! *Runs on*: the thread that starts a server makes the access log. The coroutine that has sent a response makes its
//! `AccessEntry`, a plain Rust value. The entry becomes a Python object when it is delivered.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::logging;
use crate::config::{Config, LogTarget};
use crate::logs::{AccessLog, Entry};
use crate::phrase::characters;
use crate::sys;

/// One finished request, the argument of `on_access`.
#[pyclass(frozen, get_all, module = "maypole")]
pub(super) struct AccessEntry {
    /// The client's address; empty for a unix socket.
    client_ip: String,
    /// The client's port; 0 for a unix socket.
    client_port: u16,
    /// The request line as the client sent it: `GET /cart?page=2 HTTP/1.1`.
    request_line: String,
    /// The method: `GET`.
    method: String,
    /// The path as the client sent it: `/cart`.
    path: String,
    /// The query string without `?`: `page=2`.
    query: String,
    /// The client's version of HTTP: `HTTP/1.1`.
    protocol: &'static str,
    /// The request's id; None without the setting `request_id_header`.
    request_id: Option<String>,
    /// The status of the response.
    status: u16,
    /// Whether the whole response was sent.
    complete: bool,
    /// The number of sent bytes of the response's body, without framing.
    body_bytes: u64,
    /// The number of all sent bytes, head and framing included.
    wire_bytes: u64,
    /// Seconds from the request's first byte to the response's last.
    duration: f64,
    /// Seconds inside the application.
    application_seconds: f64,
    /// Seconds for which the response was suspended.
    suspended_seconds: f64,
    /// The time at which the request ended, in seconds since 1970.
    ended: f64,
    /// The value of X-Forwarded-For, or None. Characters that are not printable ASCII are escaped.
    forwarded_for: Option<String>,
}

impl AccessEntry {
    pub(super) fn new(entry: &Entry<'_>) -> Self {
        Self {
            client_ip: entry.remote.map(|remote| remote.ip().to_canonical().to_string()).unwrap_or_default(),
            client_port: entry.remote.map_or(0, |remote| remote.port()),
            request_line: characters(entry.request_line),
            method: characters(entry.method),
            path: characters(entry.path),
            query: characters(entry.query),
            protocol: entry.protocol,
            request_id: entry.request_id.map(characters),
            status: entry.status,
            complete: entry.complete,
            body_bytes: entry.body_bytes,
            wire_bytes: entry.wire_bytes,
            duration: entry.duration.as_secs_f64(),
            application_seconds: entry.application.as_secs_f64(),
            suspended_seconds: entry.suspended.as_secs_f64(),
            ended: entry.ended.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            // Only this value may have bytes beyond ASCII, so escape it for the log.
            forwarded_for: (entry.request_field)(b"x-forwarded-for").map(|field| field.escape_ascii().to_string()),
        }
    }
}

/// Makes the access log from the settings and the program's `on_access`. `-` means the logger `maypole.access`.
pub(super) fn access_log(config: &Config, on_access: Option<Py<PyAny>>) -> PyResult<Option<AccessLog>> {
    let failed = |error: anyhow::Error| PyValueError::new_err(sys::plain(error.as_ref()));
    let lines = match &config.access_logfile {
        LogTarget::Standard => {
            let log = AccessLog::taken_by(Arc::new(logging::access_line), config);
            Some(log.map_err(|error| failed(error.into()))?)
        }
        _ => AccessLog::new(config).map_err(failed)?,
    };
    let Some(on_access) = on_access.map(Arc::new) else { return Ok(lines) };
    let observer = Arc::new(move |entry: &Entry<'_>| logging::access_entry(&on_access, AccessEntry::new(entry)));
    Ok(Some(lines.unwrap_or_default().observed_by(observer)))
}
