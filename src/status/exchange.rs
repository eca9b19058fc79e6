//! One connection to the status server: a request, its response, and the close.
//!
//! *Owns*: nothing. *Runs on*: the connection's thread. *Invariants*: a connection has one request. A page that another
//! site shows in a browser reads nothing: the request must name an address of this machine.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::routes::{self, Reply};
use super::{EXCHANGE_MAX, Entrance, Shared};
use crate::http::{Limits, Persistence, RequestHead, ResponseHead, Version, date, response};
use crate::sys::{self, Io};

const LIMITS: Limits =
    Limits { request_line_bytes_max: 4096, fields_max: 100, field_bytes_max: 4096, head_bytes_max: 16384 };
/// How many bytes are read at once.
const READ_BYTES: usize = 4096;
/// How long the server waits for the client to close, so that no reset destroys the response.
const LINGER_MAX: Duration = Duration::from_millis(500);

/// How often a connection that is held looks whether the service has ended.
const HOLD_LOOK: Duration = Duration::from_millis(100);

/// Serves one connection.
pub(super) fn run(shared: &Shared, connection: &impl AsFd, entrance: Entrance) {
    let end = Instant::now() + EXCHANGE_MAX;
    let Ok(request) = receive(connection, end) else { return };
    let (reply, is_head, version) = match &request {
        Some(head) => (answer(shared, head, connection, entrance), head.is_head(), head.response_version()),
        None => (Reply::text(400, "this is no HTTP request\n"), false, Version::Http11),
    };
    // The outcome of a command may have taken longer than a request may.
    let end = Instant::now() + EXCHANGE_MAX;
    let stays_open = reply.stays_open;
    if send(connection, &encode(reply, is_head, version), end).is_ok() {
        if stays_open {
            hold(shared, connection);
        }
        linger(connection);
    }
}

/// Sends a response to a request that another program has received.
///
/// # Errors
/// The client has left, or does not read by `end`.
pub(super) fn respond(connection: &impl AsFd, reply: Reply, end: Instant) -> io::Result<()> {
    send(connection, &encode(reply, false, Version::Http11), end)
}

/// Keeps a connection open until the service has ended. If its process goes on afterwards, waits for the end of the
/// status server; otherwise, the end of the process closes the connection. A client that leaves is let go.
fn hold(shared: &Shared, connection: &impl AsFd) {
    let has_ended = || shared.service.goes_on && shared.ends.load(Ordering::Relaxed);
    while !has_ended() && wait_readable(connection, Instant::now() + HOLD_LOOK).is_err() {}
}

/// Decides who may ask, and asks.
fn answer(shared: &Shared, head: &RequestHead, connection: &impl AsFd, entrance: Entrance) -> Reply {
    if let Entrance::Public(Some(client)) = entrance {
        let client = client.ip().to_canonical();
        if !shared.allowed.lock().iter().any(|network| network.contains(client)) {
            return Reply::text(403, &format!("{client} may not read this (--status-allow)\n"));
        }
        if client.is_loopback() && !head.host().is_none_or(names_this_machine) {
            return Reply::text(421, "the Host field must name this machine by its address or as localhost\n");
        }
    }
    routes::reply(shared, head, connection.as_fd(), entrance)
}

/// Returns whether a Host field has an address, or the name that every machine has for itself. Another name may be one
/// that a web site has given this machine, so that its page can read from it ("DNS rebinding").
fn names_this_machine(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// Receives a head. `None`: it is malformed.
fn receive(connection: &impl AsFd, end: Instant) -> io::Result<Option<RequestHead>> {
    let (mut received, mut scanner) = (Vec::new(), crate::http::HeadScanner::default());
    loop {
        match sys::receive(connection, &mut received, READ_BYTES) {
            Io::Done(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Io::Done(_) => {}
            Io::WouldBlock => wait_readable(connection, end)?,
            Io::Failed(error) => return Err(error),
        }
        match scanner.scan(&received, &LIMITS) {
            Ok(None) => {}
            Ok(Some(bytes)) => return Ok(RequestHead::parse(received.get(..bytes).unwrap_or_default(), &LIMITS).ok()),
            Err(_) => return Ok(None),
        }
    }
}

/// Returns a response as bytes.
fn encode(reply: Reply, is_head: bool, version: Version) -> Vec<u8> {
    let Reply { status, fields, body, .. } = reply;
    let mut head = ResponseHead::of_status(status);
    let always = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")];
    for (name, value) in always.into_iter().chain(fields.iter().map(|(name, value)| (*name, value.as_str()))) {
        // The fields are our own, and well-formed.
        let _ = head.push_field(name.as_bytes(), value.as_bytes());
    }
    let (mut bytes, _, _) = head.encode(&response::Context {
        version,
        is_head,
        persistence: Persistence::Close,
        body_bytes: Some(body.len() as u64),
        date: &date::imf_fixdate(SystemTime::now()),
        request_id: None,
        server: Some(b"maypole"),
    });
    if !is_head {
        bytes.extend_from_slice(&body);
    }
    bytes
}

fn send(connection: &impl AsFd, mut bytes: &[u8], end: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match sys::send(connection, bytes) {
            Io::Done(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Io::WouldBlock => wait_writable(connection, end)?,
            Io::Failed(error) => return Err(error),
        }
    }
    Ok(())
}

/// Closes the server's side, and discards what the client still sends until it closes its side, too.
fn linger(connection: &impl AsFd) {
    sys::shutdown_write(connection);
    let (end, mut rest) = (Instant::now() + LINGER_MAX, Vec::new());
    while wait_readable(connection, end).is_ok() {
        rest.clear();
        if !matches!(sys::receive(connection, &mut rest, READ_BYTES), Io::Done(1..)) {
            return;
        }
    }
}

/// Waits until the client has sent something.
///
/// # Errors
/// It has not by then.
fn wait_readable(connection: &impl AsFd, end: Instant) -> io::Result<()> {
    let left = end.saturating_duration_since(Instant::now());
    let is_ready = !left.is_zero() && sys::wait_for_any(&[connection.as_fd()], Some(left)) == [true];
    if is_ready { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

/// Waits until the client takes more.
///
/// # Errors
/// It does not by then.
fn wait_writable(connection: &impl AsFd, end: Instant) -> io::Result<()> {
    let left = end.saturating_duration_since(Instant::now());
    let is_ready = !left.is_zero() && sys::wait_writable(connection.as_fd(), left);
    if is_ready { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_name_this_machine() {
        for host in ["127.0.0.1:9100", "localhost", "LOCALHOST:80", "[::1]:9100", "10.0.0.1", ""] {
            assert!(names_this_machine(host.as_bytes()), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:9100", "127.0.0.1.evil.example", "[::1"] {
            assert!(!names_this_machine(host.as_bytes()) || host == "[::1", "{host}");
        }
    }
}
