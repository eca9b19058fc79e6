//! `start_response`, `write` and the other callables of one request.
//!
//! *Owns*: the responder while the application runs, the head until it is sent, and the number of sent bytes. *Runs
//! on*: any thread of the application. *Invariants*: no thread holds the lock while it waits or runs Python code. The
//! head is sent with the first block that is not empty. At most Content-Length bytes are sent. A process that the
//! application forked sends nothing. *Source*: PEP 3333 "The `start_response()` Callable", "The `write()` Callable",
//! "Error Handling"; RFC 8297.

mod given;
mod suspending;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, MutexGuard};

use pyo3::exceptions::{PyAssertionError, PyBrokenPipeError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

pub(super) use self::given::{buffer_copied, say_body, type_name};
use self::given::{exception, interim_head, response_head};
pub(super) use self::suspending::Empty;
use super::lapses::Lapses;
use super::suspend::{self, Resume, Suspension};
use super::websocket::Accepted;
use super::{block, taken};
use crate::files::{Named, NamedFiles};
use crate::handler::{Block, Buffers, Gone, KeptBy, Responder, Sent, TakenStream, Watch};
use crate::http::{RequestHead, ResponseHead, Version, status_has_body};
use crate::sys::{Condition, Lock, forks};

/// A response with this status or a higher one refuses a WebSocket that was accepted before.
const REFUSALS: u16 = 400;

/// One request's callables, which are the methods of this Python object.
#[pyclass(frozen, module = "maypole", name = "StartResponse")]
pub(super) struct StartResponse {
    state: Lock<State>,
    lapses: Arc<Lapses>,
    /// The files that the head may name. `None`: the fields that name one are sent as they are.
    named_files: Option<Arc<NamedFiles>>,
    /// Notified when the thread that waited for the client has returned the responder.
    returned: Condition,
}

/// The state of one response.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct State {
    /// `None` before and after the request, and while it is lent.
    pub(super) responder: Option<Responder>,
    /// Whether a thread has taken the responder to wait for the client. It returns the responder.
    lent: bool,
    /// Whether the call has returned. A write in progress is then the last.
    ending: bool,
    /// The source for `client_disconnected` while `responder` is `None`.
    watch: Option<Watch>,
    /// For the head and a small body.
    pub(super) buffers: Buffers,
    /// The head from `start_response`, until it is sent.
    pub(super) head: Option<ResponseHead>,
    pub(super) head_sent: bool,
    content_length: Option<u64>,
    sent: u64,
    /// Whether the application gave more bytes than Content-Length.
    pub(super) excess: bool,
    pub(super) gone: bool,
    /// Whether the application has taken the connection over. Its response is then not sent.
    pub(super) taken_over: bool,
    is_head: bool,
    is_http10: bool,
    /// Whether the status forbids a body.
    no_body: bool,
    /// Whether the head that was sent is that of a stream of events.
    pub(super) is_events: bool,
    /// The WebSocket that the application has accepted. Its response is then not sent.
    pub(super) accepted: Option<Accepted>,
    /// Its suspensions, once one was announced.
    suspension: Option<Arc<Suspension>>,
    /// The file that the head names. It is sent in place of the body.
    pub(super) named: Option<Named>,
    /// The number of forks when the request began.
    forks: u64,
    /// The `write` callable. Until `retire` it is a reference cycle, because it refers to the object of this state.
    write: Option<Py<PyAny>>,
}

impl State {
    /// Begins a request. Setting the parts one by one costs less than moving a new state.
    fn renew(&mut self, next: Responder, empty: Buffers, request: &RequestHead) {
        // Without `..`, a new part cannot be forgotten here. `write` stays.
        let Self {
            responder,
            lent,
            ending,
            watch,
            buffers,
            head,
            head_sent,
            content_length,
            sent,
            excess,
            gone,
            taken_over,
            is_head,
            is_http10,
            no_body,
            is_events,
            accepted,
            suspension,
            named,
            forks: forks_before,
            write: _,
        } = self;
        (*responder, *lent, *ending, *watch) = (Some(next), false, false, None);
        (*buffers, *head, *head_sent) = (empty, None, false);
        (*content_length, *sent, *excess) = (None, 0, false);
        (*gone, *taken_over) = (false, false);
        *is_head = request.is_head();
        *is_http10 = request.response_version() == Version::Http10;
        (*no_body, *is_events) = (false, false);
        (*accepted, *suspension, *named) = (None, None, None);
        *forks_before = forks();
    }

    /// Returns whether the response has no body even if the application yields one.
    pub(super) fn is_bodyless(&self) -> bool {
        self.is_head || self.no_body || self.named.is_some() || self.accepted.is_some()
    }

