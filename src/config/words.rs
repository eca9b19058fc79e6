//! The command line from which another process of the service reads the same settings.
//!
//! *Owns*: `Words`, a part of `Config`. *Runs on*: the main thread. *Invariants*: the words do not depend on the working
//! directory, nor on files that may have changed since. Settings of the environment are not among them: the other
//! process has the same environment.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::Config;

/// The command lines that settings were read from.
#[derive(Debug, Clone, Default)]
pub(super) struct Words {
    /// The command line as it was given, the program's name first.
    given: Vec<OsString>,
    /// The working directory in which it was given.
    directory: PathBuf,
    /// The command line for another process.
    complete: Vec<OsString>,
}

impl Words {
    /// Keeps the command line that was `given`, and completes it. `chdir` is the directory that it asks for.
    pub(super) fn new(given: Vec<OsString>, chdir: Option<&Path>) -> Self {
        // Without a working directory, a relative path cannot be made absolute, and the process cannot start later.
        let directory = std::env::current_dir().unwrap_or_default();
        let mut complete = given.clone();
        if let Some(chdir) = chdir.filter(|dir| dir.is_relative()) {
            let end = complete.iter().position(|word| word == "--").unwrap_or(complete.len());
            complete.insert(end, option("chdir", directory.join(chdir).as_os_str()));
        }
        Self { given, directory, complete }
    }
}

impl Config {
    /// Returns the command line from which another process of the service reads these settings, the program's name
    /// first. The process needs the environment of this one, and may have any working directory.
    pub fn words(&self) -> &[OsString] {
        &self.words.complete
    }

    /// Returns the command line as it was given, and the working directory at that time.
    pub fn given_words(&self) -> (&[OsString], &Path) {
        (&self.words.given, &self.words.directory)
    }
}

/// Returns an option with its value as one word.
fn option(name: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(format!("--{name}="));
    word.push(value);
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(args: &[&str]) -> Vec<String> {
        let config = Config::parse_from(args).unwrap();
        config.words().iter().map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn words_are_those_of_the_command_line() {
        let args = ["maypole", "-w", "4", "--bind", "127.0.0.1:0", "m:app"];
        assert_eq!(words(&args), args);
    }

    #[test]
    fn words_name_an_absolute_directory() {
        let absolute = format!("--chdir={}", std::env::current_dir().unwrap().join("src").display());
        assert_eq!(words(&["maypole", "--chdir", "src", "m"]), ["maypole", "--chdir", "src", "m", &absolute]);
        assert_eq!(words(&["maypole", "--chdir=src", "--", "m"]), ["maypole", "--chdir=src", &absolute, "--", "m"]);
        let config = Config::parse_from(words(&["maypole", "--chdir=src", "--", "m"])).unwrap();
        assert_eq!(config.chdir.unwrap(), std::env::current_dir().unwrap().join("src"));
    }
}
