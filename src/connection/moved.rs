//! An idle connection on its way to another process: what the other process must know besides the descriptor.
//!
//! *Owns*: the form of a connection in a message. *Runs on*: any thread. *Invariants*: a message is a JSON array with an
//! object for each connection. A reader ignores members that it does not know, and gives missing members their
//! defaults, because the two processes may be of different versions. A connection moves with every byte that was
//! received from its client and not used.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::resting::Begun;
use super::{Opening, Resting, Shared};
use crate::handler::{Local, Origin, Scheme};
use crate::http::HeadScanner;
use crate::phrase::{characters, latin_1};
use crate::sys::HeldFd;

/// The most bytes of a head with which a connection moves. A connection with more stays until its request has ended.
const RECEIVED_BYTES_MAX: usize = 8 * 1024;

/// A connection without its descriptor.
#[derive(Debug, Clone, PartialEq)]
pub struct Moved {
    origin: Arc<Origin>,
    awaits_proxy_header: bool,
    awaits_handshake: bool,
    has_served: bool,
    /// How long ago the connection was accepted, or its last response was sent.
    rested: Duration,
    begun: Option<Received>,
}

/// The part of a head that has arrived.
#[derive(Debug, Clone, PartialEq)]
struct Received {
    bytes: Vec<u8>,
    /// How long ago its first byte arrived.
    age: Duration,
}

/// A connection in a message. Bytes stand there as characters of Latin-1.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own in the message")]
struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_path: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    https: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    awaits_proxy_header: bool,
    #[serde(skip_serializing_if = "is_false")]
    awaits_handshake: bool,
    #[serde(skip_serializing_if = "is_false")]
    has_served: bool,
    rested_ms: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    received: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    began_ms: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Returns whether a connection with these unused bytes can move.
pub(super) fn may_move(received: &[u8]) -> bool {
    received.len() <= RECEIVED_BYTES_MAX
}

impl Resting {
    /// Returns whether the connection can move now. The state of a session of TLS or HTTP/2 and a suspended response
    /// cannot.
    pub fn can_move(&self) -> bool {
        !self.is_secured()
            && !self.is_http2()
            && !self.is_suspended()
            && self.begun.as_ref().is_none_or(|begun| may_move(&begun.buffer))
    }

    /// Takes the connection from the runtime. The caller has removed it from the idle set.
    pub fn into_moved(self) -> (HeldFd, Moved) {
        let rested = self.rested_at().elapsed();
        let begun = self.begun.map(|begun| Received { bytes: begun.buffer, age: begun.began.elapsed() });
        let moved = Moved {
            origin: self.origin.into_origin(),
            awaits_proxy_header: matches!(self.opening, Opening::ProxyHeader(_) | Opening::Forbidden),
            awaits_handshake: self.opening.awaited() == Scheme::Https,
            has_served: self.has_served,
            rested,
            begun,
        };
        (self.stream.into_held(), moved)
    }

    /// Makes an idle connection from one that has moved here.
    ///
    /// # Errors
    /// The runtime cannot watch the descriptor.
    pub fn from_moved(fd: HeldFd, moved: Moved, shared: &Shared) -> std::io::Result<Self> {
        let Moved { origin, awaits_proxy_header, awaits_handshake, has_served, rested, begun } = moved;
        let spoken = if awaits_handshake { Scheme::Https } else { Scheme::Http };
        // The settings of this process decide who may connect, and by which scheme.
        let opening = if awaits_proxy_header { shared.opening(origin.client, spoken) } else { Opening::of(spoken) };
        let begun = begun.map(|Received { bytes, age }| {
            Box::new(Begun {
                buffer: bytes,
                scanner: HeadScanner::default(),
                began: ago(age),
                suspended: None,
                session: None,
            })
        });
        let scheme = shared.scheme(spoken);
        let origin =
            if origin.scheme == scheme { origin } else { Arc::new(Origin { scheme, ..Origin::clone(&origin) }) };
        Self::restore(fd, &origin, opening, ago(rested), has_served, begun)
    }
}

impl Moved {
    /// Returns the server's end of the connection.
    pub fn local(&self) -> &Arc<Local> {
        &self.origin.local
    }

    /// Makes the connection share the value of its server's end with others.
    pub fn share_local(&mut self, local: &Arc<Local>) {
        if *self.origin.local == **local {
            self.origin = Arc::new(Origin { local: Arc::clone(local), ..Origin::clone(&self.origin) });
        }
    }

