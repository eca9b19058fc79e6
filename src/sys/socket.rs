//! System calls on sockets. None of them waits, except `wait_readable`.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use socket2::{SockAddr, SockRef};

use super::forks::{HeldFd, NoFork};
use super::process::length;

/// The result of a call that does not wait.
#[derive(Debug)]
pub enum Io<T> {
    /// The call succeeded.
    Done(T),
    /// The call would have waited.
    WouldBlock,
    /// The call failed.
    Failed(io::Error),
}

fn outcome(result: isize) -> Io<usize> {
    match length(result) {
        Ok(bytes) => Io::Done(bytes),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Io::WouldBlock,
            _ => Io::Failed(error),
        },
    }
}

/// The most bytes that `receive_little` receives at once.
pub const LITTLE_BYTES: usize = 16 * 1024;

/// Like `receive`, for input of unknown length: the buffer grows only by the bytes that have arrived.
pub fn receive_little(socket: &impl AsFd, buffer: &mut Vec<u8>) -> Io<usize> {
    by_scratch(buffer, |scratch| receive(socket, scratch, LITTLE_BYTES))
}

/// Lets `receive` fill memory of the thread, and appends what has arrived to the buffer.
#[inline]
pub(super) fn by_scratch<T>(buffer: &mut Vec<u8>, receive: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        let result = receive(scratch);
        buffer.extend_from_slice(scratch);
        result
    })
}

/// Receives at most `bytes_max` bytes and appends them to the buffer (recv(2)). 0 means that the client has closed its
/// side.
pub fn receive(socket: &impl AsFd, buffer: &mut Vec<u8>, bytes_max: usize) -> Io<usize> {
    buffer.reserve(bytes_max);
    let room = buffer.spare_capacity_mut();
    let room = &mut room[..bytes_max];
    loop {
        // SAFETY: the kernel writes at most as many bytes as there is room for.
        let result =
            outcome(unsafe { libc::recv(socket.as_fd().as_raw_fd(), room.as_mut_ptr().cast(), room.len(), 0) });
        match result {
            Io::Done(bytes) => {
                // SAFETY: the kernel has initialised that many bytes.
                unsafe { buffer.set_len(buffer.len() + bytes) };
                return Io::Done(bytes);
            }
            Io::WouldBlock if interrupted() => {}
            other => return other,
        }
    }
}

fn interrupted() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
}

/// Repeats a system call while signals interrupt it.
pub(super) fn uninterrupted(mut call: impl FnMut() -> isize) -> Io<usize> {
    loop {
        let result = outcome(call());
        if !(matches!(result, Io::WouldBlock) && interrupted()) {
            return result;
        }
    }
}

/// Sends some of the bytes (send(2), without SIGPIPE).
pub fn send(socket: &impl AsFd, bytes: &[u8]) -> Io<usize> {
    // SAFETY: the bytes live through the call.
    uninterrupted(|| unsafe {
        libc::send(socket.as_fd().as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL)
    })
}

/// Sends some of the pieces in one call (sendmsg(2), without SIGPIPE). With `more_follows`, the kernel holds back the
/// last packet for more data.
pub fn send_all(socket: &impl AsFd, pieces: &[io::IoSlice<'_>], more_follows: bool) -> Io<usize> {
    let flags = libc::MSG_NOSIGNAL | if more_follows { libc::MSG_MORE } else { 0 };
    // SAFETY: an all-zero message header is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // IoSlice is guaranteed to have iovec's layout; sendmsg(2) does not write through it.
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "musl has an int here; IOV_MAX is 1024"
    )]
    {
        message.msg_iovlen = pieces.len() as _;
    }
    // SAFETY: the pieces live through the call.
    uninterrupted(|| unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags) })
}

/// Sends a part of a file (sendfile(2)). 0 means that the file has ended. The file's own position is not used.
pub fn send_file(socket: &impl AsFd, file: BorrowedFd<'_>, offset: u64, bytes: u64) -> Io<usize> {
    let Ok(mut position) = libc::off_t::try_from(offset) else {
        return Io::Failed(io::ErrorKind::InvalidInput.into());
    };
    // sendfile(2) moves at most about 2 GiB in one call.
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(1 << 30);
    // SAFETY: the position lives through the call.
    uninterrupted(|| unsafe { libc::sendfile(socket.as_fd().as_raw_fd(), file.as_raw_fd(), &raw mut position, bytes) })
}

/// Reads at most `bytes_max` bytes of a file from `offset` on, and appends them to the buffer (pread(2)). 0 means that
/// the file has ended. The file's own position is not used.
pub fn read_at(file: BorrowedFd<'_>, buffer: &mut Vec<u8>, offset: u64, bytes_max: usize) -> Io<usize> {
    let Ok(position) = libc::off_t::try_from(offset) else {
        return Io::Failed(io::ErrorKind::InvalidInput.into());
    };
    buffer.reserve(bytes_max);
    let room = &mut buffer.spare_capacity_mut()[..bytes_max];
    // SAFETY: the kernel writes at most as many bytes as there is room for.
    let result =
        uninterrupted(|| unsafe { libc::pread(file.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), position) });
    if let Io::Done(bytes) = result {
        // SAFETY: the kernel has initialised that many bytes.
        unsafe { buffer.set_len(buffer.len() + bytes) };
    }
    result
}

/// Closes the server's side of a stream: the client sees the end after the last byte.
pub fn shutdown_write(socket: &impl AsFd) {
    // An error means that the other side has gone.
    let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Write);
}

