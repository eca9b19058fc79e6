//! What the tests share: an application in Python, a request built by hand, and the reply to it.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use maypole::handler::{Block, Bounds, End, Exchange, Local, Origin, Outbox, Request, RequestBody, Responder};
use maypole::http::response::Context;
use maypole::http::{Limits, Persistence, RequestHead, Version};
use maypole::spool::{Spool, Storage, SystemFiles};
use maypole::sys::Waitable;
use maypole::wsgi::{Application, Call, CallRunner, Options};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyModule};

pub const LIMITS: Limits =
    Limits { request_line_bytes_max: 8192, fields_max: 1000, field_bytes_max: 65536, head_bytes_max: 1 << 20 };

/// All log lines. Each test looks for its own marks.
pub static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        LOGGED.lock().unwrap().push(format!("{}: {}", record.target(), record.args()));
    }
    fn flush(&self) {}
}

pub fn logged(mark: &str) -> bool {
    LOGGED.lock().unwrap().iter().any(|line| line.contains(mark))
}

pub fn python<T>(code: impl FnOnce(Python<'_>) -> T) -> T {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
        maypole::interpreter::start(&["test".to_owned()]).unwrap();
    });
    Python::attach(code)
}

/// An application in Python, and a runner that calls it.
pub struct App<'py> {
    pub py: Python<'py>,
    pub module: Bound<'py, PyModule>,
    pub runner: CallRunner,
    pub application: Arc<Application>,
}

/// The outcome of a request.
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    pub end: Option<End>,
    pub interim: Vec<u8>,
    pub environ: Vec<(String, String)>,
    pub persistence: Persistence,
}

impl Reply {
    pub fn is_500(&self) -> bool {
        self.status == 500 && self.end == Some(End::Complete) && self.body == b"Internal Server Error\n"
    }
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// The imports and the helper that the applications share.
pub const PRELUDE: &str = r"
import gc, gzip, io, json, os, sys, tempfile, threading
CT = [('Content-Type', 'text/plain')]
events = []
def ok(sr, *more):
    return sr('200 OK', CT + list(more))
class Body:
    def __init__(self, blocks, fail=None, close_fails=False):
        self.blocks, self.fail, self.close_fails = list(blocks), fail, close_fails
    def __iter__(self):
        return self
    def __next__(self):
        if self.blocks:
            return self.blocks.pop(0)
        if self.fail:
            raise self.fail
        raise StopIteration
    def close(self):
        events.append('close')
        if self.close_fails:
            raise RuntimeError('MARK-close')
";

impl<'py> App<'py> {
    pub fn new(py: Python<'py>, code: &str) -> Self {
        Self::with(py, code, Options::default())
    }

    pub fn with(py: Python<'py>, code: &str, options: Options) -> Self {
        // Each module gets a unique name, because tests run at the same time.
        static MODULES: AtomicUsize = AtomicUsize::new(0);
        let code = CString::new(format!("{PRELUDE}\n{code}")).unwrap();
        let name = CString::new(format!("app{}", MODULES.fetch_add(1, Ordering::Relaxed))).unwrap();
        let module = PyModule::from_code(py, &code, c"app.py", &name).unwrap();
        let application = Application::new(py, module.getattr("app").unwrap().unbind(), options).unwrap();
        Self { py, module, runner: CallRunner::default(), application }
    }

    pub fn get(&mut self) -> Reply {
        self.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestBody::Empty)
    }

    pub fn post(&mut self, body: &[u8]) -> Reply {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send(&head, RequestBody::Complete(Box::new(Spool::from_bytes(body.to_vec()))))
    }

    pub fn send(&mut self, head: &str, body: RequestBody) -> Reply {
        let exchange = exchange();
        self.send_on(&exchange, head, body)
    }

    pub fn send_on(&mut self, exchange: &Arc<Exchange>, head: &str, body: RequestBody) -> Reply {
        self.run(exchange, head, body);
        reply(exchange, head)
    }

    pub fn send_from(&mut self, origin: Origin, head: &str) -> Reply {
        let exchange = exchange();
        let parsed = Arc::new(RequestHead::parse(head.as_bytes(), &LIMITS).unwrap());
        self.call(&exchange, Request { origin: Arc::new(origin), ..request(parsed, RequestBody::Empty) });
        reply(&exchange, head)
    }

    pub fn run(&mut self, exchange: &Arc<Exchange>, head: &str, body: RequestBody) {
        let head = Arc::new(RequestHead::parse(head.as_bytes(), &LIMITS).unwrap());
        self.call(exchange, request(head, body));
    }

