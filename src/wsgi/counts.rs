//! Checks that all references to an object are known.
//!
//! *Runs on*: the thread that made the object, attached to the interpreter. *Invariants*: a "yes" is certain: no other
//! thread has a reference, so none can make another one. *Source*: PEP 703 "Biased Reference Counting".
#![allow(unsafe_code, reason = "pyo3 glue: reference counts")]

use pyo3::ffi;

/// The thread that owns an object, as `CPython` writes it into the object. A Python with a GIL has no such word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner(#[cfg(Py_GIL_DISABLED)] usize);

impl Owner {
    /// Returns the owner of an object that the calling thread has just made.
    ///
    /// # Safety
    /// The object is alive.
    #[cfg_attr(not(Py_GIL_DISABLED), allow(unused_variables, reason = "there is nothing to read"))]
    pub(super) unsafe fn of(object: *mut ffi::PyObject) -> Self {
        // SAFETY: the object is alive; the word changes only when its owner gives it up.
        #[cfg(Py_GIL_DISABLED)]
        return Self(unsafe { (*object).ob_tid });
        #[cfg(not(Py_GIL_DISABLED))]
        Self()
    }

    /// Returns whether `object` has exactly `count` references, all of them made by its owner.
    ///
    /// # Safety
    /// The object is alive, and the calling thread is its owner or holds the GIL.
    #[inline]
    pub(super) unsafe fn has_all(self, object: *mut ffi::PyObject, count: ffi::Py_ssize_t) -> bool {
        // SAFETY: the object is alive. Only its owner changes the first two words, and that is this thread.
        #[cfg(Py_GIL_DISABLED)]
        unsafe {
            use std::sync::atomic::Ordering::Relaxed;
            // The shared count and its flags are 0 as long as no other thread has had a reference.
            (*object).ob_tid == self.0
                && (*object).ob_ref_shared.load(Relaxed) == 0
                && ffi::Py_ssize_t::try_from((*object).ob_ref_local.load(Relaxed)) == Ok(count)
        }
        #[cfg(not(Py_GIL_DISABLED))]
        {
            let Self() = self;
            // SAFETY: the object is alive.
            unsafe { ffi::Py_REFCNT(object) == count }
        }
    }
}
