//! Tests of a server that has no free coroutine or no room for another connection, and of its end.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::drain::DRAIN_FIRST_REQUEST;
use super::*;
use crate::admission::{Admission, Rules};
use crate::drain::Drain;
use crate::handler::{Origin, Request, Responder};
use crate::http::RequestHead;
use crate::pool::Pool;
use crate::sys::Lock;

/// Longer than any step of these tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

type Call = (Request, Responder);

/// A handler that passes requests to the test.
struct ByHand {
    calls: Lock<mpsc::Sender<Call>>,
    rules: Rules,
    /// The number of calls that still run after their connection has ended.
    outlasting: AtomicUsize,
    drain: OnceLock<Arc<Drain>>,
}

impl ByHand {
    fn end_one(&self) {
        if self.outlasting.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.drain.get().unwrap().note();
        }
    }
}

impl Handler for ByHand {
    fn admit(&self, head: &RequestHead, _origin: &Origin) -> Admission<'_> {
        Admission::Serve(self.rules.terms(head))
    }

    fn call(&self, request: Request, responder: Responder) {
        // An error means that the test is over.
        drop(self.calls.lock().send((request, responder)));
    }

    fn join_drain(&self, drain: &Arc<Drain>) {
        self.drain.set(Arc::clone(drain)).unwrap();
    }

    fn running(&self) -> usize {
        self.outlasting.load(Ordering::SeqCst)
    }

    fn pool(&self) -> Option<&Arc<Pool>> {
        Some(self.rules.pool())
    }
}

struct Served {
    server: Server,
    handler: Arc<ByHand>,
    calls: Receiver<Call>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.cut(Duration::ZERO);
    }
}

impl Served {
    fn new(coroutines_max: usize, options: &[&str]) -> Self {
        sys::start_runtime(64 * 1024).unwrap();
        let words = ["maypole", "module:app", "--bind", "127.0.0.1:0"];
        let config = Config::parse_from(words.iter().chain(options)).unwrap();
        let listeners = Listener::bind_configured(&config).unwrap();
        let (sender, calls) = mpsc::channel();
        let config = Arc::new(config);
        let handler = Arc::new(ByHand {
            calls: Lock::new(sender),
            rules: Rules::with_own_pool(&config),
            outlasting: AtomicUsize::new(0),
            drain: OnceLock::new(),
        });
        let setup = Setup { coroutines_max, ..Setup::new(config, listeners, handler.clone()) };
        let server = Server::start(setup).unwrap();
        Self { server, handler, calls }
    }

