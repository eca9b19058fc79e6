//! The environ dictionary of a request. docs/reference/environ.md describes the keys.
//!
//! *Owns*: the keys, a template for each executor thread, and strings that repeat from request to request. *Runs on*:
//! the executor thread, with the GIL held; this is the hottest code of the module. *Invariants*: every request gets a
//! new, exact `dict`. A key is never deleted from a template, because its copies would then take a slow path (+0.6 µs).
//! Every `str` has latin-1 characters only. Values of fields that may hold a secret, such as Cookie and Authorization,
//! are not kept after the request. *Source*: PEP 3333 "environ Variables", RFC 3875 §4.1.
#![allow(unsafe_code, reason = "pyo3 glue: dictionaries and strings made directly")]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::input::InputStream;
use super::names::{self, Kind, Names, same};
use crate::handler::{Hidden, Local, Origin, RequestBody, Scheme, Told};
use crate::http::{Framing, RequestHead, Version, family_of, percent_decoded};
use crate::phrase::latin_1;
use crate::tls::Facts;

/// Methods whose names are kept as `str` objects (RFC 9110 §9, RFC 5789, `PROPFIND` of RFC 4918).
const METHODS: [&str; 9] = ["GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "TRACE"];
/// Values of recurring fields are kept up to this length in bytes.
const KEPT_BYTES_MAX: usize = 512;
/// How many clients' addresses a thread keeps as strings; a power of two.
const CLIENTS: usize = 512;

/// The key of a request's id.
const ID: &str = "maypole.request_id";

/// Keys and values that all threads share.
pub(super) struct Keys {
    names: Names,
    methods: Vec<Py<PyString>>,
    http10: Py<PyString>,
    http11: Py<PyString>,
    http2: Py<PyString>,
    zero: Py<PyString>,
    request_method: Py<PyString>,
    path_info: Py<PyString>,
    query_string: Py<PyString>,
    raw_uri: Py<PyString>,
    request_uri: Py<PyString>,
    server_protocol: Py<PyString>,
    server_name: Py<PyString>,
    server_port: Py<PyString>,
    remote_addr: Py<PyString>,
    remote_port: Py<PyString>,
    content_length: Py<PyString>,
    http_host: Py<PyString>,
    url_scheme: Py<PyString>,
    input: Py<PyString>,
    headers_raw: Py<PyString>,
    raw_path_info: Py<PyString>,
    /// The keys of the request's id. `None`: requests have none.
    id: Option<[Py<PyString>; 2]>,
    script_name: Py<PyString>,
    https: Py<PyString>,
    socket: Py<PyString>,
}

impl Keys {
    /// Makes the keys. `id_field` is the field that has a request's id.
    pub(super) fn new(py: Python<'_>, id_field: Option<&str>) -> Self {
        let key = |name: &str| PyString::intern(py, name).unbind();
        Self {
            names: Names::new(py),
            methods: METHODS.iter().map(|name| key(name)).collect(),
            http10: key("HTTP/1.0"),
            http11: key("HTTP/1.1"),
            http2: key("HTTP/2.0"),
            zero: key("0"),
            request_method: key("REQUEST_METHOD"),
            path_info: key("PATH_INFO"),
            query_string: key("QUERY_STRING"),
            raw_uri: key("RAW_URI"),
            request_uri: key("REQUEST_URI"),
            server_protocol: key("SERVER_PROTOCOL"),
            server_name: key("SERVER_NAME"),
            server_port: key("SERVER_PORT"),
            remote_addr: key("REMOTE_ADDR"),
            remote_port: key("REMOTE_PORT"),
            content_length: key("CONTENT_LENGTH"),
            http_host: key("HTTP_HOST"),
            url_scheme: key("wsgi.url_scheme"),
            input: key("wsgi.input"),
            headers_raw: key("headers_raw"),
            raw_path_info: key("RAW_PATH_INFO"),
            id: id_field.map(|field| {
                let of_field = names::environ_key(field.as_bytes());
                [key(ID), key(&String::from_utf8_lossy(&of_field))]
            }),
            script_name: key("SCRIPT_NAME"),
            https: key("HTTPS"),
            socket: key("maypole.socket"),
        }
    }
}

/// Makes the environs of one executor thread.
pub(super) struct Environs {
    keys: Arc<Keys>,
    template: Py<PyDict>,
    /// The last value of each recurring field, by the index of its name.
    kept: Vec<Option<Py<PyString>>>,
    clients: Box<[Option<Addresses>]>,
    /// The client's address in the template, which is empty at first, as for the client of a unix socket.
    address: Option<IpAddr>,
    /// The slot of the client whose port the template has.
    port_of: Option<usize>,
    /// The target that the template has.
    target: Vec<u8>,
    /// The values of `SERVER_NAME` and `SERVER_PORT` in the template are those of this address.
    local: Option<Arc<Local>>,
    /// The value of `wsgi.url_scheme` in the template. `None`: the application's constants have one, which stays.
    scheme: Option<Scheme>,
    /// Whether every environ also has the fields and the path as received.
    headers_raw: bool,
    /// The first bytes of a decoded path that are `SCRIPT_NAME` instead of `PATH_INFO`.
    prefix_bytes: usize,
}

/// The environ's values for one client address.
struct Addresses {
    client: Option<SocketAddr>,
    addr: Py<PyString>,
    port: Py<PyString>,
}

impl Environs {
    /// Makes the template. `base` has the entries that are the same in every request of the application. With
    /// `headers_raw`, every environ also has the fields and the path as received. The first `prefix_bytes` of each
    /// decoded path are `SCRIPT_NAME`, which `base` has.
    pub(super) fn new(
        py: Python<'_>,
        keys: Arc<Keys>,
        base: &Bound<'_, PyDict>,
        headers_raw: bool,
        prefix_bytes: usize,
    ) -> PyResult<Self> {
        let template = base.copy()?;
        let scheme = (!template.contains(&keys.url_scheme)?).then_some(Scheme::Http);
        if let Some(scheme) = scheme {
            template.set_item(&keys.url_scheme, scheme.as_str())?;
        }
        // Put every key that all requests have into the template, with its most frequent value: a copy then has the
        // right size from the start.
        let empty = PyString::new(py, "");
        template.set_item(&keys.request_method, &keys.methods[0])?;
        template.set_item(&keys.server_protocol, &keys.http11)?;
        for key in [&keys.path_info, &keys.query_string, &keys.raw_uri, &keys.request_uri] {
            template.set_item(key, &empty)?;
        }
        for key in [&keys.server_name, &keys.server_port, &keys.remote_addr, &keys.remote_port] {
            template.set_item(key, &empty)?;
        }
        template.set_item(&keys.input, Py::new(py, InputStream::new(RequestBody::Empty))?)?;
        for key in keys.id.iter().flatten() {
            template.set_item(key, &empty)?;
        }
        if headers_raw {
            template.set_item(&keys.headers_raw, PyTuple::empty(py))?;
            template.set_item(&keys.raw_path_info, &empty)?;
        }
        Ok(Self {
            keys,
            template: template.unbind(),
            kept: std::iter::repeat_with(|| None).take(names::COUNT).collect(),
            clients: std::iter::repeat_with(|| None).take(CLIENTS).collect(),
            address: None,
            port_of: None,
            target: Vec::new(),
            local: None,
            scheme,
            headers_raw,
            prefix_bytes,
        })
    }

    /// Changes an entry of the template.
    pub(super) fn set(&self, py: Python<'_>, key: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.template.bind(py).set_item(key, value)
    }

    /// Makes the environ of a request.
    pub(super) fn build<'py>(
        &mut self,
        py: Python<'py>,
        head: &RequestHead,
        body: RequestBody,
        origin: &Origin,
    ) -> PyResult<Bound<'py, PyDict>> {
        self.fit_template(py, origin)?;
        let has_target = self.fit_target(py, head)?;
        // SAFETY: the template is a dict, and `PyDict_Copy` returns a new dict or NULL with an exception set.
        let environ = unsafe {
            Bound::from_owned_ptr_or_err(py, ffi::PyDict_Copy(self.template.as_ptr()))?.cast_into_unchecked::<PyDict>()
        };
        let keys = &*self.keys;
        let method = head.method();
        if method != METHODS[0].as_bytes() {
            match METHODS.iter().position(|known| known.as_bytes() == method) {
                Some(known) => set(&environ, &keys.request_method, keys.methods[known].bind(py))?,
                None => set(&environ, &keys.request_method, &latin1(py, method)?)?,
            }
        }
        if head.version() != Version::Http11 {
            self.version(&environ, head.version())?;
        }
        if !has_target {
            self.target(&environ, head)?;
        }
        // Constants of the application with a scheme of their own take precedence.
        if origin.scheme == Scheme::Https && self.scheme.is_some() {
            set(&environ, &keys.https, &PyString::new(py, "on"))?;
        }
        if self.headers_raw {
            self.raw(&environ, head)?;
        }
        let streamed = matches!(body, RequestBody::Streamed(_));
        let said_length = self.fields(&environ, head, origin, streamed)?;
        if let (Some(keys), Some(id)) = (&self.keys.id, head.id()) {
            let id = latin1(py, id)?;
            keys.iter().try_for_each(|key| set(&environ, key, &id))?;
        }
        if let Some(told) = &origin.told {
            self.told(&environ, told)?;
        }
        if let Some(facts) = &origin.tls {
            session(&environ, facts)?;
        }
        self.body(&environ, body, said_length)?;
        Ok(environ)
    }

    /// Sets what the target of the request says.
    fn target(&self, environ: &Bound<'_, PyDict>, head: &RequestHead) -> PyResult<()> {
        let (py, keys) = (environ.py(), &*self.keys);
        let (target, path, query) = (head.target(), head.path(), head.query());
        let raw = latin1(py, target)?;
        set(environ, &keys.raw_uri, &raw)?;
        set(environ, &keys.request_uri, &raw)?;
        if path == b"*" {
            // The asterisk form names no resource, but an empty path beside an empty SCRIPT_NAME is not allowed.
            set(environ, &keys.path_info, &latin1(py, b"/")?)?;
        } else if memchr::memchr(b'%', path).is_some() {
            set(environ, &keys.path_info, &latin1(py, self.below_prefix(&percent_decoded(path)))?)?;
        } else if path.len() == target.len() && self.prefix_bytes == 0 {
            set(environ, &keys.path_info, &raw)?;
        } else {
            set(environ, &keys.path_info, &latin1(py, self.below_prefix(path))?)?;
        }
        if !query.is_empty() {
            set(environ, &keys.query_string, &latin1(py, query)?)?;
        }
        Ok(())
    }

    /// Sets what another version than HTTP/1.1 changes.
    #[cold]
    fn version(&self, environ: &Bound<'_, PyDict>, version: Version) -> PyResult<()> {
        let (py, keys) = (environ.py(), &*self.keys);
        if version == Version::Http10 {
            return set(environ, &keys.server_protocol, keys.http10.bind(py));
        }
        // A connection with several streams cannot be taken over.
        environ.del_item(keys.socket.bind(py))?;
        set(environ, &keys.server_protocol, keys.http2.bind(py))
    }

    /// Returns the part of a decoded path that is `PATH_INFO`.
    fn below_prefix<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        path.get(self.prefix_bytes..).unwrap_or_default()
    }

    /// Sets `headers_raw`, a tuple of pairs of `str`: every field, in the order and the case received, and
    /// `RAW_PATH_INFO`, the path as sent.
    #[cold]
    fn raw(&self, environ: &Bound<'_, PyDict>, head: &RequestHead) -> PyResult<()> {
        let py = environ.py();
        let pair = |(name, value)| PyTuple::new(py, [latin1(py, name)?, latin1(py, value)?]);
        let fields = head.fields().map(pair).collect::<PyResult<Vec<_>>>()?;
        set(environ, &self.keys.headers_raw, &PyTuple::new(py, fields)?)?;
        set(environ, &self.keys.raw_path_info, &latin1(py, head.path())?)
    }

    /// Sets `HTTP_*` and `CONTENT_TYPE`. Returns whether the client sent a `Content-Length`.
    fn fields(
        &mut self,
        environ: &Bound<'_, PyDict>,
        head: &RequestHead,
        origin: &Origin,
        streamed: bool,
    ) -> PyResult<bool> {
        let py = environ.py();
        let keys = &*self.keys;
        let (mut seen, mut repeated, mut said_length) = (0_u64, false, false);
        let hidden = origin.told.as_ref().map(|told| told.hidden).filter(|hidden| *hidden != Hidden::default());
        for (name, value) in head.fields() {
            if let Some(hidden) = hidden
                && family_of(name).is_some_and(|family| hidden.has(family))
            {
                continue;
            }
            let Some(index) = keys.names.find(name) else {
                if memchr::memchr(b'_', name).is_none() {
                    let key = latin1(py, &names::environ_key(name))?;
                    if environ.contains(&key)? {
                        repeated = true;
                    } else {
                        environ.set_item(key, latin1(py, value)?)?;
                    }
                }
                continue;
            };
            let name = keys.names.get(index);
            match name.kind {
                Kind::ContentLength => said_length = true,
                Kind::Host | Kind::Dropped => {}
                Kind::TransferEncoding if !streamed => {}
                _ if seen & (1 << index) != 0 => repeated = true,
                kind => {
                    seen |= 1 << index;
                    if kind == Kind::Recurring {
                        set(environ, &name.key, &recurring(py, &mut self.kept[index], value)?)?;
                    } else {
                        set(environ, &name.key, &latin1(py, value)?)?;
                    }
                }
            }
        }
        if let Some(host) = origin.host_of(head) {
            // `Host` is the first name of the table.
            set(environ, &keys.http_host, &recurring(py, &mut self.kept[0], host)?)?;
        }
        if repeated {
            self.repeated(environ, head)?;
        }
        Ok(said_length)
    }

    /// Sets what proxies tell of the URL, besides its scheme and its host.
    #[cold]
    fn told(&self, environ: &Bound<'_, PyDict>, told: &Told) -> PyResult<()> {
        let (py, keys) = (environ.py(), &*self.keys);
        if let Some(name) = &told.server_name {
            set(environ, &keys.server_name, &latin1(py, name)?)?;
        }
        if let Some(port) = told.server_port {
            set(environ, &keys.server_port, &PyString::new(py, &port.to_string()))?;
        }
        if !told.prefix.is_empty() {
            // The application may have a path of its own below that of the proxy.
            let mut path = percent_decoded(&told.prefix);
            if let Some(own) = environ.get_item(&keys.script_name)? {
                path.extend(latin_1(&own.extract::<String>()?));
            }
            set(environ, &keys.script_name, &latin1(py, &path)?)?;
        }
        Ok(())
    }

    /// Joins the values of repeated fields, in linear time (RFC 9110 §5.3).
    #[cold]
    fn repeated(&self, environ: &Bound<'_, PyDict>, head: &RequestHead) -> PyResult<()> {
        let py = environ.py();
        let names = &self.keys.names;
        let mut joined: HashMap<Vec<u8>, (Vec<u8>, usize)> = HashMap::new();
        for (name, value) in head.fields() {
            let (key, separator) = match names.find(name).map(|index| names.get(index)) {
                Some(name) => match name.kind {
                    Kind::Cookie => (name.key.bind(py).to_str()?.as_bytes().to_vec(), "; "),
                    // The server cannot know which of two content types is meant. The joined value is not a valid type.
                    Kind::Plain | Kind::Recurring | Kind::ContentType | Kind::TransferEncoding => {
                        (name.key.bind(py).to_str()?.as_bytes().to_vec(), ", ")
                    }
                    Kind::Host | Kind::ContentLength | Kind::Dropped => continue,
                },
                None if memchr::memchr(b'_', name).is_some() => continue,
                None => (names::environ_key(name), ", "),
            };
            let (values, count) = joined.entry(key).or_default();
            if *count > 0 {
                values.extend_from_slice(separator.as_bytes());
            }
            values.extend_from_slice(value);
            *count += 1;
        }
        for (key, (values, count)) in joined {
            let key = latin1(py, &key)?;
            if count > 1 && environ.contains(&key)? {
                environ.set_item(key, latin1(py, &values)?)?;
            }
        }
        Ok(())
    }

    /// Sets `wsgi.input` and `CONTENT_LENGTH`. Without a body, the template's empty input stays.
    fn body(&self, environ: &Bound<'_, PyDict>, body: RequestBody, said_length: bool) -> PyResult<()> {
        let py = environ.py();
        let keys = &*self.keys;
        let length = match &body {
            RequestBody::Empty => {
                if said_length {
                    set(environ, &keys.content_length, keys.zero.bind(py))?;
                }
                return Ok(());
            }
            RequestBody::Complete(spool) => Some(spool.len()),
            RequestBody::Streamed(input) => match input.framing {
                Framing::Length(bytes) => Some(bytes),
                Framing::None | Framing::Chunked => None,
            },
        };
        if let Some(length) = length {
            set(environ, &keys.content_length, &PyString::new(py, &length.to_string()))?;
        }
        set(environ, &keys.input, Bound::new(py, InputStream::new(body))?.as_any())
    }

    /// Puts the values that often repeat from request to request into the template: the addresses of both sides, and the
    /// scheme.
    fn fit_template(&mut self, py: Python<'_>, origin: &Origin) -> PyResult<()> {
        let slot = slot_of(origin.client);
        if self.clients[slot].as_ref().is_none_or(|known| known.client != origin.client) {
            let (addr, port) = match origin.client {
                Some(client) => (client.ip().to_string(), client.port().to_string()),
                // A unix socket's client has no address.
                None => (String::new(), String::new()),
            };
            self.clients[slot] = Some(Addresses {
                client: origin.client,
                addr: PyString::new(py, &addr).unbind(),
                port: PyString::new(py, &port).unbind(),
            });
            self.port_of = None;
        }
        let template = self.template.bind(py);
        if let Some(addresses) = &self.clients[slot] {
            let address = origin.client.map(|client| client.ip());
            if self.address != address {
                set(template, &self.keys.remote_addr, addresses.addr.bind(py))?;
                self.address = address;
            }
            if self.port_of != Some(slot) {
                set(template, &self.keys.remote_port, addresses.port.bind(py))?;
                self.port_of = Some(slot);
            }
        }
        // The comparison is one of pointers if the connections share the address.
        if self.local.as_ref() != Some(&origin.local) {
            let (name, port) = server_name(&origin.local);
            template.set_item(&self.keys.server_name, name)?;
            template.set_item(&self.keys.server_port, port)?;
            self.local = Some(Arc::clone(&origin.local));
        }
        if self.scheme.is_some_and(|known| known != origin.scheme) {
            template.set_item(&self.keys.url_scheme, origin.scheme.as_str())?;
            self.scheme = Some(origin.scheme);
        }
        Ok(())
    }

    /// Puts the target into the template if it is a plain path, because the next request is often for the same one. A
    /// query may hold a secret, so it is not kept. Returns whether the template has the target.
    fn fit_target(&mut self, py: Python<'_>, head: &RequestHead) -> PyResult<bool> {
        let target = head.target();
        if same(&self.target, target) {
            return Ok(true);
        }
        let is_plain = target.len() <= KEPT_BYTES_MAX && memchr::memchr2(b'%', b'?', target).is_none();
        if !is_plain || self.prefix_bytes > 0 || head.path().len() != target.len() || target == b"*" {
            return Ok(false);
        }
        self.target.clear();
        let (template, keys, raw) = (self.template.bind(py), &*self.keys, latin1(py, target)?);
        for key in [&keys.raw_uri, &keys.request_uri, &keys.path_info] {
            set(template, key, &raw)?;
        }
        self.target.extend_from_slice(target);
        Ok(true)
    }
}

