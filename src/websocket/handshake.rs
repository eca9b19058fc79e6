//! The handshake of a WebSocket (RFC 6455 §4.2).
//!
//! *Runs on*: any thread.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::http::{Framing, RequestHead};

/// What a server appends to the client's key (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The length of the key before its encoding, in bytes.
const KEY_BYTES: usize = 16;

/// A client's request for a WebSocket.
#[derive(Debug)]
pub struct Offer {
    /// The reply to the client's key.
    accept: String,
    /// The subprotocols that the client speaks, the one that it prefers first.
    pub subprotocols: Vec<String>,
}

impl Offer {
    /// Reads the request of a client. `None`: it does not ask for a WebSocket, or breaks a rule of RFC 6455 §4.2.1.
    pub fn of(head: &RequestHead) -> Option<Self> {
        if head.method() != b"GET" || !head.asks_for_upgrade() || head.framing() != Framing::None {
            return None;
        }
        let only = |name: &[u8]| {
            let mut values = head.fields().filter(|(known, _)| known.eq_ignore_ascii_case(name));
            let first = values.next().map(|(_, value)| value.trim_ascii());
            if values.next().is_some() { None } else { first }
        };
        let key = only(b"sec-websocket-key")?;
        let is_key = STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == KEY_BYTES);
        if !is_key || only(b"sec-websocket-version")? != b"13" {
            return None;
        }
        if !words(head, b"upgrade").any(|word| word.eq_ignore_ascii_case("websocket")) {
            return None;
        }
        let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
        hash.update(key);
        hash.update(GUID);
        let subprotocols = words(head, b"sec-websocket-protocol").map(str::to_owned).collect();
        Some(Self { accept: STANDARD.encode(hash.finish()), subprotocols })
    }

    /// Returns the response that opens the socket, with one of the client's subprotocols if it is to have one.
    pub fn response(&self, subprotocol: Option<&str>) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n",
            self.accept
        );
        if let Some(subprotocol) = subprotocol {
            head.push_str("Sec-WebSocket-Protocol: ");
            head.push_str(subprotocol);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// Returns the elements of the lists in all fields of a name. Elements that are not ASCII are left out.
fn words<'a>(head: &'a RequestHead, name: &'a [u8]) -> impl Iterator<Item = &'a str> {
    let values = head.fields().filter(move |(known, _)| known.eq_ignore_ascii_case(name));
    let elements = values.flat_map(|(_, value)| value.split(|&byte| byte == b','));
    elements
        .filter_map(|element| std::str::from_utf8(element).ok())
        .map(str::trim)
        .filter(|element| !element.is_empty() && element.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Limits;

    fn offer(fields: &str) -> Option<Offer> {
        let limits = Limits { request_line_bytes_max: 100, fields_max: 19, field_bytes_max: 500, head_bytes_max: 2000 };
        let text = format!("GET /chat HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        Offer::of(&RequestHead::parse(text.as_bytes(), &limits).expect("a valid head"))
    }

    const RIGHT: &str = "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

    #[test]
    fn example_of_the_standard_gets_its_reply() {
        let protocols = "Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Protocol: third\r\n";
        let offer = offer(&format!("{RIGHT}{protocols}")).expect("it is valid");
        assert_eq!(offer.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(offer.subprotocols, ["chat", "superchat", "third"]);
        let response = String::from_utf8(offer.response(Some("chat"))).expect("ASCII");
        assert!(response.ends_with("\r\nSec-WebSocket-Protocol: chat\r\n\r\n"));
    }

    #[test]
    fn request_that_breaks_a_rule_is_no_offer() {
        for (from, to) in [
            ("WebSocket", "h2c"),
            ("keep-alive, Upgrade", "keep-alive"),
            ("Version: 13", "Version: 8"),
            ("Sec-WebSocket-Version: 13\r\n", ""),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="),
            ("Sec-WebSocket-Key", "X"),
            ("Upgrade: WebSocket\r\n", "Upgrade: WebSocket\r\nContent-Length: 5\r\n"),
            ("Upgrade: WebSocket\r\n", "Upgrade: WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
        ] {
            assert!(offer(&RIGHT.replace(from, to)).is_none(), "{from} -> {to}");
        }
        assert!(offer(RIGHT).is_some());
    }
}
