//! `wsgi.errors`: text that the application writes goes to the error log.
//!
//! *Owns*: the line that is not complete yet, and which request it belongs to. *Runs on*: whichever thread of the
//! application writes; one per executor thread, used again for each request. *Source*: PEP 3333 "Input and Error Streams".

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::http::RequestHead;

/// The target of its log records.
const TARGET: &str = "wsgi.errors";
/// A line that grows beyond so many bytes is logged in parts.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// The error stream.
#[pyclass(frozen, module = "maypole", name = "ErrorStream")]
pub(super) struct ErrorStream {
    line: Mutex<String>,
    /// The request during which it is written to.
    request: Mutex<Option<Arc<RequestHead>>>,
}

impl ErrorStream {
    pub(super) fn new() -> Self {
        Self { line: Mutex::new(String::new()), request: Mutex::new(None) }
    }

    /// From now on lines belong to that request.
    pub(super) fn begin(&self, request: &Arc<RequestHead>) {
        *self.request.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(request));
    }

    fn log(&self, text: &str) {
        match &*self.request.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(request) => log::error!(target: TARGET, "{}: {text}", request.request_line().escape_ascii()),
            None => log::error!(target: TARGET, "{text}"),
        }
    }

    /// Logs what is left of the last line; the request is over.
    pub(super) fn finish(&self) {
        self.flush_line();
        *self.request.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn flush_line(&self) {
        let rest = {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            if line.is_empty() {
                return;
            }
            std::mem::take(&mut *line)
        };
        self.log(&rest);
    }

    fn push(&self, text: &str) {
        let complete = {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
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
    #[getter]
    fn encoding(&self) -> &'static str {
        "utf-8"
    }

    fn write(&self, text: &Bound<'_, PyString>) -> PyResult<usize> {
        if let Ok(utf8) = text.to_str() {
            self.push(utf8);
        } else {
            // Lone surrogates have no UTF-8.
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

    fn writable(&self) -> bool {
        true
    }
}

impl Drop for ErrorStream {
    fn drop(&mut self) {
        self.flush_line();
    }
}
