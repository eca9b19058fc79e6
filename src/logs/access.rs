//! The access log: one line for each request that got a response.
//!
//! *Owns*: the format and the open log of one server. *Runs on*: the connection's coroutine, which formats the line. It
//! reads no clock and never waits. *Invariants*: every value from a client or the application goes through `escape`.
//! *Source*: gunicorn's `glogging.py` for the meaning of each atom; RFC 7617 for the user.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

use super::delivery;
use super::escape::{push_escaped, push_json, push_word};
use super::format::{ATOMS, Atom, Format, FormatError, Part};
use super::selection::Selection;
use super::sink::Sink;
use super::syslog::Syslog;
use super::time::{self, push_common, push_rfc3339};
use super::writer::{self, Writer};
use crate::config::{Config, LogTarget};
use crate::phrase::{push_address, push_decimal, push_padded};

/// The approximate length of a line, in bytes. A longer line costs one more allocation.
const LINE_BYTES: usize = 256;

/// The approximate length of the atoms of an entry with their names, in bytes.
const ATOMS_BYTES: usize = 1024;

/// The longest user name that is logged, in bytes.
const USER_BYTES_MAX: usize = 128;

/// A function that takes finished lines, without their line break, in place of a file.
pub type LineSink = Arc<dyn Fn(String) + Send + Sync>;

/// A function that is called with every entry. It must not wait.
pub type Observer = Arc<dyn Fn(&Entry<'_>) + Send + Sync>;

/// An access log: writes lines to a file or passes them to a function, and passes entries to an observer.
#[derive(Clone, Default)]
pub struct AccessLog {
    lines: Option<Lines>,
    observer: Option<Observer>,
}

#[derive(Clone)]
struct Lines {
    format: Arc<Format>,
    environ_names: Arc<[String]>,
    selection: Arc<Selection>,
    /// `%(p)s`, without its brackets.
    process: u32,
    /// `None`: the lines go to syslog alone.
    output: Option<Output>,
    syslog: Option<Syslog>,
}

#[derive(Clone)]
enum Output {
    File(Arc<Sink>, Writer),
    Lines(LineSink),
    /// Python's logging, which also gets all atoms.
    Delivery,
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessLog").finish_non_exhaustive()
    }
}

/// The name and the value of a field.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// The facts about one request.
pub struct Entry<'a> {
    /// The client's address. `None` on a unix socket.
    pub remote: Option<SocketAddr>,
    /// The request line as received, without its line break.
    pub request_line: &'a [u8],
    /// The method.
    pub method: &'a [u8],
    /// The path of the request target.
    pub path: &'a [u8],
    /// The query: the text after the `?`.
    pub query: &'a [u8],
    /// `HTTP/1.1`
    pub protocol: &'static str,
    /// The request's id, if requests have one.
    pub request_id: Option<&'a [u8]>,
    /// The time in the queue of a proxy, before `duration`. `None`: no proxy has said when it got the request.
    pub proxy_queue: Option<Duration>,
    /// The status of the response.
    pub status: u16,
    /// Whether the whole response was sent.
    pub complete: bool,
    /// Bytes of the response body, without its framing.
    pub body_bytes: u64,
    /// Bytes sent for the response, including its head and the framing of its body.
    pub wire_bytes: u64,
    /// When the response ended.
    pub ended: SystemTime,
    /// From the first byte of the request to the last byte of the response.
    pub duration: Duration,
    /// The part of `duration` spent receiving the request.
    pub receive: Duration,
    /// The part of `duration` spent waiting for the application.
    pub queue: Duration,
    /// The part of `duration` spent inside the application.
    pub application: Duration,
    /// The part of `duration` for which the response was suspended.
    pub suspended: Duration,
    /// The part of `duration` spent sending the response after the application had ended.
    pub send: Duration,
    /// Returns the request field of a name in lower case.
    pub request_field: &'a dyn Fn(&[u8]) -> Option<&'a [u8]>,
    /// Returns the response field of a name in lower case.
    pub response_field: &'a dyn Fn(&[u8]) -> Option<&'a [u8]>,
    /// Returns the names and values of all fields of the request, then those of the response.
    pub fields: &'a dyn Fn() -> [Vec<Field<'a>>; 2],
    /// The environ values named by `AccessLog::environ_names`.
    pub environ: &'a [(String, String)],
}

