//! Calls of the application: iterables, rules, exceptions, `close`, and what ends a call early.

use std::io::Read;

use maypole::handler::{End, RequestBody};
use maypole::http::Persistence;
use pyo3::prelude::*;

use crate::app::{App, LOGGED, exchange, logged, python};

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
