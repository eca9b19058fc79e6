//! Tests of the module `http`: the corpus of raw requests, whole and split at every point, and property tests.
//!
//! `requests/invalid/NAME.STATUS.http` must be refused with that status. A name ends with the advisory that it tests.
//! `requests/valid/NAME.http` must be read as stated in `NAME.txt`: lines of `key: value`, with bytes escaped as in
//! Rust.

mod reading;

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use maypole::http::date::imf_fixdate;
use maypole::http::response::Context;
use maypole::http::{
    BodyDecoder, BodyEncoder, Decoded, Framing, HeadScanner, Limits, ParseError, Persistence, RequestHead,
    ResponseHead, Version,
};
use proptest::prelude::*;

use reading::{LIMITS, NoReading, Reading, corpus, read};

/// Reads `bytes` whole, byte by byte, and split in two at every point. Asserts that the result is the same.
fn read_every_way(bytes: &[u8], limits: &Limits) -> Result<Reading, NoReading> {
    let whole = read([bytes], limits);
    assert_eq!(read(bytes.chunks(1), limits), whole, "byte by byte: {}", bytes.escape_ascii());
    for at in 1..bytes.len() {
        let (first, second) = bytes.split_at(at);
        assert_eq!(read([first, second], limits), whole, "in two at {at}: {}", bytes.escape_ascii());
    }
    whole
}

#[test]
fn corpus_valid_read_as_expected_at_every_split() {
    for path in corpus("valid") {
        let name = path.display();
        let bytes = fs::read(&path).expect("a request");
        let reading = read_every_way(&bytes, &LIMITS).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let expected = fs::read_to_string(path.with_extension("txt")).expect("an expectation");
        for line in expected.lines() {
            let (key, value) = line.split_once(':').expect("key: value");
            let actual = reading.keys.iter().find(|(known, _)| *known == key).map(|(_, value)| value.as_str());
            assert_eq!(actual, Some(value.trim_start()), "{name}: {key}");
        }
    }
}

#[test]
fn corpus_invalid_refused_as_expected_at_every_split() {
    for path in corpus("invalid") {
        let name = path.display();
        let bytes = fs::read(&path).expect("a request");
        let status = path.file_stem().map(Path::new).and_then(Path::extension).expect("NAME.STATUS.http");
        match read_every_way(&bytes, &LIMITS) {
            Ok(reading) => panic!("{name}: accepted as {reading:?}"),
            Err(NoReading::Incomplete) => assert_eq!(status, "400", "{name}: incomplete"),
            Err(NoReading::Refused(error)) => {
                assert_eq!(error.status().to_string(), status.to_string_lossy(), "{name}: {error}");
            }
        }
    }
}

#[test]
fn body_of_tiny_chunks_comes_in_one_run_and_what_came_before_an_error_first() {
    let mut decoder = BodyDecoder::new(Framing::Chunked, 100);
    let mut input = b"1\r\na\r\n2;x=y\r\nbc\r\n1\r\nd\r\nz".to_vec();
    let run = decoder.decode_run(&mut input).expect("good chunks");
    assert_eq!(&input[run.data.clone()], b"abcd");
    assert_eq!((run.consumed, run.framing_bytes()), (21, 17));
    assert_eq!(decoder.decode_run(&mut input[21..]), Err(ParseError::ChunkSize));
}

#[test]
fn target_overlong_refused_before_it_ends_cve_2018_6758() {
    let mut bytes = b"GET /".to_vec();
    bytes.resize(8193, b'a');
    assert_eq!(read([&bytes[..8191]], &LIMITS), Err(NoReading::Incomplete));
    assert_eq!(read([&bytes[..]], &LIMITS), Err(NoReading::Refused(ParseError::UriTooLong)));
    bytes.resize(1_000_000, b'a');
    assert_eq!(read(bytes.chunks(1000), &LIMITS), Err(NoReading::Refused(ParseError::UriTooLong)));
}

#[test]
fn target_of_8000_bytes_accepted() {
    let bytes = format!("GET /{} HTTP/1.1\r\nHost: h\r\nX-A: {}\r\n\r\n", "a".repeat(7980), "b".repeat(8000));
    assert!(read([bytes.as_bytes()], &LIMITS).is_ok());
}

#[test]
fn fields_over_their_limits_431() {
    let head = |fields: &str| read([format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes()], &LIMITS);
    assert_eq!(head(&format!("X: {}\r\n", "a".repeat(8190))), Err(NoReading::Refused(ParseError::FieldTooLarge)));
    assert_eq!(
        head(&format!("X: {}\r\n", "a".repeat(8000)).repeat(9)),
        Err(NoReading::Refused(ParseError::HeadTooLarge))
    );
    assert_eq!(head(&"X: y\r\n".repeat(5000)), Err(NoReading::Refused(ParseError::TooManyFields)));
}