    /// Returns how many more bytes Content-Length allows, if the head has one.
    pub(super) fn missing(&self) -> Option<u64> {
        self.content_length.map(|length| length.saturating_sub(self.sent))
    }

    /// Returns whether the connection has seen the client leave. Needs no send, so it also works for an empty block.
    pub(super) fn find_gone(&mut self) -> bool {
        let is_ours = !self.taken_over && self.forks == forks();
        self.gone |= is_ours && self.responder.as_ref().is_some_and(Responder::is_gone);
        self.gone
    }

    fn take_head(&mut self, body_bytes: Option<u64>) {
        // The head of a file follows from the file.
        if self.named.is_some() {
            return;
        }
        if let (Some(head), Some(responder)) = (self.head.take(), self.responder.as_mut()) {
            self.head_sent = true;
            self.is_events = suspending::is_event_stream(&head);
            responder.head(head, body_bytes);
        }
    }
}

/// The result of handing a block over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// The block is sent or queued.
    Over,
    /// No further block will be sent: the response has no body, or has all bytes of its Content-Length.
    Full,
    /// The client has left.
    Gone,
    /// `start_response` has not been called.
    NotStarted,
    /// The response has ended.
    Ended,
}

impl StartResponse {
    pub(super) fn new(lapses: Arc<Lapses>, named_files: Option<Arc<NamedFiles>>) -> Self {
        Self { state: Lock::default(), returned: Condition::default(), lapses, named_files }
    }

    /// Returns the response with a file, in place of a head that names one. (With the GIL, which it releases.)
    pub(super) fn with_file(
        &self,
        py: Python<'_>,
        named: &Named,
        head: ResponseHead,
        request: &RequestHead,
    ) -> Option<(ResponseHead, u64, Vec<Block>)> {
        let files = self.named_files.as_ref()?;
        Some(py.detach(|| files.response(named, head, request)))
    }

    /// Returns the violations that have been logged for the application.
    pub(super) fn lapses(&self) -> &Lapses {
        &self.lapses
    }

