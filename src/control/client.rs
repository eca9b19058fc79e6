//! A request to a running service, over its socket for commands.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};

use super::{is_trusted, name};
use crate::sys;

/// A running service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The process with this number.
    Pid(u32),
    /// The service whose socket is this file.
    File(PathBuf),
}

/// What a service has sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status of the response (RFC 9110 §15).
    pub(super) status: u16,
    /// The body.
    pub(super) body: Vec<u8>,
}

impl Target {
    /// Sends a request, and waits for the response.
    ///
    /// # Errors
    /// A sentence: there is no such service, or it belongs to another user.
    pub(super) fn ask(&self, method: &str, path: &str) -> Result<Answer, String> {
        let mut stream = self.connect()?;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        let mut response = Vec::new();
        let received = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut response));
        received.map_err(|error| format!("{self} does not respond: {}", sys::plain(&error)))?;
        Answer::of(&response).ok_or_else(|| format!("{self} has ended before it responded"))
    }

    fn connect(&self) -> Result<UnixStream, String> {
        let pid = match self {
            Self::File(file) => return connect_file(file),
            Self::Pid(pid) => *pid,
        };
        let connected =
            SocketAddr::from_abstract_name(name(pid)).and_then(|address| UnixStream::connect_addr(&address));
        let stream = connected.map_err(|error| {
            let error = sys::plain(&error);
            format!("process {pid} is no service of Maypole, or one of another user: {error}")
        })?;
        match sys::peer_of(&stream) {
            Ok(peer) if peer.pid == pid && is_trusted(peer) => Ok(stream),
            Ok(peer) => Err(format!("the name of process {pid} belongs to process {} of user {}", peer.pid, peer.uid)),
            Err(error) => Err(sys::plain(&error)),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "process {pid}"),
            Self::File(file) => write!(f, "the service at {}", file.display()),
        }
    }
}

fn connect_file(file: &Path) -> Result<UnixStream, String> {
    UnixStream::connect(file).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("no service listens on {}", file.display()),
        _ => format!("{}: {}", file.display(), sys::plain(&error)),
    })
}

impl Answer {
    /// Reads a response whose end is the end of the connection.
    fn of(response: &[u8]) -> Option<Self> {
        let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        let (head, body) = response.split_at(end + 4);
        let status = std::str::from_utf8(head).ok()?.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, body: body.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_is_read_to_its_end() {
        let answer = Answer { status: 409, body: b"{}".to_vec() };
        assert_eq!(Answer::of(b"HTTP/1.1 409 Conflict\r\nA: b\r\n\r\n{}"), Some(answer));
        assert_eq!(Answer::of(b"HTTP/1.1 409 Conf"), None);
    }
}
