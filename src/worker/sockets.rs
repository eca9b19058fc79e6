//! The sockets with which a process begins: bound, from its supervisor, or from the program before.
//!
//! *Owns*: nothing. *Runs on*: the main thread.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::place::Place;
use super::reexec::{Again, Inherited};
use crate::config::Config;
use crate::connection::Moved;
use crate::listener::Listener;
use crate::status;
use crate::sys::{self, HeldFd};
use crate::tls::Certificates;

/// The sockets of a process that begins to serve.
#[derive(Default)]
pub(super) struct Sockets {
    pub(super) listeners: Vec<Listener>,
    /// The number of each listener's descriptor, and the address in the settings that it was bound for.
    pub(super) addresses: Vec<(RawFd, String)>,
    /// The idle connections of the program before.
    pub(super) connections: Vec<(HeldFd, Moved)>,
    /// The certificates of TLS. `None`: no listener speaks TLS.
    pub(super) certificates: Option<Arc<Certificates>>,
    /// The sockets on which the program before has shown its status.
    pub(super) shown: status::Sockets,
    /// The commands that wait until this program serves.
    pub(super) callers: status::Callers,
}

impl Sockets {
    /// Binds the addresses in the settings, or takes over the sockets of the supervisor, or those of the program that
    /// ran in this process before. `--check-config` opens none. Reads the certificates first, unless they are there.
    ///
    /// # Errors
    /// A certificate is wrong, an address cannot be bound, or a socket is not what it should be.
    pub(super) fn open(
        config: &Config,
        place: Option<&Place>,
        again: Option<&Again>,
        certificates: Option<Arc<Certificates>>,
    ) -> anyhow::Result<Self> {
        let again = again.filter(|_| !config.check_config);
        let Inherited { listeners, connections, shown, seed, callers } =
            again.map(Again::inherit).transpose()?.unwrap_or_default();
        // Before the process listens, and while it may still read the keys.
        let certificates = match certificates {
            None => Certificates::load(&config.tls, place.map_or(seed, Place::seed))?,
            read => read,
        };
        if config.check_config {
            return Ok(Self::default());
        }
        let (mut addresses, listeners) = match place {
            Some(place) => (Vec::new(), place.listeners()?),
            None => bind(config, listeners)?.into_iter().unzip(),
        };
        // The application may start processes while it is imported. These must not keep the addresses in use.
        sys::watch_forks();
        listeners.iter().for_each(Listener::hold);
        let numbers = listeners.iter().map(AsRawFd::as_raw_fd);
        let addresses = numbers.zip(addresses.drain(..)).collect();
        Ok(Self { listeners, addresses, connections, certificates, shown, callers })
    }
}

/// Binds the addresses in the settings, except those of `known` listeners. Closes known ones of other addresses.
fn bind(config: &Config, mut known: Vec<(String, Listener)>) -> anyhow::Result<Vec<(String, Listener)>> {
    // First close others, because a new address may have the same port.
    known.retain(|(address, _)| config.bind.iter().any(|wanted| wanted.address.to_string() == *address));
    let mut listeners = Vec::new();
    for bind in &config.bind {
        let (address, text) = (&bind.address, bind.address.to_string());
        let (same, others): (Vec<_>, Vec<_>) = known.into_iter().partition(|(known, _)| *known == text);
        known = others;
        if same.is_empty() {
            let bound = Listener::bind_one(config, bind)?;
            listeners.extend(bound.into_iter().map(|listener| (text.clone(), listener)));
        }
        for (_, listener) in &same {
            // The process may have changed its user since it bound the socket: it serves anyway.
            if let Err(error) = listener.renew(config, address) {
                log::warn!("the new settings of {address} have no effect: {}", sys::plain(error.as_ref()));
            }
        }
        let is_tls = config.is_tls(bind);
        listeners.extend(same.into_iter().map(|(address, listener)| (address, listener.with_tls(is_tls))));
    }
    Ok(listeners)
}
