//! Requests to Python: environ, `start_response`, the iterable, `close()` (PEP 3333).
//!
//! *Owns*: the applications, and the objects that their calls need on each executor thread. *Runs on*: executor threads,
//! with the GIL held. *Invariants*: an exception of the application becomes a 500 and a traceback in the error log, and
//! stops in this module. An iterable is closed exactly once. No Python object leaves these threads except in a `Block`,
//! and `release` frees that object with the GIL held.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::admission::{Admission, Rules, Terms};
use crate::config::Config;
use crate::drain::Drain;
use crate::executor::{Executor, Ran, Runner, Task, gate};
use crate::files::NamedFiles;
use crate::handler::{Block, Handler, Origin, Request, Responder};
use crate::http::{RequestHead, ResponseHead};
use crate::metrics::{Counter, Gauge, Meters, Numbers};
use crate::pool::Pool;
use crate::sites::Sites;
use crate::stdlib;
use crate::sys;

mod asynchronous;
mod block;
mod call;
mod calling;
mod child;
mod context;
mod counts;
mod environ;
mod errors;
mod file_wrapper;
mod input;
mod inside;
mod interrupt;
mod lapses;
pub mod load;
mod module;
mod names;
mod overdue;
pub mod paste;
mod patched;
mod report;
mod start_response;
mod suspend;
mod taken;
mod threads;
mod websocket;

pub use block::{release, release_pending};
pub use call::{CallRunner, Iteration};
pub use calling::call as call_python;
pub use child::leave as leave_forked_child;
pub use inside::note_requests;
pub use overdue::read_stacks_with;
pub use patched::{patched_by, sentence as patched_sentence};
pub use report::{Placed, Stacks, grouped, placed, placed_with_frames, report};
pub use threads::{chore, on_executor};

/// The target of log records about the application.
const TARGET: &str = "maypole.application";

/// One request for an application.
pub struct Call {
    /// The request.
    pub request: Request,
    /// The receiver of its response.
    pub responder: Responder,
    ticket: Ticket,
}

impl Call {
    /// Counts the request as queued for `application`.
    pub fn new(application: &Arc<Application>, request: Request, responder: Responder) -> Self {
        Self { request, responder, ticket: Ticket::new(application) }
    }
}

/// Counts a call from the moment it is queued until its end, success or failure.
struct Ticket(Arc<Application>);

impl Ticket {
    fn new(application: &Arc<Application>) -> Self {
        application.running.rise();
        Self(Arc::clone(application))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.0.running.fall() == 0
            && let Some(drain) = self.0.drain.get()
        {
            drain.note();
        }
    }
}

impl Call {
    /// Returns whether the call still waits for a thread: its client is connected and its deadline has not passed.
    fn still_waits(&self, now: Instant) -> bool {
        let application = &self.ticket.0;
        if !self.responder.is_waiting() {
            application.abandoned.count();
            return false;
        }
        if now >= self.request.begin_by && self.responder.expire() {
            application.late.count();
            return false;
        }
        true
    }
}

impl Task for Work {
    fn still_waits(&self, now: Instant) -> bool {
        match self {
            Self::Call(call) => call.still_waits(now),
            // The iterable of a client that has left is still to be closed.
            Self::Resume(_) | Self::Events(_) | Self::Chore(_) => true,
        }
    }
}

/// One task of an executor thread.
#[allow(clippy::large_enum_variant, reason = "almost all are calls, and a box would be an allocation for each")]
pub enum Work {
    /// A call of an application.
    Call(Call),
    /// A suspended response that goes on.
    Resume(Box<Iteration>),
    /// The events of a WebSocket.
    Events(websocket::Events),
    /// A short function that needs the GIL.
    Chore(fn(Python<'_>)),
}

/// Options for the calls of an application.
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Options {
    /// `wsgi.multithread`: whether calls may overlap in this process.
    pub multithread: bool,
    /// `wsgi.multiprocess`: whether other processes run the same application.
    pub multiprocess: bool,
    /// `SERVER_SOFTWARE`.
    pub server_software: String,
    /// The names of environ entries for the access log, which takes their values after the call.
    pub access_log_environ: Vec<String>,
    /// Whether requests that ask for an upgrade to another protocol get `werkzeug.socket`.
    pub werkzeug_socket: bool,
    /// Whether the code of a request is interrupted at the request's deadline.
    pub request_interrupt: bool,
    /// Further entries of every environ. They replace the server's constants of the same name.
    pub environ: Vec<(String, Py<PyAny>)>,
    /// Whether every environ has `headers_raw`, a tuple of `(name, value)` with each field as it was received, and
    /// `RAW_PATH_INFO`, the path before its escapes are decoded.
    pub headers_raw: bool,
    /// The field that has a request's id. `None`: requests have none.
    pub request_id_header: Option<String>,
    /// The path below which the application is, decoded: `SCRIPT_NAME`. It gets only requests below this path.
    pub prefix: Vec<u8>,
    /// The files that a response may name. `None`: the fields that name one are sent as they are.
    pub named_files: Option<Arc<NamedFiles>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            multithread: true,
            multiprocess: false,
            server_software: concat!("maypole/", env!("CARGO_PKG_VERSION")).to_owned(),
            access_log_environ: Vec::new(),
            werkzeug_socket: false,
            request_interrupt: false,
            environ: Vec::new(),
            headers_raw: false,
            request_id_header: None,
            prefix: Vec::new(),
            named_files: None,
        }
    }
}

