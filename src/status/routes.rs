//! What each path shows.
//!
//! *Owns*: the paths. *Runs on*: the connection's thread. *Invariants*: a public address answers to GET and HEAD only.

use std::os::fd::BorrowedFd;

use super::{Entrance, Shared, health, metrics, page, stats};
use crate::control::{Refusal, Request, Response};
use crate::http::RequestHead;

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// Whether the connection stays open until the service has ended.
    pub(super) stays_open: bool,
}

impl Reply {
    /// Returns a response with this type and body.
    pub(super) fn new(kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, fields: vec![("Content-Type", kind.to_owned())], body: body.into(), stays_open: false }
    }

    /// Returns a response with this text.
    pub(super) fn text(status: u16, text: &str) -> Self {
        Self { status, ..Self::new("text/plain; charset=utf-8", text) }
    }

    /// Returns a response with this value in JSON.
    pub(super) fn json(value: &impl serde::Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::new("application/json", body),
            Err(error) => Self::text(500, &format!("{error}\n")),
        }
    }

    /// Returns the response to a command.
    pub(super) fn of(response: &Response) -> Self {
        Self { status: if response.is_ok { 200 } else { 409 }, ..Self::json(response) }
    }
}

/// Returns the response to a request.
pub(super) fn reply(shared: &Shared, head: &RequestHead, connection: BorrowedFd<'_>, entrance: Entrance) -> Reply {
    match head.method() {
        b"GET" | b"HEAD" => {}
        b"POST" if entrance == Entrance::Door => return command(shared, head, connection),
        _ => {
            let allow = ("Allow", "GET, HEAD".to_owned());
            return Reply { fields: vec![allow], ..Reply::text(405, "this address only shows\n") };
        }
    }
    match head.path() {
        b"/" => page::reply(shared),
        b"/page.css" => page::style(),
        b"/page.js" => page::script(),
        b"/livez" => health::livez(shared),
        b"/readyz" => health::readyz(shared, head.query() == b"strict"),
        b"/metrics" => metrics::reply(shared, head.field(b"Accept").unwrap_or_default()),
        b"/stats.json" => Reply::json(&stats::of(shared)),
        b"/requests.json" if head.query() == b"slowest" => Reply::json(&shared.source.slowest()),
        b"/requests.json" => Reply::json(&shared.source.requests(head.query() == b"stacks")),
        b"/errors.json" => Reply::json(&shared.source.errors()),
        b"/stacks" => Reply::text(200, &shared.source.stacks()),
        _ => {
            let paths = "/, /livez, /readyz, /metrics, /stats.json, /requests.json, /errors.json and /stacks";
            Reply::text(404, &format!("there are {paths}\n"))
        }
    }
}

/// Acts on a command.
fn command(shared: &Shared, head: &RequestHead, connection: BorrowedFd<'_>) -> Reply {
    let request = Request::of(head.path(), head.query());
    let is_end = request.as_ref().is_ok_and(|request| request.is_end());
    match request {
        Ok(request) => {
            let response = shared.source.command(request, connection);
            Reply { stays_open: is_end && response.is_ok, ..Reply::of(&response) }
        }
        Err(Refusal::Wrong(sentence)) => Reply { status: 400, ..Reply::json(&Response::failure(sentence)) },
        Err(Refusal::Unknown) => {
            Reply { status: 404, ..Reply::json(&Response::failure("this version has no such command")) }
        }
    }
}
