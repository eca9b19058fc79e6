//! A request that is being served, for reports.
//!
//! *Runs on*: any thread.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::{Exchange, Peer};
use crate::http::RequestHead;
use crate::phrase::excerpt;

/// A request that is being served.
#[derive(Debug, Clone)]
pub struct Served {
    /// When the last byte arrived, or the last byte of the head if the body is streamed.
    pub received: Instant,
    /// Its head.
    pub head: Arc<RequestHead>,
    /// The addresses of the connection.
    pub peer: Arc<Peer>,
    /// How far the request has come.
    pub stage: Stage,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// No thread has begun it.
    Queued,
    /// A thread works on it.
    Running,
    /// The application has finished, and the client has not received the whole response.
    Sending,
    /// The client has left, and a thread still works on the request.
    Abandoned,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "waits for a thread",
            Self::Running => "in the application",
            Self::Sending => "sends its response",
            Self::Abandoned => "in the application, its client has left",
        })
    }
}

impl fmt::Display for Served {
    /// Writes age, client, stage and request line: `12.345 s  10.0.0.7:51608  in the application  "GET / HTTP/1.1"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (age, client, stage) = (self.received.elapsed().as_secs_f64(), self.peer.client(), self.stage);
        write!(f, "{age:.3} s  {client}  {stage}  \"{}\"", excerpt(self.head.request_line()))
    }
}

impl Exchange {
    /// Returns how far the request has come. (Any thread.)
    pub fn stage(&self) -> Stage {
        if self.beginning.is_waiting() {
            Stage::Queued
        } else if self.lock().outbox.end.is_some() {
            Stage::Sending
        } else {
            Stage::Running
        }
    }
}
