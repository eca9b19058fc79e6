//! Files that the application names in its response: `X-Sendfile` and `X-Accel-Redirect`.
//!
//! *Owns*: the directories of `--sendfile-root`. *Runs on*: the thread of a call, without the GIL while it looks for a
//! file. *Invariants*: a file is below one of the directories, as for `--static`. The client sees neither the field nor
//! the path, and an error has no field of the application's response.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use log::Level;

use super::REPORT_EVERY;
use super::kind::content_type;
use super::look::{Found, Looked, open, open_directory};
use super::place::{Place, name_of};
use super::reply::{Reply, Representation};
use crate::config::Config;
use crate::handler::Block;
use crate::http::{RequestHead, ResponseHead, below, status_has_body, strictly_decoded};
use crate::phrase::{characters, excerpt};
use crate::sys::{self, errno};
use crate::throttle::Throttle;

/// Sends files that the application names.
pub struct NamedFiles {
    roots: Vec<Root>,
    missing: Throttle,
    refused: Throttle,
}

/// A directory whose files may be named.
struct Root {
    /// The beginning of the paths in `X-Accel-Redirect`, without a slash at its end.
    prefix: Option<Vec<u8>>,
    directory: PathBuf,
}

/// What a response names in place of its body.
#[derive(Debug, PartialEq, Eq)]
pub enum Named {
    /// The path of a file: the value of `X-Sendfile`.
    Path(Vec<u8>),
    /// The path of a URL: the value of `X-Accel-Redirect`.
    Url(Vec<u8>),
}

/// Why a file is not sent.
enum Fault {
    Missing,
    Outside,
    /// A part of the name begins with a dot, or has a character that is not served.
    Unserved,
    Unreadable(io::Error),
}

/// A root, and the name of a file below it.
type Below<'a> = Result<(&'a Root, PathBuf), Fault>;

impl NamedFiles {
    /// Takes the directories from the settings. `None`: the fields pass as they are. Relative directories are below the
    /// working directory of this moment.
    pub fn new(config: &Config) -> Option<Arc<Self>> {
        let roots: Vec<_> = config
            .files
            .sendfile_root
            .iter()
            .map(|given| Root {
                prefix: given.prefix.as_ref().map(|prefix| prefix.clone().into_bytes()),
                directory: std::path::absolute(&given.directory).unwrap_or_else(|_| given.directory.clone()),
            })
            .collect();
        let throttle = || Throttle::new(REPORT_EVERY);
        (!roots.is_empty()).then(|| Arc::new(Self { roots, missing: throttle(), refused: throttle() }))
    }

    /// Takes the fields that name a file out of a head, with those that describe the body that the file replaces. `None`:
    /// the head names none, or its status has no body.
    pub fn take_from(&self, head: &mut ResponseHead) -> Option<Named> {
        let has_prefixes = self.roots.iter().any(|root| root.prefix.is_some());
        let url = has_prefixes.then(|| head.take_field(b"x-accel-redirect")).flatten();
        let path = head.take_field(b"x-sendfile");
        let named = url.map(Named::Url).or(path.map(Named::Path)).filter(|_| status_has_body(head.status()))?;
        head.take_field(b"content-length");
        if head.status() == 206 {
            // The application has looked at the range already. Its body would have been the part, and the file is whole.
            head.take_field(b"content-range");
            head.set_status(200);
        }
        Some(named)
    }

    /// Returns the head, the length and the body of the response in which the application has named a file. `head` is
    /// what the application has given besides. Reads the file system, so call it without the GIL.
    pub fn response(
        &self,
        named: &Named,
        head: ResponseHead,
        request: &RequestHead,
    ) -> (ResponseHead, u64, Vec<Block>) {
        let found = self.find(named).and_then(|(found, name)| {
            let representation = Representation::named(found, content_type(&name), head);
            representation.reply(request).map_err(Fault::Unreadable)
        });
        let reply = found.unwrap_or_else(|fault| self.refuse(&fault, named, request));
        (reply.head, reply.bytes, if request.is_head() { Vec::new() } else { reply.blocks })
    }

