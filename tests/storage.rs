//! Tests of bodies and responses if the disk fails: a server with a handler in Rust, real sockets, and files whose
//! operations fail as the test demands. No data may be lost, cut short or kept without a limit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use maypole::admission::{Admission, Rules};
use maypole::config::Config;
use maypole::drain::Drain;
use maypole::handler::{Block, End, Gone, Handler, Origin, Request, RequestBody, Responder, Sent, SharedBytes};
use maypole::http::{RequestHead, ResponseHead};
use maypole::listener::{BoundAddress, Listener};
use maypole::pool::Pool;
use maypole::server::{Server, Setup};
use maypole::spool::{Content, Files, Storage, SystemFiles};
use maypole::sys;
use socket2::{Domain, Socket, Type};

/// Longer than any step of these tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

type Call = (Request, Responder);

/// Which operations fail, and with which error number (0: none).
#[derive(Debug, Default)]
struct Faults {
    create: AtomicI32,
    write: AtomicI32,
    /// The number of writes that still succeed before one fails.
    writes_left: AtomicUsize,
    /// The most bytes that one write takes. 0 means no limit.
    short: AtomicUsize,
    created: AtomicUsize,
    failed: AtomicUsize,
}

struct Faulty(Arc<Faults>);

impl Faulty {
    fn fail(&self, code: &AtomicI32) -> io::Result<()> {
        match code.load(Ordering::SeqCst) {
            0 => Ok(()),
            code => {
                self.0.failed.fetch_add(1, Ordering::SeqCst);
                Err(io::Error::from_raw_os_error(code))
            }
        }
    }
}

impl Files for Faulty {
    fn create(&self, dir: &Path) -> io::Result<File> {
        self.fail(&self.0.create)?;
        self.0.created.fetch_add(1, Ordering::SeqCst);
        SystemFiles.create(dir)
    }

    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        let left = &self.0.writes_left;
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            self.fail(&self.0.write)?;
        }
        let part = match self.0.short.load(Ordering::SeqCst) {
            0 => bytes,
            most => &bytes[..bytes.len().min(most)],
        };
        SystemFiles.write_at(file, part, at)
    }
}

struct Queue {
    calls: Mutex<mpsc::Sender<Call>>,
    rules: Rules,
}

impl Handler for Queue {
    fn admit(&self, head: &RequestHead, _origin: &Origin) -> Admission<'_> {
        Admission::Serve(self.rules.terms(head))
    }

    fn call(&self, request: Request, responder: Responder) {
        // An error means that the test is over.
        let _ = self.calls.lock().unwrap().send((request, responder));
    }

    fn join_drain(&self, _drain: &Arc<Drain>) {}

    fn running(&self) -> usize {
        0
    }

    fn pool(&self) -> Option<&Arc<Pool>> {
        Some(self.rules.pool())
    }
}

/// A server on a disk that fails as the test demands. The test sends the responses.
struct Scene {
    server: Server,
    address: SocketAddr,
    calls: Receiver<Call>,
    faults: Arc<Faults>,
    storage: Arc<Storage>,
    _dir: tempfile::TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.server.cut(Duration::from_secs(5));
    }
}

impl Scene {
    fn new(total: u64, options: &[&str]) -> Self {
        sys::start_runtime(64 * 1024).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let faults = Arc::<Faults>::default();
        let storage = Storage::with_files(dir.path(), total, Box::new(Faulty(Arc::clone(&faults))));
        let words = ["maypole", "module:app", "--bind", "127.0.0.1:0", "--response-buffer", "4KiB"];
        let config = Config::parse_from(words.iter().chain(options)).unwrap();
        let listeners = Listener::bind_configured(&config).unwrap();
        let (sender, calls) = mpsc::channel();
        let config = Arc::new(config);
        let handler = Arc::new(Queue { calls: Mutex::new(sender), rules: Rules::with_own_pool(&config) });
        let mut setup = Setup::new(config, listeners, handler);
        setup.storage = Some(Arc::clone(&storage));
        let server = Server::start(setup).unwrap();
        let BoundAddress::Tcp(address) = server.addresses()[0] else { panic!("not tcp") };
        Self { server, address, calls, faults, storage, _dir: dir }
    }

