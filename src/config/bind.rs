//! The addresses of `--bind`: where to listen, and whether with TLS.
//!
//! *Owns*: nothing; text in, addresses out. *Runs on*: the main thread, while the settings are read.

use std::fmt;

use super::{Config, ListenAddress};

/// Which protocol an address of `--bind` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// None: TLS if the server has a certificate, as with gunicorn.
    Default,
    /// `http://`: plain, also if the server has a certificate.
    Http,
    /// `https://`: TLS.
    Https,
}

/// An address of `--bind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The protocol that it names.
    pub scheme: Scheme,
    /// Where to listen.
    pub address: ListenAddress,
}

/// The port of `https://host` (RFC 9110 §4.2.2).
const HTTPS_PORT: u16 = 443;

impl Bind {
    /// Reads an address in one of the forms of `ListenAddress`, or after `http://` or `https://`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            _ => return ListenAddress::parse(text).map(Self::from),
        };
        let address = if rest.starts_with("unix:") || rest.starts_with("fd://") {
            ListenAddress::parse(rest)
        } else if scheme == Scheme::Https {
            ListenAddress::parse_place(rest, HTTPS_PORT).map_err(|error| error.replace("http://", "https://"))
        } else {
            ListenAddress::parse(text)
        };
        address.map(|address| Self { scheme, address })
    }
}

impl From<ListenAddress> for Bind {
    fn from(address: ListenAddress) -> Self {
        Self { scheme: Scheme::Default, address }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Default => "",
            Scheme::Http => "http://",
            Scheme::Https => "https://",
        };
        write!(f, "{scheme}{}", self.address)
    }
}

impl Config {
    /// Returns whether the server speaks TLS on an address.
    pub fn is_tls(&self, bind: &Bind) -> bool {
        match bind.scheme {
            Scheme::Default => self.tls.is_used(),
            Scheme::Http => false,
            Scheme::Https => true,
        }
    }

    /// Returns where the server listens.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.bind.iter().map(|bind| bind.address.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> ListenAddress {
        ListenAddress::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn address_may_have_a_scheme() {
        for (text, scheme, address, printed) in [
            ("x:1", Scheme::Default, tcp("x", 1), "x:1"),
            ("http://x", Scheme::Http, tcp("x", 80), "http://x:80"),
            ("https://x", Scheme::Https, tcp("x", 443), "https://x:443"),
            ("HTTPS://[::1]:8443/", Scheme::Https, tcp("::1", 8443), "https://[::1]:8443"),
            ("https://:8443", Scheme::Https, tcp("0.0.0.0", 8443), "https://0.0.0.0:8443"),
            ("https://unix:/run/x", Scheme::Https, ListenAddress::Unix("/run/x".into()), "https://unix:/run/x"),
            ("http://unix:@x", Scheme::Http, ListenAddress::Abstract("x".into()), "http://unix:@x"),
            ("https://fd://3", Scheme::Https, ListenAddress::Fd(3), "https://fd://3"),
            ("tcp://x:1", Scheme::Default, tcp("x", 1), "x:1"),
        ] {
            let bind = Bind::parse(text).unwrap();
            assert_eq!((bind.scheme, &bind.address, &*bind.to_string()), (scheme, &address, printed), "{text}");
            assert_eq!(Bind::parse(printed), Ok(bind));
        }
    }

    #[test]
    fn address_that_is_none_names_its_scheme() {
        assert_eq!(Bind::parse("https://x/shop").unwrap_err(), "expected https://host:port without a path");
        assert_eq!(Bind::parse("http://x/shop").unwrap_err(), "expected http://host:port without a path");
        assert!(Bind::parse("https://").is_err() && Bind::parse("ws://x").is_err());
    }

    #[test]
    fn address_without_a_scheme_has_tls_if_there_is_a_certificate() {
        let is_tls = |args: &[&str]| {
            let config = Config::parse_from([&["maypole", "m:app", "-b", "x:1", "-b", "http://y:1"], args].concat());
            let config = config.unwrap();
            config.bind.iter().map(|bind| config.is_tls(bind)).collect::<Vec<_>>()
        };
        assert_eq!(is_tls(&[]), [false, false]);
        assert_eq!(is_tls(&["--certfile", "c", "-b", "https://z"]), [true, false, true]);
    }
}
