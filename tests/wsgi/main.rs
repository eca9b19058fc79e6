//! Tests of the module `wsgi` alone: requests built by hand, real Python, no socket and no executor.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod app;
mod calls;
mod environ;
mod extensions;
mod input;
mod loading;
mod responses;
mod sockets;
mod websockets;
