//! Calls of Python code from which a thread may never come back.
//!
//! *Runs on*: executor threads, with the GIL held. *Invariants*: nothing unwinds through our frames. *Source*:
//! `Py_FinalizeEx`: until `CPython` 3.13 a thread that wants the GIL of an interpreter that is going down is ended by
//! `pthread_exit(3)`, which unwinds its stack. Our frames would give back objects on the way, without the GIL, and then
//! abort the process; so the thread stays where it is instead, until the process has ended.
#![allow(unsafe_code, reason = "pyo3 glue: calls that may unwind")]

use std::hint::black_box;

use pyo3::ffi;
use pyo3::prelude::*;

/// Keeps a thread that unwinds where it is, for ever.
struct Stay;

impl Drop for Stay {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

#[cfg(Py_3_11)]
const VECTORCALL: Vectorcall = ffi::PyObject_Vectorcall;
#[cfg(not(Py_3_11))]
const VECTORCALL: Vectorcall = ffi::PyObject_VectorcallDict;

type Vectorcall = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    libc::size_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;
type UnwindingVectorcall = unsafe extern "C-unwind" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    libc::size_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// Calls `callable` with two arguments at most, `arguments[1..]`; the first place is for the callee to use (PEP 590).
#[inline]
pub fn call<'py, const N: usize>(
    callable: &Bound<'py, PyAny>,
    arguments: &mut [*mut ffi::PyObject; N],
) -> PyResult<Bound<'py, PyAny>> {
    let count = (N - 1) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
    // SAFETY: the same function, which is only said to unwind; the compiler does not see which one it is, or it would
    // believe the declaration. The arguments live throughout; the result is a new reference, or NULL with an exception.
    unsafe {
        let function: UnwindingVectorcall =
            black_box(std::mem::transmute::<Vectorcall, UnwindingVectorcall>(VECTORCALL));
        let stay = Stay;
        let result = function(callable.as_ptr(), arguments.as_ptr().add(1), count, std::ptr::null_mut());
        std::mem::forget(stay);
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}

/// What an iterator gives next; `None` at its end, or with an exception set.
///
/// # Safety
/// `next` is the slot of the iterator's type.
#[inline]
pub(super) unsafe fn next<'py>(next: ffi::iternextfunc, iterator: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: the same function, which is only said to unwind; the iterator is alive, and the result a new reference.
    unsafe {
        let next = std::mem::transmute::<
            ffi::iternextfunc,
            unsafe extern "C-unwind" fn(*mut ffi::PyObject) -> *mut ffi::PyObject,
        >(next);
        let stay = Stay;
        let result = next(iterator.as_ptr());
        std::mem::forget(stay);
        Bound::from_owned_ptr_or_opt(iterator.py(), result)
    }
}
