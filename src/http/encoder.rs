//! Adds the framing to the body of a response (RFC 9112 §6, §7.1).

/// The framing of a response body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEncoder {
    /// No body is sent, even if the application gives one (HEAD, 204, 304).
    None,
    /// `Content-Length`: bytes beyond it are dropped.
    Length {
        /// The number of missing bytes.
        remaining: u64,
    },
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The body ends when the connection is closed (HTTP/1.0).
    UntilClose,
}

impl BodyEncoder {
    /// Announces a block of `bytes` bytes. Returns how many of them to send, and the chunk's head line to send before
    /// them (empty unless chunked). After the block, send `Self::block_end`. If the number is 0, send neither head nor
    /// end: an empty chunk would end the body.
    pub fn block(&mut self, bytes: u64) -> (u64, ChunkHead) {
        match self {
            Self::None => (0, ChunkHead::default()),
            Self::Length { remaining } => {
                let bytes = bytes.min(*remaining);
                *remaining = remaining.saturating_sub(bytes);
                (bytes, ChunkHead::default())
            }
            Self::Chunked if bytes > 0 => (bytes, ChunkHead::new(bytes)),
            Self::Chunked | Self::UntilClose => (bytes, ChunkHead::default()),
        }
    }

    /// Returns the bytes to send after each block that is not empty: CRLF for chunked, otherwise none.
    pub fn block_end(&self) -> &'static [u8] {
        match self {
            Self::Chunked => b"\r\n",
            Self::None | Self::Length { .. } | Self::UntilClose => b"",
        }
    }

    /// Ends the body. Returns the bytes to send last (`0 CRLF CRLF` for chunked), or `None` if the body is shorter than
    /// its Content-Length. The caller must then close the connection.
    pub fn finish(&self) -> Option<&'static [u8]> {
        match self {
            Self::Length { remaining: 1.. } => None,
            Self::Chunked => Some(b"0\r\n\r\n"),
            Self::None | Self::Length { .. } | Self::UntilClose => Some(b""),
        }
    }

    /// Returns whether any further block would be dropped.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::None | Self::Length { remaining: 0 })
    }
}

/// The line before a chunk's data, on the stack: hexadecimal size and CRLF.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChunkHead {
    /// Room for 16 digits and CRLF. The line is at the end.
    bytes: [u8; 18],
    length: u8,
}

impl ChunkHead {
    fn new(size: u64) -> Self {
        let mut head = Self { bytes: *b"0000000000000000\r\n", length: 2 };
        let mut rest = size;
        for byte in head.bytes.iter_mut().rev().skip(2) {
            let digit = (rest & 0xF) as u8;
            *byte = if digit < 10 { digit.wrapping_add(b'0') } else { digit.wrapping_add(b'a').wrapping_sub(10) };
            head.length = head.length.saturating_add(1);
            rest >>= 4;
            if rest == 0 {
                break;
            }
        }
        head
    }

    /// Returns whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns the bytes of the line.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.bytes.len().saturating_sub(usize::from(self.length))..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_head_is_hexadecimal_with_crlf() {
        for (size, line) in
            [(1, "1\r\n"), (10, "a\r\n"), (255, "ff\r\n"), (4096, "1000\r\n"), (u64::MAX, "ffffffffffffffff\r\n")]
        {
            assert_eq!(BodyEncoder::Chunked.block(size).1.as_bytes(), line.as_bytes());
        }
    }

    #[test]
    fn chunked_empty_block_sends_nothing() {
        let (bytes, head) = BodyEncoder::Chunked.block(0);
        assert_eq!((bytes, head.as_bytes()), (0, &b""[..]));
        assert_eq!(BodyEncoder::Chunked.finish(), Some(&b"0\r\n\r\n"[..]));
    }

    #[test]
    fn length_too_much_is_cut_off() {
        let mut encoder = BodyEncoder::Length { remaining: 5 };
        assert_eq!(encoder.block(3).0, 3);
        assert_eq!(encoder.block(3).0, 2);
        assert!(encoder.is_full());
        assert_eq!(encoder.block(3).0, 0);
        assert_eq!(encoder.finish(), Some(&b""[..]));
    }

    #[test]
    fn length_too_little_cuts_the_connection() {
        let mut encoder = BodyEncoder::Length { remaining: 5 };
        encoder.block(4);
        assert_eq!(encoder.finish(), None);
    }

    #[test]
    fn none_any_block_is_dropped() {
        let mut encoder = BodyEncoder::None;
        assert_eq!(encoder.block(3).0, 0);
        assert!(encoder.is_full());
        assert_eq!(encoder.finish(), Some(&b""[..]));
    }
}
