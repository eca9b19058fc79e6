//! What proxies say about the client and its URL in the fields of a request: RFC 7239's `Forwarded`, or the customary
//! `X-Forwarded-*`.
//!
//! *Owns*: the rules by which a request's origin follows from its fields; sans-I/O. *Runs on*: the connection's
//! coroutine, for requests that have such a field. *Invariants*: no field changes anything unless the connection comes
//! from a trusted proxy. What is malformed or contradicts itself is ignored as a whole. Bytes that a client put before
//! the part of the last trusted proxy change nothing. *Source*: RFC 7239; RFC 9110 §5.6.1 for lists.

mod address;
mod element;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use self::address::{Node, node};
use self::element::Element;
use crate::config::{Config, ForwardedFamily, Network};
use crate::handler::{Hidden, Origin, Scheme, Told};
use crate::http::{RequestHead, is_host, strictly_decoded};

/// The proxies whose fields count, and which fields these are.
#[derive(Debug, Clone)]
pub struct Trust {
    networks: Vec<Network>,
    family: ForwardedFamily,
    /// How many proxies a request passes; 0 follows the addresses instead.
    proxies: usize,
    strips: bool,
}

/// Why the fields of a request are ignored, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// The connection does not come from a trusted proxy.
    Untrusted,
    /// A trusted proxy has sent something malformed or contradictory: the name of the field.
    Wrong(&'static str),
}

/// The URL as far as proxies name it, and the client.
#[derive(Default)]
struct Found {
    client: Option<SocketAddr>,
    scheme: Option<Scheme>,
    host: Option<Box<[u8]>>,
    port: Option<u16>,
    prefix: Option<Box<[u8]>>,
}

impl Trust {
    /// Takes the proxies from the settings.
    pub fn new(config: &Config) -> Self {
        let settings = &config.forwarded;
        Self {
            networks: settings.forwarded_allow_ips.clone(),
            family: settings.forwarded_headers,
            proxies: settings.trusted_proxy_count,
            strips: settings.strip_untrusted_forwarded,
        }
    }

    /// Returns whether the fields of proxies change anything. If not, they are like others.
    pub fn reads_fields(&self) -> bool {
        self.family != ForwardedFamily::None
    }

    /// Returns whether a proxy with this address is trusted. Every client of a unix socket is.
    pub fn trusts(&self, peer: Option<SocketAddr>) -> bool {
        peer.is_none_or(|peer| self.networks.iter().any(|network| network.contains(peer.ip())))
    }

    /// Returns the origin of a request whose head tells of proxies, and why the head's fields are ignored if they are.
    /// `connected` is the origin by the connection alone.
    pub fn origin(&self, head: &RequestHead, connected: &Origin) -> (Origin, Option<Ignored>) {
        if !self.trusts(connected.client) {
            return (self.hiding(connected, Hidden::ALL), Some(Ignored::Untrusted));
        }
        let found = match self.family {
            ForwardedFamily::Forwarded => self.by_forwarded(head),
            _ => self.by_x_forwarded(head),
        };
        match found {
            Ok(found) => {
                let hidden = Hidden {
                    forwarded: self.family != ForwardedFamily::Forwarded,
                    x_forwarded: self.family != ForwardedFamily::XForwarded,
                };
                (found.applied_to(self.hiding(connected, hidden), head), None)
            }
            Err(field) => (self.hiding(connected, Hidden::ALL), Some(Ignored::Wrong(field))),
        }
    }

    fn hiding(&self, origin: &Origin, hidden: Hidden) -> Origin {
        let hidden = if self.strips { hidden } else { Hidden::default() };
        Origin { told: Some(Box::new(Told { hidden, ..Told::default() })), ..Origin::clone(origin) }
    }

    /// Reads the client from the nodes that the proxies name, the last proxy's first. Passes the trusted proxies.
    /// Returns the client, or the proxy nearest to it whose address is known, and the number of nodes that were read.
    /// `None` if a node is malformed.
    fn walk(&self, nodes: impl Iterator<Item = Option<Node>>) -> Option<(Option<SocketAddr>, usize)> {
        let (mut client, mut passed) = (None, 0);
        for node in nodes {
            passed += 1;
            let is_named = match node? {
                Node::Address(address) => self.names(client.insert(address).ip()),
                Node::Unknown => false,
            };
            let is_proxy = if self.proxies > 0 { passed < self.proxies } else { is_named };
            if !is_proxy {
                break;
            }
        }
        Some((client, passed))
    }

    /// Returns whether a network of the settings has the address. `*` has none here: it trusts the proxy that connects,
    /// whatever its address.
    fn names(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| *network != Network::All && network.contains(address))
    }

    fn by_x_forwarded(&self, head: &RequestHead) -> Result<Found, &'static str> {
        let nodes = list(head, "X-Forwarded-For");
        let (client, passed) = self.walk(nodes.iter().rev().map(|text| node(text))).ok_or("X-Forwarded-For")?;
        // If no proxy names a client, the values are those of the last proxy, or of the one that is counted to.
        let passed = if passed == 0 { self.proxies.max(1) } else { passed };
        Ok(Found {
            client,
            scheme: value(head, "X-Forwarded-Proto", passed, scheme)?,
            host: value(head, "X-Forwarded-Host", passed, host)?,
            port: value(head, "X-Forwarded-Port", passed, port)?,
            prefix: value(head, "X-Forwarded-Prefix", passed, prefix)?,
        })
    }

    fn by_forwarded(&self, head: &RequestHead) -> Result<Found, &'static str> {
        let field = "Forwarded";
        let lines: Vec<&[u8]> = lines(head, field).collect();
        let mut last = Element::default();
        let nodes = lines.iter().rev().flat_map(|line| element::from_the_end(line)).map(|text| {
            last = Element::parse(text)?;
            last.node.as_deref().map_or(Some(Node::Unknown), node)
        });
        let (client, _) = self.walk(nodes).ok_or(field)?;
        let scheme = last.scheme.as_deref().map(|text| scheme(text).ok_or(field)).transpose()?;
        let host = last.host.as_deref().map(|text| host(text).ok_or(field)).transpose()?;
        Ok(Found { client, scheme, host, port: None, prefix: None })
    }
}

