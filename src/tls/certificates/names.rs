//! Chooses the certificate for the host that a client names (SNI).
//!
//! *Owns*: the pairs. *Runs on*: the threads of the handshakes. *Invariants*: it never changes; a reload makes another
//! one. *Source*: RFC 6066 §3; RFC 6125 §6.4.3 for wildcards.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::pair::Pair;

/// The certificates, by the names of hosts.
#[derive(Debug)]
pub(super) struct Names {
    /// Never empty. The first is for clients that name no host, or an unknown one.
    all: Vec<Arc<CertifiedKey>>,
    /// The places in `all`. A name may have several, whose keys are of different kinds.
    hosts: HashMap<String, Vec<usize>>,
    /// The same for wildcards, without `*.`.
    wildcards: HashMap<String, Vec<usize>>,
}

impl Names {
    /// Orders the pairs, of which there is at least one.
    pub(super) fn new(pairs: &[Pair]) -> Self {
        let (mut hosts, mut wildcards) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (index, pair) in pairs.iter().enumerate() {
            for name in &pair.names {
                match name.strip_prefix("*.") {
                    Some(rest) => wildcards.entry(rest.to_owned()).or_default().push(index),
                    None => hosts.entry(name.clone()).or_default().push(index),
                }
            }
        }
        Self { all: pairs.iter().map(|pair| Arc::clone(&pair.certified)).collect(), hosts, wildcards }
    }

    /// Returns the place of the certificate for a host. `usable` returns whether the client can use a certificate.
    fn place(&self, host: Option<&str>, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let host = host.map(str::to_ascii_lowercase);
        let host = host.as_deref().map(|host| host.strip_suffix('.').unwrap_or(host));
        let exact = host.and_then(|host| self.hosts.get(host));
        // A wildcard stands for one label.
        let wildcard = host.and_then(|host| self.wildcards.get(host.split_once('.')?.1));
        let named = exact.into_iter().chain(wildcard).flatten().copied();
        named.chain(0..self.all.len()).find(|index| usable(*index))
    }

    /// Returns the certificate for a host. A client that can use none of them gets the first one: the library then ends
    /// the handshake with the alert that names the reason.
    pub(super) fn choose(&self, host: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = |index: usize| self.all[index].key.choose_scheme(schemes).is_some();
        let place = self.place(host, usable).or_else(|| self.place(host, |_| true));
        place.map(|index| Arc::clone(&self.all[index]))
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}
