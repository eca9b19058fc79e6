//! Tests of the module `wsgi` alone: requests built by hand, real Python, no socket and no executor.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::CString;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use maypole::handler::{
    Block, Bounds, End, Exchange, Input, Local, NotGiven, Outbox, Peer, Request, RequestBody, Responder, TakenStream,
};
use maypole::http::response::Context;
use maypole::http::{Framing, Limits, Persistence, RequestHead, Version};
use maypole::spool::{Spool, Storage, Store, SystemFiles};
use maypole::sys::Waitable;
use maypole::wsgi::load::{LoadError, load, prepare_path};
use maypole::wsgi::{self, Application, Call, CallRunner, Options};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyModule};

const LIMITS: Limits =
    Limits { request_line_bytes_max: 8192, fields_max: 1000, field_bytes_max: 65536, head_bytes_max: 1 << 20 };

/// All log lines. Each test looks for its own marks.
static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Logger;
impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        LOGGED.lock().unwrap().push(format!("{}: {}", record.target(), record.args()));
    }
    fn flush(&self) {}
}

fn logged(mark: &str) -> bool {
    LOGGED.lock().unwrap().iter().any(|line| line.contains(mark))
}

fn python<T>(code: impl FnOnce(Python<'_>) -> T) -> T {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
        maypole::interpreter::start(&["test".to_owned()]).unwrap();
    });
    Python::attach(code)
}

/// An application in Python, and a runner that calls it.
struct App<'py> {
    py: Python<'py>,
    module: Bound<'py, PyModule>,
    runner: CallRunner,
    application: Arc<Application>,
}

/// The outcome of a request.
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
    end: Option<End>,
    interim: Vec<u8>,
    environ: Vec<(String, String)>,
    persistence: Persistence,
}

impl Reply {
    fn is_500(&self) -> bool {
        self.status == 500 && self.end == Some(End::Complete) && self.body == b"Internal Server Error\n"
    }
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// The imports and the helper that the applications share.
const PRELUDE: &str = r"
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
    fn new(py: Python<'py>, code: &str) -> Self {
        Self::with(py, code, Options::default())
    }

    fn with(py: Python<'py>, code: &str, options: Options) -> Self {
        // Each module gets a unique name, because tests run at the same time.
        static MODULES: AtomicUsize = AtomicUsize::new(0);
        let code = CString::new(format!("{PRELUDE}\n{code}")).unwrap();
        let name = CString::new(format!("app{}", MODULES.fetch_add(1, Ordering::Relaxed))).unwrap();
        let module = PyModule::from_code(py, &code, c"app.py", &name).unwrap();
        let application = Application::new(py, module.getattr("app").unwrap().unbind(), options).unwrap();
        Self { py, module, runner: CallRunner::default(), application }
    }

    fn get(&mut self) -> Reply {
        self.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestBody::Empty)
    }

    fn post(&mut self, body: &[u8]) -> Reply {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send(&head, RequestBody::Complete(Spool::from_bytes(body.to_vec())))
    }

    fn send(&mut self, head: &str, body: RequestBody) -> Reply {
        let exchange = exchange();
        self.send_on(&exchange, head, body)
    }

    fn send_on(&mut self, exchange: &Arc<Exchange>, head: &str, body: RequestBody) -> Reply {
        self.run(exchange, head, body);
        reply(exchange, head)
    }

    fn run(&mut self, exchange: &Arc<Exchange>, head: &str, body: RequestBody) {
        let head = Arc::new(RequestHead::parse(head.as_bytes(), &LIMITS).unwrap());
        let responder = Responder::new(Arc::clone(exchange));
        let request = request(head, body);
        self.runner.call(self.py, Call::new(&self.application, request, responder));
    }

    /// Gives the application a function `leave` that makes the client disconnect.
    fn have_leave(&self, exchange: &Arc<Exchange>) {
        let exchange = Arc::clone(exchange);
        let leave = PyCFunction::new_closure(self.py, None, None, move |_, _| exchange.set_gone()).unwrap();
        self.module.setattr("leave", leave).unwrap();
    }

    fn events(&self) -> Vec<String> {
        self.module.getattr("events").unwrap().extract().unwrap()
    }
}

fn request(head: Arc<RequestHead>, body: RequestBody) -> Request {
    let received = Instant::now();
    Request { head, body, peer: peer(), received, begin_by: received + Duration::from_secs(60), timed: true }
}

fn peer() -> Arc<Peer> {
    Arc::new(Peer {
        remote: Some("192.0.2.7:4711".parse().unwrap()),
        local: Arc::new(Local::Tcp("127.0.0.1:8000".parse().unwrap())),
    })
}

fn storage() -> Arc<Storage> {
    Storage::with_files(&std::env::temp_dir(), 1 << 40, Box::new(SystemFiles))
}

fn exchange() -> Arc<Exchange> {
    exchange_with(1 << 20)
}

fn exchange_with(response_buffer: u64) -> Arc<Exchange> {
    let (one, other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    // Wakes have no effect, because no coroutine waits.
    let waitable = Box::leak(Box::new(Waitable::new(OwnedFd::from(one)).unwrap()));
    std::mem::forget(other);
    let bounds = Bounds { response_buffer, response_spool: 1 << 20, storage: storage(), request_buffer: 1 << 16 };
    Exchange::new(waitable.waker().clone(), Arc::new(bounds))
}

fn bytes_of(block: Block) -> Vec<u8> {
    match block {
        Block::Owned(bytes) => bytes,
        Block::Shared(lent) => lent.bytes().to_vec(),
        Block::File { file, offset, bytes } => {
            let mut all = vec![0; usize::try_from(bytes).unwrap()];
            std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::from(file), &mut all, offset).unwrap();
            all
        }
    }
}

fn spooled(exchange: &Exchange, into: &mut Vec<u8>) {
    if let Some((file, at, bytes)) = exchange.take_spooled(u64::MAX) {
        let mut part = vec![0; usize::try_from(bytes).unwrap()];
        file.read_exact_at(&mut part, at).unwrap();
        into.extend(part);
        exchange.spooled_sent(bytes);
    }
}

fn taken_from(exchange: &Exchange) -> Outbox {
    let mut taken = Outbox::default();
    exchange.take(&mut taken);
    taken
}

