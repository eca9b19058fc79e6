//! Which requests an application gets: those whose path is below its own.
//!
//! *Owns*: the path; sans-I/O. *Runs on*: the connection's coroutine, for each request of a server with such settings.
//! *Invariants*: a decision needs the head alone, so the same request always gets the same one. Only whole segments
//! match. *Source*: PEP 3333 "environ Variables" for `SCRIPT_NAME`; RFC 3986 §3.3 for segments.

use crate::config::Config;
use crate::http::{RequestHead, is_below};

/// The path below which the application is.
#[derive(Debug)]
pub struct Sites {
    prefix: Vec<u8>,
}

impl Sites {
    /// Takes the path from the settings. `None`: the application gets every request.
    pub fn new(config: &Config) -> Option<Self> {
        let prefix = config.sites.prefix.as_ref().filter(|prefix| !prefix.is_root())?;
        Some(Self { prefix: prefix.decoded().to_vec() })
    }

    /// Returns whether the application gets the request. `OPTIONS *` is about the server as a whole, so it does.
    pub fn has(&self, head: &RequestHead) -> bool {
        is_below(head.path(), &self.prefix) || head.path() == b"*"
    }
}
