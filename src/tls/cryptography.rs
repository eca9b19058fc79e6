//! The library of cryptography that sessions use: ring, or AWS-LC if the feature `aws-lc` is on.
//!
//! *Runs on*: the threads of the handshakes, and the coroutine of a session. *Invariants*: no other file names one of
//! the two for sessions. Tickets are sealed with ring in any case, because only our own workers read them.

#[cfg(feature = "aws-lc")]
pub(super) use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, default_provider};
#[cfg(not(feature = "aws-lc"))]
pub(super) use rustls::crypto::ring::{ALL_CIPHER_SUITES, default_provider};
