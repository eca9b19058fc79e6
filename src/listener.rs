//! Binds TCP and unix sockets, takes over inherited ones, and accepts connections from them.
//!
//! *Owns*: the listening descriptors, and the files of unix sockets that were bound here. *Runs on*: the main thread
//! binds and resolves names; `accept_all` runs on one coroutine per listener. *Invariants*: shutdown(2) is never called
//! on a listener, because it may be shared; at the limit of descriptors a listener backs off instead of spinning, and
//! logs that once.

mod pause;
mod record;
mod unix;

use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, io};

use anyhow::{Context, bail};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::config::{Bind, Config, FileRights, ListenAddress};
use crate::sys::{self, HeldFd, HoldableFd, Io, TurnOf, Waitable, Waker, errno};
use crate::throttle::Throttle;
use crate::timer::Timer;

use self::pause::Pause;
pub use self::record::Record;
use self::unix::SocketFile;
pub use self::unix::remove_stale;

/// How many connections are accepted before other coroutines get their turn. Each costs about 20 µs, and up to 100 µs
/// if its request has already arrived.
const ACCEPTS_AT_ONCE: usize = 16;
/// How many bytes of a response the kernel holds beyond what it can send to the client now. Without a limit, it buffers
/// megabytes for a client that reads almost nothing, in packets as small as that client's window. All connections share
/// that memory. The kernel asks for more data at half of this, 0.5 ms before a gigabit line would run out of data.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;
/// While stopping, accept at most this many connections from the listen queue. The queue may be shared with processes
/// that keep serving, and under load it never becomes empty.
const LAST_ACCEPTS_MAX: usize = 1024;
/// The first pause after an accept that failed because descriptors or memory ran out. The pause doubles up to
/// `BACK_OFF_MAX`.
const BACK_OFF_MIN: Duration = Duration::from_millis(5);
/// The longest pause after a failed accept.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// Limits how often the log says why a connection cannot be accepted.
static COMPLAINTS: Throttle = Throttle::new(Duration::from_secs(10));
/// Limits how often the log says that the limit of connections is reached.
static FULL: Throttle = Throttle::new(Duration::from_secs(10));

/// One bound socket.
#[derive(Debug)]
pub struct Listener {
    fd: HoldableFd,
    address: BoundAddress,
    /// The process that bound the socket. `None` if the socket was inherited or adopted.
    bound_by: Option<u32>,
    /// Whether this is a copy of another listener, which stays open when the copy is closed.
    is_copy: bool,
    /// Whether clients speak TLS.
    is_tls: bool,
    /// The socket's file, if this listener created it.
    file: Option<SocketFile>,
}

/// The address that a listener is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundAddress {
    /// TCP, with the given port or the one that the kernel chose.
    Tcp(SocketAddr),
    /// A unix socket, by its absolute path if it was bound here.
    Unix(PathBuf),
    /// A unix socket without a file.
    Abstract(String),
}

impl BoundAddress {
    /// Returns the address as a client or an operator writes it. A unix socket without TLS has no scheme.
    pub fn url(&self, is_tls: bool) -> String {
        match self {
            Self::Tcp(address) if is_tls => format!("https://{address}"),
            _ if is_tls => format!("https://{self}"),
            _ => self.to_string(),
        }
    }
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
    /// Other coroutines must get their turn.
    Over,
    /// No client is waiting.
    Empty,
    /// A client is waiting, but there is no room for another connection.
    NoRoom,
    /// A client is waiting, and is left to another process for now.
    Left,
}

/// Takes accepted connections, and makes room for them.
pub trait Acceptor {
    /// Takes an accepted connection. `remote` is `None` on a unix socket. It must not wait.
    fn accepted(&self, fd: HeldFd, remote: Option<SocketAddr>);
    /// Returns whether one more connection may be accepted.
    fn has_room(&self) -> bool;
    /// Returns the limit of connections, and the setting or limit behind it.
    fn limit(&self) -> (usize, String);
    /// Closes a connection that may be closed to make room. Returns whether there was one. If not, the waker is called
    /// once there is one.
    fn make_room(&self) -> bool;
    /// Returns whether the listener must stop.
    fn is_closed(&self) -> bool;
    /// Returns how long the next client is left to other processes that accept from the socket. Zero: it is accepted
    /// now. If a listener is not polite (`Listener::watch`), this is not called.
    fn patience(&self) -> Duration;
    /// Returns whether a listener that must stop leaves the clients in its queue to other processes.
    fn leaves_queue(&self) -> bool;
}

