//! Tests of connections alone: a server with a handler in Rust, real sockets, raw bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use maypole::config::Config;
use maypole::handler::{
    Block, End, Gone, Handler, Keeps, NotGiven, Request, RequestBody, Responder, Sent, TakenStream,
};
use maypole::http::ResponseHead;
use maypole::listener::{BoundAddress, Listener};
use maypole::pool::Pool;
use maypole::server::Server;
use maypole::spool::Content;
use maypole::sys;
use socket2::SockRef;

/// Longer than any step of these tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

type Call = (Request, Responder);

struct Closure<F>(F);

impl<F: Fn(Request, Responder) + Send + Sync + 'static> Handler for Closure<F> {
    fn call(&self, request: Request, responder: Responder) {
        (self.0)(request, responder);
        sys::flush_wakes();
    }

    fn running(&self) -> usize {
        0
    }
}

struct Served {
    server: Server,
    address: SocketAddr,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.drain(Duration::ZERO);
    }
}

fn serve(options: &[&str], handler: impl Fn(Request, Responder) + Send + Sync + 'static) -> Served {
    sys::start_runtime(64 * 1024).unwrap();
    let words = ["maypole", "module:app", "--bind", "127.0.0.1:0"];
    let config = Config::parse_from(words.iter().chain(options)).unwrap();
    let listeners = Listener::bind_all(&config.bind, config.backlog).unwrap();
    let pool = Pool::new(config.pool_size);
    let server = Server::start(&config, listeners, Arc::new(Closure(handler)), None, pool).unwrap();
    let BoundAddress::Tcp(address) = server.addresses()[0] else { panic!("not tcp") };
    Served { server, address }
}

/// Starts a server that passes its requests to the test through a channel. The test sends the responses.
fn serve_by_hand(options: &[&str]) -> (Served, Receiver<Call>) {
    let (calls, received) = mpsc::channel();
    let calls = Mutex::new(calls);
    let served = serve(options, move |request, responder| {
        // An error means that the test is over.
        let _ = calls.lock().unwrap().send((request, responder));
    });
    (served, received)
}

fn ok() -> ResponseHead {
    ResponseHead::new(b"200 OK").unwrap()
}

/// Responds with the path of the request.
fn answer_path(request: Request, responder: Responder) {
    let body = request.head.path().to_vec();
    drop(request);
    respond(responder, &body);
}

fn respond(responder: Responder, body: &[u8]) {
    responder.respond(ok(), body.len() as u64, Some(Block::Owned(body.to_vec())), None, Vec::new());
    sys::flush_wakes();
}

fn finish(responder: Responder) {
    responder.finish(End::Complete, None, Vec::new());
    sys::flush_wakes();
}

fn send_somehow(responder: &mut Responder, block: Vec<u8>) -> Result<(), Gone> {
    match responder.send(Block::Owned(block))? {
        Sent::Done => Ok(()),
        Sent::WouldWait(block) => responder.send_waiting(block),
    }
}

fn body_of(request: Request) -> Vec<u8> {
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
fn pattern(bytes: usize) -> Vec<u8> {
    (0..=bytes / 8).flat_map(|index| format!("{index:07x}\n").into_bytes()).take(bytes).collect()
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The number of bytes of the buffer that have been used.
    used: usize,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
    fn has(&self, field: &str) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case(field))
    }
}

impl Client {
    fn connect(served: &Served) -> Self {
        Self::over(TcpStream::connect(served.address).unwrap())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), used: 0 }
    }

    /// Connects a client with the smallest possible receive buffer.
    fn connect_narrow(served: &Served) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&served.address.into()).unwrap();
        Self::over(socket.into())
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    }

    fn fill(&mut self) -> usize {
        let mut piece = vec![0; 64 * 1024];
        let bytes = self.stream.read(&mut piece).unwrap();
        self.buffer.extend_from_slice(&piece[..bytes]);
        bytes
    }

    fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            let unused = &self.buffer[self.used..];
            if let Some(at) = unused.windows(end.len()).position(|window| window == end) {
                return self.exactly(at + end.len());
            }
            assert!(self.fill() > 0, "closed; so far: {}", self.buffer[self.used..].escape_ascii());
        }
    }

    fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        while self.buffer.len() - self.used < bytes {
            assert!(self.fill() > 0, "closed after {} of {bytes} bytes", self.buffer.len() - self.used);
        }
        let taken = self.buffer[self.used..self.used + bytes].to_vec();
        self.used += bytes;
        taken
    }

    fn head(&mut self) -> Answer {
        let head = String::from_utf8(self.until(b"\r\n\r\n")).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: Vec::new() }
    }

    fn answer(&mut self) -> Answer {
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
    fn rest(&mut self) -> Vec<u8> {
        while self.fill() > 0 {}
        self.buffer.split_off(std::mem::take(&mut self.used))
    }

    fn assert_closed(&mut self) {
        assert_eq!(self.rest().escape_ascii().to_string(), "");
    }
}

fn receive(calls: &Receiver<Call>) -> Call {
    calls.recv_timeout(PATIENCE).unwrap()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

// Requests in sequence.

#[test]
fn keep_alive_serves_requests_one_after_the_other() {
    let served = serve(&[], answer_path);
    let mut client = Client::connect(&served);
    for path in ["/a", "/b", "/c"] {
        client.get(path);
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (200, path));
        assert!(!answer.has("Connection: close"));
    }
}

#[test]
fn keep_alive_after_rest_serves_again() {
    let served = serve(&[], answer_path);
    let mut client = Client::connect(&served);
    for path in ["/a", "/b"] {
        client.get(path);
        assert_eq!(client.answer().text(), path);
        // Longer than the linger: the connection goes to the idle set.
        thread::sleep(Duration::from_millis(120));
    }
}

#[test]
fn keep_alive_of_zero_is_told_to_the_client() {
    let served = serve(&["--keep-alive", "0"], answer_path);
    let mut client = Client::connect(&served);
    client.get("/a");
    assert!(client.answer().has("Connection: close"));
    client.assert_closed();
}

#[test]
fn http10_closes_unless_asked_to_keep() {
    let served = serve(&[], answer_path);
    let mut client = Client::connect(&served);
    client.send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(client.answer().has("Connection: keep-alive"));
    client.send("GET /b HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().text(), "/b");
    client.assert_closed();
}

#[test]
fn pipelined_requests_are_answered_in_order_by_other_threads() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client
        .send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n");
    for path in ["/1", "/2", "/3"] {
        let (request, responder) = receive(&calls);
        assert_eq!(request.head.path(), path.as_bytes());
        thread::spawn(move || answer_path(request, responder));
        assert_eq!(client.answer().text(), path);
    }
}

