//! The functions of an operator's file that a process calls at events of its life (`--hooks`), with gunicorn's names.
//!
//! *Owns*: the functions, and the objects `server` and `worker` that they get. *Runs on*: the main thread, with the GIL
//! held. *Invariants*: one `server` and one `worker` live as long as the process, so that a hook finds the attributes
//! that another hook has set. A process loads the file once, before it imports the application.

use std::path::Path;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::config::foreign::{self, Counterpart};
use crate::config::{Config, nearest};
use crate::wsgi;

/// The target of the lines that hooks write.
const TARGET: &str = "maypole.hooks";

/// An event at which a function of the file is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before the first worker starts.
    OnStarting,
    /// Before the workers are replaced at SIGHUP.
    OnReload,
    /// When the service has begun to serve.
    WhenReady,
    /// Before another supervisor starts at SIGUSR2.
    PreExec,
    /// When the number of workers has changed.
    NworkersChanged,
    /// When a worker has ended.
    ChildExit,
    /// Before the supervisor ends.
    OnExit,
    /// Before a worker is forked or started.
    PreFork,
    /// When a worker has been forked or started.
    PostFork,
    /// When a worker has imported the application.
    PostWorkerInit,
    /// Before a worker ends.
    WorkerExit,
}

/// The arguments of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arguments {
    Server,
    ServerAndWorker,
    Worker,
    ServerNewAndOld,
}

impl Arguments {
    /// Returns the number of the arguments and their names.
    fn described(self) -> (usize, &'static str) {
        match self {
            Self::Server => (1, "server"),
            Self::ServerAndWorker => (2, "server, worker"),
            Self::Worker => (1, "worker"),
            Self::ServerNewAndOld => (3, "server, new, old"),
        }
    }
}

/// The hooks, with their names and their arguments.
const HOOKS: [(Hook, &str, Arguments); 11] = [
    (Hook::OnStarting, "on_starting", Arguments::Server),
    (Hook::OnReload, "on_reload", Arguments::Server),
    (Hook::WhenReady, "when_ready", Arguments::Server),
    (Hook::PreExec, "pre_exec", Arguments::Server),
    (Hook::NworkersChanged, "nworkers_changed", Arguments::ServerNewAndOld),
    (Hook::ChildExit, "child_exit", Arguments::ServerAndWorker),
    (Hook::OnExit, "on_exit", Arguments::Server),
    (Hook::PreFork, "pre_fork", Arguments::ServerAndWorker),
    (Hook::PostFork, "post_fork", Arguments::ServerAndWorker),
    (Hook::PostWorkerInit, "post_worker_init", Arguments::Worker),
    (Hook::WorkerExit, "worker_exit", Arguments::ServerAndWorker),
];

/// Hooks of gunicorn that are never called. What to use instead is in the table of gunicorn's settings.
const ABSENT: [&str; 5] = ["pre_request", "post_request", "worker_int", "worker_abort", "ssl_context"];

/// The beginnings of the names of gunicorn's hooks.
const BEGINNINGS: [&str; 7] = ["on_", "when_", "pre_", "post_", "worker_", "child_", "nworkers_"];

impl Hook {
    /// Returns the hook of this name.
    pub fn named(name: &str) -> Option<Self> {
        HOOKS.iter().find(|(_, known, _)| *known == name).map(|(hook, ..)| *hook)
    }

    /// Returns the name of the function.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    fn row(self) -> &'static (Self, &'static str, Arguments) {
        HOOKS.iter().find(|(hook, ..)| *hook == self).expect("each hook has its row")
    }
}

/// The service, for the object `server`.
#[derive(Debug, Clone, Default)]
pub struct Service {
    /// The process that the supervisor runs in.
    pub supervisor: u32,
    /// How many workers serve.
    pub workers: usize,
    /// The addresses of the listeners: `http://127.0.0.1:8000`.
    pub addresses: Vec<String>,
}

/// A worker, for the object `worker`.
#[derive(Debug, Clone, Default)]
pub struct Worker {
    /// The process of the worker.
    pub pid: u32,
    /// The number of the worker, from 1.
    pub number: usize,
    /// How often the number has been given to a worker.
    pub generation: u64,
}

