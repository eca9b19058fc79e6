//! The origin of the current request: what the connection says, or what its proxies tell in the fields of the head.
//!
//! *Runs on*: the connection's coroutine. *Invariants*: what one request tells does not count for the next one.

use std::sync::Arc;
use std::time::Duration;

use super::Connection;
use crate::forwarded::Ignored;
use crate::handler::Origin;
use crate::http::RequestHead;
use crate::phrase::excerpt;
use crate::throttle::Throttle;

/// How often the log reports fields that are ignored.
static UNTRUSTED: Throttle = Throttle::new(Duration::from_secs(60 * 60));
static WRONG: Throttle = Throttle::new(Duration::from_secs(10 * 60));

impl Connection {
    /// Returns the origin of the current request.
    pub(super) fn origin(&self) -> &Arc<Origin> {
        self.told.as_ref().unwrap_or(&self.connected)
    }

    /// Reads what proxies tell in the fields of the head.
    #[cold]
    pub(super) fn read_origin(&mut self, head: &RequestHead) {
        self.told = self.told_origin(head);
    }

    /// Returns the origin that proxies tell in the fields of the head. `None`: no field counts.
    pub(super) fn told_origin(&self, head: &RequestHead) -> Option<Arc<Origin>> {
        let trust = &self.shared.derived.trust;
        if !trust.reads_fields() {
            return None;
        }
        let (origin, ignored) = trust.origin(head, &self.connected);
        if let Some(ignored) = ignored {
            report(ignored, head, &self.connected);
        }
        Some(Arc::new(origin))
    }
}

fn report(ignored: Ignored, head: &RequestHead, connected: &Origin) {
    let client = connected.client_name();
    match ignored {
        Ignored::Untrusted => {
            let Some(held_back) = UNTRUSTED.pass() else { return };
            let address = connected.client.map(|client| client.ip().to_canonical().to_string()).unwrap_or_default();
            log::info!(
                "{client} sends fields of a proxy, such as X-Forwarded-For, and is no trusted one: they change nothing. \
                 If it is your proxy, set --forwarded-allow-ips {address}{held_back}"
            );
        }
        Ignored::Wrong(field) => {
            let Some(held_back) = WRONG.pass() else { return };
            let text = excerpt(head.field(field.as_bytes()).unwrap_or_default());
            log::warn!(
                "the proxy {client} sends a field {field} that is malformed or contradicts its other fields: this \
                 request's fields of proxies change nothing: {text}{held_back}"
            );
        }
    }
}
