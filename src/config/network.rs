//! Networks of addresses, as in `--proxy-allow-from`.
//!
//! *Owns*: nothing; text in, networks out. *Runs on*: the main thread, which reads networks from the settings; the
//! coroutines of connections, which call `contains`. *Source*: RFC 4632 §3.1 and RFC 4291 §2.3 for the notation.

use std::fmt;
use std::net::IpAddr;

/// The error message of `Network::parse`.
const EXPECTED: &str = "expected an IP address, a network such as 10.0.0.0/8 or fd00::/8, or *";

/// A set of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// `*`
    All,
    /// The addresses whose first `prefix` bits are those of `address`. The remaining bits of `address` are 0.
    Prefix {
        /// The first address.
        address: IpAddr,
        /// The number of bits that are compared.
        prefix: u8,
    },
}

impl Network {
    /// Reads `*`, an address, or an address and a prefix length. Bits after the prefix are ignored.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self::All);
        }
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address = address.parse::<IpAddr>().map_err(|_| EXPECTED.to_owned())?;
        let width = width_of(address);
        let prefix = match prefix {
            None => width,
            Some(prefix) => {
                let is_number = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
                let bits = prefix.parse().ok().filter(|bits| is_number && *bits <= width);
                bits.ok_or_else(|| format!("expected a prefix length from 0 to {width} after /"))?
            }
        };
        let address = match address {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & !u32::MAX.checked_shr(prefix.into()).unwrap_or(0)).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::MAX.checked_shr(prefix.into()).unwrap_or(0)).into()),
        };
        Ok(Self::Prefix { address, prefix })
    }

    /// Returns whether every address of the network is one of this machine.
    pub fn contains_only_loopback(&self) -> bool {
        match *self {
            Self::All => false,
            Self::Prefix { address: IpAddr::V4(first), prefix } => first.is_loopback() && prefix >= 8,
            Self::Prefix { address: IpAddr::V6(first), prefix } => first.is_loopback() && prefix == 128,
        }
    }

    /// Returns whether the network contains `address`. An IPv4 address in IPv6 form (`::ffff:…`) counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let Self::Prefix { address: first, prefix } = *self else { return true };
        let differing = match (first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(other)) => (first.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(first), IpAddr::V6(other)) => (first.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => return false,
        };
        differing >= u32::from(prefix)
    }
}

/// Returns the number of bits of an address.
fn width_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::All => f.write_str("*"),
            Self::Prefix { address, prefix } if prefix == width_of(address) => write!(f, "{address}"),
            Self::Prefix { address, prefix } => write!(f, "{address}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        Network::parse(network).unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn network_is_printed_as_it_is_read() {
        for text in ["*", "127.0.0.1", "::1", "10.0.0.0/8", "fd00::/8", "0.0.0.0/0", "::/0", "192.0.2.128/25"] {
            assert_eq!(Network::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Network::parse(" 10.1.2.3/8 ").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(Network::parse("2001:db8::1/33").unwrap().to_string(), "2001:db8::/33");
    }

    #[test]
    fn network_contains_what_begins_alike() {
        assert!(contains("*", "192.0.2.1") && contains("*", "::1"));
        assert!(contains("0.0.0.0/0", "192.0.2.1") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "::1") && !contains("::/0", "192.0.2.1"));
        assert!(contains("10.0.0.0/9", "10.127.255.255") && !contains("10.0.0.0/9", "10.128.0.0"));
        assert!(contains("127.0.0.1", "127.0.0.1") && !contains("127.0.0.1", "127.0.0.2"));
        assert!(contains("127.0.0.1", "::ffff:127.0.0.1") && !contains("127.0.0.1", "::127.0.0.1"));
        assert!(contains("fd00::/8", "fdff::1") && !contains("fd00::/8", "fe00::1"));
    }

    #[test]
    fn network_that_is_none_says_what_would_be_right() {
        for text in ["", "localhost", "10.0.0/8", "10.0.0.0.0", "*/8", "unix", "[::1]"] {
            assert_eq!(Network::parse(text).unwrap_err(), EXPECTED, "{text}");
        }
        for text in ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/-1", "10.0.0.0/8/8", "10.0.0.0/255.0.0.0"] {
            assert_eq!(Network::parse(text).unwrap_err(), "expected a prefix length from 0 to 32 after /", "{text}");
        }
        assert!(Network::parse("::/129").unwrap_err().contains("128"));
    }
}
