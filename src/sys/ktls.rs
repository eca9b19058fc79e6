//! TLS in the kernel: a TCP socket that seals what is sent and opens what is received.
//!
//! *Runs on*: any thread; nothing here waits. *Invariants*: only this file knows the layouts of `linux/tls.h`. Keys that
//! it has copied are erased when they are dropped. *Source*: the kernel's `Documentation/networking/tls.rst`.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::OnceLock;

use super::socket::{Io, LITTLE_BYTES, by_scratch, uninterrupted};

const TCP_ULP: libc::c_int = 31;
const SOL_TLS: libc::c_int = 282;
const SET_RECORD_TYPE: libc::c_int = 1;
const GET_RECORD_TYPE: libc::c_int = 2;
const SO_MEMINFO: libc::c_int = 55;
/// The numbers of `SO_MEMINFO`, and the places of two of them: the size of the send buffer, and how much of it is used.
const MEMORY_NUMBERS: usize = 9;
const SEND_BUFFER: usize = 3;
const SEND_USED: usize = 5;
/// The kernel may hold a part of a record that the socket has not taken, and a record that is not sealed yet. With this
/// much room they fit, and an alert behind them.
const ROOM_BYTES: u32 = 48 * 1024;
/// The largest layout of keys: `tls12_crypto_info_aes_gcm_256` has 56 bytes, that of ChaCha20-Poly1305 too.
const KEYS_BYTES_MAX: usize = 56;
/// The type of records with content (RFC 8446 §5.1). A kernel that names none means these.
const CONTENT: u8 = 23;

/// A cipher, in the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsCipher {
    /// AES-128 in Galois/Counter mode.
    Aes128Gcm = 51,
    /// AES-256 in Galois/Counter mode.
    Aes256Gcm = 52,
    /// `ChaCha20` with Poly1305.
    ChaCha20Poly1305 = 54,
}

/// A version of TLS, in its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2.
    Tls12 = 0x0303,
    /// 1.3.
    Tls13 = 0x0304,
}

/// A direction of a connection: the names of the socket's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsDirection {
    /// To the client.
    Send = 1,
    /// From the client.
    Receive = 2,
}

/// The keys of one direction, as the kernel reads them.
pub struct TlsKeys {
    layout: [u8; KEYS_BYTES_MAX],
    bytes: usize,
}

impl TlsKeys {
    /// Makes the keys from the key, the 12 bytes of the initial vector and the number of the next record. `None`: the
    /// key has not the length that the cipher needs.
    pub fn new(version: TlsVersion, cipher: TlsCipher, key: &[u8], iv: [u8; 12], sequence: u64) -> Option<Self> {
        let (salt, nonce) = iv.split_at(4);
        // In the kernel's order: the vector, the key, and for AES the first part of the vector as a salt.
        let (vector, salt, key_bytes) = match cipher {
            TlsCipher::Aes128Gcm => (nonce, salt, 16),
            TlsCipher::Aes256Gcm => (nonce, salt, 32),
            TlsCipher::ChaCha20Poly1305 => (&iv[..], &[][..], 32),
        };
        let mut keys = Self { layout: [0; KEYS_BYTES_MAX], bytes: 0 };
        keys.append(&(version as u16).to_ne_bytes());
        keys.append(&(cipher as u16).to_ne_bytes());
        for part in [vector, key, salt, &sequence.to_be_bytes()] {
            keys.append(part);
        }
        (key.len() == key_bytes).then_some(keys)
    }

    fn append(&mut self, part: &[u8]) {
        for (to, byte) in self.layout.iter_mut().skip(self.bytes).zip(part) {
            *to = *byte;
        }
        self.bytes += part.len();
    }
}

impl Drop for TlsKeys {
    fn drop(&mut self) {
        // Without this hint the compiler could leave the write out.
        self.layout = std::hint::black_box([0; KEYS_BYTES_MAX]);
    }
}

/// Returns whether the kernel seals and opens records of this version with this cipher. It is asked once, with a
/// connection to itself for each pair. A privileged process loads the kernel's module by that.
pub fn has_kernel_tls(version: TlsVersion, cipher: TlsCipher) -> bool {
    static KNOWN: OnceLock<Vec<(TlsVersion, TlsCipher)>> = OnceLock::new();
    KNOWN.get_or_init(known_to_kernel).contains(&(version, cipher))
}

