//! The blocks of the application's iterable: taken one by one, or all at once if it is a list, a tuple or a file.
//!
//! *Owns*: nothing. *Runs on*: an executor thread, with the GIL held except while it waits for a slow client. *Source*:
//! PEP 3333 "Handling the Content-Length Header", "Buffering and Streaming".
#![allow(unsafe_code, reason = "pyo3 glue: iteration")]

use std::sync::Arc;

use pyo3::exceptions::{PyAssertionError, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::handler::Block;
use crate::wsgi::file_wrapper::FileWrapper;
use crate::wsgi::start_response::{Empty, Handed, StartResponse, buffer_copied, type_name};
use crate::wsgi::{block, calling};

/// A list with more bytes than this is sent block by block, so that the response to a slow client can wait on disk.
const AT_ONCE_BYTES_MAX: u64 = 1024 * 1024;

/// The body that the application's iterable produced.
pub(super) enum Body {
    /// All blocks are known, and none has been sent.
    Whole { first: Option<Block>, rest: Vec<Block>, bytes: u64 },
    /// All blocks have been handed over, one by one.
    Sent,
    /// The application has suspended the response.
    Suspended(Unfinished),
}

/// What a part of an iteration has come to.
pub(super) enum Step {
    /// All blocks have been handed over.
    Sent,
    /// The application has suspended the response.
    Suspended,
}

/// An iteration that is not at its end.
pub(super) struct Unfinished {
    /// What the application returned.
    pub(super) iterable: Py<PyAny>,
    iterator: Py<PyAny>,
    /// The slot of the iterator's type.
    next: ffi::iternextfunc,
    /// Whether the next block is the only one.
    has_one: bool,
}

impl Unfinished {
    /// Hands over further blocks.
    pub(super) fn go_on(&self, py: Python<'_>, response: &StartResponse) -> PyResult<Step> {
        blocks(self.iterator.bind(py), self.next, self.has_one, response)
    }
}

/// Returns the body of an exact list or tuple, or of a file. Reading one runs no Python code of the application.
pub(super) fn listed(iterable: &Bound<'_, PyAny>, response: &StartResponse) -> Option<PyResult<Body>> {
    if let Ok(list) = iterable.cast_exact::<PyList>() {
        if list.len() == 1 {
            let item = list.get_item(0).ok()?;
            return Some(whole(std::slice::from_ref(&item), response));
        }
        let items: Vec<_> = list.iter().collect();
        return Some(whole(&items, response));
    }
    if let Ok(tuple) = iterable.cast_exact::<PyTuple>() {
        return Some(whole(tuple.as_slice(), response));
    }
    let wrapper = iterable.cast_exact::<FileWrapper>().ok()?;
    {
        let state = response.lock();
        if state.head.is_none() || state.head_sent {
            return None;
        }
    }
    let part = wrapper.get().part(iterable.py())?;
    let bytes = response.lock().missing().map_or(part.bytes, |missing| missing.min(part.bytes));
    let first = Block::File { file: Arc::new(part.file), offset: part.offset, bytes };
    Some(Ok(Body::Whole { first: (bytes > 0).then_some(first), rest: Vec::new(), bytes }))
}

fn whole(items: &[Bound<'_, PyAny>], response: &StartResponse) -> PyResult<Body> {
    let mut bytes = 0;
    for item in items {
        let Ok(item) = item.cast::<PyBytes>() else {
            let all =
                items.iter().map(|item| Ok(block_bytes(item, response)?.into_any())).collect::<PyResult<Vec<_>>>()?;
            return whole(&all, response);
        };
        bytes += item.as_bytes().len() as u64;
    }
    let (missing, buffer) = {
        let mut state = response.lock();
        if state.head.is_none() && !state.head_sent {
            return Err(not_started());
        }
        ((!state.head_sent).then(|| state.missing()), std::mem::take(&mut state.buffers.body))
    };
    let fits = |missing: Option<u64>| missing.is_none_or(|missing| bytes <= missing);
    match missing {
        // A body that is sent at once is checked against Content-Length here. `send` counts all others.
        Some(missing) if fits(missing) && (items.len() == 1 || bytes <= AT_ONCE_BYTES_MAX) => {
            Ok(together(items, bytes, buffer))
        }
        _ => {
            for item in items {
                if let Ok(item) = item.cast::<PyBytes>()
                    && !hand_over(item, response, Some(bytes))?
                {
                    break;
                }
            }
            Ok(Body::Sent)
        }
    }
}

/// Combines checked items into as few blocks as possible: copies adjacent small items into one buffer.
fn together(items: &[Bound<'_, PyAny>], bytes: u64, mut copied: Vec<u8>) -> Body {
    let (mut first, mut rest) = (None, Vec::new());
    let mut push = |block: Block| {
        if first.is_none() {
            first = Some(block);
        } else {
            rest.push(block);
        }
    };
    for item in items {
        let Ok(item) = item.cast::<PyBytes>() else { continue };
        let data = item.as_bytes();
        if block::is_copied(data.len()) {
            copied.extend_from_slice(data);
            continue;
        }
        if !copied.is_empty() {
            push(Block::Owned(std::mem::take(&mut copied)));
        }
        push(block::block(item, data.len()));
    }
    if !copied.is_empty() {
        push(Block::Owned(copied));
    }
    Body::Whole { first, rest, bytes }
}

/// Iterates, and hands each block over before it asks for the next block.
pub(super) fn iterated(iterable: &Bound<'_, PyAny>, response: &StartResponse) -> PyResult<Body> {
    let has_one = has_one_block(iterable);
    let iterator = iterable.try_iter()?;
    // SAFETY: `PyObject_GetIter` returns only objects whose type has this slot.
    let Some(next) = (unsafe { (*ffi::Py_TYPE(iterator.as_ptr())).tp_iternext }) else {
        return Err(PyTypeError::new_err("the application's iterator cannot be iterated"));
    };
    Ok(match blocks(iterator.as_any(), next, has_one, response)? {
        Step::Sent => Body::Sent,
        Step::Suspended => {
            let (iterable, iterator) = (iterable.clone().unbind(), iterator.into_any().unbind());
            Body::Suspended(Unfinished { iterable, iterator, next, has_one })
        }
    })
}

/// Hands each block of an iterator over before it asks for the next block. `next` is the slot of the iterator's type.
fn blocks(
    iterator: &Bound<'_, PyAny>,
    next: ffi::iternextfunc,
    has_one: bool,
    response: &StartResponse,
) -> PyResult<Step> {
    let py = iterator.py();
    loop {
        // SAFETY: it is the slot of the iterator's type.
        let Some(item) = (unsafe { calling::next(next, iterator) }) else {
            return match PyErr::take(py) {
                Some(error) if !error.is_instance_of::<PyStopIteration>(py) => Err(error),
                _ => Ok(Step::Sent),
            };
        };
        let copied;
        let bytes = if let Ok(bytes) = item.cast::<PyBytes>() {
            bytes
        } else {
            copied = block_bytes(&item, response)?;
            &copied
        };
        let len = bytes.as_bytes().len();
        if len == 0 {
            match response.empty_block(py) {
                Empty::Next => continue,
                Empty::End => return Ok(Step::Sent),
                Empty::NotStarted => return Err(not_started()),
                Empty::Suspended => return Ok(Step::Suspended),
            }
        }
        if !hand_over(bytes, response, has_one.then_some(len as u64))? {
            return Ok(Step::Sent);
        }
    }
}

/// Returns the bytes of a block. Copies a `bytearray` or `memoryview`, and fails for other types.
#[cold]
fn block_bytes<'py>(item: &Bound<'py, PyAny>, response: &StartResponse) -> PyResult<Bound<'py, PyBytes>> {
    match item.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.clone()),
        Err(_) => buffer_copied(item, response.lapses())?.ok_or_else(|| not_bytes(item)),
    }
}

