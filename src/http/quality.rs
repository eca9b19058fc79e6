//! What a client accepts, and how gladly: fields such as `Accept-Encoding` (RFC 9110 §12.4.2).
//!
//! *Runs on*: the connection's coroutine.

use super::RequestHead;
use super::chars::{decimal, list, trim_white_space};

/// Returns how gladly the client takes `what`, from 0 (not at all) to 1000: the weight in a field that lists names. A
/// name that is not listed has the weight of `*`, or 0. A malformed weight counts as 0.
pub fn quality_of(head: &RequestHead, field: &[u8], what: &[u8]) -> u16 {
    let lines = head.fields().filter(|(name, _)| name.eq_ignore_ascii_case(field)).map(|(_, value)| value);
    let (mut named, mut others) = (None, None);
    for item in lines.flat_map(list) {
        let mut parts = item.split(|byte| *byte == b';').map(trim_white_space);
        let name = parts.next().unwrap_or_default();
        let weight = parts.next().map_or(Some(1000), weight_of).unwrap_or(0);
        if name.eq_ignore_ascii_case(what) {
            named.get_or_insert(weight);
        } else if name == b"*" {
            others.get_or_insert(weight);
        }
    }
    named.or(others).unwrap_or(0)
}

/// Reads a weight such as `q=0.25`.
fn weight_of(text: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', digits @ ..] = text else { return None };
    let (whole, fraction) = match digits {
        [whole, b'.', fraction @ ..] => (whole, fraction),
        [whole] => (whole, &[][..]),
        _ => return None,
    };
    if fraction.len() > 3 {
        return None;
    }
    // `5` counts as `500`.
    let digits: Vec<u8> = fraction.iter().chain(b"000").take(3).copied().collect();
    let thousandths = decimal(&digits).ok().and_then(|number| u16::try_from(number).ok())?;
    match (whole, thousandths) {
        (b'0', _) => Some(thousandths),
        (b'1', 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::http::Limits;

    const LIMITS: Limits =
        Limits { request_line_bytes_max: 100, fields_max: 9, field_bytes_max: 500, head_bytes_max: 600 };

    #[test]
    fn weight_is_read() {
        for (value, expected) in [
            ("gzip", 1000),
            ("br, GZIP;q=0.5", 500),
            ("gzip ; q=0.123", 123),
            ("gzip;q=1.000", 1000),
            ("gzip;q=0", 0),
            ("gzip;q=1.001", 0),
            ("gzip;q=2", 0),
            ("gzip;q=0.1234", 0),
            ("gzip;q=x", 0),
            ("*", 1000),
            ("*;q=0.2", 200),
            ("*;q=0.2, gzip;q=0", 0),
            ("gzip;q=0, *", 0),
            ("br", 0),
            ("x-gzip", 0),
            ("gzipped", 0),
            ("", 0),
            (",,gzip,,", 1000),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {value}\r\n\r\n");
            let head = RequestHead::parse(text.as_bytes(), &LIMITS).unwrap();
            assert_eq!(quality_of(&head, b"accept-encoding", b"gzip"), expected, "{value}");
        }
    }
}