#[test]
fn pipelined_body_does_not_swallow_the_next_request() {
    let served = serve(&[], |request, responder| {
        if request.head.method() == b"POST" {
            respond(responder, &body_of(request));
        } else {
            answer_path(request, responder);
        }
    });
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /next HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().text(), "abc");
    assert_eq!(client.answer().text(), "/next");
}

#[test]
fn head_request_gets_the_length_and_no_body() {
    let served = serve(&[], answer_path);
    let mut client = Client::connect(&served);
    client.send("HEAD /abc HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(client.head().has("Content-Length: 4"));
    client.get("/next");
    assert_eq!(client.answer().text(), "/next");
}

#[test]
fn request_split_into_single_bytes_is_read() {
    let served = serve(&[], |request, responder| respond(responder, &body_of(request)));
    let mut client = Client::connect(&served);
    for byte in b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.answer().text(), "abcde");
}

#[test]
fn body_over_the_buffer_arrives_whole() {
    let served = serve(&["--request-buffer", "1KiB"], |request, responder| respond(responder, &body_of(request)));
    let mut client = Client::connect(&served);
    let body = pattern(300_000);
    client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    assert_eq!(client.answer().body, body);
}

// Responses.

#[test]
fn streamed_blocks_are_chunked_and_leave_at_once() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client.get("/");
    let (_request, mut responder) = receive(&calls);
    responder.head(ok(), None);
    responder.send(Block::Owned(b"one".to_vec())).unwrap();
    assert!(client.head().has("Transfer-Encoding: chunked"));
    assert_eq!(client.until(b"one\r\n"), b"3\r\none\r\n");
    responder.send(Block::Owned(b"twotwo".to_vec())).unwrap();
    assert_eq!(client.until(b"two\r\n"), b"6\r\ntwotwo\r\n");
    finish(responder);
    assert_eq!(client.until(b"\r\n\r\n"), b"0\r\n\r\n");
    client.get("/next");
    let (request, responder) = receive(&calls);
    answer_path(request, responder);
    assert_eq!(client.answer().text(), "/next");
}

#[test]
fn streamed_blocks_to_http10_end_with_the_connection() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client.send("GET / HTTP/1.0\r\n\r\n");
    let (_request, mut responder) = receive(&calls);
    responder.head(ok(), None);
    responder.send(Block::Owned(b"one".to_vec())).unwrap();
    responder.send(Block::Owned(b"two".to_vec())).unwrap();
    finish(responder);
    assert_eq!(client.answer().text(), "onetwo");
}

#[test]
fn http10_at_most_ends_each_response_with_the_connection() {
    let served = serve(&["--max-http-version", "1.0"], |request, mut responder| match request.head.path() {
        b"/stream" => {
            responder.head(ok(), None);
            for block in [&b"one"[..], b"two"] {
                responder.send(Block::Owned(block.to_vec())).unwrap();
            }
            finish(responder);
        }
        b"/lost" => drop(responder),
        _ => {
            let body = body_of(request);
            respond(responder, &body);
        }
    });
    let chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for (request, status, body) in [
        ("GET /stream HTTP/1.1\r\nHost: h\r\n\r\n", 200, "onetwo"),
        ("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, "onetwo"),
        (chunked, 200, "abc"),
        ("GET /lost HTTP/1.1\r\nHost: h\r\n\r\n", 500, "500 Internal Server Error\n"),
        ("nonsense\r\n\r\n", 400, "400 Bad Request\n"),
    ] {
        let mut client = Client::connect(&served);
        client.send(request.repeat(2));
        let answer = client.head();
        assert!(answer.head.starts_with("HTTP/1.0 ") && answer.has("Connection: close"), "{}", answer.head);
        assert!(!answer.has("Transfer-Encoding: chunked"));
        // There is one response, and then the connection ends.
        assert_eq!((answer.status, String::from_utf8(client.rest()).unwrap().as_str()), (status, body), "{request}");
    }
    // A client that waits for `100 Continue` does not get it.
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(client.stream.read(&mut [0; 10]).is_err());
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send("abc");
    assert_eq!(client.answer().text(), "abc");
}

#[test]
fn interim_response_goes_before_the_head() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client.get("/");
    let (request, mut responder) = receive(&calls);
    responder.interim(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").unwrap();
    assert_eq!(client.head().status, 103);
    answer_path(request, responder);
    assert_eq!(client.answer().status, 200);
}

#[test]
fn responder_dropped_before_the_head_is_a_500() {
    let (served, calls) = serve_by_hand(&["--pool-size", "1"]);
    let mut client = Client::connect(&served);
    client.get("/");
    drop(receive(&calls));
    assert_eq!(client.answer().status, 500);
    client.assert_closed();
    // The place in the pool is free again.
    let mut client = Client::connect(&served);
    client.get("/next");
    let (request, responder) = receive(&calls);
    answer_path(request, responder);
    assert_eq!(client.answer().text(), "/next");
}

#[test]
fn responder_dropped_after_a_block_cuts_the_chunked_body() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client.get("/");
    let (_request, mut responder) = receive(&calls);
    responder.head(ok(), None);
    responder.send(Block::Owned(b"one".to_vec())).unwrap();
    drop(responder);
    client.head();
    assert_eq!(client.rest(), b"3\r\none\r\n");
}

#[test]
fn responder_dropped_after_a_block_resets_a_body_that_ends_by_closing() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client.send("GET / HTTP/1.0\r\n\r\n");
    let (_request, mut responder) = receive(&calls);
    responder.head(ok(), None);
    responder.send(Block::Owned(b"one".to_vec())).unwrap();
    client.until(b"one");
    drop(responder);
    let error = client.stream.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn response_shorter_than_its_length_closes_the_connection() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client.get("/");
    let (_request, mut responder) = receive(&calls);
    let mut head = ok();
    head.push_field(b"Content-Length", b"5").unwrap();
    responder.head(head, None);
    responder.send(Block::Owned(b"abc".to_vec())).unwrap();
    finish(responder);
    client.head();
    assert_eq!(client.rest(), b"abc");
}

#[test]
fn file_block_is_sent_between_blocks_of_memory() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client.get("/");
    let (_request, mut responder) = receive(&calls);
    let content = pattern(200_000);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    responder.head(ok(), None);
    responder.send(Block::Owned(b"<".to_vec())).unwrap();
    responder.send(Block::File { file: file.into(), offset: 8, bytes: 199_000 }).unwrap();
    responder.send(Block::Owned(b">".to_vec())).unwrap();
    finish(responder);
    let body = client.answer().body;
    assert!(body == [b"<", &content[8..199_008], b">"].concat());
}

// A reader slower than the application.

