//! Requests that wait for a permit of the pool.

use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::scene::{Client, answer_path, ok, pattern, receive, serve_by_hand};
use crate::slow_readers::stream_blocks;

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
