//! Parts of sentences for log lines: a number with its noun, a length of time, an excerpt of a client's data. And what
//! heads and log lines are made of: numbers in decimal, addresses, bytes as characters. And text in HTML and on a
//! terminal.
//!
//! *Runs on*: any thread. *Invariants*: no text is in Rust's debug format.

pub mod html;
pub mod terminal;

use std::net::IpAddr;
use std::time::Duration;

/// Returns a number and its noun: `1 request`, `2 requests`, `2 child processes`.
pub fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    let ending = match (number, noun.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{number} {noun}{ending}")
}

/// Returns a length of time for a sentence: `30 s`, `1.5 s`, `200 ms`.
pub fn seconds(time: Duration) -> String {
    let millis = time.as_millis();
    match millis {
        0 => "0 s".to_owned(),
        1..1000 => format!("{millis} ms"),
        1000..10_000 => format!("{:.1} s", time.as_secs_f64()).replace(".0 s", " s"),
        _ => format!("{} s", (millis + 500) / 1000),
    }
}

/// The most bytes of a client's data in a log line.
const EXCERPT_BYTES_MAX: usize = 200;

/// Returns data from a client, such as a request line: escaped, and cut if it is long.
pub fn excerpt(bytes: &[u8]) -> String {
    match bytes.get(..EXCERPT_BYTES_MAX) {
        Some(start) if bytes.len() > EXCERPT_BYTES_MAX => format!("{}…", start.escape_ascii()),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// The most digits of a number: those of `u64::MAX`.
const DIGITS_MAX: usize = 20;

/// Appends a number in decimal, ten times as fast as `format!`.
#[inline]
pub fn push_decimal(out: &mut Vec<u8>, number: u64) {
    let (digits, first) = digits(number);
    out.extend_from_slice(&digits[first..]);
}

/// Appends a number in decimal, padded with zeros to at least `width` digits.
pub fn push_padded(out: &mut Vec<u8>, number: u64, width: usize) {
    let (digits, first) = digits(number);
    out.extend_from_slice(&digits[first.min(DIGITS_MAX.saturating_sub(width))..]);
}

/// Appends an address, without its port. An access log does so for every request: the formatter of the library costs ten
/// times as much for IPv4.
pub fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            push_decimal(out, u64::from(first));
            for part in rest {
                out.push(b'.');
                push_decimal(out, u64::from(part));
            }
        }
        IpAddr::V6(address) => out.extend_from_slice(address.to_string().as_bytes()),
    }
}

/// Returns the digits of a number, with zeros before them, and the index of the first one.
#[inline]
fn digits(number: u64) -> ([u8; DIGITS_MAX], usize) {
    let mut digits = [b'0'; DIGITS_MAX];
    let (mut rest, mut first) = (number, DIGITS_MAX);
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        first -= 1;
        if rest == 0 {
            break;
        }
    }
    (digits, first)
}

/// Returns the text that has one character of Latin-1 for each byte. `latin_1` is the way back.
pub fn characters(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// Returns a byte for each character of Latin-1. Leaves others out.
pub fn latin_1(text: &str) -> Vec<u8> {
    text.chars().filter_map(|character| u8::try_from(character).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_noun_agree() {
        let nouns = [(0, "request"), (1, "request"), (2, "request"), (1, "child process"), (3, "child process")];
        let texts = nouns.map(|(number, noun)| count(number, noun));
        assert_eq!(texts, ["0 requests", "1 request", "2 requests", "1 child process", "3 child processes"]);
    }

    #[test]
    fn length_of_time_has_the_precision_that_a_reader_needs() {
        let texts = [0, 7, 999, 1000, 1500, 9999, 30_000, 75_400].map(|millis| seconds(Duration::from_millis(millis)));
        assert_eq!(texts, ["0 s", "7 ms", "999 ms", "1 s", "1.5 s", "10 s", "30 s", "75 s"]);
    }

    #[test]
    fn address_is_written_as_the_library_writes_it() {
        for text in ["0.0.0.0", "192.168.1.20", "255.255.255.255", "::1", "2001:db8::ff:0:1", "::ffff:10.0.0.1"] {
            let mut out = Vec::new();
            push_address(&mut out, text.parse().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn number_is_written_in_full() {
        for number in [0, 9, 10, 99, 100, 12345, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
        let mut out = Vec::new();
        for (number, width) in [(0, 1), (7, 2), (123, 2), (5, 6), (1, 90)] {
            push_padded(&mut out, number, width);
            out.push(b' ');
        }
        assert_eq!(out, b"0 07 123 000005 00000000000000000001 ");
    }

    #[test]
    fn every_byte_has_its_character() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(latin_1(&characters(&bytes)), bytes);
        assert_eq!((characters(b"caf\xe9").as_str(), latin_1("5 €")), ("café", b"5 ".to_vec()));
    }

    #[test]
    fn excerpt_is_escaped_and_cut() {
        assert_eq!(excerpt(b"GET /a\x1b\" HTTP/1.1"), r#"GET /a\x1b\" HTTP/1.1"#);
        assert_eq!(excerpt(&[b'a'; 200]), "a".repeat(200));
        assert_eq!(excerpt(&[b'a'; 201]), "a".repeat(200) + "…");
    }
}