impl AccessLog {
    /// Opens the access log of these settings. Returns `None` if there is none, but checks the format in any case.
    ///
    /// # Errors
    /// A `FormatError`, or the system's error when the file is opened.
    pub fn new(config: &Config) -> anyhow::Result<Option<Self>> {
        let format = Format::parse(&config.access_logformat)?;
        let sink = match &config.access_logfile {
            LogTarget::None => None,
            LogTarget::Standard => {
                Some(Arc::new(Sink::stdout().context("cannot open the access log on the standard output")?))
            }
            LogTarget::File(path) => {
                Some(Sink::open(path).with_context(|| format!("cannot open the access log {}", path.display()))?)
            }
        };
        let output = match sink {
            Some(sink) => Some(Output::File(sink, writer::of_process()?)),
            None => None,
        };
        let settings = &config.logs.syslog;
        let syslog =
            if settings.disable_redirect_access_to_syslog { None } else { Syslog::new(settings, "access", true)? };
        let has_lines = output.is_some() || syslog.is_some();
        Ok(has_lines.then(|| Self::with(config, format, output, syslog)))
    }

    /// Returns an access log that passes its lines to `sink`.
    ///
    /// # Errors
    /// The format is wrong.
    pub fn taken_by(sink: LineSink, config: &Config) -> Result<Self, FormatError> {
        Ok(Self::with(config, Format::parse(&config.access_logformat)?, Some(Output::Lines(sink)), None))
    }

    /// Returns an access log whose lines and atoms go to Python's logging.
    ///
    /// # Errors
    /// The format is wrong.
    pub(super) fn delivered(config: &Config) -> Result<Self, FormatError> {
        Ok(Self::with(config, Format::parse(&config.access_logformat)?, Some(Output::Delivery), None))
    }

    fn with(config: &Config, format: Format, output: Option<Output>, syslog: Option<Syslog>) -> Self {
        let lines = Lines {
            environ_names: format.environ_names().into(),
            format: Arc::new(format),
            selection: Arc::new(Selection::of(&config.logs)),
            process: std::process::id(),
            output,
            syslog,
        };
        Self { lines: Some(lines), observer: None }
    }

    /// Adds an observer, which is called with every entry.
    #[must_use]
    pub fn observed_by(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Returns the names of the environ values in the format. The code that calls the application collects these
    /// values.
    pub fn environ_names(&self) -> &[String] {
        self.lines.as_ref().map_or(&[], |lines| &lines.environ_names)
    }

    /// Formats the entry and queues its line, unless the settings leave it out.
    pub fn write(&self, entry: &Entry<'_>) {
        if let Some(observer) = &self.observer {
            observer(entry);
        }
        let Some(lines) = self.lines.as_ref().filter(|lines| lines.selection.takes(entry)) else { return };
        let mut line = Vec::with_capacity(LINE_BYTES);
        match &*lines.format {
            Format::Json => entry.push_json(&mut line, lines.process),
            Format::Line(parts) => parts.iter().for_each(|part| entry.push_part(&mut line, part, lines.process)),
        }
        if let Some(syslog) = &lines.syslog {
            syslog.send_access(&line);
        }
        match &lines.output {
            Some(Output::File(sink, writer)) => {
                line.push(b'\n');
                writer.send(sink, line);
            }
            Some(Output::Lines(take)) => take(text(line)),
            Some(Output::Delivery) => delivery::access_line(text(line), text(entry.atoms(lines.process))),
            None => {}
        }
    }
}

impl<'a> Entry<'a> {
    /// Returns all atoms for Python: name, NUL, value, NUL, and so on. No value has a NUL, because it is escaped.
    fn atoms(&self, process: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(ATOMS_BYTES);
        for (name, atom) in ATOMS {
            out.extend_from_slice(name.as_bytes());
            out.push(0);
            self.push_atom(&mut out, atom, process);
            out.push(0);
        }
        for (fields, kind) in (self.fields)().into_iter().zip([b'i', b'o']) {
            for (name, value) in fields {
                push_braced(&mut out, name, kind, value);
            }
        }
        for (name, value) in self.environ {
            push_braced(&mut out, name.as_bytes(), b'e', value.as_bytes());
        }
        out.pop();
        out
    }

