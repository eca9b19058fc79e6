//! Violations of PEP 3333 that the server tolerates: it serves the response and logs each kind once.
//!
//! *Owns*: which kinds have been logged for one application. *Runs on*: the application's thread, on cold paths only.
//! *Source*: PEP 3333; what gunicorn and waitress accept.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::TARGET;

/// A kind of violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Lapse {
    /// A status from 600 to 999.
    Status,
    /// Headers that are not a `list`.
    Headers,
    /// A header that is a list of two items.
    Pair,
    /// A block that is a `bytearray` or a `memoryview`.
    Block,
    /// `Transfer-Encoding` among the headers.
    Framing,
    /// Another hop-by-hop field among the headers.
    HopByHop,
    /// A body with a status that does not allow one.
    Body,
    /// A suspension whose empty block has not arrived.
    Suspension,
}

/// The kinds that have been logged for one application.
#[derive(Debug, Default)]
pub(super) struct Lapses(AtomicU32);

impl Lapses {
    /// Logs a warning at the first violation of this kind.
    #[cold]
    pub(super) fn say(&self, lapse: Lapse, sentence: fmt::Arguments<'_>) {
        let bit = 1 << lapse as u32;
        if self.0.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            log::warn!(target: TARGET, "{sentence} (said once per application)");
        }
    }
}
