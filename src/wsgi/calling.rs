//! Calls of Python code with the least overhead.
//!
//! *Runs on*: threads that hold the GIL. *Invariants*: if the interpreter ends a thread during such a call, the thread
//! is not unwound (`sys::Stays`). *Source*: PEP 590.
#![allow(unsafe_code, reason = "pyo3 glue: vectorcall, and the slot of an iterator")]

use pyo3::ffi;
use pyo3::prelude::*;

/// Two arguments at most, and one slot before them that the callee may use (`PY_VECTORCALL_ARGUMENTS_OFFSET`).
const PLACES: usize = 3;

/// Calls `callable` with at most two arguments.
#[inline]
pub fn call<'py, const N: usize>(
    callable: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    const { assert!(N < PLACES, "more arguments than places") };
    let mut places = [std::ptr::null_mut(); PLACES];
    for (place, argument) in places[1..].iter_mut().zip(arguments) {
        *place = argument.as_ptr();
    }
    let count = N | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
    // SAFETY: the arguments live throughout, and there is a place before them; the result is a new reference, or NULL
    // with an exception.
    unsafe {
        #[cfg(Py_3_11)]
        let call = ffi::PyObject_Vectorcall;
        #[cfg(not(Py_3_11))]
        let call = ffi::PyObject_VectorcallDict;
        let result = call(callable.as_ptr(), places.as_ptr().add(1), count, std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}

/// Returns the iterator's next item; `None` at its end, or with an exception set.
///
/// # Safety
/// `next` is the slot of the iterator's type.
#[inline]
pub(super) unsafe fn next<'py>(next: ffi::iternextfunc, iterator: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: the iterator is alive, and the result a new reference.
    unsafe { Bound::from_owned_ptr_or_opt(iterator.py(), next(iterator.as_ptr())) }
}
