//! Settings whose values are one of a few words: reads and prints them.
//!
//! *Owns*: nothing; text in, values out. *Runs on*: the main thread, while the settings are read.

use std::fmt;
use std::path::PathBuf;

use super::ByteSize;
use super::processes::WORKERS_MAX;
use super::units::{number, parse_size};

/// Which header of the PROXY protocol a connection must begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None.
    Off,
    /// The text of version 1.
    V1,
    /// The binary form of version 2.
    V2,
    /// Either of them.
    Auto,
}

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// Which request bodies are streamed to the application instead of being received first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamRequests {
    /// None.
    Never,
    /// Bodies longer than this number of bytes. Chunked bodies are not streamed.
    Above(u64),
    /// All.
    Always,
}

/// How many worker processes serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One for each processor that the process may use.
    Auto,
    /// This many.
    Exactly(usize),
}

/// How changed files are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadEngine {
    /// With inotify(7). If the system refuses it, by looking at each file.
    Auto,
    /// By looking at each file.
    Poll,
    /// With inotify(7).
    Inotify,
}

/// A name with its value: `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The name. It is not empty.
    pub name: String,
    /// The value. It may be empty.
    pub value: String,
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere.
    None,
    /// `-`: standard output (access) or standard error (errors).
    Standard,
    /// A file, appended to.
    File(PathBuf),
}

impl ProxyProtocol {
    /// Reads `off`, `v1`, `v2` or `auto`; `false` means `off`, and `true` means `auto`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "off" | "false" => Ok(Self::Off),
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            "auto" | "true" => Ok(Self::Auto),
            _ => Err("expected off, v1, v2 or auto".to_owned()),
        }
    }
}

impl HttpVersion {
    /// Reads `1.0` or `1.1`, also with `HTTP/` before it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text.strip_prefix("HTTP/").unwrap_or(text) {
            "1.0" => Ok(Self::Http10),
            "1.1" => Ok(Self::Http11),
            _ => Err("expected 1.0 or 1.1".to_owned()),
        }
    }
}

impl StreamRequests {
    /// Reads `never`, `always`, `SIZE` or `above SIZE`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text.to_ascii_lowercase().as_str() {
            "never" => Ok(Self::Never),
            "always" => Ok(Self::Always),
            text => parse_size(text.strip_prefix("above ").unwrap_or(text))
                .map(|size| Self::Above(size.0))
                .map_err(|_| "expected never, always or a size such as 16MiB".to_owned()),
        }
    }
}

impl Workers {
    /// Reads `auto` or a number.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        number::<usize>(1..=WORKERS_MAX as u64)(text)
            .map(Self::Exactly)
            .map_err(|_| format!("expected auto or a whole number from 1 to {WORKERS_MAX}"))
    }

    /// Returns how many workers that is on this machine. `auto` counts the processors that the processor mask and the
    /// quota of the control group leave.
    pub fn count(self) -> usize {
        match self {
            // The standard library reads sched_getaffinity(2), and the quotas of control groups of version 1 and 2.
            Self::Auto => std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX),
            Self::Exactly(count) => count,
        }
    }
}

impl ReloadEngine {
    /// Reads `auto`, `poll` or `inotify`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "poll" => Ok(Self::Poll),
            "inotify" => Ok(Self::Inotify),
            _ => Err("expected auto, poll or inotify".to_owned()),
        }
    }
}

impl Assignment {
    /// Reads `NAME=VALUE`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() && !text.contains('\0') => {
                Ok(Self { name: name.trim().to_owned(), value: value.to_owned() })
            }
            _ => Err("expected NAME=VALUE".to_owned()),
        }
    }
}

impl LogTarget {
    /// Reads `none`, `-` or a path.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("expected none, - or a path".to_owned()),
            "-" => Ok(Self::Standard),
            "none" | "None" => Ok(Self::None),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Auto => "auto",
        })
    }
}

impl fmt::Display for HttpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
        })
    }
}

impl fmt::Display for StreamRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Above(bytes) => ByteSize(*bytes).fmt(f),
            Self::Always => f.write_str("always"),
        }
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(count) => count.fmt(f),
        }
    }
}

impl fmt::Display for ReloadEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Poll => "poll",
            Self::Inotify => "inotify",
        })
    }
}

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Standard => f.write_str("-"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}
