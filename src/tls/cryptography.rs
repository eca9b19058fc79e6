//! The library of cryptography that sessions use: ring, or AWS-LC if the feature `aws-lc` is on.
//!
//! *Runs on*: the threads of the handshakes, and the coroutine of a session. *Invariants*: no other file chooses between
//! the two. Tickets are sealed with ring in any case, because only our own workers read them.

#[cfg(not(feature = "aws-lc"))]
mod keys;

use rustls::crypto::CryptoProvider;

/// Returns the cryptography of sessions, with every suite.
#[cfg(feature = "aws-lc")]
pub(super) fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// Returns the cryptography of sessions, with every suite.
#[cfg(not(feature = "aws-lc"))]
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider { cipher_suites: keys::suites().to_vec(), ..rustls::crypto::ring::default_provider() }
}
