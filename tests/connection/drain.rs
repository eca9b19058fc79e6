//! Stopping: running requests end, and idle connections are closed.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::scene::{Scene, Served, answer_path, respond, serve, wait_until};

pub fn drain(served: Served) -> thread::JoinHandle<bool> {
    thread::spawn(move || served.server.drain(Duration::from_secs(10)))
}

#[test]
fn drain_finishes_what_runs_and_tells_the_client() {
    let scene = Scene::new(&[]);
    let (mut client, request, responder) = scene.get("/a");
    let address = scene.address;
    let draining = drain(scene.served);
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
    let mut clients: Vec<_> = (0..5).map(|_| served.client()).collect();
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
fn drain_does_not_wait_for_a_body_left_unread() {
    let scene = Scene::new(&["--stream-requests", "always", "--body-timeout", "1h"]);
    let mut client = scene.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n");
    respond(scene.next().1, b"no");
    assert_eq!(client.answer().text(), "no");
    assert!(drain(scene.served).join().unwrap());
    client.assert_closed();
}

#[test]
fn drain_waits_for_the_first_request_of_a_fresh_connection() {
    let served = serve(&[], answer_path);
    let mut client = served.client();
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
    let mut client = served.client();
    client.get("/panic");
    client.assert_closed();
    let mut client = served.client();
    client.get("/next");
    assert_eq!(client.answer().text(), "/next");
    assert!(drain(served).join().unwrap());
}

#[test]
fn drain_gives_up_at_its_end() {
    let scene = Scene::new(&[]);
    let mut client = scene.client();
    client.get("/a");
    let _held = scene.next();
    assert!(!scene.server.drain(Duration::from_millis(200)));
}
