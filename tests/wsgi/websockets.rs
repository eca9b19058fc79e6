//! WebSockets whose server stops, or that never open: nothing of them stays.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use maypole::config::Config;
use maypole::handler::RequestBody;
use maypole::metrics::Closer;
use maypole::pool::Pool;
use maypole::sys;
use maypole::websocket::{Event, Socket};
use maypole::wsgi::Service;
use pyo3::prelude::*;

use crate::app::{App, exchange, python, taken_from};

const PATIENCE: Duration = Duration::from_secs(20);
const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// An application whose socket and functions refer to each other.
const CYCLE: &str = r"
import weakref
def app(e, sr):
    def on_message(ws, message):
        events.append(message)
        kept.append(message)
    kept = []
    socket = e['maypole.websocket'].accept(on_message, lambda ws, code, reason: events.append('closed'))
    on_message.socket = socket
    global seen
    seen = weakref.ref(on_message), weakref.ref(socket)
    if e['PATH_INFO'] == '/fails':
        raise RuntimeError('MARK-fails')
    return []
def left():
    gc.collect()
    return [one() for one in seen if one() is not None]
";

/// A served application, and its socket, which is open.
struct Scene<'py> {
    app: App<'py>,
    service: Service,
    socket: Arc<Socket>,
}

impl<'py> Scene<'py> {
    fn new(py: Python<'py>) -> Self {
        py.detach(|| sys::start_runtime(64 * 1024)).unwrap();
        let mut app = App::new(py, CYCLE);
        let service = serve(py, &app);
        let exchange = exchange();
        app.run(&exchange, HANDSHAKE, RequestBody::Empty);
        let socket = taken_from(&exchange).upgrade.unwrap().socket.into_socket().unwrap();
        Self { app, service, socket }
    }

    /// Ends the connection of the socket. Checks that its functions and its object go, at the latest with the thread that
    /// has had them last.
    fn assert_nothing_is_left(self) {
        drop(self.socket);
        assert_nothing_is_left(&self.app);
    }
}

/// Checks the same after the connection has ended.
fn assert_nothing_is_left(app: &App<'_>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = app.module.getattr("left").unwrap().call0().unwrap().repr().unwrap().to_string();
        if left == "[]" {
            return;
        }
        assert!(Instant::now() < end, "{left}");
        app.py.detach(thread::yield_now);
    }
}

/// Starts the threads of the application, which no other application uses.
fn serve(py: Python<'_>, app: &App<'_>) -> Service {
    let application = Arc::clone(&app.application);
    py.detach(|| {
        let config = Arc::new(Config::parse_from(["maypole", "module:app", "--threads", "1"]).unwrap());
        Service::start(vec![application], config, Pool::new(1)).unwrap()
    })
}

fn text(word: &str) -> Event {
    Event::Text(word.to_owned())
}

/// Keeps the runtime's thread until the test ends.
fn hold_the_runtime() -> mpsc::Sender<()> {
    let (held, wait) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    sys::spawn(move || {
        held.send(()).unwrap();
        // An error means that the test is over.
        let _ = released.recv_timeout(PATIENCE);
    });
    wait.recv_timeout(PATIENCE).unwrap();
    release
}

/// Delivers two events that no thread is told of, and stops the service. The monitor looks for such events each
/// millisecond, and may come first.
fn leave_events(scene: &Scene<'_>) {
    let (service, socket) = (&scene.service, &scene.socket);
    let stopped = scene.app.py.detach(|| {
        // Short calls: from now on, the runtime's thread wakes the threads of the application.
        for number in 0..200 {
            socket.deliver(text(&number.to_string()));
            wait_until_quiet(socket);
        }
        let runtime = hold_the_runtime();
        socket.deliver(text("late"));
        socket.end(Closer::Server, 1001, String::new());
        let stopped = service.stop(PATIENCE);
        drop(runtime);
        stopped
    });
    assert!(stopped, "the events count as a call until they are over");
}

/// Waits until a thread has run all events of the socket.
fn wait_until_quiet(socket: &Socket) {
    let end = Instant::now() + PATIENCE;
    while !socket.is_quiet() {
        assert!(Instant::now() < end, "no thread runs the events");
        thread::yield_now();
    }
}

#[test]
fn events_that_no_thread_has_taken_before_the_end_are_run_and_leave_nothing() {
    python(|py| {
        for _ in 0..20 {
            let scene = Scene::new(py);
            leave_events(&scene);
            assert_eq!(scene.app.events().len(), 202);
            scene.assert_nothing_is_left();
        }
    });
}

#[test]
fn events_after_the_end_are_run_and_leave_nothing() {
    python(|py| {
        let scene = Scene::new(py);
        py.detach(|| {
            assert!(scene.service.stop(PATIENCE));
            scene.socket.deliver(text("late"));
            scene.socket.end(Closer::Server, 1001, String::new());
            wait_until_quiet(&scene.socket);
        });
        assert_eq!(scene.app.events(), ["late", "closed"]);
        scene.assert_nothing_is_left();
    });
}

#[test]
fn events_without_an_executor_are_dropped_and_leave_nothing() {
    python(|py| {
        let Scene { app, service, socket } = Scene::new(py);
        py.detach(|| {
            assert!(service.stop(PATIENCE));
            drop(service);
            socket.deliver(text("late"));
        });
        assert_nothing_is_left(&app);
        assert!(app.events().is_empty());
        drop(socket);
    });
}

#[test]
fn socket_whose_call_fails_leaves_nothing() {
    python(|py| {
        let mut app = App::new(py, CYCLE);
        let _service = serve(py, &app);
        assert!(app.send(&HANDSHAKE.replace("GET /", "GET /fails"), RequestBody::Empty).is_500());
        let left = app.module.getattr("left").unwrap().call0().unwrap();
        assert_eq!(left.repr().unwrap().to_string(), "[]");
    });
}
