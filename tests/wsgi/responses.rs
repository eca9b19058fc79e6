//! What the application sends: the head, `write`, blocks, lengths, and files.

use std::sync::Arc;
use std::time::Instant;

use maypole::handler::{End, RequestBody};
use maypole::wsgi;
use pyo3::prelude::*;

use crate::app::{App, bytes_of, exchange, exchange_with, python, spooled, taken_from};

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
