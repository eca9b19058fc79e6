//! The addresses of clients and proxies in fields (RFC 7239 §6; the forms that proxies write into `X-Forwarded-For`).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A node of a chain of proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    /// An address. The port is 0 if the proxy does not name one.
    Address(SocketAddr),
    /// `unknown`, or a name that hides the address (RFC 7239 §6.3).
    Unknown,
}

/// Reads `1.2.3.4`, `1.2.3.4:80`, `[::1]`, `[::1]:80`, `::1`, `unknown` or `_name`. Returns `None` for everything else.
pub(super) fn node(text: &[u8]) -> Option<Node> {
    let text = str::from_utf8(text).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let port = if rest.is_empty() { 0 } else { port(rest.strip_prefix(':')?)? };
        return Some(address_of(IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), port));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address_of(address, 0));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, text)) => (name, port(text)?),
        None => (text, 0),
    };
    if name.eq_ignore_ascii_case("unknown") || is_obfuscated(name) {
        return Some(Node::Unknown);
    }
    Some(address_of(IpAddr::V4(name.parse().ok()?), port))
}

fn address_of(address: IpAddr, port: u16) -> Node {
    Node::Address(SocketAddr::new(address.to_canonical(), port))
}

/// Reads a port, or a name that hides it, which counts as 0 (RFC 7239 §6: `node-port`).
fn port(text: &str) -> Option<u16> {
    if is_obfuscated(text) {
        return Some(0);
    }
    let is_number = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Returns whether the text is `"_" 1*(ALPHA / DIGIT / "." / "_" / "-")` (RFC 7239 §6.3).
fn is_obfuscated(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    text.strip_prefix('_').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(is_allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read() {
        for (text, address) in [
            ("1.2.3.4", "1.2.3.4:0"),
            ("1.2.3.4:80", "1.2.3.4:80"),
            ("1.2.3.4:_hidden", "1.2.3.4:0"),
            ("2001:db8::1", "[2001:db8::1]:0"),
            ("[2001:db8::1]", "[2001:db8::1]:0"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("::ffff:1.2.3.4", "1.2.3.4:0"),
        ] {
            assert_eq!(node(text.as_bytes()), Some(Node::Address(address.parse().unwrap())), "{text}");
        }
        for text in ["unknown", "UNKNOWN", "unknown:80", "_gazonk", "_a.b-c_d:_x"] {
            assert_eq!(node(text.as_bytes()), Some(Node::Unknown), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            " ",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.400",
            "01.2.3.4",
            "1.2.3.4:",
            "1.2.3.4:x",
            "1.2.3.4:65536",
            "1.2.3.4:+80",
            "[::1",
            "::1]",
            "[::1]80",
            "[::1]:",
            "[1.2.3.4]",
            "[::1%eth0]",
            "localhost",
            "_",
            "_a b",
            "\"1.2.3.4\"",
            "1.2.3.4;",
            "1.2.3.4 ",
            "\u{e9}",
        ] {
            assert_eq!(node(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(node(b"\xff"), None);
    }
}
