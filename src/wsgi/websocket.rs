//! WebSockets for the application: `maypole.websocket` in the environ, and the object that its `accept` returns.
//!
//! *Owns*: the functions of the application that get a socket's events. *Runs on*: `accept` on the thread of the call;
//! the methods of a socket on any thread; the events on executor threads, one at a time for each socket, in the context
//! of the call that accepted it. *Invariants*: the close is the last event. After it, and after an abandoned socket,
//! nothing here refers to the application's functions. *Source*: RFC 6455.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyBlockingIOError, PyBrokenPipeError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyString};

use super::start_response::{StartResponse, type_name};
use super::{Application, TARGET, Ticket, Work, traceback};
use crate::executor::Executor;
use crate::sys::{Lock, forks};
use crate::websocket::{self, Closing, Event, Kind, Limits, Listener, NotSent, Offer, Socket};

/// The most bytes of a close's reason, and of a ping (RFC 6455 §5.5).
const REASON_BYTES_MAX: usize = 123;
const PING_BYTES_MAX: usize = 125;
/// How many events of a socket are handled before other calls get their turn.
const EVENTS_MAX: usize = 16;

/// A client's request for a WebSocket: `environ["maypole.websocket"]`.
#[pyclass(frozen, module = "maypole", name = "WebSocketRequest")]
pub(super) struct WebSocketRequest {
    offer: Offer,
    response: Py<StartResponse>,
    application: Arc<Application>,
    /// What log lines begin with.
    line: Box<str>,
}

/// A WebSocket, for the application.
#[pyclass(frozen, dict, weakref, module = "maypole", name = "WebSocket")]
pub(super) struct WebSocket {
    socket: Arc<Socket>,
    #[pyo3(get)]
    subprotocol: Option<String>,
    functions: Lock<Option<Functions>>,
    /// The code and the reason of the close.
    closed: Lock<Option<(u16, String)>>,
    /// The number of forks when it was accepted.
    forks: u64,
}

/// The functions of the application.
struct Functions {
    /// Runs a function in the context of the call that accepted the socket.
    run: Py<PyAny>,
    on_message: Option<Py<PyAny>>,
    on_close: Option<Py<PyAny>>,
    line: Box<str>,
}

/// A WebSocket that its call has accepted. The handshake follows when the call has returned.
pub(super) struct Accepted {
    /// The response of the handshake.
    pub(super) response: Vec<u8>,
    /// The socket.
    pub(super) socket: Arc<Socket>,
}

/// Takes the events of a socket to its functions.
pub(super) struct Consumer {
    websocket: Py<WebSocket>,
    application: Arc<Application>,
    /// Its queue may hold this value.
    executor: Weak<Executor<Work>>,
}

/// The events of a socket that wait for a thread. If it is dropped before a thread has taken all of them, the socket is
/// over for the application.
pub struct Events {
    consumer: Arc<Consumer>,
    /// Whether a thread has taken all events.
    are_taken: bool,
    #[allow(dead_code, reason = "counts as a call of the application until it is dropped")]
    ticket: Ticket,
}

impl WebSocketRequest {
    pub(super) fn new(offer: Offer, response: Py<StartResponse>, application: &Arc<Application>, line: String) -> Self {
        Self { offer, response, application: Arc::clone(application), line: line.into_boxed_str() }
    }
}

#[pymethods]
impl WebSocketRequest {
    /// The subprotocols that the client speaks, the one that it prefers first.
    #[getter]
    fn subprotocols(&self) -> Vec<String> {
        self.offer.subprotocols.clone()
    }

