//! Responses without sockets: output of the handler, and the bytes to send.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::http::Limits;
use crate::spool::Storage;

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// A response whose handler is the test.
struct Scene {
    response: Response,
    record: AccessRecord,
    closes: bool,
    speaks_http10: bool,
}

fn request(line: &str) -> Scene {
    let limits = Limits { request_line_bytes_max: 100, fields_max: 1, field_bytes_max: 100, head_bytes_max: 200 };
    let head = RequestHead::parse(format!("{line}\r\nHost: a\r\n\r\n").as_bytes(), &limits).unwrap();
    Scene {
        response: Response::new(&head, SendQueue::default()),
        record: AccessRecord::default(),
        closes: false,
        speaks_http10: false,
    }
}

fn head(status: &[u8], fields: &[(&[u8], &[u8])]) -> ResponseHead {
    let mut head = ResponseHead::new(status).unwrap();
    for (name, value) in fields {
        head.push_field(name, value).unwrap();
    }
    head
}

/// Returns a handler's output: a head, and blocks of a body.
fn output(head: impl Into<Option<ResponseHead>>, blocks: &[&str], end: Option<End>) -> Outbox {
    let head = head.into();
    let blocks = blocks.iter().map(|block| Block::Owned(block.as_bytes().to_vec())).collect();
    Outbox { head, blocks, end, ..Outbox::default() }
}

impl Scene {
    /// Takes this output. Returns the bytes to send, without the Date.
    fn take(&mut self, mut outbox: Outbox) -> String {
        let (closes, speaks_http10) = (self.closes, self.speaks_http10);
        let context =
            || Context { date: *DATE, server: None, request_id: None, closes, speaks_http10, logs_head: true };
        self.response.take(&mut outbox, &mut self.record, context);
        assert!(outbox.blocks.is_empty(), "every block is taken");
        self.sent()
    }

