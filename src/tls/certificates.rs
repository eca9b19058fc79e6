//! The certificates of a server, and everything else that its sessions are set up with.
//!
//! *Owns*: the configuration with which each new session begins. *Runs on*: any thread takes the configuration; the
//! main thread reads the files at the start, and the thread of `Watched` when they have changed. *Invariants*: a
//! configuration never changes. Files that are wrong leave the one before in place.

mod clients;
mod key;
mod names;
mod pair;
mod pem;
#[cfg(test)]
mod tests;
mod tickets;
mod watched;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};

use self::clients::ClientRules;
use self::names::Names;
use self::pair::Pair;
pub use self::tickets::Seed;
use self::tickets::Tickets;
use self::watched::Stamps;
pub use self::watched::Voice;
use super::cryptography;
use super::facts::iana_name;
use super::kernel;
use crate::config::{ClientCertificates, KernelTls, Suite, TlsSettings, TlsVersions};
use crate::sys::Lock;

/// The protocols that a client may choose (RFC 7301). If a client names others only, its handshake fails. curl asks for
/// the older one if it is told to use it.
const HTTP1: [&[u8]; 2] = [b"http/1.1", b"http/1.0"];
const HTTP2: &[u8] = b"h2";
/// Each client gets this many tickets, so that a browser can resume two connections at once.
const TICKETS: usize = 2;
/// An operator is warned this long before a certificate expires.
const NOTICE: Duration = Duration::from_secs(14 * DAY_S);
/// A day, in seconds.
const DAY_S: u64 = 24 * 60 * 60;

/// The settings of TLS are wrong, or one of the files that they name.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CertificateError(String);

impl CertificateError {
    /// Returns the sentence for a Python program, in which options are keywords.
    pub fn as_keywords(&self) -> String {
        crate::config::with_keywords(&self.0)
    }
}

/// The versions of HTTP from which a client with TLS chooses (ALPN, RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// HTTP/1.1 and HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/2 first, and the others.
    All,
}

/// The certificates of a server.
pub struct Certificates {
    settings: TlsSettings,
    seed: Seed,
    state: Lock<State>,
}

struct State {
    /// By `Offered`.
    configs: [Arc<ServerConfig>; 3],
    /// When each certificate expires.
    ends: Vec<End>,
    /// The files as they were before they were read.
    stamps: Stamps,
}

/// A certificate that expires.
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    path: PathBuf,
    expires: SystemTime,
}

