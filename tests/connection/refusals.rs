//! Requests that are refused: malformed, too large, cut short.

use std::net::Shutdown;

use crate::scene::{answer_path, serve};

#[test]
fn malformed_request_is_answered_although_more_is_being_sent() {
    let served = serve(&[], answer_path);
    let mut client = served.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\nBad Field: x\r\n\r\n");
    client.send(vec![b'x'; 2 << 20]);
    let answer = client.answer();
    assert_eq!(answer.status, 400);
    assert!(answer.has("Connection: close"));
    client.assert_closed();
}

#[test]
fn head_over_its_limit_is_a_431_wherever_that_is() {
    let head = |fields: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: 123456789012\r\n".repeat(fields));
    let limit = head(100).len();
    let served = serve(&["--limit-request-fields", "9999", "--limit-request-head", &limit.to_string()], answer_path);
    let large = serve(&["--limit-request-fields", "9999", "--limit-request-head", "1MiB"], answer_path);
    for (served, fields, status) in [(&served, 100, 200), (&served, 101, 431), (&large, 9998, 200)] {
        let mut client = served.client();
        client.send(head(fields));
        assert_eq!(client.answer().status, status, "{fields} fields");
    }
}

#[test]
fn body_too_large_is_refused_before_it_is_sent() {
    let served = serve(&["--max-body-size", "1000", "--request-buffer", "1000"], answer_path);
    let mut client = served.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n");
    assert_eq!(client.answer().status, 413);
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.assert_closed();
}

#[test]
fn body_too_large_is_refused_although_it_is_being_sent() {
    let served = serve(&["--max-body-size", "1000", "--request-buffer", "1000"], answer_path);
    let mut client = served.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n");
    client.send(vec![b'x'; 0x0020_0000]);
    assert_eq!(client.answer().status, 413);
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.assert_closed();
}

#[test]
fn body_that_ends_early_is_a_400() {
    let served = serve(&[], answer_path);
    let mut client = served.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer().status, 400);
}
