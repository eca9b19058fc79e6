//! The command line that serves the files of a directory and nothing else: `maypole files DIR`.
//!
//! *Owns*: which settings it takes. *Runs on*: the main thread, while the settings are read. *Invariants*: a setting that
//! is given and can have no effect is refused by its name. The settings name no application, as on no other command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command};

use super::file::{Files, Place};
use super::read::{is_setting, working_directory};
use super::{APPLICATION, Config, Evaluator, LIMITS, Origin, STATUS, StaticFiles, WORKERS, help};

/// The word that the command line begins with.
pub const FILES_COMMAND: &str = "files";

/// How the command line is used.
const USAGE: &str = "maypole files DIR [OPTIONS]";

/// What stands for the directory in help and in errors.
const DIRECTORY: &str = "DIR";

/// The groups whose settings are about an application, or about the processes that run it.
const GROUPS_WITHOUT: [&str; 4] = [APPLICATION, LIMITS, STATUS, WORKERS];

/// The settings of these groups that have an effect nevertheless.
const WITH: [&str; 6] = [
    "chdir",
    "max_connections",
    "limit_request_line",
    "limit_request_fields",
    "limit_request_field_size",
    "limit_request_head",
];

/// The settings of other groups that are about an application.
const WITHOUT: [&str; 13] = [
    "sendfile_root",
    "scheme",
    "prefix",
    "strip_untrusted_forwarded",
    "body_timeout",
    "queue_timeout",
    "request_timeout",
    "request_interrupt",
    "log_config",
    "capture_output",
    "raw_env",
    "worker_tmp_dir",
    "print_config",
];

/// A variable of hosting platforms, which set it for all services.
const WORKERS_VARIABLE: &str = "WEB_CONCURRENCY";

impl Config {
    /// Reads the settings from `maypole files DIR`, and from a configuration file only if `--config` names one.
    ///
    /// # Errors
    /// As `read_from`. A setting is given that is about an application.
    pub fn read_directory(mut words: Vec<OsString>, evaluator: &Evaluator) -> Result<Self, clap::Error> {
        words.remove(1);
        // The project's file is about its application. The last of two equal options counts.
        words.insert(1, "--config=none".into());
        let place = Place { directory: &working_directory(), files: Files::Found, evaluator };
        let mut command = help::of_directory(Self::command().mut_args(described)).override_usage(USAGE);
        let mut config =
            Self::parse_as(command.clone(), words, &|name| std::env::var(name).ok(), &place).map_err(reworded)?;
        let refuse = |command: &mut Command, sentence: String| command.error(ErrorKind::ArgumentConflict, sentence);
        if config.origins.of("workers") == Origin::Variable(WORKERS_VARIABLE.to_owned()) {
            config.processes.workers = None;
            config.origins.set("workers", Origin::Default);
        }
        if let Some((name, origin)) = config.without_effect(&command) {
            let sentence = format!("{name} is not for `maypole files`, which serves no application ({origin})");
            return Err(refuse(&mut command, sentence));
        }
        let Some(directory) = config.application.take() else {
            return Err(refuse(&mut command, NO_DIRECTORY.to_owned()));
        };
        config.files.static_files.push(StaticFiles { prefix: String::new(), directory: PathBuf::from(directory) });
        Ok(config)
    }

    /// Returns whether the settings are those of `maypole files`: they name no application.
    pub fn is_of_directory(&self) -> bool {
        self.sites().next().is_none()
    }

    /// Returns a setting that is given although it has no effect, and where it comes from.
    fn without_effect(&self, command: &Command) -> Option<(String, Origin)> {
        command.get_arguments().filter(|arg| is_setting(arg) && !is_taken(arg)).find_map(|arg| {
            let origin = self.origins.of(arg.get_id().as_str());
            let is_given = !matches!(origin, Origin::Default | Origin::Follows(_));
            is_given.then(|| (format!("--{}", arg.get_long().unwrap_or_default()), origin))
        })
    }
}

/// The error message for a command line without a directory.
const NO_DIRECTORY: &str = "no directory is named

  example: maypole files public
  This serves the files of the directory `public` on http://127.0.0.1:8000.";

/// Describes an argument for this command line: the directory in the place of MODULE, and which settings help shows.
fn described(arg: Arg) -> Arg {
    if arg.get_id() == "application" {
        return arg
            .value_name(DIRECTORY)
            .value_parser(NonEmptyStringValueParser::new())
            .help("Serve the files of this directory. index.html stands for its directory");
    }
    let is_hidden = arg.is_hide_set() || (is_setting(&arg) && !is_taken(&arg));
    arg.hide(is_hidden)
}

/// Returns whether a command is that of `maypole files`.
pub(super) fn is_described_by(command: &Command) -> bool {
    command.get_positionals().filter_map(Arg::get_value_names).flatten().any(|name| name == DIRECTORY)
}

/// Returns whether a setting has an effect.
fn is_taken(arg: &Arg) -> bool {
    let (name, group) = (arg.get_id().as_str(), arg.get_help_heading().unwrap_or_default());
    WITH.contains(&name) || !(GROUPS_WITHOUT.contains(&group) || WITHOUT.contains(&name))
}

/// Names the directory in the error about what is missing.
fn reworded(error: clap::Error) -> clap::Error {
    match error.kind() {
        ErrorKind::MissingRequiredArgument => {
            clap::Error::raw(ErrorKind::MissingRequiredArgument, format!("{NO_DIRECTORY}\n"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Config, String> {
        let words = [&["maypole", FILES_COMMAND], words].concat().into_iter().map(OsString::from).collect();
        Config::read_directory(words, &Evaluator::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn directory_takes_the_place_of_the_application() {
        let config = read(&["public", "--bind", "127.0.0.1:0", "--static", "/a=b"]).unwrap();
        let files: Vec<_> = config.files.static_files.iter().map(ToString::to_string).collect();
        assert_eq!((files, config.is_of_directory()), (vec!["/a=b".to_owned(), "/=public".to_owned()], true));
        assert_eq!(read(&["C:", "--port", "0"]).unwrap().files.static_files[0].directory, PathBuf::from("C:"));
    }

    #[test]
    fn setting_of_an_application_is_refused_by_its_name() {
        for (words, expected) in [
            (&["public", "--threads", "4"][..], "--threads is not for `maypole files`"),
            (&["public", "-w", "4"], "--workers is not for"),
            (&["public", "--no-preload"], "--preload is not for"),
            (&["public", "--status-bind", "127.0.0.1:0"], "--status-bind is not for"),
            (&["public", "--sendfile-root", "x"], "--sendfile-root is not for"),
            (&["--mount", "/a=m:a"], "--mount is not for"),
            (&[], "no directory is named"),
            (&["a", "b"], "DIR is one directory (--static adds others): 'b' is one argument too many"),
        ] {
            let error = read(words).unwrap_err();
            assert!(error.contains(expected), "{words:?}: {error}");
        }
    }

    #[test]
    fn every_exception_is_a_setting_of_its_group() {
        let command = Config::command();
        for name in WITH.into_iter().chain(WITHOUT) {
            let arg = command.get_arguments().find(|arg| arg.get_id() == name).unwrap();
            let group = arg.get_help_heading().unwrap();
            assert_eq!(GROUPS_WITHOUT.contains(&group), WITH.contains(&name), "{name}");
        }
    }
}
