//! The numbers of a service for a StatsD server (`--statsd-host`).
//!
//! *Owns*: a thread, and its socket for datagrams. *Runs on*: the thread `maypole-statsd`. The thread that ends it waits
//! for it for a moment. *Invariants*: no single request is sent. Once a second, sums are. A datagram that the system does
//! not take at once is lost. A server that cannot be reached causes at most one log line in `COMPLAIN_EVERY`. Only this
//! thread waits for the address of a host.
//! *Source*: `docs/metric_types.md` of StatsD 0.9; gunicorn's names; the datagrams of DogStatsD.

mod numbers;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use self::numbers::Reported;
use super::Shared;
use crate::config::{StatsdAddress, StatsdSettings};
use crate::sys::{self, Condition, Lock};
use crate::throttle::Throttle;

/// How often the numbers are sent.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// How long an address of a host is used until it is looked up again.
const RESOLVE_EVERY: Duration = Duration::from_secs(60);
/// The shortest time between two lines about a server that cannot be reached.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// How long the end of the service waits for the last numbers.
const END_MAX: Duration = Duration::from_millis(500);

/// A thread that sends the numbers until it is dropped.
#[derive(Debug)]
pub(super) struct Statsd {
    settings: StatsdSettings,
    orders: Arc<Orders>,
}

/// What the thread is told.
#[derive(Debug)]
struct Orders {
    state: Lock<State>,
    changed: Condition,
}

#[derive(Debug)]
struct State {
    /// Whether this process alone shows the service now. Another one sends its own numbers until it ends, but only one
    /// sends gauges.
    leads: bool,
    /// Whether the thread is to end.
    ends: bool,
    has_ended: bool,
}

impl Statsd {
    /// Starts the thread, if the settings name a server. It sends what is counted from now on, and if the service has
    /// just started, what was counted before.
    ///
    /// # Errors
    /// There is no thread left.
    pub(super) fn start(
        settings: &StatsdSettings,
        shared: &Arc<Shared>,
        leads: bool,
        is_new: bool,
    ) -> anyhow::Result<Option<Self>> {
        let Some(address) = settings.statsd_host.clone() else { return Ok(None) };
        let state = Lock::new(State { leads, ends: false, has_ended: false });
        let orders = Arc::new(Orders { state, changed: Condition::new() });
        let reported = if is_new { Reported::default() } else { Reported::all_of(&shared.processes.sums()) };
        let mut sender = Sender { address, socket: None, complaints: Throttle::new(COMPLAIN_EVERY) };
        let (settings, shared) = (settings.clone(), Arc::clone(shared));
        let (of_thread, ordered) = (settings.clone(), Arc::clone(&orders));
        let run = move || {
            ordered.run(&of_thread, &shared, &mut sender, reported);
            ordered.state.lock().has_ended = true;
            ordered.changed.notify_all();
        };
        sys::start_thread_without_signals("maypole-statsd", run)
            .context("cannot start the thread that sends numbers to StatsD")?;
        Ok(Some(Self { settings, orders }))
    }

    /// Returns whether it sends as these settings say.
    pub(super) fn follows(&self, settings: &StatsdSettings) -> bool {
        self.settings == *settings
    }

    /// Sends gauges from now on, or no more.
    pub(super) fn lead(&self, leads: bool) {
        self.orders.state.lock().leads = leads;
    }
}

impl Drop for Statsd {
    fn drop(&mut self) {
        let mut state = self.orders.state.lock();
        state.ends = true;
        self.orders.changed.notify_all();
        // The thread may wait for the address of a host.
        drop(self.orders.changed.wait_timeout_while(state, END_MAX, |state| !state.has_ended));
    }
}

impl Orders {
    /// Sends until the thread is to end, and then once more.
    fn run(&self, settings: &StatsdSettings, shared: &Shared, sender: &mut Sender, mut reported: Reported) {
        let mut next = Instant::now() + SEND_EVERY;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let state = self.changed.wait_timeout_while(self.state.lock(), left, |state| !state.ends);
            let State { leads, ends, .. } = *state;
            drop(state);
            if ends {
                shared.source.refresh();
            }
            let mut lines = reported.advance(&shared.processes.sums());
            if leads && !ends {
                lines.extend(numbers::gauges(shared));
            }
            sender.send(&numbers::datagrams(&lines, settings));
            if ends {
                return;
            }
            next = (next + SEND_EVERY).max(Instant::now());
        }
    }
}

/// The way to the server.
#[derive(Debug)]
struct Sender {
    address: StatsdAddress,
    /// The socket, and when it was opened.
    socket: Option<(Socket, Instant)>,
    complaints: Throttle,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Sender {
    /// Sends datagrams, or loses them and says so.
    fn send(&mut self, datagrams: &[Vec<u8>]) {
        if datagrams.is_empty() {
            return;
        }
        let is_old = |(_, opened): &mut (Socket, Instant)| opened.elapsed() >= RESOLVE_EVERY;
        // A unix socket may be another file by now. Closing the old one costs nothing.
        self.socket.take_if(is_old);
        let sent = datagrams.iter().try_for_each(|datagram| self.try_send(datagram));
        let Err(error) = sent else { return };
        self.socket = None;
        if let Some(more) = self.complaints.pass() {
            let (address, error) = (&self.address, sys::plain(&error));
            log::warn!(
                "StatsD at {address} takes no numbers: {error}; they are lost until it does (--statsd-host){more}"
            );
        }
    }

    fn try_send(&mut self, datagram: &[u8]) -> io::Result<()> {
        let (socket, _) = match self.socket.take() {
            Some(known) => self.socket.insert(known),
            None => self.socket.insert((Socket::open(&self.address)?, Instant::now())),
        };
        match socket {
            Socket::Udp(socket) => socket.send(datagram),
            Socket::Unix(socket) => socket.send(datagram),
        }
        .map(drop)
    }
}

impl Socket {
    fn open(address: &StatsdAddress) -> io::Result<Self> {
        match address {
            StatsdAddress::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(path)?;
                Ok(Self::Unix(socket))
            }
            StatsdAddress::Udp(host, port) => {
                let found = (host.as_str(), *port).to_socket_addrs()?.next();
                let server = found.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
                let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.set_nonblocking(true)?;
                socket.connect(server)?;
                Ok(Self::Udp(socket))
            }
        }
    }
}
