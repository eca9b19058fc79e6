//! Responses on the wire: heads, lengths, chunks, interim responses, and responses that break off.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use maypole::handler::Block;

use crate::scene::{PATIENCE, Scene, answer_path, body_of, finish, ok, pattern, respond, serve};

#[test]
fn head_request_gets_the_length_and_no_body() {
    let served = serve(&[], answer_path);
    let mut client = served.client();
    client.send("HEAD /abc HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(client.head().has("Content-Length: 4"));
    client.get("/next");
    assert_eq!(client.answer().text(), "/next");
}

#[test]
fn streamed_blocks_are_chunked_and_leave_at_once() {
    let scene = Scene::new(&[]);
    let (mut client, _request, mut responder) = scene.get("/");
    responder.head(ok(), None);
    responder.send(Block::Owned(b"one".to_vec())).unwrap();
    assert!(client.head().has("Transfer-Encoding: chunked"));
    assert_eq!(client.until(b"one\r\n"), b"3\r\none\r\n");
    responder.send(Block::Owned(b"twotwo".to_vec())).unwrap();
    assert_eq!(client.until(b"two\r\n"), b"6\r\ntwotwo\r\n");
    finish(responder);
    assert_eq!(client.until(b"\r\n\r\n"), b"0\r\n\r\n");
    scene.assert_serves(&mut client, "/next");
}

#[test]
fn streamed_blocks_to_http10_end_with_the_connection() {
    let scene = Scene::new(&[]);
    let (mut client, _request, mut responder) = scene.request("GET / HTTP/1.0\r\n\r\n");
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
        let mut client = served.client();
        client.send(request.repeat(2));
        let answer = client.head();
        assert!(answer.head.starts_with("HTTP/1.0 ") && answer.has("Connection: close"), "{}", answer.head);
        assert!(!answer.has("Transfer-Encoding: chunked"));
        // There is one response, and then the connection ends.
        assert_eq!((answer.status, String::from_utf8(client.rest()).unwrap().as_str()), (status, body), "{request}");
    }
    // A client that waits for `100 Continue` does not get it.
    let mut client = served.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(client.stream.read(&mut [0; 10]).is_err());
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send("abc");
    assert_eq!(client.answer().text(), "abc");
}

#[test]
fn interim_response_goes_before_the_head() {
    let scene = Scene::new(&[]);
    let (mut client, request, mut responder) = scene.get("/");
    responder.interim(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").unwrap();
    assert_eq!(client.head().status, 103);
    answer_path(request, responder);
    assert_eq!(client.answer().status, 200);
}

#[test]
fn responder_dropped_before_the_head_is_a_500() {
    let scene = Scene::new(&["--pool-size", "1"]);
    let mut client = scene.client();
    client.get("/");
    drop(scene.next());
    assert_eq!(client.answer().status, 500);
    client.assert_closed();
    // The place in the pool is free again.
    let (mut client, request, responder) = scene.get("/next");
    answer_path(request, responder);
    assert_eq!(client.answer().text(), "/next");
}

#[test]
fn responder_dropped_after_a_block_cuts_the_chunked_body() {
    let scene = Scene::new(&[]);
    let (mut client, _request, mut responder) = scene.get("/");
    responder.head(ok(), None);
    responder.send(Block::Owned(b"one".to_vec())).unwrap();
    drop(responder);
    client.head();
    assert_eq!(client.rest(), b"3\r\none\r\n");
}

#[test]
fn responder_dropped_after_a_block_resets_a_body_that_ends_by_closing() {
    let scene = Scene::new(&[]);
    let (mut client, _request, mut responder) = scene.request("GET / HTTP/1.0\r\n\r\n");
    responder.head(ok(), None);
    responder.send(Block::Owned(b"one".to_vec())).unwrap();
    client.until(b"one");
    drop(responder);
    let error = client.stream.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn response_shorter_than_its_length_closes_the_connection() {
    let scene = Scene::new(&[]);
    let (mut client, _request, mut responder) = scene.get("/");
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
    let scene = Scene::new(&[]);
    let (mut client, _request, mut responder) = scene.get("/");
    let content = pattern(200_000);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    responder.head(ok(), None);
    responder.send(Block::Owned(b"<".to_vec())).unwrap();
    responder.send(Block::File { file: Arc::new(file.into()), offset: 8, bytes: 199_000 }).unwrap();
    responder.send(Block::Owned(b">".to_vec())).unwrap();
    finish(responder);
    let body = client.answer().body;
    assert!(body == [b"<", &content[8..199_008], b">"].concat());
}
