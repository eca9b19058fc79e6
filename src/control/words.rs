//! The words of a command: what it is to do, and the service that it is for.
//!
//! *Owns*: nothing. *Runs on*: the main thread. *Invariants*: options and words may come in any order. The first word is
//! the argument of a command that needs one; the next is the number of the process.

use std::fs;
use std::path::{Path, PathBuf};

use super::client::{self, Target};
use crate::sys;

/// What a command accepts besides the service.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Accepted {
    /// The word that it needs, as the usage shows it: `N`.
    pub(super) argument: Option<&'static str>,
    /// Its options: `--json`.
    pub(super) options: &'static [&'static str],
}

/// The words of a command, as an operator has given them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Words {
    /// The service.
    service: Service,
    /// The word that the command needs. Empty if it needs none.
    pub(super) argument: String,
    options: Vec<String>,
}

/// The service, as an operator has named it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Service {
    /// The only one of this machine.
    Only,
    Pid(u32),
    /// The process whose number is in this file.
    PidFile(PathBuf),
    /// Its socket for commands.
    Control(PathBuf),
}

impl Accepted {
    /// Returns the line that shows what the command `name` accepts.
    pub(super) fn usage(&self, name: &str) -> String {
        let argument = self.argument.map(str::to_owned);
        let options = self.options.iter().map(|option| format!("[{option}]"));
        let accepted = argument.into_iter().chain(options).chain(["[PID | --pid FILE | --control FILE]".to_owned()]);
        format!("usage: maypole {name} {}", accepted.collect::<Vec<_>>().join(" "))
    }

    /// Reads the words.
    ///
    /// # Errors
    /// A sentence: they are wrong.
    pub(super) fn read(&self, words: &[&str]) -> Result<Words, String> {
        let (mut argument, mut options, mut named) = (None, Vec::new(), Vec::new());
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            let (option, mut value) = match word.split_once('=') {
                Some((option, value)) if word.starts_with("--") => (option, Some(value)),
                _ => (word, None),
            };
            match option {
                "-p" | "--pid" | "--control" => {
                    let file = value.take().or_else(|| words.next()).ok_or(format!("{option} needs a file"))?;
                    let file = PathBuf::from(file);
                    named.push(if option == "--control" { Service::Control(file) } else { Service::PidFile(file) });
                }
                _ if self.options.contains(&word) => options.push(word.to_owned()),
                _ if word.starts_with('-') => return Err(format!("there is no option {word}")),
                _ if self.argument.is_some() && argument.is_none() => argument = Some(word.to_owned()),
                _ => named.push(Service::Pid(word.parse().map_err(|_| no_number(word))?)),
            }
        }
        if let (Some(expected), None) = (self.argument, &argument) {
            return Err(format!("{expected} is missing"));
        }
        let service = named.pop().unwrap_or(Service::Only);
        if !named.is_empty() {
            return Err("name one service".to_owned());
        }
        Ok(Words { service, argument: argument.unwrap_or_default(), options })
    }
}

impl Words {
    /// Returns whether an option is given.
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.iter().any(|given| given == option)
    }

    /// Finds the service.
    ///
    /// # Errors
    /// A sentence: there is none, or there are several.
    pub(super) fn target(&self) -> Result<Target, String> {
        match &self.service {
            Service::Only => client::only_service().map(Target::Pid),
            Service::Pid(pid) => Ok(Target::Pid(*pid)),
            Service::PidFile(file) => pid_in(file).map(Target::Pid),
            Service::Control(file) => Ok(Target::File(file.clone())),
        }
    }
}

/// Returns a sentence about a word that is no process number.
fn no_number(word: &str) -> String {
    let file = if Path::new(word).is_file() {
        format!("; for the PID in this file, write --pid {word}")
    } else {
        String::new()
    };
    format!("'{word}' is no process number{file}")
}

fn pid_in(file: &Path) -> Result<u32, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {}", file.display(), sys::plain(&error)))?;
    text.trim().parse().map_err(|_| format!("{} has no process number", file.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const PLAIN: Accepted = Accepted { argument: None, options: &["--json"] };
    const WITH_ARGUMENT: Accepted = Accepted { argument: Some("N"), options: &[] };

    #[test]
    fn words_name_a_service_in_several_ways() {
        let service = |words: &[&str]| PLAIN.read(words).unwrap().service;
        assert_eq!(service(&[]), Service::Only);
        assert_eq!(service(&["4711"]), Service::Pid(4711));
        for words in [&["--pid", "a.pid"][..], &["--pid=a.pid"], &["-p", "a.pid"]] {
            assert_eq!(service(words), Service::PidFile("a.pid".into()));
        }
        for words in [&["--control", "a.sock"][..], &["--control=a.sock"]] {
            assert_eq!(service(words), Service::Control("a.sock".into()));
        }
    }

    #[test]
    fn argument_comes_before_the_process_and_options_anywhere() {
        for words in [&["4", "4711"][..], &["--pid=x", "4"], &["4", "--pid", "x"]] {
            assert_eq!(WITH_ARGUMENT.read(words).unwrap().argument, "4");
        }
        for words in [&["--json", "4711"][..], &["4711", "--json"]] {
            let read = PLAIN.read(words).unwrap();
            assert!(read.has("--json") && read.service == Service::Pid(4711));
        }
        assert!(!PLAIN.read(&[]).unwrap().has("--json"));
    }

    #[test]
    fn wrong_words_are_named() {
        for (words, sentence) in [
            (&["shop"][..], "'shop' is no process number"),
            (&["1", "2"], "name one service"),
            (&["1", "--pid=x"], "name one service"),
            (&["--force"], "there is no option --force"),
            (&["--json=x"], "there is no option --json=x"),
            (&["--pid"], "--pid needs a file"),
        ] {
            assert_eq!(PLAIN.read(words), Err(sentence.to_owned()));
        }
        let file = PLAIN.read(&["Cargo.toml"]).unwrap_err();
        assert_eq!(file, "'Cargo.toml' is no process number; for the PID in this file, write --pid Cargo.toml");
        assert_eq!(WITH_ARGUMENT.read(&["--pid=x"]), Err("N is missing".to_owned()));
    }
}
