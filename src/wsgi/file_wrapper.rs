//! `wsgi.file_wrapper`: a file that the application returns.
//!
//! *Owns*: the application's file object until `close()`. *Runs on*: the executor thread, with the GIL held.
//! *Invariants*: a file is sent by its descriptor only if that sends the bytes that its `read` would return. Any other
//! file is read. *Source*: PEP 3333 "Optional Platform-Specific File Handling".

use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};

use crate::{stdlib, sys};

/// A file-like object as an iterable of blocks.
#[pyclass(frozen, module = "maypole", name = "FileWrapper")]
pub(super) struct FileWrapper {
    #[pyo3(get)]
    filelike: Py<PyAny>,
    #[pyo3(get)]
    block_size: isize,
}

/// The rest of a regular file.
pub(super) struct FilePart {
    /// A duplicate of the application's descriptor, because `close()` closes the original.
    pub(super) file: OwnedFd,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (filelike, block_size=8192))]
    fn new(filelike: Py<PyAny>, block_size: isize) -> Self {
        Self { filelike, block_size }
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let block = self.filelike.bind(py).call_method1(pyo3::intern!(py, "read"), (self.block_size,))?;
        let ended = match block.cast::<PyBytes>() {
            Ok(bytes) => bytes.as_bytes().is_empty(),
            Err(_) => !block.is_truthy()?,
        };
        Ok((!ended).then_some(block))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.filelike)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(close) = self.filelike.bind(py).getattr_opt(pyo3::intern!(py, "close"))? {
            close.call0()?;
        }
        Ok(())
    }
}

impl FileWrapper {
    /// Returns the rest of the file if it can be sent by its descriptor. Returns `None` if not, or after any error.
    pub(super) fn part(&self, py: Python<'_>) -> Option<FilePart> {
        part(self.filelike.bind(py)).ok().flatten()
    }
}

fn part(file: &Bound<'_, PyAny>) -> PyResult<Option<FilePart>> {
    let py = file.py();
    // `NamedTemporaryFile` returns a wrapper around a file of these kinds.
    let file = match file.get_type().name()?.to_str()? {
        "_TemporaryFileWrapper" => &file.getattr("file")?,
        _ => file,
    };
    if !reads_its_descriptor(file)? {
        return Ok(None);
    }
    let fd: RawFd = file.call_method0("fileno")?.extract()?;
    // Ask the reader, not the descriptor: the reader's buffer moves the descriptor ahead.
    let offset: u64 = file.call_method0("tell")?.extract()?;
    let Some(own) = duplicate(fd) else { return Ok(None) };
    let (own, metadata) = py.detach(|| {
        let own = File::from(own);
        let metadata = own.metadata();
        (own, metadata)
    });
    let metadata = metadata?;
    // Files in /proc are regular and report 0 bytes although they have content: read those.
    let bytes = metadata.len().saturating_sub(offset);
    Ok((metadata.is_file() && bytes > 0).then(|| FilePart { file: own.into(), offset, bytes }))
}

/// Returns whether `read` returns the bytes of the descriptor. Some objects with a `fileno` return others: text files,
/// and `GzipFile`, whose descriptor has the compressed bytes.
fn reads_its_descriptor(file: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = file.py();
    let io = stdlib::get(py)?.io.bind(py);
    let raw_type = io.getattr("FileIO")?.cast_into::<PyType>()?;
    let reads_as = |file: &Bound<'_, PyAny>, kind: &Bound<'_, PyType>| -> PyResult<bool> {
        Ok(file.is_instance(kind)? && file.get_type().getattr("read")?.is(&kind.getattr("read")?))
    };
    if reads_as(file, &raw_type)? {
        return Ok(true);
    }
    let buffered_type = io.getattr("BufferedReader")?.cast_into::<PyType>()?;
    Ok(reads_as(file, &buffered_type)? && reads_as(&file.getattr("raw")?, &raw_type)?)
        .and_then(|plain| if plain { Ok(true) } else { reads_both_ways(file, io, &raw_type) })
}

/// Returns whether the file is open for reading and writing (`rb+`, `TemporaryFile`). Flushes its written bytes first.
fn reads_both_ways(file: &Bound<'_, PyAny>, io: &Bound<'_, PyModule>, raw_type: &Bound<'_, PyType>) -> PyResult<bool> {
    let kind = io.getattr("BufferedRandom")?;
    if !file.get_type().is(&kind) || !file.getattr("raw")?.get_type().is(raw_type) {
        return Ok(false);
    }
    file.call_method0("flush")?;
    Ok(true)
}

#[allow(unsafe_code, reason = "a descriptor that Python owns")]
fn duplicate(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: the file object that gave the number is alive, and this thread holds the GIL, so it stays open.
    unsafe { sys::duplicate_descriptor(fd) }.ok()
}