impl Listener {
    /// Binds the addresses in the settings.
    ///
    /// # Errors
    /// The errors of `bind_all`; also if the owner for unix sockets is unknown or may not be set.
    pub fn bind_configured(config: &Config) -> anyhow::Result<Vec<Self>> {
        let mut listeners = Vec::new();
        for bind in &config.bind {
            listeners.extend(Self::bind_one(config, bind)?);
        }
        Ok(listeners)
    }

    /// Binds all addresses. A name may have several addresses, and each of them is bound. The address `[::]` also
    /// accepts IPv4, unless `addresses` has another address with the same port.
    ///
    /// # Errors
    /// A name is unknown, an address is in use, a descriptor is not a listening socket, …: the error names the address.
    pub fn bind_all(addresses: &[ListenAddress], backlog: u32) -> anyhow::Result<Vec<Self>> {
        let mut listeners = Vec::new();
        for address in addresses {
            listeners.extend(Self::bind_among(address, addresses, backlog)?);
        }
        Ok(listeners)
    }

    /// Binds one of the addresses in the settings.
    ///
    /// # Errors
    /// As for `bind_configured`.
    pub fn bind_one(config: &Config, bind: &Bind) -> anyhow::Result<Vec<Self>> {
        let bound = Self::bind(&bind.address, config.backlog, &config.socket_rights(), &config.addresses())?;
        Ok(bound.into_iter().map(|listener| listener.with_tls(config.is_tls(bind))).collect())
    }

    /// Binds an address, which is one of `all`.
    ///
    /// # Errors
    /// As for `bind_all`.
    pub fn bind_among(address: &ListenAddress, all: &[ListenAddress], backlog: u32) -> anyhow::Result<Vec<Self>> {
        Self::bind(address, backlog, &FileRights::default(), all)
    }

