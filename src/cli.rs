//! Runs the command line: reads a `Config` from its words, and returns the exit status.
//!
//! *Owns*: the exit statuses, and the output before anything is started. *Runs on*: the main thread.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::config::{self, Config, Evaluator};
use crate::control::{self, Outcome};
use crate::migrate;

/// How a run ended: the exit status of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The run ended without an error.
    Ok = 0,
    /// Something failed while serving.
    Failure = 1,
    /// The command line, a variable or a combination of settings is wrong, on any machine.
    Usage = 2,
    /// This machine lacks or forbids what the settings ask for: an address is in use, a directory does not exist.
    NotStarted = 3,
    /// The application cannot be imported.
    NotImportable = 4,
    /// A command is for the service of another user.
    Refused = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs the command line `args`, whose first word is the program's name. Calls `serve` if the settings are valid.
/// Prints help, the version and errors in settings itself. `evaluator` evaluates configuration files in Python.
pub fn run<I>(args: I, evaluator: &Evaluator, serve: impl FnOnce(Config) -> Exit) -> Exit
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let words: Vec<OsString> = args.into_iter().map(Into::into).collect();
    if let Some(outcome) = words.get(1).and_then(|word| control::run(word.to_str()?, &words[2..])) {
        return report(outcome);
    }
    if migrate::is_asked(&words) {
        let migrated = migrate::run(&words[2..], evaluator);
        return report(migrated.map_or_else(Outcome::Usage, |text| Outcome::Done(text.trim_end().to_owned())));
    }
    let read = match words.get(1) {
        Some(word) if word == config::FILES_COMMAND => Config::read_directory(words, evaluator),
        _ => Config::read_from(words, evaluator),
    };
    let config = match read {
        Ok(config) => config,
        Err(error) => {
            // If the reader has closed the pipe, this is not a failure: no error message could reach the reader.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    if let Err(sentence) = config.check() {
        return refuse(&sentence, Exit::Usage);
    }
    go_on(config, serve)
}

/// Does what `run` does, with words that another process of the service has made of its settings. That process has
/// checked the rules between them, and knows which ones a file has set.
pub fn run_again(words: &[OsString], serve: impl FnOnce(Config) -> Exit) -> Exit {
    match Config::read_from(words, &Evaluator::default()) {
        Ok(config) => go_on(config, serve),
        Err(error) => {
            let _ = error.print();
            Exit::Usage
        }
    }
}

/// Calls `serve` if this machine has the paths of the settings.
fn go_on(config: Config, serve: impl FnOnce(Config) -> Exit) -> Exit {
    match config.check_paths() {
        Ok(()) => serve(config),
        Err(sentence) => refuse(&sentence, Exit::NotStarted),
    }
}

/// Prints why the settings are refused.
fn refuse(sentence: &str, exit: Exit) -> Exit {
    let _ = writeln!(io::stderr(), "error: {sentence}");
    exit
}

/// Prints what a command has found out. Returns its exit status.
fn report(outcome: Outcome) -> Exit {
    let (exit, sentence) = match outcome {
        Outcome::Done(sentence) => {
            if !sentence.is_empty() {
                let _ = writeln!(io::stdout(), "{sentence}");
            }
            return Exit::Ok;
        }
        Outcome::NotReady(text) => {
            let _ = writeln!(io::stdout(), "{text}");
            return Exit::Failure;
        }
        Outcome::Failed(sentence) => (Exit::Failure, sentence),
        Outcome::Refused(sentence) => (Exit::Refused, sentence),
        Outcome::Usage(sentence) => (Exit::Usage, sentence),
    };
    let _ = writeln!(io::stderr(), "error: {sentence}");
    exit
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
        let exit = run(["maypole", "m:app"], &Evaluator::default(), |config| {
            application = config.application_name().to_owned();
            Exit::NotImportable
        });
        assert_eq!((exit, application.as_str()), (Exit::NotImportable, "m:app"));
    }

    #[test]
    fn run_with_wrong_settings_is_a_usage_error() {
        assert_eq!(run(["maypole"], &Evaluator::default(), not_reached), Exit::Usage);
        assert_eq!(run(["maypole", "m:app", "--threads", "0"], &Evaluator::default(), not_reached), Exit::Usage);
    }

    #[test]
    fn run_with_a_directory_that_is_not_there_could_not_start() {
        assert_eq!(
            run(["maypole", "m:app", "--chdir", "/nowhere"], &Evaluator::default(), not_reached),
            Exit::NotStarted
        );
    }

    #[test]
    fn run_that_only_prints_is_ok() {
        for option in ["--help", "--version", "-h"] {
            assert_eq!(run(["maypole", "m:app", option], &Evaluator::default(), not_reached), Exit::Ok);
        }
    }
}