fn reply(exchange: &Exchange, request: &str) -> Reply {
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

#[test]
fn environ_of_a_get_has_what_pep_3333_wants() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    from wsgiref.validate import check_environ
    check_environ(e)
    assert type(e) is dict
    assert all(type(v) is str for k, v in e.items() if '.' not in k), e
    assert e['wsgi.run_once'] is False and e['wsgi.multithread'] is True and e['wsgi.input_terminated'] is True
    assert e['wsgi.version'] == (1, 0) and e['wsgi.input'].read() == b''
    assert 'CONTENT_LENGTH' not in e and 'CONTENT_TYPE' not in e
    assert callable(e['wsgi.file_wrapper']) and e['maypole.client_disconnected']() is False
    ok(sr)
    return [json.dumps({k: v for k, v in e.items() if type(v) is str}).encode()]
",
        );
        let head =
            "GET /a%20%E2%82%AC%zz?x=%20y&z HTTP/1.1\r\nHost: example.org:81\r\nAccept: a/b\r\nX-Odd!: 1\r\n\r\n";
        for _ in 0..3 {
            let reply = app.send(head, RequestBody::Empty);
            assert_eq!(reply.status, 200, "{}", reply.text());
            for wanted in [
                r#""REQUEST_METHOD": "GET""#,
                r#""PATH_INFO": "/a \u00e2\u0082\u00ac%zz""#,
                r#""QUERY_STRING": "x=%20y&z""#,
                r#""RAW_URI": "/a%20%E2%82%AC%zz?x=%20y&z""#,
                r#""SERVER_PROTOCOL": "HTTP/1.1""#,
                r#""SERVER_NAME": "127.0.0.1""#,
                r#""SERVER_PORT": "8000""#,
                r#""REMOTE_ADDR": "192.0.2.7""#,
                r#""REMOTE_PORT": "4711""#,
                r#""SCRIPT_NAME": """#,
                r#""HTTP_HOST": "example.org:81""#,
                r#""HTTP_ACCEPT": "a/b""#,
                r#""HTTP_X_ODD!": "1""#,
                r#""wsgi.url_scheme": "http""#,
            ] {
                assert!(reply.text().contains(wanted), "{wanted} in {}", reply.text());
            }
        }
    });
}

#[test]
fn environ_fields_are_joined_dropped_and_renamed() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    ok(sr)
    names = sorted(k for k in e if k.startswith(('HTTP_', 'CONTENT_')))
    return [repr([(k, e[k]) for k in names]).encode('latin-1')]
",
        );
        let head = "GET http://auth.example/x HTTP/1.0\r\nHost: other\r\nCookie: a=1\r\nX-A: 1\r\nX_A: 9\r\nx-a: 2\r\n\
                    cookie: b=2\r\nAccept: q\r\nProxy: evil\r\nACCEPT: r\r\nContent-Type: t/u\r\nX-A: \u{e9}\r\n\r\n";
        let latin: Vec<u8> = head.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        let exchange = exchange();
        let head = Arc::new(RequestHead::parse(&latin, &LIMITS).unwrap());
        let responder = Responder::new(Arc::clone(&exchange));
        let request = request(head, RequestBody::Empty);
        let call = Call::new(&app.application, request, responder);
        app.runner.call(py, call);
        let reply = reply(&exchange, "HTTP/1.0");
        let text: String = reply.body.iter().map(|&byte| char::from(byte)).collect();
        assert_eq!(
            text,
            "[('CONTENT_TYPE', 't/u'), ('HTTP_ACCEPT', 'q, r'), ('HTTP_COOKIE', 'a=1; b=2'), \
             ('HTTP_HOST', 'auth.example'), ('HTTP_X_A', '1, 2, \u{e9}')]"
        );
    });
}

#[test]
fn environ_many_repeated_fields_take_linear_time() {
    python(|py| {
        let mut app = App::new(py, "def app(e, sr):\n    ok(sr)\n    return [str(len(e['HTTP_X_A'])).encode()]");
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", format!("X-A: {}\r\n", "v".repeat(500)).repeat(900));
        let started = Instant::now();
        assert_eq!(app.send(&head, RequestBody::Empty).text(), (900 * 502 - 2).to_string());
        assert!(started.elapsed().as_millis() < 500);
    });
}

#[test]
fn environ_changed_or_kept_by_the_application_is_fresh_the_next_time() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
kept = []
def app(e, sr):
    dirty = 'x.dirty' in e or len(e) < 20
    e['x.dirty'] = 1
    kept.append((e, sr, e['wsgi.errors'], e['maypole.client_disconnected'], e['maypole.socket']))
    del e['REQUEST_METHOD'], e['wsgi.input']
    ok(sr)
    assert len(set(map(id, (k[0] for k in kept)))) == len(kept) == len(set(map(id, (k[1] for k in kept))))
    try:
        if len(kept) > 1:
            kept[0][1]('200 OK', CT)
    except RuntimeError:
        try:
            kept[0][4]()
        except RuntimeError:
            return [b'late ' + str(dirty).encode() + str(kept[0][3]()).encode()]
    return [str(dirty).encode()]
",
        );
        assert_eq!(app.get().text(), "False");
        assert_eq!(app.get().text(), "late FalseFalse");
        assert_eq!(app.get().text(), "late FalseFalse");
    });
}

#[test]
fn environ_has_fields_and_path_as_received_where_they_are_wanted() {
    python(|py| {
        let code = "def app(e, sr):\n    ok(sr)\n    return [repr((e.get('headers_raw'), e.get('RAW_PATH_INFO'), e['PATH_INFO'])).encode()]";
        let mut app = App::with(py, code, Options { headers_raw: true, ..Options::default() });
        let head = "GET /a%2Fb%20?c HTTP/1.1\r\nhOST: a\r\nX_Under: 1\r\nX-Two:  \u{e9} \r\nx-two:\r\nProxy: p\r\n\r\n";
        let fields = "(('hOST', 'a'), ('X_Under', '1'), ('X-Two', 'Ã©'), ('x-two', ''), ('Proxy', 'p'))";
        assert_eq!(app.send(head, RequestBody::Empty).text(), format!("({fields}, '/a%2Fb%20', '/a/b ')"));
        assert_eq!(app.send("GET http://b HTTP/1.0\r\n\r\n", RequestBody::Empty).text(), "((), '/', '/')");
        assert_eq!(App::new(py, code).send(head, RequestBody::Empty).text(), "(None, None, '/a/b ')");
    });
}

#[test]
fn callables_are_used_again_unless_the_application_keeps_them() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
import weakref
last, kept = None, None
def app(e, sr):
    global last, kept
    again = last is not None and last() is sr
    last = weakref.ref(sr)
    if e['QUERY_STRING']:
        kept = e.get(e['QUERY_STRING'], e)
    ok(sr)
    yield str(again).encode()
