//! `wsgi.input`: the request's body as a file.
//!
//! *Owns*: one request's body. *Runs on*: the thread of the application that reads it; waits, and reads of files, with
//! the GIL released. *Invariants*: reading ends with the body and never waits for anything after it. *Source*:
//! PEP 3333 "Input and Error Streams".

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::handler::{self, RequestBody};
use crate::spool::{Content, Share};

/// How much is read at once from a file or from the client.
const FILL_BYTES: usize = 64 * 1024;

/// The body as a file.
#[pyclass(module = "maypole", name = "InputStream")]
pub(super) struct InputStream {
    /// Bytes that have been read from the source; the application has had those before `at`.
    buffer: Vec<u8>,
    at: usize,
    /// What the buffer has of the memory that bodies share.
    share: Option<Share>,
    source: Source,
}

enum Source {
    /// Everything is in the buffer.
    Ended,
    /// The part of a file that has not been read.
    File { file: File, at: u64, end: u64 },
    /// A body that is still coming.
    Streamed(handler::Input),
}

impl InputStream {
    pub(super) fn new(body: RequestBody) -> Self {
        let (buffer, share, source) = match body {
            RequestBody::Empty => (Vec::new(), None, Source::Ended),
            RequestBody::Streamed(input) => (Vec::new(), None, Source::Streamed(input)),
            RequestBody::Complete(spool) => {
                let end = spool.len();
                match spool.into_content() {
                    Content::Memory(bytes, share) => (bytes, Some(share), Source::Ended),
                    Content::File(file) => (Vec::new(), None, Source::File { file, at: 0, end }),
                }
            }
        };
        Self { buffer, at: 0, share, source }
    }

    fn buffered(&self) -> usize {
        self.buffer.len() - self.at
    }

    /// Takes bytes out of the buffer.
    fn take<'py>(&mut self, py: Python<'py>, bytes: usize) -> Bound<'py, PyBytes> {
        let end = self.at + bytes.min(self.buffered());
        let taken = PyBytes::new(py, &self.buffer[self.at..end]);
        self.at = end;
        if self.at == self.buffer.len() {
            self.at = 0;
            // A large body's memory goes as soon as it has been read.
            if self.buffer.capacity() > 4 * FILL_BYTES {
                self.buffer = Vec::new();
                self.share = None;
            } else {
                self.buffer.clear();
            }
        }
        taken
    }

    /// Reads more into the buffer; false at the end of the body.
    fn fill(&mut self, py: Python<'_>) -> io::Result<bool> {
        if matches!(self.source, Source::Ended) {
            return Ok(false);
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        let (buffer, source) = (&mut self.buffer, &mut self.source);
        let old = buffer.len();
        buffer.resize(old + FILL_BYTES, 0);
        let read = py.detach(|| match source {
            Source::Ended => Ok(0),
            Source::Streamed(input) => input.read_waiting(&mut buffer[old..]),
            Source::File { file, at, end } => {
                let wanted = usize::try_from(*end - *at).unwrap_or(usize::MAX).min(FILL_BYTES);
                file.read_exact_at(&mut buffer[old..old + wanted], *at)?;
                *at += wanted as u64;
                Ok(wanted)
            }
        });
        let (bytes, result) = match read {
            Ok(bytes) => (bytes, Ok(bytes > 0)),
            Err(error) => (0, Err(error)),
        };
        self.buffer.truncate(old + bytes);
        // A streamed body may go on after its end: `reopen`.
        if matches!(result, Ok(false)) && !matches!(self.source, Source::Streamed(_)) {
            self.source = Source::Ended;
        }
        result
    }

    /// A line of at most `limit` bytes, with its newline; empty at the end.
    fn line<'py>(&mut self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyBytes>> {
        let mut searched = 0;
        loop {
            let window = &self.buffer[self.at..];
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

/// None and negative sizes mean no limit.
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
            let missing = usize::try_from(*end - *at).unwrap_or(usize::MAX).min(limit - buffered);
            // Small reads go through the buffer, large ones straight into the object.
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
        // As files have it: 0 is no limit either.
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

    /// Expects another chunked body from the client after the one that has been read to its end, which is what a
    /// protocol of several phases sends after each `100 Continue`. Answers whether that can be: the body has to be
    /// chunked and streamed.
    fn reopen(&self) -> bool {
        match &self.source {
            Source::Streamed(input) => input.reopen(),
            Source::Ended | Source::File { .. } => false,
        }
    }

    /// Nothing to do: the server closes the body.
    fn close(&self) {}

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

    fn seekable(&self) -> bool {
        false
    }
}
