//! Configuration files: finds the file, and turns its settings into words of the command line.
//!
//! *Owns*: `ConfigFile`. *Runs on*: the main thread, before anything is started; at a reload, a thread of the supervisor.
//! *Invariants*: a file has no parser of its own for values. Each setting becomes words of the command line, which the
//! usual parser reads. A setting that the command line or the environment gives replaces that of the file.

mod evaluation;
mod python;
mod table;
mod text;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

pub use self::evaluation::{EVALUATION_VARIABLE, Evaluator};
use super::keywords::value_error;
use super::read::working_directory;
use super::words::option_words;
use super::{Config, Origin, Origins};

/// The file of a Python project, which is read without being named.
const PROJECT_FILE: &str = "pyproject.toml";

/// The file that gunicorn reads without being told. Here an option has to name it.
const GUNICORN_FILE: &str = "gunicorn.conf.py";

/// The value of `--config` that reads no file.
pub(super) const NO_FILE: &str = "none";

/// The endings of files that `maypole migrate` reads, and `--config` does not.
const ENDINGS_TO_MIGRATE: [&str; 4] = ["ini", "yaml", "yml", "xml"];

/// A placeholder on the command line, for the application.
const APPLICATION: &str = "m:app";

/// A configuration file that has been read.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    /// Its name, for error messages and for the log: `maypole.toml`, `pyproject.toml [tool.maypole]`.
    pub name: String,
    /// Its path, from `/` on.
    pub path: PathBuf,
    /// Sentences about settings that have no effect, or not the same. Each begins with its line.
    pub remarks: Vec<String>,
    /// Why Maypole does not start with the file. `maypole migrate` takes over the rest of it.
    pub refusal: Option<String>,
    /// Its settings, in its order.
    pub entries: Vec<Entry>,
}

/// A setting of a configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The name of the setting: `pool_size`.
    pub name: String,
    /// Its values, as the command line's parser takes them.
    pub values: Vec<String>,
    /// The line in the file, from 1. 0 means that the line is not known.
    pub line: usize,
    /// How the value was computed, and what differs from the server that the file is for.
    pub notes: Vec<String>,
}

/// Which files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Files {
    /// None.
    #[default]
    None,
    /// The file that `--config` names.
    Named,
    /// The file that `--config` names, else that of the project.
    Found,
}

/// Where a file may be.
pub(super) struct Place<'a> {
    /// The directory that relative paths begin at.
    pub(super) directory: &'a Path,
    /// Which files are read.
    pub(super) files: Files,
    /// The process that evaluates a file in Python.
    pub(super) evaluator: &'a Evaluator,
}

/// Reads the configuration file that the command line or the environment names, or that of the project. `given` is
/// the command line, read without a file.
///
/// # Errors
/// A sentence: there is no such file, or something in it is wrong.
pub(super) fn find(given: &ArgMatches, place: &Place) -> Result<Option<ConfigFile>, String> {
    let file = match named(given) {
        Some(NO_FILE) => return Ok(None),
        Some(name) => read(name, place)?,
        None if place.files == Files::Found => {
            let chdir = given.get_one::<PathBuf>("chdir").cloned().unwrap_or_default();
            match table::of_project(&place.directory.join(chdir).join(PROJECT_FILE))? {
                Some(file) => file,
                None => return Ok(None),
            }
        }
        None => return Ok(None),
    };
    if let Some(refusal) = file.refusal {
        return Err(refusal);
    }
    file.check_values()?;
    Ok(Some(file))
}

/// Returns the file of `--config`, or of its variable.
fn named(given: &ArgMatches) -> Option<&str> {
    let is_there = matches!(given.try_contains_id("config"), Ok(true)) && given.value_source("config").is_some();
    is_there.then(|| given.get_one::<String>("config")).flatten().map(String::as_str)
}

/// Returns the name of a file in the working directory that gunicorn would read, and that is not read here. `none` as
/// the file of `--config` says that the operator knows.
pub(super) fn unread(given: &ArgMatches, place: &Place) -> Option<&'static str> {
    let is_expected = place.files == Files::Found && named(given).is_none();
    (is_expected && place.directory.join(GUNICORN_FILE).is_file()).then_some(GUNICORN_FILE)
}

/// Reads the file of this name. Its ending tells its form.
fn read(name: &str, place: &Place) -> Result<ConfigFile, String> {
    let path = place.directory.join(name);
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    if ENDINGS_TO_MIGRATE.contains(&ending.as_str()) {
        return Err(format!("cannot read settings from {name}: `maypole migrate {name}` makes a TOML file of it"));
    }
    if ending == "toml" {
        return table::of_file(name, &path);
    }
    python::of_file(name, place.directory, place.evaluator)
}

impl ConfigFile {
    /// Returns the remarks as one list. `None` if there are none.
    pub(super) fn remarks_list(&self) -> Option<String> {
        let count = match self.remarks.len() {
            0 => return None,
            1 => "one setting has no effect here, or a different one".to_owned(),
            count => format!("{count} settings have no effect here, or a different one"),
        };
        Some(format!("{}: {count}:\n  {}", self.name, self.remarks.join("\n  ")))
    }

