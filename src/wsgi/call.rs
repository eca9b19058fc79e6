//! One call of the application: call it, send the blocks of its iterable, close the iterable, end the response.
//!
//! *Owns*: the objects that one executor thread reuses from call to call. *Runs on*: that thread, with the GIL held
//! except while it waits for a slow client. *Invariants*: the iterable is closed exactly once and the response ends
//! exactly once, also after an error. A child process that the application forked sends no response. *Source*: PEP 3333
//! "Specification Details", "Handling the Content-Length Header", "Buffering and Streaming".
#![allow(unsafe_code, reason = "pyo3 glue: the number of references to a callable")]

mod body;
mod iteration;
mod upgrade;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use pyo3::exceptions::PyOSError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use self::body::{Body, iterated, listed, not_started};
use super::context::Context;
use super::counts::Owner;
use super::environ::Environs;
use super::errors::ErrorStream;
use super::report::Slot;
use super::start_response::{StartResponse, say_body};
use super::{
    Application, Call, RETIREMENTS, Ran, Runner, TARGET, Work, calling, child, interrupt, named, overdue, patched,
    threads, traceback,
};
use crate::handler::{Block, End, Request, Responder};
use crate::http::{RequestHead, ResponseHead};
use crate::sys::forks;

pub use self::iteration::Iteration;

const ERROR_BODY: &[u8] = b"Internal Server Error\n";

/// Calls applications on one thread of the executor.
#[derive(Default)]
pub struct CallRunner {
    /// The entry of this thread in a report, with the request that it runs.
    slot: Arc<Slot>,
    /// The reusable objects for each application.
    applications: Vec<(Arc<Application>, PerApplication)>,
    /// The value of `RETIREMENTS` at the last check.
    retirements: u64,
    /// The number of loaded modules at the last check for patched threads.
    modules: isize,
    /// The context in which this thread calls applications.
    context: Option<Context>,
}

/// The objects that are reused from call to call. If the application has kept a callable, new callables replace them.
struct PerApplication {
    environs: Environs,
    errors: Py<ErrorStream>,
    callables: Callables,
}

/// The methods of `StartResponse` that an environ has, and their keys.
const IN_ENVIRON: [(&str, &str); 6] = [
    ("early_hints", "wsgi.early_hints"),
    ("send_continue", "maypole.send_continue"),
    ("client_disconnected", "maypole.client_disconnected"),
    ("socket", "maypole.socket"),
    ("suspend", "maypole.suspend"),
    ("suspend_for_milliseconds", "x-wsgiorg.suspend"),
];

/// The number of references to `Callables::shared`: one from `Callables`, and one from each method, which are
/// `start_response`, `write` and the methods in the environ.
const SHARED_REFERENCES: ffi::Py_ssize_t = 1 + 2 + IN_ENVIRON.len().cast_signed();

/// The callables of a request.
struct Callables {
    /// The object whose methods the fields below are. Each method refers to it.
    shared: Py<StartResponse>,
    start_response: Py<PyAny>,
    /// Only `shared` has a reference to it.
    write: *mut ffi::PyObject,
    /// The template of the environs has a second reference to each of these.
    in_environ: [Py<PyAny>; IN_ENVIRON.len()],
    /// The thread that made all these objects.
    owner: Owner,
    /// Whether a suspended response goes on to use `shared`.
    is_taken: bool,
}

impl Runner<Work> for CallRunner {
    fn run(&mut self, py: Python<'_>, work: Work, clock: &mut Instant) -> Ran {
        super::release(py);
        let ran = match work {
            Work::Call(call) => self.call(py, call, clock),
            Work::Resume(iteration) => self.resume(py, iteration, clock),
            Work::Events(events) => {
                events.run(py);
                Ran::Ended
            }
            Work::Chore(chore) => {
                threads::chore_begins();
                chore(py);
                Ran::Ended
            }
        };
        let modules = patched::module_count(py);
        if self.modules != modules {
            self.modules = modules;
            patched::look(py);
        }
        let retirements = RETIREMENTS.load(Ordering::Relaxed);
        if self.retirements != retirements {
            self.retirements = retirements;
            self.applications.retain(|(application, _)| !application.is_retired());
        }
        ran
    }
}

