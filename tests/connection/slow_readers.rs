//! Clients that read slower than the application responds, and clients that leave.

use std::io::Read;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use maypole::handler::{Block, Gone, Sent};
use maypole::http::ResponseHead;

use crate::scene::{Call, Scene, answer_path, finish, ok, pattern, send_somehow, wait_until};

/// Starts a response on a separate thread, in parts of `block` bytes. Returns a counter of the bytes that the
/// connection has accepted, and the thread.
pub fn stream_blocks(
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
        let scene = Scene::new(&["--response-buffer", "4KiB"]);
        let mut client = scene.narrow_client();
        client.get("/");
        // More than the kernel's buffers hold.
        let content = pattern(24 << 20);
        let mut head = ok();
        if length_known {
            head.push_field(b"Content-Length", content.len().to_string().as_bytes()).unwrap();
        }
        let (_, running) = stream_blocks(scene.next(), head, content.clone(), 50_001);
        // The client has read nothing, but the thread has ended.
        running.join().unwrap().unwrap();
        assert!(client.answer().body == content);
        scene.assert_serves(&mut client, "/next");
    }
}

#[test]
fn slow_reader_gets_what_came_while_the_socket_was_full() {
    let scene = Scene::new(&[]);
    let mut client = scene.narrow_client();
    client.get("/");
    let (_request, mut responder) = scene.next();
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
    let scene = Scene::new(&["--response-buffer", "4KiB", "--response-spool", "1MiB"]);
    let mut client = scene.narrow_client();
    client.get("/");
    let content = pattern(40 << 20);
    let (taken, running) = stream_blocks(scene.next(), ok(), content.clone(), 10_000);
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
    let scene = Scene::new(&["--response-buffer", "4KiB", "--response-spool", "2MiB", "--spool-dir", path]);
    let mut client = scene.narrow_client();
    client.get("/");
    let content = pattern(32 << 20);
    let (_, running) = stream_blocks(scene.next(), ok(), content.clone(), 50_000);
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
    let scene = Scene::new(&["--write-timeout", "300ms", "--response-spool", "1MiB", "--pool-size", "1"]);
    let mut client = scene.narrow_client();
    client.get("/");
    let (_, running) = stream_blocks(scene.next(), ok(), vec![b'x'; 40 << 20], 100_000);
    assert_eq!(running.join().unwrap(), Err(Gone));
    let (mut other, request, responder) = scene.get("/next");
    answer_path(request, responder);
    assert_eq!(other.answer().text(), "/next");
}

#[test]
fn reader_that_is_slow_but_moves_is_not_given_up() {
    // Data that the kernel already holds must not count as a standstill: this client needs seconds to read the kernel's
    // buffers.
    let scene = Scene::new(&["--write-timeout", "1s", "--response-buffer", "4KiB", "--response-spool", "64KiB"]);
    let mut client = scene.narrow_client();
    client.get("/");
    let content = pattern(8 << 20);
    let (_, running) = stream_blocks(scene.next(), ok(), content.clone(), 64 * 1024);
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
    let scene = Scene::new(&["--response-spool", "1MiB"]);
    let mut client = scene.narrow_client();
    client.get("/");
    let (taken, running) = stream_blocks(scene.next(), ok(), vec![b'x'; 40 << 20], 100_000);
    wait_until("it has begun", || taken.load(Ordering::SeqCst) > 1 << 20);
    drop(client);
    assert_eq!(running.join().unwrap(), Err(Gone));
}

#[test]
fn client_that_closes_is_seen_while_the_application_runs() {
    let scene = Scene::new(&[]);
    let (client, _request, responder) = scene.get("/");
    assert!(!responder.client_disconnected());
    drop(client);
    wait_until("seen", || responder.client_disconnected());
}

#[test]
fn half_closed_client_gets_its_answer() {
    let scene = Scene::new(&[]);
    let mut client = scene.client();
    client.get("/a");
    client.stream.shutdown(Shutdown::Write).unwrap();
    let (request, responder) = scene.next();
    wait_until("seen", || responder.client_disconnected());
    answer_path(request, responder);
    assert_eq!(client.answer().text(), "/a");
    client.assert_closed();
}