/// Starts a response on a separate thread, in parts of `block` bytes. Returns a counter of the bytes that the
/// connection has accepted, and the thread.
fn stream_blocks(
    (request, mut responder): Call,
    head: ResponseHead,
    content: Vec<u8>,
    block: usize,
) -> (Arc<AtomicU64>, thread::JoinHandle<Result<(), Gone>>) {
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&taken);
    let running = thread::spawn(move || {
        drop(request);
        responder.head(head, None);
        for part in content.chunks(block) {
            send_somehow(&mut responder, part.to_vec())?;
            counted.fetch_add(part.len() as u64, Ordering::SeqCst);
        }
        finish(responder);
        Ok(())
    });
    (taken, running)
}

#[test]
fn slow_reader_lets_the_application_finish_into_the_spool() {
    for length_known in [true, false] {
        let (served, calls) = serve_by_hand(&["--response-buffer", "4KiB"]);
        let mut client = Client::connect_narrow(&served);
        client.get("/");
        // More than the kernel's buffers hold.
        let content = pattern(24 << 20);
        let mut head = ok();
        if length_known {
            head.push_field(b"Content-Length", content.len().to_string().as_bytes()).unwrap();
        }
        let (_, running) = stream_blocks(receive(&calls), head, content.clone(), 50_001);
        // The client has read nothing, but the thread has ended.
        running.join().unwrap().unwrap();
        assert!(client.answer().body == content);
        client.get("/next");
        let (request, responder) = receive(&calls);
        answer_path(request, responder);
        assert_eq!(client.answer().text(), "/next");
    }
}

#[test]
fn slow_reader_gets_what_came_while_the_socket_was_full() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect_narrow(&served);
    client.get("/");
    let (_request, mut responder) = receive(&calls);
    let content = pattern(16 << 20);
    responder.head(ok(), None);
    responder.send(Block::Owned(content.clone())).unwrap();
    // The connection takes the first block and finds the socket full before the next block arrives.
    thread::sleep(Duration::from_millis(200));
    assert!(matches!(responder.send(Block::Owned(b"last".to_vec())), Ok(Sent::Done)));
    finish(responder);
    thread::sleep(Duration::from_millis(200));
    assert!(client.answer().body == [&content[..], b"last"].concat());
}

#[test]
fn slow_reader_makes_the_application_wait_at_the_high_water_mark() {
    let (served, calls) = serve_by_hand(&["--response-buffer", "4KiB", "--response-spool", "1MiB"]);
    let mut client = Client::connect_narrow(&served);
    client.get("/");
    let content = pattern(40 << 20);
    let (taken, running) = stream_blocks(receive(&calls), ok(), content.clone(), 10_000);
    let mut before = 0;
    wait_until("the thread stands still", || {
        thread::sleep(Duration::from_millis(200));
        let now = taken.load(Ordering::SeqCst);
        now > 0 && std::mem::replace(&mut before, now) == now
    });
    assert!(before < 20 << 20, "{before} bytes were taken");
    assert!(client.answer().body == content);
    running.join().unwrap().unwrap();
}

#[test]
fn slow_reader_of_a_long_stream_does_not_fill_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let (served, calls) =
        serve_by_hand(&["--response-buffer", "4KiB", "--response-spool", "2MiB", "--spool-dir", path]);
    let mut client = Client::connect_narrow(&served);
    client.get("/");
    let content = pattern(32 << 20);
    let (_, running) = stream_blocks(receive(&calls), ok(), content.clone(), 50_000);
    let mut largest = 0;
    while client.buffer.len() < content.len() {
        client.fill();
        // The file has no name, but its descriptor shows where it was created.
        for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
            if std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(dir.path())) {
                let found = std::fs::metadata(entry.path());
                largest = largest.max(found.map_or(0, |found| std::os::unix::fs::MetadataExt::blocks(&found) * 512));
            }
        }
    }
    assert!(client.answer().body == content);
    running.join().unwrap().unwrap();
    assert!(largest > 0 && largest <= 6 << 20, "{largest} bytes on disk");
}

#[test]
fn reader_that_stops_is_given_up_and_the_thread_is_told() {
    let (served, calls) = serve_by_hand(&["--write-timeout", "300ms", "--response-spool", "1MiB", "--pool-size", "1"]);
    let mut client = Client::connect_narrow(&served);
    client.get("/");
    let (_, running) = stream_blocks(receive(&calls), ok(), vec![b'x'; 40 << 20], 100_000);
    assert_eq!(running.join().unwrap(), Err(Gone));
    let mut other = Client::connect(&served);
    other.get("/next");
    let (request, responder) = receive(&calls);
    answer_path(request, responder);
    assert_eq!(other.answer().text(), "/next");
}

#[test]
fn reader_that_is_slow_but_moves_is_not_given_up() {
    // Data that the kernel already holds must not count as a standstill: this client needs seconds to read the kernel's
    // buffers.
    let (served, calls) =
        serve_by_hand(&["--write-timeout", "1s", "--response-buffer", "4KiB", "--response-spool", "64KiB"]);
    let mut client = Client::connect_narrow(&served);
    client.get("/");
    let content = pattern(8 << 20);
    let (_, running) = stream_blocks(receive(&calls), ok(), content.clone(), 64 * 1024);
    let began = Instant::now();
    let mut piece = [0; 16 * 1024];
    let mut read = 0;
    while began.elapsed() < Duration::from_secs(5) {
        let bytes = client.stream.read(&mut piece).unwrap();
        assert!(bytes > 0, "given up after {read} bytes");
        read += bytes;
        client.buffer.extend_from_slice(&piece[..bytes]);
        thread::sleep(Duration::from_millis(20));
    }
    assert!(client.answer().body == content);
    running.join().unwrap().unwrap();
}

#[test]
fn client_that_vanishes_while_it_is_sent_to_frees_the_thread() {
    let (served, calls) = serve_by_hand(&["--response-spool", "1MiB"]);
    let mut client = Client::connect_narrow(&served);
    client.get("/");
    let (taken, running) = stream_blocks(receive(&calls), ok(), vec![b'x'; 40 << 20], 100_000);
    wait_until("it has begun", || taken.load(Ordering::SeqCst) > 1 << 20);
    drop(client);
    assert_eq!(running.join().unwrap(), Err(Gone));
}

#[test]
fn client_that_closes_is_seen_while_the_application_runs() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client.get("/");
    let (_request, responder) = receive(&calls);
    assert!(!responder.client_disconnected());
    drop(client);
    wait_until("seen", || responder.client_disconnected());
}

#[test]
fn half_closed_client_gets_its_answer() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client.get("/a");
    client.stream.shutdown(Shutdown::Write).unwrap();
    let (request, responder) = receive(&calls);
    wait_until("seen", || responder.client_disconnected());
    answer_path(request, responder);
    assert_eq!(client.answer().text(), "/a");
    client.assert_closed();
}

// Requests that are refused.

