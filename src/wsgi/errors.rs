//! `wsgi.errors`: text that the application writes goes to the error log.
//!
//! *Owns*: an incomplete line, and the request to which it belongs. *Runs on*: the application's thread that writes. An
//! executor thread has one object, which it reuses for each request. *Source*: PEP 3333 "Input and Error Streams".

use std::fmt::Write as _;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PyString, PyTuple};

use super::input::unsupported;
use super::named;

use crate::http::RequestHead;
use crate::sys::Lock;

/// The target of the log records.
const TARGET: &str = "wsgi.errors";
/// A line of more than this many bytes is logged in parts.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// The error stream.
#[pyclass(frozen, module = "maypole", name = "ErrorStream")]
pub(super) struct ErrorStream {
    line: Lock<String>,
    /// The current request, which every record names.
    request: Lock<Option<Arc<RequestHead>>>,
}

impl ErrorStream {
    pub(super) fn new() -> Self {
        Self { line: Lock::new(String::new()), request: Lock::new(None) }
    }

    /// Sets the request that the following lines belong to.
    pub(super) fn begin(&self, request: &Arc<RequestHead>) {
        *self.request.lock() = Some(Arc::clone(request));
    }

    fn log(&self, text: &str) {
        match &*self.request.lock() {
            Some(request) => log::error!(target: TARGET, "{}: {text}", named(request)),
            None => log::error!(target: TARGET, "{text}"),
        }
    }

    /// Logs the rest of the last line at the end of the request.
    #[allow(clippy::inline_always, reason = "a call would cost each request")]
    #[inline(always)]
    pub(super) fn finish(&self) {
        self.flush_line();
        *self.request.lock() = None;
    }

    fn flush_line(&self) {
        let rest = {
            let mut line = self.line.lock();
            if line.is_empty() {
                return;
            }
            std::mem::take(&mut *line)
        };
        self.log(&rest);
    }

    fn push(&self, text: &str) {
        let complete = {
            let mut line = self.line.lock();
            line.push_str(text);
            match line.rfind('\n') {
                Some(end) => {
                    let rest = line.split_off(end + 1);
                    let mut complete = std::mem::replace(&mut *line, rest);
                    complete.truncate(complete.trim_end_matches(['\n', '\r']).len());
                    complete
                }
                None if line.len() > LINE_BYTES_MAX => std::mem::take(&mut *line),
                None => return,
            }
        };
        // All complete lines of one write make one record, so that other threads' lines do not come between them.
        self.log(&complete);
    }
}

#[pymethods]
#[allow(clippy::unused_self, reason = "methods of a Python object")]
impl ErrorStream {
    /// The stream for bytes, as `sys.stderr.buffer`.
    #[getter]
    fn buffer(slf: PyRef<'_, Self>) -> ErrorBytes {
        ErrorBytes(slf.into())
    }

    /// The treatment of characters without a UTF-8 encoding.
    #[getter]
    fn errors(&self) -> &'static str {
        "backslashreplace"
    }

    #[getter]
    fn encoding(&self) -> &'static str {
        "utf-8"
    }

    fn write(&self, text: &Bound<'_, PyString>) -> PyResult<usize> {
        if let Ok(utf8) = text.to_str() {
            self.push(utf8);
        } else {
            // A lone surrogate has no UTF-8 encoding.
            let bytes = text.call_method1("encode", ("utf-8", "backslashreplace"))?;
            self.push(&String::from_utf8_lossy(bytes.extract::<&[u8]>()?));
        }
        text.len()
    }

    fn writelines(&self, lines: &Bound<'_, PyAny>) -> PyResult<()> {
        for line in lines.try_iter()? {
            self.write(line?.cast::<PyString>()?)?;
        }
        Ok(())
    }

    fn flush(&self) {
        self.flush_line();
    }

    fn close(&self) {
        self.flush_line();
    }

    fn isatty(&self) -> bool {
        false
    }

    #[getter]
    fn closed(&self) -> bool {
        false
    }

    fn writable(&self) -> bool {
        true
    }

    fn readable(&self) -> bool {
        false
    }

    fn seekable(&self) -> bool {
        false
    }

    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Err(unsupported(py, "the error log has no descriptor"))
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.flush_line();
    }
}

/// The error stream for bytes.
#[pyclass(frozen, module = "maypole", name = "ErrorBytes")]
struct ErrorBytes(Py<ErrorStream>);

#[pymethods]
#[allow(clippy::unused_self, reason = "methods of a Python object")]
impl ErrorBytes {
    /// Logs bytes. Bytes that are not UTF-8 become `\xNN`.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        let bytes = PyMemoryView::from(data)?.call_method0("tobytes")?;
        let bytes = bytes.extract::<&[u8]>()?;
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            for byte in chunk.invalid() {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
        self.0.get().push(&text);
        Ok(bytes.len())
    }

    fn flush(&self) {
        self.0.get().flush_line();
    }

    fn writable(&self) -> bool {
        true
    }
}

impl Drop for ErrorStream {
    fn drop(&mut self) {
        self.flush_line();
    }
}