    fn call(&self) -> Call {
        self.calls.recv_timeout(PATIENCE).expect("a request comes")
    }

    /// Connects a client with small buffers, so that the server soon notices that it is slow.
    fn connect(&self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&self.address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn get(&self) -> (TcpStream, Responder) {
        let mut client = self.connect();
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
        let (_, responder) = self.call();
        (client, responder)
    }

    fn post(&self, bytes: u64) -> TcpStream {
        let mut client = self.connect();
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n");
        client.write_all(head.as_bytes()).unwrap();
        client
    }

    /// Waits until all space counted towards the limit has been returned.
    fn assert_nothing_is_used(&self) {
        eventually("all room comes back", || self.storage.used() == 0);
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn pattern(bytes: u64) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 7 & 0xff).unwrap()).collect()
}

fn ok() -> ResponseHead {
    ResponseHead::new(b"200 OK").unwrap()
}

fn send(responder: &mut Responder, block: Block) -> Result<(), Gone> {
    match responder.send(block)? {
        Sent::Done => Ok(()),
        Sent::WouldWait(block) => responder.send_waiting(block),
    }
}

/// Sends the content in blocks on a separate thread. Returns a counter of the blocks sent, and the thread.
fn stream(mut responder: Responder, content: Vec<u8>, block: usize) -> (Arc<AtomicUsize>, thread::JoinHandle<bool>) {
    let count = Arc::<AtomicUsize>::default();
    let counting = Arc::clone(&count);
    let thread = thread::spawn(move || {
        responder.head(ok(), Some(content.len() as u64));
        for part in content.chunks(block) {
            if send(&mut responder, Block::Owned(part.to_vec())).is_err() {
                return false;
            }
            counting.fetch_add(1, Ordering::SeqCst);
        }
        responder.finish(End::Complete, None, Vec::new());
        sys::flush_wakes();
        true
    });
    (count, thread)
}

/// Pauses, then reads the response to its end. Returns its head and its body.
fn read_all(client: &mut TcpStream, pause: Duration) -> (String, Vec<u8>) {
    thread::sleep(pause);
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    (String::from_utf8(all[..end].to_vec()).unwrap(), all[end..].to_vec())
}

