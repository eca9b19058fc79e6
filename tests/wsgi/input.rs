//! The body of a request as the application reads it.

use std::sync::Arc;

use maypole::handler::{Input, RequestBody};
use maypole::http::Framing;
use maypole::spool::{Spool, Store};

use crate::app::{App, exchange, python, storage};

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
            assert_eq!(
                app.send(&head, RequestBody::Complete(Box::new(in_memory))).text(),
                wanted,
                "memory: {expression}"
            );
            let mut in_file = Spool::new(&Store::new(4, &storage()), None);
            in_file.write(DATA).unwrap();
            assert_eq!(app.send(&head, RequestBody::Complete(Box::new(in_file))).text(), wanted, "file: {expression}");
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
        let reply = app.send(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
            RequestBody::Complete(Box::new(spool)),
        );
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
