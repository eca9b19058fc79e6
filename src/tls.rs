//! TLS on bytes: certificates, sessions, and the threads on which handshakes run.
//!
//! *Owns*: the certificates of a server, its handshakes, and the state of each session. *Runs on*: a session runs where
//! its connection runs, except during its handshake; each file says more. *Invariants*: only `session` and `kernel` know the
//! API of `rustls` for connections. Nothing here reads a socket or a clock.

mod certificates;
mod cryptography;
mod facts;
mod handshakes;
mod hello;
mod kernel;
mod session;

pub use self::certificates::{CertificateError, Certificates, Offered, Seed, Voice};
pub use self::facts::Facts;
pub use self::handshakes::{Full, Handshakes, Pending, Stepped};
pub use self::hello::{Hello, hello_of};
pub use self::kernel::{CLOSE_NOTIFY, CONTENT, KEY_UPDATE, KernelKeys, KernelSession, Told};
pub use self::session::{Broken, SEALED_BYTES_MAX, SEALING_BYTES_MAX, Session};
