//! Which application gets a request: that of its host, else that of the longest path that it is below.
//!
//! *Owns*: the hosts and the paths of the applications; sans-I/O. *Runs on*: the connection's coroutine, for each request
//! of a server with such settings. *Invariants*: a decision needs the head and its origin alone, so the same request
//! always gets the same one. Only whole segments of a path match. *Source*: PEP 3333 "environ Variables" for
//! `SCRIPT_NAME`; RFC 3986 §3.3 for segments.

use crate::config::{Config, HostPattern, Site};
use crate::handler::Origin;
use crate::http::{RequestHead, is_below};

/// Which application gets which requests.
#[derive(Debug)]
pub struct Sites {
    /// The first entry that fits decides.
    entries: Vec<Entry>,
    /// Whether the host of a request matters.
    has_hosts: bool,
}

/// The requests of an application.
#[derive(Debug)]
struct Entry {
    host: Option<HostPattern>,
    path: Vec<u8>,
    /// Whether it also gets requests that are about the server as a whole: `OPTIONS *`.
    is_whole: bool,
    /// The place of the application in `Config::sites`.
    application: usize,
}

impl Sites {
    /// Takes the hosts and the paths from the settings. `None`: the first application gets every request.
    pub fn new(config: &Config) -> Option<Self> {
        let mut entries: Vec<_> =
            config.sites().enumerate().map(|(index, site)| Entry::new(index, site, config)).collect();
        if entries.iter().all(|entry| entry.host.is_none() && entry.path.is_empty()) {
            return None;
        }
        entries.sort_by_key(|entry| {
            (entry.host.is_none(), entry.host.as_ref().map(HostPattern::order), usize::MAX - entry.path.len())
        });
        Some(Self { has_hosts: entries.iter().any(|entry| entry.host.is_some()), entries })
    }

    /// Returns the place in `Config::sites` of the application that gets the request. `None`: there is none.
    pub fn find(&self, head: &RequestHead, origin: &Origin) -> Option<usize> {
        let host = if self.has_hosts { origin.host_of(head).map(name_of) } else { None };
        let fits = |entry: &&Entry| {
            entry.host.as_ref().is_none_or(|pattern| host.is_some_and(|host| pattern.has(host)))
                && (is_below(head.path(), &entry.path) || (entry.is_whole && head.path() == b"*"))
        };
        self.entries.iter().find(fits).map(|entry| entry.application)
    }
}

impl Entry {
    fn new(application: usize, site: Site, config: &Config) -> Self {
        let host = if let Site::VirtualHost(virtual_host) = site { Some(virtual_host.host.clone()) } else { None };
        let is_whole = !matches!(site, Site::Mount(mount) if !mount.path.is_root());
        Self { host, path: path(config, site), is_whole, application }
    }
}

/// Returns the path below which an application is, decoded: its `SCRIPT_NAME`.
pub fn path(config: &Config, site: Site) -> Vec<u8> {
    let mut path = config.sites.prefix.as_ref().map(|prefix| prefix.decoded().to_vec()).unwrap_or_default();
    if let Site::Mount(mount) = site {
        path.extend_from_slice(mount.path.decoded());
    }
    path
}

/// Returns the name in `host [ ":" port ]`, without the dot of an absolute name.
fn name_of(host: &[u8]) -> &[u8] {
    let end = match host {
        [b'[', ..] => host.iter().position(|&byte| byte == b']').map(|at| at + 1),
        _ => host.iter().position(|&byte| byte == b':'),
    };
    let name = &host[..end.unwrap_or(host.len())];
    name.strip_suffix(b".").unwrap_or(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::handler::Local;
    use crate::http::Limits;

    const LIMITS: Limits =
        Limits { request_line_bytes_max: 8190, fields_max: 100, field_bytes_max: 8190, head_bytes_max: 65_536 };

    fn config(words: &[&str]) -> Config {
        Config::parse_from([&["maypole"], words].concat()).unwrap()
    }

    fn found(sites: &Sites, host: &str, target: &str) -> Option<usize> {
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let head = RequestHead::parse(head.as_bytes(), &LIMITS).unwrap();
        sites.find(&head, &Origin::new(None, Arc::new(Local::Unix("s".into()))))
    }

    #[test]
    fn server_without_such_settings_looks_at_nothing() {
        assert!(Sites::new(&config(&["m:a"])).is_none());
        assert!(Sites::new(&config(&["m:a", "--prefix", "/"])).is_none());
        assert!(Sites::new(&config(&["--mount", "/=m:a"])).is_none());
    }

    #[test]
    fn longest_path_decides() {
        let words = ["m:main", "--mount", "/a=m:a", "--mount", "/a/b=m:b", "--mount", "/ab=m:c", "--prefix", "/p"];
        let sites = Sites::new(&config(&words)).unwrap();
        for (target, expected) in [
            ("/p", Some(0)),
            ("/p/", Some(0)),
            ("/p/a", Some(1)),
            ("/p/a/", Some(1)),
            ("/p/a/bc", Some(1)),
            ("/p/a/b", Some(2)),
            ("/p/%61/b/c?a=/ab", Some(2)),
            ("/p/a%2Fb", Some(0)),
            ("/p/ab/a", Some(3)),
            ("/p/A", Some(0)),
            ("/a", None),
            ("/", None),
            ("*", Some(0)),
            ("http://h/p/a/x", Some(1)),
            ("http://h", None),
        ] {
            assert_eq!(found(&sites, "h", target), expected, "{target}");
        }
    }

    #[test]
    fn host_decides_before_the_path() {
        let words = [
            "m:main",
            "--mount",
            "/a=m:a",
            "--virtual-host",
            "*.example=m:v2",
            "--virtual-host",
            "x.shop.example=m:v3",
            "--virtual-host",
            "*.shop.example=m:v4",
            "--virtual-host",
            "[::1]=m:v5",
        ];
        let sites = Sites::new(&config(&words)).unwrap();
        for (host, target, expected) in [
            ("example", "/a", Some(1)),
            ("example", "/", Some(0)),
            ("a.example", "/a", Some(2)),
            ("A.EXAMPLE.:8000", "/a", Some(2)),
            ("x.shop.example", "/", Some(3)),
            ("y.shop.example:80", "/", Some(4)),
            ("y.x.shop.example", "*", Some(4)),
            ("shop.example", "/", Some(2)),
            ("[::1]:8000", "/", Some(5)),
            ("[::2]", "/", Some(0)),
            ("other", "http://x.shop.example/", Some(3)),
            ("", "/", Some(0)),
        ] {
            assert_eq!(found(&sites, host, target), expected, "{host} {target}");
        }
        let alone = Sites::new(&config(&["--mount", "/a=m:a", "--virtual-host", "h=m:b"])).unwrap();
        let seen = [("x", "/a"), ("x", "/"), ("x", "*"), ("h", "/a")].map(|(host, target)| found(&alone, host, target));
        assert_eq!(seen, [Some(0), None, None, Some(1)]);
    }
}
