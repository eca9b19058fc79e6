//! A pair of connected sockets that passes messages and descriptors between two processes (`unix(7)`, `SCM_RIGHTS`).

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use super::forks::{HeldFd, NoFork};
use super::poll::wait_readable;
use super::process::length;

/// The most descriptors that one message may carry. The kernel allows 253 (`SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 200;
/// The most bytes of one message. The kernel's buffer of a socket holds 208 KiB by default (`net.core.wmem_default`).
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// The bytes of the control data of a message with the most descriptors.
const CONTROL_BYTES: usize = 64 + DESCRIPTORS_MAX * size_of::<RawFd>();

/// One end of a connection between two processes. A message is a unit: it arrives whole, with its descriptors, or not
/// at all.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// A message as it arrives.
#[derive(Debug, Default)]
pub struct Message {
    /// The bytes of the message.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it. They are closed on exec(2).
    pub descriptors: Vec<OwnedFd>,
}

/// A message as it arrives, with descriptors that a forked child does not keep.
#[derive(Debug, Default)]
pub struct HeldMessage {
    /// The bytes of the message.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it: the first ones, if the process has no descriptor left for all of them.
    pub descriptors: Vec<HeldFd>,
}

/// Whether the kernel has dropped a part of a message, for lack of descriptors or of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Yes,
    No,
}

/// Control data, aligned for the kernel's header.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Makes a pair of connected stream sockets, which do not wait. A forked child does not keep the first one. Both are
/// closed on exec(2).
///
/// # Errors
/// The process has no descriptor left.
pub fn stream_pair() -> io::Result<(HeldFd, OwnedFd)> {
    let _undivided = NoFork::begin();
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((HeldFd::from(OwnedFd::from(ours)), theirs.into()))
}