impl Found {
    /// Returns the origin with what was found.
    fn applied_to(self, mut origin: Origin, head: &RequestHead) -> Origin {
        origin.client = self.client.or(origin.client);
        origin.scheme = self.scheme.unwrap_or(origin.scheme);
        let told = origin.told.get_or_insert_default();
        told.prefix = self.prefix.unwrap_or_default();
        if self.host.is_none() && self.port.is_none() && self.scheme.is_none() {
            return origin;
        }
        let host = self.host.as_deref().or_else(|| head.host()).filter(|host| !host.is_empty());
        let (name, own_port) = host.map_or((None, None), |host| {
            let (name, port) = split_host(host);
            (Some(name), port)
        });
        let default_port = origin.scheme.default_port();
        let port = own_port.or(self.port).unwrap_or(default_port);
        told.server_port = Some(port);
        told.server_name = name.filter(|_| self.host.is_some()).map(Box::from);
        if let Some(name) = name.filter(|_| own_port.is_none() && port != default_port) {
            origin.host = Some([name, format!(":{port}").as_bytes()].concat().into());
        } else {
            origin.host = self.host.or(origin.host);
        }
        origin
    }
}

/// Returns the values of a field's lines, in order.
fn lines<'a>(head: &'a RequestHead, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    let is_it = move |field: &[u8]| field.eq_ignore_ascii_case(name.as_bytes());
    head.fields().filter(move |(field, _)| is_it(field)).map(|(_, value)| value)
}

/// Returns the elements of a field's lines (RFC 9110 §5.6.1: empty ones do not count).
fn list<'a>(head: &'a RequestHead, name: &'static str) -> Vec<&'a [u8]> {
    let elements = lines(head, name).flat_map(|line| line.split(|&byte| byte == b','));
    elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty()).collect()
}

/// Reads the element of a field that stands `passed` places from the end. A field with one element has the same for all
/// proxies. Fails with the field's name if it has some elements, but fewer than that, or if the element is malformed.
fn value<T>(
    head: &RequestHead,
    name: &'static str,
    passed: usize,
    read: fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, &'static str> {
    let elements = list(head, name);
    let element = match elements.as_slice() {
        [] => return Ok(None),
        [element] => element,
        elements => elements.iter().rev().nth(passed - 1).ok_or(name)?,
    };
    read(element).map(Some).ok_or(name)
}

fn scheme(text: &[u8]) -> Option<Scheme> {
    match text.to_ascii_lowercase().as_slice() {
        b"http" | b"ws" => Some(Scheme::Http),
        b"https" | b"wss" => Some(Scheme::Https),
        _ => None,
    }
}

fn host(text: &[u8]) -> Option<Box<[u8]>> {
    (!text.is_empty() && is_host(text)).then(|| text.into())
}

fn port(text: &[u8]) -> Option<u16> {
    let is_number = text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok()?.parse().ok().filter(|&port: &u16| is_number && port > 0)
}

/// Reads the path below which a proxy has put the application: `/shop` or `/shop/`; `/` is the root.
fn prefix(text: &[u8]) -> Option<Box<[u8]>> {
    let trimmed = text.strip_suffix(b"/").unwrap_or(text);
    let is_path_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&byte);
    let mut segments = trimmed.split(|&byte| byte == b'/');
    let is_right = text.first() == Some(&b'/')
        && trimmed.iter().all(|&byte| is_path_byte(byte))
        && segments.next().is_some_and(<[u8]>::is_empty)
        && segments.all(|segment| strictly_decoded(segment).is_some_and(|name| is_segment(&name)));
    is_right.then(|| trimmed.into())
}

/// Returns whether a segment without escapes stays one. `/%2Fevil.example` would be the beginning of another URL for a
/// browser, once an application writes it into a link or a redirect.
fn is_segment(name: &[u8]) -> bool {
    let stays = |byte: &u8| !byte.is_ascii_control() && !matches!(byte, b'/' | b'\\');
    !matches!(name, b"" | b"." | b"..") && name.iter().all(stays)
}

/// Splits a valid host into its name, with the brackets of an IPv6 address, and its port. An empty port is none.
fn split_host(host: &[u8]) -> (&[u8], Option<u16>) {
    let after_name = host.iter().rposition(|&byte| byte == b']').unwrap_or(0);
    match host.iter().rposition(|&byte| byte == b':').filter(|&colon| colon > after_name) {
        Some(colon) => (&host[..colon], port(&host[colon + 1..])),
        None => (host, None),
    }
}
