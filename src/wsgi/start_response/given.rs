//! What the application gives for a response, as Python objects: the status, the fields, a block, an exception.
//!
//! *Owns*: nothing. *Runs on*: any thread of the application, with the GIL held. *Invariants*: bytes are copied or
//! borrowed from an object that cannot change. What PEP 3333 forbids and other servers accept is sent, and said once.
#![allow(unsafe_code, reason = "pyo3 glue: the characters of a str")]

use pyo3::exceptions::{PyBaseException, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::string::PyStringData;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyMemoryView, PyString, PyTraceback, PyTuple};

use crate::http::{HeadError, Pushed, ResponseHead};
use crate::wsgi::call_python;
use crate::wsgi::lapses::{Lapse, Lapses};

/// Reads and checks the fields of an interim response, and writes its head.
pub(super) fn interim_head(status_line: &[u8], headers: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<u8>> {
    // The placeholder `200 OK` serves to check the fields: `ResponseHead` does not accept an interim status.
    let mut checked = ResponseHead::new(b"200 OK").map_err(|error| invalid(&error))?;
    let mut interim = status_line.to_vec();
    if let Some(headers) = headers {
        // Frameworks pass any iterable of pairs here.
        for field in headers.try_iter()? {
            let field = field?;
            let (name, value) = pair(&field)?;
            let (name, value) = (bytes_of(name, "a field name")?, bytes_of(value, "a field value")?);
            checked.push_field(name, value).map_err(|error| invalid(&error))?;
            if !is_for_final_response(name) {
                interim.extend_from_slice(&[name, b": ", value, b"\r\n"].concat());
            }
        }
    }
    interim.extend_from_slice(b"\r\n");
    Ok(interim)
}

/// Returns whether a field belongs to the final response only, because it describes framing or the connection.
fn is_for_final_response(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 7] =
        [b"connection", b"content-length", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"];
    NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Reads, checks and copies the status and the fields that the application gave.
pub(super) fn response_head(
    buffer: Vec<u8>,
    status: &Bound<'_, PyAny>,
    headers: &Bound<'_, PyAny>,
    lapses: &Lapses,
) -> PyResult<ResponseHead> {
    let Ok(text) = status.cast::<PyString>() else {
        return Err(PyTypeError::new_err(format!("the status must be a str, not {}", type_name(status))));
    };
    let mut head = ResponseHead::new_in(buffer, bytes_of(text, "the status")?).map_err(|error| invalid(&error))?;
    if head.status() >= 600 {
        lapses.say(
            Lapse::Status,
            format_args!("the application gives the status {text:?}, which HTTP does not define: it is sent"),
        );
    }
    let listed;
    let list = if let Ok(list) = headers.cast_exact::<PyList>() {
        list
    } else {
        listed = unusual_headers(headers, lapses)?;
        &listed
    };
    for field in list.iter() {
        let converted = (!field.is_instance_of::<PyTuple>()).then(|| unusual_pair(&field, lapses));
        let (name, value) = pair(converted.as_ref().unwrap_or(&field))?;
        let (name, value) = (bytes_of(name, "a field name")?, bytes_of(value, "a field value")?);
        if head.push_field(name, value).map_err(|error| invalid(&error))? == Pushed::Dropped {
            say_dropped(lapses, name, value);
        }
    }
    Ok(head)
}

/// Converts headers that are not a list into a list, because gunicorn and waitress accept any iterable.
#[cold]
fn unusual_headers<'py>(headers: &Bound<'py, PyAny>, lapses: &Lapses) -> PyResult<Bound<'py, PyList>> {
    let wrong = || PyTypeError::new_err(format!("the headers must be a list, not {}", type_name(headers)));
    // Iterating over a str or bytes would give characters or numbers, over a dict its keys.
    let is_other = headers.is_instance_of::<PyString>()
        || headers.is_instance_of::<PyBytes>()
        || headers.is_instance_of::<PyDict>()
        || !headers.hasattr("__iter__")?;
    if is_other {
        return Err(wrong());
    }
    let list = headers.py().get_type::<PyList>();
    let list = call_python(list.as_any(), [headers])?.cast_into::<PyList>()?;
    let kind = type_name(headers);
    lapses
        .say(Lapse::Headers, format_args!("the application gives its headers as {kind}, not as a list: they are sent"));
    Ok(list)
}

