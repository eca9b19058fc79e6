//! The required beginning of a connection: a request, the handshake of TLS, or a proxy's header (PROXY protocol).
//!
//! *Runs on*: the connection's coroutine; `Proxies::opening` on the listener's coroutine, for each connection.
//! *Invariants*: a client that must send a header gets no response to a request without one. A client that may not send
//! a header gets no response to any request.

use std::net::SocketAddr;
use std::sync::Arc;

use super::handshake::Failure;
use super::{Connection, Ended, Refusal};
use crate::config::{Config, Network, ProxyProtocol};
use crate::handler::{Origin, Scheme};
use crate::http::ParseError;
use crate::http2::{PREFACE, may_be_preface};
use crate::proxy::{ProxyHeader, ProxyVersions};

/// The next thing that must arrive on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Requests.
    Request,
    /// The preface of HTTP/2, and then its frames.
    Http2,
    /// The handshake of TLS, and then requests.
    Handshake,
    /// A request that is refused, because the client speaks no TLS.
    WithoutTls,
    /// A header of the PROXY protocol, and then what a connection with this scheme begins with.
    ProxyHeader(Scheme),
    /// Nothing: the client is not one of the configured proxies.
    Forbidden,
}

impl Opening {
    /// Returns what a connection with this scheme begins with, if no proxy comes first.
    pub(super) fn of(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Http => Self::Request,
            Scheme::Https => Self::Handshake,
        }
    }

    /// Returns whether a request follows, even if it is refused.
    pub(super) fn is_request(self) -> bool {
        matches!(self, Self::Request | Self::WithoutTls)
    }

    /// Returns the scheme of the connection's listener, as long as its requests have not begun.
    pub(super) fn awaited(self) -> Scheme {
        match self {
            Self::Handshake | Self::WithoutTls | Self::ProxyHeader(Scheme::Https) => Scheme::Https,
            Self::Request | Self::Http2 | Self::ProxyHeader(Scheme::Http) | Self::Forbidden => Scheme::Http,
        }
    }
}

/// The proxies that may connect.
#[derive(Debug)]
pub(super) struct Proxies {
    versions: ProxyVersions,
    allowed: Vec<Network>,
}

impl Proxies {
    /// Takes the proxies from the settings. `None` if clients connect directly.
    pub(super) fn new(config: &Config) -> Option<Self> {
        let versions = match config.proxy_protocol {
            ProxyProtocol::Off => return None,
            ProxyProtocol::V1 => ProxyVersions::V1,
            ProxyProtocol::V2 => ProxyVersions::V2,
            ProxyProtocol::Auto => ProxyVersions::Any,
        };
        Some(Self { versions, allowed: config.proxy_allow_from.clone() })
    }

    /// Returns what a connection from this address must begin with. Every client of a unix socket counts as a proxy.
    pub(super) fn opening(&self, remote: Option<SocketAddr>, scheme: Scheme) -> Opening {
        let is_allowed = remote.is_none_or(|remote| self.allowed.iter().any(|network| network.contains(remote.ip())));
        if is_allowed { Opening::ProxyHeader(scheme) } else { Opening::Forbidden }
    }

    /// Returns whether the connection must send more bytes before its header can be judged.
    pub(super) fn wants_more(&self, opening: Opening, received: &[u8]) -> bool {
        matches!(opening, Opening::ProxyHeader(_)) && matches!(ProxyHeader::parse(received, self.versions), Ok(None))
    }
}

impl Connection {
    /// Receives the part that must precede the first request, unless it has already arrived. (Coroutine.)
    pub(super) fn receive_opening(&mut self) -> Result<(), Ended> {
        if self.opening == Opening::Request { Ok(()) } else { self.receive_openings() }
    }

    #[cold]
    fn receive_openings(&mut self) -> Result<(), Ended> {
        loop {
            match self.opening {
                Opening::Request => return Ok(()),
                Opening::ProxyHeader(_) | Opening::Forbidden => self.receive_proxy_header()?,
                Opening::Handshake => self.shake_hands()?,
                Opening::Http2 => return self.receive_preface(),
                Opening::WithoutTls => {
                    let (head, _) = self.receive_head()?;
                    return Err(Ended::NotSecured(Failure::WithoutTls(head)));
                }
            }
        }
    }

    /// Returns whether what was refused as a request is the beginning of HTTP/2, which is spoken here.
    #[cold]
    pub(super) fn begins_http2(&self, refusal: Refusal) -> bool {
        refusal == Refusal::Malformed(ParseError::VersionNotSupported)
            && self.shared.speaks_http2()
            && self.opening == Opening::Request
            && self.connected.tls.is_none()
            && may_be_preface(&self.buffer)
    }

    /// Receives the preface of HTTP/2. It never returns normally.
    fn receive_preface(&mut self) -> Result<(), Ended> {
        let mut patience = self.patience();
        loop {
            if !may_be_preface(&self.buffer) {
                return Err(Refusal::NotHttp2.into());
            }
            if self.buffer.len() >= PREFACE.len() {
                return Err(Ended::Http2);
            }
            self.receive_some_of_head(&mut patience)?;
        }
    }

    /// Receives the proxy's header. From then on, the header's client address is the connection's client. The time
    /// limit for the first request begins with that request.
    fn receive_proxy_header(&mut self) -> Result<(), Ended> {
        let shared = Arc::clone(&self.shared);
        let next = match self.opening {
            Opening::ProxyHeader(scheme) => Opening::of(scheme),
            _ => Opening::Request,
        };
        let Some(proxies) = &shared.derived.proxies else {
            self.opening = next;
            return Ok(());
        };
        let mut patience = self.patience();
        loop {
            if !self.buffer.is_empty() {
                if self.opening == Opening::Forbidden {
                    return Err(Refusal::NotAProxy.into());
                }
                if let Some(header) = ProxyHeader::parse(&self.buffer, proxies.versions).map_err(Refusal::from)? {
                    self.consume(header.bytes);
                    if header.source.is_some() {
                        let origin = Origin { client: header.source, ..Origin::clone(&self.connected) };
                        self.connected = Arc::new(origin);
                    }
                    self.opening = next;
                    if self.buffer.is_empty() {
                        self.head_began = None;
                    }
                    return Ok(());
                }
            }
            self.receive_some_of_head(&mut patience)?;
        }
    }
}
