//! Persistent connections: requests in sequence, idle periods, and the limit of connections.

use std::thread;
use std::time::{Duration, Instant};

use crate::scene::{PATIENCE, Scene, answer_path, serve, wait_until};

#[test]
fn keep_alive_serves_requests_one_after_the_other() {
    let served = serve(&[], answer_path);
    let mut client = served.client();
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
    let mut client = served.client();
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
    let mut client = served.client();
    client.get("/a");
    assert!(client.answer().has("Connection: close"));
    client.assert_closed();
}

#[test]
fn http10_closes_unless_asked_to_keep() {
    let served = serve(&[], answer_path);
    let mut client = served.client();
    client.send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(client.answer().has("Connection: keep-alive"));
    client.send("GET /b HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().text(), "/b");
    client.assert_closed();
}

#[test]
fn pipelined_requests_are_answered_in_order_by_other_threads() {
    let scene = Scene::new(&[]);
    let mut client = scene.client();
    client
        .send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n");
    for path in ["/1", "/2", "/3"] {
        let (request, responder) = scene.next();
        assert_eq!(request.head.path(), path.as_bytes());
        thread::spawn(move || answer_path(request, responder));
        assert_eq!(client.answer().text(), path);
    }
}

#[test]
fn idle_connection_is_closed_after_keep_alive() {
    let served = serve(&["--keep-alive", "300ms"], answer_path);
    let mut client = served.client();
    // The server's time begins with its response, which this thread may read late.
    let began = Instant::now();
    client.get("/a");
    client.answer();
    client.assert_closed();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300) && took < PATIENCE / 2, "{took:?}");
}

#[test]
fn silent_connection_is_closed_without_an_answer() {
    let served = serve(&["--keep-alive", "100ms", "--header-timeout", "300ms"], answer_path);
    served.client().assert_closed();
}

#[test]
fn connection_limit_evicts_the_one_that_rested_longest() {
    let served = serve(&["--max-connections", "2"], answer_path);
    let mut oldest = served.client();
    oldest.get("/a");
    oldest.answer();
    wait_until("they rest", || served.numbers().idle == 1);
    let mut newer = served.client();
    newer.get("/b");
    newer.answer();
    wait_until("they rest", || served.numbers().idle == 2);
    // No client waits for room yet.
    oldest.get("/a");
    assert_eq!(oldest.answer().text(), "/a");
    wait_until("they rest", || served.numbers().idle == 2);
    let mut newest = served.client();
    newest.get("/c");
    assert_eq!(newest.answer().text(), "/c");
    newer.assert_closed();
    oldest.get("/a");
    assert_eq!(oldest.answer().text(), "/a");
}

#[test]
fn connection_limit_of_busy_connections_lets_new_ones_wait() {
    let scene = Scene::new(&["--max-connections", "1"]);
    let (mut busy, request, responder) = scene.get("/busy");
    let mut waiting = scene.client();
    waiting.get("/waiting");
    scene.assert_no_request_for(Duration::from_millis(100));
    assert_eq!(scene.numbers().connections, 1);
    answer_path(request, responder);
    assert_eq!(busy.answer().text(), "/busy");
    scene.answer_next();
    assert_eq!(waiting.answer().text(), "/waiting");
}