",
        );
        let keep = "GET /?keep HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(app.get().text(), "False");
        assert_eq!(app.get().text(), "True");
        assert_eq!(app.send(keep, RequestBody::Empty).text(), "True");
        assert_eq!(app.get().text(), "False");
        assert_eq!(app.get().text(), "True");
        let keep = "GET /?maypole.send_continue HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(app.send(keep, RequestBody::Empty).text(), "True");
        assert_eq!(app.get().text(), "False");
        assert_eq!(app.get().text(), "True");
    });
}

#[test]
fn content_length_is_the_true_one() {
    python(|py| {
        let mut app = App::new(
            py,
            "def app(e, sr):\n    ok(sr)\n    return [repr((e.get('CONTENT_LENGTH'), e.get('HTTP_TRANSFER_ENCODING'), len(e['wsgi.input'].read()))).encode()]",
        );
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = || RequestBody::Complete(Spool::from_bytes(b"abc".to_vec()));
        assert_eq!(app.send(chunked, body()).text(), "('3', None, 3)");
        let zero = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(app.send(zero, RequestBody::Empty).text(), "('0', None, 0)");
        assert_eq!(app.get().text(), "(None, None, 0)");
        let exchange = exchange();
        exchange.give_input(b"abcd");
        exchange.end_input(None);
        let body = RequestBody::Streamed(Input::new(Arc::clone(&exchange), Framing::Chunked));
        assert_eq!(app.send_on(&exchange, chunked, body).text(), "(None, 'chunked', 4)");
    });
}

/// An application that evaluates its query string on an input over `DATA`.
const INPUTS: &str = r"
DATA = b'one\ntwo\r\n\nthree four'
def app(e, sr):
    i, q = e['wsgi.input'], e['QUERY_STRING']
    out = eval(q, {**globals(), 'i': i})
    ok(sr)
    return [repr(out).encode()]
";

fn inputs() -> [(&'static str, &'static str); 12] {
    [
        ("i.read()==DATA", "True"),
        ("i.read(-1)==DATA", "True"),
        ("i.read(None)==DATA", "True"),
        (
            "[i.read(3),i.read(0),i.read(4),i.read(1000),i.read(1),i.read()]",
            "[b'one', b'', b'\\ntwo', b'\\r\\n\\nthree four', b'', b'']",
        ),
        (
            "[i.readline(),i.readline(),i.readline(),i.readline(),i.readline()]",
            "[b'one\\n', b'two\\r\\n', b'\\n', b'three four', b'']",
        ),
        (
            "[i.readline(2),i.readline(100),i.readline(0),i.readline(None),i.read()]",
            "[b'on', b'e\\n', b'', b'two\\r\\n', b'\\nthree four']",
        ),
        ("i.readlines()==list(io.BytesIO(DATA))", "True"),
        ("[i.readlines(1),i.readlines(0)]", "[[b'one\\n'], [b'two\\r\\n', b'\\n', b'three four']]"),
        ("list(i)==list(io.BytesIO(DATA))", "True"),
        (
            "[i.readline(),i.read(2),next(i),i.read(),i.read(5),i.readlines(),list(i)]",
            "[b'one\\n', b'tw', b'o\\r\\n', b'\\nthree four', b'', [], []]",
        ),
        ("b''.join(iter(lambda:i.read(7),b''))==DATA", "True"),
        ("[type(i.read(1)),i.close(),i.read(2)]", "[<class 'bytes'>, None, b'ne']"),
    ]
}

const DATA: &[u8] = b"one\ntwo\r\n\nthree four";

#[test]
fn input_in_memory_in_a_file_or_streamed_reads_like_a_file() {
    python(|py| {
        let mut app = App::new(py, INPUTS);
        for (expression, wanted) in inputs() {
            let head = format!("POST /?{expression} HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n");
            let in_memory = Spool::from_bytes(DATA.to_vec());
            assert_eq!(app.send(&head, RequestBody::Complete(in_memory)).text(), wanted, "memory: {expression}");
            let mut in_file = Spool::new(&Store::new(4, &storage()), None);
            in_file.write(DATA).unwrap();
            assert_eq!(app.send(&head, RequestBody::Complete(in_file)).text(), wanted, "file: {expression}");
            let exchange = exchange();
            let client = Arc::clone(&exchange);
            let sender = std::thread::spawn(move || {
                for part in DATA.chunks(3) {
                    client.give_input(part);
                    std::thread::yield_now();
                }
                client.end_input(None);
            });
            let body = RequestBody::Streamed(Input::new(Arc::clone(&exchange), Framing::Length(20)));
            assert_eq!(app.send_on(&exchange, &head, body).text(), wanted, "streamed: {expression}");
            sender.join().unwrap();
        }
    });
}

#[test]
fn input_large_file_is_read_whole_and_by_lines() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    i = e['wsgi.input']
    first = i.readline()
    big = i.read(300000)
    lines = i.readlines(1000)
    rest = i.read()
    data = first + big + b''.join(lines) + rest
    ok(sr)
    return [repr((len(first), len(big), len(lines), data == b''.join(b'%099d\n' % n for n in range(10000)))).encode()]
",
        );
        let mut spool = Spool::new(&Store::new(1000, &storage()), None);
        for line in 0..10_000 {
            spool.write(format!("{line:099}\n").as_bytes()).unwrap();
        }
        let reply =
            app.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", RequestBody::Complete(spool));
        assert_eq!(reply.text(), "(100, 300000, 10, True)");
    });
}

#[test]
fn input_of_a_client_that_left_raises_oserror() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    ok(sr)
    try:
        e['wsgi.input'].read(10)
    except OSError as x:
        return [type(x).__name__.encode()]
",
        );
        for (kind, name) in [
            (std::io::ErrorKind::ConnectionReset, "ConnectionResetError"),
            (std::io::ErrorKind::TimedOut, "TimeoutError"),
        ] {
            let exchange = exchange();
            exchange.give_input(b"abc");
            exchange.end_input(Some(kind));
            let body = RequestBody::Streamed(Input::new(Arc::clone(&exchange), Framing::Length(10)));
            let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
            assert_eq!(app.send_on(&exchange, head, body).text(), name);
        }
    });
}

