//! The target of requests: `http://host:port/path`, or `host:port`.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;

/// The port of a URL without one (RFC 9110 §4.2.1).
const HTTP_PORT: u16 = 80;
/// How long one of several addresses may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A server, and the path to request there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Host and port as the user wrote them, for the Host field.
    pub authority: String,
    host: String,
    port: u16,
    /// Path and query, if the user gave a URL with a path.
    pub path: Option<String>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
        match scheme {
            None => {}
            Some(scheme) if scheme.eq_ignore_ascii_case("http") => {}
            Some(scheme) if scheme.eq_ignore_ascii_case("https") => {
                return Err("open_loop has no TLS: use an http:// URL".to_owned());
            }
            Some(scheme) => return Err(format!("'{scheme}' is not a scheme that open_loop knows: use an http:// URL")),
        }
        // A fragment is never sent (RFC 9110 §7.1).
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("a URL with a user name is not supported: use --header 'Authorization: …'".to_owned());
        }
        let (host, port) = split(authority, scheme.is_some())?;
        let path = match path {
            "" => None,
            path if path.starts_with('?') => Some(format!("/{path}")),
            path => Some(path.to_owned()),
        };
        let path = path.map(|path| checked_path(&path)).transpose()?;
        Ok(Self { authority: authority.to_owned(), host, port, path })
    }
}

/// Splits host and port: `host:port`, `[v6]:port` and, in a URL, `host`.
fn split(authority: &str, is_url: bool) -> Result<(String, u16), String> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bare.is_none() && host.contains(':') {
        return Err("an IPv6 address needs brackets, such as [::1]:8000".to_owned());
    }
    let host = bare.unwrap_or(host);
    if host.is_empty() {
        return Err("the host is missing: expected http://host:port/path or host:port".to_owned());
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|&port| port > 0),
        None if is_url => Some(HTTP_PORT),
        None => return Err("the port is missing: expected host:port or http://host:port/path".to_owned()),
    };
    let port = port.ok_or_else(|| "the port must be a number from 1 to 65535".to_owned())?;
    Ok((host.to_owned(), port))
}

/// Returns a path and query if a request line can contain it.
pub fn checked_path(path: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err("a path begins with '/'".to_owned());
    }
    match path.chars().find(|character| !character.is_ascii_graphic()) {
        Some(character) => Err(format!("a path cannot have {character:?}: write it as %XX")),
        None => Ok(path.to_owned()),
    }
}

impl Target {
    /// Returns the server's address. If the name has several, it is the first that accepts a connection.
    ///
    /// # Errors
    /// The name has no address.
    pub fn resolve(&self) -> anyhow::Result<SocketAddr> {
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let addresses: Vec<_> = found.with_context(|| format!("cannot resolve '{}'", self.host))?.collect();
        let accepts = |address: &&SocketAddr| TcpStream::connect_timeout(address, CONNECT_MAX).is_ok();
        let chosen = if addresses.len() > 1 { addresses.iter().find(accepts) } else { None };
        chosen.or(addresses.first()).copied().with_context(|| format!("'{}' has no address", self.host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> (String, String, u16, Option<String>) {
        let target: Target = text.parse().unwrap();
        (target.authority, target.host, target.port, target.path)
    }

    fn parts(authority: &str, host: &str, port: u16, path: Option<&str>) -> (String, String, u16, Option<String>) {
        (authority.to_owned(), host.to_owned(), port, path.map(str::to_owned))
    }

    #[test]
    fn url_and_address_name_the_same_server() {
        assert_eq!(target("127.0.0.1:8000"), parts("127.0.0.1:8000", "127.0.0.1", 8000, None));
        assert_eq!(target("http://127.0.0.1:8000"), parts("127.0.0.1:8000", "127.0.0.1", 8000, None));
        assert_eq!(target("http://a.example:81/x?y=1#z"), parts("a.example:81", "a.example", 81, Some("/x?y=1")));
        assert_eq!(target("http://a.example?y"), parts("a.example", "a.example", 80, Some("/?y")));
        assert_eq!(target("HTTP://[::1]:8000/"), parts("[::1]:8000", "::1", 8000, Some("/")));
        assert_eq!(target("http://[::1]"), parts("[::1]", "::1", 80, None));
    }

    #[test]
    fn wrong_target_is_a_sentence() {
        for (text, words) in [
            ("https://a.example/", "no TLS"),
            ("ftp://a.example/", "'ftp'"),
            ("a.example", "port is missing"),
            ("a.example:http", "from 1 to 65535"),
            ("http://a.example:0/", "from 1 to 65535"),
            ("http://a.example:65536/", "from 1 to 65535"),
            ("http:///path", "host is missing"),
            ("::1:8000", "brackets"),
            ("http://me@a.example/", "Authorization"),
            ("http://a.example/a b", "%XX"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