    /// Names a line of the file: `maypole.toml:4`.
    pub(super) fn at(&self, line: usize) -> String {
        place_of(&self.name, line)
    }

    /// Reads a configuration file of gunicorn, or the module `python:MODULE`, as `--config` does.
    ///
    /// # Errors
    /// A sentence, with a traceback if code of the file failed.
    pub fn of_python(name: &str, evaluator: &Evaluator) -> Result<Self, String> {
        python::of_file(name, &working_directory(), evaluator)
    }

    /// Has the command line's parser read each setting by itself, so that an error names its line.
    fn check_values(&self) -> Result<(), String> {
        let command = bare_command();
        self.entries.iter().try_for_each(|entry| {
            check_value(&command, entry).map_err(|sentence| format!("{}: {sentence}", self.at(entry.line)))
        })
    }

    /// Turns the settings whose values the command line's parser refuses into remarks.
    pub fn leave_out_wrong_values(&mut self) {
        let command = bare_command();
        for entry in std::mem::take(&mut self.entries) {
            match check_value(&command, &entry) {
                Ok(()) => self.entries.push(entry),
                Err(sentence) => self.remark(entry.line, &entry.name, &sentence),
            }
        }
    }

    /// Adds a remark about a line. Line 0 is not known.
    pub fn remark(&mut self, line: usize, name: &str, reason: &str) {
        let at = if line == 0 { String::new() } else { format!("line {line}: ") };
        self.remarks.push(format!("{at}{name}: {reason}"));
    }

    /// Returns the settings as words, without the settings that the command line or the environment gives.
    pub(super) fn words(&self, command: &Command, given: &ArgMatches) -> Vec<OsString> {
        let entries = self.entries.iter().filter(|entry| !is_replaced(&entry.name, given));
        entries.flat_map(|entry| words_of(command, entry)).collect()
    }

    /// Sets the origin of the settings that come from this file.
    pub(super) fn set_origins(&self, given: &ArgMatches, origins: &mut Origins) {
        for entry in self.entries.iter().filter(|entry| !is_replaced(&entry.name, given)) {
            let name = if ["host", "port"].contains(&entry.name.as_str()) { "bind" } else { &entry.name };
            origins.set(name, Origin::File(self.at(entry.line)));
        }
    }
}

/// Returns clap's description of the command line without variables: these have nothing to do with a file.
fn bare_command() -> Command {
    Config::command().mut_args(|arg| arg.env(None))
}

/// Has the command line's parser read a setting by itself.
fn check_value(command: &Command, entry: &Entry) -> Result<(), String> {
    let words = words_of(command, entry);
    let names_application = entry.name == "application";
    let line = std::iter::once("maypole".into()).chain(words).chain((!names_application).then(|| APPLICATION.into()));
    command.clone().try_get_matches_from(line).map(drop).map_err(|error| value_error(&error))
}

/// Names a line of a file. Line 0 is not known.
fn place_of(file: &str, line: usize) -> String {
    if line == 0 { file.to_owned() } else { format!("{file}:{line}") }
}

/// Returns whether the command line or the environment gives the setting, or another one in its place.
fn is_replaced(name: &str, given: &ArgMatches) -> bool {
    let replacing: &[&str] = match name {
        "bind" => &["bind", "host", "port"],
        "host" => &["host", "bind"],
        "port" => &["port", "bind"],
        "application" | "paste" => &["application", "paste"],
        name => &[name],
    };
    let is_given =
        |name: &&str| matches!(given.value_source(name), Some(ValueSource::CommandLine | ValueSource::EnvVariable));
    replacing.iter().any(is_given)
}

fn words_of(command: &Command, entry: &Entry) -> Vec<OsString> {
    let arg = command.get_arguments().find(|arg| arg.get_id() == entry.name.as_str());
    arg.map(|arg| option_words(arg, &entry.values)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn words_have_the_settings_of_the_file_as_they_were_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shop.toml");
        fs::write(&path, "[maypole]\nbind = ['127.0.0.1:0', '[::1]:0']\npool_size = 7\nthreads = 3\npreload = true")
            .unwrap();
        let given = ["maypole", "--threads", "4", "-c", path.to_str().unwrap(), "m:app"];
        let config = Config::read_from(given, &Evaluator::default()).unwrap();
        assert_eq!((config.pool_size, config.threads, config.bind.len()), (7, Some(4), 2));
        fs::write(&path, "[maypole]\npool_size = 8\n").unwrap();
        let without_source = |config: &Config| {
            let mut settings = config.settings();
            settings.retain(|(name, _)| *name != "config");
            settings
        };
        let again = Config::read_from(config.words(), &Evaluator::default()).unwrap();
        assert_eq!(without_source(&again), without_source(&config));
        let anew = config.read_again().unwrap();
        assert_eq!((anew.pool_size, anew.threads, anew.bind.len()), (8, Some(4), 1));
        assert!(!anew.processes.preload);
        fs::write(&path, "[maypole]\npool_size = 'x'\n").unwrap();
        let error = config.read_again().unwrap_err().to_string();
        assert!(error.contains("shop.toml:2: invalid value 'x' for pool_size: expected a whole number"), "{error}");
    }
}