#[test]
fn malformed_request_is_answered_although_more_is_being_sent() {
    let served = serve(&[], answer_path);
    let mut client = Client::connect(&served);
    client.send("GET / HTTP/1.1\r\nHost: h\r\nBad Field: x\r\n\r\n");
    client.send(vec![b'x'; 2 << 20]);
    let answer = client.answer();
    assert_eq!(answer.status, 400);
    assert!(answer.has("Connection: close"));
    client.assert_closed();
}

#[test]
fn head_over_its_limit_is_a_431_wherever_that_is() {
    let head = |fields: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: 123456789012\r\n".repeat(fields));
    let limit = head(100).len();
    let served = serve(&["--limit-request-fields", "9999", "--limit-request-head", &limit.to_string()], answer_path);
    let large = serve(&["--limit-request-fields", "9999", "--limit-request-head", "1MiB"], answer_path);
    for (served, fields, status) in [(&served, 100, 200), (&served, 101, 431), (&large, 9998, 200)] {
        let mut client = Client::connect(served);
        client.send(head(fields));
        assert_eq!(client.answer().status, status, "{fields} fields");
    }
}

#[test]
fn body_too_large_is_refused_before_it_is_sent() {
    let served = serve(&["--max-body-size", "1000", "--request-buffer", "1000"], answer_path);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n");
    assert_eq!(client.answer().status, 413);
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.assert_closed();
}

#[test]
fn body_too_large_is_refused_although_it_is_being_sent() {
    let served = serve(&["--max-body-size", "1000", "--request-buffer", "1000"], answer_path);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n");
    client.send(vec![b'x'; 0x0020_0000]);
    assert_eq!(client.answer().status, 413);
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.assert_closed();
}

#[test]
fn body_that_ends_early_is_a_400() {
    let served = serve(&[], answer_path);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer().status, 400);
}

#[test]
fn expectation_is_met_before_the_body() {
    let served = serve(&[], |request, responder| respond(responder, &body_of(request)));
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.head().status, 100);
    client.send("abc");
    assert_eq!(client.answer().text(), "abc");
}

// Deadlines.

#[test]
fn slow_head_is_parked_and_read_to_its_end() {
    let served = serve(&[], answer_path);
    let mut client = Client::connect(&served);
    for part in ["GET /slow ", "HTTP/1.1\r\nHo", "st: h\r\n\r", "\n"] {
        client.send(part);
        // Longer than the linger: each part finds the connection in the idle set.
        thread::sleep(Duration::from_millis(120));
    }
    assert_eq!(client.answer().text(), "/slow");
}

#[test]
fn slow_head_expires_with_408() {
    let served = serve(&["--header-timeout", "300ms"], answer_path);
    let mut client = Client::connect(&served);
    let began = Instant::now();
    client.send("GET / HTTP/1.1\r\nHo");
    let answer = client.answer();
    assert_eq!(answer.status, 408);
    assert!(began.elapsed() >= Duration::from_millis(300));
    client.assert_closed();
}