impl CallRunner {
    /// Makes the runner of the thread with this slot.
    pub(super) fn with_slot(slot: Arc<Slot>) -> Self {
        Self { slot, ..Self::default() }
    }

    /// Runs one call, unless its client has left or its deadline has passed. `clock` is the time, which it updates.
    pub fn call(&mut self, py: Python<'_>, call: Call, clock: &mut Instant) -> Ran {
        let Call { request, responder, ticket } = call;
        let application = &ticket.0;
        if !responder.begin(*clock) {
            application.abandoned.count();
            return Ran::Dropped;
        }
        if patched::is_refused() {
            let (head, block) = server_error();
            responder.respond(head, ERROR_BODY.len() as u64, Some(block), None, Vec::new());
            return Ran::Ended;
        }
        let index = match self.index_of(py, application) {
            Ok(index) => index,
            Err(error) => {
                log_exception(py, &request.head, &error);
                let (head, block) = server_error();
                responder.respond(head, ERROR_BODY.len() as u64, Some(block), None, Vec::new());
                return Ran::Ended;
            }
        };
        if self.context.is_none() {
            match Context::enter_new(py) {
                Ok(context) => self.context = Some(context),
                Err(error) => log_exception(py, &request.head, &error),
            }
        }
        let per_application = &mut self.applications[index].1;
        let due = request.deadline.map(|at| overdue::begin(at, &request, &responder, application));
        self.slot.begin(&request.head, &request.origin, request.received, due);
        request.deadline.into_iter().for_each(overdue::expect);
        let thread = (&*self.slot, &mut self.context);
        let run = AssertUnwindSafe(|| per_application.run(py, application, request, responder, thread, clock));
        let ran = catch_unwind(run);
        let (head, due) = self.slot.end().map(|running| (running.head, running.due)).unzip();
        let how = due.flatten().map_or(Ran::Ended, |due| due.end(py, &self.slot));
        let Ok(reusable) = ran else {
            // A panic of the server ends this response only. What the thread keeps for the application may be half
            // updated, so it is dropped.
            let line = head.map(|head| named(&head)).unwrap_or_default();
            log::error!(target: TARGET, "{line}: the server panicked");
            drop(per_application.callables.shared.get().lock().responder.take());
            self.applications.swap_remove(index);
            return how;
        };
        if !reusable && let Err(error) = per_application.renew(py, application) {
            log::error!(target: TARGET, "{}", traceback(py, &error));
            self.applications.swap_remove(index);
        }
        how
    }

    /// Goes on with a suspended response.
    fn resume(&mut self, py: Python<'_>, iteration: Box<Iteration>, clock: &mut Instant) -> Ran {
        let (at, due) = iteration.due(*clock).unzip();
        self.slot.begin(iteration.head(), &iteration.origin, iteration.received, due);
        at.into_iter().for_each(overdue::expect);
        let head = Arc::clone(iteration.head());
        let ran = catch_unwind(AssertUnwindSafe(|| iteration.go_on(py, clock)));
        let due = self.slot.end().and_then(|running| running.due);
        if ran.is_err() {
            log::error!(target: TARGET, "{}: the server panicked", named(&head));
        }
        due.map_or(Ran::Ended, |due| due.end(py, &self.slot))
    }

    /// Returns the index of an application in `applications`. Adds the application if it is not there.
    fn index_of(&mut self, py: Python<'_>, application: &Arc<Application>) -> PyResult<usize> {
        if let Some(index) = self.applications.iter().position(|(known, _)| Arc::ptr_eq(known, application)) {
            return Ok(index);
        }
        self.applications.push((Arc::clone(application), PerApplication::new(py, application)?));
        Ok(self.applications.len() - 1)
    }
}

impl PerApplication {
    fn new(py: Python<'_>, application: &Application) -> PyResult<Self> {
        let environs = Environs::new(
            py,
            Arc::clone(&application.keys),
            application.base.bind(py),
            application.headers_raw,
            application.prefix_bytes,
        )?;
        let errors = Bound::new(py, ErrorStream::new())?;
        environs.set(py, "wsgi.errors", &errors)?;
        let callables = Callables::new(py, &environs, application)?;
        Ok(Self { environs, errors: errors.unbind(), callables })
    }