#[test]
fn iterable_of_any_kind_gives_its_blocks() {
    python(|py| {
        let kinds = [
            "[b'a', b'b', b'c']",
            "(b'a', b'b', b'c')",
            "(c for c in (b'a', b'', b'b', b'c', b''))",
            "iter([b'a', b'b', b'c'])",
            "[b'', b'a', b'', b'bc']",
            "Body([b'a', b'b', b'c'])",
            "Get()",
            "type('L', (list,), {})([b'abc'])",
            "[type('B', (bytes,), {})(b'abc')]",
            "{b'abc': 1}",
        ];
        for kind in kinds {
            let mut app = App::new(
                py,
                &format!(
                    "class Get:\n    def __getitem__(self, i):\n        return (b'a', b'b', b'c')[i]\ndef app(e, sr):\n    ok(sr)\n    return {kind}"
                ),
            );
            for _ in 0..2 {
                let reply = app.get();
                assert_eq!((reply.status, reply.text(), reply.end), (200, "abc", Some(End::Complete)), "{kind}");
                assert_eq!(reply.persistence, Persistence::KeepAlive);
            }
        }
        for kind in ["[]", "()", "[b'']", "(c for c in ())", "Body([])"] {
            let mut app = App::new(py, &format!("def app(e, sr):\n    ok(sr)\n    return {kind}"));
            let reply = app.get();
            assert_eq!((reply.status, reply.text(), reply.end), (200, "", Some(End::Complete)), "{kind}");
            assert!(reply.head.contains("Content-Length: 0\r\n"), "{kind}");
        }
    });
}

#[test]
fn application_that_breaks_the_rules_gets_a_500() {
    python(|py| {
        let bodies = [
            "ok(sr); return ['str']",
            "ok(sr); return [1, 2]",
            "ok(sr); return None",
            "ok(sr); return 5",
            "ok(sr); return b'abc'",
            "return [b'abc']",
            "return []",
            "return iter([])",
            "return iter([b'abc'])",
            "raise RuntimeError('MARK')",
            "ok(sr); raise RuntimeError('MARK')",
            "raise StopIteration('MARK')",
            "sys.exit(7)",
            "raise KeyboardInterrupt",
            "raise GeneratorExit",
            "ok(sr); return Body([], RuntimeError('MARK'))",
            "sr(b'200 OK', CT)",
            "sr('abc OK', CT)",
            "sr('2000 OK', CT)",
            "sr('200 OK\\r\\nX: 1', CT)",
            "sr('200 OK', CT + [('X-A', 'a\\r\\nX: 1')])",
            "sr('200 OK', CT + [('X-A', 'a\\nX: 1')])",
            "sr('200 OK', CT + [('X-A', 'a\\0b')])",
            "sr('200 OK', CT + [('X A', 'b')])",
            "sr('200 OK', CT + [('X-A', b'a')])",
            "sr('200 OK', CT + [('X-A', 5)])",
            "sr('200 OK', CT + [('X-A', '\\u20ac')])",
            "sr('200 OK', CT + [None])",
            "sr('200 OK', CT + [('X-A',)])",
            "sr('200 OK', None)",
            "sr('200 OK', dict(CT))",
            "sr('200 OK', 'X-A: b')",
            "sr('200 OK', CT + ['ab'])",
            "sr('200 OK', (1 for _ in '1'))",
            "ok(sr); return ['str', bytearray(b'abc')]",
            "ok(sr); return [__import__('array').array('B', b'abc')]",
            "ok(sr, ('Content-Length', '+3'))",
            "ok(sr, ('Content-Length', '3.0'))",
            "ok(sr, ('Content-Length', '0x3'))",
            "ok(sr, ('Content-Length', '3_0'))",
            "ok(sr, ('Content-Length', '\\xb3'))",
            "ok(sr, ('Content-Length', '3, 3'))",
            "ok(sr, ('Content-Length', ''))",
            "ok(sr, ('Content-Length', 'abc'))",
            "ok(sr)('str')",
            "ok(sr); sr('201 Second', CT)",
        ];
        for body in bodies {
            let mut app = App::new(py, &format!("def app(e, sr):\n    {body}\n    return [b'abc']"));
            for _ in 0..2 {
                let reply = app.get();
                assert!(reply.is_500(), "{body}: {} {:?} {:?}", reply.status, reply.text(), reply.end);
                assert!(!reply.text().contains("MARK"));
                assert_eq!(reply.persistence, Persistence::KeepAlive, "{body}");
            }
        }
    });
}

#[test]
fn exception_is_logged_with_request_line_and_traceback() {
    python(|py| {
        let mut app = App::new(py, "def app(e, sr):\n    raise RuntimeError('MARK-logged')");
        app.get();
        let lines = LOGGED.lock().unwrap();
        let line = lines.iter().find(|line| line.contains("MARK-logged")).unwrap();
        assert!(line.starts_with("maypole.application: GET / HTTP/1.1\nTraceback (most recent call last):"), "{line}");
        assert!(line.contains("app.py"), "{line}");
    });
}

#[test]
fn exception_after_the_first_block_cuts_the_response() {
    python(|py| {
        for body in ["Body([b'a', b'b'], RuntimeError('x'))", "Body([b'a', b'b', 'str'])"] {
            let mut app = App::new(py, &format!("def app(e, sr):\n    ok(sr)\n    return {body}"));
            let reply = app.get();
            assert_eq!((reply.status, reply.text(), reply.end), (200, "ab", Some(End::Failed)));
            assert_eq!(app.events(), ["close"]);
        }
    });
}

#[test]
fn close_is_called_once_whatever_happens() {
    python(|py| {
        let cases = [
            ("ok(sr); return Body([b'a'])", 200),
            ("ok(sr); return Body([])", 200),
            ("return Body([b'a'])", 500),
            ("ok(sr); return Body([], RuntimeError('x'))", 500),
            ("ok(sr); return Body(['str'])", 500),
            ("ok(sr); b = Body([]); b.__class__ = type('I', (Body,), {'__iter__': lambda s: 1 / 0}); return b", 500),
            ("ok(sr); b = type('L', (list,), {'close': Body.close, 'close_fails': 0})([b'a']); return b", 200),
            ("ok(sr, ('Content-Length', '1')); return Body([b'a', b'b', b'c'])", 200),
            (
                "ok(sr); return e['wsgi.file_wrapper'](type('F', (), {'read': lambda s, n: b'', 'close': lambda s: events.append('close')})())",
                200,
            ),
        ];
        for (body, status) in cases {
            let mut app = App::new(py, &format!("def app(e, sr):\n    {body}"));
            for times in 1..3 {
                assert_eq!(app.get().status, status, "{body}");
                assert_eq!(app.events(), vec!["close"; times], "{body}");
            }
            let reply = app.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", RequestBody::Empty);
            assert!(reply.status == status || reply.status == 200, "{body}");
            assert_eq!(app.events().len(), 3, "{body}");
        }
    });
}

