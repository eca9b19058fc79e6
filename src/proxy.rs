//! The header with which a proxy names the client of a connection.
//!
//! *Runs on*: the calling thread. *Invariants*: the result depends on the bytes alone and not on how they are split.
//! Bytes that can no longer become a header are an error at once, so that no caller waits for the rest. *Source*: "The
//! PROXY protocol, versions 1 & 2", `HAProxy`'s `doc/proxy-protocol.txt`, §2.1 (text) and §2.2 (binary).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use memchr::memchr2;
use thiserror::Error;

/// The first bytes of version 1.
const V1_SIGNATURE: &[u8; 6] = b"PROXY ";
/// The longest line of version 1, in bytes with its CRLF: `UNKNOWN` and two IPv6 addresses written out.
const V1_BYTES_MAX: usize = 107;
/// The first bytes of version 2.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The bytes before the addresses of version 2: the signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;

/// The versions that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersions {
    /// The text of version 1.
    V1,
    /// The binary form of version 2.
    V2,
    /// Either version; the first byte distinguishes them.
    Any,
}

/// A connection that does not begin with a header of an accepted version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("missing or malformed PROXY header")]
pub struct ProxyHeaderError;

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The length in bytes. The bytes after it come from the client.
    pub bytes: usize,
    /// The client's address. `None` if the connection is the proxy's own (`LOCAL`) or the client has no IP address
    /// (`UNKNOWN`, unspecified, unix): then the connection's remote address counts.
    pub source: Option<SocketAddr>,
}

impl ProxyHeader {
    /// Reads the header at the beginning of `buffer`. Returns `None` while it is incomplete.
    ///
    /// # Errors
    /// `ProxyHeaderError`: the bytes are not a header, or its version is not accepted.
    pub fn parse(buffer: &[u8], versions: ProxyVersions) -> Result<Option<Self>, ProxyHeaderError> {
        let Some(&first) = buffer.first() else { return Ok(None) };
        let is_v1 = versions == ProxyVersions::V1 || (versions == ProxyVersions::Any && first == V1_SIGNATURE[0]);
        if is_v1 { Self::parse_v1(buffer) } else { Self::parse_v2(buffer) }
    }

    fn parse_v1(buffer: &[u8]) -> Result<Option<Self>, ProxyHeaderError> {
        if !can_begin_with(buffer, V1_SIGNATURE) {
            return Err(ProxyHeaderError);
        }
        let line = buffer.get(..V1_BYTES_MAX).unwrap_or(buffer);
        let more_may_come = line.len() < V1_BYTES_MAX;
        let Some(end) = memchr2(b'\r', b'\n', line) else {
            return if more_may_come { Ok(None) } else { Err(ProxyHeaderError) };
        };
        let bytes = end.saturating_add(2);
        match line.get(end..).unwrap_or_default() {
            [b'\r', b'\n', ..] => {
                let text = String::from_utf8_lossy(line.get(V1_SIGNATURE.len()..end).unwrap_or_default());
                Ok(Some(Self { bytes, source: v1_source(&text)? }))
            }
            [b'\r'] if more_may_come => Ok(None),
            _ => Err(ProxyHeaderError),
        }
    }

    fn parse_v2(buffer: &[u8]) -> Result<Option<Self>, ProxyHeaderError> {
        if !can_begin_with(buffer, V2_SIGNATURE) {
            return Err(ProxyHeaderError);
        }
        let rest = buffer.get(V2_SIGNATURE.len()..).unwrap_or_default();
        let is_local = match rest.first() {
            None => return Ok(None),
            Some(0x20) => true,
            Some(0x21) => false,
            Some(_) => return Err(ProxyHeaderError),
        };
        // With LOCAL, the proxy may send any family and addresses. They have no meaning.
        let family = match rest.get(1) {
            None => return Ok(None),
            Some(_) if is_local => Family::Other,
            Some(&family) => Family::of(family).ok_or(ProxyHeaderError)?,
        };
        let (Some(&high), Some(&low)) = (rest.get(2), rest.get(3)) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < family.address_bytes() {
            return Err(ProxyHeaderError);
        }
        // The fields after the addresses are ignored.
        let bytes = V2_FIXED_BYTES.saturating_add(length);
        let Some(addresses) = buffer.get(V2_FIXED_BYTES..bytes) else { return Ok(None) };
        Ok(Some(Self { bytes, source: family.source(addresses) }))
    }
}