/// Returns the slot in which a client's addresses are kept. Several clients may have the same slot.
fn slot_of(client: Option<SocketAddr>) -> usize {
    let (address, port) = match client {
        Some(SocketAddr::V4(client)) => (client.ip().to_bits(), client.port()),
        Some(SocketAddr::V6(client)) => {
            let [.., a, b] = client.ip().segments();
            (u32::from(a) << 16 | u32::from(b), client.port())
        }
        None => (0, 0),
    };
    let mixed = (address.rotate_left(16) ^ u32::from(port)).wrapping_mul(0x9E37_79B1);
    mixed as usize >> 16 & (CLIENTS - 1)
}

/// Returns `SERVER_NAME` and `SERVER_PORT`, which may not be empty. They come from the connection's local address, not
/// from the Host field, which the client chooses.
fn server_name(local: &Local) -> (String, String) {
    match local {
        Local::Tcp(local) => {
            let name = match local.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or_else(|| format!("[{ip}]"), |ip| ip.to_string()),
            };
            (name, local.port().to_string())
        }
        Local::Unix(_) => ("localhost".to_owned(), "80".to_owned()),
    }
}

/// Sets an entry of an exact dict.
#[inline]
fn set(dict: &Bound<'_, PyDict>, key: &Py<PyString>, value: &Bound<'_, impl Sized>) -> PyResult<()> {
    // SAFETY: a dict, and two objects that live throughout; `PyDict_SetItem` takes its own references.
    if unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key.as_ptr(), value.as_ptr()) } == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(dict.py()))
    }
}