fn known_to_kernel() -> Vec<(TlsVersion, TlsCipher)> {
    let ciphers = [TlsCipher::Aes128Gcm, TlsCipher::Aes256Gcm, TlsCipher::ChaCha20Poly1305];
    let pairs = ciphers.into_iter().flat_map(|cipher| [(TlsVersion::Tls12, cipher), (TlsVersion::Tls13, cipher)]);
    pairs.filter(|(version, cipher)| try_kernel_tls(*version, *cipher).is_ok()).collect()
}

fn try_kernel_tls(version: TlsVersion, cipher: TlsCipher) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    begin_kernel_tls(&socket)?;
    let key: &[u8] = if cipher == TlsCipher::Aes128Gcm { &[1; 16] } else { &[1; 32] };
    let keys = TlsKeys::new(version, cipher, key, [0; 12], 0).ok_or(io::ErrorKind::InvalidInput)?;
    set_tls_keys(&socket, TlsDirection::Send, &keys)?;
    set_tls_keys(&socket, TlsDirection::Receive, &keys)
}

/// Puts the kernel's TLS between a TCP socket and its user. Bytes pass unchanged until there are keys.
///
/// # Errors
/// The kernel has no TLS, or the socket is of another kind. The socket stays as it was.
pub fn begin_kernel_tls(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, TCP_ULP, b"tls")
}

/// Gives the keys of a direction to the kernel. From now on it seals or opens the records.
///
/// # Errors
/// The kernel does not know the cipher, has no memory, or cannot change keys. Nothing has changed then.
pub fn set_tls_keys(socket: &impl AsFd, direction: TlsDirection, keys: &TlsKeys) -> io::Result<()> {
    set_option(socket, SOL_TLS, direction as libc::c_int, keys.layout.get(..keys.bytes).unwrap_or_default())
}

fn set_option(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &[u8]) -> io::Result<()> {
    let bytes = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    // SAFETY: the value lives through the call, which copies it.
    let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), bytes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns whether the send buffer of a socket has room for everything that the kernel's TLS can hold back. Then the
/// next record that is sent takes the ones before it along.
pub fn has_tls_room(socket: &impl AsFd) -> bool {
    let mut numbers = [0_u32; MEMORY_NUMBERS];
    let mut bytes = libc::socklen_t::try_from(size_of_val(&numbers)).unwrap_or(0);
    let (fd, memory) = (socket.as_fd().as_raw_fd(), numbers.as_mut_ptr());
    // SAFETY: the numbers live through the call, and the kernel writes at most that many bytes.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_MEMINFO, memory.cast(), &raw mut bytes) };
    let (size, used) = (numbers[SEND_BUFFER], numbers[SEND_USED]);
    result < 0 || used == 0 || size.saturating_sub(used) >= ROOM_BYTES
}

/// Returns how many received bytes of a TCP socket its user has not got (`SIOCINQ`); 0 if the socket cannot tell.
pub fn unread(socket: &impl AsFd) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the number lives through the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if result < 0 { 0 } else { u64::try_from(bytes).unwrap_or(0) }
}

/// A control message of one byte, for the type of a record.
#[repr(C)]
union TypeMessage {
    header: libc::cmsghdr,
    bytes: [u8; 32],
}

fn header_of(vector: &mut libc::iovec, control: &mut TypeMessage) -> libc::msghdr {
    // SAFETY: an all-zero message header is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vector;
    message.msg_iovlen = 1;
    message.msg_control = std::ptr::from_mut(control).cast();
    // SAFETY: a calculation.
    let space = unsafe { libc::CMSG_SPACE(1) } as usize;
    #[allow(clippy::useless_conversion, reason = "musl has another type here")]
    {
        message.msg_controllen = space.try_into().unwrap_or_default();
    }
    message
}