    fn call(&mut self, exchange: &Arc<Exchange>, request: Request) {
        let responder = Responder::new(Arc::clone(exchange));
        self.runner.call(self.py, Call::new(&self.application, request, responder), &mut Instant::now());
    }

    /// Gives the application a function `leave` that makes the client disconnect.
    pub fn have_leave(&self, exchange: &Arc<Exchange>) {
        let exchange = Arc::clone(exchange);
        let leave = PyCFunction::new_closure(self.py, None, None, move |_, _| exchange.set_gone()).unwrap();
        self.module.setattr("leave", leave).unwrap();
    }

    pub fn events(&self) -> Vec<String> {
        self.module.getattr("events").unwrap().extract().unwrap()
    }
}

pub fn request(head: Arc<RequestHead>, body: RequestBody) -> Request {
    let received = Instant::now();
    Request {
        head,
        body,
        origin: Arc::new(origin()),
        received,
        begin_by: received + Duration::from_secs(60),
        deadline: None,
        route: 0,
    }
}

pub fn origin() -> Origin {
    let local = Local::Tcp("127.0.0.1:8000".parse().unwrap());
    Origin::new(Some("192.0.2.7:4711".parse().unwrap()), Arc::new(local))
}

pub fn storage() -> Arc<Storage> {
    Storage::with_files(&std::env::temp_dir(), 1 << 40, Box::new(SystemFiles))
}

pub fn exchange() -> Arc<Exchange> {
    exchange_with(1 << 20)
}

pub fn exchange_with(response_buffer: u64) -> Arc<Exchange> {
    let (one, other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    // Wakes have no effect, because no coroutine waits.
    let waitable = Box::leak(Box::new(Waitable::new(OwnedFd::from(one)).unwrap()));
    std::mem::forget(other);
    let bounds = Bounds { response_buffer, response_spool: 1 << 20, storage: storage(), request_buffer: 1 << 16 };
    Exchange::new(waitable.waker().clone(), Arc::new(bounds))
}

pub fn bytes_of(block: Block) -> Vec<u8> {
    match block {
        Block::Owned(bytes) => bytes,
        Block::Shared(lent) => lent.bytes().to_vec(),
        Block::File { file, offset, bytes } => {
            let mut all = vec![0; usize::try_from(bytes).unwrap()];
            std::os::unix::fs::FileExt::read_exact_at(
                &std::fs::File::from(file.try_clone().unwrap()),
                &mut all,
                offset,
            )
            .unwrap();
            all
        }
    }
}

pub fn spooled(exchange: &Exchange, into: &mut Vec<u8>) {
    if let Some((file, at, bytes)) = exchange.take_spooled(u64::MAX) {
        let mut part = vec![0; usize::try_from(bytes).unwrap()];
        file.read_exact_at(&mut part, at).unwrap();
        into.extend(part);
        exchange.spooled_sent(bytes);
    }
}

pub fn taken_from(exchange: &Exchange) -> Outbox {
    let mut taken = Outbox::default();
    exchange.take(&mut taken);
    taken
}

pub fn reply(exchange: &Exchange, request: &str) -> Reply {
    let mut taken = taken_from(exchange);
    let mut body: Vec<u8> = taken.blocks.drain(..).flat_map(bytes_of).collect();
    if taken.spooled {
        spooled(exchange, &mut body);
        let rest: Outbox = taken_from(exchange);
        taken.end = rest.end;
        taken.environ = rest.environ;
    }
    let is_head = request.starts_with("HEAD");
    let context = Context {
        version: if request.contains("HTTP/1.0") { Version::Http10 } else { Version::Http11 },
        is_head,
        persistence: Persistence::KeepAlive,
        body_bytes: taken.body_bytes,
        date: b"Sun, 06 Nov 1994 08:49:37 GMT",
        server: None,
        request_id: None,
    };
    let (status, (head, mut encoder, persistence)) = match taken.head {
        Some(head) => (head.status(), head.encode(&context)),
        None => (0, (Vec::new(), maypole::http::BodyEncoder::None, Persistence::Close)),
    };
    let bytes = encoder.block(body.len() as u64).0;
    assert!(bytes == body.len() as u64 || status == 0 || is_head, "more was sent than the head allows");
    let head = head.iter().map(|&byte| char::from(byte)).collect();
    Reply { status, head, body, end: taken.end, interim: taken.interim, environ: taken.environ, persistence }
}