    /// Accepts the WebSocket. It is open when the call of the application has returned.
    #[pyo3(signature = (
        on_message=None, on_close=None, *, subprotocol=None, max_message=1_048_576, max_waiting=1_048_576,
        ping_interval=Some(30.0), idle_timeout=None, max_rate=None,
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are Python's keyword arguments")]
    fn accept(
        &self,
        py: Python<'_>,
        on_message: Option<Py<PyAny>>,
        on_close: Option<Py<PyAny>>,
        subprotocol: Option<String>,
        max_message: usize,
        max_waiting: usize,
        ping_interval: Option<f64>,
        idle_timeout: Option<f64>,
        max_rate: Option<u32>,
    ) -> PyResult<Py<WebSocket>> {
        for (name, function) in [("on_message", &on_message), ("on_close", &on_close)] {
            if let Some(function) = function.as_ref().map(|function| function.bind(py))
                && !function.is_callable()
            {
                let kind = type_name(function);
                return Err(PyTypeError::new_err(format!("{name} must be callable, and {kind} is not")));
            }
        }
        if let Some(subprotocol) = &subprotocol
            && !self.offer.subprotocols.contains(subprotocol)
        {
            let offered = self.offer.subprotocols.join(", ");
            return Err(PyValueError::new_err(format!(
                "the client does not speak the subprotocol {subprotocol:?}; it speaks: {offered}"
            )));
        }
        let limits = Limits {
            message_bytes_max: max_message,
            waiting_bytes_max: max_waiting,
            ping_interval: seconds("ping_interval", ping_interval)?,
            idle: seconds("idle_timeout", idle_timeout)?,
            rate_max: max_rate.map(|rate| at_least_one("max_rate", rate)).transpose()?,
        };
        let Some(executor) = self.application.executor.get().filter(|executor| executor.strong_count() > 0) else {
            return Err(PyRuntimeError::new_err("a WebSocket cannot be accepted after the server has stopped"));
        };
        let context = py.import("contextvars")?.call_method0("copy_context")?;
        let run = context.getattr("run")?.unbind();
        let functions = Functions { run, on_message, on_close, line: self.line.clone() };
        let response = self.offer.response(subprotocol.as_deref());
        let socket = Socket::new(limits);
        let accepted = Accepted { response, socket: Arc::clone(&socket) };
        self.response.get().accept(py, accepted)?;
        let websocket = Py::new(
            py,
            WebSocket {
                socket: Arc::clone(&socket),
                subprotocol,
                functions: Lock::new(Some(functions)),
                closed: Lock::default(),
                forks: forks(),
            },
        )?;
        socket.set_listener(Arc::new(Consumer {
            websocket: websocket.clone_ref(py),
            application: Arc::clone(&self.application),
            executor: Weak::clone(executor),
        }));
        Ok(websocket)
    }
}

/// Reads a length of time in seconds. `None` and 0: none.
fn seconds(name: &str, value: Option<f64>) -> PyResult<Option<Duration>> {
    let Some(value) = value.filter(|value| *value != 0.0) else { return Ok(None) };
    let time = Duration::try_from_secs_f64(value).ok().filter(|time| *time <= Duration::from_secs(10_000_000));
    time.map(Some).ok_or_else(|| {
        PyValueError::new_err(format!("{name} must be a number of seconds from 0 to 10000000, or None; not {value}"))
    })
}

fn at_least_one(name: &str, value: u32) -> PyResult<u32> {
    if value == 0 {
        return Err(PyValueError::new_err(format!("{name} must be at least 1, or None")));
    }
    Ok(value)
}

#[pymethods]
impl WebSocket {
    /// Queues a text or bytes for the client. If `max_waiting` bytes wait for it, waits at most `timeout` seconds.
    #[pyo3(signature = (message, *, timeout=0.0))]
    fn send(&self, py: Python<'_>, message: &Bound<'_, PyAny>, timeout: f64) -> PyResult<()> {
        if let Ok(text) = message.cast::<PyString>() {
            self.push(py, Kind::Text, text.to_str()?.as_bytes(), timeout)
        } else if let Ok(bytes) = message.cast::<PyBytes>() {
            self.push(py, Kind::Binary, bytes.as_bytes(), timeout)
        } else if message.is_instance_of::<PyByteArray>() || message.is_instance_of::<PyMemoryView>() {
            let copied = py.get_type::<PyBytes>().call1((message,))?;
            self.push(py, Kind::Binary, copied.cast::<PyBytes>()?.as_bytes(), timeout)
        } else {
            let kind = type_name(message);
            Err(PyTypeError::new_err(format!("a WebSocket sends str or bytes, not {kind}")))
        }
    }

    /// Sends a ping with at most 125 bytes. The server sends pings by itself, too.
    #[pyo3(signature = (data=None))]
    fn ping(&self, py: Python<'_>, data: Option<&[u8]>) -> PyResult<()> {
        let data = data.unwrap_or_default();
        if data.len() > PING_BYTES_MAX {
            return Err(PyValueError::new_err(format!("a ping has at most 125 bytes, not {}", data.len())));
        }
        self.push(py, Kind::Ping, data, 0.0)
    }

    /// Closes the socket, after everything that was sent. Does nothing if it is closed or closes already.
    #[pyo3(signature = (code=1000, reason=""))]
    fn close(&self, code: u16, reason: &str) -> PyResult<()> {
        if !websocket::may_be_sent(code) {
            return Err(PyValueError::new_err(format!(
                "{code} is no code with which an application closes a WebSocket; use 1000 to 1003, 1007 to 1014, \
                 or 3000 to 4999"
            )));
        }
        if reason.len() > REASON_BYTES_MAX {
            let bytes = reason.len();
            return Err(PyValueError::new_err(format!("the reason of a close has at most 123 bytes, not {bytes}")));
        }
        self.check_process()?;
        self.socket.close(Closing { code, reason: reason.to_owned() });
        Ok(())
    }

    /// Whether no further message can be sent.
    #[getter]
    fn closed(&self) -> bool {
        !self.socket.is_open()
    }