    fn push_part(&self, out: &mut Vec<u8>, part: &Part, process: u32) {
        match part {
            Part::Text(text) => out.extend_from_slice(text),
            Part::Atom(atom) => self.push_atom(out, *atom, process),
            Part::RequestField(name) => push_or_dash(out, (self.request_field)(name)),
            Part::ResponseField(name) => push_or_dash(out, (self.response_field)(name)),
            Part::Environ(name) => {
                let value = self.environ.iter().find(|(known, _)| known == name);
                push_or_dash(out, value.map(|(_, value)| value.as_bytes()));
            }
        }
    }

    fn push_atom(&self, out: &mut Vec<u8>, atom: Atom, process: u32) {
        match atom {
            Atom::Remote => match self.remote {
                Some(remote) => push_address(out, remote.ip()),
                None => out.push(b'-'),
            },
            Atom::Identity => out.push(b'-'),
            Atom::User => match self.user() {
                Some(user) => push_word(out, &user),
                None => out.push(b'-'),
            },
            Atom::Time => push_common(out, self.ended, time::offset(self.ended)),
            Atom::RequestLine => push_or_dash(out, present(self.request_line)),
            Atom::Method => push_or_dash(out, present(self.method)),
            Atom::Path => push_or_dash(out, present(self.path)),
            Atom::Query => push_escaped(out, self.query),
            Atom::Protocol => push_or_dash(out, present(self.protocol.as_bytes())),
            Atom::Status => push_decimal(out, u64::from(self.status)),
            Atom::BytesOrDash if self.body_bytes == 0 => out.push(b'-'),
            Atom::Bytes | Atom::BytesOrDash => push_decimal(out, self.body_bytes),
            Atom::Referer => push_or_dash(out, self.field(b"referer")),
            Atom::UserAgent => push_or_dash(out, self.field(b"user-agent")),
            Atom::Seconds => push_decimal(out, self.duration.as_secs()),
            Atom::Micros => push_decimal(out, micros(self.duration)),
            Atom::Millis => push_decimal(out, micros(self.duration) / 1000),
            Atom::DecimalSeconds => {
                push_decimal(out, self.duration.as_secs());
                out.push(b'.');
                push_padded(out, u64::from(self.duration.subsec_micros()), 6);
            }
            Atom::Process => {
                out.push(b'<');
                push_decimal(out, u64::from(process));
                out.push(b'>');
            }
            Atom::RequestId => push_or_dash(out, self.request_id),
            Atom::TraceId => push_or_dash(out, self.trace_id()),
            Atom::ProxyQueue => match self.proxy_queue {
                Some(queued) => push_decimal(out, micros(queued)),
                None => out.push(b'-'),
            },
            Atom::Receive => push_decimal(out, micros(self.receive)),
            Atom::Queue => push_decimal(out, micros(self.queue)),
            Atom::Application => push_decimal(out, micros(self.application)),
            Atom::Suspended => push_decimal(out, micros(self.suspended)),
            Atom::Send => push_decimal(out, micros(self.send)),
            Atom::Complete => out.extend_from_slice(if self.complete { b"yes" } else { b"no" }),
        }
    }