#[test]
fn close_that_fails_leaves_the_response_whole() {
    python(|py| {
        let mut app = App::new(py, "def app(e, sr):\n    ok(sr)\n    return Body([b'abc'], close_fails=True)");
        let reply = app.get();
        assert_eq!((reply.status, reply.text(), reply.end), (200, "abc", Some(End::Complete)));
        assert!(logged("MARK-close"));
    });
}

#[test]
fn client_that_left_ends_the_iteration() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
gone = None
class Endless(Body):
    def __next__(self):
        events.append('next')
        return b'x'
def app(e, sr):
    global gone
    gone = e['maypole.client_disconnected']
    leave()
    ok(sr)
    return Endless([])
",
        );
        let exchange = exchange();
        app.have_leave(&exchange);
        app.run(&exchange, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestBody::Empty);
        assert_eq!(app.events(), ["next", "close"]);
        assert!(app.module.getattr("gone").unwrap().call0().unwrap().is_truthy().unwrap());
    });
}

#[test]
fn exc_info_before_the_head_replaces_it_and_after_it_raises_again() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    sr('200 OK', CT + [('X-Old', '1'), ('Content-Length', '9')])
    yield b''
    try:
        raise KeyError('x')
    except KeyError:
        sr('503 Replaced', CT + [('X-New', '1')], sys.exc_info())
    yield b'new'
    try:
        raise ValueError('late')
    except ValueError as v:
        try:
            sr('500 Late', CT, sys.exc_info())
        except ValueError as w:
            events.append(str(v is w))
            raise
",
        );
        let reply = app.get();
        assert_eq!((reply.status, reply.text(), reply.end), (503, "new", Some(End::Failed)));
        assert!(reply.head.starts_with("HTTP/1.1 503 Replaced\r\n") && reply.head.contains("X-New: 1\r\n"));
        assert!(!reply.head.contains("X-Old"));
        assert_eq!(app.events(), ["True"]);
    });
}

#[test]
fn write_sends_at_once_and_before_the_iterable() {
    python(|py| {
        let mut app = App::new(
            py,
            "def app(e, sr):\n    w = ok(sr)\n    events.append(repr(w(b'a')))\n    w(b'')\n    w(b'b')\n    return [b'c']",
        );
        let reply = app.get();
        assert_eq!((reply.status, reply.text(), reply.end), (200, "abc", Some(End::Complete)));
        assert_eq!(app.events(), ["None"]);
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    w = ok(sr, ('Content-Length', '2'))
    w(b'ab')
    try:
        w(b'GET')
    except ValueError:
        events.append('raised')
    return []
",
        );
        let reply = app.get();
        assert_eq!((reply.status, reply.text(), reply.end), (200, "ab", Some(End::Complete)));
        assert_eq!(app.events(), ["raised"]);
    });
}

#[test]
fn content_length_bounds_what_is_sent() {
    python(|py| {
        for kind in ["[b'abc']", "[b'a', b'bc']", "iter([b'a', b'bc', b'd'])", "Body([b'abc', b'd'])"] {
            let mut app =
                App::new(py, &format!("def app(e, sr):\n    ok(sr, ('Content-Length', '2'))\n    return {kind}"));
            let reply = app.get();
            assert_eq!((reply.status, reply.text(), reply.end), (200, "ab", Some(End::Complete)), "{kind}");
            let mut app =
                App::new(py, &format!("def app(e, sr):\n    ok(sr, ('Content-Length', '9'))\n    return {kind}"));
            let reply = app.get();
            assert!(reply.body.len() < 9 && reply.head.contains("Content-Length: 9\r\n"), "{kind}");
        }
    });
}

#[test]
fn body_is_left_out_where_there_can_be_none() {
    python(|py| {
        for kind in ["[b'abc']", "Body([b'abc'])", "iter([b'abc'])"] {
            for status in ["204 No Content", "304 Not Modified"] {
                let mut app = App::new(py, &format!("def app(e, sr):\n    sr('{status}', [])\n    return {kind}"));
                let reply = app.get();
                assert_eq!((reply.text(), reply.end), ("", Some(End::Complete)), "{kind} {status}");
                assert!(!reply.head.contains("Content-Length"), "{kind} {status}");
            }
            let mut app = App::new(py, &format!("def app(e, sr):\n    ok(sr)\n    return {kind}"));
            let reply = app.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", RequestBody::Empty);
            assert_eq!((reply.status, reply.text(), reply.end), (200, "", Some(End::Complete)), "{kind}");
            assert_eq!(reply.head.contains("Content-Length: 3\r\n"), kind == "[b'abc']");
        }
    });
}

#[test]
fn one_block_by_its_own_account_gets_a_content_length() {
    python(|py| {
        let mut app = App::new(
            py,
            "class One(Body):\n    def __len__(self):\n        return 1\ndef app(e, sr):\n    ok(sr)\n    return One([b'abc'])",
        );
        assert!(app.get().head.contains("Content-Length: 3\r\n"));
    });
}

#[test]
fn block_is_handed_over_before_the_next_is_asked_for() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
import threading
gate = threading.Event()
def app(e, sr):
    ok(sr)
    yield b'first'
    assert gate.wait(10)
    yield b'second'
",
        );
        let exchange = exchange();
        let client = Arc::clone(&exchange);
        let gate = app.module.getattr("gate").unwrap().unbind();
        let reader = std::thread::spawn(move || {
            let until = Instant::now() + std::time::Duration::from_secs(10);
            while Instant::now() < until {
                let taken = taken_from(&client);
                if let Some(block) = taken.blocks.into_iter().next() {
                    Python::attach(|py| drop(gate.bind(py).call_method0("set").unwrap()));
                    return bytes_of(block);
                }
                std::thread::yield_now();
            }
            Vec::new()
        });
        app.run(&exchange, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestBody::Empty);
        assert_eq!(py.detach(|| reader.join().unwrap()), b"first");
        assert_eq!(taken_from(&exchange).end, Some(End::Complete));
    });
}

