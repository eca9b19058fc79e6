//! The handshake of TLS, and clients that begin without it.
//!
//! *Runs on*: the connection's coroutine, which waits while a thread of `tls` computes. *Invariants*: a client whose
//! handshake has not ended gets no byte of HTTP. The whole handshake has the time of one request head.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::http1::Patience;
use super::transport::{Close, Until};
use super::{Connection, Ended, Opening, Refusal};
use crate::config::duration_text;
use crate::handler::{Origin, Scheme};
use crate::http::{RequestHead, ResponseHead};
use crate::metrics::{End, Reason};
use crate::throttle::Throttle;
use crate::tls::{Broken, Full, Hello, Stepped, hello_of};

/// The log reports handshakes that fail at most this often, because such clients usually try again and again.
const FAILED_EVERY: Duration = Duration::from_secs(10);
static FAILED: Throttle = Throttle::new(FAILED_EVERY);
static LATE: Throttle = Throttle::new(FAILED_EVERY);
static FULL: Throttle = Throttle::new(FAILED_EVERY);

/// Why a connection that should speak TLS does not.
pub(super) enum Failure {
    /// The client has sent this request without TLS.
    WithoutTls(Arc<RequestHead>),
    /// The handshake has failed. The client has got an alert, or has sent one.
    Broken(Broken),
    /// Too many handshakes wait.
    Full(Full),
}

impl Connection {
    /// Receives the client's part of the handshake, and replies to it, until it has ended. If the client speaks no TLS,
    /// its request is received instead.
    pub(super) fn shake_hands(&mut self) -> Result<(), Ended> {
        let mut patience = self.patience();
        loop {
            let is_due = match self.transport.session() {
                Some(session) => session.has_record(),
                None => match hello_of(&self.buffer) {
                    Hello::Other => {
                        self.opening = Opening::WithoutTls;
                        return Ok(());
                    }
                    hello => hello == Hello::Whole,
                },
            };
            if !is_due {
                self.receive_some_of_head(&mut patience)?;
            } else if self.step()? {
                return Ok(());
            } else {
                // The step may have waited long for a thread.
                patience = Patience::since(Instant::now());
            }
        }
    }

    /// Takes a step of the handshake with what has arrived. Returns whether the handshake has ended.
    fn step(&mut self) -> Result<bool, Ended> {
        let shared = Arc::clone(&self.shared);
        let Some(handshakes) = &shared.handshakes else { return Err(Ended::Gone) };
        let session = match self.transport.take_session() {
            Some(session) => session,
            None => handshakes
                .begin(std::mem::take(&mut self.buffer), shared.offered())
                .map_err(|broken| Ended::NotSecured(Failure::Broken(broken)))?,
        };
        let waker = self.transport.waker().clone();
        let pending = handshakes.queue(session, waker).map_err(|full| Ended::NotSecured(Failure::Full(full)))?;
        let Stepped { session, to_send, result, facts } = loop {
            match pending.take() {
                Some(stepped) => break stepped,
                None => self.transport.wait(Until::EVENT),
            }
        };
        if !self.transport.secure(session, &to_send) {
            return Err(Ended::Gone);
        }
        result.map_err(|broken| Ended::NotSecured(Failure::Broken(broken)))?;
        self.send_step()?;
        let Some(facts) = facts else { return Ok(false) };
        let opening = if facts.is_http2 { Opening::Http2 } else { Opening::Request };
        let origin = Origin { scheme: Scheme::Https, tls: Some(facts), ..Origin::clone(&self.connected) };
        self.connected = Arc::new(origin);
        (self.opening, self.head_began, self.rested) = (opening, None, Instant::now());
        Ok(true)
    }

    /// Waits until the client has taken what the step has made.
    fn send_step(&mut self) -> Result<(), Ended> {
        let until = self.rest_deadline();
        while !self.transport.send_rest().ok_or(Ended::Gone)? {
            if Instant::now() >= until {
                return Err(Ended::Quiet(until));
            }
            self.transport.wait(Until::at(until));
        }
        Ok(())
    }

    /// Ends a connection that should speak TLS, and does not.
    pub(super) fn end_unsecured(&mut self, failure: &Failure) -> End {
        let client = self.origin().client_name();
        match failure {
            Failure::WithoutTls(head) => {
                let refusal = Refusal::WithoutTls { redirects: self.redirects(head) };
                self.refuse(refusal, Some((head, None)));
                self.close_lingering(Close::Whole);
                return End::Refused;
            }
            Failure::Broken(broken) => {
                if let Some(more) = FAILED.pass() {
                    let hint = if broken.is_alert() { ", which the client sent" } else { "" };
                    log::info!("{client}: the TLS handshake has failed: {broken}{hint}{more}");
                }
                // The client reads the alert before it sees the end.
                self.close_lingering(Close::Output);
            }
            Failure::Full(Full { waiting }) => {
                if let Some(more) = FULL.pass() {
                    log::warn!("{client}: the connection is closed: {waiting} TLS handshakes wait already{more}");
                }
            }
        }
        self.shared.meters().refused(Reason::Tls);
        End::Refused
    }

    /// Ends a connection whose handshake takes too long.
    pub(super) fn end_late_handshake(&mut self) -> End {
        self.shared.meters().refused(Reason::HeaderTimeout);
        if let Some(more) = LATE.pass() {
            let (client, limit) = (self.origin().client_name(), duration_text(self.shared.config.header_timeout));
            log::info!("{client}: the TLS handshake has not ended in time, --header-timeout is {limit}{more}");
        }
        End::Refused
    }

    /// Returns whether a client that speaks no TLS is redirected to `https`.
    fn redirects(&self, head: &RequestHead) -> bool {
        self.shared.config.tls.https_redirect && head.host().is_some() && head.target().starts_with(b"/")
    }
}

/// Returns the response to a client that speaks no TLS where it is expected.
pub(super) fn without_tls(head: &RequestHead, redirects: bool) -> (ResponseHead, Vec<u8>) {
    if !redirects {
        return ResponseHead::plain_text(400, "This address speaks HTTPS only: use https:// in place of http://.\n");
    }
    let (mut response, body) = ResponseHead::plain_text(308, "This address speaks HTTPS only.\n");
    let location = [b"https://", head.host().unwrap_or_default(), head.target()].concat();
    // A host and a target that were parsed have no bytes that a field cannot have.
    let _ = response.push_field(b"Location", &location);
    (response, body)
}
