//! `wsgi.input`: the request's body as a file.
//!
//! *Owns*: one request's body. *Runs on*: the application's thread that reads it; waits and file reads release the GIL.
//! *Invariants*: reading ends at the end of the body and never waits for later bytes. A method that the application
//! calls, `close()` included, changes only the position in this object. *Source*: PEP 3333 "Input and Error Streams";
//! `io.BufferedIOBase` of the Python library.

use std::io;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyMemoryView, PySlice, PyTuple};

use crate::handler::{self, RequestBody};
use crate::spool::{Content, Share, SpoolFile};
use crate::stdlib;

/// The number of bytes that one read of a file or of the client asks for.
const FILL_BYTES: usize = 64 * 1024;

/// The body as a file.
#[pyclass(module = "maypole", name = "InputStream")]
pub(super) struct InputStream {
    /// Bytes that have been read from the source. The application has read those before `at`.
    buffer: Vec<u8>,
    /// The application's position in the buffer. A `seek` may set it beyond the end of a body in memory.
    at: usize,
    /// The buffer's share of the memory limit for all bodies.
    _share: Option<Share>,
    source: Source,
}

enum Source {
    /// The buffer is the whole body, which the application may read again.
    Memory,
    /// The part of a file that has not been read.
    File { file: Box<SpoolFile>, at: u64, end: u64 },
    /// A body that is still being received.
    Streamed(handler::Input),
}

impl InputStream {
    pub(super) fn new(body: RequestBody) -> Self {
        let (buffer, share, source) = match body {
            RequestBody::Empty => (Vec::new(), None, Source::Memory),
            RequestBody::Streamed(input) => (Vec::new(), None, Source::Streamed(input)),
            RequestBody::Complete(spool) => {
                let end = spool.len();
                match spool.into_content() {
                    Content::Memory(bytes, share) => (bytes, Some(share), Source::Memory),
                    Content::File(file) => (Vec::new(), None, Source::File { file, at: 0, end }),
                }
            }
        };
        Self { buffer, at: 0, _share: share, source }
    }

    /// Returns the bytes of the buffer that the application has not read.
    fn unread(&self) -> &[u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }

    fn buffered(&self) -> usize {
        self.unread().len()
    }

    /// Takes bytes out of the buffer.
    fn take<'py>(&mut self, py: Python<'py>, bytes: usize) -> Bound<'py, PyBytes> {
        let bytes = bytes.min(self.buffered());
        let taken = PyBytes::new(py, &self.unread()[..bytes]);
        self.at += bytes;
        if self.at == self.buffer.len() && !matches!(self.source, Source::Memory) {
            self.buffer.clear();
            self.at = 0;
        }
        taken
    }

    /// Reads more into the buffer. Returns false at the end of the body.
    fn fill(&mut self, py: Python<'_>) -> io::Result<bool> {
        if matches!(self.source, Source::Memory) {
            return Ok(false);
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        let (buffer, source) = (&mut self.buffer, &mut self.source);
        let old = buffer.len();
        buffer.resize(old + FILL_BYTES, 0);
        let read = py.detach(|| match source {
            Source::Memory => Ok(0),
            Source::Streamed(input) => input.read_waiting(&mut buffer[old..]),
            Source::File { file, at, end } => {
                let wanted = left(*at, *end).min(FILL_BYTES);
                file.read_exact_at(&mut buffer[old..old + wanted], *at)?;
                *at += wanted as u64;
                Ok(wanted)
            }
        });
        self.buffer.truncate(old + read.as_ref().copied().unwrap_or(0));
        Ok(read? > 0)
    }

    /// Returns the application's position in the body; `None` if the body is streamed.
    fn position(&self) -> Option<u64> {
        match &self.source {
            Source::Memory => Some(self.at as u64),
            Source::File { at, .. } => Some(*at - self.buffered() as u64),
            Source::Streamed(_) => None,
        }
    }

    /// Returns a line of at most `limit` bytes, with its newline; empty at the end of the body.
    fn line<'py>(&mut self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyBytes>> {
        let mut searched = 0;
        loop {
            let window = self.unread();
            let window = &window[..window.len().min(limit)];
            if let Some(newline) = memchr::memchr(b'\n', &window[searched..]) {
                return Ok(self.take(py, searched + newline + 1));
            }
            searched = window.len();
            if searched == limit || !self.fill(py)? {
                return Ok(self.take(py, searched));
            }
        }
    }
}

/// Returns the number of bytes from `at` to `end`.
fn left(at: u64, end: u64) -> usize {
    usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX)
}

/// Makes `io.UnsupportedOperation`, for an operation that a stream does not support.
pub(super) fn unsupported(py: Python<'_>, sentence: &'static str) -> PyErr {
    let kind = stdlib::get(py).and_then(|stdlib| stdlib.io.bind(py).getattr("UnsupportedOperation"));
    kind.and_then(|kind| kind.call1((sentence,))).map_or_else(|error| error, PyErr::from_value)
}

/// Returns the limit in bytes for a `size` argument. `None` and negative sizes mean no limit.
fn limit(size: Option<isize>) -> usize {
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX)
}

