//! The hooks of a worker: `post_fork`, `post_worker_init` and `worker_exit`.
//!
//! *Owns*: the loaded file of `--hooks`. *Runs on*: the main thread, with the GIL held. If the process ends while calls
//! still run, `worker_exit` runs on the thread of the exit functions. *Invariants*: `worker_exit` runs at most once.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};

use super::place::Place;
use crate::config::{Config, Site};
use crate::hooks::{Hook, Hooks, Service, Worker};
use crate::{stdlib, wsgi};

/// The hooks of this worker.
pub(super) struct WorkerHooks {
    hooks: Hooks,
    has_ended: AtomicBool,
}

/// Returns the service that a worker belongs to.
pub(super) fn service(place: &Place, addresses: Vec<String>) -> Service {
    let start = place.start();
    Service { supervisor: start.supervisor, workers: start.workers, addresses }
}

impl WorkerHooks {
    /// Calls `post_fork` in a worker that has not imported the application, or that was forked after the import.
    ///
    /// # Errors
    /// The hook has raised an exception.
    pub(super) fn begin(
        py: Python<'_>,
        mut hooks: Hooks,
        place: &Place,
        service: &Service,
    ) -> anyhow::Result<Arc<Self>> {
        let start = place.start();
        let worker = Worker { pid: process::id(), number: start.number, generation: start.generation };
        let set = hooks.set_service(py, service).and_then(|()| hooks.set_worker(py, &worker));
        set.map_err(|error| anyhow!("{error}"))?;
        let hooks = Arc::new(Self { hooks, has_ended: AtomicBool::new(false) });
        hooks.call(py, Hook::PostFork)?;
        Ok(hooks)
    }

    /// Calls `post_worker_init`, once the worker has the applications, which are in the order of `Config::sites`.
    ///
    /// # Errors
    /// The hook has raised an exception.
    pub(super) fn initialized(
        self: &Arc<Self>,
        py: Python<'_>,
        config: &Config,
        applications: &[Py<PyAny>],
    ) -> anyhow::Result<()> {
        let (mounts, virtual_hosts) = (PyDict::new(py), PyDict::new(py));
        let mut main = None;
        for (site, application) in config.sites().zip(applications) {
            let set = match site {
                Site::Main => {
                    main = Some(application);
                    Ok(())
                }
                Site::Mount(mount) => mounts.set_item(mount.path.to_string(), application),
                Site::VirtualHost(virtual_host) => virtual_hosts.set_item(virtual_host.host.to_string(), application),
            };
            set.map_err(|error| anyhow!("{error}"))?;
        }
        let set = self.hooks.set_of_worker(py, "wsgi", main);
        let set = set.and_then(|()| self.hooks.set_of_worker(py, "mounts", mounts));
        let set = set.and_then(|()| self.hooks.set_of_worker(py, "virtual_hosts", virtual_hosts));
        set.map_err(|error| anyhow!("{error}"))?;
        self.call(py, Hook::PostWorkerInit)?;
        // Without a Python end, the exit functions still run.
        let hooks = Arc::clone(self);
        let end = PyCFunction::new_closure(py, None, None, move |arguments, _| hooks.exit(arguments.py()));
        let registered = end.and_then(|end| stdlib::get(py)?.atexit.bind(py).call_method1("register", (end,)));
        registered.map(drop).map_err(|error| anyhow!("{error}"))
    }

    /// Calls `worker_exit` in a worker that has served this many requests. Only the first call has an effect.
    pub(super) fn end(&self, py: Python<'_>, requests: u64) {
        // Without the number, the hook still runs.
        let _ = self.hooks.set_of_worker(py, "nr", requests);
        self.exit(py);
    }

    fn exit(&self, py: Python<'_>) {
        if !self.has_ended.swap(true, Ordering::SeqCst)
            && let Err(error) = self.call(py, Hook::WorkerExit)
        {
            log::error!("{error}");
        }
    }

    fn call(&self, py: Python<'_>, hook: Hook) -> anyhow::Result<()> {
        outcome(py, hook, self.hooks.call(py, hook, None))
    }
}

/// Returns the exception of a hook with its traceback as an error.
pub(super) fn outcome(py: Python<'_>, hook: Hook, called: PyResult<()>) -> anyhow::Result<()> {
    called.map_err(|error| anyhow!("the hook {} failed:\n{}", hook.name(), wsgi::traceback(py, &error)))
}
