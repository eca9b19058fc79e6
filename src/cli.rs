//! The command line: words become a `Config`, and how it went becomes the exit status.
//!
//! *Owns*: the exit statuses and what is printed before anything is started.
//! *Runs on*: the main thread.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::config::Config;

/// How a run ended: the exit status of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// As it should.
    Ok = 0,
    /// Something failed while serving.
    Failure = 1,
    /// The command line, a variable or the settings together are wrong.
    Usage = 2,
    /// The server could not start: an address in use, a log file that cannot be opened.
    NotStarted = 3,
    /// The application cannot be imported.
    NotImportable = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs the command line `args`, whose first word is the program's name; `serve` is what it does with good settings.
/// Help, the version, wrong settings and `--print-config` are answered here.
pub fn run<I>(args: I, serve: impl FnOnce(Config) -> Exit) -> Exit
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let config = match Config::parse_from(args) {
        Ok(config) => config,
        Err(error) => {
            // A reader that has gone is no reason to fail: there is nobody left to tell.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    if let Err(sentence) = config.check() {
        let _ = writeln!(io::stderr(), "error: {sentence}");
        return Exit::Usage;
    }
    if config.print_config {
        return print_config(&config);
    }
    serve(config)
}

/// Prints `name = value` lines on standard output.
fn print_config(config: &Config) -> Exit {
    let mut text = String::new();
    for (name, value) in config.settings() {
        text.push_str(name);
        text.push_str(" = ");
        text.push_str(&value);
        text.push('\n');
    }
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "error: cannot write to the standard output: {error}");
            Exit::Failure
        }
        _ => Exit::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_reached(_: Config) -> Exit {
        panic!("serve must not be called")
    }

    #[test]
    fn run_with_good_settings_serves_and_returns_its_exit() {
        let mut application = String::new();
        let exit = run(["maypole", "m:app"], |config| {
            application = config.application_name().to_owned();
            Exit::NotImportable
        });
        assert_eq!((exit, application.as_str()), (Exit::NotImportable, "m:app"));
    }

    #[test]
    fn run_with_wrong_settings_is_a_usage_error() {
        assert_eq!(run(["maypole"], not_reached), Exit::Usage);
        assert_eq!(run(["maypole", "m:app", "--threads", "0"], not_reached), Exit::Usage);
        assert_eq!(run(["maypole", "m:app", "--chdir", "/nowhere"], not_reached), Exit::Usage);
    }

    #[test]
    fn run_that_only_prints_is_ok() {
        for option in ["--help", "--version", "--print-config"] {
            assert_eq!(run(["maypole", "m:app", option], not_reached), Exit::Ok);
        }
    }
}
