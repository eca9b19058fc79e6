//! What a request makes depend on the state of a representation: `If-Match` and its kin (RFC 9110 §13).
//!
//! *Runs on*: the connection's coroutine, or the thread of a call. *Invariants*: a tag has its quotes, and no `W/`. A date
//! counts by whole seconds, as fields write it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::RequestHead;

/// What tells one state of a representation from another.
#[derive(Debug, Clone)]
pub struct Validators {
    /// The entity tag, such as `"18c-5f3"`.
    pub tag: String,
    /// Whether the tag is weak: two states that have it may differ in some bytes.
    pub is_weak: bool,
    /// When it was changed.
    pub modified: SystemTime,
}

/// What follows from the conditions of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The request is done.
    Proceed,
    /// The client has this state already: 304.
    NotModified,
    /// The client meant another state: 412.
    Failed,
}

impl Validators {
    /// Takes the tag and the date of these fields instead, if they are there and well-formed.
    pub fn correct(&mut self, tag: Option<&[u8]>, modified: Option<&[u8]>) {
        let is_tag = |opaque: &&str| {
            let inner = opaque.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            inner.is_some_and(|inner| !inner.contains('"'))
        };
        let tag = tag.and_then(|tag| std::str::from_utf8(tag).ok());
        let opaque = tag.map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).filter(is_tag);
        if let (Some(tag), Some(opaque)) = (tag, opaque) {
            (self.tag, self.is_weak) = (opaque.to_owned(), tag.len() != opaque.len());
        }
        let text = modified.and_then(|text| std::str::from_utf8(text).ok());
        if let Some(Ok(modified)) = text.map(httpdate::parse_http_date) {
            self.modified = modified;
        }
    }

    /// Evaluates the conditions of a GET or a HEAD, in the order of RFC 9110 §13.2.2.
    pub fn evaluate(&self, head: &RequestHead) -> Verdict {
        if head.field(b"if-match").is_some() {
            if !self.is_named(head, b"if-match", false) {
                return Verdict::Failed;
            }
        } else if let Some(date) = date_of(head, b"if-unmodified-since")
            && whole_seconds(self.modified) > date
        {
            return Verdict::Failed;
        }
        if head.field(b"if-none-match").is_some() {
            if self.is_named(head, b"if-none-match", true) {
                return Verdict::NotModified;
            }
        } else if let Some(date) = date_of(head, b"if-modified-since")
            && whole_seconds(self.modified) <= date
        {
            return Verdict::NotModified;
        }
        Verdict::Proceed
    }

    /// Returns whether the `Range` of a request counts: it has no `If-Range`, or one that names this state.
    pub fn allow_ranges(&self, head: &RequestHead) -> bool {
        match head.only_field(b"if-range") {
            None => head.field(b"if-range").is_none(),
            Some(value) if value.ends_with(b"\"") => !self.is_weak && value == self.tag.as_bytes(),
            Some(_) => date_of(head, b"if-range") == Some(whole_seconds(self.modified)),
        }
    }

    /// Returns whether the lines of a field name this state. `weak` says whether weak tags count.
    fn is_named(&self, head: &RequestHead, field: &[u8], weak: bool) -> bool {
        let lines = head.fields().filter(|(name, _)| name.eq_ignore_ascii_case(field));
        lines.map(|(_, value)| value).any(|value| value == b"*" || self.is_listed(value, weak))
    }

    fn is_listed(&self, mut rest: &[u8], weak: bool) -> bool {
        loop {
            while let [b' ' | b'\t' | b',', more @ ..] = rest {
                rest = more;
            }
            let is_weak = rest.starts_with(b"W/");
            let tag = if is_weak { rest.get(2..).unwrap_or_default() } else { rest };
            let [b'"', opaque @ ..] = tag else { return false };
            let Some(end) = opaque.iter().position(|byte| *byte == b'"') else { return false };
            let length = end.saturating_add(2);
            if (weak || !(is_weak || self.is_weak)) && tag.get(..length) == Some(self.tag.as_bytes()) {
                return true;
            }
            rest = tag.get(length..).unwrap_or_default();
        }
    }
}

/// Returns the date in a field, in seconds since 1970. `None`: there is none, it is malformed, or there are several (RFC
/// 9110 §13.1.3, §13.1.4).
fn date_of(head: &RequestHead, field: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(head.only_field(field)?).ok()?;
    Some(whole_seconds(httpdate::parse_http_date(text).ok()?))
}