    /// Logs why a file is not sent, and returns the response.
    fn refuse(&self, fault: &Fault, named: &Named, request: &RequestHead) -> Reply {
        let (field, value) = match named {
            Named::Path(value) => ("X-Sendfile", value),
            Named::Url(value) => ("X-Accel-Redirect", value),
        };
        let (reply, level, throttle) = match fault {
            Fault::Missing => (Reply::missing(), Level::Warn, &self.missing),
            Fault::Unreadable(error) if matches!(error.raw_os_error(), Some(errno::EMFILE | errno::ENFILE)) => {
                (Reply::failure(error), Level::Error, &self.refused)
            }
            _ => (Reply::error(), Level::Error, &self.refused),
        };
        if let Some(held_back) = throttle.pass() {
            let why = match fault {
                Fault::Missing => "and there is no such file".to_owned(),
                Fault::Outside => "which is not below a --sendfile-root".to_owned(),
                Fault::Unserved => "which has a hidden part, or a character that is not served".to_owned(),
                Fault::Unreadable(error) => format!("which cannot be read: {}", sys::plain(error)),
            };
            let (line, value, status) = (excerpt(request.request_line()), excerpt(value), reply.head.status());
            log::log!(level, "{line}: the application names {value} in {field}, {why}: {status}{held_back}");
        }
        reply
    }

    /// Opens the file that a response names. Returns its name, too.
    fn find(&self, named: &Named) -> Result<(Found, PathBuf), Fault> {
        let mut first = None;
        for spelling in named.spellings() {
            let place = match named {
                Named::Path(_) => self.place_of_path(Path::new(OsStr::from_bytes(&spelling))),
                Named::Url(_) => self.place_of_url(&spelling),
            };
            match place.and_then(|(root, name)| Ok((root.open(&name)?, name))) {
                Ok(found) => return Ok(found),
                Err(fault) => first = first.or(Some(fault)),
            }
        }
        Err(first.unwrap_or(Fault::Missing))
    }

    /// Finds the root of a path of the file system. A relative path is below the first root.
    fn place_of_path(&self, path: &Path) -> Below<'_> {
        let as_given = |root: &Root| path.strip_prefix(&root.directory).ok().map(Path::to_owned);
        let real = |root: &Root| path.strip_prefix(fs::canonicalize(&root.directory).ok()?).ok().map(Path::to_owned);
        let place = if path.is_relative() {
            self.roots.first().map(|root| (root, path.to_owned()))
        } else {
            self.innermost(as_given).or_else(|| self.innermost(real))
        };
        let (root, rest) = place.ok_or(Fault::Outside)?;
        // A path that leads back upwards is not below the root that it begins with.
        if rest.components().any(|part| part == Component::ParentDir) {
            return Err(Fault::Outside);
        }
        Ok((root, name_of(&rest).ok_or(Fault::Unserved)?))
    }

    /// Returns the root for which `rest` returns the shortest rest.
    fn innermost(&self, rest: impl Fn(&Root) -> Option<PathBuf>) -> Option<(&Root, PathBuf)> {
        let found = self.roots.iter().filter_map(|root| Some((root, rest(root)?)));
        found.min_by_key(|(_, rest)| rest.as_os_str().len())
    }

    /// Finds the root of a path of a URL, by the longest prefix. A query has no meaning.
    fn place_of_url(&self, url: &[u8]) -> Below<'_> {
        let path = url.split(|byte| *byte == b'?').next().unwrap_or_default();
        let found = self.roots.iter().filter_map(|root| Some((root, below(path, root.prefix.as_deref()?)?)));
        let (root, rest) = found.min_by_key(|(_, rest)| rest.len()).ok_or(Fault::Outside)?;
        match Place::of(rest.strip_prefix(b"/").unwrap_or(rest)) {
            Some(Place::File(name)) => Ok((root, name)),
            Some(Place::Directory(_)) => Err(Fault::Missing),
            None => Err(Fault::Unserved),
        }
    }
}

impl Named {
    /// Returns the bytes that may be meant, the likeliest first. PEP 3333 lets an application write only characters of
    /// latin-1, and names of files are mostly UTF-8. Some applications escape a path, as Apache and lighttpd allow.
    fn spellings(&self) -> Vec<Vec<u8>> {
        let (given, escaped) = match self {
            Self::Path(given) => (given, strictly_decoded(given).filter(|decoded| decoded != given)),
            Self::Url(given) => (given, None),
        };
        let characters = std::str::from_utf8(given).is_err().then(|| characters(given).into_bytes());
        [Some(given.clone()), characters, escaped].into_iter().flatten().collect()
    }
}

impl Root {
    fn open(&self, name: &Path) -> Result<Found, Fault> {
        let opened = open_directory(&self.directory).and_then(|directory| open(&directory, name));
        match opened.map_err(Fault::Unreadable)? {
            Looked::File(found) => Ok(found),
            Looked::Directory | Looked::Missing => Err(Fault::Missing),
        }
    }
}