    /// Returns the connection as a part of a message.
    pub fn encode(&self) -> Vec<u8> {
        // No request is being served, so no proxy tells anything.
        let Origin { client, scheme, host, local, told: _, tls: _ } = &*self.origin;
        let (local, local_path) = match &**local {
            Local::Tcp(address) => (Some(*address), None),
            Local::Unix(path) => (None, Some(characters(path.as_os_str().as_bytes()))),
        };
        let entry = Entry {
            client: *client,
            local,
            local_path,
            https: *scheme == Scheme::Https,
            host: host.as_deref().map(characters),
            awaits_proxy_header: self.awaits_proxy_header,
            awaits_handshake: self.awaits_handshake,
            has_served: self.has_served,
            rested_ms: millis(self.rested),
            received: self.begun.as_ref().map(|begun| characters(&begun.bytes)).unwrap_or_default(),
            began_ms: self.begun.as_ref().map(|begun| millis(begun.age)),
        };
        serde_json::to_vec(&entry).expect("an entry is plain data")
    }

    /// Returns a message of several connections, which were encoded one by one.
    pub fn message(encoded: &[Vec<u8>]) -> Vec<u8> {
        [b"[".as_slice(), &encoded.join(&b','), b"]"].concat()
    }

    /// Reads the connections of a message. `None`: it is not one.
    pub fn decode(message: &[u8]) -> Option<Vec<Self>> {
        let entries: Vec<Entry> = serde_json::from_slice(message).ok()?;
        Some(entries.into_iter().map(Self::from).collect())
    }
}

impl From<Entry> for Moved {
    fn from(entry: Entry) -> Self {
        let path = || OsString::from_vec(entry.local_path.as_deref().map(latin_1).unwrap_or_default());
        let local = entry.local.map_or_else(|| Local::Unix(path().into()), Local::Tcp);
        let scheme = if entry.https { Scheme::Https } else { Scheme::Http };
        let host = entry.host.as_deref().map(|host| latin_1(host).into_boxed_slice());
        let age = entry.began_ms.map(Duration::from_millis);
        Self {
            origin: Arc::new(Origin { scheme, host, ..Origin::new(entry.client, Arc::new(local)) }),
            awaits_proxy_header: entry.awaits_proxy_header,
            awaits_handshake: entry.awaits_handshake,
            has_served: entry.has_served,
            rested: Duration::from_millis(entry.rested_ms),
            begun: age.map(|age| Received { bytes: latin_1(&entry.received), age }),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the moment that lies this far back.
fn ago(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(time).unwrap_or(now)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn moved(origin: Origin) -> Moved {
        let rested = Duration::from_millis(1500);
        let (awaits_proxy_header, awaits_handshake) = (false, false);
        Moved { origin: Arc::new(origin), awaits_proxy_header, awaits_handshake, has_served: true, rested, begun: None }
    }

    fn sent(connections: &[Moved]) -> Vec<Moved> {
        let encoded: Vec<_> = connections.iter().map(Moved::encode).collect();
        Moved::decode(&Moved::message(&encoded)).unwrap()
    }

    #[test]
    fn connection_arrives_as_it_was_sent() {
        let local = Arc::new(Local::Tcp(([127, 0, 0, 1], 80).into()));
        let plain = Origin::new(Some(([10, 0, 0, 7], 51608).into()), local);
        let odd = Local::Unix(OsString::from_vec(b"/run/\xff\"s".to_vec()).into());
        let host = Some(Box::from(*b"example.com"));
        let proxied = Origin { scheme: Scheme::Https, host, ..plain.clone() };
        let first = Moved { awaits_proxy_header: true, has_served: false, ..moved(plain.clone()) };
        let second = Moved { awaits_handshake: true, has_served: false, ..moved(plain.clone()) };
        let bytes = (0..=u8::MAX).collect();
        let begun = Moved { begun: Some(Received { bytes, age: Duration::from_secs(2) }), ..moved(plain) };
        let connections = [moved(proxied), first, second, begun, moved(Origin::new(None, Arc::new(odd)))];
        assert_eq!(sent(&connections), connections);
        assert_eq!(sent(&[]), []);
    }

    #[test]
    fn members_of_another_version_are_ignored_and_missing_ones_have_defaults() {
        let read = Moved::decode(br#"[{"client": "[::1]:7", "later": {"a": []}}]"#).unwrap();
        assert_eq!((read.len(), read[0].origin.client), (1, "[::1]:7".parse().ok()));
        assert!(!read[0].has_served && read[0].begun.is_none());
        assert!(Moved::decode(b"7").is_none() && Moved::decode(b"").is_none());
    }

    #[test]
    fn server_end_is_shared_only_if_it_is_the_same() {
        let local = |port| Arc::new(Local::Tcp(([127, 0, 0, 1], port).into()));
        let mut moved = moved(Origin::new(None, local(80)));
        let (same, other) = (local(80), local(81));
        moved.share_local(&other);
        moved.share_local(&same);
        assert!(Arc::ptr_eq(moved.local(), &same));
    }
}
