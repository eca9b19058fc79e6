//! Finds the end of a response (RFC 9112 §6.3) while it arrives. The content is dropped.
//!
//! It does not share code with the server's own parser, so that neither hides the other's mistakes.

use httparse::{EMPTY_HEADER, Response, Status};

/// The most fields of a response. More are an error.
const FIELDS_MAX: usize = 64;
/// The longest head of a response. A longer one is an error.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A complete response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Whether the connection cannot be used for another request.
    pub closes: bool,
}

/// Reads one response after another.
#[derive(Default)]
pub struct Reader {
    /// The beginning of an incomplete head.
    head: Vec<u8>,
    state: State,
    answer: Option<Answer>,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Head,
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

/// The next part of a chunked body (RFC 9112 §7.1).
#[derive(Debug, Clone, Copy)]
enum Chunk {
    Size(u64),
    /// The rest of the line after a size.
    Extension(u64),
    Data(u64),
    DataEnd,
    /// A line of the trailer, with the number of its bytes so far.
    Trailer(u64),
}

impl Reader {
    /// Takes bytes that have arrived. Returns the response that they complete, if they do.
    ///
    /// # Errors
    /// The bytes are not HTTP, or more than one response arrived for one request.
    pub fn take(&mut self, input: &[u8]) -> Result<Option<Answer>, &'static str> {
        let joined;
        let mut rest = input;
        if let State::Head = self.state
            && !self.head.is_empty()
        {
            self.head.extend_from_slice(input);
            joined = std::mem::take(&mut self.head);
            rest = &joined;
        }
        loop {
            let used = match &mut self.state {
                State::Head => match self.begin(rest)? {
                    0 => {
                        self.head = rest.to_vec();
                        return if rest.len() > HEAD_BYTES_MAX { Err("a head without end") } else { Ok(None) };
                    }
                    used => used,
                },
                State::Length(left) => {
                    let used = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= used as u64;
                    used
                }
                State::Chunked(chunk) => match chunk.take(rest)? {
                    (used, false) => used,
                    (used, true) => {
                        self.state = State::Length(0);
                        used
                    }
                },
                State::UntilClose => rest.len(),
            };
            rest = &rest[used..];
            if let State::Length(0) = self.state {
                self.state = State::Head;
                return if rest.is_empty() { Ok(self.answer.take()) } else { Err("more than was asked for") };
            }
            if rest.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Handles the end of the stream, which completes a response without a length.
    pub fn end(&mut self) -> Option<Answer> {
        match std::mem::take(self) {
            Self { state: State::UntilClose, answer, .. } => answer,
            _ => None,
        }
    }

    /// Reads a head. 0 means that it is incomplete.
    fn begin(&mut self, input: &[u8]) -> Result<usize, &'static str> {
        let mut fields = [EMPTY_HEADER; FIELDS_MAX];
        let mut response = Response::new(&mut fields);
        let Status::Complete(used) = response.parse(input).map_err(|_| "not HTTP")? else { return Ok(0) };
        let status = response.code.unwrap_or(0);
        if (100..200).contains(&status) {
            return Ok(used);
        }
        let mut closes = response.version == Some(0);
        let (mut length, mut chunked) = (None, false);
        for field in response.headers.iter() {
            let has = |token: &str| {
                field
                    .value
                    .split(|&byte| byte == b',')
                    .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
            };
            if field.name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(field.value).map_err(|_| "a wrong Content-Length")?;
                length = Some(text.trim().parse().map_err(|_| "a wrong Content-Length")?);
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = has("chunked");
            } else if field.name.eq_ignore_ascii_case("connection") {
                closes = has("close") || closes && !has("keep-alive");
            }
        }
        self.state = match (status, chunked, length) {
            (204 | 304, _, _) => State::Length(0),
            (_, true, _) => State::Chunked(Chunk::Size(0)),
            (_, false, Some(bytes)) => State::Length(bytes),
            (_, false, None) => {
                closes = true;
                State::UntilClose
            }
        };
        self.answer = Some(Answer { status, closes });
        Ok(used)
    }
}

impl Chunk {
    /// Returns how many bytes were used, and whether the body is complete.
    fn take(&mut self, input: &[u8]) -> Result<(usize, bool), &'static str> {
        let mut used = 0;
        while let Some(&byte) = input.get(used) {
            if let Self::Data(left) = self {
                let bytes = (input.len() - used).min(usize::try_from(*left).unwrap_or(usize::MAX));
                used += bytes;
                *left -= bytes as u64;
                if *left == 0 {
                    *self = Self::DataEnd;
                }
                continue;
            }
            used += 1;
            *self = match (*self, byte) {
                (Self::Size(0) | Self::Extension(0), b'\n') => Self::Trailer(0),
                (Self::Size(size) | Self::Extension(size), b'\n') => Self::Data(size),
                (Self::Size(size), b'\r' | b';' | b' ' | b'\t') => Self::Extension(size),
                (Self::Size(size), digit) => {
                    let digit = char::from(digit).to_digit(16).ok_or("a wrong chunk size")?;
                    Self::Size(size.checked_mul(16).ok_or("too large a chunk")? + u64::from(digit))
                }
                (Self::DataEnd, b'\n') => Self::Size(0),
                (Self::DataEnd, b'\r') => Self::DataEnd,
                (Self::DataEnd, _) => return Err("a chunk longer than its size"),
                (Self::Trailer(0), b'\n') => return Ok((used, true)),
                (Self::Trailer(_), b'\n') => Self::Trailer(0),
                (Self::Trailer(bytes), b'\r') => Self::Trailer(bytes),
                (Self::Trailer(bytes), _) => Self::Trailer(bytes + 1),
                (same @ (Self::Extension(_) | Self::Data(_)), _) => same,
            };
        }
        Ok((used, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Answer = Answer { status: 200, closes: false };

    fn at_every_split(response: &[u8]) -> Vec<Answer> {
        (0..response.len())
            .map(|split| {
                let mut reader = Reader::default();
                assert_eq!(reader.take(&response[..split]), Ok(None), "{split}");
                reader.take(&response[split..]).unwrap().unwrap()
            })
            .collect()
    }

    #[test]
    fn length_split_anywhere_is_complete() {
        let all = at_every_split(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        assert!(all.iter().all(|&answer| answer == OK));
    }

    #[test]
    fn chunked_split_anywhere_is_complete() {
        let all = at_every_split(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX: y\r\n\r\n",
        );
        assert!(all.iter().all(|&answer| answer == OK));
    }

    #[test]
    fn interim_response_is_skipped() {
        let all = at_every_split(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
        assert!(all.iter().all(|answer| answer.status == 204));
    }

    #[test]
    fn no_length_ends_with_the_connection() {
        let mut reader = Reader::default();
        assert_eq!(reader.take(b"HTTP/1.1 200 OK\r\n\r\nhello"), Ok(None));
        assert_eq!(reader.end(), Some(Answer { status: 200, closes: true }));
        assert_eq!(reader.end(), None);
    }

    #[test]
    fn connection_close_and_old_version_close() {
        let mut reader = Reader::default();
        for (response, closes) in [
            (&b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"[..], true),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", false),
        ] {
            assert_eq!(reader.take(response), Ok(Some(Answer { status: 200, closes })));
        }
    }

    #[test]
    fn what_is_wrong_is_an_error() {
        for wrong in [
            &b"SSH-2.0-OpenSSH\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        ] {
            assert!(Reader::default().take(wrong).is_err());
        }
    }
}
