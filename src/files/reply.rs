//! The response to a request for a file: whole, in parts, or only its state.
//!
//! *Runs on*: the connection's coroutine, or the thread of a call. *Invariants*: a length is known before the first byte
//! is sent. If a file becomes shorter meanwhile, the client sees a response that is cut off.
//! *Source*: RFC 9110 §13 (conditions), §14 (ranges), §15.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::kind::Coding;
use super::look::Found;
use crate::handler::Block;
use crate::http::date::imf_fixdate;
use crate::http::{Ranges, RequestHead, ResponseHead, Validators, Verdict};
use crate::sys::{self, errno};

/// A part of a file up to this length is read into memory, so that it leaves in one call together with the head. To
/// send it by its descriptor takes two calls, and saves the copy of at most 4 pages.
const READ_BYTES_MAX: u64 = 16 * 1024;

/// The head of a response, and its body.
pub(super) struct Reply {
    pub(super) head: ResponseHead,
    /// The length of the body, which a response to HEAD states too.
    pub(super) bytes: u64,
    pub(super) blocks: Vec<Block>,
}

/// A file in one of its codings.
pub(super) struct Representation<'a> {
    found: Found,
    variant: Variant,
    cache_control: Option<&'a str>,
    validators: Validators,
    /// The head of the application that has named the file. Its fields take precedence.
    given: Option<ResponseHead>,
}

/// Which content a file has.
pub(super) struct Variant {
    pub(super) content_type: String,
    pub(super) coding: Option<Coding>,
    /// Whether the client's `Accept-Encoding` counts.
    pub(super) varies: bool,
}

impl Reply {
    fn plain(status: u16, fields: &[(&str, &[u8])]) -> Self {
        let (mut head, body) = ResponseHead::plain_response(status);
        push(&mut head, fields);
        Self { head, bytes: body.len() as u64, blocks: vec![Block::Owned(body)] }
    }

    /// Makes the response to a request that the server cannot serve.
    pub(super) fn error() -> Self {
        Self::plain(500, &[])
    }

    pub(super) fn missing() -> Self {
        Self::plain(404, &[])
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::plain(405, &[("Allow", b"GET, HEAD")])
    }

    /// Responds to an error of the system. A file that may not be read does not exist for the client.
    pub(super) fn failure(error: &io::Error) -> Self {
        match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound, _) | (_, Some(errno::ELOOP)) => Self::missing(),
            (_, Some(errno::EMFILE | errno::ENFILE)) => Self::plain(503, &[]),
            _ => Self::error(),
        }
    }

    /// Sends the client to the path with a slash at its end, so that relative links of the index are right. The location
    /// is relative, because a proxy may have taken the beginning of the client's path off (RFC 9110 §10.2.2).
    pub(super) fn to_directory(head: &RequestHead) -> Self {
        let segment = head.path().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        // A segment with a colon would be the scheme of another URL.
        let mut location = [b"./", segment, b"/"].concat();
        if !head.query().is_empty() {
            location.push(b'?');
            location.extend_from_slice(head.query());
        }
        Self::plain(301, &[("Location", &location)])
    }
}

impl<'a> Representation<'a> {
    pub(super) fn new(found: Found, variant: Variant, cache_control: Option<&'a str>) -> Self {
        let nanos = found.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let coded = variant.coding.map_or("", |coding| coding.suffix);
        let tag = format!("\"{nanos:x}-{:x}{coded}\"", found.bytes);
        let validators = Validators { tag, is_weak: false, modified: found.modified };
        Self { found, variant, cache_control, validators, given: None }
    }

    /// Makes the representation of a file that the application has named. `content_type` is that of the file's name. The
    /// application's fields take precedence, also for conditions.
    pub(super) fn named(found: Found, content_type: String, mut given: ResponseHead) -> Self {
        let own = given.take_field(b"content-type");
        let content_type = own.map_or(content_type, |own| String::from_utf8_lossy(&own).into_owned());
        let variant = Variant { content_type, coding: None, varies: false };
        let mut this = Self::new(found, variant, None);
        this.validators.correct(given.field(b"etag"), given.field(b"last-modified"));
        Self { given: Some(given), ..this }
    }