impl Channel {
    /// Makes a channel. Both ends are closed on exec(2).
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let mut ends = [-1; 2];
        // SAFETY: the array has room for the two numbers.
        let made =
            unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made both, so they have no other owner.
        Ok(unsafe { (Self(OwnedFd::from_raw_fd(ends[0])), Self(OwnedFd::from_raw_fd(ends[1]))) })
    }

    /// Makes `send` and `receive` fail with `WouldBlock` instead of waiting. It holds for this end alone.
    ///
    /// # Errors
    /// This is not expected to fail.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        socket2::SockRef::from(&self.0).set_nonblocking(nonblocking)
    }

    /// Makes `send` and `receive` fail with `WouldBlock` after this time. `None` waits without a limit.
    ///
    /// # Errors
    /// The time is zero.
    pub fn set_timeout(&self, timeout: Option<std::time::Duration>) -> io::Result<()> {
        let socket = socket2::SockRef::from(&self.0);
        socket.set_read_timeout(timeout)?;
        socket.set_write_timeout(timeout)
    }

    /// Sends a message with copies of `descriptors`.
    ///
    /// # Errors
    /// The other end is closed (`BrokenPipe`), its queue is full (`WouldBlock`, on a channel that does not wait), the
    /// message is too long, or too many descriptors are on their way (`ETOOMANYREFS`).
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if descriptors.len() > DESCRIPTORS_MAX || bytes.len() > MESSAGE_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let size = size_of::<RawFd>() * numbers.len();
        let mut control = Control([0; CONTROL_BYTES]);
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: an all-zero header is an empty one.
        let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if !numbers.is_empty() {
            let size = libc::c_uint::try_from(size).unwrap_or(libc::c_uint::MAX);
            header.msg_control = control.0.as_mut_ptr().cast();
            // SAFETY: the control data has room for the header and for the numbers, and is aligned for both.
            unsafe {
                header.msg_controllen = libc::CMSG_SPACE(size) as _;
                let first = libc::CMSG_FIRSTHDR(&raw const header);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(size) as _;
                std::ptr::copy_nonoverlapping(numbers.as_ptr().cast::<u8>(), libc::CMSG_DATA(first), size as usize);
            }
        }
        loop {
            // SAFETY: the header and all that it points to live through the call. The kernel does not write to the
            // bytes.
            let sent = length(unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    /// Receives the next message. `None`: the other end is closed, and every message has been received.
    ///
    /// # Errors
    /// There is no message (`WouldBlock`, on a channel that does not wait), or the message was cut: the process has no
    /// descriptor left for the ones that came with it.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        match self.receive_with(0)? {
            Some((_, Cut::Yes)) => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            other => Ok(other.map(|(message, _)| message)),
        }
    }

    /// Waits without a limit for the next message with descriptors of clients. `None`: the other end is closed, and
    /// every message has been received.
    ///
    /// # Errors
    /// This is not expected to fail.
    pub fn receive_held(&self) -> io::Result<Option<HeldMessage>> {
        loop {
            wait_readable(self)?;
            // No fork may happen between the arrival of the descriptors and `HeldFd`, so this must not wait.
            let _undivided = NoFork::begin();
            match self.receive_with(libc::MSG_DONTWAIT) {
                Ok(None) => return Ok(None),
                Ok(Some((Message { bytes, descriptors }, _))) => {
                    let descriptors = descriptors.into_iter().map(HeldFd::from).collect();
                    return Ok(Some(HeldMessage { bytes, descriptors }));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Refuses further messages: from now on, the other end fails to send. Messages that have arrived can be received.
    pub fn shut_down(&self) {
        // An error means that the other end is closed.
        let _ = socket2::SockRef::from(&self.0).shutdown(std::net::Shutdown::Both);
    }

    fn receive_with(&self, flags: libc::c_int) -> io::Result<Option<(Message, Cut)>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut control = Control([0; CONTROL_BYTES]);
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: an all-zero header is an empty one.
        let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES as _;
        let flags = flags | libc::MSG_CMSG_CLOEXEC;
        let received = loop {
            // SAFETY: the header and all that it points to live through the call, with room for what the kernel writes.
            let received = length(unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut header, flags) });
            match received {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        let descriptors = descriptors_of(&header);
        if received == 0 && descriptors.is_empty() {
            return Ok(None);
        }
        let is_cut = header.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0;
        bytes.truncate(received);
        Ok(Some((Message { bytes, descriptors }, if is_cut { Cut::Yes } else { Cut::No })))
    }
}

/// Takes the descriptors out of the control data that the kernel has written.
fn descriptors_of(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has written whole entries, and the macros walk from one to the next. Each number in an entry
    // of SCM_RIGHTS is a descriptor that the kernel has just made for this process.
    unsafe {
        let mut entry = libc::CMSG_FIRSTHDR(header);
        while !entry.is_null() {
            if (*entry).cmsg_level == libc::SOL_SOCKET && (*entry).cmsg_type == libc::SCM_RIGHTS {
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::unnecessary_cast,
                    reason = "the type differs by libc"
                )]
                let size = (*entry).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(entry);
                for index in 0..size / size_of::<RawFd>() {
                    let mut number = [0; size_of::<RawFd>()];
                    data.add(index * number.len()).copy_to_nonoverlapping(number.as_mut_ptr(), number.len());
                    descriptors.push(OwnedFd::from_raw_fd(RawFd::from_ne_bytes(number)));
                }
            }
            entry = libc::CMSG_NXTHDR(header, entry);
        }
    }
    descriptors
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn message_arrives_whole_with_its_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        one.send(b"three files", &[file.as_fd(), file.as_fd(), file.as_fd()]).unwrap();
        one.send(b"none", &[]).unwrap();
        drop(one);
        let message = other.receive().unwrap().unwrap();
        assert_eq!((message.bytes.as_slice(), message.descriptors.len()), (&b"three files"[..], 3));
        let mut read = String::new();
        let mut received = std::fs::File::from(message.descriptors.into_iter().next().unwrap());
        received.rewind().unwrap();
        received.read_to_string(&mut read).unwrap();
        assert_eq!(read, "content");
        assert_eq!(other.receive().unwrap().unwrap().bytes, b"none");
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn message_with_the_most_bytes_and_descriptors_arrives() {
        let (one, other) = Channel::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        one.send(&vec![7; MESSAGE_BYTES_MAX], &vec![null.as_fd(); DESCRIPTORS_MAX]).unwrap();
        let message = other.receive().unwrap().unwrap();
        assert_eq!((message.bytes.len(), message.descriptors.len()), (MESSAGE_BYTES_MAX, DESCRIPTORS_MAX));
    }

    #[test]
    fn channel_whose_other_end_is_closed_refuses_to_send() {
        let (one, other) = Channel::pair().unwrap();
        drop(other);
        assert_eq!(one.send(b"lost", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn end_that_is_shut_down_still_receives_what_has_arrived() {
        let (one, other) = Channel::pair().unwrap();
        other.send(b"in time", &[]).unwrap();
        one.shut_down();
        assert_eq!(other.send(b"late", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(one.receive().unwrap().unwrap().bytes, b"in time");
        assert!(one.receive().unwrap().is_none());
    }

    #[test]
    fn descriptors_of_clients_arrive_held_and_the_end_is_reported() {
        let (one, other) = Channel::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        one.send(b"two", &[null.as_fd(), null.as_fd()]).unwrap();
        drop(one);
        let message = other.receive_held().unwrap().unwrap();
        assert_eq!((message.bytes.as_slice(), message.descriptors.len()), (&b"two"[..], 2));
        let numbers = message.descriptors.iter().map(super::super::forks::HeldNumber::of);
        assert!(numbers.into_iter().all(|number| !number.is_none()));
        assert!(other.receive_held().unwrap().is_none());
    }

    #[test]
    fn channel_that_does_not_wait_says_that_it_would() {
        let (one, _other) = Channel::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        assert_eq!(one.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
