//! The signals that a serving process understands.
//!
//! *Owns*: the actions for SIGTERM, SIGINT and SIGQUIT. *Runs on*: `install` on the main thread; `next` on the one thread
//! that acts on signals. *Invariants*: a handler only sets a flag and writes a byte.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};

use crate::config::{Config, LogTarget};
use crate::stdlib;
use crate::sys::{self, SignalAction};

/// What stops the server, and what has it say what it does.
const SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGQUIT];

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// SIGTERM, SIGINT: stop.
    Stop,
    /// SIGQUIT: say what is being done.
    Report,
}

/// The signals, from `install` until it is dropped.
pub(super) struct Signals {
    /// A byte for each signal, and one for each `Poke`.
    wake: UnixStream,
    wake_write: UnixStream,
    stop: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
    registrations: Vec<SigId>,
}

/// Wakes the thread that waits for signals.
pub(super) struct Poke(UnixStream);

impl Poke {
    /// What is read from the other end of `stream` wakes its reader.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    pub(super) fn wake(&self) {
        // A full pipe wakes as well.
        let _ = (&self.0).write(&[0]);
    }
}

/// What catches our signals: `signal-hook` installs it once in the life of a process, and a program may have put its own
/// handlers in its place since.
static CATCHING: OnceLock<[SignalAction; 3]> = OnceLock::new();

impl Signals {
    pub(super) fn install(config: &Config) -> anyhow::Result<Self> {
        let (wake, wake_write) = UnixStream::pair().context("cannot make a socket pair")?;
        wake_write.set_nonblocking(true)?;
        let mut signals =
            Self { wake, wake_write, stop: Arc::default(), report: Arc::default(), registrations: Vec::new() };
        // Forked children have what is there now.
        sys::remember_signal_actions();
        // Python's own handler would run after ours, and raise KeyboardInterrupt somewhere.
        sys::reset_signal(SIGINT);
        for signal in SIGNALS {
            let flag = if signal == SIGQUIT { &signals.report } else { &signals.stop };
            let flagged = signal_hook::flag::register(signal, Arc::clone(flag))?;
            let woken = signal_hook::low_level::pipe::register(signal, signals.wake_write.try_clone()?)?;
            signals.registrations.extend([flagged, woken]);
        }
        let catching = CATCHING.get_or_init(|| SIGNALS.map(sys::signal_action));
        for (signal, action) in SIGNALS.into_iter().zip(catching) {
            sys::restore_signal_action(signal, action);
        }
        Python::attach(|py| dump_stacks_on_quit(py, config))?;
        Ok(signals)
    }

    /// What wakes `next`, which returns `None` then.
    pub(super) fn poke(&self) -> io::Result<Poke> {
        self.wake_write.try_clone().map(Poke)
    }

    /// What does as SIGTERM does.
    pub(super) fn stopper(&self) -> io::Result<impl Fn() + Send + Sync + 'static> {
        let (stop, poke) = (Arc::clone(&self.stop), self.poke()?);
        Ok(move || {
            stop.store(true, Ordering::SeqCst);
            poke.wake();
        })
    }

    /// Waits for a signal, a poke, or `end`.
    ///
    /// # Errors
    /// The socket pair cannot be read, which does not happen.
    pub(super) fn next(&mut self, end: Option<Instant>) -> io::Result<Option<Wish>> {
        if let Some(wish) = self.wish() {
            return Ok(Some(wish));
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(None);
        }
        self.wake.set_read_timeout(left)?;
        match self.wake.read(&mut [0; 64]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(self.wish()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn wish(&self) -> Option<Wish> {
        if self.report.swap(false, Ordering::SeqCst) {
            return Some(Wish::Report);
        }
        self.stop.swap(false, Ordering::SeqCst).then_some(Wish::Stop)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for registration in self.registrations.drain(..) {
            signal_hook::low_level::unregister(registration);
        }
        sys::forget_signal_actions();
    }
}

/// What a program did on our signals before it served.
pub(super) struct Kept(Vec<(i32, Py<PyAny>)>);

impl Kept {
    pub(super) fn now(py: Python<'_>) -> PyResult<Self> {
        let signal = stdlib::get(py)?.signal.bind(py);
        let handler = |number| Ok((number, signal.call_method1("getsignal", (number,))?.unbind()));
        SIGNALS.into_iter().map(handler).collect::<PyResult<_>>().map(Self)
    }

    /// It does so again.
    pub(super) fn restore(self, py: Python<'_>) -> PyResult<()> {
        stdlib::get(py)?.faulthandler.bind(py).call_method1("unregister", (SIGQUIT,))?;
        let signal = stdlib::get(py)?.signal.bind(py);
        // `None` is a handler that Python knows nothing of.
        for (number, handler) in self.0.into_iter().filter(|(_, handler)| !handler.is_none(py)) {
            signal.call_method1("signal", (number, handler))?;
        }
        Ok(())
    }
}

/// SIGQUIT writes what every Python thread is doing to the error log, in the signal handler itself: it works while the
/// application holds the GIL.
fn dump_stacks_on_quit(py: Python<'_>, config: &Config) -> PyResult<()> {
    let file = match &config.error_logfile {
        LogTarget::File(path) => open_for_append(py, path)?,
        LogTarget::Standard | LogTarget::None => py.import("sys")?.getattr("__stderr__")?,
    };
    if file.is_none() {
        return Ok(());
    }
    let options = PyDict::new(py);
    options.set_item("file", file)?;
    options.set_item("all_threads", true)?;
    options.set_item("chain", true)?;
    stdlib::get(py)?.faulthandler.bind(py).call_method("register", (SIGQUIT,), Some(&options)).map(drop)
}

fn open_for_append<'py>(py: Python<'py>, path: &Path) -> PyResult<Bound<'py, PyAny>> {
    py.import("builtins")?.call_method1("open", (path, "ab", 0))
}