/// Converts a header that is a list into a tuple. Returns any other object unchanged.
#[cold]
fn unusual_pair<'py>(field: &Bound<'py, PyAny>, lapses: &Lapses) -> Bound<'py, PyAny> {
    let Ok(list) = field.cast::<PyList>() else { return field.clone() };
    lapses.say(Lapse::Pair, format_args!("the application gives a header as a list, not as a tuple: it is sent"));
    list.to_tuple().into_any()
}

/// Copies the bytes of a `bytearray` or `memoryview`, since they may change during the send. Returns `None` for others.
#[cold]
pub(in super::super) fn buffer_copied<'py>(
    data: &Bound<'py, PyAny>,
    lapses: &Lapses,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    if !data.is_instance_of::<PyByteArray>() && !data.is_instance_of::<PyMemoryView>() {
        return Ok(None);
    }
    let bytes = PyMemoryView::from(data)?.call_method0("tobytes")?.cast_into::<PyBytes>()?;
    let kind = type_name(data);
    lapses.say(
        Lapse::Block,
        format_args!("the application gives blocks of its body as {kind}, not as bytes: they are sent"),
    );
    Ok(Some(bytes))
}

#[cold]
fn say_dropped(lapses: &Lapses, name: &[u8], value: &[u8]) {
    let (printed, value) = (name.escape_ascii(), value.escape_ascii());
    if name.eq_ignore_ascii_case(b"transfer-encoding") {
        lapses.say(
            Lapse::Framing,
            format_args!(
                "the application gives the field '{printed}: {value}', which is dropped: the server frames the body. An \
                 application that frames chunks itself must not: clients get the framing as a part of the body"
            ),
        );
    } else {
        lapses.say(
            Lapse::HopByHop,
            format_args!(
                "the application gives the hop-by-hop field '{printed}: {value}', which is dropped: PEP 3333 leaves these \
                 to the server"
            ),
        );
    }
}

/// Logs that the application gave a body with a status that has none.
#[cold]
pub(in super::super) fn say_body(lapses: &Lapses) {
    lapses.say(
        Lapse::Body,
        format_args!("the application gives a body with a status that has none (204, 205, 304): it is dropped"),
    );
}

/// Returns the two strings of a header tuple.
#[inline]
fn pair<'a, 'py>(field: &'a Bound<'py, PyAny>) -> PyResult<(&'a Bound<'py, PyString>, &'a Bound<'py, PyString>)> {
    let wrong = || PyTypeError::new_err("each header must be a tuple of two str");
    let tuple = field.cast::<PyTuple>().map_err(|_| wrong())?;
    let [name, value] = tuple.as_slice() else { return Err(wrong()) };
    match (name.cast::<PyString>(), value.cast::<PyString>()) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(PyTypeError::new_err(format!(
            "each header must be a tuple of two str, not of {} and {}",
            type_name(name),
            type_name(value)
        ))),
    }
}

/// Returns the characters of a `str` as bytes of latin-1. Fails if it has others.
#[inline]
fn bytes_of<'a>(text: &'a Bound<'_, PyString>, what: &str) -> PyResult<&'a [u8]> {
    // SAFETY: a str never changes once it is made, and the slice borrows the reference that keeps it alive.
    match unsafe { text.data() }? {
        PyStringData::Ucs1(bytes) => Ok(bytes),
        _ => Err(PyValueError::new_err(format!("{what} has characters beyond latin-1"))),
    }
}

/// Returns the exception of an `exc_info` tuple, with its traceback, to raise it again.
pub(super) fn exception(py: Python<'_>, exc_info: Option<&Bound<'_, PyAny>>) -> PyResult<PyErr> {
    let wrong = || PyTypeError::new_err("exc_info must be a tuple (type, value, traceback)");
    let tuple = exc_info.ok_or_else(wrong)?.cast::<PyTuple>().map_err(|_| wrong())?;
    let value = tuple.get_item(1).map_err(|_| wrong())?;
    if !value.is_instance_of::<PyBaseException>() {
        return Err(wrong());
    }
    let error = PyErr::from_value(value);
    if let Ok(traceback) = tuple.get_item(2)
        && let Ok(traceback) = traceback.cast_into::<PyTraceback>()
    {
        error.set_traceback(py, Some(traceback));
    }
    Ok(error)
}

fn invalid(error: &HeadError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Returns the name of an object's type, for messages.
pub(in super::super) fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "something else".to_owned(), |name| name.to_string())
}