/// Sets what is known of the session of TLS.
#[cold]
fn session(environ: &Bound<'_, PyDict>, facts: &Facts) -> PyResult<()> {
    let py = environ.py();
    facts.entries().try_for_each(|(key, value)| environ.set_item(key, latin1(py, value.as_bytes())?))
}

/// Makes a `str` with one character for each byte.
#[inline]
pub(super) fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    // SAFETY: the pointer and the length are a slice's, whose length fits isize; the result is a new str or NULL with
    // an exception set.
    unsafe {
        let object = ffi::PyUnicode_DecodeLatin1(bytes.as_ptr().cast(), bytes.len().cast_signed(), std::ptr::null());
        Ok(Bound::from_owned_ptr_or_err(py, object)?.cast_into_unchecked())
    }
}

/// Returns the `str` of a value that often repeats: the kept one if it is equal, otherwise a new one.
#[inline]
fn recurring<'py>(py: Python<'py>, kept: &mut Option<Py<PyString>>, value: &[u8]) -> PyResult<Bound<'py, PyString>> {
    if let Some(kept) = kept {
        let kept = kept.bind(py);
        if ascii(kept) == value {
            return Ok(kept.clone());
        }
    }
    let made = latin1(py, value)?;
    if value.len() <= KEPT_BYTES_MAX && value.is_ascii() {
        *kept = Some(made.clone().unbind());
    }
    Ok(made)
}

/// Returns the characters of a `str` that was made from ASCII.
#[inline]
fn ascii<'a>(text: &'a Bound<'_, PyString>) -> &'a [u8] {
    // SAFETY: such a str is compact and has one byte for each character, which stay as they are for its life.
    unsafe {
        let data = ffi::PyUnicode_DATA(text.as_ptr()).cast::<u8>();
        std::slice::from_raw_parts(data, ffi::PyUnicode_GET_LENGTH(text.as_ptr()).cast_unsigned())
    }
}
