//! Unix sockets between processes: connecting, and the process at the other end.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

/// A process at the other end of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The number of the process. For a process that listens: the one that has made the socket listen.
    pub pid: u32,
    /// The user of the process.
    pub uid: u32,
}

/// Returns the process at the other end of a connected unix socket (`SO_PEERCRED`, `unix(7)`).
///
/// # Errors
/// The descriptor is no socket.
pub fn peer_of(socket: &impl AsFd) -> io::Result<Peer> {
    let mut found = MaybeUninit::<libc::ucred>::zeroed();
    let mut size = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the structure and its size live through the call, and the kernel writes at most that many bytes.
    let found = unsafe {
        if libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, found.as_mut_ptr().cast(), &raw mut size) < 0 {
            return Err(io::Error::last_os_error());
        }
        found.assume_init()
    };
    Ok(Peer { pid: u32::try_from(found.pid).unwrap_or(0), uid: found.uid })
}

/// Connects to an abstract name (`unix(7)`), as `connect_unix_stream` does.
///
/// # Errors
/// No process listens on the name, or its queue is full.
pub fn connect_abstract(name: &str) -> io::Result<UnixStream> {
    connect_unix_stream(Path::new(&format!("\0{name}")))
}

/// Connects to a stream socket by its path, without waiting: a process that does not accept may have a full queue.
///
/// # Errors
/// No process listens there, or its queue is full (`WouldBlock`).
pub fn connect_unix_stream(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(false)?;
    Ok(OwnedFd::from(socket).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn both_ends_know_each_other() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        for end in [&one, &other] {
            assert_eq!(peer_of(end).unwrap().pid, std::process::id());
        }
        assert!(peer_of(&std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
