//! Log lines for syslog: the form of a message, and the socket to the daemon.
//!
//! *Owns*: the socket, the count of lost lines. *Runs on*: the thread of syslog's writer; in a process that forks others,
//! the thread that logs. A thread of its own looks a name up. *Invariants*: a message begins at a message boundary of the
//! receiver. A message waits at most `SEND_WAIT` for each step: looking the name up, opening a socket, and sending; in a
//! process with a writer, at most `OPEN_WAIT` for the first two. After a failure no message is tried for `RETRY_AFTER`:
//! each is lost and counted. The log says once that messages are lost, and once that they arrive again.
//! *Source*: RFC 3164 §4, in the form that syslog(3) gives a local message, without its time: the daemon adds the time.

use std::io::{self, ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use log::Level;

use super::escape;
use super::sink::Sink;
use super::writer::{self, Writer};
use crate::config::{SocketKind, SyslogAddress, SyslogSettings};
use crate::phrase::push_decimal;
use crate::sys::{self, Lock};

/// The longest message, in bytes: the default limit of rsyslog.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// The longest time that a message waits for room in the socket.
const SEND_WAIT: Duration = Duration::from_millis(200);

/// The longest time in which the writer's thread looks a name up, and then opens a TCP connection.
const OPEN_WAIT: Duration = Duration::from_secs(1);

/// How long no message is tried after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The severity of a line of the access log: informational.
const ACCESS_SEVERITY: u8 = 6;

/// A syslog daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    address: SyslogAddress,
    connection: Lock<Connection>,
}

/// The lines of one log on their way to syslog.
#[derive(Debug, Clone)]
pub(super) struct Syslog {
    daemon: Arc<Daemon>,
    /// `None`: the thread that logs sends the message itself.
    writer: Option<Writer>,
    facility: u8,
    tag: Arc<str>,
}

#[derive(Debug, Default)]
struct Connection {
    socket: Option<Socket>,
    lookup: Lookup,
    /// When the next message is tried. `None`: at once, because the last one was sent.
    retry: Option<Instant>,
    lost: u64,
}

#[derive(Debug)]
enum Socket {
    Datagram(UnixDatagram),
    Stream(UnixStream),
    Udp(UdpSocket, SocketAddr),
    Tcp(TcpStream),
}

/// A name that is being looked up, by a thread that may take longer than a message waits.
#[derive(Debug, Default)]
struct Lookup(Option<Receiver<io::Result<SocketAddr>>>);

/// The daemon of this process, with the process's ID: a forked child opens a socket of its own.
static DAEMON: Lock<Option<(u32, Arc<Daemon>)>> = Lock::new(None);

/// A change that the log says.
enum Change {
    Failed(io::Error),
    Recovered(u64),
}

impl Syslog {
    /// Returns the way of the log `name` to syslog, or `None` if the settings have none. With a thread, its writer sends
    /// the messages.
    pub(super) fn new(settings: &SyslogSettings, name: &str, with_thread: bool) -> anyhow::Result<Option<Self>> {
        if !settings.enabled {
            return Ok(None);
        }
        let tag = match &settings.prefix {
            Some(prefix) => format!("maypole.{prefix}.{name}"),
            None => format!("maypole.{name}"),
        };
        let writer = if with_thread { Some(writer::of_syslog()?) } else { None };
        Ok(Some(Self {
            daemon: Daemon::of_process(&settings.to),
            writer,
            facility: settings.facility.number(),
            tag: tag.into(),
        }))
    }

    /// Reports dropped messages to `sink`.
    pub(super) fn report_to(&self, sink: &Arc<Sink>) {
        if let Some(writer) = &self.writer {
            writer.report_to(sink);
        }
    }

    /// Sends a message of the error log.
    pub(super) fn send_error(&self, level: Level, message: &str) {
        let mut out = self.begun(severity(level), message.len());
        escape::push_message(&mut out, message);
        self.send(out);
    }

    /// Sends a line of the access log, without its line break.
    pub(super) fn send_access(&self, line: &[u8]) {
        let mut out = self.begun(ACCESS_SEVERITY, line.len());
        out.extend_from_slice(line);
        self.send(out);
    }