/// Hands a block over. Returns whether to go on with the next.
fn hand_over(bytes: &Bound<'_, PyBytes>, response: &StartResponse, body_bytes: Option<u64>) -> PyResult<bool> {
    if bytes.as_bytes().is_empty() {
        return Ok(true);
    }
    match response.send(bytes, body_bytes) {
        Handed::Over => Ok(true),
        Handed::Full | Handed::Gone | Handed::Ended => Ok(false),
        Handed::NotStarted => Err(not_started()),
    }
}

/// Returns whether an iterable's `len()` is 1. The length of its only block is then the body's length (PEP 3333).
fn has_one_block(iterable: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the type of a live object; its slots are read, with NULL where there are none.
    let has_len = unsafe {
        let kind = &*ffi::Py_TYPE(iterable.as_ptr());
        let sequence = kind.tp_as_sequence.as_ref().is_some_and(|slots| slots.sq_length.is_some());
        sequence || kind.tp_as_mapping.as_ref().is_some_and(|slots| slots.mp_length.is_some())
    };
    has_len && iterable.len().is_ok_and(|len| len == 1)
}

pub(super) fn not_started() -> PyErr {
    PyAssertionError::new_err("the application did not call start_response() before its body")
}

fn not_bytes(item: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!("the application's iterable must give bytes, not {}", type_name(item)))
}
