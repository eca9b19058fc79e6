//! Questions to Python that wait for the GIL only for a limited time.
//!
//! *Owns*: the question that has no answer yet. *Runs on*: any thread asks; a short-lived thread waits for the GIL.
//! *Invariants*: at most one thread of an asker waits for the GIL.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::executor::gate;
use crate::phrase::seconds;
use crate::sys;

/// Asks Python one question at a time.
#[derive(Debug, Default)]
pub(super) struct Asker {
    /// Ends once the thread of an earlier question has ended.
    earlier: Option<Receiver<()>>,
}

/// Why Python has not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Silence {
    /// No thread has got the GIL in time.
    Busy,
    /// Python does not run yet, or is going down.
    Absent,
    /// No thread can be started.
    NoThread(String),
}

impl Silence {
    /// Returns a sentence about a question that could wait for `limit`.
    pub(super) fn sentence(&self, limit: Duration) -> String {
        match self {
            Self::Busy => format!("Python did not answer within {}: some thread keeps the GIL", seconds(limit)),
            Self::Absent => "Python does not run yet, or is going down".to_owned(),
            Self::NoThread(error) => format!("no thread can be started that asks Python: {error}"),
        }
    }
}

impl Asker {
    /// Returns what `question` returns. It runs with the GIL on a thread of its own. The caller waits at most `limit`.
    /// If an earlier question has no answer yet, the caller waits for that one first.
    ///
    /// # Errors
    /// Python has not answered.
    pub(super) fn ask<T: Send + 'static>(
        &mut self,
        limit: Duration,
        question: impl FnOnce(Python<'_>) -> T + Send + 'static,
    ) -> Result<T, Silence> {
        let end = Instant::now() + limit;
        if let Some(earlier) = &self.earlier
            && earlier.recv_timeout(limit) == Err(RecvTimeoutError::Timeout)
        {
            return Err(Silence::Busy);
        }
        let (tell, told) = mpsc::channel();
        let (runs, ended) = mpsc::channel::<()>();
        let run = move || {
            if let Some(answer) = gate::attach(question) {
                // An error means that the caller no longer waits.
                let _ = tell.send(answer);
            }
            drop(runs);
        };
        let thread = thread::Builder::new().name("maypole-ask".to_owned()).spawn(run);
        thread.map_err(|error| Silence::NoThread(sys::plain(&error)))?;
        self.earlier = Some(ended);
        told.recv_timeout(end.saturating_duration_since(Instant::now())).map_err(|error| match error {
            RecvTimeoutError::Timeout => Silence::Busy,
            RecvTimeoutError::Disconnected => Silence::Absent,
        })
    }
}