/// Returns whether `buffer` begins with `signature`, or with its first bytes if `buffer` is shorter.
fn can_begin_with(buffer: &[u8], signature: &[u8]) -> bool {
    buffer.iter().zip(signature).all(|(one, other)| one == other)
}

/// Returns the source in the text after `PROXY `; `None` if it is unknown.
fn v1_source(text: &str) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let (source, _) = match word() {
        // The protocol says to ignore the rest of the line.
        "UNKNOWN" => return Ok(None),
        "TCP4" => (v1_address::<Ipv4Addr>(word())?, v1_address::<Ipv4Addr>(word())?),
        "TCP6" => (v1_address::<Ipv6Addr>(word())?, v1_address::<Ipv6Addr>(word())?),
        _ => return Err(ProxyHeaderError),
    };
    let (port, _) = (v1_port(word())?, v1_port(word())?);
    if words.next().is_some() { Err(ProxyHeaderError) } else { Ok(Some(SocketAddr::new(source, port))) }
}

fn v1_address<A: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, ProxyHeaderError> {
    text.parse::<A>().map(Into::into).map_err(|_| ProxyHeaderError)
}

/// Reads a decimal number without leading zeros.
fn v1_port(text: &str) -> Result<u16, ProxyHeaderError> {
    let is_canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_canonical).ok_or(ProxyHeaderError)
}

/// The kind of the addresses in version 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Ipv4,
    Ipv6,
    Unix,
    /// Unspecified: the addresses and their length have no meaning.
    Other,
}

impl Family {
    /// Reads the byte of family (high half) and transport (low half; stream and datagram have the same addresses).
    fn of(byte: u8) -> Option<Self> {
        match (byte >> 4, byte & 0xf) {
            (0..=3, 0) | (0, 1..=2) => Some(Self::Other),
            (1, 1..=2) => Some(Self::Ipv4),
            (2, 1..=2) => Some(Self::Ipv6),
            (3, 1..=2) => Some(Self::Unix),
            _ => None,
        }
    }

    /// Returns the length of both addresses with their ports, in bytes.
    fn address_bytes(self) -> usize {
        match self {
            Self::Ipv4 => 12,
            Self::Ipv6 => 36,
            Self::Unix => 216,
            Self::Other => 0,
        }
    }

    /// Returns the source. The order is: source address, destination address, source port, destination port.
    fn source(self, addresses: &[u8]) -> Option<SocketAddr> {
        match self {
            Self::Ipv4 => {
                let (address, rest) = addresses.split_first_chunk::<4>()?;
                Some(SocketAddr::new(Ipv4Addr::from(*address).into(), port_at(rest, 4)?))
            }
            Self::Ipv6 => {
                let (address, rest) = addresses.split_first_chunk::<16>()?;
                Some(SocketAddr::new(Ipv6Addr::from(*address).into(), port_at(rest, 16)?))
            }
            Self::Unix | Self::Other => None,
        }
    }
}

