//! An iteration that is set aside while its response is suspended, and goes on later, perhaps on another thread.
//!
//! *Owns*: the application's iterable, and the objects of its request. *Runs on*: executor threads, with the GIL held.
//! *Invariants*: the iterable is closed exactly once, and the response ends exactly once.

use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::body::{Body, Step, Unfinished};
use super::{Callables, PerApplication, close, finish, log_exception};
use crate::executor::Executor;
use crate::handler::{Block, End, Origin, Pause, Producer, Responder};
use crate::http::{RequestHead, ResponseHead};
use crate::sys::forks;
use crate::wsgi::context::{self, Context};
use crate::wsgi::errors::ErrorStream;
use crate::wsgi::overdue::{self, Due};
use crate::wsgi::report::Slot;
use crate::wsgi::start_response::StartResponse;
use crate::wsgi::suspend::{Place, Suspension};
use crate::wsgi::{Application, TARGET, Ticket, Work, child, named, threads};

/// An iteration that has been suspended at least once.
pub struct Iteration {
    pub(super) unfinished: Unfinished,
    pub(super) response: Py<StartResponse>,
    pub(super) errors: Py<ErrorStream>,
    /// The context in which the request began.
    pub(super) context: Context,
    /// The thread that has run in the context last.
    pub(super) thread: ThreadId,
    pub(super) head: Arc<RequestHead>,
    pub(super) origin: Arc<Origin>,
    pub(super) received: Instant,
    /// How long it may run until its next suspension. `None`: as long as it likes.
    pub(super) limit: Option<Duration>,
    /// Entries of the environ for the access log.
    pub(super) values: Vec<(String, String)>,
    pub(super) ticket: Ticket,
    /// `None`: there is none that could go on.
    pub(super) executor: Option<Arc<Executor<Work>>>,
    /// Its place, while it is set aside.
    pub(super) place: Option<Place>,
}

/// What follows a suspension that was reached.
enum Next {
    /// The iteration is set aside.
    Nothing,
    /// It goes on.
    Blocks(Box<Iteration>),
    /// It ends.
    End(Box<Iteration>),
}

impl Iteration {
    /// Queues an iteration whose suspension is over. (Any thread.)
    pub(in crate::wsgi) fn queue(iteration: Box<Self>) {
        if let Some(executor) = iteration.executor.clone() {
            executor.submit_step(Work::Resume(iteration));
        }
    }

    /// Returns the head of its request.
    pub(in crate::wsgi) fn head(&self) -> &Arc<RequestHead> {
        &self.head
    }

    /// Returns when its request was received.
    pub(in crate::wsgi) fn received(&self) -> Instant {
        self.received
    }

    /// Returns the application.
    pub(super) fn application(&self) -> &Arc<Application> {
        &self.ticket.0
    }

    /// Returns the deadline of the part that begins now, if it has one.
    pub(super) fn due(&self, now: Instant) -> Option<(Instant, Due)> {
        let at = now + self.limit?;
        let response = self.response.get().lock();
        let responder = response.responder.as_ref()?;
        Some((at, overdue::begin_again(at, self.limit?, responder, self.application())))
    }

    /// Goes on after a suspension, until the next one or the end.
    pub(super) fn go_on(mut self: Box<Self>, py: Python<'_>, clock: &mut Instant) {
        self.place = None;
        let goes_on = self.response.get().goes_on(py);
        self.run(py, goes_on, clock);
    }

    /// Waits for the suspension that the application has reached, or sets the iteration aside. The context is the
    /// current one until then.
    pub(super) fn suspend(self: Box<Self>, py: Python<'_>, clock: &mut Instant) {
        match self.reached(py) {
            Next::Nothing => {}
            Next::Blocks(iteration) => iteration.run(py, true, clock),
            Next::End(iteration) => iteration.run(py, false, clock),
        }
    }

    /// Iterates in the context of the request, until the iteration is set aside or has ended.
    fn run(mut self: Box<Self>, py: Python<'_>, mut goes_on: bool, clock: &mut Instant) {
        loop {
            if let Err(error) = self.enter(py) {
                log_exception(py, &self.head, &error);
                goes_on = false;
            }
            let forks_before = forks();
            let step = if goes_on { self.unfinished.go_on(py, self.response.get()) } else { Ok(Step::Sent) };
            let is_suspended = matches!(step, Ok(Step::Suspended));
            if !is_suspended {
                close(self.unfinished.iterable.bind(py), |error| log_exception(py, &self.head, error));
            }
            if forks() != forks_before {
                child::leave(py, step.err());
            }
            if let Err(error) = self.context.exit(py) {
                log_exception(py, &self.head, &error);
            }
            if !is_suspended {
                return (*self).end(py, step.map(|_| Body::Sent), goes_on, clock);
            }
            match self.reached(py) {
                Next::Nothing => return,
                Next::Blocks(iteration) => (self, goes_on) = (iteration, true),
                Next::End(iteration) => (self, goes_on) = (iteration, false),
            }
        }
    }

    /// Enters the context of the request.
    fn enter(&mut self, py: Python<'_>) -> PyResult<()> {
        self.context.enter(py)?;
        let here = thread::current().id();
        if here == self.thread { Ok(()) } else { self.change_thread(py, here) }
    }

    #[cold]
    fn change_thread(&mut self, py: Python<'_>, here: ThreadId) -> PyResult<()> {
        self.thread = here;
        context::adopt_locals(py)
    }