    /// Returns the beginning of a message: `<14>maypole.error[4711]: `.
    fn begun(&self, severity: u8, length: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.tag.len() + length);
        out.push(b'<');
        push_decimal(&mut out, u64::from(self.facility * 8 + severity));
        out.push(b'>');
        out.extend_from_slice(self.tag.as_bytes());
        out.push(b'[');
        push_decimal(&mut out, u64::from(process::id()));
        out.extend_from_slice(b"]: ");
        out
    }

    fn send(&self, mut message: Vec<u8>) {
        let end = message.trim_ascii_end().len();
        message.truncate(end);
        cut(&mut message);
        match &self.writer {
            Some(writer) => writer.send_to_syslog(&self.daemon, message),
            None => self.daemon.send(&message, SEND_WAIT),
        }
    }
}

/// Cuts a message to `MESSAGE_BYTES_MAX`, at the end of a character of UTF-8.
fn cut(message: &mut Vec<u8>) {
    if message.len() > MESSAGE_BYTES_MAX {
        let is_inner = |byte: &u8| byte & 0b1100_0000 == 0b1000_0000;
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|at| !message.get(*at).is_some_and(is_inner));
        message.truncate(end.unwrap_or(MESSAGE_BYTES_MAX));
    }
}

/// Returns the severity of a level (RFC 3164 §4.1.1).
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

impl Daemon {
    /// Returns the daemon that the logs of this process share.
    fn of_process(address: &SyslogAddress) -> Arc<Self> {
        let mut known = DAEMON.lock();
        if let Some((owner, daemon)) = &*known
            && *owner == process::id()
            && daemon.address == *address
        {
            return Arc::clone(daemon);
        }
        let daemon = Arc::new(Self { address: address.clone(), connection: Lock::default() });
        *known = Some((process::id(), Arc::clone(&daemon)));
        daemon
    }

    /// Does the same on the writer's thread, which may wait longer.
    pub(super) fn send_as_writer(&self, message: &[u8]) {
        self.send(message, OPEN_WAIT);
    }

    /// Sends a message, or counts it as lost. Logs the first loss and the end of the losses. `wait` is the longest time
    /// in which a name is looked up, and then a connection opened.
    fn send(&self, message: &[u8], wait: Duration) {
        // The lock is free again before the change is logged, because the line of the change goes to syslog, too.
        let change = self.connection.lock().send(&self.address, message, wait);
        let address = &self.address;
        match change {
            Some(Change::Failed(error)) => {
                let error = sys::plain(&error);
                log::warn!(
                    "syslog at {address} takes no lines: {error}; they are lost until it does (--log-syslog-to)"
                );
            }
            Some(Change::Recovered(lost)) => {
                log::warn!("syslog at {address} takes lines again; {lost} lines were lost (--log-syslog-to)");
            }
            None => {}
        }
    }
}

impl Connection {
    fn send(&mut self, address: &SyslogAddress, message: &[u8], wait: Duration) -> Option<Change> {
        if self.retry.is_some_and(|retry| Instant::now() < retry) {
            self.lost += 1;
            return None;
        }
        match self.try_send(address, message, wait) {
            Ok(()) => self.retry.take().map(|_| Change::Recovered(std::mem::take(&mut self.lost))),
            Err(error) => {
                self.socket = None;
                self.lost += 1;
                let is_first = self.retry.replace(Instant::now() + RETRY_AFTER).is_none();
                is_first.then_some(Change::Failed(error))
            }
        }
    }

    fn try_send(&mut self, address: &SyslogAddress, message: &[u8], wait: Duration) -> io::Result<()> {
        if let Some(socket) = &mut self.socket {
            match socket.send(message) {
                // The daemon has started again: its new socket gets the message.
                Err(error) if is_gone(&error) => {}
                sent => return sent,
            }
        }
        self.socket.insert(Socket::open(address, &mut self.lookup, wait)?).send(message)
    }
}

/// Returns whether an error says that the other end of a socket has closed.
fn is_gone(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | NotConnected)
}