    /// Binds a unix socket to which only its owner may connect.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn bind_private(path: &Path, backlog: u32) -> anyhow::Result<Self> {
        let rights = FileRights { mode: 0o600, owner: None };
        Self::bind_unix(path, backlog, &rights).with_context(|| format!("cannot bind unix:{}", path.display()))
    }

    /// Binds an address, which is one of `all`.
    fn bind(
        address: &ListenAddress,
        backlog: u32,
        rights: &FileRights,
        all: &[ListenAddress],
    ) -> anyhow::Result<Vec<Self>> {
        let has_v4 = |port| {
            let of_port =
                |other: &&ListenAddress| matches!(other, ListenAddress::Tcp { port: theirs, .. } if *theirs == port);
            all.iter().filter(of_port).any(|other| other != address)
        };
        match address {
            ListenAddress::Tcp { host, port } => {
                let mut listeners = Vec::new();
                let addresses = (host.as_str(), *port).to_socket_addrs();
                for found in addresses.with_context(|| format!("cannot resolve {host}"))? {
                    let v6_only = *port != 0 && has_v4(*port);
                    let bound = Self::bind_tcp(found, backlog, v6_only).with_context(|| format!("cannot bind {found}"));
                    match bound {
                        Ok(listener) => listeners.push(listener),
                        // A name such as localhost may have an address of a family that this machine does not support.
                        Err(error) if listeners.is_empty() || !is_unavailable(&error) => return Err(error),
                        Err(_) => {}
                    }
                    // With port 0, each further address would get a different port.
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

    /// Makes the listener of a socket that this process has bound.
    fn bound(fd: OwnedFd, address: BoundAddress, file: Option<SocketFile>) -> Self {
        Self { fd: fd.into(), address, bound_by: Some(std::process::id()), is_copy: false, is_tls: false, file }
    }

    fn bind_tcp(address: SocketAddr, backlog: u32, v6_only: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // The port may still have connections of an earlier listener. SO_REUSEPORT is not set, so a second listener on
        // the port is an error.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() && v6_only {
            socket.set_only_v6(true)?;
        }
        Self::prepare_tcp(&SockRef::from(&socket))?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        let local = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Self::bound(socket.into(), BoundAddress::Tcp(local), None))
    }

    /// Sets the options that accepted sockets inherit.
    fn prepare_tcp(socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        // An error means that the kernel lacks this option. It then buffers without this limit.
        let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
        Ok(())
    }

    fn bind_unix(path: &Path, backlog: u32, rights: &FileRights) -> anyhow::Result<Self> {
        let (fd, file) = unix::bind(path, i32::try_from(backlog).unwrap_or(i32::MAX), rights)?;
        let address = BoundAddress::Unix(std::path::absolute(path)?);
        Ok(Self::bound(fd, address, Some(file)))
    }

    fn bind_abstract(name: &str, backlog: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(format!("\0{name}"))?)?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(Self::bound(socket.into(), BoundAddress::Abstract(name.to_owned()), None))
    }

    #[allow(unsafe_code, reason = "the descriptor's number comes from the settings")]
    fn inherit(number: i32) -> anyhow::Result<Self> {
        // SAFETY: the operator names a descriptor that the parent process has left for the server alone.
        Self::adopt(unsafe { sys::inherited_descriptor(number) }?)
    }

    /// Returns a listener with another descriptor of the same socket. It does not remove the socket's file.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let (address, bound_by, is_tls) = (self.address.clone(), self.bound_by, self.is_tls);
        let fd = self.fd.as_fd().try_clone_to_owned()?;
        Ok(Self { fd: fd.into(), address, bound_by, is_copy: true, is_tls, file: None })
    }

    /// Gives the socket the backlog in the settings, and the file of a unix socket its mode and its owner: they may have
    /// changed since it was bound. A socket that was inherited as `address` stays as it is.
    ///
    /// # Errors
    /// The owner is unknown, or may not be set.
    pub fn renew(&self, config: &Config, address: &ListenAddress) -> anyhow::Result<()> {
        if matches!(address, ListenAddress::Fd(_)) {
            return Ok(());
        }
        // On a socket that listens, listen(2) changes the length of the queue. Clients in the queue stay.
        SockRef::from(&self.fd.as_fd()).listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
        let renewed = self.file.as_ref().map_or(Ok(()), |file| file.renew(&config.socket_rights()));
        renewed.with_context(|| format!("cannot change the file of {address}"))
    }

    /// Takes over a socket that is already listening.
    ///
    /// # Errors
    /// The socket is not a stream socket, or does not listen.
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
        Ok(Self { fd: fd.into(), address, bound_by: None, is_copy: false, is_tls: false, file: None })
    }

    /// Returns whether other processes may accept from the socket: it was inherited, or was bound before a fork.
    pub fn is_shared(&self) -> bool {
        self.bound_by != Some(std::process::id())
    }

    /// Returns whether dropping this listener closes the socket for good.
    fn ends_here(&self) -> bool {
        !self.is_copy && !self.is_shared()
    }

    /// Makes an accept return at once if no client waits, as in `sys::accept` by a thread that has other sockets, too.
    ///
    /// # Errors
    /// Not expected.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        SockRef::from(&self.fd.as_fd()).set_nonblocking(true)
    }

    /// Makes forked children close the descriptor from now on.
    pub fn hold(&self) {
        self.fd.hold();
    }

    /// Lets forked children keep the descriptor from now on.
    pub fn let_go(&self) {
        self.fd.let_go();
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> &BoundAddress {
        &self.address
    }

    /// Says whether clients speak TLS. A new listener is plain.
    #[must_use]
    pub fn with_tls(mut self, is_tls: bool) -> Self {
        self.is_tls = is_tls;
        self
    }

    /// Returns whether clients speak TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Returns the address as a client or an operator writes it.
    pub fn url(&self) -> String {
        self.address.url(self.is_tls)
    }

    /// Makes the runtime watch the socket. A polite listener leaves clients to other processes, as its acceptor says.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn watch(self, is_polite: bool) -> io::Result<Watched> {
        let waitable = Waitable::new(HeldFd::copy_of(self.fd.as_fd())?)?;
        let pause = is_polite.then(Pause::new).transpose()?;
        self.hold();
        let waker = waitable.waker();
        Ok(Watched { timer: Timer::new(waker.clone()), waker, waitable, pause, listener: self })
    }

    /// Accepts until the queue is empty, there is no room, or other coroutines must get their turn. Clients that have
    /// already left and connections closed to make room count towards `ACCEPTS_AT_ONCE` too.
    fn accept_some(
        &self,
        socket: &impl AsFd,
        acceptor: &impl Acceptor,
        pause: Option<&Pause>,
        complained: &mut bool,
    ) -> io::Result<Turn> {
        if self.is_shared() {
            // Another process that has the socket may clear this flag, as systemd does when it starts another process.
            // Without the flag, accept would block here.
            SockRef::from(&self.fd).set_nonblocking(true)?;
        }
        for _ in 0..ACCEPTS_AT_ONCE {
            if let Some(pause) = pause
                && pause.lasts(acceptor)
            {
                if sys::is_readable(socket) {
                    return Ok(Turn::Left);
                }
                pause.end();
                return Ok(Turn::Empty);
            }
            if !acceptor.has_room() {
                // Make room only if a client waits. Without room, no client is accepted.
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
                    // The client left before it was accepted.
                    Some(errno::ECONNABORTED | errno::EPROTO | errno::EPERM) => {}
                    Some(errno::EMFILE | errno::ENFILE | errno::ENOBUFS | errno::ENOMEM) => {
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
                    // The socket no longer listens: the application has shut it down or closed it.
                    Some(errno::EBADF | errno::EINVAL | errno::ENOTSOCK | errno::EOPNOTSUPP) => return Err(error),
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
    /// `None`: clients are never left to other processes.
    pause: Option<Pause>,
    listener: Listener,
}

impl Watched {
    /// Returns the waker that ends a wait of `accept_all`.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> &BoundAddress {
        &self.listener.address
    }

    /// Returns whether clients speak TLS.
    pub fn is_tls(&self) -> bool {
        self.listener.is_tls
    }

    /// Stops watching, and returns the listener.
    pub fn into_listener(self) -> Listener {
        self.listener
    }

    /// Accepts until `acceptor` is closed, then accepts the connections in the queue. The caller closes the socket.
    /// (Coroutine.)
    ///
    /// # Errors
    /// The socket no longer listens.
    pub fn accept_all(&self, acceptor: &impl Acceptor) -> io::Result<()> {
        let Self { timer, waker, waitable, pause, listener } = self;
        let mut back_off = BACK_OFF_MIN;
        let mut last_turns = LAST_ACCEPTS_MAX / ACCEPTS_AT_ONCE;
        let mut complained = false;
        loop {
            let closing = acceptor.is_closed();
            if closing && acceptor.leaves_queue() {
                return Ok(());
            }
            if closing
                && last_turns == LAST_ACCEPTS_MAX / ACCEPTS_AT_ONCE
                && listener.ends_here()
                && let Err(error) = sys::complete_no_more(waitable)
            {
                log::warn!("clients that connect at this very moment may be lost: {}", sys::plain(&error));
            }
            // The last clients are accepted now, because other processes may be stopping too.
            let pause = pause.as_ref().filter(|_| !closing);
            match listener.accept_some(waitable, acceptor, pause, &mut complained)? {
                Turn::Over if closing && last_turns == 1 => return Ok(()),
                Turn::Over => {
                    last_turns -= usize::from(closing);
                    back_off = BACK_OFF_MIN;
                    waitable.take_turn(waker, TurnOf::Many);
                }
                _ if closing => return Ok(()),
                // No wait for the socket: it may report the client that waits only once.
                Turn::Left => pause.iter().for_each(|pause| pause.wait()),
                Turn::Empty => {
                    complained &= !acceptor.has_room();
                    back_off = BACK_OFF_MIN;
                    waitable.wait();
                }
                Turn::NoRoom => {
                    timer.set(Instant::now() + back_off);
                    back_off = (back_off * 2).min(BACK_OFF_MAX);
                    waitable.wait();
                }
            }
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_fd().as_raw_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Remove the file while the descriptor is open: until then no other file can get its inode number.
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
        .is_some_and(|error| matches!(error.raw_os_error(), Some(errno::EADDRNOTAVAIL | errno::EAFNOSUPPORT)))
}

/// Returns the local address of an accepted connection.
pub fn local_address(fd: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(fd).local_addr().ok()?.as_socket()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