    /// Does what follows a suspension that was reached.
    fn reached(mut self: Box<Self>, py: Python<'_>) -> Next {
        let response = self.response.clone_ref(py);
        let response = response.get();
        let Some(suspension) = response.suspension() else { return Next::Blocks(self) };
        let held = |iteration: Box<Self>| {
            if response.hold(py, &suspension) { Next::Blocks(iteration) } else { Next::End(iteration) }
        };
        self.place = self.executor.as_ref().and_then(|_| self.application().aside.get_or_init(Arc::default).enter());
        if self.place.is_none() {
            return held(self);
        }
        let producer: Arc<dyn Producer> = Arc::<Suspension>::clone(&suspension);
        if !response.pause(py, producer, Pause::Aside) {
            suspension.forget();
            return Next::End(self);
        }
        match suspension.set_aside(self) {
            Ok(()) => Next::Nothing,
            Err(mut iteration) => {
                iteration.place = None;
                if response.goes_on(py) { Next::Blocks(iteration) } else { Next::End(iteration) }
            }
        }
    }

    /// Ends the response of an iteration whose iterable is closed. `is_whole` says that the application has ended it.
    fn end(self, py: Python<'_>, body: PyResult<Body>, is_whole: bool, clock: &mut Instant) {
        let Self { response, errors, head, values, .. } = self;
        errors.get().finish();
        let response = response.get();
        drop(response.settle(py));
        response.keep_watch();
        *clock = Instant::now();
        if is_whole {
            finish_suspended(py, response, body, &head, Some(*clock), values);
        } else {
            let (responder, head_sent, is_events) = {
                let mut state = response.lock();
                (state.responder.take(), state.head_sent, state.is_events)
            };
            if let Some(responder) = responder {
                cut_short(responder, &head, head_sent, is_events, Some(*clock), values);
            }
        }
        response.retire();
    }
}

/// Ends the response of a request that was suspended, or could not be.
#[cold]
fn finish_suspended(
    py: Python<'_>,
    response: &StartResponse,
    body: PyResult<Body>,
    request: &RequestHead,
    ended: Option<Instant>,
    values: Vec<(String, String)>,
) {
    finish(py, response, body, request, ended, values);
}

/// What belongs to a request that is suspended: its head, its origin, when it was received, its limit, and entries of
/// its environ for the access log.
pub(super) type Parts = (Arc<RequestHead>, Arc<Origin>, Instant, Option<Duration>, Vec<(String, String)>);

impl PerApplication {
    /// Suspends a response, which takes the callables and the context with it. Returns whether the next request can use
    /// the callables that are there then.
    #[cold]
    pub(super) fn suspend(
        &mut self,
        py: Python<'_>,
        application: &Arc<Application>,
        unfinished: Unfinished,
        (head, origin, received, limit, values): Parts,
        (slot, context): (&Slot, &mut Option<Context>),
        clock: &mut Instant,
    ) -> bool {
        let renewed = self.take_callables(py, application).and_then(|taken| {
            let context = context.take().ok_or_else(|| PyRuntimeError::new_err("the thread has no context"))?;
            context.exit(py)?;
            Ok((taken, context))
        });
        let ((response, errors), context) = match renewed {
            Ok(renewed) => renewed,
            Err(error) => {
                close(unfinished.iterable.bind(py), |error| log_exception(py, &head, error));
                let response = self.callables.shared.get();
                drop(response.settle(py));
                *clock = Instant::now();
                finish_suspended(py, response, Err(error), &head, Some(*clock), values);
                return false;
            }
        };
        application.running.rise();
        let iteration = Iteration {
            unfinished,
            response,
            errors,
            context,
            thread: thread::current().id(),
            head,
            origin,
            received,
            limit,
            values,
            ticket: Ticket(Arc::clone(application)),
            executor: threads::executor_of(slot.executor),
            place: None,
        };
        Box::new(iteration).suspend(py, clock);
        *clock = Instant::now();
        true
    }

    /// Takes the callables and the error stream of the current request, and makes others for the next one.
    fn take_callables(
        &mut self,
        py: Python<'_>,
        application: &Application,
    ) -> PyResult<(Py<StartResponse>, Py<ErrorStream>)> {
        let errors = Bound::new(py, ErrorStream::new())?;
        let callables = Callables::new(py, &self.environs, application)?;
        self.environs.set(py, "wsgi.errors", &errors)?;
        let mut taken = std::mem::replace(&mut self.callables, callables);
        taken.is_taken = true;
        Ok((taken.shared.clone_ref(py), std::mem::replace(&mut self.errors, errors.unbind())))
    }
}

/// Ends a response that was suspended, because its client has left or the server stops.
pub(super) fn cut_short(
    responder: Responder,
    request: &RequestHead,
    head_sent: bool,
    is_events: bool,
    ended: Option<Instant>,
    values: Vec<(String, String)>,
) {
    if !responder.is_ended_by_server() {
        log::debug!(target: TARGET, "{}: the client left a suspended response", named(request));
        return responder.finish(End::Failed, ended, values);
    }
    if head_sent {
        // A stream of events has no end of its own, and its client connects again.
        return responder.finish(if is_events { End::Complete } else { End::Failed }, ended, values);
    }
    let (head, body) = unavailable();
    responder.respond(head, body.len() as u64, Some(Block::Owned(body)), ended, values);
}

/// Returns the response for a client whose response has not begun when the server stops.
fn unavailable() -> (ResponseHead, Vec<u8>) {
    let (mut head, body) = ResponseHead::plain_response(503);
    head.push_field(b"Retry-After", b"1").expect("the checks accept this field");
    (head, body)
}
