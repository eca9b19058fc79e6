//! Where a request comes from: its client, and the scheme and the host that the client used.
//!
//! *Owns*: nothing; the requests of a connection share one value as long as it is the same. *Runs on*: the connection's
//! coroutine makes it; any thread reads it. *Invariants*: a value never changes. A request whose proxy names another
//! client gets a value of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::http::{Family, RequestHead};
use crate::tls::Facts;

/// Where a request comes from, as far as the server knows. Until a proxy says otherwise, this is what the connection's
/// socket says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The client's address; `None` for a unix socket.
    pub client: Option<SocketAddr>,
    /// The scheme of the URL that the client requested.
    pub scheme: Scheme,
    /// The host and port of that URL. `None`: those of the request's head.
    pub host: Option<Box<[u8]>>,
    /// The server's end of the connection. Most connections of a listener share it.
    pub local: Arc<Local>,
    /// What the fields of a request add. `None`: no proxy has said anything, and the application sees every field.
    pub told: Option<Box<Told>>,
    /// What is known of the session of TLS. `None`: the connection is a plain one.
    pub tls: Option<Arc<Facts>>,
}

/// What proxies tell in the fields of a request, besides the client, the scheme and the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The name of the host of the requested URL, if a proxy names the host.
    pub server_name: Option<Box<[u8]>>,
    /// The port of the requested URL, if a proxy names the host, the port or the scheme.
    pub server_port: Option<u16>,
    /// The path below which the application is, such as `/shop`, percent-encoded as sent; empty for the root.
    pub prefix: Box<[u8]>,
    /// The application does not see the fields of these families, because they may come from the client.
    pub hidden: Hidden,
}

/// Families of fields that the application does not see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hidden {
    /// `Forwarded`
    pub forwarded: bool,
    /// `X-Forwarded-*`, `X-Real-IP`
    pub x_forwarded: bool,
}

impl Hidden {
    /// Hides both families.
    pub const ALL: Self = Self { forwarded: true, x_forwarded: true };

    /// Returns whether the family is hidden.
    pub fn has(self, family: Family) -> bool {
        match family {
            Family::Forwarded => self.forwarded,
            Family::XForwarded => self.x_forwarded,
        }
    }
}

/// The scheme of a URL (RFC 9110 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// The server's end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a unix socket, or `@` and the name of one without a file.
    Unix(PathBuf),
}

impl Origin {
    /// Returns the origin of requests on a plain connection from this address.
    pub fn new(client: Option<SocketAddr>, local: Arc<Local>) -> Self {
        Self { client, scheme: Scheme::Http, host: None, local, told: None, tls: None }
    }

    /// Returns the client's name for the logs: its address, or `unix`.
    pub fn client_name(&self) -> String {
        client_name(self.client)
    }

    /// Returns the host and port of the requested URL; `None` if neither the origin nor the head names them.
    pub fn host_of<'a>(&'a self, head: &'a RequestHead) -> Option<&'a [u8]> {
        self.host.as_deref().or_else(|| head.host())
    }
}

/// Returns the name for the logs of a client with this address. `None`: it is on a unix socket.
pub fn client_name(client: Option<SocketAddr>) -> String {
    client.map_or_else(|| "unix".to_owned(), |client| client.to_string())
}

impl Scheme {
    /// Returns the port of a URL that names none.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// Returns its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}