    /// Makes new callables, because the application has kept some of the old ones.
    fn renew(&mut self, py: Python<'_>, application: &Application) -> PyResult<()> {
        self.callables = Callables::new(py, &self.environs, application)?;
        Ok(())
    }

    /// Runs one request to the end of its response. Returns whether the next request can reuse the callables.
    fn run(
        &mut self,
        py: Python<'_>,
        application: &Arc<Application>,
        request: Request,
        responder: Responder,
        thread: (&Slot, &mut Option<Context>),
        clock: &mut Instant,
    ) -> bool {
        let forks_before = forks();
        let head = request.head;
        self.errors.get().begin(&head);
        let environ = self.environs.build(py, &head, request.body, &request.origin);
        let environ = environ.and_then(|environ| {
            if let Some(deadline) = request.deadline {
                environ.set_item(pyo3::intern!(py, "maypole.deadline"), overdue::python_time(deadline))?;
            }
            Ok(environ)
        });
        let shared = self.callables.shared.bind(py);
        let response = shared.get();
        response.begin(responder, &head);
        let environ = environ.and_then(|environ| {
            if head.asks_for_upgrade() {
                upgrade::set(&environ, application, shared, &head)?;
            }
            Ok(environ)
        });
        let (body, environ) = match environ {
            Err(error) => (Err(error), None),
            Ok(environ) => {
                let body = call(application, &environ, self.callables.start_response.bind(py), response, |error| {
                    log_exception(py, &head, error);
                });
                (body, Some(environ))
            }
        };
        if forks() != forks_before {
            child::leave(py, body.err());
        }
        let values = match &environ {
            Some(environ) if !application.access_log_environ.is_empty() => {
                access_log_values(environ, &application.access_log_environ)
            }
            _ => Vec::new(),
        };
        drop(environ);
        let body = match body {
            Ok(Body::Suspended(unfinished)) => {
                let Request { origin, received, deadline, .. } = request;
                let limit = deadline.map(|deadline| deadline.saturating_duration_since(received));
                let parts = (head, origin, received, limit, values);
                return self.suspend(py, application, unfinished, parts, thread, clock);
            }
            body => body,
        };
        self.errors.get().finish();
        // A block that another thread of the application is sending belongs to the response: wait for it.
        drop(response.settle(py));
        let reusable = self.callables.are_ours_alone(py);
        if !reusable {
            response.keep_watch();
        }
        *clock = Instant::now();
        finish(py, response, body, &head, Some(*clock), values);
        reusable
    }
}

impl Callables {
    fn new(py: Python<'_>, environs: &Environs, application: &Application) -> PyResult<Self> {
        let (lapses, named_files) = (Arc::clone(&application.lapses), application.named_files.clone());
        let shared = Bound::new(py, StartResponse::new(lapses, named_files))?;
        let start_response = shared.getattr("start_response")?;
        let write = shared.getattr("write")?;
        let mut in_environ = Vec::with_capacity(IN_ENVIRON.len());
        for (method, key) in IN_ENVIRON {
            let method = shared.getattr(method)?;
            environs.set(py, key, &method)?;
            in_environ.push(method.unbind());
        }
        let in_environ = in_environ.try_into().expect("one for each name");
        let write_ptr = write.as_ptr();
        // SAFETY: it is alive.
        let owner = unsafe { Owner::of(shared.as_ptr()) };
        shared.get().set_write(write.unbind());
        Ok(Self {
            shared: shared.unbind(),
            start_response: start_response.unbind(),
            write: write_ptr,
            in_environ,
            owner,
            is_taken: false,
        })
    }

    /// Returns whether no other thread and no object of the application has a reference to them.
    fn are_ours_alone(&self, _py: Python<'_>) -> bool {
        let owner = self.owner;
        // SAFETY: all objects are alive: `write` is in `shared` until `retire`, `self` holds the others. This thread made
        // them.
        unsafe {
            owner.has_all(self.start_response.as_ptr(), 1)
                && owner.has_all(self.write, 1)
                && self.in_environ.iter().all(|method| owner.has_all(method.as_ptr(), 2))
                && owner.has_all(self.shared.as_ptr(), SHARED_REFERENCES)
        }
    }
}

