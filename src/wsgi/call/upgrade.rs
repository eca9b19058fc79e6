//! Requests that ask for another protocol on their connection, and WebSockets that their calls have accepted.
//!
//! *Owns*: nothing. *Runs on*: an executor thread, with the GIL held.

use std::sync::Arc;
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::body::Body;
use super::{ERROR_BODY, say_failed, server_error};
use crate::handler::Upgrade;
use crate::http::RequestHead;
use crate::websocket::{Offer, Unopened};
use crate::wsgi::start_response::StartResponse;
use crate::wsgi::websocket::{Accepted, WebSocketRequest};
use crate::wsgi::{Application, named, taken};

/// Sets what a request that asks for another protocol has besides the usual entries.
#[cold]
pub(super) fn set(
    environ: &Bound<'_, PyDict>,
    application: &Arc<Application>,
    shared: &Bound<'_, StartResponse>,
    head: &RequestHead,
) -> PyResult<()> {
    if let Some(offer) = Offer::of(head) {
        let request = WebSocketRequest::new(offer, shared.clone().unbind(), application, named(head));
        environ.set_item("maypole.websocket", Bound::new(environ.py(), request)?)?;
    }
    if application.werkzeug_socket {
        environ.set_item("werkzeug.socket", taken::unused(&shared.getattr("socket_until_end")?)?)?;
    }
    Ok(())
}

/// Opens the WebSocket that the call has accepted. If the call has failed, sends a 500 instead.
#[cold]
pub(super) fn open(
    py: Python<'_>,
    response: &StartResponse,
    body: PyResult<Body>,
    request: &RequestHead,
    ended: Option<Instant>,
    values: Vec<(String, String)>,
) {
    let mut state = response.lock();
    let (responder, accepted) = (state.responder.take(), state.accepted.take());
    drop(state);
    let Some(Accepted { response, socket }) = accepted else { return };
    let Some(responder) = responder else { return socket.abandon() };
    match body {
        Ok(_) => responder.upgrade(Upgrade { response, socket: Unopened::new(socket) }, ended, values),
        Err(error) => {
            socket.abandon();
            say_failed(py, request, &error, false);
            let (head, block) = server_error();
            responder.respond(head, ERROR_BODY.len() as u64, Some(block), ended, values);
        }
    }
}
