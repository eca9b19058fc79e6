//! Connections that the responding thread takes over.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use maypole::handler::{Block, Gone, KeptBy, NotGiven, Request, RequestBody, Responder, TakenStream};
use socket2::SockRef;

use crate::scene::{Client, PATIENCE, Scene, answer_path, finish, ok, pattern, send_somehow, wait_until};

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
    let (mut stream, mut piece) = stream_of(responder.take_stream(KeptBy::Application).unwrap());
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

/// Returns both ends of an exchange that may become another protocol. `behind` is sent with the request.
fn upgraded(scene: &Scene, path: &str, behind: &str) -> (Client, Request, Responder) {
    let mut client = scene.client();
    upgrade(&mut client, path, behind);
    let (request, responder) = scene.next();
    (client, request, responder)
}

#[test]
fn takeover_gives_the_stream_with_what_came_behind_the_request() {
    let scene = Scene::new(&[]);
    let (mut client, _request, responder) = upgraded(&scene, "/", "first");
    let call = thread::spawn(move || echo_raw(responder));
    assert_eq!(client.exactly(5), b"first");
    for size in [1, 10, 100_000] {
        let bytes = pattern(size);
        client.send(&bytes);
        assert_eq!(client.exactly(size), bytes);
    }
    assert_eq!(scene.numbers().hijacked, 1);
    client.stream.shutdown(Shutdown::Write).unwrap();
    call.join().unwrap();
    client.assert_closed();
    let numbers = || scene.numbers();
    wait_until("the connection is counted as ended", || (numbers().hijacked, numbers().connections) == (0, 0));
    assert_eq!(numbers().hijacked_total, 1);
}

#[test]
fn takeover_of_a_connection_that_has_rested_leaves_its_place_to_another() {
    let scene = Scene::new(&[]);
    let (mut client, request, responder) = scene.get("/before");
    answer_path(request, responder);
    client.answer();
    // Longer than the linger: the connection goes to the idle set.
    thread::sleep(Duration::from_millis(120));
    upgrade(&mut client, "/", "x");
    let (_request, responder) = scene.next();
    let call = thread::spawn(move || echo_raw(responder));
    assert_eq!(client.exactly(1), b"x");
    // The next connection gets its place in the set.
    let mut other = scene.client();
    thread::sleep(Duration::from_millis(120));
    client.send("y");
    assert_eq!(client.exactly(1), b"y");
    scene.assert_serves(&mut other, "/other");
    drop(client);
    call.join().unwrap();
}

#[test]
fn takeover_keeps_its_permit_until_the_call_ends() {
    let scene = Scene::new(&["--pool-size", "1"]);
    let (mut client, _request, mut responder) = upgraded(&scene, "/ws", "");
    let (stream, _) = stream_of(responder.take_stream(KeptBy::Application).unwrap());
    let is_served = || scene.server.requests().iter().any(|request| request.to_string().contains("/ws"));
    assert!(is_served());
    let mut other = scene.client();
    other.get("/other");
    // There is one permit.
    scene.assert_no_request_for(Duration::from_millis(150));
    finish(responder);
    scene.answer_next();
    assert_eq!(other.answer().text(), "/other");
    wait_until("its row has gone", || !is_served());
    // The application may keep the stream for longer than the call.
    (&stream).write_all(b"later").unwrap();
    assert_eq!(client.exactly(5), b"later");
}

