//! Where to listen: reads the addresses of `--bind`, or those of the environment if `--bind` is not given.
//!
//! *Owns*: nothing; text in, addresses out. This module opens no socket and resolves no name. *Runs on*: the main
//! thread, while the settings are read. *Source*: gunicorn's `--bind`; `sd_listen_fds(3)` for `LISTEN_PID` and
//! `LISTEN_FDS`.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::Origin;

/// The first file descriptor that a service manager passes (`sd_listen_fds(3)`).
const INHERITED_FD_FIRST: i32 = 3;

/// The port if only a host is given, as in gunicorn.
pub const PORT_DEFAULT: u16 = 8000;

/// The longest path of a unix socket, in bytes: `sun_path` holds 108 with the NUL at its end (`unix(7)`).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// The error message for an invalid value of `--bind`.
const EXPECTED: &str = "expected host:port, [v6]:port, unix:PATH, unix:@NAME or fd://N";

/// The error message for an invalid port.
const PORT_EXPECTED: &str = "expected a port from 0 to 65535 after the colon, such as 127.0.0.1:8000";

/// The host if only `--port` is given.
pub const HOST_DEFAULT: &str = "127.0.0.1";

/// The port of `http://host` (RFC 9110 §4.2.1).
const HTTP_PORT: u16 = 80;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `host:port` or `[v6]:port`; the host may be a name.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// The port; 0: any free one.
        port: u16,
    },
    /// `unix:PATH`
    Unix(PathBuf),
    /// `unix:@NAME`: a unix socket without a file (unix(7), "abstract").
    Abstract(String),
    /// `fd://N`: an inherited listening socket.
    Fd(i32),
}

impl ListenAddress {
    /// Reads one address: `host:port`, `host`, `:port`, `[v6]:port`, `unix:PATH`, `unix:@NAME`, `fd://N`, and the forms
    /// of other servers: `tcp://host:port`, `http://host:port/`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            return parse_unix(path);
        }
        if let Some(number) = text.strip_prefix("fd://") {
            let fd = digits(number).and_then(|number| number.parse().ok());
            return fd.map(Self::Fd).ok_or_else(|| {
                "expected fd://N, where N is the number of an inherited listening socket, such as fd://3".to_owned()
            });
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return parse_url(scheme, rest);
        }
        parse_tcp(text, PORT_DEFAULT)
    }

    /// Reads the text after `http://`.
    pub(super) fn parse_place(text: &str, port_default: u16) -> Result<Self, String> {
        match text.strip_suffix('/').unwrap_or(text) {
            "" => Err(EXPECTED.to_owned()),
            path if path.contains('/') => Err("expected http://host:port without a path".to_owned()),
            place => parse_tcp(place, port_default),
        }
    }

    /// Returns the address of `--host` and `--port`.
    pub(super) fn of_parts(host: Option<&str>, port: Option<u16>) -> Self {
        Self::Tcp { host: host.unwrap_or(HOST_DEFAULT).to_owned(), port: port.unwrap_or(PORT_DEFAULT) }
    }
}

/// Reads the text after `tcp://` or `http://`.
fn parse_url(scheme: &str, rest: &str) -> Result<ListenAddress, String> {
    match scheme.to_ascii_lowercase().as_str() {
        "tcp" => parse_tcp(rest, PORT_DEFAULT),
        "http" => ListenAddress::parse_place(rest, HTTP_PORT),
        "https" => Err("there is no TLS on this address: use http://host:port".to_owned()),
        _ => Err(EXPECTED.to_owned()),
    }
}

fn parse_tcp(text: &str, port_default: u16) -> Result<ListenAddress, String> {
    match text.strip_prefix('[') {
        Some(rest) => parse_v6(rest, port_default),
        None => parse_host(text, port_default),
    }
}