    /// How many bytes wait for the client.
    #[getter]
    fn waiting(&self) -> usize {
        self.socket.waiting_bytes()
    }

    /// The code of the close, once the socket is closed.
    #[getter]
    fn close_code(&self) -> Option<u16> {
        self.closed.lock().as_ref().map(|(code, _)| *code)
    }

    /// The reason of the close, once the socket is closed.
    #[getter]
    fn close_reason(&self) -> Option<String> {
        self.closed.lock().as_ref().map(|(_, reason)| reason.clone())
    }
}

impl WebSocket {
    fn check_process(&self) -> PyResult<()> {
        if self.forks == forks() {
            return Ok(());
        }
        Err(PyRuntimeError::new_err("a WebSocket cannot be used in a child process"))
    }

    fn push(&self, py: Python<'_>, kind: Kind, content: &[u8], timeout: f64) -> PyResult<()> {
        self.check_process()?;
        let sent = match self.socket.send(kind, content, None) {
            Err(NotSent::Full) if timeout > 0.0 => {
                let time = Duration::try_from_secs_f64(timeout).unwrap_or(Duration::MAX);
                let until = Instant::now().checked_add(time).unwrap_or_else(|| Instant::now() + FAR);
                py.detach(|| self.socket.send(kind, content, Some(until)))
            }
            sent => sent,
        };
        sent.map_err(|error| match error {
            NotSent::Closed => PyBrokenPipeError::new_err(error.to_string()),
            NotSent::Full => {
                self.socket.count_unsent();
                PyBlockingIOError::new_err(error.to_string())
            }
        })
    }
}

/// A time that no thread waits for.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Listener for Consumer {
    fn listen(self: Arc<Self>) {
        let (executor, events) = (self.executor.upgrade(), Events::new(self));
        // If there is no executor any more, dropping the events frees the socket.
        if let Some(executor) = executor {
            executor.submit_at_any_time(Work::Events(events));
        }
    }

    fn abandon(&self) {
        // The functions and the socket may refer to each other, also if the application has forgotten both.
        let functions = self.websocket.get().functions.lock().take();
        drop(functions);
    }
}

impl Events {
    fn new(consumer: Arc<Consumer>) -> Self {
        let ticket = Ticket::new(&consumer.application);
        Self { consumer, are_taken: false, ticket }
    }

    /// Calls the functions of the application for the events that wait. (Executor thread.)
    pub(super) fn run(mut self, py: Python<'_>) {
        while self.take_some(py) {
            if let Some(executor) = self.consumer.executor.upgrade() {
                return executor.submit_now(Work::Events(self));
            }
        }
    }

    /// Handles some events. Returns whether more may wait.
    fn take_some(&mut self, py: Python<'_>) -> bool {
        let websocket = self.consumer.websocket.get();
        for _ in 0..EVENTS_MAX {
            let Some(event) = websocket.socket.next() else {
                self.are_taken = true;
                return false;
            };
            websocket.handle(py, &self.consumer.websocket, event);
        }
        true
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if !self.are_taken {
            self.consumer.websocket.get().socket.abandon();
        }
    }
}

impl WebSocket {
    fn handle(&self, py: Python<'_>, this: &Py<Self>, event: Event) {
        let message = match event {
            Event::Text(text) => PyString::new(py, &text).into_any(),
            Event::Binary(bytes) => PyBytes::new(py, &bytes).into_any(),
            Event::Closed(code, reason) => return self.end(py, this, code, reason),
        };
        if self.socket.is_closing() {
            return;
        }
        let functions = self.functions.lock();
        let Some(Functions { run, on_message: Some(on_message), line, .. }) = &*functions else { return };
        let (run, on_message, line) = (run.clone_ref(py), on_message.clone_ref(py), line.clone());
        drop(functions);
        let Err(error) = run.call1(py, (on_message, this, message)) else { return };
        if !self.socket.is_open() && error.is_instance_of::<PyBrokenPipeError>(py) {
            log::debug!(target: TARGET, "{line}: the client of the WebSocket has left: {error}");
        } else {
            log::error!(target: TARGET, "{line}: on_message of the WebSocket failed\n{}", traceback(py, &error));
            self.socket.close(Closing { code: websocket::code::ERROR, reason: String::new() });
        }
    }

    /// Tells the application of the close.
    fn end(&self, py: Python<'_>, this: &Py<Self>, code: u16, reason: String) {
        *self.closed.lock() = Some((code, reason.clone()));
        let functions = self.functions.lock().take();
        if let Some(Functions { run, on_close: Some(on_close), line, .. }) = functions
            && let Err(error) = run.call1(py, (on_close, this, code, reason))
        {
            log::error!(target: TARGET, "{line}: on_close of the WebSocket failed\n{}", traceback(py, &error));
        }
    }
}