#[test]
fn slow_client_gets_everything_in_order() {
    python(|py| {
        let mut app = App::new(
            py,
            "def app(e, sr):\n    ok(sr)\n    for n in range(400):\n        yield (b'%d' % (n % 10)) * (n * 37 % 30000 + 1)",
        );
        let exchange = exchange_with(10_000);
        let client = Arc::clone(&exchange);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            loop {
                let taken = taken_from(&client);
                taken.blocks.into_iter().for_each(|block| all.extend(bytes_of(block)));
                if taken.spooled {
                    // Read one part for each `take`: once the file is empty, later blocks may be in memory again.
                    spooled(&client, &mut all);
                }
                if let Some(end) = taken.end {
                    return (all, end);
                }
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        app.run(&exchange, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestBody::Empty);
        let (all, end) = py.detach(|| reader.join().unwrap());
        let wanted: Vec<u8> =
            (0..400_usize).flat_map(|n| vec![b'0' + u8::try_from(n % 10).unwrap(); n * 37 % 30_000 + 1]).collect();
        assert!(all == wanted, "{} bytes instead of {}", all.len(), wanted.len());
        assert_eq!(end, End::Complete);
    });
}

#[test]
fn large_bytes_are_kept_and_given_back() {
    python(|py| {
        let mut app = App::new(
            py,
            "big = b'x' * 100000\nbase = sys.getrefcount(big)\ndef app(e, sr):\n    ok(sr)\n    return [big, b'y', big]\ndef count():\n    gc.collect()\n    return sys.getrefcount(big) - base",
        );
        let exchange = exchange();
        app.run(&exchange, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestBody::Empty);
        let count = |app: &App<'_>| app.module.getattr("count").unwrap().call0().unwrap().extract::<i64>().unwrap();
        assert_eq!(count(&app), 2);
        py.detach(|| {
            let body: Vec<u8> = taken_from(&exchange).blocks.into_iter().flat_map(bytes_of).collect();
            assert_eq!(body.len(), 200_001);
        });
        wsgi::release(py);
        assert_eq!(count(&app), 0);
    });
}

#[test]
fn file_wrapper_sends_real_files_by_descriptor_and_all_else_by_reading() {
    python(|py| {
        let setup = r"
path = tempfile.mkdtemp() + '/f'
open(path, 'wb').write(bytes(range(256)) * 64)
def part(f, n):
    f.read(n)
    return f
def zipped():
    with gzip.open(path + '.gz', 'wb') as f:
        f.write(b'zipped')
    return gzip.open(path + '.gz')
def temporary():
    f = tempfile.NamedTemporaryFile()
    f.write(b'temporary')
    f.seek(4)
    return f
class Plain:
    n = 3
    def read(self, size):
        self.n -= 1
        return b'ab' if self.n >= 0 else b''
class Loud(io.FileIO):
    def read(self, size=-1):
        return super().read(size).upper()
";
        let all: Vec<u8> = (0..=255).collect::<Vec<u8>>().repeat(64);
        let loud = all[16384 - 158..].to_ascii_uppercase();
        let cases: [(&str, &[u8]); 10] = [
            ("open(path, 'rb')", &all),
            ("io.FileIO(path)", &all),
            ("part(open(path, 'rb'), 5)", &all[5..]),
            ("part(open(path, 'rb', 0), 5), 4096", &all[5..]),
            ("io.BytesIO(b'hello file'), 4", b"hello file"),
            ("zipped()", b"zipped"),
            ("temporary()", b"orary"),
            ("Plain()", b"ababab"),
            ("part(open(path, 'rb'), 99999)", b""),
            ("part(Loud(path), 16384 - 158)", &loud),
        ];
        for (file, wanted) in cases {
            let code = format!("{setup}\ndef app(e, sr):\n    ok(sr)\n    return e['wsgi.file_wrapper']({file})");
            let mut app = App::new(py, &code);
            let reply = app.get();
            assert_eq!(reply.status, 200, "{file}");
            assert!(reply.body == wanted, "{file}: {} bytes instead of {}", reply.body.len(), wanted.len());
            assert_eq!(reply.end, Some(End::Complete));
        }
        let code = format!(
            "{setup}\nfiles = []\ndef app(e, sr):\n    f = open(path, 'rb')\n    files.append(f)\n    f.seek(10)\n    ok(sr, ('Content-Length', '100'))\n    return e['wsgi.file_wrapper'](f)"
        );
        let mut app = App::new(py, &code);
        let reply = app.get();
        assert!(reply.body == all[10..110]);
        let file = app.module.getattr("files").unwrap().get_item(0).unwrap();
        assert!(file.getattr("closed").unwrap().is_truthy().unwrap());
        let code = format!(
            "{setup}\ndef app(e, sr):\n    ok(sr)\n    return e['wsgi.file_wrapper'](open(path, encoding='latin-1'))"
        );
        assert!(App::new(py, &code).get().is_500());
    });
}

#[test]
fn early_hints_are_checked_and_sent_before_the_head() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    hints = e['wsgi.early_hints']
    for bad in ('a\r\nb', b'a', 'a\0'):
        try:
            hints([('Link', bad)])
        except (ValueError, TypeError):
            events.append('refused')
    hints([('Link', '</a.css>; rel=preload'), ('Link', '</b.js>'), ('Content-Length', '3')])
    ok(sr)
    return [b'abc']
",
        );
        let reply = app.get();
        assert_eq!(
            String::from_utf8_lossy(&reply.interim),
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>\r\n\r\n"
        );
        assert_eq!((reply.status, reply.text()), (200, "abc"));
        assert_eq!(app.events(), ["refused"; 3]);
        assert_eq!(app.send("GET / HTTP/1.0\r\n\r\n", RequestBody::Empty).interim, b"");
    });
}

#[test]
fn continue_is_sent_with_fields_as_often_as_asked_before_the_head() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    go_on = e['maypole.send_continue']
    for bad in ([('X', 'a\r\nb')], [('X', b'a')], [('X',)]):
        try:
            go_on(bad)
        except (ValueError, TypeError):
            events.append('refused')
    fields = ((n, v) for n, v in [('X-A', '1'), ('Connection', 'x')])
    events.append(f'{go_on()} {go_on(headers=fields)}')
    ok(sr)(b'abc')
    events.append(f'late {go_on([])}')
    return [b'']
",
        );
        let reply = app.get();
        assert_eq!(
            String::from_utf8_lossy(&reply.interim),
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\nX-A: 1\r\n\r\n"
        );
        assert_eq!((reply.status, reply.text()), (200, "abc"));
        assert_eq!(app.events(), ["refused", "refused", "refused", "True True", "late False"]);
        assert_eq!(app.send("GET / HTTP/1.0\r\n\r\n", RequestBody::Empty).interim, b"");
        assert_eq!(app.events()[8..], ["False False", "late False"]);
    });
}

#[test]
fn errors_takes_text_of_any_kind() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    w = e['wsgi.errors']
    assert w.write('MARK-1 \u20ac\xe9\nMARK-2 ') == 13 + 4
    w.writelines(['\ud800', 'end\n', 'MARK-3 rest'])
    w.flush()
    print('MARK-4', file=w)
    w.write('MARK-5')
    ok(sr)
    return [b'ok']
