//! The settings of syslog.
//!
//! *Owns*: `SyslogSettings`, a part of `LogSettings`. *Runs on*: the main thread, while the settings are read.
//! *Invariants*: as for `Config`. *Source*: syslog(3) and RFC 3164 §4.1.1 for the facilities; gunicorn's `--log-syslog-to`
//! for the form of the address.

use std::fmt;
use std::path::PathBuf;

use clap::Args;

use super::LOGS;

/// The port of syslog.
const PORT: u16 = 514;

/// The longest prefix, in bytes.
const PREFIX_BYTES_MAX: usize = 64;

/// The settings of syslog.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SyslogSettings {
    /// Send log lines to syslog, besides the files. `--error-logfile none` leaves syslog alone
    ///
    /// [Syslog](logs.md#syslog) shows the form of the messages. They come from `maypole.error` and `maypole.access`.
    #[arg(long = "log-syslog", id = "log_syslog", help_heading = LOGS)]
    pub enabled: bool,

    /// Send them to `unix:///PATH`, `udp://HOST:PORT` or `tcp://HOST:PORT`
    ///
    /// The end `#dgram` or `#stream` of a path names the kind of the socket. Without it, Maypole tries both.
    #[arg(long = "log-syslog-to", id = "log_syslog_to", value_name = "ADDRESS", value_parser = SyslogAddress::parse)]
    #[arg(default_value = "unix:///dev/log", help_heading = LOGS)]
    pub to: SyslogAddress,

    /// Put this name into the tag of each message: `maypole.NAME.error`. Default: none
    #[arg(long = "log-syslog-prefix", id = "log_syslog_prefix", value_name = "NAME", value_parser = prefix)]
    #[arg(help_heading = LOGS)]
    pub prefix: Option<String>,

    /// Send the messages as this facility, such as `user`, `daemon` or `local0` to `local7`
    ///
    /// The daemon may write each facility to a file of its own.
    #[arg(long = "log-syslog-facility", id = "log_syslog_facility", value_name = "NAME", default_value = "user")]
    #[arg(value_parser = Facility::parse, help_heading = LOGS)]
    pub facility: Facility,

    /// Leave the lines of the access log out of syslog
    #[arg(long, help_heading = LOGS)]
    pub disable_redirect_access_to_syslog: bool,
}

/// The address of a syslog daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogAddress {
    /// A unix socket. `None`: of either kind.
    Unix(PathBuf, Option<SocketKind>),
    /// A host and a port, over UDP.
    Udp(String, u16),
    /// A host and a port, over TCP.
    Tcp(String, u16),
}

/// The kind of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// Each message is a datagram.
    Datagram,
    /// A message ends with a line break.
    Stream,
}

/// The facility of messages: an index of `FACILITIES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facility(u8);

/// The names of the facilities, with their numbers.
const FACILITIES: [(&str, u8); 21] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("security", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

impl Facility {
    fn parse(text: &str) -> Result<Self, String> {
        let name = text.trim().to_ascii_lowercase();
        let found = FACILITIES.iter().find(|(known, _)| *known == name);
        let expected = "expected a facility such as user, daemon or local0";
        found.map(|(_, number)| Self(*number)).ok_or_else(|| expected.to_owned())
    }

    /// Returns the number that RFC 3164 gives the facility.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl SyslogAddress {
    /// Reads `unix:///dev/log`, `unix:///dev/log#dgram`, `udp://HOST:PORT` or `tcp://HOST:PORT`.
    fn parse(text: &str) -> Result<Self, String> {
        let expected = || "expected unix:///PATH, udp://HOST:PORT or tcp://HOST:PORT".to_owned();
        let (scheme, rest) = text.trim().split_once("://").ok_or_else(expected)?;
        if scheme == "unix" {
            let (path, kind) = match rest.split_once('#') {
                None => (rest, None),
                Some((path, "dgram")) => (path, Some(SocketKind::Datagram)),
                Some((path, "stream")) => (path, Some(SocketKind::Stream)),
                Some(_) => return Err(expected()),
            };
            return if path.starts_with('/') { Ok(Self::Unix(path.into(), kind)) } else { Err(expected()) };
        }
        let (host, port) = match rest.rsplit_once(':') {
            // The last colon is a part of an IPv6 address in brackets.
            Some((_, end)) if end.ends_with(']') => (rest, PORT),
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0).ok_or_else(expected)?),
            None => (rest, PORT),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains(['/', ' ']) {
            return Err(expected());
        }
        match scheme {
            "udp" => Ok(Self::Udp(host.to_owned(), port)),
            "tcp" => Ok(Self::Tcp(host.to_owned(), port)),
            _ => Err(expected()),
        }
    }
}

/// Reads the name that the tag of a message has.
fn prefix(text: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if text.is_empty() || text.len() > PREFIX_BYTES_MAX || !text.bytes().all(is_part) {
        return Err(format!("expected 1 to {PREFIX_BYTES_MAX} letters, digits, dots, hyphens, slashes or underscores"));
    }
    Ok(text.to_owned())
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |host: &str| if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        match self {
            Self::Unix(path, None) => write!(f, "unix://{}", path.display()),
            Self::Unix(path, Some(SocketKind::Datagram)) => write!(f, "unix://{}#dgram", path.display()),
            Self::Unix(path, Some(SocketKind::Stream)) => write!(f, "unix://{}#stream", path.display()),
            Self::Udp(name, port) => write!(f, "udp://{}:{port}", host(name)),
            Self::Tcp(name, port) => write!(f, "tcp://{}:{port}", host(name)),
        }
    }
}

impl fmt::Display for Facility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = FACILITIES.iter().find(|(_, number)| *number == self.0);
        f.write_str(found.map_or("user", |(name, _)| name))
    }
}

impl SyslogSettings {
    /// Returns the settings with their values.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("log_syslog", self.enabled.to_string()),
            ("log_syslog_to", self.to.to_string()),
            ("log_syslog_prefix", self.prefix.clone().unwrap_or_else(|| "none".to_owned())),
            ("log_syslog_facility", self.facility.to_string()),
            ("disable_redirect_access_to_syslog", self.disable_redirect_access_to_syslog.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_read_and_printed() {
        for (text, printed) in [
            ("unix:///dev/log", "unix:///dev/log"),
            ("unix:///dev/log#dgram", "unix:///dev/log#dgram"),
            ("unix:///run/log#stream", "unix:///run/log#stream"),
            ("udp://logs", "udp://logs:514"),
            ("udp://[::1]", "udp://[::1]:514"),
            ("tcp://[::1]:6514", "tcp://[::1]:6514"),
            ("tcp://192.0.2.7:1514", "tcp://192.0.2.7:1514"),
        ] {
            let address = SyslogAddress::parse(text).unwrap();
            assert_eq!(address.to_string(), printed);
            assert_eq!(SyslogAddress::parse(printed), Ok(address));
        }
        for text in
            ["", "/dev/log", "unix://log", "unix:///dev/log#raw", "udp://", "udp://h:0", "udp://h:x", "tls://h:1"]
        {
            assert!(SyslogAddress::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn facility_is_read_and_printed() {
        let facility = |text| Facility::parse(text).map(|found| (found.number(), found.to_string()));
        assert_eq!(facility("LOCAL7"), Ok((23, "local7".to_owned())));
        assert_eq!(facility("security"), Ok((4, "auth".to_owned())));
        assert!(facility("local8").is_err());
        assert!(["shop", "a.b-c_d/e"].iter().all(|text| prefix(text).is_ok()));
        assert!(["", "a b", "a:b", "a\n", "a[1]"].iter().all(|text| prefix(text).is_err()));
    }
}