fn status(client: &mut TcpStream) -> u16 {
    let (head, _) = read_all(client, Duration::ZERO);
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Bytes that a response borrows and that have no other owner.
struct Borrowed(Vec<u8>, mpsc::Sender<()>);

impl SharedBytes for Borrowed {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn is_ours_alone(&self) -> bool {
        true
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // An error means that the test is over.
        let _ = self.1.send(());
    }
}

const LACKS: [i32; 4] = [libc::ENOSPC, libc::EDQUOT, libc::EIO, libc::EMFILE];

#[test]
fn response_of_many_blocks_is_whole_whatever_cannot_be_done() {
    let content = pattern(3 * MIB);
    for code in LACKS {
        for operation in ["create", "write", "later write"] {
            let scene = Scene::new(1 << 30, &[]);
            match operation {
                "create" => scene.faults.create.store(code, Ordering::SeqCst),
                "write" => scene.faults.write.store(code, Ordering::SeqCst),
                _ => {
                    scene.faults.writes_left.store(1, Ordering::SeqCst);
                    scene.faults.write.store(code, Ordering::SeqCst);
                }
            }
            let (mut client, responder) = scene.get();
            let (count, thread) = stream(responder, content.clone(), 300_000);
            eventually("the disk refuses", || scene.faults.failed.load(Ordering::SeqCst) > 0);
            assert!(count.load(Ordering::SeqCst) < 10, "{operation} {code}: the application waits");
            let (_, body) = read_all(&mut client, Duration::ZERO);
            assert!(body == content, "{operation} {code}: {} bytes of {}", body.len(), content.len());
            assert!(thread.join().unwrap());
            scene.assert_nothing_is_used();
        }
    }
}

#[test]
fn response_goes_to_the_disk_again_once_there_is_room() {
    let scene = Scene::new(1 << 30, &[]);
    scene.faults.create.store(libc::ENOSPC, Ordering::SeqCst);
    let content = pattern(3 * MIB);
    let (mut client, responder) = scene.get();
    let (count, thread) = stream(responder, content.clone(), 300_000);
    eventually("the disk refuses", || scene.faults.failed.load(Ordering::SeqCst) > 0);
    assert!(count.load(Ordering::SeqCst) < 10);
    scene.faults.create.store(0, Ordering::SeqCst);
    // The client reads nothing, but the application has finished.
    assert!(thread.join().unwrap());
    assert!(read_all(&mut client, Duration::ZERO).1 == content);
    scene.assert_nothing_is_used();
}

#[test]
fn short_writes_lose_nothing() {
    let scene = Scene::new(1 << 30, &["--request-buffer", "1KiB"]);
    scene.faults.short.store(1000, Ordering::SeqCst);
    let content = pattern(MIB);
    let (mut client, responder) = scene.get();
    let (_, thread) = stream(responder, content.clone(), 200_000);
    assert!(thread.join().unwrap());
    assert!(read_all(&mut client, Duration::ZERO).1 == content);
    let mut client = scene.post(MIB);
    client.write_all(&content).unwrap();
    let (request, responder) = scene.call();
    let RequestBody::Complete(spool) = request.body else { panic!("no whole body") };
    let Content::File(file) = spool.into_content() else { panic!("in memory") };
    let mut stored = vec![0; content.len()];
    file.read_exact_at(&mut stored, 0).unwrap();
    assert!(stored == content);
    drop((file, responder));
    scene.assert_nothing_is_used();
}

#[test]
fn large_block_that_cannot_be_stored_stays_in_memory_until_it_is_sent() {
    for code in LACKS {
        let scene = Scene::new(1 << 30, &[]);
        scene.faults.create.store(code, Ordering::SeqCst);
        let content = pattern(8 * MIB);
        let (mut client, responder) = scene.get();
        let (dropped, drops) = mpsc::channel();
        let block = Block::Shared(Box::new(Borrowed(content.clone(), dropped)));
        responder.respond(ok(), content.len() as u64, [block], None, Vec::new());
        sys::flush_wakes();
        eventually("the block is to be stored", || scene.faults.failed.load(Ordering::SeqCst) > 0);
        assert!(drops.try_recv().is_err(), "a block that is not stored is kept");
        let (_, body) = read_all(&mut client, Duration::ZERO);
        assert!(body == content, "{code}: {} bytes of {}", body.len(), content.len());
        assert!(drops.recv_timeout(PATIENCE).is_ok(), "it goes when it has been sent");
    }
}

#[test]
fn large_block_that_is_stored_is_let_go_of() {
    let scene = Scene::new(1 << 30, &[]);
    let content = pattern(8 * MIB);
    let (mut client, responder) = scene.get();
    let (dropped, drops) = mpsc::channel();
    let block = Block::Shared(Box::new(Borrowed(content.clone(), dropped)));
    responder.respond(ok(), content.len() as u64, [block], None, Vec::new());
    sys::flush_wakes();
    assert!(drops.recv_timeout(PATIENCE).is_ok());
    assert!(read_all(&mut client, Duration::ZERO).1 == content);
    scene.assert_nothing_is_used();
}

#[test]
fn long_stream_takes_no_more_disk_than_twice_its_limit() {
    let scene = Scene::new(1 << 30, &["--response-spool", "1MiB"]);
    let content = pattern(12 * MIB);
    let (mut client, responder) = scene.get();
    let (_, thread) = stream(responder, content.clone(), 100_000);
    let mut all = Vec::new();
    let mut most = 0;
    let mut piece = vec![0; 64 * 1024];
    while let Ok(bytes @ 1..) = client.read(&mut piece) {
        all.extend_from_slice(&piece[..bytes]);
        most = most.max(scene.storage.used());
    }
    assert!(thread.join().unwrap());
    assert!(all.ends_with(&content));
    assert!(most > 0 && most <= 4 * MIB, "{most} bytes");
    scene.assert_nothing_is_used();
}

#[test]
fn all_slow_readers_together_stay_within_the_limit_and_get_everything() {
    const READERS: usize = 8;
    let scene = Scene::new(4 * MIB, &["--response-spool", "2MiB"]);
    let content = pattern(4 * MIB);
    let running: Vec<_> = (0..READERS)
        .map(|_| {
            let (client, responder) = scene.get();
            (client, stream(responder, content.clone(), 100_000))
        })
        .collect();
    eventually("the limit is nearly reached", || scene.storage.used() > 3 * MIB);
    let waits = running.iter().filter(|(_, (_, thread))| !thread.is_finished()).count();
    assert!(waits >= READERS - 1, "applications wait: {waits}");
    let readers: Vec<_> = running
        .into_iter()
        .map(|(mut client, (_, thread))| {
            let reader = thread::spawn(move || read_all(&mut client, Duration::ZERO).1);
            (reader, thread)
        })
        .collect();
    for (reader, thread) in readers {
        assert!(scene.storage.used() <= 4 * MIB);
        assert!(reader.join().unwrap() == content);
        assert!(thread.join().unwrap());
    }
    scene.assert_nothing_is_used();
}

#[test]
fn reader_that_leaves_gives_its_room_back() {
    let scene = Scene::new(4 * MIB, &["--response-spool", "2MiB"]);
    let (client, responder) = scene.get();
    let (_, thread) = stream(responder, pattern(8 * MIB), 100_000);
    eventually("something is stored", || scene.storage.used() > MIB);
    drop(client);
    assert!(!thread.join().unwrap(), "the application is told");
    scene.assert_nothing_is_used();
}

#[test]
fn body_that_cannot_be_stored_gets_an_error_and_leaves_nothing() {
    for (code, expected) in
        [(libc::ENOSPC, 503), (libc::EDQUOT, 503), (libc::EMFILE, 503), (libc::EIO, 500), (libc::EROFS, 500)]
    {
        for late in [false, true] {
            let scene = Scene::new(1 << 30, &["--request-buffer", "1KiB"]);
            let faults = &scene.faults;
            if late {
                faults.writes_left.store(3, Ordering::SeqCst);
                faults.write.store(code, Ordering::SeqCst);
            } else {
                faults.create.store(code, Ordering::SeqCst);
            }
            let mut client = scene.post(2 * MIB);
            // The server may respond before the whole body is sent.
            let _ = client.write_all(&pattern(2 * MIB));
            assert_eq!(status(&mut client), expected, "{code}, late: {late}");
            scene.assert_nothing_is_used();
        }
    }
}

#[test]
fn body_longer_than_all_files_together_is_refused_at_once() {
    let scene = Scene::new(MIB, &["--request-buffer", "1KiB"]);
    let mut client = scene.post(2 * MIB);
    client.write_all(&pattern(100_000)).unwrap();
    assert_eq!(status(&mut client), 413);
    let mut client = scene.connect();
    client.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = [format!("{:x}\r\n", 100_000).as_bytes(), &pattern(100_000), b"\r\n"].concat();
    while client.write_all(&chunk).is_ok() {}
    scene.assert_nothing_is_used();
}

#[test]
fn body_waits_for_room_and_gets_it_when_another_goes() {
    let scene = Scene::new(2 * MIB, &["--request-buffer", "1KiB"]);
    let content = pattern(3 * MIB / 2);
    let mut first = scene.post(3 * MIB / 2);
    first.write_all(&content).unwrap();
    let (held, responder) = scene.call();
    let mut second = scene.post(3 * MIB / 2);
    let sending = {
        let (mut second, content) = (second.try_clone().unwrap(), content.clone());
        thread::spawn(move || second.write_all(&content).unwrap())
    };
    assert!(scene.calls.recv_timeout(Duration::from_millis(300)).is_err(), "there is no room for the second");
    drop(held);
    responder.respond(ok(), 0, [], None, Vec::new());
    sys::flush_wakes();
    assert_eq!(status(&mut first), 200);
    let (request, responder) = scene.call();
    sending.join().unwrap();
    drop(request);
    responder.respond(ok(), 0, [], None, Vec::new());
    sys::flush_wakes();
    assert_eq!(status(&mut second), 200);
    scene.assert_nothing_is_used();
}

#[test]
fn body_that_gets_no_room_in_time_is_503() {
    let scene = Scene::new(2 * MIB, &["--request-buffer", "1KiB", "--body-timeout", "300ms"]);
    let content = pattern(3 * MIB / 2);
    let mut first = scene.post(3 * MIB / 2);
    first.write_all(&content).unwrap();
    let call = scene.call();
    let mut second = scene.post(3 * MIB / 2);
    let _ = second.write_all(&content);
    let (head, _) = read_all(&mut second, Duration::ZERO);
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: "), "{head}");
    drop(call);
    scene.assert_nothing_is_used();
}

#[test]
fn bodies_that_grow_side_by_side_never_wait_for_each_other_for_good() {
    const BODIES: usize = 6;
    let scene = Scene::new(4 * MIB, &["--request-buffer", "1KiB"]);
    let served = Arc::<AtomicUsize>::default();
    let senders: Vec<_> = (0..BODIES)
        .map(|_| {
            let mut client = scene.post(2 * MIB);
            thread::spawn(move || {
                // Send in small pieces, so that every upload has begun before one is complete.
                for piece in pattern(2 * MIB).chunks(50_000) {
                    if client.write_all(piece).is_err() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                status(&mut client)
            })
        })
        .collect();
    let began = Instant::now();
    while senders.iter().any(|sender| !sender.is_finished()) {
        if let Ok((request, responder)) = scene.calls.recv_timeout(Duration::from_millis(20)) {
            served.fetch_add(1, Ordering::SeqCst);
            drop(request);
            responder.respond(ok(), 0, [], None, Vec::new());
            sys::flush_wakes();
        }
        assert!(began.elapsed() < PATIENCE, "bodies wait for each other");
    }
    let answers: Vec<_> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
    assert!(answers.iter().all(|status| [200, 503].contains(status)), "{answers:?}");
    assert!(answers.iter().filter(|&&status| status == 200).count() >= 2, "{answers:?}");
    scene.assert_nothing_is_used();
}

#[test]
fn without_a_disk_small_bodies_and_all_responses_are_served() {
    let scene = Scene::new(0, &["--request-buffer", "256KiB"]);
    let content = pattern(3 * MIB);
    let (mut client, responder) = scene.get();
    let (count, thread) = stream(responder, content.clone(), 100_000);
    let body = read_all(&mut client, Duration::from_millis(200)).1;
    assert!(body == content && thread.join().unwrap());
    assert_eq!(count.load(Ordering::SeqCst), content.len().div_ceil(100_000));
    let mut client = scene.post(200_000);
    client.write_all(&content[..200_000]).unwrap();
    let (request, responder) = scene.call();
    assert!(matches!(request.body, RequestBody::Complete(spool) if spool.len() == 200_000));
    drop(responder);
    let mut client = scene.post(300_000);
    let _ = client.write_all(&content[..300_000]);
    assert_eq!(status(&mut client), 413);
    assert_eq!(scene.faults.created.load(Ordering::SeqCst), 0);
}