/// Reads the value of `--host`: a name or an address, without a port.
pub(super) fn parse_host_alone(text: &str) -> Result<String, String> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if bare.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()) {
        return Ok(bare.to_owned());
    }
    let wrong =
        "expected a host or an address, such as 0.0.0.0 or ::1; a port goes into --port, anything else into --bind";
    if text.contains(':') || text.is_empty() {
        return Err(wrong.to_owned());
    }
    match parse_host(text, PORT_DEFAULT) {
        Ok(ListenAddress::Tcp { host, .. }) => Ok(host),
        _ => Err(wrong.to_owned()),
    }
}

/// Reads the text after `unix:`. A leading `//` is dropped, as in gunicorn: `unix:///run/x` is `/run/x`. A file whose
/// name begins with `@` is written `unix:./@name`.
fn parse_unix(path: &str) -> Result<ListenAddress, String> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.contains('\0') {
        return Err("expected unix:PATH, such as unix:/run/maypole.sock".to_owned());
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err(format!("expected a path of at most {UNIX_PATH_BYTES_MAX} bytes after unix:"));
    }
    // The length limit is the same for both forms: an abstract name begins with a NUL, a path ends with one.
    match path.strip_prefix('@') {
        Some("") => Err("expected unix:@NAME, such as unix:@maypole".to_owned()),
        Some(name) => Ok(ListenAddress::Abstract(name.to_owned())),
        None => Ok(ListenAddress::Unix(PathBuf::from(path))),
    }
}

/// Reads the text after `[`.
fn parse_v6(rest: &str, port_default: u16) -> Result<ListenAddress, String> {
    let wrong = || "expected [v6]:port, such as [::1]:8000".to_owned();
    let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
    // A zone, as in fe80::1%eth0, is checked by the resolver.
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    address.parse::<Ipv6Addr>().map_err(|_| wrong())?;
    let port = match port.strip_prefix(':') {
        Some(port) => parse_port(port)?,
        None if port.is_empty() => port_default,
        None => return Err(wrong()),
    };
    Ok(ListenAddress::Tcp { host: host.to_owned(), port })
}

/// Reads `host:port`, `host` or `:port` (every address).
fn parse_host(text: &str, port_default: u16) -> Result<ListenAddress, String> {
    let (host, port) = match text.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            return Err("expected an IPv6 address in brackets, such as [::1]:8000".to_owned());
        }
        Some((host, port)) => (host, parse_port(port)?),
        None => (text, port_default),
    };
    let host = match host {
        "" if text.is_empty() => return Err(EXPECTED.to_owned()),
        "" | "*" => "0.0.0.0",
        host => host,
    };
    if digits(host).is_some() {
        // As a host it would be an IPv4 address in one number: 8000 is 0.0.31.64.
        return Err(format!(
            "a port needs a host before it: {HOST_DEFAULT}:{host} is for this machine only, 0.0.0.0:{host} for every address"
        ));
    }
    if host.contains('/') && !host.contains('$') {
        return Err(format!("{EXPECTED}; did you mean unix:{host}?"));
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(EXPECTED.to_owned());
    }
    Ok(ListenAddress::Tcp { host: host.to_owned(), port })
}

fn parse_port(text: &str) -> Result<u16, String> {
    if text.starts_with('$') {
        return Err(format!(
            "no shell has replaced {text} by its value. If the variable PORT is set, Maypole listens on 0.0.0.0:$PORT \
             without --bind"
        ));
    }
    let port = digits(text).and_then(|port| port.parse().ok());
    port.ok_or_else(|| PORT_EXPECTED.to_owned())
}

/// Returns `text` if it consists of ASCII digits. (`parse` alone would accept a sign.)
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Fd(fd) => write!(f, "fd://{fd}"),
        }
    }
}

