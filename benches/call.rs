//! Measures one call of a hello application, without sockets and threads: `cargo bench --bench call`.
//!
//! The request has 12 fields, as a browser sends them. The program prints the median and the best of the rounds of 100
//! calls. Other load on the machine only adds to the times.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use maypole::handler::{Bounds, Exchange, Local, Origin, Outbox, Request, RequestBody, Responder};
use maypole::http::{Limits, RequestHead};
use maypole::spool::{Storage, SystemFiles};
use maypole::sys::Waitable;
use maypole::wsgi::{Application, Call, CallRunner, Options};
use pyo3::prelude::*;
use pyo3::types::PyModule;

const HEAD: &[u8] = b"GET /some/path?name=value HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://www.example.org/other\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Priority: u=0, i\r\n\r\n";

const APPLICATIONS: [(&str, &std::ffi::CStr); 4] = [
    (
        "list of one block",
        c"def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '13')])
    return [b'Hello, World!']
",
    ),
    (
        "generator",
        c"def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '13')])
    yield b'Hello, World!'
",
    ),
    (
        "1 KiB block",
        c"body = b'x' * 1024
def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '1024')])
    return [body]
",
    ),
    (
        "2 KiB block",
        c"body = b'x' * 2048
def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '2048')])
    return [body]
",
    ),
];

fn main() {
    const CALLS: u32 = 500_000;
    const CHUNK: u32 = 100;
    maypole::interpreter::start(&["bench".to_owned()]).unwrap();
    let limits = Limits { request_line_bytes_max: 8192, fields_max: 100, field_bytes_max: 8192, head_bytes_max: 65536 };
    let head = Arc::new(RequestHead::parse(HEAD, &limits).unwrap());
    let origins: Vec<_> = (0..64_u16)
        .map(|client| {
            let local = Arc::new(Local::Tcp(([127, 0, 0, 1], 8000).into()));
            Arc::new(Origin::new(Some(([127, 0, 0, 1], 40_000 + client).into()), local))
        })
        .collect();
    let (one, _other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    let waitable = Waitable::new(OwnedFd::from(one)).unwrap();
    let bounds = Arc::new(Bounds {
        response_buffer: 1 << 20,
        response_spool: 1 << 20,
        storage: Storage::with_files(&std::env::temp_dir(), 1 << 40, Box::new(SystemFiles)),
        request_buffer: 1 << 16,
    });
    Python::attach(|py| {
        // A word on the command line selects benchmarks by name. cargo adds `--bench`.
        let wanted = std::env::args().skip(1).find(|word| !word.starts_with('-')).unwrap_or_default();
        for (name, code) in APPLICATIONS.into_iter().filter(|(name, _)| name.contains(&wanted)) {
            let module = PyModule::from_code(py, code, c"app.py", c"app").unwrap();
            let callable = module.getattr("app").unwrap().unbind();
            let application = Application::new(py, callable, Options::default()).unwrap();
            let mut runner = CallRunner::default();
            let mut each = Vec::new();
            for _ in 0..CALLS / CHUNK {
                // Made and dropped outside the measurement, because both are the connection's work.
                let calls: Vec<_> = (0..CHUNK)
                    .map(|n| {
                        let origin = Arc::clone(&origins[n as usize % origins.len()]);
                        let exchange = Exchange::new(waitable.waker().clone(), Arc::clone(&bounds));
                        let responder = Responder::new(Arc::clone(&exchange));
                        let (received, body) = (Instant::now(), RequestBody::Empty);
                        let begin_by = received + Duration::from_secs(3600);
                        let head = Arc::clone(&head);
                        let request = Request { head, body, origin, received, begin_by, deadline: None, route: 0 };
                        (exchange, Call::new(&application, request, responder))
                    })
                    .collect();
                let mut exchanges = Vec::with_capacity(CHUNK as usize);
                let started = Instant::now();
                for (exchange, call) in calls {
                    runner.call(py, call, &mut Instant::now());
                    exchanges.push(exchange);
                }
                each.push(started.elapsed() / CHUNK);
                for exchange in &exchanges {
                    let mut taken = Outbox::default();
                    exchange.take(&mut taken);
                    black_box(taken);
                }
                maypole::sys::flush_wakes();
            }
            each.sort_unstable();
            println!("{name}: {} ns per call, best {}", each[each.len() / 2].as_nanos(), each[0].as_nanos());
        }
    });
}
