//! The settings of URLs: their scheme, the path that they begin with, and which of several applications gets which.
//!
//! *Owns*: `SiteSettings`, a part of `Config`. *Runs on*: the main thread, while the settings are read. *Invariants*: as
//! for `Config`. A path is decoded once, here. It begins with a slash, has no slash at its end, and no empty segment; the
//! root is empty. *Source*: RFC 3986 §2.1, §3.3.

use std::fmt;

use clap::Args;

use super::read::application;
use super::{APPLICATION, Config, PROXIES};
use crate::http::{Character, characters};

/// The scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlScheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// The path of a URL, below which an application is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPath {
    text: String,
    decoded: Vec<u8>,
}

/// The name of a host, or all names below a domain: `*.example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    /// The name in small letters, without `*.`.
    name: String,
    /// Whether only names below it match, and not the name itself.
    is_wildcard: bool,
}

/// An application below a path of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The path, below that of `--prefix`.
    pub path: UrlPath,
    /// The application, as MODULE names it.
    pub application: String,
}

/// An application for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualHost {
    /// The names of the host.
    pub host: HostPattern,
    /// The application, as MODULE names it.
    pub application: String,
}

/// One of the applications that the settings name, and its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site<'a> {
    /// The application of MODULE or `--paste`: it gets what no other one gets.
    Main,
    /// One of `--mount`.
    Mount(&'a Mount),
    /// One of `--virtual-host`.
    VirtualHost(&'a VirtualHost),
}

/// The settings of URLs.
#[derive(Debug, Clone, Args)]
pub struct SiteSettings {
    /// Give the application this scheme if no proxy names one: `http`, `https`
    ///
    /// It is `wsgi.url_scheme`, from which frameworks make absolute URLs. `https` is right if every client reaches the
    /// server through TLS and the proxy sends no X-Forwarded-Proto. A [trusted proxy](../proxies.md) that names the
    /// scheme takes precedence.
    #[arg(long, value_name = "SCHEME", value_parser = UrlScheme::parse, default_value = "http")]
    #[arg(help_heading = PROXIES)]
    pub scheme: UrlScheme,

    /// Serve the application below this path. Answer 404 to all others
    ///
    /// The path becomes `SCRIPT_NAME`, and the rest of the request's path `PATH_INFO`. It is for a proxy that passes the
    /// whole path on. A proxy that takes the path off names it in X-Forwarded-Prefix instead. See [below a
    /// path](../howto/below-a-path.md).
    #[arg(long, value_name = "PATH", value_parser = UrlPath::parse, help_heading = PROXIES)]
    pub prefix: Option<UrlPath>,

    /// Serve another application below this path. Repeatable
    ///
    /// `--mount /admin=admin.wsgi:app` serves `/admin` and all paths below it. `SCRIPT_NAME` is the path. The longest path
    /// that matches decides. MODULE gets all other requests; without a MODULE they get 404. See [several
    /// applications](../howto/several-applications.md).
    #[arg(long, value_name = "PATH=MODULE[:CALLABLE]", value_parser = Mount::parse, help_heading = APPLICATION)]
    pub mount: Vec<Mount>,

    /// Serve another application for this host, or for `*.DOMAIN`. Repeatable
    ///
    /// `--virtual-host api.example.com=api.wsgi:app` serves each request with this `Host`, whatever its port. A name
    /// takes precedence over `*.`, and a longer `*.` over a shorter one. All other hosts get MODULE and `--mount`. See
    /// [several applications](../howto/several-applications.md).
    #[arg(long, value_name = "HOST=MODULE[:CALLABLE]", value_parser = VirtualHost::parse, help_heading = APPLICATION)]
    pub virtual_host: Vec<VirtualHost>,
}

impl UrlScheme {
    /// Reads `http` or `https`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "http" => Ok(Self::Http),
            "https" => Ok(Self::Https),
            _ => Err("expected http or https".to_owned()),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl UrlPath {
    /// Reads a path such as `/shop` or `/shop/`. `/` and an empty text are the root. Characters may be escaped, except a
    /// slash.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let path = text.strip_suffix('/').unwrap_or(text);
        let decoded = decoded(path.as_bytes()).ok_or("expected a path such as /shop, with escapes such as %20")?;
        let mut segments = decoded.split(|&byte| byte == b'/');
        if !segments.next().is_some_and(<[u8]>::is_empty) {
            return Err("expected a path that begins with a slash, such as /shop".to_owned());
        }
        if segments.any(|segment| matches!(segment, b"" | b"." | b"..")) {
            return Err("expected a path without //, /. and /..".to_owned());
        }
        Ok(Self { text: path.to_owned(), decoded })
    }

    /// Returns the path with its escapes decoded; empty for the root.
    pub fn decoded(&self) -> &[u8] {
        &self.decoded
    }

    /// Returns whether it is the root, below which every path is.
    pub fn is_root(&self) -> bool {
        self.decoded.is_empty()
    }
}

impl fmt::Display for UrlPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "/" } else { &self.text })
    }
}