#[test]
fn chunk_extensions_endless_refused_cve_2024_21647() {
    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let one_line = [HEAD, b"5;a=", &[b'b'; 4096]].concat();
    assert_eq!(read_every_way(&one_line, &LIMITS), Err(NoReading::Refused(ParseError::ChunkExtensionsTooLarge)));
    let extension = "b".repeat(1000);
    let many_lines = [HEAD, format!("1;{extension}\r\nx\r\n").repeat(100).as_bytes()].concat();
    assert_eq!(read(many_lines.chunks(700), &LIMITS), Err(NoReading::Refused(ParseError::ChunkExtensionsTooLarge)));
    let in_proportion =
        [HEAD, format!("3e8;{extension}\r\n{extension}\r\n").repeat(100).as_bytes(), b"0\r\n\r\n"].concat();
    assert_eq!(read([&in_proportion[..]], &LIMITS).map(|reading| reading.body.len()), Ok(100_000));
}

#[test]
fn chunk_trailers_endless_refused() {
    let mut bytes = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ".to_vec();
    bytes.resize(9000, b'y');
    assert_eq!(read(bytes.chunks(100), &LIMITS), Err(NoReading::Refused(ParseError::TrailersTooLarge)));
}

#[test]
fn body_length_over_its_limit_refused_before_it_is_sent() {
    assert!(Framing::Length(11).exceeds(10) && !Framing::Length(10).exceeds(10) && !Framing::Chunked.exceeds(10));
    let mut decoder = BodyDecoder::new(Framing::Length(11), 10);
    assert!(!decoder.is_complete());
    assert_eq!(decoder.decode(b""), Err(ParseError::BodyTooLarge));
}

#[test]
fn body_after_an_error_stays_wrong_cve_2024_49768() {
    let mut decoder = BodyDecoder::new(Framing::Chunked, 10);
    assert_eq!(decoder.decode(b"x"), Err(ParseError::ChunkSize));
    assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(ParseError::ChunkSize));
    assert!(!decoder.is_complete());
}

#[test]
fn body_empty_complete_at_once() {
    for framing in [Framing::None, Framing::Length(0)] {
        let mut decoder = BodyDecoder::new(framing, 0);
        assert!(decoder.is_complete());
        assert_eq!(decoder.decode(b"GET"), Ok(Decoded { consumed: 0, data: b"" }));
    }
}

/// Divides `bytes` at the places in `cuts`, which may be unordered and repeated.
fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn any_cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..8)
}

/// Generates small limits, so that small requests reach each of them.
fn any_limits() -> impl Strategy<Value = Limits> {
    (0..60_usize, 0..6_usize, 0..60_usize, 0..160_usize).prop_map(|(line, fields, field, head)| Limits {
        request_line_bytes_max: line,
        fields_max: fields,
        field_bytes_max: field,
        head_bytes_max: head,
    })
}

/// Generates input that resembles HTTP but is mostly invalid: words of the grammar in any order.
fn almost_http() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: [&[u8]; 20] = [
        b"GET / HTTP/1.1\r\n",
        b"POST http://h/p?q HTTP/1.0\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"Host: h\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
        b"X: y\r\n",
        b"5\r\nhello\r\n",
        b"5;a=\"b\"\r\nhello\r\n",
        b"0\r\n",
        b"hello",
        b" ",
        b":",
        b"\r",
        b"\n",
        b"\x00",
        b"\xff",
    ];
    let start = Just(&b"GET / HTTP/1.1\r\nHost: h\r\n"[..]);
    (prop::option::weighted(0.7, start), prop::collection::vec(prop::sample::select(&WORDS[..]), 0..12))
        .prop_map(|(start, words)| start.into_iter().chain(words).collect::<Vec<_>>().concat())
}

fn field_name() -> impl Strategy<Value = String> {
    "[!#$%&'*+.^`|~0-9A-Za-z-]{1,20}".prop_filter("a field that the server reads itself", |name| {
        let known = ["host", "content-length", "transfer-encoding", "content-type", "connection", "expect"];
        !known.iter().any(|known| name.eq_ignore_ascii_case(known))
    })
}