#[test]
fn takeover_drops_what_the_response_says() {
    let scene = Scene::new(&["--response-buffer", "4KiB", "--response-spool", "0"]);
    let (mut client, _request, mut responder) = upgraded(&scene, "/", "");
    let (mut stream, _) = stream_of(responder.take_stream(KeptBy::Server).unwrap());
    assert_eq!(responder.take_stream(KeptBy::Server).unwrap_err(), NotGiven::Taken);
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
fn takeover_of_a_response_that_has_begun_is_refused() {
    let scene = Scene::new(&[]);
    let (mut client, _request, mut responder) = upgraded(&scene, "/", "");
    responder.interim(b"HTTP/1.1 103 Early Hints\r\n\r\n").unwrap();
    responder.head(ok(), Some(3));
    assert_eq!(responder.take_stream(KeptBy::Server).unwrap_err(), NotGiven::Begun);
    responder.send(Block::Owned(b"abc".to_vec())).unwrap();
    assert_eq!(client.head().status, 103);
    assert_eq!(client.answer().text(), "abc");
    assert_eq!(responder.take_stream(KeptBy::Server).unwrap_err(), NotGiven::Begun);
    finish(responder);
    upgrade(&mut client, "/next", "");
    scene.answer_next();
    assert_eq!(client.answer().text(), "/next");
    assert_eq!(scene.numbers().hijacked_total, 0);
}

#[test]
fn takeover_goes_behind_interim_responses() {
    let scene = Scene::new(&[]);
    let (mut client, _request, mut responder) = upgraded(&scene, "/", "");
    responder.interim(b"HTTP/1.1 103 Early Hints\r\n\r\n").unwrap();
    let (mut stream, _) = stream_of(responder.take_stream(KeptBy::Server).unwrap());
    stream.write_all(b"raw").unwrap();
    assert_eq!(client.head().status, 103);
    assert_eq!(client.exactly(3), b"raw");
}

#[test]
fn takeover_before_a_streamed_body_has_come_is_refused() {
    let scene = Scene::new(&["--stream-requests", "always"]);
    let (mut client, request, mut responder) =
        scene.request("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na");
    assert_eq!(responder.take_stream(KeptBy::Server).unwrap_err(), NotGiven::BodyUnread);
    client.send("bcdef");
    let RequestBody::Streamed(input) = &request.body else { panic!("not streamed") };
    let mut body = Vec::new();
    while body.len() < 3 {
        let mut piece = [0; 8];
        let bytes = input.read_waiting(&mut piece).unwrap();
        body.extend_from_slice(&piece[..bytes]);
    }
    assert_eq!(body, b"abc");
    let (mut stream, received) = stream_of(responder.take_stream(KeptBy::Server).unwrap());
    assert_eq!(received, b"def");
    stream.write_all(b"raw").unwrap();
    assert_eq!(client.exactly(3), b"raw");
}

#[test]
fn takeover_of_a_connection_whose_client_has_gone_does_not_hang() {
    let scene = Scene::new(&[]);
    let (client, _request, mut responder) = upgraded(&scene, "/", "");
    // Closing the socket with a linger time of 0 sends a reset.
    SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    wait_until("the reset is seen", || responder.client_disconnected());
    match responder.take_stream(KeptBy::Server) {
        Err(error) => assert_eq!(error, NotGiven::Gone),
        // The reset arrived while the stream was being taken: a read on the stream shows it.
        Ok(taken) => assert!(!matches!(stream_of(taken).0.read(&mut [0]), Ok(1..))),
    }
    finish(responder);
    assert_eq!(scene.numbers().hijacked, 0);
}

#[test]
fn taken_stream_that_is_closed_is_closed_for_the_client_though_the_call_runs() {
    let scene = Scene::new(&[]);
    let (mut client, _request, mut responder) = upgraded(&scene, "/", "");
    drop(responder.take_stream(KeptBy::Application).unwrap());
    client.assert_closed();
    assert_eq!(scene.numbers().hijacked, 1);
    finish(responder);
    assert_eq!(scene.numbers().hijacked, 0);
}

#[test]
fn drain_ends_the_input_of_taken_streams() {
    let scene = Scene::new(&[]);
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (mut client, _request, responder) = upgraded(&scene, "/", "x");
            thread::spawn(move || echo_raw(responder));
            assert_eq!(client.exactly(1), b"x");
            client
        })
        .collect();
    let (_late, _request, late_responder) = upgraded(&scene, "/", "");
    let began = Instant::now();
    let served = &scene.served;
    thread::scope(|scope| {
        let drained = scope.spawn(|| served.server.drain(PATIENCE));
        wait_until("three calls have ended", || scene.numbers().hijacked == 0);
        // A call that takes a connection over now reads the end of its input.
        let late = scope.spawn(move || {
            let mut responder = late_responder;
            let (mut stream, _) = stream_of(responder.take_stream(KeptBy::Application).unwrap());
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
fn cut_ends_taken_streams_although_their_calls_run() {
    let scene = Scene::new(&[]);
    let (mut client, _request, mut responder) = upgraded(&scene, "/", "");
    let (mut stream, _) = stream_of(responder.take_stream(KeptBy::Application).unwrap());
    assert!(scene.server.cut(PATIENCE));
    client.assert_closed();
    assert!(stream.write_all(b"late").is_err());
    assert_eq!(scene.numbers().hijacked, 1);
    finish(responder);
}
