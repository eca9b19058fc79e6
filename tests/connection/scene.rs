//! What the tests share: a server whose handler is the test, and a client that speaks raw bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use maypole::admission::{Admission, Rules};
use maypole::config::Config;
use maypole::drain::Drain;
use maypole::handler::{Block, End, Gone, Handler, Origin, Request, RequestBody, Responder, Sent};
use maypole::http::{RequestHead, ResponseHead};
use maypole::listener::{BoundAddress, Listener};
use maypole::metrics::Numbers;
use maypole::pool::Pool;
use maypole::scoreboard::Slot;
use maypole::server::{Server, Setup};
use maypole::spool::Content;
use maypole::sys;

/// Longer than any step of these tests takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Call = (Request, Responder);

/// Decides about a request with the rules of the settings at hand.
pub type Admit = for<'a> fn(&'a Rules, &RequestHead, &Origin) -> Admission<'a>;

/// Calls a function for each request.
pub struct Closure<F> {
    rules: Rules,
    admit: Admit,
    call: F,
}

impl<F: Fn(Request, Responder) + Send + Sync + 'static> Handler for Closure<F> {
    fn admit(&self, head: &RequestHead, origin: &Origin) -> Admission<'_> {
        (self.admit)(&self.rules, head, origin)
    }

    fn call(&self, request: Request, responder: Responder) {
        (self.call)(request, responder);
        sys::flush_wakes();
    }

    fn join_drain(&self, _drain: &Arc<Drain>) {}

    fn running(&self) -> usize {
        0
    }

    fn pool(&self) -> Option<&Arc<Pool>> {
        Some(self.rules.pool())
    }
}

pub struct Served {
    pub server: Server,
    pub address: SocketAddr,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.drain(Duration::ZERO);
    }
}

pub fn serve(options: &[&str], call: impl Fn(Request, Responder) + Send + Sync + 'static) -> Served {
    serve_admitted(options, |rules, head, _| Admission::Serve(rules.terms(head)), call)
}

/// Starts a server whose handler decides about each request with `admit`.
pub fn serve_admitted(
    options: &[&str],
    admit: Admit,
    call: impl Fn(Request, Responder) + Send + Sync + 'static,
) -> Served {
    let words = ["maypole", "module:app", "--bind", "127.0.0.1:0"];
    let config = Config::parse_from(words.iter().chain(options)).unwrap();
    sys::start_runtime(config.stack_size.as_usize()).unwrap();
    let listeners = Listener::bind_configured(&config).unwrap();
    let config = Arc::new(config);
    let handler = Arc::new(Closure { rules: Rules::with_own_pool(&config), admit, call });
    let server = Server::start(Setup::new(config, listeners, handler)).unwrap();
    let BoundAddress::Tcp(address) = server.addresses()[0] else { panic!("not tcp") };
    Served { server, address }
}

/// Starts a server for each slot. All accept from the socket that is bound to `bind`, and refuse nothing.
pub fn serve_as_workers(bind: &str, slots: Vec<Slot>) -> Vec<Served> {
    let config = Arc::new(Config::parse_from(["maypole", "module:app", "--bind", bind]).unwrap());
    sys::start_runtime(config.stack_size.as_usize()).unwrap();
    let bound = Listener::bind_configured(&config).unwrap();
    let address = match bound[0].address() {
        BoundAddress::Tcp(address) => *address,
        _ => ([0, 0, 0, 0], 0).into(),
    };
    let serve = |slot| {
        let listeners = bound.iter().map(|listener| listener.try_clone().unwrap()).collect();
        let rules = Rules::with_own_pool(&config);
        let admit: Admit = |rules, head, _| Admission::Serve(rules.terms(head));
        let handler = Arc::new(Closure { rules, admit, call: |_, _| {} });
        let setup = Setup::new(Arc::clone(&config), listeners, handler);
        Served { server: Server::start(Setup { slot: Some(slot), is_worker: true, ..setup }).unwrap(), address }
    };
    slots.into_iter().map(serve).collect()
}

impl Served {
    /// Connects a client.
    pub fn client(&self) -> Client {
        Client::over(TcpStream::connect(self.address).unwrap())
    }

    /// Connects a client with the smallest possible receive buffer.
    pub fn narrow_client(&self) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&self.address.into()).unwrap();
        Client::over(socket.into())
    }

    pub fn numbers(&self) -> Numbers {
        self.server.numbers()
    }
}

/// A server whose handler is the test: the test gets each request, and sends the response.
pub struct Scene {
    pub served: Served,
    calls: Receiver<Call>,
}

impl Deref for Scene {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

impl Scene {
    pub fn new(options: &[&str]) -> Self {
        Self::admitting(options, |rules, head, _| Admission::Serve(rules.terms(head)))
    }

    /// Starts a server whose handler decides about each request with `admit`.
    pub fn admitting(options: &[&str], admit: Admit) -> Self {
        let (sender, calls) = mpsc::channel();
        let sender = Mutex::new(sender);
        let served = serve_admitted(options, admit, move |request, responder| {
            // An error means that the test is over.
            let _ = sender.lock().unwrap().send((request, responder));
        });
        Self { served, calls }
    }

