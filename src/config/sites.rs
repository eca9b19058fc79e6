//! The settings of the URLs of an application: their scheme, and the path that they begin with.
//!
//! *Owns*: `SiteSettings`, a part of `Config`. *Runs on*: the main thread, while the settings are read. *Invariants*: as
//! for `Config`. A path is decoded once, here. It begins with a slash, has no slash at its end, and no empty segment; the
//! root is empty. *Source*: RFC 3986 §2.1, §3.3.

use std::fmt;

use clap::Args;

use super::PROXIES;

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

/// The settings of the URLs of an application.
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

/// Decodes the escapes of a path. `None`: a character or an escape is not allowed.
fn decoded(path: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut decoded, mut rest) = (Vec::new(), path);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        decoded.push(match byte {
            b'%' => {
                let [high, low, after @ ..] = after else { return None };
                rest = after;
                // An escaped slash is a character of a segment, which `SCRIPT_NAME` cannot express.
                Some(digit(*high)? << 4 | digit(*low)?).filter(|&byte| byte != b'/' && byte != 0)?
            }
            0..=b' ' | 0x7f | b'?' | b'#' | b'\\' => return None,
            byte => byte,
        });
    }
    Some(decoded)
}

impl SiteSettings {
    /// Returns the settings with their values.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let prefix = self.prefix.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
        vec![("scheme", self.scheme.as_str().to_owned()), ("prefix", prefix)]
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
            ("shop", "begins with a slash"),
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
}