/// The application, and the state of its calls that all threads share. Only the counters and flags change.
pub struct Application {
    callable: Py<PyAny>,
    keys: Arc<environ::Keys>,
    /// The environ entries that are the same in every request.
    base: Py<PyDict>,
    access_log_environ: Vec<String>,
    werkzeug_socket: bool,
    request_interrupt: bool,
    /// The number of calls that are queued or running.
    running: Gauge,
    /// The threads that call it.
    executor: OnceLock<Weak<Executor<Work>>>,
    /// The stop of the server that serves the application.
    drain: OnceLock<Arc<Drain>>,
    /// The number of requests since the start.
    served: Counter,
    /// The number of calls that were never made because the client had left.
    abandoned: Counter,
    /// The number of calls that were never made because no thread was free in time.
    late: Counter,
    /// Set once no more calls follow: threads then drop the objects that they keep for this application.
    retired: AtomicBool,
    headers_raw: bool,
    /// The length of the path below which the application is, without escapes, in bytes.
    prefix_bytes: usize,
    lapses: Arc<lapses::Lapses>,
    named_files: Option<Arc<NamedFiles>>,
    /// The suspended responses that are set aside, of all applications of the server.
    aside: OnceLock<Arc<suspend::Aside>>,
}

/// Raises `TypeError` for an application that cannot be called as `application(environ, start_response)`.
///
/// # Errors
/// It is not callable, it is asynchronous, or it takes another number of arguments.
pub fn check_callable(application: &Bound<'_, PyAny>) -> PyResult<()> {
    let refused = if application.is_callable() {
        asynchronous::unfit(application)
    } else {
        Some(format!("must be callable, and {} is not", start_response::type_name(application)))
    };
    refused.map_or(Ok(()), |why| Err(PyTypeError::new_err(format!("the application {why}"))))
}

impl Application {
    /// Prepares the calls of `callable`.
    ///
    /// # Errors
    /// See `check_callable`; or Python is out of memory.
    pub fn new(py: Python<'_>, callable: Py<PyAny>, options: Options) -> PyResult<Arc<Self>> {
        check_callable(callable.bind(py))?;
        sys::watch_forks();
        // Import `threading` on this thread: Python takes the first thread that imports it for the main thread, and
        // waits for that thread at exit.
        stdlib::prepare(py)?;
        threads::prepare(py)?;
        if options.werkzeug_socket {
            taken::prepare(py)?;
        }
        let base = PyDict::new(py);
        base.set_item("SCRIPT_NAME", environ::latin1(py, &options.prefix)?)?;
        base.set_item("SERVER_SOFTWARE", options.server_software)?;
        base.set_item("wsgi.version", PyTuple::new(py, [1, 0])?)?;
        base.set_item("wsgi.multithread", options.multithread)?;
        base.set_item("wsgi.multiprocess", options.multiprocess)?;
        base.set_item("wsgi.run_once", false)?;
        base.set_item("wsgi.input_terminated", true)?;
        base.set_item("wsgi.file_wrapper", py.get_type::<file_wrapper::FileWrapper>())?;
        for (key, value) in options.environ {
            base.set_item(key, value)?;
        }
        Ok(Arc::new(Self {
            callable,
            keys: Arc::new(environ::Keys::new(py, options.request_id_header.as_deref())),
            base: base.unbind(),
            access_log_environ: options.access_log_environ,
            werkzeug_socket: options.werkzeug_socket,
            request_interrupt: options.request_interrupt,
            running: Gauge::default(),
            executor: OnceLock::new(),
            drain: OnceLock::new(),
            served: Counter::default(),
            abandoned: Counter::default(),
            late: Counter::default(),
            retired: AtomicBool::new(false),
            headers_raw: options.headers_raw,
            prefix_bytes: options.prefix.len(),
            lapses: Arc::default(),
            named_files: options.named_files,
            aside: OnceLock::new(),
        }))
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }
}

/// Passes each request to an executor, for the application that gets it.
pub struct Service {
    /// The applications, in the order of `Config::sites`.
    applications: Vec<Arc<Application>>,
    executor: Arc<Executor<Work>>,
    rules: Rules,
    /// Which application gets which requests. `None`: the first one gets all.
    sites: Option<Sites>,
    released: AtomicBool,
    /// The suspended responses that are set aside.
    aside: Arc<suspend::Aside>,
    #[allow(dead_code, reason = "watches the deadlines of the requests until it is dropped")]
    deadlines: Option<overdue::Watched>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("executor", &self.executor).finish_non_exhaustive()
    }
}

