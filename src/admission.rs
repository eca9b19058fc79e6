//! What a handler decides about a request once its head has arrived, before any byte of its body is read.
//!
//! *Owns*: the rules that the settings prescribe. *Runs on*: the connection's coroutine. *Invariants*: a decision needs
//! the head alone, so it neither waits nor allocates. A request that needs no permit waits for none.

use std::sync::Arc;

use crate::config::{Config, StreamRequests};
use crate::http::{Framing, RequestHead};
use crate::pool::Pool;

/// A handler's decision about a request.
#[derive(Debug, Clone, Copy)]
pub enum Admission<'a> {
    /// The handler will be called.
    Serve(Terms<'a>),
    /// The client gets this status instead, before its body and before any `100 Continue`. Then the connection closes.
    Refuse {
        /// An error status, 4xx or 5xx.
        status: u16,
        /// The reason, as a part of a log sentence.
        why: &'static str,
    },
}

/// The terms on which a handler takes a request.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// How the handler gets the body, if there is one.
    pub delivery: Delivery,
    /// The longest body in bytes. A longer one is refused with a 413.
    pub body_bytes_max: u64,
    /// The pool in which the request waits for a permit. `None`: it needs no permit.
    pub gate: Option<&'a Arc<Pool>>,
    /// The handler's own number for its part that responds. It gets it back in `Request::route`.
    pub route: usize,
}

/// How a handler gets a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As a whole: the handler is called when the last byte has arrived.
    Buffer,
    /// While it arrives: the handler is called at once.
    Stream,
}

/// The rules that the settings prescribe for an application: `--stream-requests`, `--max-body-size`, `--pool-size`.
#[derive(Debug)]
pub struct Rules {
    config: Arc<Config>,
    pool: Arc<Pool>,
}

impl Rules {
    /// Makes the rules of these settings, with the permits of `pool`.
    pub fn new(config: Arc<Config>, pool: Arc<Pool>) -> Self {
        Self { config, pool }
    }

    /// Makes the rules of these settings, with a pool of their own.
    pub fn with_own_pool(config: &Arc<Config>) -> Self {
        Self::new(Arc::clone(config), Pool::new(config.pool_size))
    }

    /// Returns the pool in which requests wait for their permits.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Returns the terms for a request.
    pub fn terms(&self, head: &RequestHead) -> Terms<'_> {
        let body_bytes_max = self.config.max_body_size.0;
        Terms { delivery: self.delivery(head.framing()), body_bytes_max, gate: Some(&self.pool), route: 0 }
    }

    /// Returns the terms for a request that gets a response without a call of the application: it needs no permit, and its
    /// body is not received first.
    pub fn without_call(&self) -> Terms<'_> {
        Terms { delivery: Delivery::Stream, body_bytes_max: self.config.max_body_size.0, gate: None, route: 0 }
    }

    fn delivery(&self, framing: Framing) -> Delivery {
        match (framing, self.config.stream_requests) {
            (Framing::None, _) | (_, StreamRequests::Never) | (Framing::Chunked, StreamRequests::Above(_)) => {
                Delivery::Buffer
            }
            (Framing::Length(length), StreamRequests::Above(bytes)) if length <= bytes => Delivery::Buffer,
            (Framing::Length(_) | Framing::Chunked, _) => Delivery::Stream,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn body_is_streamed_as_the_setting_says() {
        use Delivery::{Buffer, Stream};
        let framings = [Framing::None, Framing::Length(8), Framing::Length(9), Framing::Chunked];
        for (setting, wanted) in [
            ("never", [Buffer, Buffer, Buffer, Buffer]),
            ("8", [Buffer, Buffer, Stream, Buffer]),
            ("always", [Buffer, Stream, Stream, Stream]),
        ] {
            let config = Config::parse_from(["maypole", "module:app", "--stream-requests", setting]).unwrap();
            let rules = Rules::with_own_pool(&Arc::new(config));
            assert_eq!(framings.map(|framing| rules.delivery(framing)), wanted, "{setting}");
        }
    }
}
