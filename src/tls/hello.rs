//! The first message of a client (ClientHello): whether all of it has arrived, and the host that it names.
//!
//! *Runs on*: the coroutine that has received the bytes. *Invariants*: a message that is not well-formed counts as
//! whole, so that the session refuses it with the alert that belongs to its fault. *Source*: RFC 8446 §4.1.2, §5.1;
//! RFC 6066 §3 for the name.

/// The first byte of a record that contains a part of a handshake.
const HANDSHAKE: u8 = 0x16;
/// The bytes in front of the content of a record.
const RECORD_HEADER_BYTES: usize = 5;
/// The bytes in front of the content of a handshake message.
const MESSAGE_HEADER_BYTES: usize = 4;
/// The type of the client's first message.
const CLIENT_HELLO: u8 = 1;
/// The most bytes of a first message. Browsers send about 2,000.
const HELLO_BYTES_MAX: usize = 32 * 1024;

/// What the first bytes of a client are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// The beginning of a first message of TLS. The rest has not arrived.
    Incomplete,
    /// A first message, or what the session refuses as one.
    Whole,
    /// No TLS.
    Other,
}

/// Returns what the first bytes of a client are.
pub fn hello_of(received: &[u8]) -> Hello {
    match received {
        [] => Hello::Incomplete,
        [HANDSHAKE, ..] if received.len() > HELLO_BYTES_MAX => Hello::Whole,
        [HANDSHAKE, ..] => look(received),
        _ => Hello::Other,
    }
}

fn look(received: &[u8]) -> Hello {
    // The header of the message may be divided among records, too.
    let (mut header, mut header_bytes, mut message_bytes) = ([0_u8; MESSAGE_HEADER_BYTES], 0, 0);
    for record in Records(received) {
        let Some(content) = record else { return Hello::Whole };
        for &byte in content.arrived.iter().take(MESSAGE_HEADER_BYTES - header_bytes) {
            header[header_bytes] = byte;
            header_bytes += 1;
        }
        message_bytes += content.arrived.len();
        if header_bytes > 0 && header[0] != CLIENT_HELLO {
            return Hello::Whole;
        }
        let wanted = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize + MESSAGE_HEADER_BYTES;
        // A record is opened as a whole.
        if header_bytes == MESSAGE_HEADER_BYTES && message_bytes >= wanted && content.is_whole {
            return Hello::Whole;
        }
    }
    Hello::Incomplete
}

/// The contents of records in a row. `None`: a record that is not part of a first message.
struct Records<'a>(&'a [u8]);

/// The content of a record, as far as it has arrived.
struct Content<'a> {
    arrived: &'a [u8],
    is_whole: bool,
}

impl<'a> Iterator for Records<'a> {
    type Item = Option<Content<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.0);
        match rest {
            [] | [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, _] | [HANDSHAKE, 3, _, _] => return None,
            [HANDSHAKE, 3, ..] => {}
            _ => return Some(None),
        }
        let (header, rest) = rest.split_at_checked(RECORD_HEADER_BYTES)?;
        let bytes = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if bytes == 0 {
            return Some(None);
        }
        let arrived = rest.get(..bytes).unwrap_or(rest);
        self.0 = rest.get(bytes..).unwrap_or_default();
        Some(Some(Content { arrived, is_whole: arrived.len() == bytes }))
    }
}

/// Returns the name of the host in a first message, if it has one. It is in lower case.
pub(super) fn server_name(received: &[u8]) -> Option<Box<str>> {
    let message: Vec<u8> =
        Records(received).map_while(|record| record.map(|content| content.arrived)).flatten().copied().collect();
    let mut body = Fields(message.get(MESSAGE_HEADER_BYTES..)?);
    // The version and the random number, the session, the cipher suites, the compression methods.
    body.take(34)?;
    body.take_counted(1)?;
    body.take_counted(2)?;
    body.take_counted(1)?;
    let mut extensions = Fields(body.take_counted(2)?);
    loop {
        let kind = extensions.take(2)?;
        let content = extensions.take_counted(2)?;
        if kind == [0, 0] {
            let mut names = Fields(Fields(content).take_counted(2)?);
            return match names.take(1)? {
                [0] => host_name(names.take_counted(2)?),
                _ => None,
            };
        }
    }
}

/// Returns a name of a host in lower case, if it consists of the bytes of such a name.
fn host_name(name: &[u8]) -> Option<Box<str>> {
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let name =
        std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && name.as_bytes().iter().all(is_usual))?;
    Some(name.to_ascii_lowercase().into_boxed_str())
}

/// Bytes that are read from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    /// Takes a field with its length in front of it, in a number of this many bytes.
    fn take_counted(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let length = self.take(bytes)?.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
        self.take(length)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Returns a length of less than 256 bytes.
    fn byte(length: usize) -> u8 {
        u8::try_from(length).unwrap()
    }

    /// Returns a first message with the name `Shop.example`, in records of at most this many bytes.
    fn hello(record_bytes: usize) -> Vec<u8> {
        let name = b"Shop.example";
        let mut names = vec![0, 0, byte(name.len())];
        names.extend(name);
        let mut extensions = vec![0, 23, 0, 0, 0, 0, 0, byte(names.len() + 2), 0, byte(names.len())];
        extensions.extend(names);
        let mut body = vec![3; 34];
        body.extend([2, 9, 9, 0, 2, 0x13, 1, 1, 0, 0, byte(extensions.len())]);
        body.extend(extensions);
        let mut message = vec![CLIENT_HELLO, 0, 0, byte(body.len())];
        message.extend(body);
        let record = |content: &[u8]| [&[HANDSHAKE, 3, 1, 0, byte(content.len())], content].concat();
        message.chunks(record_bytes).flat_map(record).collect()
    }

    #[test]
    fn message_is_whole_with_its_last_byte_however_it_is_divided() {
        for record_bytes in [1, 2, 3, 5, 40, 255] {
            let hello = hello(record_bytes);
            for end in 0..hello.len() {
                assert_eq!(hello_of(&hello[..end]), Hello::Incomplete, "{end} bytes of records of {record_bytes}");
            }
            assert_eq!(hello_of(&hello), Hello::Whole, "{record_bytes}");
            assert_eq!(server_name(&hello).as_deref(), Some("shop.example"), "{record_bytes}");
        }
    }

    #[test]
    fn malformed_message_is_left_to_the_session() {
        for bytes in [&[0x16, 2][..], &[0x16, 3, 1, 0, 0], &[0x16, 3, 1, 0, 1, 2], &[0x16, 3, 1, 0, 1, 1, 0x17]] {
            assert_eq!(hello_of(bytes), Hello::Whole, "{bytes:?}");
        }
        let endless = [&[0x16, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff], &*vec![0; HELLO_BYTES_MAX]].concat();
        assert_eq!(hello_of(&endless), Hello::Whole);
        assert_eq!([hello_of(b"GET /"), hello_of(&[0x15]), hello_of(&[0x80])], [Hello::Other; 3]);
    }

    #[test]
    fn name_that_is_none_is_not_taken() {
        let whole = hello(255);
        for end in 0..whole.len() {
            // A message that ends early has no name, or has it already.
            assert!(server_name(&whole[..end]).is_none_or(|name| &*name == "shop.example"));
        }
        let replaced = |last: u8| {
            let mut hello = whole.clone();
            *hello.last_mut().unwrap() = last;
            server_name(&hello)
        };
        assert_eq!((replaced(b'\n'), replaced(0), replaced(0xff)), (None, None, None));
    }
}