impl Service {
    /// Finds or starts the threads that call the applications, which are in the order of `Config::sites`. If `--threads`
    /// is set, the service has threads of its own. Otherwise it shares the threads of all services without a limit. Call
    /// it from a plain thread (not a coroutine), without the GIL.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(applications: Vec<Arc<Application>>, config: Arc<Config>, pool: Arc<Pool>) -> std::io::Result<Self> {
        let executor = threads::acquire(config.threads)?;
        let deadlines = overdue::watch(config.request_timeout);
        let deadlines = deadlines.inspect_err(|_| threads::release(&executor, Duration::ZERO))?;
        for application in &applications {
            let _ = application.executor.set(Arc::downgrade(&executor));
        }
        let sites = Sites::new(&config);
        let rules = Rules::new(config, pool);
        let aside = Arc::<suspend::Aside>::default();
        for application in &applications {
            application.aside.set(Arc::clone(&aside)).ok().expect("an application belongs to one server");
        }
        Ok(Self { applications, executor, rules, sites, released: AtomicBool::new(false), aside, deadlines })
    }

    /// Returns the place of the application that gets the request. It is behind all of them if there is none.
    fn route(&self, head: &RequestHead, origin: &Origin) -> usize {
        self.sites.as_ref().map_or(0, |sites| sites.find(head, origin).unwrap_or(self.applications.len()))
    }

    /// Releases the threads. If no other service uses them, they end, and the caller waits for their end for at most
    /// `timeout`. Returns whether all calls of the application have ended. (Plain thread, without the GIL.)
    pub fn stop(&self, timeout: Duration) -> bool {
        if !self.released.swap(true, Ordering::SeqCst) {
            self.applications.iter().for_each(|application| application.retired.store(true, Ordering::SeqCst));
            RETIREMENTS.fetch_add(1, Ordering::SeqCst);
            threads::release(&self.executor, timeout);
            // Release the blocks of the last responses: otherwise they would stay until the next call.
            gate::attach(release);
        }
        self.running() == 0
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// The number of retired applications. When it changes, each thread drops its objects for retired applications.
static RETIREMENTS: AtomicU64 = AtomicU64::new(0);

impl Handler for Service {
    fn admit(&self, head: &RequestHead, origin: &Origin) -> Admission<'_> {
        let route = self.route(head, origin);
        let is_called = route < self.applications.len();
        let terms = if is_called { self.rules.terms(head) } else { self.rules.without_call() };
        Admission::Serve(Terms { route, ..terms })
    }

    fn call(&self, request: Request, responder: Responder) {
        let Some(application) = self.applications.get(request.route) else {
            return not_found(&request, responder);
        };
        application.served.count();
        let call = Call::new(application, request, responder);
        // A call after the executor's end is dropped, which fails its response.
        if !self.executor.is_closed() {
            self.executor.submit(Work::Call(call));
        }
    }

    fn pool(&self) -> Option<&Arc<Pool>> {
        Some(self.rules.pool())
    }

    fn running(&self) -> usize {
        self.applications.iter().map(|application| application.running.value()).sum()
    }

    fn join_drain(&self, drain: &Arc<Drain>) {
        for application in &self.applications {
            application.drain.set(Arc::clone(drain)).expect("an application belongs to one server");
        }
    }

    fn limit_suspended(&self, max: usize) {
        self.aside.limit(max);
    }

    fn suspended(&self) -> usize {
        self.aside.count()
    }

    fn measure(&self, numbers: &mut Numbers) {
        self.executor.measure(numbers);
        let sum = |counter: fn(&Application) -> &Counter| {
            self.applications.iter().map(|application| counter(application).value()).sum()
        };
        numbers.served = sum(|application| &application.served);
        numbers.abandoned = sum(|application| &application.abandoned);
        numbers.late = sum(|application| &application.late);
    }

    fn show(&self, meters: &Meters) {
        self.executor.show(meters);
    }
}

/// Sends a 404 for a request that no application gets. The connection stays open.
fn not_found(request: &Request, responder: Responder) {
    if responder.begin(request.received) {
        let (head, body) = ResponseHead::plain_response(404);
        responder.respond(head, body.len() as u64, Some(Block::Owned(body)), Some(request.received), Vec::new());
    }
}

/// Returns what a log line begins with that concerns a request: `GET /cart HTTP/1.1`, and the request's id if it has one.
fn named(head: &RequestHead) -> String {
    format!("{}{}", head.request_line().escape_ascii(), head.id_text())
}

/// Returns an exception with its traceback, as Python prints it.
pub fn traceback(py: Python<'_>, error: &PyErr) -> String {
    let formatted = || -> PyResult<String> {
        let module = stdlib::get(py)?.traceback.bind(py);
        let parts =
            module.call_method1("format_exception", (error.get_type(py), error.value(py), error.traceback(py)))?;
        let text = pyo3::types::PyString::new(py, "").call_method1("join", (parts,))?;
        let text = text.cast::<pyo3::types::PyString>()?;
        Ok(text.to_string_lossy().trim_end().to_owned())
    };
    // Formatting can fail: no stack or memory is left, or `__str__` raises.
    formatted().unwrap_or_else(|_| format!("{} (its traceback cannot be formatted)", error.get_type(py)))
}
