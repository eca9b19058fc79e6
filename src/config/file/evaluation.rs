//! Evaluates a Python file in a process of its own, because the process that reads settings runs no Python code of the
//! operator: the supervisor stays free of it.
//!
//! *Owns*: the process while it runs. *Runs on*: the thread that reads settings, and two threads that read what the
//! process writes. *Invariants*: the process has a limit of time. Complete output means success. The exit status does not
//! count, because another part of this process may have collected it.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

/// The environment variable that tells a process of this program to evaluate a file, and which one.
pub const EVALUATION_VARIABLE: &str = "_MAYPOLE_EVALUATE";

/// How long the file may run.
const TIME_MAX: Duration = Duration::from_secs(60);

/// How long the reader waits for the rest of the output after the process has ended. A process that the file has started
/// may keep the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The command of a process that evaluates the file which `EVALUATION_VARIABLE` names.
#[derive(Debug, Clone, Default)]
pub struct Evaluator {
    /// The program and its arguments. Empty: the file of this program as it is when the process starts.
    words: Vec<OsString>,
}

/// The names and values of a Python file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Globals {
    /// The path of the file, from `/` on.
    pub(super) file: PathBuf,
    /// Its names, in the order in which they were given their first values.
    pub(super) names: Vec<Global>,
    /// The environment variables that it has set.
    pub(super) environment: Vec<(String, String)>,
    /// Why it could not be evaluated.
    error: Option<String>,
}

/// A global name of a Python file.
#[derive(Debug, Deserialize)]
pub(super) struct Global {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) value: GlobalValue,
    /// The last line that gives the name a value, from 1. 0 means that it comes from another module.
    pub(super) line: usize,
    /// Whether the file itself reads the name.
    pub(super) used: bool,
    /// The expression that computes the value.
    pub(super) expression: Option<String>,
}

/// A value of Python.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub(super) enum GlobalValue {
    /// `None`
    None,
    /// `True` or `False`
    Flag(bool),
    /// An `int` or a `float`.
    Number(serde_json::Number),
    /// A `str` or a path.
    Text(String),
    /// A list, a tuple or a set of numbers and texts.
    List(Vec<String>),
    /// A function.
    Function,
    /// A `dict` that is not empty.
    Mapping,
    /// Anything else, with the name of its type.
    Other(String),
}

impl Evaluator {
    /// A process of the stand-alone program, which is this one. Its path is the one that it has now: after an update it
    /// names the new version.
    pub fn of_this_program() -> Self {
        Self { words: std::env::current_exe().into_iter().map(PathBuf::into_os_string).collect() }
    }

    /// A process of Python that runs the script of the package.
    pub fn of_python(python: OsString, script: OsString) -> Self {
        Self { words: vec![python, script] }
    }

    fn command(&self) -> io::Result<Command> {
        let Some((program, arguments)) = self.words.split_first() else {
            return Ok(Command::new(std::env::current_exe()?));
        };
        let mut command = Command::new(program);
        command.args(arguments);
        Ok(command)
    }

    /// Evaluates the file, or the module `python:MODULE`, in this directory.
    ///
    /// # Errors
    /// A sentence, and what the file has printed, with the traceback of an exception.
    pub(super) fn evaluate(&self, location: &str, directory: &Path) -> Result<Globals, String> {
        let started = self.command().and_then(|mut command| {
            command.env(EVALUATION_VARIABLE, location).current_dir(directory);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
        });
        let mut process = started.map_err(|error| format!("cannot start a process for {location}: {error}"))?;
        let result = chunks(process.stdout.take());
        let printed = chunks(process.stderr.take());
        let (result, has_ended) = drain(&result, Instant::now() + TIME_MAX);
        if !has_ended {
            // It may have ended by now.
            let _ = process.kill();
        }
        let _ = process.wait();
        let printed = String::from_utf8_lossy(&drain(&printed, Instant::now() + LAST_WORDS).0).into_owned();
        if !has_ended {
            let limit = TIME_MAX.as_secs();
            return Err(format!("cannot read settings from {location}: it ran for longer than {limit} s\n{printed}"));
        }
        let globals: Globals = serde_json::from_slice(&result).map_err(|_| {
            format!("cannot read settings from {location}: the process that read it has crashed\n{printed}")
        })?;
        if let Some(error) = &globals.error {
            return Err(format!("cannot read settings from {location}: {error}\n{printed}"));
        }
        // What a configuration file prints is for the operator.
        eprint!("{printed}");
        Ok(globals)
    }
}

/// Reads a stream on a thread, and sends what it has read. The channel ends with the stream.
fn chunks(stream: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut stream) = stream {
        // If the thread cannot be started, the stream seems empty, and the process to have crashed.
        let _ = thread::Builder::new().name("maypole-config".to_owned()).spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

/// Returns what arrives until `end`, and whether the stream has ended.
fn drain(chunks: &Receiver<Vec<u8>>, end: Instant) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    // A process that writes without an end always has something to receive.
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        match chunks.recv_timeout(left) {
            Ok(chunk) => bytes.extend(chunk),
            Err(mpsc::RecvTimeoutError::Disconnected) => return (bytes, true),
            Err(mpsc::RecvTimeoutError::Timeout) => break,
        }
    }
    (bytes, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_without_an_end_is_read_for_the_time_that_was_given() {
        let (bytes, has_ended) = drain(&chunks(Some(io::repeat(7))), Instant::now() + Duration::from_millis(50));
        assert!(!has_ended && !bytes.is_empty());
        let (bytes, has_ended) = drain(&chunks(Some(&b"text"[..])), Instant::now() + Duration::from_secs(20));
        assert_eq!((bytes.as_slice(), has_ended), (&b"text"[..], true));
    }
}