fn port_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|port| u16::from_be_bytes(*port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test that panics has failed")]

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

    /// Makes a header of version 2.
    fn v2(version_and_command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).expect("short enough").to_be_bytes();
        [&V2_SIGNATURE[..], &[version_and_command, family], &length, payload].concat()
    }

    fn v4_addresses() -> Vec<u8> {
        [&[192, 0, 2, 7][..], &[198, 51, 100, 1], &4711_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
    }

    fn v6_addresses() -> Vec<u8> {
        let address = |last: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).octets();
        [&address(7)[..], &address(1), &4711_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
    }

    /// Parses `header` with a request after it, byte by byte, and checks the result for each prefix.
    #[track_caller]
    fn source(header: &[u8], versions: ProxyVersions) -> Option<SocketAddr> {
        for end in 0..header.len() {
            let beginning = &header[..end];
            assert_eq!(ProxyHeader::parse(beginning, versions), Ok(None), "{}", beginning.escape_ascii());
        }
        let alone = ProxyHeader::parse(header, versions).expect("a valid header").expect("a complete header");
        let followed = ProxyHeader::parse(&[header, REQUEST].concat(), versions);
        assert_eq!((alone.bytes, followed), (header.len(), Ok(Some(alone))));
        alone.source
    }

    /// Returns the length of the first prefix that is an error. Checks that every longer prefix is an error too.
    #[track_caller]
    fn error_at(bytes: &[u8], versions: ProxyVersions) -> usize {
        let is_error = |end: usize| ProxyHeader::parse(&bytes[..end], versions) == Err(ProxyHeaderError);
        let first = (0..=bytes.len()).find(|end| is_error(*end));
        let first = first.unwrap_or_else(|| panic!("taken: {}", bytes.escape_ascii()));
        assert!((first..=bytes.len()).all(is_error), "{}", bytes.escape_ascii());
        first
    }

    #[test]
    fn v1_with_addresses_gives_the_source() {
        for versions in [ProxyVersions::V1, ProxyVersions::Any] {
            let read = |header: &[u8]| source(header, versions).map(|source| source.to_string());
            let v4 = read(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n");
            assert_eq!(v4.as_deref(), Some("192.0.2.7:4711"));
            assert_eq!(read(b"PROXY TCP6 2001:db8::7 ::1 0 65535\r\n").as_deref(), Some("[2001:db8::7]:0"));
        }
    }

    #[test]
    fn v1_unknown_keeps_the_real_address() {
        let longest = format!("PROXY UNKNOWN{} 65535 65535\r\n", format!(" {}", ["ffff"; 8].join(":")).repeat(2));
        assert_eq!(longest.len(), V1_BYTES_MAX);
        for header in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN any thing\t\xff\r\n", longest.as_bytes()] {
            assert_eq!(source(header, ProxyVersions::Any), None);
        }
    }

    #[test]
    fn v1_malformed_is_an_error_at_its_end() {
        for line in [
            "TCP4 192.0.2.7 198.51.100.1 4711",
            "TCP4 192.0.2.7 198.51.100.1 4711 443 1",
            "TCP4 192.0.2.7 198.51.100.1 4711 443 ",
            "TCP4  192.0.2.7 198.51.100.1 4711 443",
            "TCP4 192.0.2.07 198.51.100.1 4711 443",
            "TCP4 192.0.2.7 198.51.100.1 04711 443",
            "TCP4 192.0.2.7 198.51.100.1 +471 443",
            "TCP4 192.0.2.7 198.51.100.1 65536 443",
            "TCP4 192.0.2.7 198.51.100.1 4711 -1",
            "TCP4 192.0.2.7 198.51.100.1  443",
            "TCP4 ::1 ::1 1 2",
            "TCP4 192.0.2.7 ::1 1 2",
            "TCP6 192.0.2.7 192.0.2.7 1 2",
            "TCP6 [::1] ::1 1 2",
            "TCP6 fe80::1%eth0 ::1 1 2",
            "tcp4 192.0.2.7 198.51.100.1 4711 443",
            "UDP4 192.0.2.7 198.51.100.1 4711 443",
            "UNKNOWNS",
            "",
        ] {
            let header = format!("PROXY {line}\r\n");
            assert_eq!(error_at(header.as_bytes(), ProxyVersions::V1), header.len(), "{header}");
        }
        assert_eq!(error_at(b"PROXY UNKNOWN\nGET", ProxyVersions::V1), 14);
        assert_eq!(error_at(b"PROXY UNKNOWN\rGET", ProxyVersions::V1), 15);
        assert_eq!(error_at(b"PROXY TCP4 \xff\r\n", ProxyVersions::V1), 14);
    }

    #[test]
    fn v1_too_long_is_an_error_before_its_end() {
        for too_long in ["x".repeat(200), format!("{}\r\n", "x".repeat(V1_BYTES_MAX - 14 - 1))] {
            assert_eq!(error_at(format!("PROXY UNKNOWN {too_long}").as_bytes(), ProxyVersions::Any), V1_BYTES_MAX);
        }
    }

    #[test]
    fn something_else_is_an_error_at_its_first_wrong_byte() {
        assert_eq!(error_at(REQUEST, ProxyVersions::Any), 1);
        assert_eq!(error_at(REQUEST, ProxyVersions::V1), 1);
        assert_eq!(error_at(b"PROPFIND / HTTP/1.1\r\n", ProxyVersions::Any), 4);
        assert_eq!(error_at(b"PROXYX", ProxyVersions::Any), 6);
        assert_eq!(error_at(b"\r\nGET / HTTP/1.1\r\n", ProxyVersions::Any), 3);
        assert_eq!(error_at(b"PROXY UNKNOWN\r\n", ProxyVersions::V2), 1);
        assert_eq!(error_at(&v2(0x21, 0x11, &v4_addresses()), ProxyVersions::V1), 1);
    }

    #[test]
    fn v2_with_addresses_gives_the_source() {
        for versions in [ProxyVersions::V2, ProxyVersions::Any] {
            // The bytes after the addresses are skipped.
            for more in [&[][..], &[3, 0, 4, 1, 2, 3, 4], &[0xff; 700]] {
                let read = |family, addresses: Vec<u8>| {
                    source(&v2(0x21, family, &[&addresses, more].concat()), versions).map(|source| source.to_string())
                };
                for transport in [1, 2] {
                    assert_eq!(read(0x10 | transport, v4_addresses()).as_deref(), Some("192.0.2.7:4711"));
                    assert_eq!(read(0x20 | transport, v6_addresses()).as_deref(), Some("[2001:db8::7]:4711"));
                }
            }
        }
    }

    #[test]
    fn v2_without_ip_addresses_keeps_the_real_one() {
        for (command, family, payload) in [
            (0x20, 0x00, vec![]),
            (0x20, 0x11, v4_addresses()),
            (0x20, 0x11, vec![1]),
            (0x20, 0xff, vec![2; 300]),
            (0x21, 0x00, vec![]),
            (0x21, 0x00, vec![3; 20]),
            (0x21, 0x10, v4_addresses()),
            (0x21, 0x31, vec![b'/'; 216]),
            (0x21, 0x32, vec![b'/'; 230]),
        ] {
            assert_eq!(source(&v2(command, family, &payload), ProxyVersions::V2), None, "{command:x} {family:x}");
        }
    }

    #[test]
    fn v2_malformed_is_an_error_as_soon_as_it_shows() {
        let at = |command, family, payload: &[u8]| error_at(&v2(command, family, payload), ProxyVersions::Any);
        for command in [0x00, 0x01, 0x10, 0x11, 0x22, 0x2f, 0x31, 0xff] {
            assert_eq!(at(command, 0x11, &v4_addresses()), 13);
        }
        for family in [0x03, 0x13, 0x1f, 0x40, 0x41, 0xff] {
            assert_eq!(at(0x21, family, &v4_addresses()), 14);
        }
        assert_eq!(at(0x21, 0x11, &[0; 11]), 16);
        assert_eq!(at(0x21, 0x21, &[0; 35]), 16);
        assert_eq!(at(0x21, 0x31, &[0; 215]), 16);
        let mut signature = *V2_SIGNATURE;
        signature[11] = b'\r';
        assert_eq!(error_at(&signature, ProxyVersions::V2), 12);
    }
}