impl Certificates {
    /// Reads the files that the settings name. `None`: there are none. `seed` is that of the other processes of the
    /// service. Without one, only this process knows its tickets.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn load(settings: &TlsSettings, seed: Option<Seed>) -> Result<Option<Arc<Self>>, CertificateError> {
        if !settings.is_used() {
            return Ok(None);
        }
        let seed = seed.map_or_else(Seed::new, Ok).map_err(CertificateError)?;
        let state = read(settings, &seed).map_err(CertificateError)?;
        Ok(Some(Arc::new(Self { settings: settings.clone(), seed, state: Lock::new(state) })))
    }

    /// Returns the configuration of new sessions in which these versions of HTTP are offered.
    pub fn current(&self, offered: Offered) -> Arc<ServerConfig> {
        let [http1, http2, all] = &self.state.lock().configs;
        Arc::clone(match offered {
            Offered::Http1 => http1,
            Offered::Http2 => http2,
            Offered::All => all,
        })
    }

    /// Returns what the keys of the tickets are derived from.
    pub fn seed(&self) -> &Seed {
        &self.seed
    }

    /// Reads the files again. New sessions have the new certificates; sessions that have begun keep theirs.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it. Nothing changes then.
    pub fn reload(&self) -> Result<(), CertificateError> {
        let state = read(&self.settings, &self.seed).map_err(CertificateError)?;
        *self.state.lock() = state;
        Ok(())
    }

    /// Logs what an operator should know of the settings and of the certificates.
    fn say_remarks(&self) {
        let ignored = self.settings.ciphers.iter().flat_map(|ciphers| &ciphers.ignored);
        let ignored: Vec<_> = ignored.map(String::as_str).collect();
        if !ignored.is_empty() {
            log::warn!(
                "--ciphers: {} is not the name of one of Maypole's suites, and has no effect",
                ignored.join(", ")
            );
        }
        if self.settings.ca_certs.is_some() && self.settings.cert_reqs == ClientCertificates::None {
            log::warn!(
                "--ca-certs has no effect: set --cert-reqs to optional or required to ask clients for certificates"
            );
        }
        if self.settings.ktls == KernelTls::Auto && kernel::is_there() {
            log::info!("files of 256 KiB and more on connections with TLS are sealed by the kernel");
        }
        self.say_ends();
    }

    /// Logs which certificates have expired, or will soon.
    fn say_ends(&self) {
        let ends = self.state.lock().ends.clone();
        for sentence in ends.iter().filter_map(|end| end.sentence(SystemTime::now())) {
            log::warn!("{sentence}");
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl End {
    /// Returns what an operator should know.
    fn sentence(&self, now: SystemTime) -> Option<String> {
        let path = self.path.display();
        match self.expires.duration_since(now) {
            Err(_) => Some(format!("the certificate {path} has expired: clients refuse it")),
            Ok(left) if left < NOTICE => {
                let days = left.as_secs() / DAY_S;
                let (days, unit) = if days == 0 { (left.as_secs() / 3600, "hour") } else { (days, "day") };
                let plural = if days == 1 { "" } else { "s" };
                Some(format!("the certificate {path} expires in {days} {unit}{plural}"))
            }
            Ok(_) => None,
        }
    }
}

/// Reads all files, and makes the configuration of sessions.
fn read(settings: &TlsSettings, seed: &Seed) -> Result<State, String> {
    let stamps = Stamps::of(&files(settings));
    let provider = Arc::new(provider(settings)?);
    let password = key::password(settings.keyfile_password.as_ref())?;
    let pairs = files_of_pairs(settings)
        .map(|(certificate, key)| Pair::read(certificate, key, password.as_deref(), &provider))
        .collect::<Result<Vec<_>, _>>()?;
    let clients = ClientRules::read(settings, &provider)?;
    let versions = match settings.ssl_version {
        TlsVersions::All => &[&TLS13, &TLS12][..],
        TlsVersions::Tls12 => &[&TLS12],
        TlsVersions::Tls13 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let builder = builder.map_err(|error| format!("--ssl-version: {error}"))?;
    let builder = builder.with_client_cert_verifier(clients.verifier);
    let mut config = builder.with_cert_resolver(Arc::new(Names::new(&pairs)));
    // A client's order counts, as it knows whether it has AES in hardware, unless the operator has one.
    config.ignore_client_order = settings.ciphers.is_some();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::new(Tickets::new(seed.clone(), clients.digest));
    config.send_tls13_tickets = TICKETS;
    config.max_early_data_size = 0;
    config.enable_secret_extraction = settings.ktls == KernelTls::Auto && kernel::is_there();
    let ends = pairs.into_iter().map(|pair| End { path: pair.path, expires: pair.expires }).collect();
    let offering = |names: &[&[u8]]| {
        let mut config = config.clone();
        config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    };
    let [first, second] = HTTP1;
    let configs = [offering(&HTTP1), offering(&[HTTP2]), offering(&[HTTP2, first, second])];
    Ok(State { configs, ends, stamps })
}

/// Returns the files of each certificate and of its key.
fn files_of_pairs(settings: &TlsSettings) -> impl Iterator<Item = (&Path, Option<&Path>)> {
    let keys = settings.keyfile.iter().map(|path| Some(path.as_path())).chain(std::iter::repeat(None));
    settings.certfile.iter().map(PathBuf::as_path).zip(keys)
}

/// Returns every file that is read, and those that may appear.
fn files(settings: &TlsSettings) -> Vec<PathBuf> {
    let pairs = files_of_pairs(settings).flat_map(|(certificate, key)| Pair::files(certificate, key));
    pairs.chain([&settings.ca_certs, &settings.ssl_crl].into_iter().flatten().cloned()).collect()
}

/// Returns the cryptography, with the suites of the settings.
fn provider(settings: &TlsSettings) -> Result<CryptoProvider, String> {
    let mut provider = cryptography::provider();
    let Some(ciphers) = &settings.ciphers else { return Ok(provider) };
    let is_spoken = |suite: &&&Suite| match settings.ssl_version {
        TlsVersions::All => true,
        TlsVersions::Tls12 => !suite.is_tls13,
        TlsVersions::Tls13 => suite.is_tls13,
    };
    let all = std::mem::take(&mut provider.cipher_suites);
    let of = |suite: &&Suite| all.iter().find(|known| iana_name(known.suite()) == suite.iana).copied();
    provider.cipher_suites = ciphers.suites.iter().filter(is_spoken).filter_map(of).collect();
    if provider.cipher_suites.is_empty() {
        return Err("--ciphers names no suite of the version in --ssl-version".to_owned());
    }
    Ok(provider)
}