    fn connect(&self) -> TcpStream {
        let BoundAddress::Tcp(address) = self.server.addresses()[0] else { panic!("not tcp") };
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn get(&self, path: &str) -> TcpStream {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
        stream
    }

    fn call(&self, path: &str) -> Call {
        let (request, responder) = self.calls.recv_timeout(PATIENCE).unwrap();
        assert_eq!(request.head.path().escape_ascii().to_string(), path);
        (request, responder)
    }

    fn wait_for(&self, what: &str, holds: impl Fn(Numbers) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self.server.numbers()) {
            assert!(Instant::now() < end, "never: {what}; {:?}", self.server.numbers());
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn waiting(&self) -> usize {
        self.server.inner.registry.idle().waiting()
    }

    fn until_waiting(&self, number: usize) {
        let end = Instant::now() + PATIENCE;
        while self.waiting() != number {
            assert!(Instant::now() < end, "{} wait and not {number}", self.waiting());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Ends the call without a response, so that the server sends an error response.
fn answer(call: Call) {
    drop(call);
    sys::flush_wakes();
}

fn text(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn request_without_a_coroutine_is_served_when_one_is_free() {
    let served = Served::new(2, &[]);
    let (first, second) = (served.get("/1"), served.get("/2"));
    let mut calls = [served.calls.recv_timeout(PATIENCE).unwrap(), served.calls.recv_timeout(PATIENCE).unwrap()];
    calls.sort_by_key(|(request, _)| request.head.path().to_vec());
    let [call, other] = calls;
    let third = served.get("/3");
    served.until_waiting(1);
    let fourth = served.get("/4");
    served.until_waiting(2);
    assert_eq!(served.server.numbers().coroutines, 2);
    answer(call);
    assert!(text(first).starts_with("HTTP/1.1 500 "));
    // The connection that waited longest is served first.
    answer(served.call("/3"));
    assert!(text(third).starts_with("HTTP/1.1 500 "));
    answer(served.call("/4"));
    assert!(text(fourth).starts_with("HTTP/1.1 500 "));
    answer(other);
    assert!(text(second).starts_with("HTTP/1.1 500 "));
    served.wait_for("everything ends", |numbers| numbers.connections == 0 && numbers.coroutines == 0);
}

#[test]
fn request_that_gets_no_coroutine_in_time_is_answered_503() {
    let served = Served::new(1, &["--queue-timeout", "50ms"]);
    let busy = served.get("/busy");
    let call = served.call("/busy");
    for _ in 0..2 {
        let refused = text(served.get("/late"));
        assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("\r\nRetry-After: 1\r\n"), "{refused}");
    }
    served.wait_for("the refused ones are gone", |numbers| numbers.connections == 1 && numbers.coroutines == 1);
    assert_eq!(served.waiting(), 0);
    answer(call);
    assert!(text(busy).starts_with("HTTP/1.1 500 "));
}

#[test]
fn client_that_leaves_while_it_waits_is_closed_at_once() {
    let served = Served::new(1, &[]);
    let _busy = served.get("/busy");
    let _call = served.call("/busy");
    let leaving = served.get("/leaving");
    served.until_waiting(1);
    socket2::SockRef::from(&leaving).set_linger(Some(Duration::ZERO)).unwrap();
    drop(leaving);
    served.until_waiting(0);
    served.wait_for("it is closed", |numbers| numbers.connections == 1);
}

#[test]
fn heads_that_expire_together_take_no_more_coroutines_than_there_are() {
    let served = Served::new(1, &["--header-timeout", "50ms", "--queue-timeout", "20s"]);
    let _busy = served.get("/busy");
    let _call = served.call("/busy");
    let begun: Vec<_> = (0..20).map(|_| served.connect()).collect();
    for mut stream in &begun {
        stream.write_all(b"GET / HT").unwrap();
    }
    for stream in begun {
        assert!(text(stream).starts_with("HTTP/1.1 408 "));
    }
}

#[test]
fn connection_limit_is_exact_and_a_free_place_is_taken_at_once() {
    let served = Served::new(100, &["--max-connections", "2"]);
    for round in 0..20 {
        let (first, second) = (served.get("/1"), served.get("/1"));
        let calls = [served.call("/1"), served.call("/1")];
        let waiting: Vec<_> = (0..3).map(|_| served.get("/2")).collect();
        assert!(served.calls.recv_timeout(Duration::from_millis(1)).is_err(), "round {round}");
        assert_eq!(served.server.numbers().connections, 2, "round {round}");
        calls.into_iter().for_each(answer);
        assert!(text(first).starts_with("HTTP/1.1 500 ") && text(second).starts_with("HTTP/1.1 500 "));
        for _ in &waiting {
            answer(served.call("/2"));
        }
        assert!(waiting.into_iter().all(|stream| text(stream).starts_with("HTTP/1.1 500 ")));
        assert!(served.server.numbers().connections <= 2);
    }
}

/// Returns whether the server is drained well before the wait for it would end anyway.
fn is_drained_early(server: &Server) -> bool {
    let began = Instant::now();
    server.wait_drained(began + PATIENCE) && began.elapsed() < PATIENCE / 2
}

#[test]
fn drain_of_a_server_without_work_ends_at_once() {
    let served = Served::new(10, &[]);
    served.server.begin_drain();
    assert!(is_drained_early(&served.server));
}

#[test]
fn drain_ends_with_the_last_call_although_its_client_has_left() {
    let served = Served::new(10, &[]);
    served.handler.outlasting.store(2, Ordering::SeqCst);
    served.server.begin_drain();
    assert!(!served.server.wait_drained(Instant::now() + Duration::from_millis(20)));
    served.handler.end_one();
    assert!(!served.server.wait_drained(Instant::now() + Duration::from_millis(20)), "one call still runs");
    thread::scope(|scope| {
        let drained = scope.spawn(|| is_drained_early(&served.server));
        served.handler.end_one();
        assert!(drained.join().unwrap());
    });
}

#[test]
fn client_that_sends_nothing_is_closed_when_its_time_in_a_drain_is_over() {
    let served = Served::new(10, &["--keep-alive", "1h"]);
    let silent = served.connect();
    served.wait_for("it is accepted", |numbers| numbers.connections == 1);
    let began = Instant::now();
    served.server.begin_drain();
    assert_eq!(text(silent), "");
    let after = began.elapsed();
    assert!(after >= DRAIN_FIRST_REQUEST && after < PATIENCE / 2, "{after:?}");
    assert!(is_drained_early(&served.server));
}

#[test]
fn cut_closes_what_rests_what_is_served_and_what_waits_for_a_coroutine() {
    let served = Served::new(1, &[]);
    let resting = served.connect();
    let busy = served.get("/busy");
    let _call = served.call("/busy");
    let waiting = served.get("/waiting");
    served.until_waiting(1);
    assert!(served.server.cut(PATIENCE));
    for stream in [resting, busy, waiting] {
        // The server has not read all of the request, so closing the socket resets the connection.
        assert!(
            (&stream).read(&mut [0]).map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |read| read == 0)
        );
    }
    assert_eq!((served.server.numbers().connections, served.server.numbers().coroutines), (0, 0));
}
