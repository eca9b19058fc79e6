//! What must hold for any bytes that reach the rooms `http` and `proxy`: one function for each target of the fuzzer, which
//! panics if the bytes show a fault. No socket, no thread.
//!
//! The bytes of an input also decide how it is cut into pieces, so that an input is its own repetition.

#[allow(dead_code, reason = "the corpus is for the tests")]
#[path = "../../tests/reading/mod.rs"]
mod reading;

use maypole::http::{BodyDecoder, Framing, Limits, ParseError};
use maypole::proxy::{ProxyHeader, ProxyVersions};

use reading::{LIMITS, read};

/// Small limits, so that small inputs reach them.
const SMALL: Limits = Limits { request_line_bytes_max: 30, fields_max: 3, field_bytes_max: 30, head_bytes_max: 100 };
/// The longest chunked body.
const CHUNKED_BYTES_MAX: u64 = 64;

/// Reads pipelined requests: in any pieces they are the same, and an accepted head can be read in one way only.
///
/// # Panics
///
/// If that does not hold.
pub fn head(input: &[u8]) {
    for limits in [&LIMITS, &SMALL] {
        let mut rest = input;
        loop {
            let whole = read([rest], limits);
            assert_eq!(read(pieces(rest), limits), whole);
            let Ok(reading) = whole else { break };
            let used = rest.len() - reading.rest;
            assert_head_is_strict(&rest[..used]);
            rest = &rest[used..];
        }
    }
}

/// Decodes a chunked body: in any pieces it is the same, and it is the body that the grammar says.
///
/// # Panics
///
/// If that does not hold.
pub fn body(input: &[u8]) {
    let whole = decode([input]);
    assert_eq!(decode(pieces(input)), whole);
    let expected = chunked_by_the_grammar(input);
    match (&whole, expected) {
        (Ok(decoded), Some((body, used))) if decoded.complete => {
            assert_eq!((&decoded.body, decoded.used), (&body, used));
        }
        (Ok(decoded), None) => assert!(!decoded.complete),
        (Err(_), None) => {}
        (found, expected) => panic!("{found:?} instead of {expected:?}"),
    }
}

/// Reads a PROXY header that grows: while more bytes may come there is no result, and once there is one, it stays.
///
/// # Panics
///
/// If that does not hold.
pub fn proxy(input: &[u8]) {
    let all = [ProxyVersions::Any, ProxyVersions::V1, ProxyVersions::V2];
    let versions = all[Random::from_bytes(input).below(all.len())];
    let whole = ProxyHeader::parse(input, versions);
    let grown: Vec<_> = (0..=input.len()).map(|end| ProxyHeader::parse(&input[..end], versions)).collect();
    let known = grown.iter().skip_while(|parsed| **parsed == Ok(None));
    assert!(known.clone().all(|parsed| *parsed == whole), "{grown:?}");
    if let Ok(Some(header)) = whole {
        assert_eq!(input.len() + 1 - header.bytes, known.count(), "it is complete with its last byte");
    }
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    /// Returns a number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).expect("below a usize")
    }

    /// Returns a generator that depends only on the bytes.
    fn from_bytes(bytes: &[u8]) -> Self {
        Self(
            bytes
                .iter()
                .fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)),
        )
    }
}

/// Cuts an input into pieces: at each byte, or at places that depend on its bytes.
fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let mut random = Random::from_bytes(bytes);
    if random.below(4) == 0 {
        return bytes.chunks(1).collect();
    }
    let mut cuts: Vec<usize> = (0..random.below(6)).map(|_| random.below(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Checks that an accepted head has nothing that two parsers could read in two ways.
fn assert_head_is_strict(request: &[u8]) {
    let mut head = request;
    while let Some(rest) = head.strip_prefix(b"\r\n") {
        head = rest;
    }
    let end = head.windows(4).position(|window| window == b"\r\n\r\n").expect("a head ends");
    let text: String = head[..end].iter().map(|&byte| char::from(byte)).collect();
    assert!(text.chars().all(|c| !c.is_ascii_control() || matches!(c, '\r' | '\n' | '\t')), "a control");
    assert_eq!(text.matches('\r').count(), text.matches("\r\n").count(), "a bare CR");
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "a bare LF");
    let mut lines = text.split("\r\n");
    assert_eq!(
        lines.next().expect("a first line").split(' ').filter(|word| !word.is_empty()).count(),
        3,
        "a request line"
    );
    let names: Vec<String> = lines
        .map(|line| {
            let (name, _) = line.split_once(':').expect("a field has a colon");
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte)));
            assert!(!name.is_empty());
            name.to_ascii_lowercase()
        })
        .collect();
    let count = |name: &str| names.iter().filter(|other| *other == name).count();
    assert!(count("host") <= 1 && count("content-length") + count("transfer-encoding") <= 1, "framing");
}