/// Ends a stream for all its descriptors. A reader sees the end after the bytes that have arrived; a writer gets an
/// error.
pub fn end_stream(socket: &impl AsFd, how: std::net::Shutdown) {
    // An error means that the connection has ended already.
    let _ = SockRef::from(socket).shutdown(how);
}

/// Makes the kernel drop every packet for a listening TCP socket, so that no further connection is completed and its
/// queue can be emptied (`SO_ATTACH_FILTER`, socket(7)). A client whose packet was dropped sends it again after 1 s,
/// and is refused if the socket has been closed by then. This affects all processes that share the socket.
///
/// Some kernels let only a privileged process attach a filter. Then the queue is made as short as possible. It holds
/// one connection, and while that one waits, the kernel drops packets of others.
///
/// # Errors
/// The kernel can do neither.
pub fn complete_no_more(listener: &impl AsFd) -> io::Result<()> {
    let mut nothing = libc::sock_filter { code: BPF_RETURN, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut nothing };
    let bytes = libc::socklen_t::try_from(size_of_val(&program)).unwrap_or(0);
    let (level, option) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the program and its only instruction live through the call, which copies both.
    if unsafe { libc::setsockopt(fd, level, option, (&raw const program).cast(), bytes) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // SAFETY: listen(2) on a socket that listens already changes the length of its queue.
    let shortened = error.raw_os_error() == Some(libc::EPERM) && unsafe { libc::listen(fd, 0) } == 0;
    if shortened { Ok(()) } else { Err(error) }
}

/// The instruction that returns how many bytes of a packet are kept (`BPF_RET | BPF_K`).
const BPF_RETURN: u16 = 0x06;

/// Makes the following close(2) reset the connection, so that the client cannot mistake it for a regular end.
pub fn reset_on_close(socket: &impl AsFd) {
    // An error means that the connection is gone already.
    let _ = SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
}

/// Makes the kernel ask the peer at intervals whether it still knows the connection (`SO_KEEPALIVE`). A client that has
/// closed its side may have closed both, and only its kernel can tell. Linux forgets such a connection after 60 s
/// (`tcp_fin_timeout`), and answers a later probe with a reset.
pub fn probe_peer(socket: &impl AsFd) {
    const EVERY: std::time::Duration = std::time::Duration::from_secs(15);
    // A unix socket has no such probe and needs none: both ends have the same kernel.
    let _ =
        SockRef::from(socket).set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(EVERY).with_interval(EVERY));
}

/// Returns how many sent bytes the client has not acknowledged (`SIOCOUTQ`); 0 if the socket cannot tell.
pub fn unacknowledged(socket: &impl AsFd) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the number lives through the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 { 0 } else { u64::try_from(bytes).unwrap_or(0) }
}

/// Accepts a waiting connection, non-blocking and close-on-exec (accept4(2)). Returns it with the client's address,
/// unless it is a unix socket.
pub fn accept(listener: &impl AsFd) -> Io<(HeldFd, Option<SocketAddr>)> {
    let mut storage: MaybeUninit<libc::sockaddr_storage> = MaybeUninit::zeroed();
    let mut storage_bytes = libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>()).unwrap_or(0);
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let _undivided = NoFork::begin();
    let result = uninterrupted(|| {
        let address = storage.as_mut_ptr().cast();
        // SAFETY: the storage is large enough for every kind of address, and lives through the call.
        let fd = unsafe { libc::accept4(listener.as_fd().as_raw_fd(), address, &raw mut storage_bytes, flags) };
        fd as isize
    });
    match result {
        Io::Done(fd) => {
            let fd = libc::c_int::try_from(fd).unwrap_or(-1);
            // SAFETY: the kernel has just made this descriptor for us.
            let fd = HeldFd::from(unsafe { OwnedFd::from_raw_fd(fd) });
            // SAFETY: all-zero is a valid sockaddr_storage, into which the kernel wrote that many bytes.
            let address = unsafe { read_address(&storage, storage_bytes) };
            Io::Done((fd, address))
        }
        Io::WouldBlock => Io::WouldBlock,
        Io::Failed(error) => Io::Failed(error),
    }
}

/// Reads the address the kernel wrote.
///
/// # Safety
/// The storage is initialised.
unsafe fn read_address(
    storage: &MaybeUninit<libc::sockaddr_storage>,
    storage_bytes: libc::socklen_t,
) -> Option<SocketAddr> {
    let mut address = None;
    // SAFETY: try_init's closure gets storage at least as large as ours.
    let made = unsafe {
        SockAddr::try_init(|to, bytes| {
            std::ptr::copy_nonoverlapping(storage.as_ptr().cast::<u8>(), to.cast::<u8>(), storage_bytes as usize);
            *bytes = storage_bytes;
            Ok(())
        })
    };
    if let Ok(((), made)) = made {
        address = made.as_socket();
    }
    address
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    /// Takes all capabilities from the calling thread.
    fn drop_rights() {
        // `struct __user_cap_header_struct` and two `struct __user_cap_data_struct` (capget(2)).
        let (header, nothing) = ([0x2008_0522_u32, 0], [0_u32; 6]);
        // SAFETY: both live through the call, which reads them.
        let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), nothing.as_ptr()) };
        assert_eq!(result, 0);
    }

    #[test]
    fn listener_completes_at_most_one_connection_more_even_without_rights() {
        for without_rights in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    if without_rights {
                        drop_rights();
                    }
                    complete_no_more(&listener).unwrap();
                });
            });
            let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
            let completed = (0..4).filter_map(connect).collect::<Vec<_>>();
            assert!(completed.len() <= 1, "{without_rights}: {}", completed.len());
        }
    }
}
