//! Requests that wait for a permit of the pool.

use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::scene::{Scene, answer_path, ok, pattern};
use crate::slow_readers::stream_blocks;

#[test]
fn queue_timeout_is_a_503_with_retry_after() {
    let scene = Scene::new(&["--pool-size", "1", "--queue-timeout", "200ms"]);
    let (mut first, request, responder) = scene.get("/first");
    let mut second = scene.client();
    second.get("/second");
    let answer = second.answer();
    assert_eq!(answer.status, 503);
    assert!(answer.has("Retry-After: 1"));
    answer_path(request, responder);
    assert_eq!(first.answer().text(), "/first");
}

#[test]
fn queue_goes_on_when_a_permit_comes_back() {
    let scene = Scene::new(&["--pool-size", "1"]);
    let mut clients: Vec<_> = (0..4).map(|_| scene.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.get(&format!("/{number}"));
    }
    for _ in 0..4 {
        let (request, responder) = scene.next();
        // There is one permit.
        scene.assert_no_request();
        answer_path(request, responder);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.answer().text(), format!("/{number}"));
    }
}

#[test]
fn client_that_vanishes_in_the_queue_leaves_its_place_to_the_next() {
    let scene = Scene::new(&["--pool-size", "1"]);
    let (_first, request, responder) = scene.get("/first");
    let mut gone = scene.client();
    gone.get("/gone");
    let mut last = scene.client();
    last.get("/last");
    thread::sleep(Duration::from_millis(50));
    SockRef::from(&gone.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(gone);
    answer_path(request, responder);
    let (request, responder) = scene.next();
    assert_eq!(request.head.path(), b"/last");
    answer_path(request, responder);
    assert_eq!(last.answer().text(), "/last");
}

#[test]
fn permit_is_free_before_the_client_has_read() {
    let scene = Scene::new(&["--pool-size", "1"]);
    let mut slow = scene.narrow_client();
    slow.get("/slow");
    let content = pattern(16 << 20);
    let (_, running) = stream_blocks(scene.next(), ok(), content.clone(), 100_000);
    running.join().unwrap().unwrap();
    let (mut other, request, responder) = scene.get("/other");
    answer_path(request, responder);
    assert_eq!(other.answer().text(), "/other");
    assert!(slow.answer().body == content);
}
