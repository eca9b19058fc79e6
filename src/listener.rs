//! Bound sockets: TCP, unix and inherited ones, and accepting from them.
//!
//! *Owns*: the listening descriptors and the files of unix sockets that were bound here. *Runs on*: binding on the main thread (names are
//! resolved there); `accept_all` on one coroutine per listener.
//! *Invariants*: nothing calls shutdown(2) on a listener, which may be shared; at the limit of descriptors it backs off
//! instead of spinning, and says so once.

mod unix;

use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, io};

use anyhow::{Context, bail};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::config::{Config, FileRights, ListenAddress};
use crate::sys::{self, HeldFd, Io, TurnOf, Waitable, Waker};
use crate::throttle::Throttle;
use crate::timer::Timer;

use self::unix::SocketFile;
pub use self::unix::remove_stale;

/// How many connections are taken before others get their turn: each costs some 20 µs, and up to 100 µs if its request
/// has come with it.
const ACCEPTS_AT_ONCE: usize = 16;
/// How much of a response the kernel takes beyond what it can send to the client for now. Without a bound it takes in
/// megabytes for a client that reads next to nothing, in packets as small as that client's window, memory that all
/// connections share. It asks for more at half of this: half a millisecond before a gigabit line would run dry.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;
/// While stopping, accept at most this many from the listen queue: it may be shared with processes that go on, and under
/// load it never becomes empty.
const LAST_ACCEPTS_MAX: usize = 1024;
/// The first pause after an accept that failed for want of descriptors or memory, doubling …
const BACK_OFF_MIN: Duration = Duration::from_millis(5);
/// … up to this.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// Why nothing is accepted is said this often.
static COMPLAINTS: Throttle = Throttle::new(Duration::from_secs(10));
/// That there are as many connections as there may be is said this often.
static FULL: Throttle = Throttle::new(Duration::from_secs(10));

/// One bound socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    address: BoundAddress,
    /// The process that bound it; `None`: some other program.
    bound_by: Option<u32>,
    /// It is a copy of another one, which stays open when it is closed.
    is_copy: bool,
    /// The file that it has made.
    file: Option<SocketFile>,
}

/// Where a listener really listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundAddress {
    /// TCP, with the port that was given or found.
    Tcp(SocketAddr),
    /// A unix socket, by its absolute path if it was bound here.
    Unix(PathBuf),
    /// A unix socket without a file.
    Abstract(String),
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

/// How a listener's turn to accept ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Others are to have theirs.
    Over,
    /// No client waits, or none for which there would be room.
    Empty,
    /// A client waits, and there is no room.
    NoRoom,
}

/// What to do with a connection that was accepted, and when there is no room for one.
pub trait Acceptor {
    /// A connection came, from there unless it is a unix socket. It must not wait.
    fn accepted(&self, fd: HeldFd, remote: Option<SocketAddr>);
    /// Whether one more may come.
    fn has_room(&self) -> bool;
    /// How many connections there may be, and what sets that.
    fn limit(&self) -> (usize, String);
    /// Closes a connection that can be spared. Returns whether there was one; if not, the waker is called when there is.
    fn make_room(&self) -> bool;
    /// Whether to stop.
    fn is_closed(&self) -> bool;
}

impl Listener {
    /// Binds what the settings say.
    ///
    /// # Errors
    /// As `bind_all`; also an owner of unix sockets is unknown, or may not be set.
    pub fn bind_configured(config: &Config) -> anyhow::Result<Vec<Self>> {
        Self::bind_with(&config.bind, config.backlog, &config.socket_rights())
    }

    /// Binds all addresses; a name may stand for several, and all of them are bound. The address `[::]` takes IPv4 as well,
    /// unless an IPv4 address of the same port is among the others.
    ///
    /// # Errors
    /// A name is unknown, an address is in use, a descriptor is no listening socket, …: with the address.
    pub fn bind_all(addresses: &[ListenAddress], backlog: u32) -> anyhow::Result<Vec<Self>> {
        Self::bind_with(addresses, backlog, &FileRights::default())
    }

    fn bind_with(addresses: &[ListenAddress], backlog: u32, rights: &FileRights) -> anyhow::Result<Vec<Self>> {
        let mut listeners = Vec::new();
        for address in addresses {
            let has_v4 = |port| {
                let of_port = |other: &&ListenAddress| matches!(other, ListenAddress::Tcp { port: theirs, .. } if *theirs == port);
                addresses.iter().filter(of_port).any(|other| *other != *address)
            };
            listeners.extend(Self::bind(address, backlog, rights, &has_v4)?);
        }
        Ok(listeners)
    }