fn field_value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b' '), Just(b'\t'), 0x21..=0x7E_u8, 0x80..=0xFF_u8];
    prop::collection::vec(byte, 0..40).prop_map(|value| value.trim_ascii().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn request_any_bytes_same_answer_in_any_pieces(
        bytes in prop_oneof![almost_http(), prop::collection::vec(any::<u8>(), 0..100)],
        cuts in any_cuts(),
        limits in prop_oneof![Just(LIMITS), any_limits()],
    ) {
        let whole = read([&bytes[..]], &limits);
        prop_assert_eq!(read(pieces(&bytes, &cuts), &limits), whole.clone());
        prop_assert_eq!(read(bytes.chunks(1), &limits), whole);
    }

    #[test]
    fn head_any_bytes_never_panics(bytes in prop_oneof![almost_http(), prop::collection::vec(any::<u8>(), 0..100)]) {
        let _ = RequestHead::parse(&bytes, &LIMITS);
    }

    #[test]
    fn head_generated_reads_as_generated(
        method in "[A-Z]{1,16}".prop_filter("not ours", |method| method != "CONNECT"),
        path in "/[!$-~]{0,40}".prop_filter("a query comes apart", |path| !path.contains('?')),
        query in prop::option::of("[!$-~]{0,40}"),
        host in "[a-z0-9.-]{1,20}(:[0-9]{0,4})?",
        fields in prop::collection::vec((field_name(), field_value()), 0..60),
        space in "[ \t]{0,3}",
    ) {
        let target = query.as_ref().map_or(path.clone(), |query| format!("{path}?{query}"));
        let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost:{space}{host}\r\n").into_bytes();
        for (name, value) in &fields {
            bytes.extend_from_slice(&[name.as_bytes(), b":", space.as_bytes(), value, space.as_bytes(), b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        prop_assert_eq!(HeadScanner::default().scan(&bytes, &LIMITS), Ok(Some(bytes.len())));
        let head = RequestHead::parse(&bytes, &LIMITS).expect("a valid head");
        prop_assert_eq!(head.method(), method.as_bytes());
        prop_assert_eq!(head.target(), target.as_bytes());
        prop_assert_eq!(head.path(), path.as_bytes());
        prop_assert_eq!(head.query(), query.as_deref().unwrap_or_default().as_bytes());
        prop_assert_eq!(head.host(), Some(host.as_bytes()));
        let read: Vec<(&[u8], &[u8])> = head.fields().skip(1).collect();
        let sent: Vec<(&[u8], &[u8])> = fields.iter().map(|(name, value)| (name.as_bytes(), &value[..])).collect();
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn body_chunked_decodes_to_what_was_encoded(
        chunks in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 1..50), "(;[a-z]{1,5}(=([a-z]{1,5}|\"[ -!#-\\[\\]-~]{0,9}\"))?){0,2}"), 0..10),
        trailers in prop::collection::vec((field_name(), field_value()), 0..4),
        cuts in any_cuts(),
    ) {
        let mut bytes = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for (data, extension) in &chunks {
            bytes.extend_from_slice(format!("{:x}{extension}\r\n", data.len()).as_bytes());
            bytes.extend_from_slice(&[data, &b"\r\n"[..]].concat());
        }
        bytes.extend_from_slice(b"0\r\n");
        for (name, value) in &trailers {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\nGET");
        let reading = read(pieces(&bytes, &cuts), &LIMITS).expect("a valid body");
        prop_assert_eq!(&reading.body, &chunks.iter().flat_map(|(data, _)| data.clone()).collect::<Vec<u8>>());
        prop_assert_eq!(reading.keys.last(), Some(&("rest", "3".to_owned())));
    }

    #[test]
    fn body_any_bytes_stays_within_its_limit(
        bytes in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b';'), b'0'..=b'9', any::<u8>()], 0..60),
        body_bytes_max in 0..20_u64,
    ) {
        let mut decoder = BodyDecoder::new(Framing::Chunked, body_bytes_max);
        let mut at = 0;
        while let Ok(decoded) = decoder.decode(&bytes[at..]) {
            at += decoded.consumed;
            prop_assert!(decoder.decoded_bytes() <= body_bytes_max);
            if decoded.consumed == 0 {
                break;
            }
        }
    }

    #[test]
    fn body_encoded_is_decoded_again(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)) {
        let mut encoder = BodyEncoder::Chunked;
        let mut wire = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for block in &blocks {
            let (bytes, head) = encoder.block(block.len() as u64);
            if bytes > 0 {
                wire.extend_from_slice(&[head.as_bytes(), block, encoder.block_end()].concat());
            }
        }
        wire.extend_from_slice(encoder.finish().expect("chunked always ends"));
        prop_assert_eq!(read([&wire[..]], &LIMITS).map(|reading| reading.body), Ok(blocks.concat()));
    }

    #[test]
    fn response_any_bytes_cannot_add_a_line(
        status in prop_oneof!["[2-5][0-9]{2}( .{0,9})?", ".{0,9}"],
        fields in prop::collection::vec((prop_oneof![field_name(), ".{0,6}"], prop::collection::vec(any::<u8>(), 0..9)), 0..6),
    ) {
        let Ok(mut head) = ResponseHead::new(status.as_bytes()) else { return Ok(()) };
        let kept = fields.iter().filter(|(name, value)| head.push_field(name.as_bytes(), value).is_ok()).count();
        let context = Context {
            version: Version::Http11,
            is_head: false,
            persistence: Persistence::KeepAlive,
            body_bytes: Some(0),
            date: &imf_fixdate(UNIX_EPOCH),
            server: None,
            request_id: None,
        };
        let (bytes, ..) = head.encode(&context);
        let lines = bytes.split(|&byte| byte == b'\n').count();
        // At most: the status line, the fields, Date, Content-Length, Connection, the empty line, and the part after
        // the last line break.
        prop_assert!(lines <= kept + 6, "{}", bytes.escape_ascii());
        prop_assert!(bytes.ends_with(b"\r\n\r\n"));
        prop_assert_eq!(bytes.split(|&byte| byte == b'\r').count(), lines);
        prop_assert!(!bytes.iter().any(|&byte| byte == 0x7F || (byte < 0x20 && !matches!(byte, b'\r' | b'\n' | b'\t'))));
    }
}