impl HostPattern {
    /// Reads `shop.example`, `*.shop.example` or an address such as `[::1]`, without a port.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches('.').to_ascii_lowercase();
        let (name, is_wildcard) = text.strip_prefix("*.").map_or((text.as_str(), false), |name| (name, true));
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).filter(|_| !is_wildcard);
        let is_address = address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
        if !is_address && !name.split('.').all(is_label) {
            return Err("expected a host without a port, such as shop.example or *.shop.example".to_owned());
        }
        Ok(Self { name: name.to_owned(), is_wildcard })
    }

    /// Returns whether it has a host, which has no port. Small and large letters are the same.
    pub fn has(&self, host: &[u8]) -> bool {
        let Some((below, name)) = host.len().checked_sub(self.name.len()).map(|at| host.split_at(at)) else {
            return false;
        };
        let is_below = below.len() > 1 && below.ends_with(b".");
        name.eq_ignore_ascii_case(self.name.as_bytes()) && if self.is_wildcard { is_below } else { below.is_empty() }
    }

    /// Returns a key by which patterns that take precedence come first.
    pub fn order(&self) -> impl Ord + use<> {
        (self.is_wildcard, usize::MAX - self.name.len())
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_wildcard { "*." } else { "" }, self.name)
    }
}

impl Mount {
    /// Reads `/admin=admin.wsgi:app`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, named) = split(text).ok_or("expected PATH=MODULE:CALLABLE, such as /admin=admin.wsgi:app")?;
        Ok(Self { path: UrlPath::parse(path)?, application: application(named)? })
    }
}

impl VirtualHost {
    /// Reads `shop.example=shop.wsgi:app`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, named) = split(text).ok_or("expected HOST=MODULE:CALLABLE, such as shop.example=shop.wsgi:app")?;
        Ok(Self { host: HostPattern::parse(host)?, application: application(named)? })
    }
}

/// Splits at the first `=`. `None` if a part is empty.
fn split(text: &str) -> Option<(&str, &str)> {
    let (place, application) = text.split_once('=')?;
    let (place, application) = (place.trim(), application.trim());
    (!place.is_empty() && !application.is_empty()).then_some((place, application))
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.path, self.application)
    }
}

impl fmt::Display for VirtualHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.host, self.application)
    }
}

impl<'a> Site<'a> {
    /// Returns the application as MODULE names it. `None`: it is that of MODULE.
    pub fn application(&self) -> Option<&'a str> {
        match self {
            Self::Main => None,
            Self::Mount(mount) => Some(&mount.application),
            Self::VirtualHost(virtual_host) => Some(&virtual_host.application),
        }
    }

    /// Returns the setting that names it: `--mount /admin`. `None`: MODULE.
    pub fn setting(&self) -> Option<String> {
        match self {
            Self::Main => None,
            Self::Mount(mount) => Some(format!("--mount {}", mount.path)),
            Self::VirtualHost(virtual_host) => Some(format!("--virtual-host {}", virtual_host.host)),
        }
    }
}

/// Decodes the escapes of a path. `None`: a character or an escape is not allowed.
fn decoded(path: &[u8]) -> Option<Vec<u8>> {
    let allowed = |at: Character<'_>| match (at.byte, at.is_escaped) {
        // An escaped slash is a character of a segment, which `SCRIPT_NAME` cannot express.
        (b'/' | 0, true) | (0..=b' ' | 0x7f | b'?' | b'#' | b'\\' | b'%', false) => None,
        (byte, _) => Some(byte),
    };
    characters(path).map(allowed).collect()
}

impl SiteSettings {
    /// Returns the settings with their values.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let prefix = self.prefix.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
        vec![
            ("scheme", self.scheme.as_str().to_owned()),
            ("prefix", prefix),
            ("mount", list(&mut self.mount.iter().map(ToString::to_string))),
            ("virtual_host", list(&mut self.virtual_host.iter().map(ToString::to_string))),
        ]
    }
}