    fn push_json(&self, out: &mut Vec<u8>, process: u32) {
        out.extend_from_slice(b"{\"time\":\"");
        push_rfc3339(out, self.ended);
        out.extend_from_slice(b"\",\"remote\":");
        match self.remote {
            Some(remote) => {
                out.push(b'"');
                push_address(out, remote.ip());
                out.push(b'"');
            }
            None => out.extend_from_slice(b"null"),
        }
        for (key, value) in [
            ("method", present(self.method)),
            ("path", present(self.path)),
            ("query", Some(self.query)),
            ("protocol", present(self.protocol.as_bytes())),
        ] {
            push_json_text(out, key, value);
        }
        push_json_number(out, "status", u64::from(self.status));
        push_json_number(out, "bytes", self.body_bytes);
        push_json_key(out, "complete");
        out.extend_from_slice(if self.complete { b"true" } else { b"false" });
        push_json_text(out, "referer", self.field(b"referer"));
        push_json_text(out, "user_agent", self.field(b"user-agent"));
        push_json_text(out, "request_id", self.request_id);
        push_json_text(out, "trace_id", self.trace_id());
        match self.proxy_queue {
            Some(queued) => push_json_number(out, "proxy_queue_us", micros(queued)),
            None => push_json_text(out, "proxy_queue_us", None),
        }
        push_json_number(out, "duration_us", micros(self.duration));
        push_json_number(out, "receive_us", micros(self.receive));
        push_json_number(out, "queue_us", micros(self.queue));
        push_json_number(out, "application_us", micros(self.application));
        push_json_number(out, "suspended_us", micros(self.suspended));
        push_json_number(out, "send_us", micros(self.send));
        push_json_number(out, "pid", u64::from(process));
        out.push(b'}');
    }

    fn field(&self, name: &[u8]) -> Option<&'a [u8]> {
        (self.request_field)(name)
    }

    /// Returns the id of the trace that the request belongs to.
    fn trace_id(&self) -> Option<&'a [u8]> {
        trace_id_of(self.field(b"traceparent")?)
    }

    /// Returns the user name of Basic credentials (RFC 7617 §2).
    fn user(&self) -> Option<Vec<u8>> {
        let (scheme, token) = self.field(b"authorization")?.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let credentials = decode_base64(token.trim_ascii(), USER_BYTES_MAX + 1)?;
        let end = credentials.iter().position(|byte| *byte == b':')?;
        credentials.get(..end).filter(|user| !user.is_empty()).map(<[u8]>::to_vec)
    }
}

/// Returns the id of the trace in a well-formed `traceparent` (W3C Trace Context §3.2). A later version may have more parts.
fn trace_id_of(value: &[u8]) -> Option<&[u8]> {
    let mut parts = value.split(|byte| *byte == b'-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_number = |digits: &[u8], length| {
        digits.len() == length && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |digits: &[u8], length| is_number(digits, length) && digits.iter().any(|digit| *digit != b'0');
    let is_version = is_number(version, 2) && version != b"ff" && (version != b"00" || parts.next().is_none());
    (is_version && is_id(trace, 32) && is_id(parent, 16) && is_number(flags, 2)).then_some(trace)
}

/// Appends an atom with a name in braces, in lower case, for `Entry::atoms`.
fn push_braced(out: &mut Vec<u8>, name: &[u8], kind: u8, value: &[u8]) {
    out.push(b'{');
    push_escaped(out, &name.to_ascii_lowercase());
    out.extend_from_slice(&[b'}', kind, 0]);
    push_escaped(out, value);
    out.push(0);
}

/// Returns bytes that were escaped as text.
fn text(escaped: Vec<u8>) -> String {
    String::from_utf8(escaped).unwrap_or_default()
}

fn present(value: &[u8]) -> Option<&[u8]> {
    (!value.is_empty()).then_some(value)
}

fn push_or_dash(out: &mut Vec<u8>, value: Option<&[u8]>) {
    push_escaped(out, value.unwrap_or(b"-"));
}

fn push_json_key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn push_json_text(out: &mut Vec<u8>, key: &str, value: Option<&[u8]>) {
    push_json_key(out, key);
    match value {
        Some(value) => push_json(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn push_json_number(out: &mut Vec<u8>, key: &str, value: u64) {
    push_json_key(out, key);
    push_decimal(out, value);
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Decodes the first `bytes_max` bytes of base64 (RFC 4648 §4). Returns `None` at a character outside its alphabet.
fn decode_base64(text: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let end = text.iter().position(|byte| *byte == b'=').unwrap_or(text.len());
    let mut decoded = Vec::with_capacity(bytes_max.min(text.len()));
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.get(..end)? {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
        if decoded.len() == bytes_max {
            break;
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests;
