//! Reads a connection with the module `http` alone, for tests without a socket. Also has the corpus of requests.

use std::fs;
use std::path::{Path, PathBuf};

use maypole::http::{BodyDecoder, Framing, HeadScanner, Limits, ParseError, Persistence, RequestHead, Version};

pub const LIMITS: Limits =
    Limits { request_line_bytes_max: 8190, fields_max: 100, field_bytes_max: 8190, head_bytes_max: 64 * 1024 };
pub const BODY_BYTES_MAX: u64 = 1024 * 1024;

/// The result of reading a connection: the first request, its body, and the remaining bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub keys: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The number of bytes after the request.
    pub rest: usize,
}

/// A connection whose bytes arrive in pieces, and from which one request is read.
#[derive(Default)]
struct Reader {
    buffer: Vec<u8>,
    scanner: HeadScanner,
    head: Option<RequestHead>,
    decoder: Option<BodyDecoder>,
    /// Decodes the same bytes, run by run.
    runs: Option<BodyDecoder>,
    body: Vec<u8>,
}

/// A decoder's result: the data, the number of bytes that it used, and how it ended.
/// Why there is no reading of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoReading {
    /// The request is malformed or too large.
    Refused(ParseError),
    /// The bytes end before the request does.
    Incomplete,
}

impl From<ParseError> for NoReading {
    fn from(error: ParseError) -> Self {
        Self::Refused(error)
    }
}

type Decoding = (Vec<u8>, usize, Result<(), ParseError>);

fn decode_steps(decoder: &mut BodyDecoder, input: &[u8]) -> Decoding {
    let (mut data, mut used) = (Vec::new(), 0);
    loop {
        match decoder.decode(&input[used..]) {
            Ok(step) => {
                data.extend_from_slice(step.data);
                used += step.consumed;
                if step.consumed == 0 {
                    return (data, used, Ok(()));
                }
            }
            Err(error) => return (data, used, Err(error)),
        }
    }
}

fn decode_runs(decoder: &mut BodyDecoder, input: &[u8]) -> Decoding {
    let (mut data, mut used) = (Vec::new(), 0);
    loop {
        let mut rest = input[used..].to_vec();
        match decoder.decode_run(&mut rest) {
            Ok(run) => {
                assert!(run.data.end <= run.consumed, "data behind what was used up");
                data.extend_from_slice(&rest[run.data.clone()]);
                assert_eq!(rest[run.consumed..], input[used + run.consumed..], "what follows is as it was");
                used += run.consumed;
                if run.consumed == 0 {
                    return (data, used, Ok(()));
                }
            }
            Err(error) => return (data, used, Err(error)),
        }
    }
}

impl Reader {
    fn feed(&mut self, piece: &[u8], limits: &Limits) -> Result<(), ParseError> {
        self.buffer.extend_from_slice(piece);
        if self.head.is_none() {
            let Some(length) = self.scanner.scan(&self.buffer, limits)? else { return Ok(()) };
            let head = RequestHead::parse(&self.buffer[..length], limits)?;
            self.buffer.drain(..length);
            self.decoder = Some(BodyDecoder::new(head.framing(), BODY_BYTES_MAX));
            self.runs = Some(BodyDecoder::new(head.framing(), BODY_BYTES_MAX));
            self.head = Some(head);
        }
        let decoder = self.decoder.as_mut().expect("a head has a decoder");
        let (data, used, result) = decode_steps(decoder, &self.buffer);
        let runs = self.runs.as_mut().expect("and a second one");
        assert_eq!(decode_runs(runs, &self.buffer), (data.clone(), used, result), "run by run it is another body");
        result?;
        self.body.extend_from_slice(&data);
        assert_eq!(decoder.decoded_bytes(), self.body.len() as u64);
        self.buffer.drain(..used);
        Ok(())
    }

    fn finish(self) -> Result<Reading, NoReading> {
        match (self.head, self.decoder) {
            (Some(head), Some(decoder)) if decoder.is_complete() => {
                let mut keys = describe(&head);
                keys.push(("body", self.body.escape_ascii().to_string()));
                keys.push(("rest", self.buffer.len().to_string()));
                Ok(Reading { keys, body: self.body, rest: self.buffer.len() })
            }
            _ => Err(NoReading::Incomplete),
        }
    }
}

fn describe(head: &RequestHead) -> Vec<(&'static str, String)> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let fields: Vec<String> = head.fields().map(|(name, value)| format!("{}={}", text(name), text(value))).collect();
    for (name, _) in head.fields() {
        let first = head.fields().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        assert_eq!(head.field(&name.to_ascii_uppercase()), first);
    }
    assert_eq!(fields.len(), head.field_count());
    assert!(head.request_line().starts_with(head.method()));
    let framing = match head.framing() {
        Framing::None => "none".to_owned(),
        Framing::Length(bytes) => format!("length {bytes}"),
        Framing::Chunked => "chunked".to_owned(),
    };
    vec![
        ("method", text(head.method())),
        ("target", text(head.target())),
        ("path", text(head.path())),
        ("query", text(head.query())),
        ("version", if head.version() == Version::Http10 { "1.0" } else { "1.1" }.to_owned()),
        ("host", head.host().map_or("none".to_owned(), text)),
        ("fields", fields.join("|")),
        ("field-count", head.field_count().to_string()),
        ("framing", framing),
        ("content-length", head.content_length().map_or("none".to_owned(), |bytes| bytes.to_string())),
        ("persistence", if head.persistence() == Persistence::Close { "close" } else { "keep-alive" }.to_owned()),
        ("expects-continue", head.expects_continue().to_string()),
    ]
}

pub fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: &Limits) -> Result<Reading, NoReading> {
    let mut reader = Reader::default();
    for piece in pieces {
        reader.feed(piece, limits)?;
    }
    reader.finish()
}

pub fn corpus(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/requests").join(kind);
    let entries = fs::read_dir(directory).expect("the corpus is there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "http"));
    paths.sort();
    assert!(paths.len() > 30, "the corpus is not empty");
    paths
}
