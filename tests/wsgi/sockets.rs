//! Applications that take the connection itself over.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use maypole::handler::{End, Exchange, NotGiven, Outbox, RequestBody, TakenStream};
use maypole::wsgi::Options;

use crate::app::{App, LOGGED, bytes_of, exchange, python, taken_from};

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
