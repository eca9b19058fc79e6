//! Where to listen: addresses as they are written in `--bind`, and what the environment says when there is none.
//!
//! *Owns*: nothing; text in, addresses out. No socket is touched and no name is resolved here.
//! *Runs on*: the main thread, while the settings are read.
//! *Source*: gunicorn's `--bind`; `sd_listen_fds(3)` for `LISTEN_PID` and `LISTEN_FDS`.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// The first file descriptor that a service manager passes (`sd_listen_fds(3)`).
const INHERITED_FD_FIRST: i32 = 3;

/// The port of a bare host, as gunicorn has it.
const PORT_DEFAULT: u16 = 8000;

/// The longest path of a unix socket, in bytes: `sun_path` holds 108 with the NUL at its end (`unix(7)`).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// What `--bind` takes.
const EXPECTED: &str = "expected host:port, [v6]:port, unix:PATH, unix:@NAME or fd://N";

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
    /// Reads one address: `host:port`, `host`, `:port`, `[v6]:port`, `unix:PATH`, `unix:@NAME`, `fd://N`.
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
        if let Some(rest) = text.strip_prefix('[') {
            return parse_v6(rest);
        }
        parse_host(text)
    }
}

/// What follows `unix:`. A leading `//` is taken off, as gunicorn takes it: `unix:///run/x` is `/run/x`. A file whose name
/// begins with `@` is `unix:./@name`.
fn parse_unix(path: &str) -> Result<ListenAddress, String> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.contains('\0') {
        return Err("expected unix:PATH, such as unix:/run/maypole.sock".to_owned());
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err(format!("expected a path of at most {UNIX_PATH_BYTES_MAX} bytes after unix:"));
    }
    // The NUL that an abstract name begins with takes the place of the one that a path ends with.
    match path.strip_prefix('@') {
        Some("") => Err("expected unix:@NAME, such as unix:@maypole".to_owned()),
        Some(name) => Ok(ListenAddress::Abstract(name.to_owned())),
        None => Ok(ListenAddress::Unix(PathBuf::from(path))),
    }
}

/// What follows `[`.
fn parse_v6(rest: &str) -> Result<ListenAddress, String> {
    let wrong = || "expected [v6]:port, such as [::1]:8000".to_owned();
    let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
    // A zone, as in fe80::1%eth0, is for the resolver to judge.
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    address.parse::<Ipv6Addr>().map_err(|_| wrong())?;
    let port = match port.strip_prefix(':') {
        Some(port) => parse_port(port)?,
        None if port.is_empty() => PORT_DEFAULT,
        None => return Err(wrong()),
    };
    Ok(ListenAddress::Tcp { host: host.to_owned(), port })
}

/// `host:port`, `host` or `:port` (every address).
fn parse_host(text: &str) -> Result<ListenAddress, String> {
    let (host, port) = match text.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            return Err("expected an IPv6 address in brackets, such as [::1]:8000".to_owned());
        }
        Some((host, port)) => (host, parse_port(port)?),
        None => (text, PORT_DEFAULT),
    };
    let host = match host {
        "" if text.is_empty() => return Err(EXPECTED.to_owned()),
        "" | "*" => "0.0.0.0",
        host => host,
    };
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(EXPECTED.to_owned());
    }
    Ok(ListenAddress::Tcp { host: host.to_owned(), port })
}

fn parse_port(text: &str) -> Result<u16, String> {
    let port = digits(text).and_then(|port| port.parse().ok());
    port.ok_or_else(|| "expected a port from 0 to 65535 after the colon, such as 127.0.0.1:8000".to_owned())
}

/// `text`, if it is ASCII digits and nothing else (`parse` alone would take a sign).
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

/// Where to listen when no `--bind` is given and the environment has an opinion: the sockets that the service
/// manager passed to the process `pid`, else `0.0.0.0:$PORT`. An empty variable counts as unset.
pub fn from_environment(
    variable: &dyn Fn(&str) -> Option<String>,
    pid: u32,
) -> Result<Option<Vec<ListenAddress>>, String> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    if variable("LISTEN_PID").is_some_and(|owner| owner == pid.to_string()) {
        let count = variable("LISTEN_FDS").unwrap_or_default();
        let count: i32 = digits(&count)
            .and_then(|count| count.parse().ok())
            .filter(|count| *count <= 1024)
            .ok_or_else(|| format!("invalid value '{count}' for LISTEN_FDS: expected a number of sockets"))?;
        if count > 0 {
            return Ok(Some((0..count).map(|n| ListenAddress::Fd(INHERITED_FD_FIRST + n)).collect()));
        }
    }
    let Some(port) = variable("PORT") else { return Ok(None) };
    let port = digits(&port)
        .and_then(|port| port.parse().ok())
        .ok_or_else(|| format!("invalid value '{port}' for PORT: expected a port from 0 to 65535"))?;
    Ok(Some(vec![ListenAddress::Tcp { host: "0.0.0.0".to_owned(), port }]))
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
        ] {
            assert_eq!(ListenAddress::parse(text), Ok(address), "{text}");
        }
    }

    #[test]
    fn address_that_is_none_says_what_would_be_right() {
        for (text, error) in [
            ("", EXPECTED),
            ("http://x", "expected a port from 0 to 65535 after the colon, such as 127.0.0.1:8000"),
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
        from_environment(&find, 42)
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