/// Receives at most `bytes_max` bytes of records of one type, and appends them to the buffer (recvmsg(2)). Returns their
/// type and their number. 0 bytes mean that the client has closed its side.
pub fn receive_records(socket: &impl AsFd, buffer: &mut Vec<u8>, bytes_max: usize) -> Io<(u8, usize)> {
    buffer.reserve(bytes_max);
    let room = &mut buffer.spare_capacity_mut()[..bytes_max];
    let mut vector = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    let mut control = TypeMessage { bytes: [0; 32] };
    let mut message = header_of(&mut vector, &mut control);
    // SAFETY: the kernel writes at most as many bytes as there is room for, and into the control message.
    let result = uninterrupted(|| unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) });
    match result {
        Io::Done(bytes) => {
            // SAFETY: the kernel has initialised that many bytes.
            unsafe { buffer.set_len(buffer.len() + bytes) };
            // SAFETY: the header and the control message are those that the kernel has filled.
            Io::Done((unsafe { type_of(&message) }.unwrap_or(CONTENT), bytes))
        }
        Io::WouldBlock => Io::WouldBlock,
        Io::Failed(error) => Io::Failed(error),
    }
}

/// Like `receive_records`, for at most `LITTLE_BYTES` bytes: the buffer grows only by the bytes that have arrived.
pub fn receive_little_records(socket: &impl AsFd, buffer: &mut Vec<u8>, bytes_max: usize) -> Io<(u8, usize)> {
    by_scratch(buffer, |scratch| receive_records(socket, scratch, bytes_max.min(LITTLE_BYTES)))
}

/// Returns the type of the record in a message.
///
/// # Safety
/// The kernel has filled the message, and its control message lives.
unsafe fn type_of(message: &libc::msghdr) -> Option<u8> {
    // SAFETY: CMSG_FIRSTHDR returns null unless a whole header is there, and its data follow it.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(message);
        let is_type = !first.is_null() && (*first).cmsg_level == SOL_TLS && (*first).cmsg_type == GET_RECORD_TYPE;
        is_type.then(|| libc::CMSG_DATA(first).read())
    }
}

/// Sends a record of a type other than content (sendmsg(2)).
pub fn send_record(socket: &impl AsFd, record_type: u8, content: &[u8]) -> Io<usize> {
    let mut vector = libc::iovec { iov_base: content.as_ptr().cast_mut().cast(), iov_len: content.len() };
    let mut control = TypeMessage { bytes: [0; 32] };
    let message = header_of(&mut vector, &mut control);
    // SAFETY: the control message has room for a header and a byte. sendmsg(2) does not write through the vector.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const message);
        (*first).cmsg_level = SOL_TLS;
        (*first).cmsg_type = SET_RECORD_TYPE;
        (*first).cmsg_len = libc::CMSG_LEN(1) as _;
        libc::CMSG_DATA(first).write(record_type);
    }
    // SAFETY: everything that the header names lives through the call.
    uninterrupted(|| unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_layout_of_the_kernel() {
        let iv = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let keys = TlsKeys::new(TlsVersion::Tls13, TlsCipher::Aes128Gcm, &[7; 16], iv, 0x0102).unwrap();
        let mut expected = [0x0304_u16.to_ne_bytes(), 51_u16.to_ne_bytes()].concat();
        expected.extend([5, 6, 7, 8, 9, 10, 11, 12]);
        expected.extend([7; 16]);
        expected.extend([1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(&keys.layout[..keys.bytes], expected);
        for cipher in [TlsCipher::Aes256Gcm, TlsCipher::ChaCha20Poly1305] {
            let keys = TlsKeys::new(TlsVersion::Tls12, cipher, &[7; 32], iv, 1).unwrap();
            assert_eq!((keys.bytes, keys.layout[55]), (56, 1));
            assert!(TlsKeys::new(TlsVersion::Tls12, cipher, &[7; 16], iv, 1).is_none());
        }
    }

    #[test]
    fn socket_without_tls_stays_as_it_was() {
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(begin_kernel_tls(&unix).is_err());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        // Without keys, bytes pass unchanged, whether or not the kernel has TLS.
        let _ = begin_kernel_tls(&server);
        io::Write::write_all(&mut server, b"abc").unwrap();
        let mut received = [0; 3];
        io::Read::read_exact(&mut client, &mut received).unwrap();
        assert_eq!(&received, b"abc");
        assert!(has_tls_room(&server));
        io::Write::write_all(&mut client, b"12345").unwrap();
        assert!(server.peek(&mut [0; 5]).unwrap() > 0 && unread(&server) > 0);
    }
}
