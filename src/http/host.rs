//! `uri-host [ ":" port ]`: the value of `Host`, and the authority of an absolute request target
//! (RFC 9112 §3.2, RFC 9110 §7.2, RFC 3986 §3.2.2; the zone of an IPv6 address: RFC 6874 §2, RFC 4007 §11).

use std::net::Ipv6Addr;

use super::chars::{is_reg_name, is_reg_name_byte, is_unreserved};
use super::find::find;

/// Returns whether `value` is a host with an optional port. User information, white space, a path, and an empty host
/// before a port are not valid. An empty value is valid: such a `Host` means that the target has no authority.
pub fn is_valid(value: &[u8]) -> bool {
    if value.is_empty() {
        return true;
    }
    if let [b'[', rest @ ..] = value {
        let Some(end) = memchr::memchr(b']', rest) else { return false };
        let (address, after) =
            (rest.get(..end).unwrap_or_default(), rest.get(end.saturating_add(1)..).unwrap_or_default());
        return is_ipv6_with_zone(address)
            && match after {
                [] => true,
                [b':', port @ ..] => is_port(port),
                _ => false,
            };
    }
    match find(b':', value) {
        None => is_name(value),
        Some(colon) => {
            let (name, port) = (value.get(..colon), value.get(colon.saturating_add(1)..));
            name.is_some_and(is_name) && port.is_some_and(is_port)
        }
    }
}

/// Accepts a non-empty registered name or IPv4 address. The grammar of registered names includes IPv4 addresses.
fn is_name(name: &[u8]) -> bool {
    // Most names have only these bytes.
    if is_reg_name(name) {
        return !name.is_empty();
    }
    let mut rest = name;
    loop {
        let plain = rest.iter().take_while(|&&byte| is_reg_name_byte(byte)).count();
        rest = match rest.get(plain..).unwrap_or_default() {
            [] => return !name.is_empty(),
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            _ => return false,
        }
    }
}

/// Accepts an IPv6 address with an optional zone after `%25` (RFC 6874), or after a plain `%` (RFC 4007), which some
/// clients send.
fn is_ipv6_with_zone(address: &[u8]) -> bool {
    let Some(at) = memchr::memchr(b'%', address) else { return is_ipv6(address) };
    let (address, zone) = (address.get(..at).unwrap_or_default(), address.get(at.saturating_add(1)..));
    is_ipv6(address) && zone.is_some_and(is_zone)
}

/// Accepts `1*( unreserved / pct-encoded )` (RFC 6874 §2). `zone` may begin with the `25` of the percent sign before
/// it.
fn is_zone(zone: &[u8]) -> bool {
    let mut rest = match zone {
        [b'2', b'5', zone @ ..] if !zone.is_empty() => zone,
        zone => zone,
    };
    if rest.is_empty() {
        return false;
    }
    loop {
        rest = match rest {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if is_unreserved(*byte) => rest,
            _ => return false,
        }
    }
}

fn is_ipv6(address: &[u8]) -> bool {
    str::from_utf8(address).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// Accepts `*DIGIT` (RFC 3986 §3.2.3) up to the highest port number.
fn is_port(port: &[u8]) -> bool {
    port.iter()
        .try_fold(0_u16, |value, &byte| {
            let digit = byte.is_ascii_digit().then(|| u16::from(byte.wrapping_sub(b'0')))?;
            value.checked_mul(10)?.checked_add(digit)
        })
        .is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_of_the_grammar_accepted() {
        for value in [
            "",
            "h",
            "example.com",
            "EXAMPLE.com:80",
            "a:",
            "a_b",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "[::1]:",
            "[::ffff:1.2.3.4]:65535",
            "[fe80::1%eth0]",
            "[fe80::1%eth0]:8000",
            "[fe80::1%25eth0]:8000",
            "[fe80::1%2]",
            "[fe80::1%25]",
            "[fe80::1%252]",
            "[fe80::1%wlan-0.7_~]",
            "[fe80::1%25eth%2E7]",
            "xn--bcher-kva.example",
            "a%41b",
            "a:65535",
            "h.",
        ] {
            assert!(is_valid(value.as_bytes()), "{value:?}");
        }
    }

    #[test]
    fn host_outside_the_grammar_refused() {
        for value in [
            " ",
            "a b",
            "a\tb",
            "a/b",
            "u@a",
            "u:p@a",
            "a:8x",
            "a:65536",
            "a:99999999999",
            "a:80:80",
            ":80",
            ":",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]80",
            "[]",
            "[g::1]",
            "[127.0.0.1]",
            "[fe80::1%]",
            "[fe80::1%]:80",
            "[fe80::1%eth 0]",
            "[fe80::1%eth\t0]",
            "[fe80::1%eth\x000]",
            "[fe80::1%eth[0]",
            "[fe80::1%eth]0]",
            "[fe80::1%eth0",
            "[fe80::1%eth0%]",
            "[fe80::1%25%zz]",
            "[fe80::1%eth/0]",
            "[fe80::1%eth@0]",
            "[fe80::1%eth:0]",
            "[fe80::1%\u{e9}]",
            "[%eth0]",
            "[127.0.0.1%eth0]",
            "fe80::1%eth0",
            "[v1.a]",
            "a?b",
            "a#b",
            "a\\b",
            "a%4",
            "a%zz",
            "a\"b",
            "<a>",
            "a,b c",
            "a\x7f",
            "\u{e9}",
            "a[b]",
            "a:+80",
            "a: 80",
        ] {
            assert!(!is_valid(value.as_bytes()), "{value:?}");
        }
    }
}
