//! HTTP/2 on bytes (RFC 9113), as far as the crate `h2` leaves it to a server: the heads in the form of HTTP/1, the number
//! of frames that come, and what was sent of each stream.
//!
//! *Runs on*: the calling thread; no function here waits. *Invariants*: a request of HTTP/2 passes the same rules as one
//! of HTTP/1, because both are parsed from the same form. Nothing here reads a clock.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod frames;
mod gathered;
mod head;
mod sent;

pub use self::frames::{Counts, FrameMeter};
pub use self::head::{HeadReader, interims, request_text};
pub use self::sent::{Sent, SentMeter, Shown};

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Returns whether the received bytes are the preface, or may become it.
pub fn may_be_preface(received: &[u8]) -> bool {
    let bytes = received.len().min(PREFACE.len());
    received.get(..bytes) == PREFACE.get(..bytes)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn preface_is_known_at_every_split_point() {
        for bytes in 0..=PREFACE.len() {
            assert!(may_be_preface(&PREFACE[..bytes]));
        }
        assert!(may_be_preface(&[PREFACE, b"more"].concat()));
        assert!(!may_be_preface(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r "));
        assert!(!may_be_preface(b"GET / HTTP/1.1\r\n"));
    }
}