/// The result of decoding a body.
#[derive(Debug, PartialEq, Eq)]
struct Decoding {
    body: Vec<u8>,
    used: usize,
    complete: bool,
}

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Decoding, ParseError> {
    let mut decoder = BodyDecoder::new(Framing::Chunked, CHUNKED_BYTES_MAX);
    let mut decoding = Decoding { body: Vec::new(), used: 0, complete: false };
    for mut piece in pieces {
        while !piece.is_empty() && !decoder.is_complete() {
            let step = decoder.decode(piece)?;
            decoding.body.extend_from_slice(step.data);
            decoding.used += step.consumed;
            assert!(step.consumed > 0, "a decoder that is not complete takes everything");
            piece = &piece[step.consumed..];
        }
    }
    decoding.complete = decoder.is_complete();
    Ok(decoding)
}

/// Returns the body, and its length with the framing, if `input` begins with a whole chunked body (RFC 9112 §7.1).
fn chunked_by_the_grammar(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let (line, next) = line_at(input, at)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = u64::from_str_radix(str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
        if digits > 16 || !are_extensions(&line[digits..]) || size > CHUNKED_BYTES_MAX - body.len() as u64 {
            return None;
        }
        at = next;
        if size == 0 {
            break;
        }
        let end = at + usize::try_from(size).ok()?;
        body.extend_from_slice(input.get(at..end)?);
        at = input.get(end..end + 2).filter(|bytes| *bytes == b"\r\n").map(|_| end + 2)?;
    }
    for count in 0.. {
        let (line, next) = line_at(input, at)?;
        at = next;
        if line.is_empty() {
            return Some((body, at));
        }
        let colon = line.iter().position(|&byte| byte == b':')?;
        let is_value = line[colon..].iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7F));
        if count == 64 || !is_token(&line[..colon]) || !is_value {
            return None;
        }
    }
    None
}

/// Returns the line that begins at `at`, without its CRLF, and where the next one begins. A line has no other CR.
fn line_at(input: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = input.get(at..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &rest[..end];
    (!line.contains(&b'\r') && !line.contains(&b'\n')).then_some((line, at + end + 2))
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte))
}

/// Checks `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`, one extension after the other.
fn are_extensions(mut rest: &[u8]) -> bool {
    let skip = |bytes: &mut &[u8], wanted: fn(u8) -> bool| {
        let count = bytes.iter().take_while(|&&byte| wanted(byte)).count();
        *bytes = &bytes[count..];
        count
    };
    let space = |byte: u8| byte == b' ' || byte == b'\t';
    let token = |byte: u8| is_token(&[byte]);
    while !rest.is_empty() {
        skip(&mut rest, space);
        let Some(after) = rest.strip_prefix(b";") else { return false };
        rest = after;
        skip(&mut rest, space);
        if skip(&mut rest, token) == 0 {
            return false;
        }
        let mut value = rest;
        skip(&mut value, space);
        let Some(after) = value.strip_prefix(b"=") else { continue };
        rest = after;
        skip(&mut rest, space);
        if let Some(quoted) = rest.strip_prefix(b"\"") {
            let Some(after) = after_quoted(quoted) else { return false };
            rest = after;
        } else if skip(&mut rest, token) == 0 {
            return false;
        }
    }
    true
}

/// Returns the bytes after the quote that ends a quoted string.
fn after_quoted(bytes: &[u8]) -> Option<&[u8]> {
    let is_text = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7F);
    match bytes {
        [b'"', rest @ ..] => Some(rest),
        [b'\\', escaped, rest @ ..] if is_text(*escaped) => after_quoted(rest),
        [byte, rest @ ..] if *byte != b'\\' && is_text(*byte) => after_quoted(rest),
        _ => None,
    }
}