#[pymethods]
#[allow(clippy::unused_self, reason = "methods of a Python object")]
impl InputStream {
    #[pyo3(signature = (size=None, /))]
    fn read<'py>(&mut self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        let limit = limit(size);
        let buffered = self.buffered();
        if limit <= buffered {
            return Ok(self.take(py, limit));
        }
        if let Source::File { file, at, end } = &mut self.source {
            let missing = left(*at, *end).min(limit - buffered);
            // Read small sizes through the buffer, large ones directly into the `bytes` object.
            if buffered > 0 || missing >= FILL_BYTES {
                let head = &self.buffer[self.at..];
                let bytes = PyBytes::new_with(py, buffered + missing, |to| {
                    to[..buffered].copy_from_slice(head);
                    let to = &mut to[buffered..];
                    py.detach(|| file.read_exact_at(to, *at))?;
                    Ok(())
                })?;
                *at += missing as u64;
                self.buffer.clear();
                self.at = 0;
                return Ok(bytes);
            }
        }
        while self.buffered() < limit && self.fill(py)? {}
        Ok(self.take(py, limit))
    }

    #[pyo3(signature = (size=None, /))]
    fn readline<'py>(&mut self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.line(py, limit(size))
    }

    #[pyo3(signature = (hint=None, /))]
    fn readlines<'py>(&mut self, py: Python<'py>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        // 0 means no limit, as for files.
        let hint = hint.filter(|&hint| hint > 0).and_then(|hint| usize::try_from(hint).ok()).unwrap_or(usize::MAX);
        let lines = PyList::empty(py);
        let mut bytes = 0;
        while bytes < hint {
            let line = self.line(py, usize::MAX)?;
            let len = line.as_bytes().len();
            if len == 0 {
                break;
            }
            bytes += len;
            lines.append(line)?;
        }
        Ok(lines)
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = self.line(py, usize::MAX)?;
        Ok((!line.as_bytes().is_empty()).then_some(line))
    }

    /// Prepares to receive another chunked body after the current one has been read to its end. Clients of multi-phase
    /// protocols send one after each `100 Continue`. Returns whether that is possible: the body must be chunked and
    /// streamed.
    fn reopen(&self) -> bool {
        match &self.source {
            Source::Streamed(input) => input.reopen(),
            Source::Memory | Source::File { .. } => false,
        }
    }

    /// Returns at most `size` received bytes. Waits for at least one byte, unless the body has ended.
    #[pyo3(signature = (size=None, /))]
    fn read1<'py>(&mut self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        let limit = limit(size);
        if limit > 0 && self.buffered() == 0 {
            self.fill(py)?;
        }
        Ok(self.take(py, limit))
    }

    /// Copies bytes of the body into a buffer of the application and returns their number. If the body is still being
    /// received, the bytes received so far are enough.
    fn readinto(&mut self, py: Python<'_>, buffer: &Bound<'_, PyAny>) -> PyResult<usize> {
        let view = PyMemoryView::from(buffer)?.call_method1("cast", ("B",))?;
        let size = isize::try_from(view.len()?).ok();
        let data = match self.source {
            Source::Streamed(_) => self.read1(py, size)?,
            Source::Memory | Source::File { .. } => self.read(py, size)?,
        };
        let len = data.len()?;
        view.set_item(PySlice::new(py, 0, len.cast_signed(), 1), data)?;
        Ok(len)
    }

    /// Does what `readinto` does, with at most one read of a file.
    fn readinto1(&mut self, py: Python<'_>, buffer: &Bound<'_, PyAny>) -> PyResult<usize> {
        let view = PyMemoryView::from(buffer)?.call_method1("cast", ("B",))?;
        let data = self.read1(py, isize::try_from(view.len()?).ok())?;
        let len = data.len()?;
        view.set_item(PySlice::new(py, 0, len.cast_signed(), 1), data)?;
        Ok(len)
    }

    fn tell(&self, py: Python<'_>) -> PyResult<u64> {
        self.position().ok_or_else(|| unsupported(py, "the body is still being received"))
    }

    /// Moves the position of a complete body by `offset` from the start, the position or the end. Returns the new one.
    #[pyo3(signature = (offset, whence=0, /))]
    fn seek(&mut self, py: Python<'_>, offset: i64, whence: i32) -> PyResult<u64> {
        let position = self.tell(py)?;
        let from = match (whence, &self.source) {
            (0, _) => 0,
            (1, _) => position,
            (2, Source::File { end, .. }) => *end,
            (2, _) => self.buffer.len() as u64,
            _ => return Err(PyValueError::new_err(format!("whence must be 0, 1 or 2, not {whence}"))),
        };
        let Some(position) = from.checked_add_signed(offset) else {
            return Err(PyValueError::new_err("the position would be negative"));
        };
        if let Source::File { at, .. } = &mut self.source {
            self.buffer.clear();
            (self.at, *at) = (0, position);
        } else if !self.buffer.is_empty() {
            self.at = usize::try_from(position).unwrap_or(usize::MAX);
        } else {
            // All requests without a body share one object, so its position must not change.
            return Ok(0);
        }
        Ok(position)
    }

    /// Does nothing, because the server closes the body. A framework can still read after a library has called
    /// `close()`.
    fn close(&self) {}

    fn flush(&self) {}

    #[getter]
    fn closed(&self) -> bool {
        false
    }

    fn readable(&self) -> bool {
        true
    }

    fn writable(&self) -> bool {
        false
    }

    /// Returns whether `seek` and `tell` work: the body is complete.
    fn seekable(&self) -> bool {
        self.position().is_some()
    }

    fn isatty(&self) -> bool {
        false
    }

    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Err(unsupported(py, "the body has no descriptor"))
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {}
}
