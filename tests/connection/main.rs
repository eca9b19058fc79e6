//! Tests of connections alone: a server with a handler in Rust, real sockets, raw bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admission;
mod bodies;
mod drain;
mod framing;
mod handover;
mod http2_wakes;
mod keep_alive;
mod proxy;
mod queue;
mod refusals;
mod scene;
mod slow_readers;
mod slow_senders;
mod spread;
mod takeover;