impl Socket {
    fn open(address: &SyslogAddress, lookup: &mut Lookup, wait: Duration) -> io::Result<Self> {
        match address {
            SyslogAddress::Unix(path, Some(SocketKind::Datagram)) => Self::datagram(path),
            SyslogAddress::Unix(path, Some(SocketKind::Stream)) => Self::stream(path),
            // A socket of the other kind is there: connect(2) returns EPROTOTYPE.
            SyslogAddress::Unix(path, None) => match Self::datagram(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Self::stream(path).map_err(|_| error),
                opened => opened,
            },
            SyslogAddress::Udp(host, port) => {
                let to = lookup.find(host, *port, wait)?;
                let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.set_write_timeout(Some(SEND_WAIT))?;
                Ok(Self::Udp(socket, to))
            }
            SyslogAddress::Tcp(host, port) => {
                let socket = TcpStream::connect_timeout(&lookup.find(host, *port, wait)?, wait)?;
                socket.set_write_timeout(Some(SEND_WAIT))?;
                Ok(Self::Tcp(socket))
            }
        }
    }

    fn datagram(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_write_timeout(Some(SEND_WAIT))?;
        Ok(Self::Datagram(socket))
    }

    fn stream(path: &Path) -> io::Result<Self> {
        // If the daemon accepts nothing, the call fails instead of waiting.
        let socket = sys::connect_unix_stream(path)?;
        socket.set_write_timeout(Some(SEND_WAIT))?;
        Ok(Self::Stream(socket))
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Datagram(socket) => socket.send(message).map(drop),
            Self::Udp(socket, to) => socket.send_to(message, *to).map(drop),
            Self::Stream(socket) => socket.write_all(&framed(message)),
            Self::Tcp(socket) => socket.write_all(&framed(message)),
        }
    }
}

/// Ends a message with a line break, as receivers of a stream expect (RFC 6587 §3.4.2). Replaces its own line breaks by
/// the text that rsyslog replaces control characters with.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = message.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(&b"#012"[..]);
    out.push(b'\n');
    out
}

impl Lookup {
    /// Returns the address of a host. Looks a name up on a thread, and waits at most `wait` for the result. A later call
    /// gets a result that was late.
    fn find(&mut self, host: &str, port: u16, wait: Duration) -> io::Result<SocketAddr> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(address, port));
        }
        let name = host.to_owned();
        self.find_by(move || (name.as_str(), port).to_socket_addrs()?.next().ok_or_else(no_address), wait)
    }

    fn find_by(
        &mut self,
        look: impl FnOnce() -> io::Result<SocketAddr> + Send + 'static,
        wait: Duration,
    ) -> io::Result<SocketAddr> {
        let running = if let Some(running) = self.0.take() {
            running
        } else {
            let (tell, found) = mpsc::channel();
            // An error means that the process has another daemon by now.
            sys::start_thread_without_signals("maypole-lookup", move || drop(tell.send(look())))?;
            found
        };
        match running.recv_timeout(wait) {
            Ok(found) => found,
            Err(RecvTimeoutError::Disconnected) => Err(no_address()),
            Err(RecvTimeoutError::Timeout) => {
                self.0 = Some(running);
                Err(io::Error::new(ErrorKind::TimedOut, "its name is still being looked up"))
            }
        }
    }
}

fn no_address() -> io::Error {
    ErrorKind::AddrNotAvailable.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_message_is_cut_between_characters() {
        let mut message = "ä".repeat(MESSAGE_BYTES_MAX).into_bytes();
        message.insert(0, b'<');
        cut(&mut message);
        assert_eq!(message.len(), MESSAGE_BYTES_MAX - 1);
        assert!(String::from_utf8(message).is_ok());
    }

    #[test]
    fn name_that_is_found_late_is_used_by_a_later_message() {
        let (go, wait) = mpsc::channel::<()>();
        let address = SocketAddr::from(([127, 0, 0, 1], 514));
        let mut lookup = Lookup::default();
        let slow = move || {
            let _ = wait.recv();
            Ok(address)
        };
        let late = lookup.find_by(slow, Duration::from_millis(10)).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::TimedOut);
        drop(go);
        let found = lookup.find_by(|| panic!("it is being looked up already"), Duration::from_secs(60));
        assert_eq!(found.unwrap(), address);
        assert_eq!(lookup.find("::1", 601, Duration::ZERO).unwrap(), SocketAddr::from((Ipv6Addr::LOCALHOST, 601)));
    }

    #[test]
    fn message_of_a_stream_is_one_line() {
        assert_eq!(framed(b"<11>a: b\n  c"), b"<11>a: b#012  c\n");
    }
}