    /// Keeps the `write` callable, so that each request uses the same.
    pub(super) fn set_write(&self, write: Py<PyAny>) {
        self.lock().write = Some(write);
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Begins a request.
    pub(super) fn begin(&self, responder: Responder, head: &RequestHead) {
        let empty = responder.take_buffers();
        self.lock().renew(responder, empty, head);
    }

    /// Keeps a watch on the client, so that an application can call `client_disconnected` after the request.
    pub(super) fn keep_watch(&self) {
        let mut state = self.lock();
        state.watch = state.responder.as_ref().map(Responder::watch);
    }

    /// Drops `write`, and with it the reference cycle.
    pub(super) fn retire(&self) {
        let write = self.lock().write.take();
        drop(write);
    }

    /// Returns the state once the responder is not lent. Waits without the GIL for the thread that has it. That thread
    /// waits for the client, at most until the client's timeout.
    fn settled(&self, py: Python<'_>) -> MutexGuard<'_, State> {
        loop {
            let state = self.lock();
            // In a forked child, the thread with the responder does not exist.
            if !state.lent || state.forks != forks() {
                return state;
            }
            drop(state);
            py.detach(|| {
                let mut state = self.lock();
                while state.lent {
                    state = self.returned.wait(state);
                }
            });
        }
    }

    /// Takes the responder out, calls `wait` with it without the GIL, and puts it back.
    fn lend<T>(
        &self,
        py: Python<'_>,
        mut state: MutexGuard<'_, State>,
        wait: impl FnOnce(&mut Responder) -> T + Send,
    ) -> Option<(T, MutexGuard<'_, State>)>
    where
        T: Send,
    {
        let mut responder = state.responder.take()?;
        state.watch = Some(responder.watch());
        state.lent = true;
        drop(state);
        let result = py.detach(|| catch_unwind(AssertUnwindSafe(|| wait(&mut responder))));
        let mut state = self.lock();
        state.responder = Some(responder);
        state.watch = None;
        state.lent = false;
        self.returned.notify_all();
        match result {
            Ok(result) => Some((result, state)),
            Err(panic) => {
                drop(state);
                resume_unwind(panic)
            }
        }
    }

    /// Accepts a WebSocket: when the call has returned, its handshake is sent in place of the response.
    pub(super) fn accept(&self, py: Python<'_>, accepted: Accepted) -> PyResult<()> {
        let mut state = self.settled(py);
        let refused = |why: &str| Err(PyRuntimeError::new_err(format!("a WebSocket cannot be accepted {why}")));
        if state.forks != forks() {
            return refused("in a child process");
        }
        if state.responder.is_none() || state.ending {
            return refused("after the response has ended");
        }
        if state.accepted.is_some() {
            return refused("twice");
        }
        if state.head_sent || state.head.as_ref().is_some_and(|head| head.status() >= REFUSALS) {
            return refused("after the response has begun");
        }
        // An application need not call start_response now.
        state.head = Some(ResponseHead::of_status(204));
        state.accepted = Some(accepted);
        Ok(())
    }

    /// Records that the call has returned: no further block is sent. Waits for a block that is being handed over.
    pub(super) fn settle(&self, py: Python<'_>) -> MutexGuard<'_, State> {
        self.lock().ending = true;
        self.settled(py)
    }

    /// Hands a block over, after the head if that has not been sent. Waits without the GIL if memory is full, or while
    /// another thread writes.
    pub(super) fn send(&self, bytes: &Bound<'_, PyBytes>, body_bytes: Option<u64>) -> Handed {
        let py = bytes.py();
        let mut state = self.settled(py);
        if state.forks != forks() {
            return Handed::Ended;
        }
        if state.gone {
            return Handed::Gone;
        }
        if state.taken_over {
            return Handed::Full;
        }
        if state.responder.is_none() || state.ending {
            return Handed::Ended;
        }
        if !state.head_sent {
            if state.head.is_none() {
                return Handed::NotStarted;
            }
            if state.is_bodyless() {
                if state.no_body && !state.is_head {
                    say_body(&self.lapses);
                }
                // `finish` sends the head alone.
                return Handed::Full;
            }
        }
        let len = bytes.as_bytes().len() as u64;
        let allowed = state.missing().map_or(len, |missing| missing.min(len));
        state.excess |= allowed < len;
        if allowed == 0 {
            return Handed::Full;
        }
        state.take_head(body_bytes);
        let Some(responder) = state.responder.as_mut() else { return Handed::Ended };
        let sent = responder.send(block::block(bytes, usize::try_from(allowed).unwrap_or(usize::MAX)));
        let sent = match sent {
            Ok(Sent::Done) => Ok(()),
            Err(Gone) => Err(Gone),
            Ok(Sent::WouldWait(block)) => {
                let lent = self.lend(py, state, |responder| responder.send_waiting(block));
                let Some((result, back)) = lent else { return Handed::Ended };
                state = back;
                result
            }
        };
        if sent.is_err() {
            state.gone = true;
            return Handed::Gone;
        }
        state.sent += allowed;
        if state.excess { Handed::Full } else { Handed::Over }
    }

    /// Takes the connection over. Waits without the GIL until the server has released it.
    fn take(&self, py: Python<'_>, kept_by: KeptBy) -> PyResult<TakenStream> {
        let state = self.settled(py);
        if state.forks != forks() {
            return Err(PyRuntimeError::new_err("a connection cannot be taken over in a child process"));
        }
        let ended = || PyRuntimeError::new_err("a connection cannot be taken over after the response ended");
        if state.ending {
            return Err(ended());
        }
        if state.accepted.is_some() {
            let why = "a connection cannot be taken over after its WebSocket was accepted";
            return Err(PyRuntimeError::new_err(why));
        }
        let Some((result, mut state)) = self.lend(py, state, |responder| responder.take_stream(kept_by)) else {
            return Err(ended());
        };
        if result.is_ok() {
            state.taken_over = true;
            state.head = None;
            state.head_sent = true;
            state.content_length = None;
        }
        drop(state);
        result.map_err(taken::error)
    }

    /// Sends an interim response if the client speaks HTTP/1.1 and the response has not begun. Returns whether it will
    /// be sent. The departure of a client is reported only when the final response is sent.
    fn send_interim(&self, send: impl FnOnce(&mut Responder) -> Result<bool, Gone>) -> bool {
        let mut state = self.lock();
        if state.is_http10 || state.head_sent || state.forks != forks() {
            return false;
        }
        state.responder.as_mut().is_some_and(|responder| send(responder).unwrap_or(false))
    }
}

#[pymethods]
impl StartResponse {
    #[pyo3(signature = (status, headers, exc_info=None))]
    fn start_response(
        &self,
        status: &Bound<'_, PyAny>,
        headers: &Bound<'_, PyAny>,
        exc_info: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = status.py();
        let buffer = {
            let mut state = self.lock();
            if state.taken_over
                && let Some(write) = &state.write
            {
                return Ok(write.clone_ref(py));
            }
            if exc_info.is_some() && state.head_sent {
                drop(state);
                return Err(exception(py, exc_info)?);
            }
            std::mem::take(&mut state.buffers.head)
        };
        let mut head = response_head(buffer, status, headers, &self.lapses)?;
        let named = self.named_files.as_ref().and_then(|files| files.take_from(&mut head));
        let mut state = self.lock();
        if exc_info.is_none() && state.accepted.is_none() && (state.head.is_some() || state.head_sent) {
            return Err(PyAssertionError::new_err("start_response() called a second time without exc_info"));
        }
        if (state.responder.is_none() && !state.lent) || state.ending {
            return Err(PyRuntimeError::new_err("start_response() called after the response ended"));
        }
        state.content_length = head.content_length();
        state.no_body = !status_has_body(head.status());
        state.named = named;
        let refused = state.accepted.take_if(|_| head.status() >= REFUSALS);
        state.head = Some(head);
        let write = state.write.as_ref().map(|write| write.clone_ref(py));
        drop(state);
        if let Some(accepted) = refused {
            // The application refuses the WebSocket after all. Its functions may have finalizers.
            accepted.socket.abandon();
        }
        write.ok_or_else(|| PyRuntimeError::new_err("start_response() called after the response ended"))
    }

    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let copied;
        let bytes = if let Ok(bytes) = data.cast::<PyBytes>() {
            bytes
        } else {
            let wrong = || PyTypeError::new_err(format!("write() takes bytes, not {}", type_name(data)));
            copied = buffer_copied(data, &self.lapses)?.ok_or_else(wrong)?;
            &copied
        };
        if bytes.as_bytes().is_empty() {
            let mut state = self.lock();
            let is_open = (state.responder.is_some() || state.lent) && !state.ending;
            if is_open && !state.find_gone() {
                return Ok(());
            }
        }
        match self.send(bytes, None) {
            Handed::Over => Ok(()),
            Handed::Full => {
                let state = self.lock();
                if state.excess && !state.is_bodyless() {
                    return Err(PyValueError::new_err("write() beyond the response's Content-Length"));
                }
                Ok(())
            }
            Handed::Gone => Err(PyBrokenPipeError::new_err("the client has gone")),
            Handed::NotStarted => Err(PyAssertionError::new_err("write() before start_response()")),
            Handed::Ended => Err(PyRuntimeError::new_err("write() after the response ended")),
        }
    }

    /// Sends `103 Early Hints` with these fields, if the client speaks HTTP/1.1 and the response has not begun.
    fn early_hints(&self, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        let interim = interim_head(b"HTTP/1.1 103 Early Hints\r\n", Some(headers))?;
        self.send_interim(|responder| responder.interim(&interim));
        Ok(())
    }

    /// Sends `100 Continue` with these fields, under the same conditions. Returns whether it was sent. The server then
    /// does not send another when the application begins to read the body. The application may call this several times.
    #[pyo3(signature = (headers=None))]
    fn send_continue(&self, headers: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let interim = interim_head(b"HTTP/1.1 100 Continue\r\n", headers)?;
        Ok(self.send_interim(|responder| responder.interim_continue(&interim)))
    }

    /// Returns whether the client has closed its side of the connection, so that a long computation can stop early.
    fn client_disconnected(&self) -> bool {
        let state = self.lock();
        match (&state.responder, &state.watch) {
            (Some(responder), _) => responder.client_disconnected(),
            (None, Some(watch)) => watch.client_disconnected(),
            (None, None) => true,
        }
    }

    /// Announces that the next empty block waits for an event. Returns a callable for the event. `timeout` is in seconds.
    #[pyo3(signature = (timeout=None, *, flush=false))]
    fn suspend(&self, py: Python<'_>, timeout: Option<f64>, flush: bool) -> PyResult<Resume> {
        self.announce(py, suspend::until(timeout, "seconds", 1.0)?, flush)
    }

    /// Does the same with a time-out in milliseconds.
    #[pyo3(signature = (timeout=None, /))]
    fn suspend_for_milliseconds(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Resume> {
        self.announce(py, suspend::until(timeout, "milliseconds", 0.001)?, false)
    }

    /// Takes the connection over. Returns its socket, which the application owns from now on.
    fn socket(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let stream = self.take(py, KeptBy::Application)?;
        taken::socket(py, taken::parts(py, stream))
    }

    /// Takes the connection over until the call ends. Returns the parts of a socket.
    fn socket_until_end(&self, py: Python<'_>) -> PyResult<taken::Parts> {
        Ok(taken::parts(py, self.take(py, KeptBy::Server)?))
    }
}