#[test]
fn slow_head_that_drips_expires_with_408() {
    let served = serve(&["--header-timeout", "500ms"], answer_path);
    let mut client = Client::connect(&served);
    let mut writer = client.stream.try_clone().unwrap();
    let dripping = thread::spawn(move || {
        for byte in b"GET / HTTP/1.1\r\nHost: h\r\nX: ".iter().chain([b'x'; 1000].iter()) {
            if writer.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(client.answer().status, 408);
    drop(client);
    dripping.join().unwrap();
}

#[test]
fn slow_body_expires_with_408() {
    let served = serve(&["--body-timeout", "300ms"], answer_path);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(client.answer().status, 408);
}

#[test]
fn body_below_the_lowest_rate_expires_with_408() {
    let served = serve(&["--min-rate", "1MiB"], answer_path);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n");
    let mut writer = client.stream.try_clone().unwrap();
    let dripping = thread::spawn(move || {
        while writer.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    });
    let began = Instant::now();
    assert_eq!(client.answer().status, 408);
    assert!((4..8).contains(&began.elapsed().as_secs()));
    drop(client);
    dripping.join().unwrap();
}

#[test]
fn idle_connection_is_closed_after_keep_alive() {
    let served = serve(&["--keep-alive", "300ms"], answer_path);
    let mut client = Client::connect(&served);
    client.get("/a");
    client.answer();
    let began = Instant::now();
    client.assert_closed();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn silent_connection_is_closed_without_an_answer() {
    let served = serve(&["--keep-alive", "100ms", "--header-timeout", "300ms"], answer_path);
    Client::connect(&served).assert_closed();
}

// Proxies.

/// Starts a server that responds with the address that it has for the client.
fn serve_proxied(options: &[&str]) -> Served {
    let options = [&["--proxy-protocol", "auto"], options].concat();
    serve(&options, |request, responder| respond(responder, request.peer.client().as_bytes()))
}

const PROXY_V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
const PROXY_V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x01\xbb\x04\x00\x04skip";
const PROXIED: &str = "192.0.2.7:4711";

#[test]
fn proxy_header_names_the_client_of_all_requests() {
    let served = serve_proxied(&[]);
    for header in [PROXY_V1, PROXY_V2] {
        let mut client = Client::connect(&served);
        // Two requests in one piece, then one after a pause.
        client.send([header, &b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n".repeat(2)].concat());
        assert_eq!(client.answer().text(), PROXIED);
        assert_eq!(client.answer().text(), PROXIED);
        thread::sleep(Duration::from_millis(150));
        client.get("/b");
        assert_eq!(client.answer().text(), PROXIED);
        // A second header is refused: only the first bytes of a connection can be one.
        client.send(header);
        client.get("/c");
        assert_eq!(client.answer().status, 400);
        client.assert_closed();
    }
}

#[test]
fn proxy_header_without_an_address_leaves_the_real_one() {
    let served = serve_proxied(&[]);
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"] {
        let mut client = Client::connect(&served);
        client.send(header);
        client.get("/");
        assert_eq!(client.answer().text(), client.stream.local_addr().unwrap().to_string());
    }
}

#[test]
fn proxy_header_that_drips_is_read_to_its_end() {
    let served = serve_proxied(&[]);
    for header in [PROXY_V1, PROXY_V2] {
        let mut client = Client::connect(&served);
        for byte in header {
            thread::sleep(Duration::from_millis(2));
            client.send([*byte]);
        }
        client.get("/");
        assert_eq!(client.answer().text(), PROXIED);
    }
}

#[test]
fn proxy_header_around_rests_is_read_to_its_end() {
    let served = serve_proxied(&["--header-timeout", "600ms"]);
    for header in [PROXY_V1, PROXY_V2] {
        let mut client = Client::connect(&served);
        for piece in [&header[..7], &header[7..], b"GET / HTT", b"P/1.1\r\nHost: h\r\n\r\n"] {
            // Longer than the connection keeps its coroutine. The header and the head each have their own time limit.
            thread::sleep(Duration::from_millis(250));
            client.send(piece);
        }
        assert_eq!(client.answer().text(), PROXIED);
    }
}

#[test]
fn proxy_header_that_does_not_end_expires_with_408() {
    let served = serve_proxied(&["--header-timeout", "300ms"]);
    for header in [PROXY_V1, PROXY_V2] {
        let mut client = Client::connect(&served);
        client.send(&header[..header.len() - 1]);
        assert_eq!(client.answer().status, 408);
        client.assert_closed();
    }
}

#[test]
fn proxy_header_that_is_cut_off_is_a_400() {
    let served = serve_proxied(&[]);
    let mut client = Client::connect(&served);
    client.send(&PROXY_V2[..20]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer().status, 400);
}

#[test]
fn proxy_that_says_nothing_more_is_closed_without_an_answer() {
    let served = serve_proxied(&["--keep-alive", "100ms", "--header-timeout", "300ms"]);
    for opening in [&b""[..], PROXY_V1, PROXY_V2] {
        let mut client = Client::connect(&served);
        client.send(opening);
        client.assert_closed();
    }
}

#[test]
fn connection_without_its_proxy_header_is_refused() {
    let request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let long = b"x".repeat(300 * 1024);
    let malformed = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n";
    for (option, opening) in [
        ("auto", &request[..]),
        ("auto", &malformed[..]),
        ("auto", &long),
        ("v1", PROXY_V2),
        ("v2", PROXY_V1),
        ("off", PROXY_V1),
        ("off", PROXY_V2),
    ] {
        let served = serve(&["--proxy-protocol", option], answer_path);
        let mut client = Client::connect(&served);
        client.send([opening, request].concat());
        assert_eq!(client.answer().status, 400, "{option}");
        client.assert_closed();
    }
}

#[test]
fn connection_from_elsewhere_than_a_proxy_is_refused() {
    for allowed in ["192.0.2.0/24", "::1", "127.0.0.2,10.0.0.0/8"] {
        let served = serve_proxied(&["--proxy-allow-from", allowed]);
        for opening in [PROXY_V1, PROXY_V2, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"x"] {
            let mut client = Client::connect(&served);
            client.send(opening);
            assert_eq!(client.answer().status, 403);
            client.assert_closed();
        }
    }
    for allowed in ["*", "127.0.0.1", "10.0.0.0/8,127.0.0.0/8"] {
        let served = serve_proxied(&["--proxy-allow-from", allowed]);
        let mut client = Client::connect(&served);
        client.send(PROXY_V1);
        client.get("/");
        assert_eq!(client.answer().text(), PROXIED);
    }
}

// The pool.

#[test]
fn queue_timeout_is_a_503_with_retry_after() {
    let (served, calls) = serve_by_hand(&["--pool-size", "1", "--queue-timeout", "200ms"]);
    let mut first = Client::connect(&served);
    first.get("/first");
    let (request, responder) = receive(&calls);
    let mut second = Client::connect(&served);
    second.get("/second");
    let answer = second.answer();
    assert_eq!(answer.status, 503);
    assert!(answer.has("Retry-After: 1"));
    answer_path(request, responder);
    assert_eq!(first.answer().text(), "/first");
}

#[test]
fn queue_goes_on_when_a_permit_comes_back() {
    let (served, calls) = serve_by_hand(&["--pool-size", "1"]);
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&served)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.get(&format!("/{number}"));
    }
    for _ in 0..4 {
        let (request, responder) = receive(&calls);
        assert!(calls.try_recv().is_err(), "more than one at once");
        answer_path(request, responder);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.answer().text(), format!("/{number}"));
    }
}

#[test]
fn client_that_vanishes_in_the_queue_leaves_its_place_to_the_next() {
    let (served, calls) = serve_by_hand(&["--pool-size", "1"]);
    let mut first = Client::connect(&served);
    first.get("/first");
    let (request, responder) = receive(&calls);
    let mut gone = Client::connect(&served);
    gone.get("/gone");
    let mut last = Client::connect(&served);
    last.get("/last");
    thread::sleep(Duration::from_millis(50));
    SockRef::from(&gone.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(gone);
    answer_path(request, responder);
    let (request, responder) = receive(&calls);
    assert_eq!(request.head.path(), b"/last");
    answer_path(request, responder);
    assert_eq!(last.answer().text(), "/last");
}

#[test]
fn permit_is_free_before_the_client_has_read() {
    let (served, calls) = serve_by_hand(&["--pool-size", "1"]);
    let mut slow = Client::connect_narrow(&served);
    slow.get("/slow");
    let content = pattern(16 << 20);
    let (_, running) = stream_blocks(receive(&calls), ok(), content.clone(), 100_000);
    running.join().unwrap().unwrap();
    let mut other = Client::connect(&served);
    other.get("/other");
    let (request, responder) = receive(&calls);
    answer_path(request, responder);
    assert_eq!(other.answer().text(), "/other");
    assert!(slow.answer().body == content);
}

// Bodies that are streamed.

fn read_all(request: &Request) -> std::io::Result<Vec<u8>> {
    let RequestBody::Streamed(input) = &request.body else { panic!("not streamed") };
    let mut all = Vec::new();
    let mut piece = [0; 10_000];
    loop {
        match input.read_waiting(&mut piece)? {
            0 => return Ok(all),
            bytes => all.extend_from_slice(&piece[..bytes]),
        }
    }
}

#[test]
fn streamed_body_is_read_while_it_comes() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always"]);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let (request, responder) = receive(&calls);
    let RequestBody::Streamed(input) = &request.body else { panic!("not streamed") };
    let mut piece = [0; 100];
    assert_eq!(input.read_waiting(&mut piece).unwrap(), 3);
    client.send("2\r\nde\r\n0\r\n\r\n");
    assert_eq!(read_all(&request).unwrap(), b"de");
    respond(responder, b"done");
    assert_eq!(client.answer().text(), "done");
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok");
    let (request, responder) = receive(&calls);
    assert_eq!(read_all(&request).unwrap(), b"ok");
    respond(responder, b"next");
    assert_eq!(client.answer().text(), "next");
}

#[test]
fn streamed_body_larger_than_the_buffer_arrives_whole() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always", "--request-buffer", "1KiB"]);
    let mut client = Client::connect(&served);
    let body = pattern(2 << 20);
    client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()));
    let mut writer = client.stream.try_clone().unwrap();
    let sent = body.clone();
    let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
    let (request, responder) = receive(&calls);
    assert!(read_all(&request).unwrap() == body);
    respond(responder, b"done");
    assert_eq!(client.answer().text(), "done");
    writing.join().unwrap();
}