    fn bind(
        address: &ListenAddress,
        backlog: u32,
        rights: &FileRights,
        has_v4: &dyn Fn(u16) -> bool,
    ) -> anyhow::Result<Vec<Self>> {
        match address {
            ListenAddress::Tcp { host, port } => {
                let mut listeners = Vec::new();
                let addresses = (host.as_str(), *port).to_socket_addrs();
                for found in addresses.with_context(|| format!("cannot resolve {host}"))? {
                    let v6_only = *port != 0 && has_v4(*port);
                    let bound = Self::bind_tcp(found, backlog, v6_only).with_context(|| format!("cannot bind {found}"));
                    match bound {
                        Ok(listener) => listeners.push(listener),
                        // A name such as localhost may have an address of a family this machine lacks.
                        Err(error) if listeners.is_empty() || !is_unavailable(&error) => return Err(error),
                        Err(_) => {}
                    }
                    // Each further one would find another port.
                    if *port == 0 {
                        break;
                    }
                }
                if listeners.is_empty() {
                    bail!("cannot bind {host}: it has no address");
                }
                Ok(listeners)
            }
            ListenAddress::Unix(path) => {
                let bound = Self::bind_unix(path, backlog, rights);
                bound.map(|one| vec![one]).with_context(|| format!("cannot bind {address}"))
            }
            ListenAddress::Abstract(name) => {
                let bound = Self::bind_abstract(name, backlog);
                bound.map(|one| vec![one]).with_context(|| format!("cannot bind {address}"))
            }
            ListenAddress::Fd(number) => {
                Self::inherit(*number).map(|one| vec![one]).with_context(|| format!("cannot use {address}"))
            }
        }
    }

    fn bind_tcp(address: SocketAddr, backlog: u32, v6_only: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Another process may still have connections of a listener that is gone; SO_REUSEPORT is not set, so a second
        // listener is an error.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() && v6_only {
            socket.set_only_v6(true)?;
        }
        Self::prepare_tcp(&SockRef::from(&socket))?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        let local = socket.local_addr()?.as_socket().unwrap_or(address);
        let address = BoundAddress::Tcp(local);
        Ok(Self { fd: socket.into(), address, bound_by: Some(std::process::id()), is_copy: false, file: None })
    }

    /// Sets what accepted sockets inherit.
    fn prepare_tcp(socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        // An error means a kernel without it, which then keeps what it likes.
        let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
        Ok(())
    }

    fn bind_unix(path: &Path, backlog: u32, rights: &FileRights) -> anyhow::Result<Self> {
        let (fd, file) = unix::bind(path, i32::try_from(backlog).unwrap_or(i32::MAX), rights)?;
        let address = BoundAddress::Unix(std::path::absolute(path)?);
        Ok(Self { fd, address, bound_by: Some(std::process::id()), is_copy: false, file: Some(file) })
    }

    fn bind_abstract(name: &str, backlog: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(format!("\0{name}"))?)?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        let address = BoundAddress::Abstract(name.to_owned());
        Ok(Self { fd: socket.into(), address, bound_by: Some(std::process::id()), is_copy: false, file: None })
    }

    fn inherit(number: i32) -> anyhow::Result<Self> {
        Self::adopt(sys::inherited_descriptor(number)?)
    }

    /// Another descriptor of the same socket, which does not remove the socket's file.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let (address, bound_by) = (self.address.clone(), self.bound_by);
        Ok(Self { fd: self.fd.try_clone()?, address, bound_by, is_copy: true, file: None })
    }

    /// Takes over a socket that listens already.
    ///
    /// # Errors
    /// It is no stream socket, or does not listen.
    pub fn adopt(fd: OwnedFd) -> anyhow::Result<Self> {
        let socket = SockRef::from(&fd);
        if socket.r#type()? != Type::STREAM {
            bail!("it is not a stream socket");
        }
        if !socket.is_listener()? {
            bail!("it does not listen");
        }
        let local = socket.local_addr()?;
        let address = match local.as_socket() {
            Some(address) => {
                Self::prepare_tcp(&socket)?;
                BoundAddress::Tcp(address)
            }
            None => match local.as_abstract_namespace() {
                Some(name) => BoundAddress::Abstract(String::from_utf8_lossy(name).into_owned()),
                None => BoundAddress::Unix(local.as_pathname().map(Path::to_owned).unwrap_or_default()),
            },
        };
        Ok(Self { fd, address, bound_by: None, is_copy: false, file: None })
    }

    /// Whether other processes may accept from it: it came from elsewhere, or was bound before a fork.
    pub fn is_shared(&self) -> bool {
        self.bound_by != Some(std::process::id())
    }

    /// Whether the socket is closed for good when this is.
    fn ends_here(&self) -> bool {
        !self.is_copy && !self.is_shared()
    }

    /// No forked child keeps it from now on.
    pub fn hold(&self) {
        sys::hold_descriptor(self.as_raw_fd());
    }

    /// Where it listens.
    pub fn address(&self) -> &BoundAddress {
        &self.address
    }

    /// Has the runtime watch the socket.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn watch(self) -> io::Result<Watched> {
        let waitable = Waitable::new(HeldFd::copy_of(self.fd.as_fd())?)?;
        self.hold();
        let waker = waitable.waker();
        Ok(Watched { timer: Timer::new(waker.clone()), waker, waitable, listener: self })
    }
    /// Accepts until the queue is empty, there is no room, or others are to have their turn: a client that has gone
    /// counts as well, and so does room that was made.
    fn accept_some(&self, socket: &impl AsRawFd, acceptor: &impl Acceptor, complained: &mut bool) -> io::Result<Turn> {
        if self.is_shared() {
            // Others that have the socket may clear this, as systemd does when it starts one more process: it would wait here.
            SockRef::from(&self.fd).set_nonblocking(true)?;
        }
        for _ in 0..ACCEPTS_AT_ONCE {
            if !acceptor.has_room() {
                // Room is made only for a client that is there, and without room none is accepted.
                if !sys::is_readable(socket) {
                    return Ok(Turn::Empty);
                }
                if !std::mem::replace(complained, true)
                    && let Some(more) = FULL.pass()
                {
                    let (max, cause) = acceptor.limit();
                    log::warn!(
                        "the limit of connections is reached, {max} ({cause}): idle ones are closed to make room, the longest idle first{more}"
                    );
                }
                if !acceptor.make_room() {
                    return Ok(Turn::NoRoom);
                }
                continue;
            }
            match sys::accept(socket) {
                Io::Done((fd, remote)) => acceptor.accepted(fd, remote),
                Io::WouldBlock => return Ok(Turn::Empty),
                Io::Failed(error) => match error.raw_os_error() {
                    // The client has gone before it was accepted.
                    Some(libc::ECONNABORTED | libc::EPROTO | libc::EPERM) => {}
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        if !std::mem::replace(complained, true)
                            && let Some(more) = COMPLAINTS.pass()
                        {
                            let error = sys::plain(&error);
                            log::warn!("cannot accept: {error}; closing connections at rest to make room{more}");
                        }
                        if !acceptor.make_room() {
                            return Ok(Turn::NoRoom);
                        }
                    }
                    // It listens no more: the application has shut it down or closed it.
                    Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => return Err(error),
                    _ => {
                        if let Some(more) = COMPLAINTS.pass() {
                            log::error!("cannot accept on {}: {}{more}", self.address, sys::plain(&error));
                        }
                        return Ok(Turn::NoRoom);
                    }
                },
            }
        }
        Ok(Turn::Over)
    }
}