",
        );
        assert_eq!(app.get().text(), "ok");
        for mark in ["MARK-1 \u{20ac}\u{e9}", "MARK-2 \\ud800end", "MARK-3 rest", "MARK-4", "MARK-5"] {
            assert!(logged(&format!("wsgi.errors: GET / HTTP/1.1: {mark}")), "{mark}");
        }
    });
}

#[test]
fn access_log_gets_the_environ_entries_it_asked_for() {
    python(|py| {
        let options = Options {
            access_log_environ: vec!["REMOTE_USER".into(), "x.n".into(), "none".into()],
            ..Options::default()
        };
        let mut app = App::with(
            py,
            "def app(e, sr):\n    e['REMOTE_USER'] = 'me'\n    e['x.n'] = 5\n    ok(sr)\n    return []",
            options,
        );
        assert_eq!(app.get().environ, [("REMOTE_USER".into(), "me".into()), ("x.n".into(), "5".into())]);
    });
}

#[test]
fn deep_recursion_and_a_broken_str_end_one_request() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
class Odd(Exception):
    def __str__(self):
        raise ValueError
def app(e, sr):
    if e['QUERY_STRING']:
        raise Odd
    def f():
        f()
    f()
",
        );
        assert!(app.get().is_500());
        assert!(app.send("GET /?x HTTP/1.1\r\nHost: a\r\n\r\n", RequestBody::Empty).is_500());
    });
}

#[test]
fn fork_that_returns_into_the_server_ends_the_child_without_a_response() {
    python(|py| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    fd = int(e['QUERY_STRING'])
    ok(sr)
    pid = os.fork()
    if not pid:
        os.write(fd, b'child ')
        return [b'child']
    _, status = os.waitpid(pid, 0)
    os.write(fd, b'%d' % status)
    return [b'parent']
",
        );
        let fd = std::os::fd::AsRawFd::as_raw_fd(&writer);
        let reply = app.send(&format!("GET /?{fd} HTTP/1.1\r\nHost: a\r\n\r\n"), RequestBody::Empty);
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!((reply.text(), &*said), ("parent", "child 0"));
    });
}

#[test]
fn validator_is_content() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
import warnings
from wsgiref.validate import validator
def inner(e, sr):
    n = int(e.get('CONTENT_LENGTH') or 0)
    d = e['wsgi.input'].read(n) if n else b''
    e['wsgi.errors'].write('x\n')
    sr('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(d) + 5))])
    return [b'valid', d]
app = validator(inner)
",
        );
        assert_eq!(app.get().text(), "valid");
        assert_eq!(app.post(b"hello").text(), "validhello");
        assert_eq!(app.send("PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n", RequestBody::Empty).status, 200);
    });
}

#[test]
fn load_finds_applications_and_says_what_is_wrong() {
    python(|py| {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "ld_good.py",
            "def app(e, s): pass\nclass N: inner = app\ndef make(x=1, *, y=2): return app\nvalue = 5\n_hidden = app\n",
        );
        write("ld_default.py", "def application(e, s): pass\n");
        write("ld_broken.py", "import nothing_of_that_name\n");
        write("ld_syntax.py", "def (\n");
        write("ld_empty.py", "import os\nvalue = 5\n");
        prepare_path(py, dir.path(), &[]).unwrap();
        for spec in
            ["ld_good:app", "ld_good", "ld_default", "ld_good:N.inner", "ld_good:make()", "ld_good:make('x', y=[1])"]
        {
            load(py, spec, false).unwrap_or_else(|error| panic!("{spec}: {error}"));
        }
        load(py, "ld_good:make", true).unwrap();
        let file = format!("{}/ld_good.py:app", dir.path().display());
        load(py, &file, false).unwrap();
        let fails = |spec: &str, kind: fn(&LoadError) -> bool, words: &[&str]| {
            let error = load(py, spec, false).unwrap_err();
            let text = error.to_string();
            assert!(kind(&error) && words.iter().all(|word| text.contains(word)), "{spec}: {error:?}");
        };
        fails("ld_missing:app", |e| matches!(e, LoadError::NotFound(_)), &["ld_missing"]);
        fails("ld_missing.sub", |e| matches!(e, LoadError::NotFound(_)), &["'ld_missing'"]);
        fails(
            "ld_broken:app",
            |e| matches!(e, LoadError::Failed { .. }),
            &["ld_broken", "nothing_of_that_name", "Traceback"],
        );
        fails("ld_syntax:app", |e| matches!(e, LoadError::Failed { .. }), &["SyntaxError"]);
        fails("ld_good:nope", |e| matches!(e, LoadError::NotFound(_)), &["'nope'", "app, make"]);
        fails("ld_empty", |e| matches!(e, LoadError::NotFound(_)), &["neither 'application' nor 'app'", "nothing"]);
        fails("ld_good:value", |e| matches!(e, LoadError::NotCallable(_)), &["ld_good:value", "int"]);
        fails("ld_good:make(app)", |e| matches!(e, LoadError::Malformed(_)), &["literal"]);
        fails("ld_good:make(1, 2, 3)", |e| matches!(e, LoadError::Failed { .. }), &["TypeError"]);
        fails("", |e| matches!(e, LoadError::Malformed(_)), &[]);
        fails("no/such/file.py:app", |e| matches!(e, LoadError::NotFound(_)), &["no/such/file.py"]);
    });
}

// The connection itself.

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: x\r\n\r\n";