#[test]
fn streamed_body_is_asked_for_on_the_first_read() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always"]);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    let (request, responder) = receive(&calls);
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(client.stream.read(&mut [0; 10]).is_err(), "nothing is sent before the application reads");
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let reading = thread::spawn(move || read_all(&request));
    assert_eq!(client.head().status, 100);
    client.send("abc");
    assert_eq!(reading.join().unwrap().unwrap(), b"abc");
    respond(responder, b"done");
    assert_eq!(client.answer().text(), "done");
}

#[test]
fn streamed_body_that_the_application_asked_for_is_not_asked_for_again() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always"]);
    let mut client = Client::connect(&served);
    for _ in 0..20 {
        client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n");
        let (request, mut responder) = receive(&calls);
        assert!(responder.interim_continue(b"HTTP/1.1 100 Continue\r\nX-Phase: 1\r\n\r\n").unwrap());
        let RequestBody::Streamed(input) = request.body else { panic!("not streamed") };
        let reading = thread::spawn(move || {
            let mut part = [0; 3];
            assert_eq!(input.read_waiting(&mut part).unwrap(), 3);
            (part, input)
        });
        let head = client.head();
        assert_eq!((head.status, head.has("x-phase: 1")), (100, true));
        client.send("abc");
        let (part, input) = reading.join().unwrap();
        assert_eq!(&part, b"abc");
        assert!(responder.interim_continue(b"HTTP/1.1 100 Continue\r\nX-Phase: 2\r\n\r\n").unwrap());
        let head = client.head();
        assert_eq!((head.status, head.has("x-phase: 2")), (100, true));
        client.send("def");
        let mut part = [0; 6];
        assert_eq!(input.read_waiting(&mut part).unwrap(), 3);
        assert_eq!(&part[..3], b"def");
        assert_eq!(input.read_waiting(&mut part).unwrap(), 0);
        respond(responder, b"done");
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (200, "done"));
    }
}

#[test]
fn streamed_body_is_not_asked_for_inside_the_response() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always"]);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    let (request, mut responder) = receive(&calls);
    responder.head(ok(), None);
    responder.send(Block::Owned(b"one".to_vec())).unwrap();
    client.head();
    client.until(b"3\r\none\r\n");
    let reading = thread::spawn(move || read_all(&request));
    client.send("abc");
    assert_eq!(reading.join().unwrap().unwrap(), b"abc");
    finish(responder);
    assert_eq!(client.until(b"0\r\n\r\n"), b"0\r\n\r\n");
}

#[test]
fn streamed_body_goes_on_after_its_end_where_the_application_expects_more() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always"]);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let (request, mut responder) = receive(&calls);
    let RequestBody::Streamed(input) = &request.body else { panic!("not streamed") };
    for more in ["2\r\nde\r\n0\r\n\r\n", "0\r\n\r\n", "1\r\nf\r\n0\r\n\r\n"] {
        read_all(&request).unwrap();
        assert!(input.reopen());
        responder.interim(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        assert_eq!(client.head().status, 100);
        client.send(more);
    }
    assert_eq!(read_all(&request).unwrap(), b"f");
    respond(responder, b"done");
    assert_eq!(client.answer().text(), "done");
    client.get("/");
    respond(receive(&calls).1, b"next");
    assert_eq!(client.answer().text(), "next");
}

#[test]
fn streamed_body_whose_next_part_never_comes_is_an_error() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always", "--body-timeout", "200ms"]);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    let (request, responder) = receive(&calls);
    let RequestBody::Streamed(input) = &request.body else { panic!("not streamed") };
    assert_eq!(read_all(&request).unwrap(), b"");
    assert!(input.reopen());
    assert!(!input.reopen(), "it has not ended again");
    assert_eq!(read_all(&request).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    respond(responder, b"no");
    assert!(client.answer().has("Connection: close"));
}

#[test]
fn streamed_body_of_a_length_ends_for_good() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always"]);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
    let (request, _responder) = receive(&calls);
    let RequestBody::Streamed(input) = &request.body else { panic!("not streamed") };
    assert_eq!(read_all(&request).unwrap(), b"abc");
    assert!(!input.reopen());
}

#[test]
fn streamed_body_that_nobody_reads_is_told_by_connection_close() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always"]);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n");
    let (_request, responder) = receive(&calls);
    respond(responder, b"no");
    let answer = client.answer();
    assert_eq!(answer.text(), "no");
    assert!(answer.has("Connection: close"));
    client.send(vec![b'x'; 1_000_000]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.assert_closed();
}

#[test]
fn streamed_body_of_some_length_that_nobody_reads_is_thrown_away() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always", "--request-buffer", "1KiB"]);
    let mut client = Client::connect(&served);
    for head in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n"));
        respond(receive(&calls).1, b"no");
        let answer = client.answer();
        assert_eq!(answer.text(), "no");
        assert!(!answer.has("Connection: close"));
        let body = pattern(100_000);
        if head.starts_with('C') {
            client.send(body);
        } else {
            client.send([b"186a0\r\n", &body[..], b"\r\n0\r\n\r\n"].concat());
        }
    }
    client.get("/");
    respond(receive(&calls).1, b"next");
    assert_eq!(client.answer().text(), "next");
}

#[test]
fn streamed_body_that_nobody_reads_and_that_never_ends_is_given_up() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always"]);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    respond(receive(&calls).1, b"no");
    assert_eq!(client.answer().text(), "no");
    client.send(b"100000\r\n");
    client.send(vec![b'x'; 1 << 20]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.assert_closed();
}

#[test]
fn streamed_body_that_nobody_reads_and_that_does_not_come_is_given_up() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always", "--body-timeout", "200ms"]);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n");
    respond(receive(&calls).1, b"no");
    assert_eq!(client.answer().text(), "no");
    client.assert_closed();
}

#[test]
fn streamed_body_of_a_client_that_vanishes_is_an_error() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always"]);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    let (request, _responder) = receive(&calls);
    let reading = thread::spawn(move || read_all(&request));
    drop(client);
    assert!(reading.join().unwrap().is_err());
}

#[test]
fn streamed_body_that_stalls_is_an_error() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always", "--body-timeout", "200ms"]);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    let (request, responder) = receive(&calls);
    assert_eq!(read_all(&request).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    drop(responder);
    assert_eq!(client.answer().status, 500);
}

// Stopping.

fn drain(served: Served) -> thread::JoinHandle<bool> {
    thread::spawn(move || served.server.drain(Duration::from_secs(10)))
}

#[test]
fn drain_finishes_what_runs_and_tells_the_client() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client.get("/a");
    let (request, responder) = receive(&calls);
    let address = served.address;
    let draining = drain(served);
    wait_until("the listener is closed", || TcpStream::connect(address).is_err());
    answer_path(request, responder);
    let answer = client.answer();
    assert_eq!(answer.text(), "/a");
    assert!(answer.has("Connection: close"), "{}", answer.head);
    client.assert_closed();
    assert!(draining.join().unwrap());
}

