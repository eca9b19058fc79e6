//! From the path of a request to the name of a file below a directory.
//!
//! *Runs on*: the connection's coroutine. *Invariants*: a name has no part that leads upwards or is hidden. It has no
//! character that one program reads in another way than the next.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use crate::http::strictly_decoded;

/// The only hidden directory that is served, at the top: it is meant for the public (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The file of this name.
    File(PathBuf),
    /// The directory of this name: the path ends with a slash.
    Directory(PathBuf),
}

impl Place {
    /// Reads the rest of a path, after the prefix and its slash. `None`: no file can have this name.
    pub(super) fn of(rest: &[u8]) -> Option<Self> {
        let mut name = Vec::with_capacity(rest.len());
        let mut parts = rest.split(|byte| *byte == b'/').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() && parts.peek().is_none() {
                return Some(Self::Directory(path(name)));
            }
            let part = strictly_decoded(part)?;
            if !is_served(&part, name.is_empty()) {
                return None;
            }
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(&part);
        }
        Some(Self::File(path(name)))
    }
}

/// Returns the name that the rest of a path of the file system stands for. `None`: it is not served.
pub(super) fn name_of(rest: &Path) -> Option<PathBuf> {
    let mut name = PathBuf::new();
    for component in rest.components() {
        let Component::Normal(part) = component else { return None };
        if !is_served(part.as_bytes(), name.as_os_str().is_empty()) {
            return None;
        }
        name.push(part);
    }
    (!name.as_os_str().is_empty()).then_some(name)
}

fn path(name: Vec<u8>) -> PathBuf {
    OsString::from_vec(if name.is_empty() { b".".to_vec() } else { name }).into()
}

fn is_served(part: &[u8], is_top: bool) -> bool {
    let is_hidden = part.first().is_none_or(|byte| *byte == b'.') && !(is_top && part == WELL_KNOWN);
    !is_hidden && !part.iter().any(|byte| byte.is_ascii_control() || matches!(byte, b'/' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_the_decoded_path() {
        for (rest, expected) in [
            ("a.css", "a.css"),
            ("a/b/c.css", "a/b/c.css"),
            ("%61%2Ecss", "a.css"),
            ("caf%C3%A9.txt", "café.txt"),
            ("a%20b.txt", "a b.txt"),
            ("a%2525.txt", "a%25.txt"),
            ("a%252e%252e", "a%2e%2e"),
            ("a..b", "a..b"),
            ("a...", "a..."),
            ("a;b=c", "a;b=c"),
            ("a:b", "a:b"),
            ("~root", "~root"),
            (".well-known/acme", ".well-known/acme"),
            ("con.", "con."),
        ] {
            assert_eq!(Place::of(rest.as_bytes()), Some(Place::File(expected.into())), "{rest}");
        }
        assert_eq!(Place::of(b""), Some(Place::Directory(".".into())));
        assert_eq!(Place::of(b"a/b/"), Some(Place::Directory("a/b".into())));
        assert_eq!(Place::of(b"%ff"), Some(Place::File(OsString::from_vec(vec![0xff]).into())));
    }

    #[test]
    fn path_of_the_file_system_is_a_name_without_tricks() {
        for (rest, expected) in
            [("a", "a"), ("a/b.c", "a/b.c"), ("a//b", "a/b"), ("a/./b", "a/b"), ("%2e%2e", "%2e%2e")]
        {
            assert_eq!(name_of(Path::new(rest)), Some(expected.into()), "{rest}");
        }
        for rest in ["", ".", "..", "a/..", "../a", "a/../../b", "/a", ".env", "a/.git/b", "a\0b", "a\nb", "a\\b"] {
            assert_eq!(name_of(Path::new(rest)), None, "{rest}");
        }
    }

    #[test]
    fn tricks_name_no_file() {
        for rest in [
            "..",
            "../a",
            "a/..",
            "a/../b",
            "./a",
            ".",
            "a/.",
            "a/./b",
            "/",
            "//",
            "/a",
            "a//b",
            "a//",
            "/etc/passwd",
            "%2e%2e/a",
            "%2E%2e",
            ".%2e/a",
            "%2e./a",
            "..%2fa",
            "..%2Fa",
            "%2e%2e%2fa",
            "a%2fb",
            "%2fetc%2fpasswd",
            "a%5c..%5cb",
            "..\\a",
            "a\\b",
            "%5c",
            "%00",
            "a%00.css",
            "a.css%00",
            "a%0a",
            "a%0d%0aX: y",
            "a%7f",
            "a%1f",
            "%",
            "a%",
            "%2",
            "a%2",
            "%zz",
            "%2g",
            "%u002e",
            "%+1",
            "%-1",
            "% 1",
            ".git/config",
            ".env",
            "a/.htaccess",
            "%2eenv",
            "a/%2egit/x",
            ".well-known/.x",
            "a/.well-known/x",
            "...",
            "....//a",
            "..;/a",
            "..%00/a",
        ] {
            assert_eq!(Place::of(rest.as_bytes()), None, "{rest}");
        }
    }
}
