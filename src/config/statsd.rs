//! The settings of StatsD.
//!
//! *Owns*: `StatsdSettings`, a part of `StatusSettings`. *Runs on*: the main thread, while the settings are read.
//! *Invariants*: as for `Config`. *Source*: gunicorn's `--statsd-host` for the forms of the address and of the prefix.

use std::fmt;
use std::path::PathBuf;

use clap::Args;

use super::STATUS;

/// The port of StatsD.
const PORT: u16 = 8125;

/// The settings of StatsD.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct StatsdSettings {
    /// Send the numbers to a StatsD server once a second, at `HOST:PORT` or `unix:///PATH`. Default: to none
    ///
    /// The names are gunicorn's, such as `gunicorn.requests`, and some more. See
    /// [StatsD](../howto/status.md#statsd). The server's sockets are those of datagrams: UDP, or a unix socket.
    #[arg(long, value_name = "ADDRESS", value_parser = StatsdAddress::parse, help_heading = STATUS)]
    pub statsd_host: Option<StatsdAddress>,

    /// Put this and a dot before each name for StatsD, such as `shop`. Default: nothing
    #[arg(long, value_name = "PREFIX", value_parser = prefix, help_heading = STATUS)]
    pub statsd_prefix: Option<String>,

    /// Add these tags for DogStatsD to each number, such as `service:shop,env:live`. Default: none
    ///
    /// A StatsD server that does not know tags may refuse the numbers.
    #[arg(long, value_name = "TAGS", value_parser = tags, help_heading = STATUS)]
    pub dogstatsd_tags: Option<String>,
}

/// The address of a StatsD server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatsdAddress {
    /// A unix socket of datagrams.
    Unix(PathBuf),
    /// A host and a port, over UDP.
    Udp(String, u16),
}

impl StatsdAddress {
    /// Reads `HOST:PORT`, `HOST`, `[::1]:PORT`, `unix:///PATH` or `unix:PATH`.
    fn parse(text: &str) -> Result<Self, String> {
        let expected = || "expected HOST:PORT or unix:///PATH".to_owned();
        let text = text.trim();
        // A host may have the name `unix`. gunicorn reads digits behind the colon as its port.
        let is_port = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(path) = text.strip_prefix("unix:").filter(|rest| !is_port(rest)) {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(expected()) } else { Ok(Self::Unix(path.into())) };
        }
        let text = text.strip_prefix("udp://").or_else(|| text.strip_prefix("tcp://")).unwrap_or(text);
        let (host, port) = match text.rsplit_once(':') {
            // The last colon is a part of an IPv6 address in brackets.
            Some((_, end)) if end.ends_with(']') => (text, PORT),
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0).ok_or_else(expected)?),
            None => (text, PORT),
        };
        // As in gunicorn, a port alone is one of this machine.
        let host = if host.is_empty() && !text.is_empty() { "localhost" } else { host };
        match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => Ok(Self::Udp(address.to_owned(), port)),
            None if !host.is_empty() && !host.contains(['/', ' ', ':', '[', ']']) => {
                Ok(Self::Udp(host.to_ascii_lowercase(), port))
            }
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for StatsdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) if path.is_absolute() => write!(f, "unix://{}", path.display()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Udp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// Reads a prefix, with or without dots at its end.
fn prefix(text: &str) -> Result<String, String> {
    let prefix = text.trim().trim_end_matches('.');
    if prefix.chars().any(|character| character.is_whitespace() || ":|@#".contains(character)) {
        return Err("expected a name such as shop or shop.web, without spaces, ':', '|', '@' and '#'".to_owned());
    }
    Ok(prefix.to_owned())
}

/// Reads tags.
fn tags(text: &str) -> Result<String, String> {
    let tags = text.trim();
    if tags.chars().any(|character| character.is_control() || character == '|') {
        return Err("expected tags such as service:shop,env:live, without '|'".to_owned());
    }
    Ok(tags.to_owned())
}

impl StatsdSettings {
    /// Returns the settings with their values.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let none = || "none".to_owned();
        vec![
            ("statsd_host", self.statsd_host.as_ref().map_or_else(none, ToString::to_string)),
            ("statsd_prefix", self.statsd_prefix.clone().unwrap_or_else(none)),
            ("dogstatsd_tags", self.dogstatsd_tags.clone().unwrap_or_else(none)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_read_as_gunicorn_reads_it() {
        for (text, printed) in [
            ("localhost:8125", "localhost:8125"),
            ("Metrics.example", "metrics.example:8125"),
            ("10.0.0.7:9125", "10.0.0.7:9125"),
            ("udp://10.0.0.7", "10.0.0.7:8125"),
            ("[::1]", "[::1]:8125"),
            ("[::1]:9125", "[::1]:9125"),
            ("unix:///run/statsd.sock", "unix:///run/statsd.sock"),
            ("unix:/run/statsd.sock", "unix:///run/statsd.sock"),
            ("unix:run/statsd.sock", "unix:run/statsd.sock"),
            ("unix:9125", "unix:9125"),
            (":9125", "localhost:9125"),
        ] {
            let address = StatsdAddress::parse(text).unwrap();
            assert_eq!(address.to_string(), printed);
            assert_eq!(StatsdAddress::parse(printed), Ok(address));
        }
        assert_eq!(StatsdAddress::parse("unix:9125"), Ok(StatsdAddress::Udp("unix".to_owned(), 9125)));
        for text in ["", ":", "::1", "host:", "host:0", "host:x", "unix:", "unix://", "[x]:1", "http://host"] {
            assert!(StatsdAddress::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefix_and_tags_cannot_break_a_line() {
        assert_eq!(
            ["shop", "shop.", "shop.web..", ""].map(|text| prefix(text).unwrap()),
            ["shop", "shop", "shop.web", ""]
        );
        assert!(["a b", "a:b", "a|b", "a\nb", "a@b"].iter().all(|text| prefix(text).is_err()));
        assert_eq!(tags(" a:b,c "), Ok("a:b,c".to_owned()));
        assert!(["a|b", "a\nb"].iter().all(|text| tags(text).is_err()));
    }
}
