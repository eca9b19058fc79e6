//! Tests of the start of the interpreter, each in a separate process, because a process can start it only once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use pyo3::prelude::*;

/// Runs in the child process: starts the interpreter and prints its prefix and its arguments.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn child() {
    match maypole::interpreter::start(&["app:app".to_owned(), "--x".to_owned()]) {
        Ok(_) => Python::attach(|py| {
            let code = c"__import__('sys').stderr.write(repr((sys.prefix, sys.argv)))";
            let sys = py.import("sys").unwrap();
            let globals = pyo3::types::PyDict::new(py);
            globals.set_item("sys", sys).unwrap();
            py.eval(code, Some(&globals), None).unwrap();
        }),
        Err(message) => eprint!("refused: {message}"),
    }
}

fn start(virtual_env: Option<&Path>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", "child"]).env_remove("VIRTUAL_ENV");
    if let Some(dir) = virtual_env {
        command.env("VIRTUAL_ENV", dir);
    }
    let Output { stderr, .. } = command.output().unwrap();
    String::from_utf8(stderr).unwrap()
}

#[test]
fn interpreter_without_an_environment_is_that_of_the_build() {
    let said = start(None);
    assert!(said.contains("['app:app', '--x']") && !said.contains("refused"), "{said}");
}

#[test]
fn interpreter_in_a_virtual_environment_has_its_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let env = dir.path().canonicalize().unwrap().join("env");
    let python = option_env!("PYO3_PYTHON").unwrap_or("python3");
    assert!(Command::new(python).args(["-m", "venv", "--without-pip"]).arg(&env).status().unwrap().success());
    let said = start(Some(&env));
    assert!(said.contains(&format!("('{}', ", env.display())), "{said}");
}

#[test]
fn interpreter_of_an_environment_of_another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pyvenv.cfg"), "home = /usr/bin\nversion = 3.7.1\n").unwrap();
    let said = start(Some(dir.path()));
    assert!(said.contains("refused: ") && said.contains("Python 3.7"), "{said}");
}
