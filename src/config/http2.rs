//! The settings of HTTP/2.
//!
//! *Owns*: `Http2Settings`, a part of `Config`. *Runs on*: the main thread, while the settings are read. *Invariants*: as
//! for `Config`.

use std::time::Duration;

use clap::Args;

use super::units::{number, positive_duration};
use super::{HTTP2, duration_text};

/// The versions of HTTP that clients may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersions {
    /// HTTP/1.0 and HTTP/1.1.
    One,
    /// HTTP/2.
    Two,
    /// All of them.
    Auto,
}

impl HttpVersions {
    /// Reads `1`, `2` or `auto`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "1" | "1.1" => Ok(Self::One),
            "2" | "2.0" => Ok(Self::Two),
            "auto" => Ok(Self::Auto),
            // An option of uWSGI has this name.
            address if address.contains(':') => Err("expected 1, 2 or auto; an address belongs to --bind".to_owned()),
            _ => Err("expected 1, 2 or auto".to_owned()),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Two => "2",
            Self::Auto => "auto",
        }
    }
}

/// The settings of HTTP/2.
#[derive(Debug, Clone, Args)]
pub struct Http2Settings {
    /// Speak HTTP/`1`, HTTP/`2`, or with `auto` what each client chooses. Refuse the other one
    ///
    /// A client with TLS chooses during the handshake (ALPN). Without TLS it speaks HTTP/2 if its first bytes are those
    /// of HTTP/2, as proxies such as Envoy, Cloud Run and fly.io do; there is no upgrade from HTTP/1.1. With
    /// `--max-http-version 1.0` no client speaks HTTP/2. See [HTTP/2](../http2.md).
    #[arg(long, value_name = "VERSION", value_parser = HttpVersions::parse, default_value = "auto")]
    #[arg(help_heading = HTTP2)]
    pub http: HttpVersions,

    /// Serve at most this many HTTP/2 connections at once. Offer HTTP/1.1 to further clients with TLS
    ///
    /// Without TLS, or with `--http 2`, a further client is told to come back later (GOAWAY). The number is for each
    /// worker. It bounds memory: a connection takes 20 to 36 KiB even if it is idle.
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=1_000_000), default_value = "1000")]
    #[arg(help_heading = HTTP2)]
    pub http2_max_connections: usize,

    /// Serve at most this many requests of one HTTP/2 connection at once
    ///
    /// A request counts until its call has ended, even if its client has cancelled it. A client learns the number, and
    /// keeps further requests back. Each request in progress needs a place in the pool, as any other.
    #[arg(long, value_name = "N", value_parser = number::<u32>(1..=10_000), default_value = "100")]
    #[arg(help_heading = HTTP2)]
    pub http2_max_concurrent_streams: u32,

    /// Close an HTTP/2 connection that has had no request for this long
    ///
    /// An idle connection of HTTP/2 takes 20 to 36 KiB, fifty times as much as one of HTTP/1.1. The client is told
    /// (GOAWAY), and loses no request.
    #[arg(long, value_name = "TIME", value_parser = positive_duration, default_value = "30s", help_heading = HTTP2)]
    pub http2_keep_alive: Duration,
}

impl Http2Settings {
    /// Returns the settings with their values.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("http", self.http.as_str().to_owned()),
            ("http2_max_connections", self.http2_max_connections.to_string()),
            ("http2_max_concurrent_streams", self.http2_max_concurrent_streams.to_string()),
            ("http2_keep_alive", duration_text(self.http2_keep_alive)),
        ]
    }
}
