//! Refuses callables that are not WSGI applications: ASGI applications, and functions with another number of arguments.
//!
//! *Runs on*: the thread that loads an application or makes a server, with the GIL held. *Invariants*: a callable is
//! refused only if its code object is certain to be unfit. A decorated or compiled callable is accepted.
//! *Source*: PEP 3333 "The Application/Framework Side"; the ASGI specification 3.0.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFunction, PyTuple, PyType};

use crate::stdlib;

/// `CO_VARARGS` of the module `inspect`; below, its `CO_COROUTINE` and `CO_ASYNC_GENERATOR`.
const HAS_VARARGS: u32 = 0x04;
const IS_ASYNC: u32 = 0x80 | 0x200;
/// Nested `functools.partial` objects are unwrapped to this depth.
const PARTIALS_MAX: usize = 8;
/// The argument names of the ASGI specification.
const ASGI_NAMES: [&str; 3] = ["scope", "receive", "send"];

/// Returns why `application` is not a WSGI application, as the rest of a sentence that begins with its name. Returns
/// `None` if it is one, or if that is uncertain.
pub(super) fn unfit(application: &Bound<'_, PyAny>) -> Option<String> {
    why(application).ok().flatten()
}

fn why(application: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let py = application.py();
    let stdlib = stdlib::get(py)?;
    let partial = stdlib.functools.bind(py).getattr("partial")?;
    let mut callable = application.clone();
    for _ in 0..PARTIALS_MAX {
        if !callable.get_type().is(&partial) {
            break;
        }
        callable = callable.getattr("func")?;
    }
    let Some(called) = Called::of(&callable)? else { return Ok(None) };
    let is_asgi = called.is_async || (!called.takes_two && called.names == ASGI_NAMES);
    if is_asgi {
        return Ok(Some(asgi_sentence(application)?));
    }
    if called.takes_two || !callable.is(application) {
        return Ok(None);
    }
    let factory = if called.required == 0 { "; if it makes the application, use --factory" } else { "" };
    Ok(Some(format!(
        "is not a WSGI application: it cannot be called with (environ, start_response), since it takes {}{factory}",
        match called.names.as_slice() {
            [] => "no arguments".to_owned(),
            names => format!("({})", names.join(", ")),
        },
    )))
}

fn asgi_sentence(application: &Bound<'_, PyAny>) -> PyResult<String> {
    let module: String = application.get_type().getattr("__module__")?.extract()?;
    let instead = if module.starts_with("django.") {
        "name Django's WSGI application instead, PROJECT.wsgi:application"
    } else {
        "run it with an ASGI server, such as uvicorn or hypercorn, or wrap it, as a2wsgi.ASGIMiddleware does"
    };
    let what = super::start_response::type_name(application);
    Ok(format!("is asynchronous, as ASGI applications are ({what}), and maypole serves WSGI: {instead}"))
}

/// The Python function behind a callable.
struct Called {
    is_async: bool,
    /// Whether it can be called with two positional arguments.
    takes_two: bool,
    /// The names of its positional parameters, without a bound `self`.
    names: Vec<String>,
    /// The number of positional parameters without a default.
    required: usize,
}

impl Called {
    /// Returns `None` if the callable has no Python function, for example because it is compiled.
    fn of(callable: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let Some((function, bound)) = function(callable)? else { return Ok(None) };
        let code = function.getattr("__code__")?;
        let flags: u32 = code.getattr("co_flags")?.extract()?;
        let count: usize = code.getattr("co_argcount")?.extract()?;
        let variables = code.getattr("co_varnames")?.cast_into::<PyTuple>()?;
        let names = (bound..count).map(|index| variables.get_item(index)?.extract()).collect::<PyResult<Vec<_>>>()?;
        let defaults = function.getattr("__defaults__")?.cast::<PyTuple>().map_or(0, PyTupleMethods::len);
        let required = names.len().saturating_sub(defaults);
        let keywords: usize = code.getattr("co_kwonlyargcount")?.extract()?;
        let given = function.getattr("__kwdefaults__")?.cast::<PyDict>().map_or(0, PyDictMethods::len);
        let has_room = flags & HAS_VARARGS != 0 || names.len() >= 2;
        Ok(Some(Self {
            is_async: flags & IS_ASYNC != 0,
            takes_two: has_room && required <= 2 && keywords <= given,
            names,
            required,
        }))
    }
}

/// Returns the Python function of a function, a method or an object with `__call__`, and its number of bound arguments.
fn function<'py>(callable: &Bound<'py, PyAny>) -> PyResult<Option<(Bound<'py, PyAny>, usize)>> {
    let py = callable.py();
    if callable.is_exact_instance_of::<PyFunction>() {
        return Ok(Some((callable.clone(), 0)));
    }
    if callable.get_type().is(&stdlib::get(py)?.types.bind(py).getattr("MethodType")?) {
        let function = callable.getattr("__func__")?;
        return Ok(function.is_exact_instance_of::<PyFunction>().then_some((function, 1)));
    }
    // The metaclass runs the call of a class, and the new instance is the response's iterable.
    if callable.is_instance_of::<PyType>() {
        return Ok(None);
    }
    for class in callable.get_type().mro().iter() {
        let entries = class.getattr("__dict__")?;
        if entries.contains("__call__")? {
            let call = entries.get_item("__call__")?;
            return Ok(call.is_exact_instance_of::<PyFunction>().then_some((call, 1)));
        }
    }
    Ok(None)
}
