//! Names of request fields and their environ keys.
//!
//! *Owns*: the table of common field names and their interned `HTTP_*` keys. *Runs on*: a thread that holds the GIL
//! makes the table; all executor threads read it. *Invariants*: the table does not change after that.
//! *Source*: PEP 3333 "environ Variables", RFC 3875 §4.1.18.

use pyo3::prelude::*;
use pyo3::types::PyString;

/// The treatment of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Becomes `HTTP_*`.
    Plain,
    /// Becomes `HTTP_*`. The last value is kept, because it often repeats from request to request and is not a secret.
    Recurring,
    /// `Host`: becomes `HTTP_HOST`, unless the request target has an authority, which then replaces it.
    Host,
    /// `Cookie`: repeated fields are joined with `; ` (RFC 9113 §8.2.3).
    Cookie,
    /// `Content-Type`: becomes `CONTENT_TYPE`.
    ContentType,
    /// `Content-Length`: becomes `CONTENT_LENGTH`, the length of the body in bytes.
    ContentLength,
    /// `Transfer-Encoding`: passed on only if the body is streamed.
    TransferEncoding,
    /// `Proxy`: dropped, since `HTTP_PROXY` configures HTTP libraries (CVE-2016-5385).
    Dropped,
}

/// Common field names in lower case.
const FIELDS: &[(&str, Kind)] = &[
    ("host", Kind::Host),
    ("content-type", Kind::ContentType),
    ("content-length", Kind::ContentLength),
    ("transfer-encoding", Kind::TransferEncoding),
    ("proxy", Kind::Dropped),
    ("cookie", Kind::Cookie),
    ("authorization", Kind::Plain),
    ("proxy-authorization", Kind::Plain),
    ("accept", Kind::Recurring),
    ("accept-charset", Kind::Recurring),
    ("accept-encoding", Kind::Recurring),
    ("accept-language", Kind::Recurring),
    ("access-control-request-headers", Kind::Recurring),
    ("access-control-request-method", Kind::Recurring),
    ("cache-control", Kind::Recurring),
    ("connection", Kind::Recurring),
    ("content-encoding", Kind::Recurring),
    ("date", Kind::Plain),
    ("dnt", Kind::Recurring),
    ("early-data", Kind::Recurring),
    ("expect", Kind::Recurring),
    ("forwarded", Kind::Plain),
    ("from", Kind::Plain),
    ("if-match", Kind::Plain),
    ("if-modified-since", Kind::Plain),
    ("if-none-match", Kind::Plain),
    ("if-range", Kind::Plain),
    ("if-unmodified-since", Kind::Plain),
    ("keep-alive", Kind::Recurring),
    ("max-forwards", Kind::Plain),
    ("origin", Kind::Recurring),
    ("pragma", Kind::Recurring),
    ("priority", Kind::Recurring),
    ("range", Kind::Plain),
    ("referer", Kind::Plain),
    ("sec-ch-ua", Kind::Recurring),
    ("sec-ch-ua-mobile", Kind::Recurring),
    ("sec-ch-ua-platform", Kind::Recurring),
    ("sec-fetch-dest", Kind::Recurring),
    ("sec-fetch-mode", Kind::Recurring),
    ("sec-fetch-site", Kind::Recurring),
    ("sec-fetch-user", Kind::Recurring),
    ("sec-gpc", Kind::Recurring),
    ("te", Kind::Recurring),
    ("traceparent", Kind::Plain),
    ("tracestate", Kind::Plain),
    ("upgrade", Kind::Recurring),
    ("upgrade-insecure-requests", Kind::Recurring),
    ("user-agent", Kind::Recurring),
    ("via", Kind::Recurring),
    ("x-amzn-trace-id", Kind::Plain),
    ("x-auth-token", Kind::Plain),
    ("x-correlation-id", Kind::Plain),
    ("x-csrf-token", Kind::Plain),
    ("x-forwarded-for", Kind::Plain),
    ("x-forwarded-host", Kind::Recurring),
    ("x-forwarded-port", Kind::Recurring),
    ("x-forwarded-prefix", Kind::Recurring),
    ("x-forwarded-proto", Kind::Recurring),
    ("x-openstack-request-id", Kind::Plain),
    ("x-real-ip", Kind::Plain),
    ("x-request-id", Kind::Plain),
    ("x-requested-with", Kind::Recurring),
    ("x-subject-token", Kind::Plain),
];

