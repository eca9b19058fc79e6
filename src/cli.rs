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
    /// The command line, a variable or the settings together are wrong, on any machine.
    Usage = 2,
    /// This machine does not have or allow what the settings say: an address in use, a directory that is not there.
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
/// Help, the version and wrong settings are answered here.
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
    let refused = match (config.check(), config.check_paths()) {
        (Err(sentence), _) => Some((sentence, Exit::Usage)),
        (Ok(()), Err(sentence)) => Some((sentence, Exit::NotStarted)),
        (Ok(()), Ok(())) => None,
    };
    if let Some((sentence, exit)) = refused {
        let _ = writeln!(io::stderr(), "error: {sentence}");
        return exit;
    }
    serve(config)
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
    }

    #[test]
    fn run_with_a_directory_that_is_not_there_could_not_start() {
        assert_eq!(run(["maypole", "m:app", "--chdir", "/nowhere"], not_reached), Exit::NotStarted);
    }

    #[test]
    fn run_that_only_prints_is_ok() {
        for option in ["--help", "--version", "-h"] {
            assert_eq!(run(["maypole", "m:app", option], not_reached), Exit::Ok);
        }
    }
}