impl Drop for Callables {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        // If the interpreter has ended, the object is gone too.
        let _ = Python::try_attach(|_| self.shared.get().retire());
    }
}

/// Calls the application, iterates over the returned iterable, and closes the iterable.
fn call(
    application: &Application,
    environ: &Bound<'_, PyDict>,
    start_response: &Bound<'_, PyAny>,
    response: &StartResponse,
    log: impl Fn(&PyErr),
) -> PyResult<Body> {
    let py = environ.py();
    let iterable = calling::call(application.callable.bind(py), [environ.as_any(), start_response])?;
    let body = match listed(&iterable, response) {
        Some(body) => body,
        None => iterated(&iterable, response),
    };
    if !matches!(body, Ok(Body::Suspended(_))) {
        close(&iterable, |error| log(error));
    }
    body
}

/// Closes an iterable.
fn close(iterable: &Bound<'_, PyAny>, log: impl Fn(&PyErr)) {
    // Lists and tuples have nothing to close.
    if iterable.is_exact_instance_of::<PyList>() || iterable.is_exact_instance_of::<PyTuple>() {
        return;
    }
    let close = iterable
        .getattr_opt(pyo3::intern!(iterable.py(), "close"))
        .and_then(|close| close.map(|close| calling::call(&close, [])).transpose());
    if let Err(error) = close {
        log(&error);
    }
}

/// Ends the response.
#[allow(clippy::inline_always, reason = "a call would cost each request; suspended ones have a copy")]
#[inline(always)]
fn finish(
    py: Python<'_>,
    response: &StartResponse,
    body: PyResult<Body>,
    request: &RequestHead,
    ended: Option<Instant>,
    values: Vec<(String, String)>,
) {
    let (file, responder, head, head_sent, missing, gone, is_bodyless, excess, taken_over) = {
        let mut state = response.lock();
        if state.accepted.is_some() {
            drop(state);
            return upgrade::open(py, response, body, request, ended, values);
        }
        let file = state.named.take().filter(|_| body.is_ok());
        let (missing, is_bodyless, taken_over) = (state.missing(), state.is_bodyless(), state.taken_over);
        let (responder, head) = (state.responder.take(), state.head.take());
        (file, responder, head, state.head_sent, missing, state.gone, is_bodyless, state.excess, taken_over)
    };
    if excess {
        log_excess(request);
    }
    // The responder is missing only after a panic.
    let Some(mut responder) = responder else { return };
    let head = match (file, head) {
        (Some(file), Some(head)) => {
            let Some((head, bytes, blocks)) = response.with_file(py, &file, head, request) else { return };
            return responder.respond(head, bytes, blocks, ended, values);
        }
        (_, head) => head,
    };
    let body = match body {
        Ok(Body::Sent) if head.is_none() && !head_sent => Err(not_started()),
        body => body,
    };
    match body {
        Ok(Body::Whole { first, rest, bytes }) => {
            let Some(head) = head else { return responder.finish(End::Failed, ended, values) };
            if is_bodyless {
                if bytes > 0 && !request.is_head() {
                    say_body(response.lapses());
                }
                // For a HEAD, send a Content-Length only if the application produced the body anyway.
                responder.head(head, (bytes > 0 && request.is_head()).then_some(bytes));
                return responder.finish(End::Complete, ended, values);
            }
            if missing.is_some_and(|missing| missing > bytes) {
                log_shortfall(request);
            }
            respond_whole(responder, (head, bytes), (first, rest), ended, values);
        }
        Ok(Body::Sent | Body::Suspended(_)) => {
            if let Some(head) = head {
                // There was no block, so the body is empty. For a HEAD the length stays unknown.
                responder.head(head, (!is_bodyless).then_some(0));
            }
            if !gone && !is_bodyless && missing.is_some_and(|missing| missing > 0) {
                log_shortfall(request);
            }
            responder.finish(End::Complete, ended, values);
        }
        Err(error) => {
            say_failed(py, request, &error, gone || taken_over || responder.is_ended_by_server());
            // If the client has received all bytes of Content-Length, the response is complete.
            let end = if taken_over || missing == Some(0) { End::Complete } else { End::Failed };
            fail(responder, request, head_sent || taken_over, end, ended, values);
        }
    }
}