#[test]
fn drain_closes_connections_at_rest() {
    let served = serve(&[], answer_path);
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(&served)).collect();
    for client in &mut clients {
        client.get("/a");
        client.answer();
    }
    thread::sleep(Duration::from_millis(120));
    let began = Instant::now();
    assert!(drain(served).join().unwrap());
    assert!(began.elapsed() < Duration::from_secs(5));
    for client in &mut clients {
        client.assert_closed();
    }
}

#[test]
fn drain_does_not_wait_for_a_body_that_nobody_reads() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always", "--body-timeout", "1h"]);
    let mut client = Client::connect(&served);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n");
    respond(receive(&calls).1, b"no");
    assert_eq!(client.answer().text(), "no");
    assert!(drain(served).join().unwrap());
    client.assert_closed();
}

#[test]
fn drain_waits_for_the_first_request_of_a_fresh_connection() {
    let served = serve(&[], answer_path);
    let mut client = Client::connect(&served);
    let address = served.address;
    let draining = drain(served);
    wait_until("the listener is closed", || TcpStream::connect(address).is_err());
    client.get("/first");
    let answer = client.answer();
    assert_eq!(answer.text(), "/first");
    assert!(answer.has("Connection: close"));
    assert!(draining.join().unwrap());
}

#[test]
fn handler_that_panics_ends_one_connection_and_is_not_counted_for_ever() {
    let served = serve(&["--pool-size", "1", "--max-connections", "1"], |request, responder| {
        assert!(request.head.path() != b"/panic", "as the test wants it");
        answer_path(request, responder);
    });
    let mut client = Client::connect(&served);
    client.get("/panic");
    client.assert_closed();
    let mut client = Client::connect(&served);
    client.get("/next");
    assert_eq!(client.answer().text(), "/next");
    assert!(drain(served).join().unwrap());
}

#[test]
fn drain_gives_up_at_its_end() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client.get("/a");
    let _held = receive(&calls);
    assert!(!served.server.drain(Duration::from_millis(200)));
}

// The limit of connections.

#[test]
fn connection_limit_evicts_the_one_that_rested_longest() {
    let served = serve(&["--max-connections", "2"], answer_path);
    let mut oldest = Client::connect(&served);
    oldest.get("/a");
    oldest.answer();
    wait_until("they rest", || served.server.stats().idle == 1);
    let mut newer = Client::connect(&served);
    newer.get("/b");
    newer.answer();
    wait_until("they rest", || served.server.stats().idle == 2);
    // No client waits for room yet.
    oldest.get("/a");
    assert_eq!(oldest.answer().text(), "/a");
    wait_until("they rest", || served.server.stats().idle == 2);
    let mut newest = Client::connect(&served);
    newest.get("/c");
    assert_eq!(newest.answer().text(), "/c");
    newer.assert_closed();
    oldest.get("/a");
    assert_eq!(oldest.answer().text(), "/a");
}

#[test]
fn connection_limit_of_busy_connections_lets_new_ones_wait() {
    let (served, calls) = serve_by_hand(&["--max-connections", "1"]);
    let mut busy = Client::connect(&served);
    busy.get("/busy");
    let (request, responder) = receive(&calls);
    let mut waiting = Client::connect(&served);
    waiting.get("/waiting");
    assert!(calls.recv_timeout(Duration::from_millis(100)).is_err());
    assert_eq!(served.server.stats().connections, 1);
    answer_path(request, responder);
    assert_eq!(busy.answer().text(), "/busy");
    let (request, responder) = receive(&calls);
    answer_path(request, responder);
    assert_eq!(waiting.answer().text(), "/waiting");
}

// Connections that the responding thread takes over.

/// Returns the taken stream in blocking mode, and the bytes received after the request.
fn stream_of(taken: TakenStream) -> (TcpStream, Vec<u8>) {
    let stream = TcpStream::from(taken.fd);
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Keep the hold, so that only the end of the call makes the server close the stream.
    std::mem::forget(taken.hold);
    (stream, taken.received)
}

/// Takes the connection over and echoes its input until the input ends.
fn echo_raw(mut responder: Responder) {
    let (mut stream, mut piece) = stream_of(responder.take_stream(Keeps::Application).unwrap());
    while !piece.is_empty() {
        stream.write_all(&piece).unwrap();
        piece.resize(4096, 0);
        let bytes = stream.read(&mut piece).unwrap();
        piece.truncate(bytes);
    }
    finish(responder);
}

fn upgrade(client: &mut Client, path: &str, behind: &str) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n{behind}"));
}

#[test]
fn hijack_gives_the_stream_with_what_came_behind_the_request() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    upgrade(&mut client, "/", "first");
    let (_request, responder) = receive(&calls);
    let call = thread::spawn(move || echo_raw(responder));
    assert_eq!(client.exactly(5), b"first");
    for size in [1, 10, 100_000] {
        let bytes = pattern(size);
        client.send(&bytes);
        assert_eq!(client.exactly(size), bytes);
    }
    assert_eq!(served.server.stats().hijacked, 1);
    client.stream.shutdown(Shutdown::Write).unwrap();
    call.join().unwrap();
    client.assert_closed();
    let stats = served.server.stats();
    assert_eq!((stats.hijacked, stats.hijacked_total, stats.connections), (0, 1, 0));
}

#[test]
fn hijack_of_a_connection_that_has_rested_leaves_its_place_to_another() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    client.get("/before");
    let (request, responder) = receive(&calls);
    answer_path(request, responder);
    client.answer();
    // Longer than the linger: the connection goes to the idle set.
    thread::sleep(Duration::from_millis(120));
    upgrade(&mut client, "/", "x");
    let (_request, responder) = receive(&calls);
    let call = thread::spawn(move || echo_raw(responder));
    assert_eq!(client.exactly(1), b"x");
    // The next connection gets its place in the set.
    let mut other = Client::connect(&served);
    thread::sleep(Duration::from_millis(120));
    client.send("y");
    assert_eq!(client.exactly(1), b"y");
    other.get("/other");
    let (request, responder) = receive(&calls);
    answer_path(request, responder);
    assert_eq!(other.answer().text(), "/other");
    drop(client);
    call.join().unwrap();
}

