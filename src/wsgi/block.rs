//! Blocks of a response that stay in Python's memory.
//!
//! *Owns*: the queue of sent `bytes` objects. *Runs on*: a thread that holds the GIL makes a block, any thread may drop
//! it, and a thread that holds the GIL empties the queue. *Invariants*: an object is released exactly once, and only
//! with the GIL held.
#![allow(unsafe_code, reason = "pyo3 glue: keeps bytes objects alive without the GIL")]

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::queue::SegQueue;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::handler::{Block, SharedBytes};

/// Blocks of at most this many bytes are copied. Keeping the object costs about 25 ns (`benches/call.rs`), the same as
/// a copy of 1 KiB. A copy of 4 KiB costs 500 ns, most of it in the allocator.
const COPIED_BYTES_MAX: usize = 1024;

/// The objects to release; below, the number of bytes that they keep in memory.
static RELEASED: SegQueue<Released> = SegQueue::new();
static RELEASED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The number of shared blocks alive; below, the bytes of all dropped ones since the process began.
static LENT: AtomicUsize = AtomicUsize::new(0);
static RELEASED_EVER: AtomicUsize = AtomicUsize::new(0);

struct Released(*mut ffi::PyObject);
// SAFETY: only a pointer; every user of it holds the GIL.
unsafe impl Send for Released {}

/// A part of a `bytes` object, and a strong reference to it.
struct PythonBytes {
    object: *mut ffi::PyObject,
    data: *const u8,
    len: usize,
}
// SAFETY: a bytes object never changes, so its data may be read on any thread; the reference is given back through the
// queue, not here.
unsafe impl Send for PythonBytes {}

impl SharedBytes for PythonBytes {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the data lives as long as the object, and this value holds a reference to it.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }

    #[cfg(not(Py_GIL_DISABLED))]
    fn is_ours_alone(&self) -> bool {
        // SAFETY: the object is alive. The count may change meanwhile, so the result is a guess, as it is meant to be.
        unsafe { ffi::Py_REFCNT(self.object) == 1 }
    }

    #[cfg(Py_GIL_DISABLED)]
    fn is_ours_alone(&self) -> bool {
        // A free-threaded Python splits the count into two words, which cannot be read atomically together.
        false
    }
}

impl Drop for PythonBytes {
    fn drop(&mut self) {
        // Add to RELEASED_BYTES only after the push: a thread that sees the new count then finds the object.
        LENT.fetch_sub(1, Ordering::Relaxed);
        RELEASED_EVER.fetch_add(self.len, Ordering::Relaxed);
        RELEASED.push(Released(self.object));
        RELEASED_BYTES.fetch_add(self.len.max(1), Ordering::Release);
    }
}

/// Makes a block of the first `len` bytes of `bytes`.
pub(super) fn block(bytes: &Bound<'_, PyBytes>, len: usize) -> Block {
    let data = bytes.as_bytes();
    let data = &data[..len.min(data.len())];
    if data.len() <= COPIED_BYTES_MAX {
        return Block::Owned(data.to_vec());
    }
    let (data, len) = (data.as_ptr(), data.len());
    LENT.fetch_add(1, Ordering::Relaxed);
    Block::Shared(Box::new(PythonBytes { object: bytes.clone().into_ptr(), data, len }))
}

/// Returns whether a block of `len` bytes is copied.
pub(super) fn is_copied(len: usize) -> bool {
    len <= COPIED_BYTES_MAX
}

/// Returns how many bytes of response blocks wait for `release`; 0 if no block waits.
pub fn release_pending() -> usize {
    RELEASED_BYTES.load(Ordering::Acquire)
}

/// Returns the number of blocks that keep a Python object alive.
pub(super) fn lent_total() -> usize {
    LENT.load(Ordering::Relaxed)
}

/// Returns the total bytes of all shared blocks dropped since the process began. The total wraps around.
pub(super) fn released_total() -> usize {
    RELEASED_EVER.load(Ordering::Relaxed)
}

/// Releases the objects of all sent blocks.
pub fn release(_py: Python<'_>) {
    // Reset the count before taking the objects: an object queued meanwhile raises it again, so the next call finds it.
    if RELEASED_BYTES.load(Ordering::Relaxed) == 0 || RELEASED_BYTES.swap(0, Ordering::AcqRel) == 0 {
        return;
    }
    while let Some(Released(object)) = RELEASED.pop() {
        // SAFETY: the GIL is held, and the block that owned this reference is gone.
        unsafe { ffi::Py_DECREF(object) };
    }
}
