//! The command line from which another process of the service reads the same settings.
//!
//! *Owns*: `Words`, a part of `Config`. *Runs on*: the main thread. *Invariants*: the words do not depend on the working
//! directory, nor on files that may have changed since. Settings of the environment are not among them: the other
//! process has the same environment.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Arg;

use super::file::{Files, NO_FILE, Place};
use super::{Config, ConfigFile, Evaluator};

/// The command lines that settings were read from.
#[derive(Debug, Clone, Default)]
pub(super) struct Words {
    /// The command line as it was given, the program's name first.
    pub(super) given: Vec<OsString>,
    /// The working directory in which it was given.
    pub(super) directory: PathBuf,
    /// Which configuration files were read.
    files: Files,
    /// The process that evaluates configuration files in Python.
    pub(super) evaluator: Evaluator,
    /// The command line for another process.
    complete: Vec<OsString>,
}

impl Words {
    /// Keeps the command line that was `given` in `directory`, and completes `all`, which has the settings of a file as
    /// well. `chdir` is the directory that they ask for.
    pub(super) fn new(given: Vec<OsString>, all: Vec<OsString>, place: &Place, chdir: Option<&Path>) -> Self {
        let (directory, evaluator) = (place.directory, place.evaluator.clone());
        let mut complete = all;
        let mut end = complete.iter().position(|word| word == "--").unwrap_or(complete.len());
        let mut insert = |word| {
            complete.insert(end, word);
            end += 1;
        };
        // The last of two equal options counts.
        insert(long_option("config", NO_FILE.as_ref()));
        if let Some(chdir) = chdir.filter(|dir| dir.is_relative()) {
            insert(long_option("chdir", directory.join(chdir).as_os_str()));
        }
        Self { given, directory: directory.to_owned(), files: place.files, evaluator, complete }
    }

    /// Returns where the configuration file was looked for.
    pub(super) fn place(&self) -> Place<'_> {
        Place { directory: &self.directory, files: self.files, evaluator: &self.evaluator }
    }
}

impl Config {
    /// Returns the command line from which another process of the service reads these settings, the program's name
    /// first. The process needs the environment of this one, and may have any working directory. It reads no
    /// configuration file: the settings of the file are among the words.
    pub fn words(&self) -> &[OsString] {
        &self.words.complete
    }

    /// Returns the configuration file that the settings come from.
    pub fn file(&self) -> Option<&ConfigFile> {
        self.file.as_ref()
    }

    /// Returns sentences about a file that users of gunicorn expect to be read, and about settings of a file or of the
    /// environment that have no effect.
    pub fn file_warnings(&self) -> Vec<String> {
        let unread = self
            .unread
            .map(|name| format!("{name} is not read: give -c {name} to read it, or -c none if that is right"));
        let of_file = self.file.as_ref().and_then(ConfigFile::remarks_list);
        unread.into_iter().chain(of_file).chain(self.tls_warnings()).collect()
    }
}

/// Returns the words that give an option these values.
pub(super) fn option_words(arg: &Arg, values: &[String]) -> Vec<OsString> {
    let word = |value: &String| arg.get_long().map_or_else(|| value.into(), |long| long_option(long, value.as_ref()));
    values.iter().map(word).collect()
}

/// Returns an option with its value as one word.
fn long_option(name: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(format!("--{name}="));
    word.push(value);
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &str = "--config=none";

    fn words(args: &[&str]) -> Vec<String> {
        let config = Config::parse_from(args).unwrap();
        config.words().iter().map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn words_are_those_of_the_command_line() {
        let args = ["maypole", "-w", "4", "--bind", "127.0.0.1:0", "m:app"];
        assert_eq!(words(&args), [&args[..], &[NONE]].concat());
    }

    #[test]
    fn words_name_an_absolute_directory() {
        let absolute = format!("--chdir={}", std::env::current_dir().unwrap().join("src").display());
        assert_eq!(words(&["maypole", "--chdir", "src", "m"]), ["maypole", "--chdir", "src", "m", NONE, &absolute]);
        let given = ["maypole", "--chdir=src", "--", "m"];
        assert_eq!(words(&given), ["maypole", "--chdir=src", NONE, &absolute, "--", "m"]);
        let config = Config::parse_from(words(&given)).unwrap();
        assert_eq!(config.chdir.unwrap(), std::env::current_dir().unwrap().join("src"));
    }
}
