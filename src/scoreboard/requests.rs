//! The requests that a worker's threads serve, for the report after a crash.
//!
//! *Owns*: the layout of a row. *Runs on*: executor threads write, without a lock and without an allocation; any process
//! reads. *Invariants*: a row belongs to the thread that has made its first word non-zero, until it is zero again.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use super::age;

/// The rows of a slot. A worker with more threads in calls does not note all of them.
pub const ROWS: usize = 256;
/// The words of a row: three lines.
pub(super) const ROW_WORDS: usize = 24;
/// The words of a row before the request line: when the request was received, then its thread and the lengths of the
/// line and of the id.
const BEFORE_LINE: usize = 2;
/// The words of a row before the request's id: the first two lines.
const BEFORE_ID: usize = 16;
/// The bytes of a request line that a row holds.
const LINE_BYTES_MAX: usize = (BEFORE_ID - BEFORE_LINE) * 8;
/// The bytes of an id that a row holds. A UUID has 36, and that of a proxy may have up to 128.
const ID_BYTES_MAX: usize = (ROW_WORDS - BEFORE_ID) * 8;
/// How many rows a thread looks at. A thread has a row of its own as a rule.
const LOOKS: usize = 8;

/// A row that a request has.
#[derive(Debug)]
pub struct Row(usize);

/// A request that a thread serves, or served when its process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// The beginning of the request line, as the client sent it.
    pub line: Vec<u8>,
    /// The beginning of the request's id. Empty: it has none.
    pub id: Vec<u8>,
    /// How long ago it was received.
    pub age: Duration,
    /// The number of the thread.
    pub thread: u32,
}

/// Notes a request in a free row.
pub(super) fn note(rows: &[AtomicU64], thread: u32, received_us: u64, line: &[u8], id: &[u8]) -> Option<Row> {
    let first = thread as usize % ROWS;
    let index = (first..first + LOOKS).map(|index| index % ROWS).find(|index| {
        let received = &rows[index * ROW_WORDS];
        // The thread's own row is free as a rule.
        received.load(Ordering::Relaxed) == 0
            && received.compare_exchange(0, received_us.max(1), Ordering::Acquire, Ordering::Relaxed).is_ok()
    })?;
    let row = &rows[index * ROW_WORDS..][..ROW_WORDS];
    let (line, id) = (&line[..line.len().min(LINE_BYTES_MAX)], &id[..id.len().min(ID_BYTES_MAX)]);
    write_bytes(&row[BEFORE_LINE..BEFORE_ID], line);
    write_bytes(&row[BEFORE_ID..], id);
    // The lengths come last. Until then, a reader sees an empty line.
    let lengths = (id.len() as u64) << 16 | line.len() as u64;
    row[1].store(u64::from(thread) << 32 | lengths, Ordering::Release);
    Some(Row(index))
}

/// Writes bytes, which fit into the words.
fn write_bytes(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks();
    for (word, bytes) in words.iter().zip(whole) {
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        words[whole.len()].store(u64::from_ne_bytes(last), Ordering::Relaxed);
    }
}

/// Reads all bytes of the words.
fn read_bytes(words: &[AtomicU64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect()
}

/// Frees a row.
pub(super) fn forget(rows: &[AtomicU64], Row(index): Row) {
    let row = &rows[index * ROW_WORDS..][..ROW_WORDS];
    row[1].store(0, Ordering::Relaxed);
    row[0].store(0, Ordering::Release);
}

/// Returns the requests in all rows, the oldest first.
pub(super) fn inside(rows: &[AtomicU64]) -> Vec<Inside> {
    let mut found: Vec<_> = rows.chunks(ROW_WORDS).filter_map(read).collect();
    found.sort_by_key(|request| std::cmp::Reverse(request.age));
    found
}

/// Reads a row. `None` if it is free, or changes meanwhile.
fn read(row: &[AtomicU64]) -> Option<Inside> {
    let received = row[0].load(Ordering::Acquire);
    let age = age(received)?;
    let about = row[1].load(Ordering::Acquire);
    let (mut line, mut id) = (read_bytes(&row[BEFORE_LINE..BEFORE_ID]), read_bytes(&row[BEFORE_ID..]));
    fence(Ordering::Acquire);
    if row[0].load(Ordering::Relaxed) != received || row[1].load(Ordering::Relaxed) != about {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "the word has three parts")]
    let (thread, id_length, length) = ((about >> 32) as u32, (about >> 16) as u16, about as u16);
    line.truncate(length.into());
    id.truncate(id_length.into());
    Some(Inside { line, id, age, thread })
}
