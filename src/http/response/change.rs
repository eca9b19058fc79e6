//! Changes to a head that the application gave, for a body that the server sends in place of the application's.
//!
//! *Runs on*: the calling thread. *Invariants*: a changed head is as well-formed as before.

use super::ResponseHead;
use crate::http::reason::reason_phrase;
use crate::phrase::push_decimal;

impl ResponseHead {
    /// Removes the fields of this name (ASCII case ignored). Returns the value of the first.
    pub fn take_field(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        let value = self.field(name)?.to_vec();
        let is_named = |line: &[u8]| {
            let rest = line.split_at_checked(name.len()).filter(|(given, _)| given.eq_ignore_ascii_case(name));
            rest.is_some_and(|(_, rest)| rest.starts_with(b":"))
        };
        let mut lines = self.buffer.split_inclusive(|byte| *byte == b'\n');
        let mut kept = lines.next().unwrap_or_default().to_vec();
        lines.filter(|line| !is_named(line)).for_each(|line| kept.extend_from_slice(line));
        self.buffer = kept;
        if name.eq_ignore_ascii_case(b"content-length") {
            self.content_length = None;
        }
        Some(value)
    }

    /// Changes the status, and the reason with it. A status outside 200 to 599 becomes 500.
    pub fn set_status(&mut self, status: u16) {
        self.status = if (200..=599).contains(&status) { status } else { 500 };
        let mut changed = b"HTTP/1.1 ".to_vec();
        push_decimal(&mut changed, u64::from(self.status));
        changed.push(b' ');
        changed.extend_from_slice(reason_phrase(self.status).as_bytes());
        changed.extend_from_slice(b"\r\n");
        let fields = memchr::memchr(b'\n', &self.buffer).and_then(|end| self.buffer.get(end.saturating_add(1)..));
        changed.extend_from_slice(fields.unwrap_or_default());
        self.buffer = changed;
    }
}