/// The loaded file.
#[derive(Debug)]
pub struct Hooks {
    functions: Vec<(Hook, Py<PyAny>)>,
    /// The Python module that has the classes of `server` and `worker`.
    module: Py<PyModule>,
    server: Py<PyAny>,
    /// The worker that this process is. `None` in a process that is no worker.
    worker: Option<Py<PyAny>>,
}

/// A file that has been loaded, and sentences about functions in it that are never called.
#[derive(Debug)]
pub struct Loaded {
    /// The hooks of the file.
    pub hooks: Hooks,
    /// One sentence for each function that has no effect.
    pub warnings: Vec<String>,
}

impl Hooks {
    /// Runs the file, and finds the hooks in it.
    ///
    /// # Errors
    /// A sentence, with a traceback if code of the file failed. The file cannot be read, it has a function that looks
    /// like a hook and is none, or a hook does not take the arguments that it gets.
    pub fn load(py: Python<'_>, file: &Path, config: &Config, service: &Service) -> Result<Loaded, String> {
        let shown = file.display();
        let failed = |error: PyErr| format!("the hooks in {shown} cannot be loaded:\n{}", wsgi::traceback(py, &error));
        let code = pyo3::ffi::c_str!(include_str!("hooks.py"));
        let module = PyModule::from_code(py, code, c"<maypole/hooks.py>", c"maypole_hooks").map_err(failed)?;
        let server = server(&module, config, service).map_err(failed)?;
        let names = module.call_method1("run", (file,)).map_err(failed)?.cast_into::<PyDict>();
        let names = names.map_err(|error| failed(error.into()))?;
        let (mut functions, mut warnings) = (Vec::new(), Vec::new());
        for (name, value) in &names {
            let Ok(name) = name.extract::<String>() else { continue };
            let parameters = || module.call_method1("parameters", (&value,))?.extract::<Option<Parameters>>();
            match judge(&name, &value, || parameters().ok().flatten()) {
                Verdict::Hook(hook) => functions.push((hook, value.unbind())),
                Verdict::Other => {}
                Verdict::Wrong(sentence) => return Err(format!("{shown}: {sentence}")),
                Verdict::Absent(instead) => {
                    let empty = module.call_method1("does_nothing", (&value,)).and_then(|empty| empty.is_truthy());
                    if !empty.unwrap_or(false) {
                        warnings.push(format!("{shown}: {name} is never called; {instead}"));
                    }
                }
            }
        }
        let (module, server) = (module.unbind(), server.unbind());
        Ok(Loaded { hooks: Self { functions, module, server, worker: None }, warnings })
    }

    /// Keeps the `server` of hooks that were loaded before, with the attributes that they have set.
    #[must_use]
    pub fn with_server_of(self, py: Python<'_>, before: &Self) -> Self {
        Self { server: before.server.clone_ref(py), ..self }
    }

    /// Changes what `server` says of the service.
    ///
    /// # Errors
    /// Python is out of memory.
    pub fn set_service(&self, py: Python<'_>, service: &Service) -> PyResult<()> {
        let server = self.server.bind(py);
        server.setattr("pid", service.supervisor)?;
        server.setattr("num_workers", service.workers)?;
        server.setattr("address", &service.addresses)?;
        let settings = server.getattr("cfg")?.getattr("settings")?;
        settings.set_item("workers", service.workers)
    }

    /// Sets the worker that this process is.
    ///
    /// # Errors
    /// Python is out of memory.
    pub fn set_worker(&mut self, py: Python<'_>, worker: &Worker) -> PyResult<()> {
        self.worker = Some(self.worker(py, worker)?);
        Ok(())
    }

