//! A handler decides about a request when its head has arrived.

use maypole::admission::{Admission, Delivery, Terms};
use maypole::handler::RequestBody;

use crate::scene::{Scene, answer_path, body_of, respond, wait_until};

#[test]
fn request_that_needs_no_permit_does_not_wait_for_one() {
    let scene = Scene::admitting(&["--pool-size", "1"], |rules, head, _| {
        let gate = rules.terms(head).gate.filter(|_| head.path() != b"/status");
        Admission::Serve(Terms { gate, ..rules.terms(head) })
    });
    let mut first = scene.client();
    first.get("/first");
    let held = scene.next();
    let mut second = scene.client();
    second.get("/second");
    wait_until("a request waits", || scene.server.summary().0.contains("1 of 1 places") && waits(&scene.served));
    let mut status = scene.client();
    for _ in 0..2 {
        scene.assert_serves(&mut status, "/status");
        // No permit has come free.
        scene.assert_no_request();
    }
    // The next request of that connection needs a permit again, and waits behind the second one.
    status.get("/third");
    let (request, responder) = held;
    answer_path(request, responder);
    assert_eq!(first.answer().text(), "/first");
    for (client, path) in [(&mut second, "/second"), (&mut status, "/third")] {
        scene.answer_next();
        assert_eq!(client.answer().text(), path);
    }
    wait_until("all permits are free", || scene.server.summary().0.contains("0 of 1 places"));
}

fn waits(served: &crate::scene::Served) -> bool {
    served.server.summary().0.contains("1 request waiting for one")
}

#[test]
fn body_above_the_length_of_its_handler_is_refused_unread() {
    let scene = Scene::admitting(&["--max-body-size", "1KiB"], |rules, head, _| {
        let body_bytes_max = if head.path() == b"/large" { 4096 } else { 10 };
        Admission::Serve(Terms { body_bytes_max, ..rules.terms(head) })
    });
    let post = |path: &str, framing: &str| {
        let mut client = scene.client();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
        client
    };
    let mut declared = post("/small", "Expect: 100-continue\r\nContent-Length: 11");
    assert_eq!(declared.head().status, 413, "and no 100 before it");
    let mut chunked = post("/small", "Transfer-Encoding: chunked");
    chunked.send("b\r\n");
    assert_eq!(chunked.head().status, 413);
    scene.assert_no_request();
    // A handler may also allow more than the setting.
    let mut large = post("/large", "Content-Length: 4096");
    large.send([b'x'; 4096]);
    let (request, responder) = scene.next();
    assert_eq!(body_of(request).len(), 4096);
    respond(responder, b"ok");
    assert_eq!(large.answer().text(), "ok");
}

#[test]
fn refusal_of_a_handler_comes_before_the_body_and_without_a_permit() {
    let scene = Scene::admitting(&["--pool-size", "1"], |rules, head, _| match head.method() {
        b"POST" => Admission::Refuse { status: 405, why: "this resource takes no POST" },
        _ => Admission::Serve(rules.terms(head)),
    });
    let (mut first, request, responder) = scene.get("/first");
    let mut refused = scene.client();
    refused.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let answer = refused.answer();
    assert_eq!((answer.status, answer.text()), (405, "405 Method Not Allowed\n"));
    assert!(answer.has("Connection: close"));
    refused.assert_closed();
    // The handler is not called.
    scene.assert_no_request();
    answer_path(request, responder);
    assert_eq!(first.answer().text(), "/first");
}

#[test]
fn handler_chooses_how_it_gets_each_body() {
    let scene = Scene::admitting(&[], |rules, head, _| {
        let delivery = if head.path() == b"/stream" { Delivery::Stream } else { Delivery::Buffer };
        Admission::Serve(Terms { delivery, ..rules.terms(head) })
    });
    let (mut client, request, responder) =
        scene.request("POST /stream HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
    let RequestBody::Streamed(input) = request.body else { panic!("the body is streamed") };
    client.send("hello");
    let mut buffer = [0; 5];
    assert_eq!(input.read_waiting(&mut buffer).unwrap(), 5);
    assert_eq!(&buffer, b"hello");
    respond(responder, b"read");
    assert_eq!(client.answer().text(), "read");
    client.send("POST /buffer HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
    client.send("world");
    let (request, responder) = scene.next();
    assert_eq!(body_of(request), b"world");
    respond(responder, b"whole");
    assert_eq!(client.answer().text(), "whole");
}