    /// Returns the response to a GET or a HEAD.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn reply(mut self, request: &RequestHead) -> io::Result<Reply> {
        let is_asked_for = matches!(request.method(), b"GET" | b"HEAD");
        if self.given.as_ref().is_some_and(|given| given.status() != 200 || !is_asked_for) {
            // It is not what the conditions are about, but the page of a 404, for instance.
            return self.whole();
        }
        match self.validators.evaluate(request) {
            Verdict::Failed => return Ok(Reply::plain(412, &[])),
            Verdict::NotModified => {
                let mut head = self.begin(304);
                self.push_state(&mut head);
                return Ok(Reply { head, bytes: 0, blocks: Vec::new() });
            }
            Verdict::Proceed => {}
        }
        let bytes = self.found.bytes;
        // Ranges are defined for GET alone (RFC 9110 §14.2).
        let ranges = match request.only_field(b"range").filter(|_| !request.is_head()) {
            Some(value) if self.has_ranges() && self.validators.allow_ranges(request) => Ranges::of(value, bytes),
            _ => Ranges::Whole,
        };
        match ranges {
            Ranges::Whole => self.whole(),
            Ranges::Unsatisfiable => Ok(Reply::plain(416, &[("Content-Range", format!("bytes */{bytes}").as_bytes())])),
            Ranges::Parts(parts) => match parts.as_slice() {
                [part] => self.part(part.clone()),
                parts => Ok(self.parts(parts)),
            },
        }
    }

    /// Begins the head: that of the application, if it has given one.
    fn begin(&mut self, status: u16) -> ResponseHead {
        let Some(mut given) = self.given.take() else { return ResponseHead::of_status(status) };
        if given.status() != status {
            given.set_status(status);
        }
        given
    }

    /// Returns whether the application has not refused ranges.
    fn has_ranges(&self) -> bool {
        let accepted = self.given.as_ref().and_then(|given| given.field(b"accept-ranges"));
        accepted.is_none_or(|unit| unit.eq_ignore_ascii_case(b"bytes"))
    }

    /// Writes the fields that a 304 also has (RFC 9110 §15.4.5), unless the application has given them.
    fn push_state(&self, head: &mut ResponseHead) {
        let state: [(&str, &[u8]); 2] =
            [("ETag", self.validators.tag.as_bytes()), ("Last-Modified", &imf_fixdate(self.validators.modified))];
        for (name, value) in state {
            if head.field(name.as_bytes()).is_none() {
                push(head, &[(name, value)]);
            }
        }
        if self.variant.varies {
            push(head, &[("Vary", b"Accept-Encoding")]);
        }
        if let Some(value) = self.cache_control {
            push(head, &[("Cache-Control", value.as_bytes())]);
        }
    }

    /// Returns the head of a response with content, without its `Content-Type`.
    fn head(&mut self, status: u16) -> ResponseHead {
        let mut head = self.begin(status);
        if let Some(coding) = self.variant.coding {
            push(&mut head, &[("Content-Encoding", coding.name.as_bytes())]);
        }
        if head.field(b"accept-ranges").is_none() {
            push(&mut head, &[("Accept-Ranges", b"bytes")]);
        }
        self.push_state(&mut head);
        head
    }

    fn whole(mut self) -> io::Result<Reply> {
        let mut head = self.head(self.given.as_ref().map_or(200, ResponseHead::status));
        push(&mut head, &[("Content-Type", self.variant.content_type.as_bytes())]);
        let bytes = self.found.bytes;
        Ok(Reply { head, bytes, blocks: self.blocks(0..bytes)? })
    }

    fn part(mut self, part: Range<u64>) -> io::Result<Reply> {
        let mut head = self.head(206);
        let range = content_range(&part, self.found.bytes);
        push(&mut head, &[("Content-Type", self.variant.content_type.as_bytes()), ("Content-Range", range.as_bytes())]);
        let bytes = part.end - part.start;
        Ok(Reply { head, bytes, blocks: self.blocks(part)? })
    }

    /// Returns a part of the file as the body: its bytes if there are few, else its descriptor.
    fn blocks(self, part: Range<u64>) -> io::Result<Vec<Block>> {
        let bytes = part.end - part.start;
        if bytes > READ_BYTES_MAX {
            let file = Arc::new(OwnedFd::from(self.found.file));
            return Ok(vec![Block::File { file, offset: part.start, bytes }]);
        }
        let mut memory = vec![0; usize::try_from(bytes).unwrap_or_default()];
        self.found.file.read_exact_at(&mut memory, part.start)?;
        Ok(if memory.is_empty() { Vec::new() } else { vec![Block::Owned(memory)] })
    }

    /// Returns several parts, as `multipart/byteranges` (RFC 9110 §14.6).
    fn parts(mut self, parts: &[Range<u64>]) -> Reply {
        let boundary = format!("{:016x}{:016x}", sys::random(), sys::random());
        let mut head = self.head(206);
        push(&mut head, &[("Content-Type", format!("multipart/byteranges; boundary={boundary}").as_bytes())]);
        let file = Arc::new(OwnedFd::from(self.found.file));
        let mut blocks = Vec::new();
        for part in parts {
            let range = content_range(part, self.found.bytes);
            let lead = format!(
                "\r\n--{boundary}\r\nContent-Type: {}\r\nContent-Range: {range}\r\n\r\n",
                self.variant.content_type
            );
            blocks.push(Block::Owned(lead.into_bytes()));
            blocks.push(Block::File { file: Arc::clone(&file), offset: part.start, bytes: part.end - part.start });
        }
        blocks.push(Block::Owned(format!("\r\n--{boundary}--\r\n").into_bytes()));
        let bytes = blocks.iter().map(Block::len).sum();
        Reply { head, bytes, blocks }
    }
}

fn content_range(part: &Range<u64>, of: u64) -> String {
    format!("bytes {}-{}/{of}", part.start, part.end.saturating_sub(1))
}

/// Adds fields whose names and values are known to be well-formed.
fn push(head: &mut ResponseHead, fields: &[(&str, &[u8])]) {
    for (name, value) in fields {
        let pushed = head.push_field(name.as_bytes(), value);
        debug_assert!(pushed.is_ok(), "{name} is malformed");
    }
}