/// A listener that the runtime watches.
#[derive(Debug)]
pub struct Watched {
    timer: Timer,
    waker: Waker,
    waitable: Waitable,
    listener: Listener,
}

impl Watched {
    /// What ends its waiting.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Where it listens.
    pub fn address(&self) -> &BoundAddress {
        &self.listener.address
    }

    /// Accepts until `acceptor` is closed, then takes what waits in the queue and closes the socket. (Coroutine.)
    ///
    /// # Errors
    /// The socket listens no more.
    pub fn accept_all(&self, acceptor: &impl Acceptor) -> io::Result<()> {
        let Self { timer, waker, waitable, listener } = self;
        let mut back_off = BACK_OFF_MIN;
        let mut last_turns = LAST_ACCEPTS_MAX / ACCEPTS_AT_ONCE;
        let mut complained = false;
        loop {
            let closing = acceptor.is_closed();
            if closing
                && last_turns == LAST_ACCEPTS_MAX / ACCEPTS_AT_ONCE
                && listener.ends_here()
                && let Err(error) = sys::complete_no_more(waitable)
            {
                log::warn!("clients that connect at this very moment may be lost: {}", sys::plain(&error));
            }
            match listener.accept_some(waitable, acceptor, &mut complained)? {
                Turn::Over if closing && last_turns == 1 => return Ok(()),
                Turn::Over => {
                    last_turns -= usize::from(closing);
                    back_off = BACK_OFF_MIN;
                    waitable.take_turn(waker, TurnOf::Many);
                }
                _ if closing => return Ok(()),
                Turn::Empty => {
                    complained &= !acceptor.has_room();
                    back_off = BACK_OFF_MIN;
                    waitable.wait();
                }
                Turn::NoRoom => {
                    timer.set(Some(Instant::now() + back_off));
                    back_off = (back_off * 2).min(BACK_OFF_MAX);
                    waitable.wait();
                }
            }
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        sys::release_descriptor(self.as_raw_fd());
        // While the descriptor is open, the number of the file's inode is no other file's.
        if self.ends_here()
            && let Some(file) = &self.file
            && let Err(error) = file.remove()
        {
            log::warn!("cannot remove the file of {}: {}", self.address, sys::plain(&error));
        }
    }
}

fn is_unavailable(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)))
}

/// Our own address of an accepted connection.
pub fn local_address(fd: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(fd).local_addr().ok()?.as_socket()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
