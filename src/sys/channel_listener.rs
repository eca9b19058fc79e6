//! Channels between processes that are not relatives: one listens on an abstract name, and the other connects.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::Channel;

/// How many processes may wait to be accepted.
const BACKLOG: i32 = 16;

/// A socket to which other processes of this machine connect.
#[derive(Debug)]
pub struct ChannelListener(Socket);

/// The process at the other end of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The number of the process. For a process that listens: the one that has made the listener.
    pub pid: u32,
    /// The user of the process.
    pub uid: u32,
}

impl ChannelListener {
    /// Listens on an abstract name (`unix(7)`), which is gone when the socket is closed.
    ///
    /// # Errors
    /// Another process of the network namespace listens on the name, or the process has no descriptor left.
    pub fn bind(name: &str) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.bind(&SockAddr::unix(format!("\0{name}"))?)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Accepts a channel, which does not wait. `None`: no process waits to be accepted.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn accept(&self) -> io::Result<Option<(Channel, Peer)>> {
        let accepted = match self.0.accept() {
            Ok((socket, _)) => Channel::from(OwnedFd::from(socket)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        accepted.set_nonblocking(true)?;
        let peer = peer(&accepted)?;
        Ok(Some((accepted, peer)))
    }
}

impl AsFd for ChannelListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Connects to the process that listens on an abstract name.
///
/// # Errors
/// No process listens on the name (`ConnectionRefused`).
pub fn connect_channel(name: &str) -> io::Result<(Channel, Peer)> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.connect(&SockAddr::unix(format!("\0{name}"))?)?;
    let channel = Channel::from(OwnedFd::from(socket));
    let peer = peer(&channel)?;
    Ok((channel, peer))
}

/// Returns the process at the other end (`SO_PEERCRED`).
fn peer(channel: &Channel) -> io::Result<Peer> {
    let mut found = MaybeUninit::<libc::ucred>::zeroed();
    let mut size = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    let fd = SockRef::from(channel).as_raw_fd();
    // SAFETY: the structure and its size live through the call, and the kernel writes at most that many bytes.
    let found = unsafe {
        if libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, found.as_mut_ptr().cast(), &raw mut size) < 0 {
            return Err(io::Error::last_os_error());
        }
        found.assume_init()
    };
    Ok(Peer { pid: u32::try_from(found.pid).unwrap_or(0), uid: found.uid })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn both_ends_know_each_other() {
        let name = format!("maypole-test-{}", std::process::id());
        let listener = ChannelListener::bind(&name).unwrap();
        assert!(listener.accept().unwrap().is_none());
        let (client, server) = connect_channel(&name).unwrap();
        let (accepted, peer) = listener.accept().unwrap().unwrap();
        assert_eq!((server.pid, peer), (std::process::id(), server));
        client.send(b"request", &[]).unwrap();
        assert_eq!(accepted.receive().unwrap().unwrap().bytes, b"request");
        drop(listener);
        assert_eq!(connect_channel(&name).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