/// The number of names in the table; a set of them fits into a `u64`.
pub(super) const COUNT: usize = FIELDS.len();
const _: () = assert!(COUNT <= 64, "`Names` are marked in a u64");

/// The number of slots in the hash table: a power of two, and large enough that few names collide.
const SLOTS: usize = 512;
const FREE: u8 = u8::MAX;

/// A name of the table.
pub(super) struct Name {
    lower: &'static [u8],
    /// The spelling of most clients: `Accept-Encoding`.
    usual: Vec<u8>,
    /// The treatment of the field.
    pub(super) kind: Kind,
    /// The environ key.
    pub(super) key: Py<PyString>,
}

/// The table of common field names.
pub(super) struct Names {
    names: Vec<Name>,
    slots: Box<[u8; SLOTS]>,
}

impl Names {
    pub(super) fn new(py: Python<'_>) -> Self {
        let mut slots = Box::new([FREE; SLOTS]);
        let mut names = Vec::with_capacity(COUNT);
        for (index, &(lower, kind)) in FIELDS.iter().enumerate() {
            let mut slot = hash(lower.as_bytes());
            while slots[slot] != FREE {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = u8::try_from(index).unwrap_or(FREE);
            let key = match kind {
                Kind::ContentType => "CONTENT_TYPE".to_owned(),
                Kind::ContentLength => "CONTENT_LENGTH".to_owned(),
                _ => String::from_utf8_lossy(&environ_key(lower.as_bytes())).into_owned(),
            };
            let usual = usual(lower.as_bytes());
            names.push(Name { lower: lower.as_bytes(), usual, kind, key: PyString::intern(py, &key).unbind() });
        }
        Self { names, slots }
    }

    /// Returns the index of a name (ASCII case ignored), if the table has it.
    pub(super) fn find(&self, name: &[u8]) -> Option<usize> {
        if name.is_empty() {
            return None;
        }
        let mut slot = hash(name);
        loop {
            let index = usize::from(self.slots[slot]);
            let candidate = self.names.get(index)?;
            // Compare exact bytes first, which is several times faster than ignoring case. HTTP/2 has lower case.
            let is_spelled_so = same(&candidate.usual, name) || same(candidate.lower, name);
            if is_spelled_so || candidate.lower.eq_ignore_ascii_case(name) {
                return Some(index);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// Returns the name at an index that `find` returned.
    pub(super) fn get(&self, index: usize) -> &Name {
        &self.names[index]
    }
}

/// Compares short slices eight bytes at a time, which costs less than a call of memcmp.
#[inline]
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    a.iter().zip(b).all(|(a, b)| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b))
        && a_rest.iter().zip(b_rest).all(|(a, b)| a == b)
}

/// Hashes the length and the first, middle and last letter, without regard to case. Few names of the table collide.
fn hash(name: &[u8]) -> usize {
    let last = name.len() - 1;
    let letter = |at: usize| usize::from(name[at] | 0x20);
    let sum = name.len() * 7 + letter(0) * 31 + letter(last) * 131 + letter(last / 2) * 257;
    (sum ^ (sum >> 7)) % SLOTS
}

/// Capitalizes each word of a lower-case name.
fn usual(lower: &[u8]) -> Vec<u8> {
    let starts = |at: usize| at == 0 || lower[at - 1] == b'-';
    lower.iter().enumerate().map(|(at, byte)| if starts(at) { byte.to_ascii_uppercase() } else { *byte }).collect()
}

/// Returns the `HTTP_*` key of a field name.
pub(super) fn environ_key(name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + name.len());
    key.extend_from_slice(b"HTTP_");
    key.extend(name.iter().map(|&byte| if byte == b'-' { b'_' } else { byte.to_ascii_uppercase() }));
    key
}