/// Acts as a connection whose stream is taken: gives one end of a socket pair, and returns the other. Counts in
/// `let_go` how often the server's hold on the stream is dropped.
fn connection(
    exchange: &Arc<Exchange>,
    received: &'static [u8],
    let_go: &Arc<AtomicUsize>,
) -> std::thread::JoinHandle<UnixStream> {
    let (exchange, held) = (Arc::clone(exchange), Held(Arc::clone(let_go)));
    std::thread::spawn(move || {
        let mut outbox = Outbox::default();
        while !outbox.stream_wanted {
            exchange.take(&mut outbox);
            std::thread::yield_now();
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        assert!(exchange.promise_stream());
        let stream = TakenStream { fd: ours.into(), received: received.to_vec(), hold: Box::new(held) };
        exchange.give_stream(stream, Box::new(drop));
        theirs
    })
}

struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn upgrading() -> Options {
    Options { werkzeug_socket: true, ..Options::default() }
}

#[test]
fn socket_is_a_blocking_socket_that_gives_what_was_received_first() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
import select, socket
socket.setdefaulttimeout(7)
def app(e, sr):
    s = e['maypole.socket']()
    assert isinstance(s, socket.socket) and s.family == socket.AF_UNIX and s.type == socket.SOCK_STREAM
    assert s.getblocking() and s.gettimeout() is None and not s.get_inheritable()
    assert 'werkzeug.socket' not in e
    assert s.recv(4, socket.MSG_PEEK) == b'0123' and s.recv(2) == b'01'
    room = bytearray(8)
    assert s.recv_into(room, 2) == 2 and room[:2] == b'23'
    assert s.recv_into(memoryview(room)[:1]) == 1 and room[:1] == b'4'
    assert s.recvfrom(1)[0] == b'5' and s.recvfrom_into(room, 1)[0] == 1 and room[:1] == b'6'
    assert s.recvmsg(1)[0] == b'7' and s.recvmsg_into([memoryview(room)[:1]])[0] == 1 and room[:1] == b'8'
    assert s.recv(0) == b''
    other = s.dup()
    assert other.recv(100) == b'9'
    other.close()
    s.sendall(b'go')
    assert s.makefile('rb', buffering=0).readline() == b'line\n'
    room = bytearray(2)
    assert s.recv_into(room) == 2 and room == b'ab'
    sr('200 OK', [('Upgrade', 'anything'), ('Content-Length', '5')])
    sr('500 Again', [])(b'more')
    try:
        e['maypole.socket']()
    except RuntimeError as error:
        assert 'already' in str(error)
        events.append('whole')
    s.close()
    return [b'dropped', b'as well']
",
        );
        let let_go = Arc::default();
        for _ in 0..2 {
            let exchange = exchange();
            let theirs = connection(&exchange, b"0123456789", &let_go);
            let reader = std::thread::spawn(move || {
                let mut theirs = theirs.join().unwrap();
                let mut go = [0; 2];
                theirs.read_exact(&mut go).unwrap();
                std::io::Write::write_all(&mut theirs, b"line\nab").unwrap();
                let mut rest = Vec::new();
                theirs.read_to_end(&mut rest).unwrap();
                (go, rest)
            });
            app.run(&exchange, UPGRADE, RequestBody::Empty);
            py.detach(|| assert_eq!(reader.join().unwrap(), (*b"go", Vec::new())));
            let taken = taken_from(&exchange);
            assert!(taken.head.is_none() && taken.blocks.is_empty() && taken.end.is_none());
        }
        assert_eq!(app.events(), ["whole", "whole"]);
        assert_eq!(let_go.load(Ordering::SeqCst), 2);
        py.run(c"import socket; socket.setdefaulttimeout(None)", None, None).unwrap();
    });
}

#[test]
fn socket_is_refused_with_a_reason_and_the_response_goes_on() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    ok(sr)(b'first ')
    try:
        e['maypole.socket']()
    except RuntimeError as error:
        return [str(error).encode()]
",
        );
        let exchange = exchange();
        let refusing = Arc::clone(&exchange);
        let connection = std::thread::spawn(move || {
            let mut outbox = Outbox::default();
            let mut head = None;
            while !outbox.stream_wanted {
                refusing.take(&mut outbox);
                head = head.or(outbox.head.take());
                std::thread::yield_now();
            }
            refusing.refuse_stream(NotGiven::Begun);
            head
        });
        app.run(&exchange, UPGRADE, RequestBody::Empty);
        assert!(py.detach(|| connection.join().unwrap()).is_some());
        let mut taken = taken_from(&exchange);
        let body: Vec<u8> = taken.blocks.drain(..).flat_map(bytes_of).collect();
        assert_eq!(body, b"the connection cannot be taken over: the response has begun");
        assert_eq!(taken.end, Some(End::Complete));
    });
}

#[test]
fn client_that_left_before_the_call_is_not_called_for() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    events.append('called')
    ok(sr)
    return []
",
        );
        let exchange = exchange();
        exchange.set_gone();
        app.run(&exchange, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestBody::Empty);
        assert_eq!(app.events(), [""; 0]);
    });
}

#[test]
fn socket_of_a_client_that_has_gone_is_a_broken_pipe() {
    python(|py| {
        let mut app = App::new(
            py,
            r"
def app(e, sr):
    leave()
    try:
        e['maypole.socket']()
    except BrokenPipeError:
        events.append('gone')
    ok(sr)
    return []
",
        );
        let exchange = exchange();
        app.have_leave(&exchange);
        app.run(&exchange, UPGRADE, RequestBody::Empty);
        assert_eq!(app.events(), ["gone"]);
    });
}

#[test]
fn werkzeug_socket_changes_nothing_before_it_is_used() {
    python(|py| {
        let mut app = App::with(
            py,
            r"
import copy, pprint, socket
def app(e, sr):
    s = e['werkzeug.socket']
    assert isinstance(s, socket.socket) and s
    assert 'not used' in repr(s) and 'not used' in pprint.pformat(e)
    copy.copy(e)
    assert not hasattr(s, '__deepcopy__')
    ok(sr)
    return [b'ordinary']
",
            upgrading(),
        );
        assert_eq!(app.send(UPGRADE, RequestBody::Empty).text(), "ordinary");
        for other in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgraded, close\r\n\r\n",
            "GET / HTTP/1.0\r\nConnection: upgrade\r\n\r\n",
        ] {
            assert!(app.send(other, RequestBody::Empty).is_500(), "there is no werkzeug.socket: {other}");
        }
    });
}

#[test]
fn werkzeug_socket_takes_the_connection_over_at_its_first_use() {
    python(|py| {
        let mut app = App::with(
            py,
            r"
import socket
def app(e, sr):
    s = e['werkzeug.socket']
    s.sendall(b'hello ')
    assert s.getblocking() and s.fileno() >= 0
    assert s.recv(3) == b'abc' and type(s) is type(s.dup())
    s.send(b'there')
    events.append('used')
    raise ConnectionError('MARK-taken')
",
            upgrading(),
        );
        let exchange = exchange();
        let let_go = Arc::default();
        let theirs = connection(&exchange, b"abc", &let_go);
        app.run(&exchange, UPGRADE, RequestBody::Empty);
        let mut said = String::new();
        py.detach(|| theirs.join().unwrap().read_to_string(&mut said)).unwrap();
        assert_eq!((app.events(), said.as_str()), (vec!["used".to_owned()], "hello there"));
        let lines = LOGGED.lock().unwrap();
        assert!(!lines.iter().any(|line| line.contains("MARK-taken") && line.contains("Traceback")));
    });
}
