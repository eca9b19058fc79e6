//! The environ of a request.

use std::sync::Arc;
use std::time::Instant;

use maypole::handler::{Input, Local, Origin, RequestBody, Responder, Scheme};
use maypole::http::{Framing, RequestHead};
use maypole::spool::Spool;
use maypole::wsgi::{Call, Options};
use pyo3::types::PyString;

use crate::app::{App, LIMITS, exchange, origin, python, reply, request};

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

const WHERE: &str = "def app(e, sr):
    ok(sr)
    names = 'wsgi.url_scheme', 'REMOTE_ADDR', 'REMOTE_PORT', 'HTTP_HOST', 'SERVER_NAME', 'SERVER_PORT'
    return [' '.join(repr(e.get(name)) for name in names).encode()]
";

#[test]
fn environ_has_the_client_the_scheme_and_the_host_of_each_request() {
    python(|py| {
        let mut app = App::new(py, WHERE);
        let client = Some("[2001:db8::1]:443".parse().unwrap());
        let host = Some(Box::from(*b"example.org"));
        let unix = Origin { client: None, local: Arc::new(Local::Unix("s".into())), ..origin() };
        // Each origin a second time, after another one.
        for _ in 0..2 {
            for (origin, wanted) in [
                (origin(), "'http' '192.0.2.7' '4711' 'a' '127.0.0.1' '8000'"),
                (Origin { scheme: Scheme::Https, ..origin() }, "'https' '192.0.2.7' '4711' 'a' '127.0.0.1' '8000'"),
                (Origin { client, ..origin() }, "'http' '2001:db8::1' '443' 'a' '127.0.0.1' '8000'"),
                (
                    Origin { host: host.clone(), ..origin() },
                    "'http' '192.0.2.7' '4711' 'example.org' '127.0.0.1' '8000'",
                ),
                (unix.clone(), "'http' '' '' 'a' 'localhost' '80'"),
            ] {
                assert_eq!(app.send_from(origin, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), wanted);
            }
        }
    });
}

#[test]
fn environ_keeps_the_scheme_that_the_application_was_given() {
    python(|py| {
        let https = PyString::new(py, "https").into_any().unbind();
        let options = Options { environ: vec![("wsgi.url_scheme".into(), https)], ..Options::default() };
        let mut app = App::with(py, WHERE, options);
        for scheme in [Scheme::Http, Scheme::Https, Scheme::Http] {
            let reply = app.send_from(Origin { scheme, ..origin() }, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(reply.text().starts_with("'https' "), "{}", reply.text());
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
        app.runner.call(py, call, &mut Instant::now());
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
        // Other processes may use the processors, so the best of several rounds counts.
        let mut rounds = (0..10).map(|_| {
            let started = Instant::now();
            assert_eq!(app.send(&head, RequestBody::Empty).text(), (900 * 502 - 2).to_string());
            started.elapsed()
        });
        assert!(rounds.any(|took| took.as_millis() < 500));
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
        let body = || RequestBody::Complete(Box::new(Spool::from_bytes(b"abc".to_vec())));
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
