//! What the access log says of a request: gathered on its way, written once.
//!
//! *Runs on*: the connection's coroutine, or the thread of a call that has taken the connection over. *Invariants*: a
//! request whose head was read has exactly one line, also if its client leaves.

use std::time::{Instant, SystemTime};

use super::Shared;
use crate::handler::{self, ApplicationTimes, Peer};
use crate::http::{RequestHead, Version};
use crate::log::Entry;

/// The status that the access log has for a client that left before its response began: nginx's own 499.
const CLIENT_LEFT: u16 = 499;

/// What the access log says of a request, as far as it is known.
#[derive(Default)]
pub(super) struct Account {
    pub(super) began: Option<Instant>,
    pub(super) received: Option<Instant>,
    /// The response's; 0 as long as none has begun.
    pub(super) status: u16,
    /// The encoded head, where the log wants fields of it.
    pub(super) head: Vec<u8>,
    pub(super) body_bytes: u64,
    pub(super) wire_bytes: u64,
    pub(super) environ: Vec<(String, String)>,
    pub(super) times: ApplicationTimes,
}

impl Account {
    /// Writes the line of the access log.
    pub(super) fn log(&self, head: &RequestHead, peer: &Peer, shared: &Shared) {
        let Some(access_log) = &shared.access_log else { return };
        let now = Instant::now();
        let times = self.times;
        let lookup = |name: &[u8]| field_of(&self.head, name);
        access_log.write(&Entry {
            remote: peer.remote,
            request_line: head.request_line(),
            method: head.method(),
            path: head.path(),
            query: head.query(),
            protocol: match head.version() {
                Version::Http10 => "HTTP/1.0",
                Version::Http11 => "HTTP/1.1",
            },
            status: if self.status == 0 { CLIENT_LEFT } else { self.status },
            body_bytes: self.body_bytes,
            wire_bytes: self.wire_bytes,
            ended: SystemTime::now(),
            duration: handler::between(self.began, Some(now)),
            receive: handler::between(self.began, self.received.or(Some(now))),
            queue: handler::between(self.received, times.started.or(Some(now))),
            // The call of a client that has gone may go on.
            application: handler::between(times.started, times.ended.or(Some(now))),
            send: handler::between(times.ended, Some(now)),
            request_field: &|name| head.field(name),
            response_field: &lookup,
            environ: &self.environ,
        });
    }
}

/// A field of an encoded head.
fn field_of<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|&byte| byte == b'\n').skip(1).find_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (found, value) = line.split_at_checked(colon)?;
        found.eq_ignore_ascii_case(name).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}
