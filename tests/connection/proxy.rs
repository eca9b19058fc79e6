//! Connections that begin with a PROXY header.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use crate::scene::{Served, answer_path, respond, serve};

/// Starts a server that responds with the address that it has for the client.
fn serve_proxied(options: &[&str]) -> Served {
    let options = [&["--proxy-protocol", "auto"], options].concat();
    serve(&options, |request, responder| respond(responder, request.origin.client_name().as_bytes()))
}

const PROXY_V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";

const PROXY_V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x01\xbb\x04\x00\x04skip";

const PROXIED: &str = "192.0.2.7:4711";

#[test]
fn proxy_header_names_the_client_of_all_requests() {
    let served = serve_proxied(&[]);
    for header in [PROXY_V1, PROXY_V2] {
        let mut client = served.client();
        // Two requests in one piece, then one after a pause.
        client.send([header, &b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n".repeat(2)].concat());
        assert_eq!(client.answer().text(), PROXIED);
        assert_eq!(client.answer().text(), PROXIED);
        thread::sleep(Duration::from_millis(150));
        client.get("/b");
        assert_eq!(client.answer().text(), PROXIED);
        // A second header is refused: only the first bytes of a connection can be one.
        client.send(header);
        client.get("/c");
        assert_eq!(client.answer().status, 400);
        client.assert_closed();
    }
}

#[test]
fn proxy_header_without_an_address_leaves_the_real_one() {
    let served = serve_proxied(&[]);
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"] {
        let mut client = served.client();
        client.send(header);
        client.get("/");
        assert_eq!(client.answer().text(), client.stream.local_addr().unwrap().to_string());
    }
}

#[test]
fn proxy_header_that_drips_is_read_to_its_end() {
    let served = serve_proxied(&[]);
    for header in [PROXY_V1, PROXY_V2] {
        let mut client = served.client();
        for byte in header {
            thread::sleep(Duration::from_millis(2));
            client.send([*byte]);
        }
        client.get("/");
        assert_eq!(client.answer().text(), PROXIED);
    }
}

#[test]
fn proxy_header_around_rests_is_read_to_its_end() {
    let served = serve_proxied(&["--header-timeout", "4s"]);
    let pieces = |header: &'static [u8]| [&header[..7], &header[7..], b"GET / HTT", b"P/1.1\r\nHost: h\r\n\r\n"];
    let mut clients = [(served.client(), pieces(PROXY_V1)), (served.client(), pieces(PROXY_V2))];
    for number in 0..4 {
        // Longer than the connection keeps its coroutine. The header and the head each have their own time limit.
        thread::sleep(Duration::from_millis(1500));
        for (client, pieces) in &mut clients {
            client.send(pieces[number]);
        }
    }
    for (client, _) in &mut clients {
        assert_eq!(client.answer().text(), PROXIED);
    }
}

#[test]
fn proxy_header_that_does_not_end_expires_with_408() {
    let served = serve_proxied(&["--header-timeout", "300ms"]);
    for header in [PROXY_V1, PROXY_V2] {
        let mut client = served.client();
        client.send(&header[..header.len() - 1]);
        assert_eq!(client.answer().status, 408);
        client.assert_closed();
    }
}

#[test]
fn proxy_header_that_is_cut_off_is_a_400() {
    let served = serve_proxied(&[]);
    let mut client = served.client();
    client.send(&PROXY_V2[..20]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer().status, 400);
}

#[test]
fn proxy_that_says_nothing_more_is_closed_without_an_answer() {
    let served = serve_proxied(&["--keep-alive", "100ms", "--header-timeout", "300ms"]);
    for opening in [&b""[..], PROXY_V1, PROXY_V2] {
        let mut client = served.client();
        client.send(opening);
        client.assert_closed();
    }
}

#[test]
fn connection_without_its_proxy_header_is_refused() {
    let request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let long = b"x".repeat(300 * 1024);
    let malformed = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n";
    for (option, opening) in [
        ("auto", &request[..]),
        ("auto", &malformed[..]),
        ("auto", &long),
        ("v1", PROXY_V2),
        ("v2", PROXY_V1),
        ("off", PROXY_V1),
        ("off", PROXY_V2),
    ] {
        let served = serve(&["--proxy-protocol", option], answer_path);
        let mut client = served.client();
        client.send([opening, request].concat());
        assert_eq!(client.answer().status, 400, "{option}");
        client.assert_closed();
    }
}

#[test]
fn connection_from_elsewhere_than_a_proxy_is_refused() {
    for allowed in ["192.0.2.0/24", "::1", "127.0.0.2,10.0.0.0/8"] {
        let served = serve_proxied(&["--proxy-allow-from", allowed]);
        for opening in [PROXY_V1, PROXY_V2, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"x"] {
            let mut client = served.client();
            client.send(opening);
            assert_eq!(client.answer().status, 403);
            client.assert_closed();
        }
    }
    for allowed in ["*", "127.0.0.1", "10.0.0.0/8,127.0.0.0/8"] {
        let served = serve_proxied(&["--proxy-allow-from", allowed]);
        let mut client = served.client();
        client.send(PROXY_V1);
        client.get("/");
        assert_eq!(client.answer().text(), PROXIED);
    }
}