/// Returns the addresses that the environment names, for a start without `--bind`: the sockets that the service manager
/// passed to the process `pid`, else `0.0.0.0:$PORT`. `None` if the environment names none. An empty variable counts as
/// unset.
pub(super) fn from_environment(
    variable: &dyn Fn(&str) -> Option<String>,
    pid: u32,
) -> Result<Option<(Vec<ListenAddress>, Origin)>, String> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if set("LISTEN_PID").is_some_and(|owner| owner == pid.to_string()) {
        let count = set("LISTEN_FDS").unwrap_or_default();
        let count: i32 = digits(&count)
            .and_then(|count| count.parse().ok())
            .filter(|count| *count <= 1024)
            .ok_or_else(|| format!("invalid value '{count}' for LISTEN_FDS: expected a number of sockets"))?;
        if count > 0 {
            let sockets = (0..count).map(|n| ListenAddress::Fd(INHERITED_FD_FIRST + n)).collect();
            return Ok(Some((sockets, Origin::Systemd)));
        }
    }
    let Some(port) = port_variable(variable)? else { return Ok(None) };
    let address = ListenAddress::Tcp { host: "0.0.0.0".to_owned(), port };
    Ok(Some((vec![address], Origin::Variable("PORT".to_owned()))))
}

/// Returns the port in the variable PORT. `None` if the variable is unset or empty.
pub(super) fn port_variable(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<u16>, String> {
    let Some(text) = variable("PORT").filter(|value| !value.is_empty()) else { return Ok(None) };
    let port = digits(&text).and_then(|port| port.parse().ok());
    port.map(Some).ok_or_else(|| format!("invalid value '{text}' for PORT: expected a port from 0 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> ListenAddress {
        ListenAddress::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn address_of_each_kind_is_read() {
        for (text, address) in [
            ("127.0.0.1:8000", tcp("127.0.0.1", 8000)),
            ("localhost:0", tcp("localhost", 0)),
            ("localhost", tcp("localhost", 8000)),
            (":80", tcp("0.0.0.0", 80)),
            ("*:80", tcp("0.0.0.0", 80)),
            ("[::1]:8443", tcp("::1", 8443)),
            ("[::]", tcp("::", 8000)),
            ("[fe80::1%eth0]:80", tcp("fe80::1%eth0", 80)),
            ("unix:/run/x.sock", ListenAddress::Unix("/run/x.sock".into())),
            ("unix:///run/x.sock", ListenAddress::Unix("/run/x.sock".into())),
            ("unix:x.sock", ListenAddress::Unix("x.sock".into())),
            ("unix:@shop", ListenAddress::Abstract("shop".into())),
            ("unix://@shop/web", ListenAddress::Abstract("shop/web".into())),
            ("unix:./@shop", ListenAddress::Unix("./@shop".into())),
            ("fd://3", ListenAddress::Fd(3)),
            ("tcp://127.0.0.1:80", tcp("127.0.0.1", 80)),
            ("tcp://[::1]", tcp("::1", 8000)),
            ("http://127.0.0.1:8000/", tcp("127.0.0.1", 8000)),
            ("HTTP://localhost", tcp("localhost", 80)),
            ("http://:8000", tcp("0.0.0.0", 8000)),
        ] {
            assert_eq!(ListenAddress::parse(text), Ok(address), "{text}");
        }
    }

    #[test]
    fn address_that_is_none_says_what_would_be_right() {
        for (text, error) in [
            ("", EXPECTED),
            ("http://x/shop", "expected http://host:port without a path"),
            ("http://", EXPECTED),
            ("ws://x", EXPECTED),
            ("tcp://", EXPECTED),
            ("https://x", "there is no TLS on this address: use http://host:port"),
            (
                "8000",
                "a port needs a host before it: 127.0.0.1:8000 is for this machine only, 0.0.0.0:8000 for every address",
            ),
            (
                "/run/x.sock",
                "expected host:port, [v6]:port, unix:PATH, unix:@NAME or fd://N; did you mean unix:/run/x.sock?",
            ),
            (
                "0.0.0.0:$PORT",
                "no shell has replaced $PORT by its value. If the variable PORT is set, Maypole listens on 0.0.0.0:$PORT \
                 without --bind",
            ),
            ("a b:80", EXPECTED),
            ("x:", "expected a port from 0 to 65535 after the colon, such as 127.0.0.1:8000"),
            ("x:65536", "expected a port from 0 to 65535 after the colon, such as 127.0.0.1:8000"),
            ("x:+80", "expected a port from 0 to 65535 after the colon, such as 127.0.0.1:8000"),
            ("::1:80", "expected an IPv6 address in brackets, such as [::1]:8000"),
            ("[::1", "expected [v6]:port, such as [::1]:8000"),
            ("[::1]80", "expected [v6]:port, such as [::1]:8000"),
            ("[x]:80", "expected [v6]:port, such as [::1]:8000"),
            ("unix:", "expected unix:PATH, such as unix:/run/maypole.sock"),
            ("unix:@", "expected unix:@NAME, such as unix:@maypole"),
            ("fd://", "expected fd://N, where N is the number of an inherited listening socket, such as fd://3"),
            ("fd://-1", "expected fd://N, where N is the number of an inherited listening socket, such as fd://3"),
        ] {
            assert_eq!(ListenAddress::parse(text).unwrap_err(), error, "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert_eq!(ListenAddress::parse(&long).unwrap_err(), "expected a path of at most 107 bytes after unix:");
    }

    #[test]
    fn address_printed_reads_back() {
        for text in ["127.0.0.1:8000", "[::1]:8443", "unix:/run/x.sock", "unix:@shop", "fd://3", "localhost:0"] {
            assert_eq!(ListenAddress::parse(text).unwrap().to_string(), text);
        }
    }

    fn resolve(variables: &[(&str, &str)]) -> Result<Option<Vec<ListenAddress>>, String> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Ok(from_environment(&find, 42)?.map(|(addresses, _)| addresses))
    }

    #[test]
    fn host_alone_has_no_port() {
        for (text, host) in [("0.0.0.0", "0.0.0.0"), ("*", "0.0.0.0"), ("::1", "::1"), ("[::]", "::"), ("shop", "shop")]
        {
            assert_eq!(parse_host_alone(text).as_deref(), Ok(host), "{text}");
        }
        for text in ["", "0.0.0.0:80", "[::1]:80", "unix:/run/x", "8000", "a/b"] {
            assert!(parse_host_alone(text).is_err(), "{text}");
        }
    }

    #[test]
    fn environment_without_a_word_leaves_the_default() {
        assert_eq!(resolve(&[]), Ok(None));
        assert_eq!(resolve(&[("PORT", "")]), Ok(None));
    }

    #[test]
    fn port_variable_opens_every_address() {
        assert_eq!(resolve(&[("PORT", "5000")]), Ok(Some(vec![tcp("0.0.0.0", 5000)])));
    }

    #[test]
    fn port_variable_that_is_none_says_what_would_be_right() {
        for value in ["x", "65536", "-1", "tcp://10.0.0.1:80"] {
            let error = format!("invalid value '{value}' for PORT: expected a port from 0 to 65535");
            assert_eq!(resolve(&[("PORT", value)]), Err(error));
        }
    }

    #[test]
    fn passed_sockets_come_before_the_port() {
        let variables = [("LISTEN_PID", "42"), ("LISTEN_FDS", "2"), ("PORT", "5000")];
        assert_eq!(resolve(&variables), Ok(Some(vec![ListenAddress::Fd(3), ListenAddress::Fd(4)])));
    }

    #[test]
    fn passed_sockets_of_another_process_are_left_alone() {
        assert_eq!(resolve(&[("LISTEN_PID", "41"), ("LISTEN_FDS", "2")]), Ok(None));
    }

    #[test]
    fn passed_sockets_without_a_number_are_refused() {
        let error = "invalid value 'two' for LISTEN_FDS: expected a number of sockets";
        assert_eq!(resolve(&[("LISTEN_PID", "42"), ("LISTEN_FDS", "two")]), Err(error.to_owned()));
    }
}