    /// Returns the bytes to send, and counts them as sent.
    fn sent(&mut self) -> String {
        self.response.queue.drop_all().replace("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "")
    }
}

#[test]
fn blocks_of_a_known_length_get_a_content_length() {
    let mut scene = request("GET / HTTP/1.1");
    let outbox = Outbox { body_bytes: Some(5), ..output(head(b"200 OK", &[]), &["he", "llo"], Some(End::Complete)) };
    assert_eq!(scene.take(outbox), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(scene.response.ending(), Some(Ending::Complete));
    assert_eq!((scene.response.persistence(), scene.record.status), (Persistence::KeepAlive, 200));
    assert!(scene.record.head.ends_with(b"Content-Length: 5\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n"));
}

#[test]
fn head_waits_for_the_first_block() {
    let mut scene = request("GET / HTTP/1.1");
    assert_eq!(scene.take(output(head(b"200 OK", &[]), &[], None)), "");
    assert!(!scene.response.has_begun() && scene.response.may_continue() && !scene.response.may_be_taken_over());
    assert_eq!(
        scene.take(output(None, &["a"], None)),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    );
    assert!(scene.response.has_begun() && scene.response.ending().is_none());
}

#[test]
fn blocks_of_unknown_length_are_chunks_and_empty_ones_are_dropped() {
    let mut scene = request("GET / HTTP/1.1");
    let begin = scene.take(output(head(b"200 OK", &[]), &["", "0123456789abcdef"], None));
    assert_eq!(begin, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n");
    assert_eq!(scene.take(output(None, &["", "x"], Some(End::Complete))), "1\r\nx\r\n0\r\n\r\n");
    assert_eq!(scene.response.persistence(), Persistence::KeepAlive);
}

#[test]
fn body_of_a_head_request_is_dropped() {
    let mut scene = request("HEAD / HTTP/1.1");
    let outbox = output(head(b"200 OK", &[(b"Content-Length", b"5")]), &["hello"], Some(End::Complete));
    assert_eq!(scene.take(outbox), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(scene.response.ending(), Some(Ending::Complete));
    assert_eq!(scene.response.queue.body_bytes, 0);
}

#[test]
fn status_without_a_body_drops_the_blocks() {
    for status in ["204 No Content", "304 Not Modified"] {
        let mut scene = request("GET / HTTP/1.1");
        let sent = scene.take(output(head(status.as_bytes(), &[]), &["hello"], Some(End::Complete)));
        assert_eq!(sent, format!("HTTP/1.1 {status}\r\n\r\n"));
        assert_eq!(scene.response.ending(), Some(Ending::Complete));
    }
}

#[test]
fn failure_before_the_head_becomes_a_500() {
    let mut scene = request("GET / HTTP/1.1");
    let sent = scene.take(output(None, &[], Some(End::Failed)));
    assert!(sent.starts_with("HTTP/1.1 500 Internal Server Error\r\n"), "{sent}");
    assert!(sent.ends_with("Connection: close\r\n\r\n500 Internal Server Error\n"), "{sent}");
    assert_eq!((scene.response.ending(), scene.record.status), (Some(Ending::Complete), 500));
    assert_eq!(scene.response.persistence(), Persistence::Close);
}

#[test]
fn failure_after_the_head_leaves_the_body_without_its_end() {
    let mut scene = request("GET / HTTP/1.1");
    let sent = scene.take(output(head(b"200 OK", &[]), &["a"], Some(End::Failed)));
    assert!(sent.ends_with("1\r\na\r\n"), "{sent}");
    assert_eq!(scene.response.ending(), Some(Ending::Failed));
    assert!(!scene.response.ends_by_close(), "the client misses the last chunk");
}

#[test]
fn body_of_an_http10_response_ends_by_the_close() {
    for (line, speaks_http10) in [("GET / HTTP/1.0", false), ("GET / HTTP/1.0", true)] {
        let mut scene = Scene { speaks_http10, ..request(line) };
        let version = if speaks_http10 { "1.0" } else { "1.1" };
        let sent = scene.take(output(head(b"200 OK", &[]), &["a"], None));
        assert_eq!(sent, format!("HTTP/{version} 200 OK\r\nConnection: close\r\n\r\na"));
        assert!(scene.response.ends_by_close());
        assert_eq!(scene.take(output(None, &[], Some(End::Failed))), "");
        assert!(scene.response.ends_by_close(), "the connection must be reset");
    }
}

#[test]
fn body_shorter_than_its_content_length_is_no_complete_one() {
    let mut scene = request("GET / HTTP/1.1");
    let outbox = output(head(b"200 OK", &[(b"Content-Length", b"5")]), &["hell"], Some(End::Complete));
    assert_eq!(scene.take(outbox), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell");
    assert_eq!(scene.response.ending(), Some(Ending::Short));
}

#[test]
fn bytes_beyond_the_content_length_are_dropped() {
    let mut scene = request("GET / HTTP/1.1");
    let outbox = output(head(b"200 OK", &[(b"Content-Length", b"5")]), &["hel", "lo!", "?"], Some(End::Complete));
    assert_eq!(scene.take(outbox), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!((scene.response.ending(), scene.response.queue.body_bytes), (Some(Ending::Complete), 5));
}

#[test]
fn part_of_the_spool_file_is_framed_and_what_exceeds_the_length_counts_as_sent() {
    let storage = Storage::open(&std::env::temp_dir(), true, Some(1 << 20)).unwrap();
    let file = Arc::new(storage.store(b"hello, world").unwrap());
    let mut scene = request("GET / HTTP/1.1");
    let outbox = Outbox { spooled: true, ..output(head(b"200 OK", &[]), &[], None) };
    assert_eq!(scene.take(outbox), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    scene.response.take_spooled(Arc::clone(&file), 7, 5);
    assert_eq!(scene.sent(), "5\r\n[7+5]\r\n");

    let mut scene = request("GET / HTTP/1.1");
    scene.take(output(head(b"200 OK", &[(b"Content-Length", b"5")]), &["hel"], None));
    scene.response.take_spooled(Arc::clone(&file), 0, 12);
    assert_eq!((scene.sent().as_str(), scene.response.queue.spooled_sent), ("[0+2]", 0));
    scene.response.take_spooled(file, 2, 10);
    assert_eq!((scene.sent().as_str(), scene.response.queue.spooled_sent), ("", 10));
}

#[test]
fn interim_response_precedes_the_head_and_never_follows_it() {
    let interim = b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec();
    let mut scene = request("GET / HTTP/1.1");
    let hints = Outbox { interim: interim.clone(), ..Outbox::default() };
    assert_eq!(scene.take(hints), "HTTP/1.1 103 Early Hints\r\n\r\n");
    assert!(!scene.response.has_begun());
    scene.take(output(head(b"200 OK", &[]), &["a"], None));
    assert_eq!(scene.take(Outbox { interim, ..output(None, &["b"], None) }), "1\r\nb\r\n");
}

#[test]
fn response_says_that_the_connection_closes() {
    let mut scene = Scene { closes: true, ..request("GET / HTTP/1.1") };
    let outbox = Outbox { body_bytes: Some(0), ..output(head(b"200 OK", &[]), &[], Some(End::Complete)) };
    assert_eq!(scene.take(outbox), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(scene.response.persistence(), Persistence::Close);

    let mut scene = request("GET / HTTP/1.1");
    scene.response.close();
    assert!(scene.take(output(head(b"200 OK", &[]), &["a"], None)).contains("\r\nConnection: close\r\n"));
}

#[test]
fn request_that_no_thread_began_gets_nothing() {
    let mut scene = request("GET / HTTP/1.1");
    assert_eq!(scene.take(output(None, &[], Some(End::Late))), "");
    assert_eq!((scene.response.ending(), scene.record.status), (Some(Ending::Late), 0));
}

#[test]
fn connection_can_be_taken_over_until_the_head_has_come() {
    let mut scene = request("GET / HTTP/1.1");
    assert!(scene.response.may_be_taken_over());
    scene.response.promise_takeover();
    assert!(scene.response.is_takeover());
    scene.response.forget_takeover();
    assert!(!scene.response.is_takeover() && scene.response.may_be_taken_over());
    scene.take(output(head(b"200 OK", &[]), &[], None));
    assert!(!scene.response.may_be_taken_over());
}