    /// Sets an attribute of the worker that this process is.
    ///
    /// # Errors
    /// Python is out of memory.
    pub fn set_of_worker<'py>(&self, py: Python<'py>, name: &str, value: impl IntoPyObject<'py>) -> PyResult<()> {
        self.worker.as_ref().map_or(Ok(()), |worker| worker.bind(py).setattr(name, value))
    }

    /// Calls a hook, if the file has it. `worker` is the worker that the hook is about, if that is another process.
    ///
    /// # Errors
    /// The exception that the hook has raised.
    pub fn call(&self, py: Python<'_>, hook: Hook, worker: Option<&Worker>) -> PyResult<()> {
        self.run(py, hook, worker, None)
    }

    /// Calls `nworkers_changed`, if the file has it.
    ///
    /// # Errors
    /// The exception that the hook has raised.
    pub fn call_with_numbers(&self, py: Python<'_>, new: usize, old: usize) -> PyResult<()> {
        self.run(py, Hook::NworkersChanged, None, Some((new, old)))
    }

    fn run(
        &self,
        py: Python<'_>,
        hook: Hook,
        worker: Option<&Worker>,
        numbers: Option<(usize, usize)>,
    ) -> PyResult<()> {
        let Some((_, function)) = self.functions.iter().find(|(known, _)| *known == hook) else { return Ok(()) };
        let server = self.server.bind(py).clone();
        let worker = || match (worker, &self.worker) {
            (Some(worker), _) => self.worker(py, worker).map(|worker| worker.into_bound(py)),
            (None, Some(own)) => Ok(own.bind(py).clone()),
            (None, None) => Err(PyTypeError::new_err("there is no worker")),
        };
        let arguments = match hook.row().2 {
            Arguments::Server => PyTuple::new(py, [server])?,
            Arguments::ServerAndWorker => PyTuple::new(py, [server, worker()?])?,
            Arguments::Worker => PyTuple::new(py, [worker()?])?,
            Arguments::ServerNewAndOld => {
                let (new, old) = numbers.unwrap_or_default();
                (server, new, old).into_pyobject(py)?
            }
        };
        function.bind(py).call1(arguments).map(drop)
    }

    /// Makes a `worker`.
    fn worker(&self, py: Python<'_>, worker: &Worker) -> PyResult<Py<PyAny>> {
        let fields = PyDict::new(py);
        let server = self.server.bind(py);
        fields.set_item("pid", worker.pid)?;
        fields.set_item("ppid", server.getattr("pid")?)?;
        fields.set_item("age", worker.number)?;
        fields.set_item("number", worker.number)?;
        fields.set_item("generation", worker.generation)?;
        fields.set_item("nr", 0)?;
        fields.set_item("log", server.getattr("log")?)?;
        fields.set_item("cfg", server.getattr("cfg")?)?;
        Ok(self.module.bind(py).getattr("Worker")?.call((), Some(&fields))?.unbind())
    }
}

/// Makes the `server`.
fn server<'py>(module: &Bound<'py, PyModule>, config: &Config, service: &Service) -> PyResult<Bound<'py, PyAny>> {
    let py = module.py();
    let log = module.getattr("Log")?.call1((wrap_pyfunction!(write_line, py)?,))?;
    let mut settings = config.settings();
    settings.retain(|(name, _)| *name != "workers");
    settings.push(("workers", service.workers.to_string()));
    let fields = PyDict::new(py);
    fields.set_item("log", log)?;
    fields.set_item("cfg", module.getattr("Settings")?.call1((settings,))?)?;
    fields.set_item("pid", service.supervisor)?;
    fields.set_item("num_workers", service.workers)?;
    fields.set_item("address", &service.addresses)?;
    module.getattr("Server")?.call((), Some(&fields))
}

/// Writes a line of a hook to the error log, with the traceback of `error`.
#[pyfunction]
fn write_line(py: Python<'_>, level: &str, text: &str, error: Option<Bound<'_, PyAny>>) {
    let traceback = error.map(|error| format!("\n{}", wsgi::traceback(py, &PyErr::from_value(error))));
    let level = match level {
        "debug" => log::Level::Debug,
        "info" => log::Level::Info,
        "warning" => log::Level::Warn,
        _ => log::Level::Error,
    };
    log::log!(target: TARGET, level, "{text}{}", traceback.unwrap_or_default());
}

/// The first parameter of a function, how many arguments a call needs, how many it may have, and whether a call only
/// makes a coroutine.
type Parameters = (String, usize, usize, bool);