impl Config {
    /// Returns the applications of the server. There is at least one. MODULE comes first, if it is given.
    pub fn sites(&self) -> impl Iterator<Item = Site<'_>> {
        let main = (self.application.is_some() || self.paste.is_some()).then_some(Site::Main);
        let mounts = self.sites.mount.iter().map(Site::Mount);
        main.into_iter().chain(mounts).chain(self.sites.virtual_host.iter().map(Site::VirtualHost))
    }

    /// Checks that each path and each host has one application.
    pub(super) fn check_sites(&self) -> Result<(), String> {
        let sites: Vec<_> = self.sites().collect();
        for (index, site) in sites.iter().enumerate() {
            let place = |site: &Site| match site {
                Site::Main => (None, Vec::new()),
                Site::Mount(mount) => (None, mount.path.decoded().to_vec()),
                Site::VirtualHost(virtual_host) => (Some(virtual_host.host.to_string()), Vec::new()),
            };
            if let Some(other) = sites[..index].iter().find(|other| place(other) == place(site)) {
                let setting = site.setting().unwrap_or_default();
                return Err(match other {
                    Site::Main => format!("{setting} names the application of all paths, and so does MODULE: keep one"),
                    _ => format!("{setting} is given twice"),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_read_with_its_escapes() {
        for (text, shown, decoded) in [
            ("/shop", "/shop", "/shop"),
            ("/shop/", "/shop", "/shop"),
            (" /a/b-c/~d ", "/a/b-c/~d", "/a/b-c/~d"),
            ("/%73hop", "/%73hop", "/shop"),
            ("/über", "/über", "/über"),
            ("/%C3%BCber", "/%C3%BCber", "/über"),
            ("/100%25", "/100%25", "/100%"),
            ("/", "/", ""),
            ("", "/", ""),
        ] {
            let path = UrlPath::parse(text).unwrap();
            assert_eq!((path.to_string().as_str(), path.decoded()), (shown, decoded.as_bytes()), "{text}");
        }
    }

    #[test]
    fn path_that_is_none_says_what_is_expected() {
        for (text, expected) in [
            ("admin", "begins with a slash"),
            ("http://a/shop", "begins with a slash"),
            ("//", "without //"),
            ("/a//b", "without //"),
            ("/a/../b", "without //"),
            ("/%2e", "without //"),
            ("/a%2Fb", "with escapes"),
            ("/a%", "with escapes"),
            ("/a%4", "with escapes"),
            ("/a%zz", "with escapes"),
            ("/a b", "with escapes"),
            ("/a?b", "with escapes"),
            ("/a#b", "with escapes"),
        ] {
            let error = UrlPath::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn mount_and_host_are_read_and_shown() {
        let mount = Mount::parse("/admin/ = admin:make(kind=\"x\")").unwrap();
        assert_eq!((mount.path.to_string().as_str(), mount.application.as_str()), ("/admin", "admin:make(kind=\"x\")"));
        assert_eq!(mount.to_string(), "/admin=admin:make(kind=\"x\")");
        assert_eq!(VirtualHost::parse("*.Shop.example.=m:a").unwrap().to_string(), "*.shop.example=m:a");
        for (text, expected) in [
            ("/admin", "expected PATH=MODULE:CALLABLE"),
            ("=m:a", "expected PATH=MODULE:CALLABLE"),
            ("/admin=", "expected PATH=MODULE:CALLABLE"),
            ("admin=m:a", "begins with a slash"),
            ("/admin=m:", "expected MODULE"),
        ] {
            let error = Mount::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for text in ["a:80=m:a", "*=m:a", "*.=m:a", "a..b=m:a", "a/b=m:a", "a.*=m:a", "*.[::1]=m:a", "[x]=m:a"] {
            assert!(VirtualHost::parse(text).unwrap_err().contains("expected a host without a port"), "{text}");
        }
    }

    #[test]
    fn host_is_one_of_a_pattern() {
        for (pattern, host, expected) in [
            ("shop.example", "shop.example", true),
            ("shop.example", "a.shop.example", false),
            ("*.shop.example", "a.SHOP.example", true),
            ("*.shop.example", "a.b.shop.example", true),
            ("*.shop.example", "shop.example", false),
            ("*.shop.example", ".shop.example", false),
            ("*.shop.example", "ashop.example", false),
            ("[::1]", "[::1]", true),
            ("127.0.0.1", "127.0.0.1", true),
        ] {
            assert_eq!(HostPattern::parse(pattern).unwrap().has(host.as_bytes()), expected, "{host} of {pattern}");
        }
    }

    #[test]
    fn every_place_has_one_application() {
        let check = |words: &[&str]| {
            let words = [&["maypole"], words].concat();
            Config::parse_from(words).map_err(|error| error.to_string()).and_then(|config| config.check())
        };
        assert_eq!(check(&["m:a", "--mount", "/x=m:b", "--mount", "/x/y=m:b", "--virtual-host", "h=m:c"]), Ok(()));
        assert_eq!(check(&["--mount", "/=m:b"]), Ok(()));
        assert_eq!(check(&["--virtual-host", "h=m:b"]), Ok(()));
        assert!(check(&[]).is_err());
        for (words, expected) in [
            (&["m:a", "--mount", "/=m:b"][..], "--mount / names the application of all paths, and so does MODULE"),
            (&["m:a", "--mount", "/x=m:b", "--mount", "/%78/=m:c"], "--mount /%78 is given twice"),
            (&["m:a", "--virtual-host", "H=m:b", "--virtual-host", "h=m:c"], "--virtual-host h is given twice"),
        ] {
            let error = check(words).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
