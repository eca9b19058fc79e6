//! Request bodies: buffered, streamed, expected, and never read.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use maypole::handler::{Block, Request, RequestBody};

use crate::scene::{PATIENCE, Scene, answer_path, body_of, finish, ok, pattern, respond, serve};

#[test]
fn pipelined_body_does_not_swallow_the_next_request() {
    let served = serve(&[], |request, responder| {
        if request.head.method() == b"POST" {
            respond(responder, &body_of(request));
        } else {
            answer_path(request, responder);
        }
    });
    let mut client = served.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /next HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().text(), "abc");
    assert_eq!(client.answer().text(), "/next");
}

#[test]
fn request_split_into_single_bytes_is_read() {
    let served = serve(&[], |request, responder| respond(responder, &body_of(request)));
    let mut client = served.client();
    for byte in b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.answer().text(), "abcde");
}

#[test]
fn body_over_the_buffer_arrives_whole() {
    let served = serve(&["--request-buffer", "1KiB"], |request, responder| respond(responder, &body_of(request)));
    let mut client = served.client();
    let body = pattern(300_000);
    client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    assert_eq!(client.answer().body, body);
}

#[test]
fn expectation_is_met_before_the_body() {
    let served = serve(&[], |request, responder| respond(responder, &body_of(request)));
    let mut client = served.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.head().status, 100);
    client.send("abc");
    assert_eq!(client.answer().text(), "abc");
}

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
    let scene = Scene::new(&["--stream-requests", "always"]);
    let (mut client, request, responder) =
        scene.request("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let RequestBody::Streamed(input) = &request.body else { panic!("not streamed") };
    let mut piece = [0; 100];
    assert_eq!(input.read_waiting(&mut piece).unwrap(), 3);
    client.send("2\r\nde\r\n0\r\n\r\n");
    assert_eq!(read_all(&request).unwrap(), b"de");
    respond(responder, b"done");
    assert_eq!(client.answer().text(), "done");
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok");
    let (request, responder) = scene.next();
    assert_eq!(read_all(&request).unwrap(), b"ok");
    respond(responder, b"next");
    assert_eq!(client.answer().text(), "next");
}

#[test]
fn streamed_body_larger_than_the_buffer_arrives_whole() {
    let scene = Scene::new(&["--stream-requests", "always", "--request-buffer", "1KiB"]);
    let mut client = scene.client();
    let body = pattern(2 << 20);
    client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()));
    let mut writer = client.stream.try_clone().unwrap();
    let sent = body.clone();
    let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
    let (request, responder) = scene.next();
    assert!(read_all(&request).unwrap() == body);
    respond(responder, b"done");
    assert_eq!(client.answer().text(), "done");
    writing.join().unwrap();
}

#[test]
fn streamed_body_is_asked_for_on_the_first_read() {
    let scene = Scene::new(&["--stream-requests", "always"]);
    let (mut client, request, responder) =
        scene.request("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
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
    let scene = Scene::new(&["--stream-requests", "always"]);
    let mut client = scene.client();
    for _ in 0..20 {
        client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n");
        let (request, mut responder) = scene.next();
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
    let scene = Scene::new(&["--stream-requests", "always"]);
    let (mut client, request, mut responder) =
        scene.request("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
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
    let scene = Scene::new(&["--stream-requests", "always"]);
    let (mut client, request, mut responder) =
        scene.request("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
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
    respond(scene.next().1, b"next");
    assert_eq!(client.answer().text(), "next");
}

#[test]
fn streamed_body_whose_next_part_never_comes_is_an_error() {
    let scene = Scene::new(&["--stream-requests", "always", "--body-timeout", "200ms"]);
    let (mut client, request, responder) =
        scene.request("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
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
    let scene = Scene::new(&["--stream-requests", "always"]);
    let (_client, request, _responder) = scene.request("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
    let RequestBody::Streamed(input) = &request.body else { panic!("not streamed") };
    assert_eq!(read_all(&request).unwrap(), b"abc");
    assert!(!input.reopen());
}

#[test]
fn streamed_body_left_unread_is_told_by_connection_close() {
    let scene = Scene::new(&["--stream-requests", "always"]);
    let (mut client, _request, responder) =
        scene.request("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n");
    respond(responder, b"no");
    let answer = client.answer();
    assert_eq!(answer.text(), "no");
    assert!(answer.has("Connection: close"));
    client.send(vec![b'x'; 1_000_000]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.assert_closed();
}

#[test]
fn streamed_body_of_some_length_left_unread_is_thrown_away() {
    let scene = Scene::new(&["--stream-requests", "always", "--request-buffer", "1KiB"]);
    let mut client = scene.client();
    for head in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n"));
        respond(scene.next().1, b"no");
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
    respond(scene.next().1, b"next");
    assert_eq!(client.answer().text(), "next");
}

#[test]
fn streamed_body_left_unread_that_never_ends_is_given_up() {
    let scene = Scene::new(&["--stream-requests", "always"]);
    let mut client = scene.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    respond(scene.next().1, b"no");
    assert_eq!(client.answer().text(), "no");
    client.send(b"100000\r\n");
    client.send(vec![b'x'; 1 << 20]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.assert_closed();
}

#[test]
fn streamed_body_left_unread_that_does_not_come_is_given_up() {
    let scene = Scene::new(&["--stream-requests", "always", "--body-timeout", "200ms"]);
    let mut client = scene.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n");
    respond(scene.next().1, b"no");
    assert_eq!(client.answer().text(), "no");
    client.assert_closed();
}

#[test]
fn streamed_body_of_a_client_that_vanishes_is_an_error() {
    let scene = Scene::new(&["--stream-requests", "always"]);
    let (client, request, _responder) = scene.request("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    let reading = thread::spawn(move || read_all(&request));
    drop(client);
    assert!(reading.join().unwrap().is_err());
}

#[test]
fn streamed_body_that_stalls_is_an_error() {
    let scene = Scene::new(&["--stream-requests", "always", "--body-timeout", "200ms"]);
    let (mut client, request, responder) = scene.request("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(read_all(&request).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    drop(responder);
    assert_eq!(client.answer().status, 500);
}