/// What a name of the file is.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Hook(Hook),
    /// A function or a value that the file uses itself.
    Other,
    /// A hook of gunicorn that is never called, and what to use instead.
    Absent(String),
    Wrong(String),
}

fn judge(name: &str, value: &Bound<'_, PyAny>, parameters: impl Fn() -> Option<Parameters>) -> Verdict {
    if !value.is_callable() {
        return Verdict::Other;
    }
    judge_callable(name, parameters().as_ref())
}

/// Judges a callable. `parameters` is `None` if it is not a function of Python.
fn judge_callable(name: &str, parameters: Option<&Parameters>) -> Verdict {
    if let Some((hook, _, arguments)) = HOOKS.iter().find(|(_, known, _)| *known == name) {
        let (count, names) = arguments.described();
        return match parameters {
            Some((.., true)) => Verdict::Wrong(format!("{name} is an `async def`; a hook is called like a function")),
            Some((_, needs, most, _)) if !(*needs..=*most).contains(&count) => {
                Verdict::Wrong(format!("{name} is called with ({names}), which its parameters do not fit"))
            }
            _ => Verdict::Hook(*hook),
        };
    }
    if ABSENT.contains(&name)
        && let Some(Counterpart::Nothing(instead)) = foreign::counterpart("gunicorn", name)
    {
        return Verdict::Absent(instead);
    }
    let Some((first, ..)) = parameters else { return Verdict::Other };
    let is_like_a_hook = matches!(first.as_str(), "server" | "worker" | "arbiter")
        && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
    let known = || HOOKS.iter().map(|(_, known, _)| *known);
    // A name without `_`, such as `ready`, is more likely the file's own.
    let near = nearest(name, known()).filter(|_| !name.starts_with('_') && name.contains('_'));
    match near {
        Some(near) => Verdict::Wrong(format!("there is no hook {name}; did you mean {near}?")),
        None if is_like_a_hook => {
            let known = known().collect::<Vec<_>>().join(", ");
            Verdict::Wrong(format!("there is no hook {name}; the hooks are {known}"))
        }
        None => Verdict::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(first: &str, count: usize) -> Parameters {
        (first.to_owned(), count, count, false)
    }

    fn wrong(name: &str, parameters: &Parameters) -> String {
        match judge_callable(name, Some(parameters)) {
            Verdict::Wrong(sentence) => sentence,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn name_of_a_hook_is_a_hook() {
        for (hook, name, arguments) in HOOKS {
            assert_eq!((Hook::named(name), hook.name()), (Some(hook), name));
            let parameters = function("anything", arguments.described().0);
            assert_eq!(judge_callable(name, Some(&parameters)), Verdict::Hook(hook));
            assert_eq!(judge_callable(name, None), Verdict::Hook(hook));
        }
        assert_eq!(judge_callable("post_fork", Some(&("a".to_owned(), 0, 255, false))), Verdict::Hook(Hook::PostFork));
    }

    #[test]
    fn hook_that_cannot_be_called_is_wrong() {
        assert!(wrong("post_fork", &function("worker", 1)).contains("called with (server, worker)"));
        assert!(wrong("when_ready", &("server".to_owned(), 1, 1, true)).contains("async def"));
    }

    #[test]
    fn function_that_looks_like_a_hook_is_wrong() {
        assert_eq!(wrong("when_redy", &function("s", 1)), "there is no hook when_redy; did you mean when_ready?");
        assert!(wrong("on_worker_boot", &function("worker", 1)).contains("the hooks are on_starting, "));
    }

    #[test]
    fn functions_of_the_file_are_its_own() {
        for name in ["connect", "log_worker", "_post_forks", "ready"] {
            assert_eq!(judge_callable(name, Some(&function("worker", 1))), Verdict::Other, "{name}");
        }
        assert_eq!(judge_callable("on_event", Some(&function("event", 1))), Verdict::Other);
        assert_eq!(judge_callable("Postfork", None), Verdict::Other);
        for name in ABSENT {
            assert!(matches!(judge_callable(name, Some(&function("worker", 2))), Verdict::Absent(_)), "{name}");
        }
    }
}