#[test]
fn hijack_keeps_its_permit_until_the_call_ends() {
    let (served, calls) = serve_by_hand(&["--pool-size", "1"]);
    let mut client = Client::connect(&served);
    upgrade(&mut client, "/ws", "");
    let (_request, mut responder) = receive(&calls);
    let (stream, _) = stream_of(responder.take_stream(Keeps::Application).unwrap());
    let is_served = || served.server.serving().iter().any(|request| request.to_string().contains("/ws"));
    assert!(is_served());
    let mut other = Client::connect(&served);
    other.get("/other");
    assert!(calls.recv_timeout(Duration::from_millis(150)).is_err(), "there is one permit");
    finish(responder);
    let (request, responder) = receive(&calls);
    answer_path(request, responder);
    assert_eq!(other.answer().text(), "/other");
    assert!(!is_served());
    // The application may keep the stream for longer than the call.
    (&stream).write_all(b"later").unwrap();
    assert_eq!(client.exactly(5), b"later");
}

#[test]
fn hijack_drops_what_the_response_says() {
    let (served, calls) = serve_by_hand(&["--response-buffer", "4KiB", "--response-spool", "0"]);
    let mut client = Client::connect(&served);
    upgrade(&mut client, "/", "");
    let (_request, mut responder) = receive(&calls);
    let (mut stream, _) = stream_of(responder.take_stream(Keeps::Nobody).unwrap());
    assert_eq!(responder.take_stream(Keeps::Nobody).unwrap_err(), NotGiven::Taken);
    responder.head(ok(), None);
    assert_eq!(send_somehow(&mut responder, pattern(100_000)), Err(Gone));
    stream.write_all(b"raw").unwrap();
    finish(responder);
    // The connection ends with the call, although the stream is still open.
    assert_eq!(client.rest(), b"raw");
    drop(client);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn hijack_of_a_response_that_has_begun_is_refused() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    upgrade(&mut client, "/", "");
    let (_request, mut responder) = receive(&calls);
    responder.interim(b"HTTP/1.1 103 Early Hints\r\n\r\n").unwrap();
    responder.head(ok(), Some(3));
    assert_eq!(responder.take_stream(Keeps::Nobody).unwrap_err(), NotGiven::Begun);
    responder.send(Block::Owned(b"abc".to_vec())).unwrap();
    assert_eq!(client.head().status, 103);
    assert_eq!(client.answer().text(), "abc");
    assert_eq!(responder.take_stream(Keeps::Nobody).unwrap_err(), NotGiven::Begun);
    finish(responder);
    upgrade(&mut client, "/next", "");
    let (request, responder) = receive(&calls);
    answer_path(request, responder);
    assert_eq!(client.answer().text(), "/next");
    assert_eq!(served.server.stats().hijacked_total, 0);
}

#[test]
fn hijack_goes_behind_interim_responses() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    upgrade(&mut client, "/", "");
    let (_request, mut responder) = receive(&calls);
    responder.interim(b"HTTP/1.1 103 Early Hints\r\n\r\n").unwrap();
    let (mut stream, _) = stream_of(responder.take_stream(Keeps::Nobody).unwrap());
    stream.write_all(b"raw").unwrap();
    assert_eq!(client.head().status, 103);
    assert_eq!(client.exactly(3), b"raw");
}

#[test]
fn hijack_before_a_streamed_body_has_come_is_refused() {
    let (served, calls) = serve_by_hand(&["--stream-requests", "always"]);
    let mut client = Client::connect(&served);
    client.send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na");
    let (request, mut responder) = receive(&calls);
    assert_eq!(responder.take_stream(Keeps::Nobody).unwrap_err(), NotGiven::BodyUnread);
    client.send("bcdef");
    let RequestBody::Streamed(input) = &request.body else { panic!("not streamed") };
    let mut body = Vec::new();
    while body.len() < 3 {
        let mut piece = [0; 8];
        let bytes = input.read_waiting(&mut piece).unwrap();
        body.extend_from_slice(&piece[..bytes]);
    }
    assert_eq!(body, b"abc");
    let (mut stream, received) = stream_of(responder.take_stream(Keeps::Nobody).unwrap());
    assert_eq!(received, b"def");
    stream.write_all(b"raw").unwrap();
    assert_eq!(client.exactly(3), b"raw");
}

#[test]
fn hijack_of_a_connection_whose_client_has_gone_does_not_hang() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    upgrade(&mut client, "/", "");
    let (_request, mut responder) = receive(&calls);
    // Closing the socket with a linger time of 0 sends a reset.
    SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    wait_until("the reset is seen", || responder.client_disconnected());
    match responder.take_stream(Keeps::Nobody) {
        Err(error) => assert_eq!(error, NotGiven::Gone),
        // The reset arrived while the stream was being taken: a read on the stream shows it.
        Ok(taken) => assert!(!matches!(stream_of(taken).0.read(&mut [0]), Ok(1..))),
    }
    finish(responder);
    assert_eq!(served.server.stats().hijacked, 0);
}

#[test]
fn hijacked_stream_that_is_closed_is_closed_for_the_client_though_the_call_runs() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    upgrade(&mut client, "/", "");
    let (_request, mut responder) = receive(&calls);
    drop(responder.take_stream(Keeps::Application).unwrap());
    client.assert_closed();
    assert_eq!(served.server.stats().hijacked, 1);
    finish(responder);
    assert_eq!(served.server.stats().hijacked, 0);
}

#[test]
fn drain_ends_the_input_of_hijacked_streams() {
    let (served, calls) = serve_by_hand(&[]);
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Client::connect(&served);
            upgrade(&mut client, "/", "x");
            let (_request, responder) = receive(&calls);
            thread::spawn(move || echo_raw(responder));
            assert_eq!(client.exactly(1), b"x");
            client
        })
        .collect();
    let mut late = Client::connect(&served);
    upgrade(&mut late, "/", "");
    let (_request, late_responder) = receive(&calls);
    let began = Instant::now();
    thread::scope(|scope| {
        let drained = scope.spawn(|| served.server.drain(PATIENCE));
        wait_until("three calls have ended", || served.server.stats().hijacked == 0);
        // A call that takes a connection over now reads the end of its input.
        let late = scope.spawn(move || {
            let mut responder = late_responder;
            let (mut stream, _) = stream_of(responder.take_stream(Keeps::Application).unwrap());
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            finish(responder);
        });
        late.join().unwrap();
        assert!(drained.join().unwrap());
    });
    assert!(began.elapsed() < PATIENCE / 2);
    drop(clients);
}

#[test]
fn cut_ends_hijacked_streams_although_their_calls_run() {
    let (served, calls) = serve_by_hand(&[]);
    let mut client = Client::connect(&served);
    upgrade(&mut client, "/", "");
    let (_request, mut responder) = receive(&calls);
    let (mut stream, _) = stream_of(responder.take_stream(Keeps::Application).unwrap());
    assert!(served.server.cut(PATIENCE));
    client.assert_closed();
    assert!(stream.write_all(b"late").is_err());
    assert_eq!(served.server.stats().hijacked, 1);
    finish(responder);
}
