//! Files below a prefix of the path: served without Python, without a thread, and without a place in the pool. And files
//! that the application names in its response.
//!
//! *Owns*: which prefixes belong to which directories. *Runs on*: the connection's coroutine. Opening a file takes some
//! microseconds, but a network file system that hangs stops all clients, as it does in other servers with one loop.
//! *Invariants*: a file is opened below its directory by the kernel, which follows no symbolic link that leaves it. The
//! directory itself is looked up for each request, so that a deployment may exchange it.

mod kind;
mod look;
mod named;
mod place;
mod reply;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cap_std::fs::Dir;

use crate::admission::{Admission, Delivery, Terms};
use crate::config::Config;
use crate::drain::Drain;
use crate::handler::{Handler, Origin, Request, Responder};
use crate::http::{RequestHead, below};
use crate::metrics::{Meters, Numbers};
use crate::pool::Pool;
use crate::sys;
use crate::throttle::Throttle;

use self::kind::{accepted, content_type, is_compressible};
use self::look::{Found, Looked, open, open_directory};
pub use self::named::{Named, NamedFiles};
use self::place::Place;
use self::reply::{Reply, Representation, Variant};

/// The file that stands for its directory.
const INDEX: &str = "index.html";
/// The shortest time between two lines about files that cannot be read.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Serves files below their prefixes, and passes all other requests on.
pub struct Files {
    sites: Vec<Site>,
    cache_control: Option<String>,
    /// What serves all other paths. `None`: nothing does, and they get 404.
    others: Option<Arc<dyn Handler>>,
    unreadable: Throttle,
}

/// A prefix and its directory.
struct Site {
    /// The path's begin, without a slash at its end.
    prefix: Vec<u8>,
    directory: PathBuf,
}

impl Files {
    /// Returns the handler of these settings: `others` itself if no files are to be served.
    pub fn before(others: Option<Arc<dyn Handler>>, config: &Config) -> Arc<dyn Handler> {
        if let (Some(others), true) = (&others, config.files.static_files.is_empty()) {
            return Arc::clone(others);
        }
        let mut sites: Vec<_> = config
            .files
            .static_files
            .iter()
            .map(|given| Site { prefix: given.prefix.clone().into_bytes(), directory: given.directory.clone() })
            .collect();
        // The longest prefix counts.
        sites.sort_by_key(|site| std::cmp::Reverse(site.prefix.len()));
        let cache_control = config.files.static_cache_control.clone();
        Arc::new(Self { sites, cache_control, others, unreadable: Throttle::new(REPORT_EVERY) })
    }

    /// Returns the number of the site that a path belongs to.
    fn site(&self, path: &[u8]) -> Option<usize> {
        self.sites.iter().position(|site| below(path, &site.prefix).is_some())
    }

    /// Returns the response to a request. (The connection's coroutine.)
    fn reply(&self, site: &Site, head: &RequestHead) -> Reply {
        if !matches!(head.method(), b"GET" | b"HEAD") {
            return Reply::method_not_allowed();
        }
        match self.look_for(site, head) {
            Ok(reply) => reply,
            Err(error) => {
                if let Some(held_back) = self.unreadable.pass() {
                    let path = crate::phrase::excerpt(head.path());
                    let (directory, why) = (site.directory.display(), sys::plain(&error));
                    log::warn!("the file for {path} cannot be read below {directory}: {why}{held_back}");
                }
                Reply::failure(&error)
            }
        }
    }

    fn look_for(&self, site: &Site, head: &RequestHead) -> io::Result<Reply> {
        let rest = below(head.path(), &site.prefix).unwrap_or_default();
        let place = match rest.strip_prefix(b"/") {
            Some(rest) => Place::of(rest),
            None => Some(Place::File(PathBuf::from("."))),
        };
        let Some(place) = place else { return Ok(Reply::missing()) };
        let root = open_directory(&site.directory)?;
        match place {
            Place::File(name) => match open(&root, &name)? {
                Looked::File(found) => self.found(&root, &name, found, head),
                Looked::Directory if matches!(open(&root, &name.join(INDEX))?, Looked::File(_)) => {
                    Ok(Reply::to_directory(head))
                }
                Looked::Directory | Looked::Missing => Ok(Reply::missing()),
            },
            Place::Directory(name) => {
                let name = name.join(INDEX);
                match open(&root, &name)? {
                    Looked::File(found) => self.found(&root, &name, found, head),
                    Looked::Directory | Looked::Missing => Ok(Reply::missing()),
                }
            }
        }
    }

    /// Returns the response with a file, or with a compressed one that lies beside it.
    fn found(&self, root: &Dir, name: &Path, found: Found, head: &RequestHead) -> io::Result<Reply> {
        let content_type = content_type(name);
        let varies = is_compressible(&content_type);
        let mut coding = None;
        let mut found = found;
        for accepted in if varies { accepted(head) } else { Vec::new() } {
            let mut beside = name.as_os_str().to_owned();
            beside.push(accepted.suffix);
            if let Looked::File(compressed) = open(root, Path::new(&beside))? {
                (found, coding) = (compressed, Some(accepted));
                break;
            }
        }
        let variant = Variant { content_type, coding, varies };
        Representation::new(found, variant, self.cache_control.as_deref()).reply(head)
    }
}

impl Handler for Files {
    fn admit(&self, head: &RequestHead, origin: &Origin) -> Admission<'_> {
        let route = self.site(head.path()).unwrap_or(self.sites.len());
        let admitted = if route < self.sites.len() { None } else { self.others.as_ref() };
        match admitted.map(|others| others.admit(head, origin)) {
            // A body has no meaning, so nothing is read of it before the response.
            None => {
                let (delivery, body_bytes_max) = (Delivery::Stream, u64::MAX);
                Admission::Serve(Terms { delivery, body_bytes_max, gate: None, route })
            }
            // The routes of the others come behind those of the sites.
            Some(Admission::Serve(terms)) => Admission::Serve(Terms { route: route + terms.route, ..terms }),
            Some(refused @ Admission::Refuse { .. }) => refused,
        }
    }

    fn call(&self, mut request: Request, responder: Responder) {
        let site = self.sites.get(request.route);
        if let (None, Some(others)) = (site, &self.others) {
            request.route -= self.sites.len();
            others.call(request, responder);
            return;
        }
        if !responder.begin(request.received) {
            return;
        }
        let reply = site.map_or_else(Reply::missing, |site| self.reply(site, &request.head));
        let Reply { head, bytes, blocks } = reply;
        let blocks = if request.head.is_head() { Vec::new() } else { blocks };
        responder.respond(head, bytes, blocks, Some(Instant::now()), Vec::new());
        sys::flush_wakes();
    }

    fn running(&self) -> usize {
        self.others.as_ref().map_or(0, |others| others.running())
    }

    fn join_drain(&self, drain: &Arc<Drain>) {
        self.others.iter().for_each(|others| others.join_drain(drain));
    }

    fn pool(&self) -> Option<&Arc<Pool>> {
        self.others.as_ref()?.pool()
    }

    fn limit_suspended(&self, max: usize) {
        self.others.iter().for_each(|others| others.limit_suspended(max));
    }

    fn suspended(&self) -> usize {
        self.others.as_ref().map_or(0, |others| others.suspended())
    }

    fn measure(&self, numbers: &mut Numbers) {
        self.others.iter().for_each(|others| others.measure(numbers));
    }

    fn show(&self, meters: &Meters) {
        self.others.iter().for_each(|others| others.show(meters));
    }
}