/// Sends a response whose blocks are all known.
#[allow(clippy::inline_always, reason = "a call would cost each request")]
#[inline(always)]
fn respond_whole(
    responder: Responder,
    (head, bytes): (ResponseHead, u64),
    (first, rest): (Option<Block>, Vec<Block>),
    ended: Option<Instant>,
    values: Vec<(String, String)>,
) {
    if rest.is_empty() {
        return responder.respond(head, bytes, first, ended, values);
    }
    respond_with_many(responder, (head, bytes), first.into_iter().chain(rest), ended, values);
}

/// Sends a response of several blocks.
#[inline(never)]
fn respond_with_many(
    responder: Responder,
    (head, bytes): (ResponseHead, u64),
    blocks: impl Iterator<Item = Block>,
    ended: Option<Instant>,
    values: Vec<(String, String)>,
) {
    responder.respond(head, bytes, blocks, ended, values);
}

/// Ends the response of an application that failed: with `end` if it `has_begun`, otherwise with an error response.
#[cold]
fn fail(
    responder: Responder,
    request: &RequestHead,
    has_begun: bool,
    end: End,
    ended: Option<Instant>,
    values: Vec<(String, String)>,
) {
    if has_begun {
        return responder.finish(end, ended, values);
    }
    if responder.is_ended_by_server() {
        return iteration::cut_short(responder, request, false, false, ended, values);
    }
    let (head, block) = server_error();
    responder.respond(head, ERROR_BODY.len() as u64, Some(block), ended, values);
}

/// Logs the exception that has ended a call. `has_left` says whether the client went away, or the call has taken the
/// connection over.
fn say_failed(py: Python<'_>, request: &RequestHead, error: &PyErr, has_left: bool) {
    // WebSocket libraries end a call with such an exception as well.
    if has_left && error.is_instance_of::<PyOSError>(py) {
        log::debug!(target: TARGET, "{}: the client went away: {error}", named(request));
    } else if interrupt::is_own(py, error) {
        log::info!(target: TARGET, "{}: the interruption has ended the call", named(request));
    } else if !is_logged(py, error) {
        log_exception(py, request, error);
    }
}

/// Returns the response for an application that failed before its head was sent.
fn server_error() -> (ResponseHead, Block) {
    let head = ResponseHead::new(b"500 Internal Server Error").and_then(|mut head| {
        head.push_field(b"Content-Type", b"text/plain; charset=utf-8")?;
        head.push_field(b"Content-Length", ERROR_BODY.len().to_string().as_bytes())?;
        Ok(head)
    });
    // The checks accept these constants. If they did not, the plain error would still be a correct response.
    let head = head.unwrap_or_else(|_| ResponseHead::plain_error(500).0);
    (head, Block::Owned(ERROR_BODY.to_vec()))
}

fn log_excess(request: &RequestHead) {
    let line = named(request);
    log::warn!(target: TARGET, "{line}: the application gave more than its Content-Length; the rest was dropped");
}

fn log_shortfall(request: &RequestHead) {
    let line = named(request);
    log::error!(target: TARGET, "{line}: the application gave less than its Content-Length; the connection is cut");
}

fn log_exception(py: Python<'_>, request: &RequestHead, error: &PyErr) {
    log::error!(target: TARGET, "{}\n{}", named(request), traceback(py, error));
}

/// Returns whether the exception's `maypole_logged` is true: its reason is in a log already, so it is not logged again.
fn is_logged(py: Python<'_>, error: &PyErr) -> bool {
    error.value(py).getattr(pyo3::intern!(py, "maypole_logged")).is_ok_and(|logged| logged.is_truthy().unwrap_or(false))
}

/// Returns the environ entries for the access log.
fn access_log_values(environ: &Bound<'_, PyDict>, names: &[String]) -> Vec<(String, String)> {
    let value = |name: &String| {
        let value = environ.get_item(name).ok()??;
        Some((name.clone(), value.str().ok()?.to_string_lossy().into_owned()))
    };
    names.iter().filter_map(value).collect()
}