    /// Returns the next request that reaches the handler.
    pub fn next(&self) -> Call {
        self.calls.recv_timeout(PATIENCE).unwrap()
    }

    /// Connects a client that sends these bytes. Returns both ends of the exchange.
    pub fn request(&self, bytes: impl AsRef<[u8]>) -> (Client, Request, Responder) {
        let mut client = self.client();
        client.send(bytes);
        let (request, responder) = self.next();
        (client, request, responder)
    }

    pub fn get(&self, path: &str) -> (Client, Request, Responder) {
        self.request(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"))
    }

    /// Responds to the next request with its path.
    pub fn answer_next(&self) {
        let (request, responder) = self.next();
        answer_path(request, responder);
    }

    /// Checks that a connection serves one more request.
    pub fn assert_serves(&self, client: &mut Client, path: &str) {
        client.get(path);
        self.answer_next();
        assert_eq!(client.answer().text(), path);
    }

    /// Checks that no request reaches the handler in this time.
    pub fn assert_no_request_for(&self, time: Duration) {
        assert!(self.calls.recv_timeout(time).is_err(), "a request has reached the handler");
    }

    /// Checks that no request has reached the handler.
    pub fn assert_no_request(&self) {
        assert!(self.calls.try_recv().is_err(), "a request has reached the handler");
    }
}

pub fn ok() -> ResponseHead {
    ResponseHead::new(b"200 OK").unwrap()
}

/// Responds with the path of the request.
pub fn answer_path(request: Request, responder: Responder) {
    let body = request.head.path().to_vec();
    drop(request);
    respond(responder, &body);
}

pub fn respond(responder: Responder, body: &[u8]) {
    responder.respond(ok(), body.len() as u64, Some(Block::Owned(body.to_vec())), None, Vec::new());
    sys::flush_wakes();
}

pub fn finish(responder: Responder) {
    responder.finish(End::Complete, None, Vec::new());
    sys::flush_wakes();
}

pub fn send_somehow(responder: &mut Responder, block: Vec<u8>) -> Result<(), Gone> {
    match responder.send(Block::Owned(block))? {
        Sent::Done => Ok(()),
        Sent::WouldWait(block) => responder.send_waiting(block),
    }
}

pub fn body_of(request: Request) -> Vec<u8> {
    let RequestBody::Complete(spool) = request.body else { panic!("no whole body") };
    match spool.into_content() {
        Content::Memory(bytes, _) => bytes,
        Content::File(file) => {
            let mut file = file.file();
            let mut bytes = Vec::new();
            std::io::Seek::rewind(&mut file).unwrap();
            file.read_to_end(&mut bytes).unwrap();
            bytes
        }
    }
}

/// Returns bytes that contain their own position.
pub fn pattern(bytes: usize) -> Vec<u8> {
    (0..=bytes / 8).flat_map(|index| format!("{index:07x}\n").into_bytes()).take(bytes).collect()
}

pub struct Client {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
    /// The number of bytes of the buffer that have been used.
    pub used: usize,
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
    pub fn has(&self, field: &str) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case(field))
    }
}

impl Client {
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), used: 0 }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    pub fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    }

    pub fn fill(&mut self) -> usize {
        let mut piece = vec![0; 64 * 1024];
        let bytes = self.stream.read(&mut piece).unwrap();
        self.buffer.extend_from_slice(&piece[..bytes]);
        bytes
    }

    pub fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            let unused = &self.buffer[self.used..];
            if let Some(at) = unused.windows(end.len()).position(|window| window == end) {
                return self.exactly(at + end.len());
            }
            assert!(self.fill() > 0, "closed; so far: {}", self.buffer[self.used..].escape_ascii());
        }
    }

    pub fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        while self.buffer.len() - self.used < bytes {
            assert!(self.fill() > 0, "closed after {} of {bytes} bytes", self.buffer.len() - self.used);
        }
        let taken = self.buffer[self.used..self.used + bytes].to_vec();
        self.used += bytes;
        taken
    }

    pub fn head(&mut self) -> Answer {
        let head = String::from_utf8(self.until(b"\r\n\r\n")).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: Vec::new() }
    }

    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length = answer.head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        if let Some(length) = length {
            let length = length.parse().unwrap();
            answer.body = self.exactly(length);
        } else if answer.has("Transfer-Encoding: chunked") {
            loop {
                let line = String::from_utf8(self.until(b"\r\n")).unwrap();
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                let mut chunk = self.exactly(size + 2);
                assert!(chunk.ends_with(b"\r\n"));
                chunk.truncate(size);
                answer.body.extend(chunk);
                if size == 0 {
                    break;
                }
            }
        } else {
            answer.body = self.rest();
        }
        answer
    }

    /// Returns all bytes up to the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() > 0 {}
        self.buffer.split_off(std::mem::take(&mut self.used))
    }

    pub fn assert_closed(&mut self) {
        assert_eq!(self.rest().escape_ascii().to_string(), "");
    }
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
