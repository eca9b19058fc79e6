//! A listener whose process goes on as another program by exec(2), which keeps the descriptor.
//!
//! *Owns*: the form of such a listener in a message. *Runs on*: the main thread.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

use super::unix::SocketFile;
use super::{BoundAddress, Listener};

/// A listener without its descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The number of the descriptor.
    number: RawFd,
    tcp: Option<SocketAddr>,
    /// The path of a unix socket, as bytes.
    path: Option<Vec<u8>>,
    /// The name of a unix socket without a file.
    name: Option<String>,
    /// The identity of the file, if this process has created it.
    file: Option<(u64, u64)>,
    /// Whether this process has bound the socket.
    is_bound: bool,
}

impl Record {
    /// Returns the number of the descriptor.
    pub fn number(&self) -> RawFd {
        self.number
    }
}

impl Listener {
    /// Returns the listener as a part of a message.
    pub fn record(&self) -> Record {
        let (tcp, path, name) = match &self.address {
            BoundAddress::Tcp(address) => (Some(*address), None, None),
            BoundAddress::Unix(path) => (None, Some(path.as_os_str().as_bytes().to_vec()), None),
            BoundAddress::Abstract(name) => (None, None, Some(name.clone())),
        };
        let (number, file) = (self.as_raw_fd(), self.file.as_ref().map(SocketFile::identity));
        Record { number, tcp, path, name, file, is_bound: !self.is_shared() }
    }

    /// Makes a listener again, in the same process. `fd` is the descriptor with the number in the record.
    pub fn from_record(record: Record, fd: OwnedFd) -> Self {
        let path = record.path.map(OsString::from_vec).unwrap_or_default();
        let file = record.file.map(|identity| SocketFile::from_identity(path.as_ref(), identity));
        let address = match (record.tcp, record.name) {
            (Some(address), _) => BoundAddress::Tcp(address),
            (None, Some(name)) => BoundAddress::Abstract(name),
            (None, None) => BoundAddress::Unix(path.into()),
        };
        let bound_by = record.is_bound.then(std::process::id);
        Self { fd: fd.into(), address, bound_by, is_copy: false, is_tls: false, file }
    }
}