fn whole_seconds(time: SystemTime) -> Duration {
    Duration::from_secs(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::http::Limits;

    const LIMITS: Limits =
        Limits { request_line_bytes_max: 100, fields_max: 9, field_bytes_max: 500, head_bytes_max: 600 };
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sunday, 06-Nov-94 08:49:38 GMT";

    fn head(fields: &str) -> RequestHead {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        RequestHead::parse(text.as_bytes(), &LIMITS).unwrap()
    }

    fn validators() -> Validators {
        Validators {
            tag: "\"a,b\"".to_owned(),
            is_weak: false,
            modified: UNIX_EPOCH + Duration::from_millis(784_111_777_900),
        }
    }

    #[test]
    fn conditions_count_in_the_order_of_the_standard() {
        use Verdict::{Failed, NotModified, Proceed};
        for (fields, expected) in [
            (String::new(), Proceed),
            ("If-None-Match: \"a,b\"\r\n".to_owned(), NotModified),
            ("If-None-Match: W/\"a,b\"\r\n".to_owned(), NotModified),
            ("If-None-Match: \"x\", W/\"y\" ,\"a,b\"\r\n".to_owned(), NotModified),
            ("If-None-Match: \"x\"\r\nIf-None-Match: \"a,b\"\r\n".to_owned(), NotModified),
            ("If-None-Match: *\r\n".to_owned(), NotModified),
            ("If-None-Match: \"a\"\r\n".to_owned(), Proceed),
            ("If-None-Match: a,b\r\n".to_owned(), Proceed),
            ("If-None-Match: \"a,b\r\n".to_owned(), Proceed),
            (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {THEN}\r\n"), Proceed),
            (format!("If-Modified-Since: {BEFORE}\r\n"), Proceed),
            (format!("If-Modified-Since: {THEN}\r\n"), NotModified),
            (format!("If-Modified-Since: {AFTER}\r\n"), NotModified),
            ("If-Modified-Since: yesterday\r\n".to_owned(), Proceed),
            (format!("If-Modified-Since: {THEN}\r\nIf-Modified-Since: {AFTER}\r\n"), Proceed),
            (format!("If-Modified-Since: {THEN}, {AFTER}\r\n"), Proceed),
            (format!("If-Unmodified-Since: {BEFORE}\r\nIf-Unmodified-Since: {BEFORE}\r\n"), Proceed),
            ("If-Match: \"a,b\"\r\n".to_owned(), Proceed),
            ("If-Match: *\r\n".to_owned(), Proceed),
            ("If-Match: W/\"a,b\"\r\n".to_owned(), Failed),
            ("If-Match: \"x\"\r\n".to_owned(), Failed),
            (format!("If-Match: \"a,b\"\r\nIf-Unmodified-Since: {BEFORE}\r\n"), Proceed),
            (format!("If-Unmodified-Since: {BEFORE}\r\n"), Failed),
            (format!("If-Unmodified-Since: {THEN}\r\n"), Proceed),
            ("If-Match: \"x\"\r\nIf-None-Match: \"a,b\"\r\n".to_owned(), Failed),
        ] {
            assert_eq!(validators().evaluate(&head(&fields)), expected, "{fields}");
        }
    }

    #[test]
    fn weak_tag_of_the_server_is_good_for_caches_alone() {
        let weak = Validators { is_weak: true, ..validators() };
        for (fields, expected) in [
            ("If-None-Match: \"a,b\"\r\n", Verdict::NotModified),
            ("If-None-Match: W/\"a,b\"\r\n", Verdict::NotModified),
            ("If-Match: \"a,b\"\r\n", Verdict::Failed),
        ] {
            assert_eq!(weak.evaluate(&head(fields)), expected, "{fields}");
        }
        assert!(!weak.allow_ranges(&head("If-Range: \"a,b\"\r\n")));
    }

    #[test]
    fn ranges_count_only_for_the_state_that_the_client_has() {
        for (fields, expected) in [
            (String::new(), true),
            ("If-Range: \"a,b\"\r\n".to_owned(), true),
            ("If-Range: W/\"a,b\"\r\n".to_owned(), false),
            ("If-Range: \"x\"\r\n".to_owned(), false),
            (format!("If-Range: {THEN}\r\n"), true),
            (format!("If-Range: {AFTER}\r\n"), false),
            (format!("If-Range: {BEFORE}\r\n"), false),
            ("If-Range: \"a,b\"\r\nIf-Range: \"a,b\"\r\n".to_owned(), false),
        ] {
            assert_eq!(validators().allow_ranges(&head(&fields)), expected, "{fields}");
        }
    }
}
