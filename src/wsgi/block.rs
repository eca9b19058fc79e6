//! Blocks of a response that stay in Python's memory.
//!
//! *Owns*: the queue of `bytes` objects that have been sent. *Runs on*: blocks are made on threads that hold the GIL
//! and dropped on any thread; threads that hold the GIL empty the queue. *Invariants*: an object is released exactly
//! once, and only with the GIL held.
#![allow(unsafe_code, reason = "pyo3 glue: keeps bytes objects alive without the GIL")]

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::queue::SegQueue;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::handler::{Block, Lent};

/// Blocks up to this size are copied. Keeping the object costs some 25 ns (`benches/call.rs`), which is what copying 1
/// KiB costs; a copy of 4 KiB costs 500 ns, most of it in the allocator.
const COPIED_BYTES_MAX: usize = 1024;

/// Objects to be released, and how many bytes they keep.
static RELEASED: SegQueue<Released> = SegQueue::new();
static RELEASED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Blocks that exist, and the bytes of all blocks that ever ceased to.
static LENT: AtomicUsize = AtomicUsize::new(0);
static RELEASED_EVER: AtomicUsize = AtomicUsize::new(0);

struct Released(*mut ffi::PyObject);
// SAFETY: only a pointer; every user of it holds the GIL.
unsafe impl Send for Released {}

/// A part of a `bytes` object, and a strong reference to it.
struct SharedBytes {
    object: *mut ffi::PyObject,
    data: *const u8,
    len: usize,
}
// SAFETY: a bytes object never changes, so its data may be read on any thread; the reference is given back through the
// queue, not here.
unsafe impl Send for SharedBytes {}

impl Lent for SharedBytes {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the data lives as long as the object, and this value holds a reference to it.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }

    #[cfg(not(Py_GIL_DISABLED))]
    fn is_ours_alone(&self) -> bool {
        // SAFETY: the object is alive. The count may change meanwhile, so the answer is a guess, as it is meant to be.
        unsafe { ffi::Py_REFCNT(self.object) == 1 }
    }

    #[cfg(Py_GIL_DISABLED)]
    fn is_ours_alone(&self) -> bool {
        // The count stands in two places there, which cannot be read together.
        false
    }
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        // Counted after it was queued: a thread that sees the count finds the object. A block is never empty.
        LENT.fetch_sub(1, Ordering::Relaxed);
        RELEASED_EVER.fetch_add(self.len, Ordering::Relaxed);
        RELEASED.push(Released(self.object));
        RELEASED_BYTES.fetch_add(self.len.max(1), Ordering::Release);
    }
}

/// A block of the first `len` bytes of `bytes`.
pub(super) fn block(bytes: &Bound<'_, PyBytes>, len: usize) -> Block {
    let data = bytes.as_bytes();
    let data = &data[..len.min(data.len())];
    if data.len() <= COPIED_BYTES_MAX {
        return Block::Owned(data.to_vec());
    }
    let (data, len) = (data.as_ptr(), data.len());
    LENT.fetch_add(1, Ordering::Relaxed);
    Block::Shared(Box::new(SharedBytes { object: bytes.clone().into_ptr(), data, len }))
}

/// Whether a block of this size is copied.
pub(super) fn is_copied(len: usize) -> bool {
    len <= COPIED_BYTES_MAX
}

/// How many bytes of response blocks wait for `release`; 0 when there is nothing to release.
pub fn release_pending() -> usize {
    RELEASED_BYTES.load(Ordering::Acquire)
}

/// How many blocks keep objects alive.
pub(super) fn lent_total() -> usize {
    LENT.load(Ordering::Relaxed)
}

/// How many bytes all blocks kept alive that have been sent, since the process began; it wraps around.
pub(super) fn released_total() -> usize {
    RELEASED_EVER.load(Ordering::Relaxed)
}

/// Releases the objects of all blocks that have been sent.
pub fn release(_py: Python<'_>) {
    // Taken before the objects: what is queued meanwhile is counted again, and found the next time at the latest.
    if RELEASED_BYTES.load(Ordering::Relaxed) == 0 || RELEASED_BYTES.swap(0, Ordering::AcqRel) == 0 {
        return;
    }
    while let Some(Released(object)) = RELEASED.pop() {
        // SAFETY: the GIL is held, and the block that owned this reference is gone.
        unsafe { ffi::Py_DECREF(object) };
    }
}
