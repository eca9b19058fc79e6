//! The commands of the command line that reach a running service: `maypole reload`.
//!
//! *Owns*: nothing. *Runs on*: the main thread. *Invariants*: a command exits with 0 if it had its effect, with 1 if it
//! had none, and with 2 if its words are wrong.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::client::{Answer, Target};
use super::{Response, prefix};
use crate::sys;

/// What a run of a command has found out, for the exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The text is for the standard output.
    Done(String),
    /// The command has had no effect, or there is no such service.
    Failed(String),
    /// The words are wrong.
    Usage(String),
}

/// A command.
struct Command {
    name: &'static str,
    help: &'static str,
    act: fn(&Target) -> Outcome,
}

const COMMANDS: [Command; 1] = [Command {
    name: "reload",
    help: "Reload the settings and the application of a service with workers. The command waits until the new code \
           serves. It exits with 1 if that does not come up: the old code serves on then.",
    act: |target| change(target, "/reload"),
}];

const TARGETS: &str = "[PID | --pid FILE | --control FILE]";
const WITHOUT_TARGET: &str = "Without PID and FILE it takes the only service of this machine.";

/// Runs the command with this name, if there is one. `words` follow the name.
pub fn run(name: &str, words: &[OsString]) -> Option<Outcome> {
    let command = COMMANDS.iter().find(|command| command.name == name)?;
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let usage = format!("usage: maypole {name} {TARGETS}");
    if matches!(words.as_slice(), ["-h" | "--help"]) {
        return Some(Outcome::Done(format!("{usage}\n\n{}\n{WITHOUT_TARGET}", command.help)));
    }
    Some(match target(&words) {
        Ok(target) => (command.act)(&target),
        Err(Refused::Usage(sentence)) => Outcome::Usage(format!("{sentence}{usage}")),
        Err(Refused::None(sentence)) => Outcome::Failed(sentence),
    })
}

/// Why there is no service to command.
enum Refused {
    Usage(String),
    None(String),
}

/// Returns the service that the words name.
fn target(words: &[&str]) -> Result<Target, Refused> {
    let pid_in = |file| pid_in(Path::new(file)).map(Target::Pid).map_err(Refused::None);
    match *words {
        [] => only_service().map(Target::Pid).map_err(Refused::None),
        ["-p" | "--pid", file] => pid_in(file),
        ["--control", file] => Ok(Target::File(file.into())),
        [word] => match (word.parse(), word.strip_prefix("--pid="), word.strip_prefix("--control=")) {
            (Ok(pid), ..) => Ok(Target::Pid(pid)),
            (_, Some(file), _) => pid_in(file),
            (.., Some(file)) => Ok(Target::File(file.into())),
            _ => Err(Refused::Usage(format!("'{word}' is no process number; "))),
        },
        _ => Err(Refused::Usage(String::new())),
    }
}

/// Tells a service to change something, and waits for what comes of it.
fn change(target: &Target, path: &str) -> Outcome {
    match target.ask("POST", path).map(|answer| read(target, &answer)) {
        Ok(response) if response.is_ok => Outcome::Done(response.sentence),
        Ok(Response { sentence, .. }) | Err(sentence) => Outcome::Failed(sentence),
    }
}

fn read(target: &Target, answer: &Answer) -> Response {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| {
        Response::failure(format!(
            "{target} does not know this command: it may run another version ({})",
            answer.status
        ))
    })
}

fn pid_in(file: &Path) -> Result<u32, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {}", file.display(), sys::plain(&error)))?;
    text.trim().parse().map_err(|_| format!("{} has no process number", file.display()))
}

/// Returns the only service of this PID namespace.
fn only_service() -> Result<u32, String> {
    let table = fs::read_to_string("/proc/net/unix").map_err(|error| format!("give a PID: {}", sys::plain(&error)))?;
    let found = services(&table, &format!("@{}", prefix()));
    match *found.as_slice() {
        [pid] => Ok(pid),
        [] => Err("no service of Maypole runs here".to_owned()),
        _ => {
            let found: Vec<String> = found.iter().map(u32::to_string).collect();
            Err(format!("there are several services: {}; give the PID of one", found.join(", ")))
        }
    }
}

/// Returns the processes that listen on names with this prefix, from the text of `/proc/net/unix` (`proc_net(5)`).
fn services(table: &str, prefix: &str) -> Vec<u32> {
    let mut found: Vec<u32> = table
        .lines()
        .filter_map(|line| line.split_whitespace().next_back()?.strip_prefix(prefix)?.parse().ok())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_their_names() {
        let table = "Num RefCount Protocol Flags Type St Inode Path\n\
                     0: 2 0 10000 1 01 7 @maypole/40/12\n0: 2 0 10000 1 01 8 @maypole/41/13\n0: 2 0 10000 1 01 9\n\
                     0: 2 0 10000 1 03 7 @maypole/40/12\n0: 2 0 10000 1 01 6 @maypole/40/7\n";
        assert_eq!(services(table, "@maypole/40/"), [7, 12]);
    }

    #[test]
    fn wrong_words_are_a_usage_error() {
        for words in [&["shop"][..], &["1", "2"], &["--force"]] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert!(matches!(run("reload", &words), Some(Outcome::Usage(_))), "{words:?}");
        }
        assert_eq!(run("serve", &[]), None);
    }

    #[test]
    fn process_that_is_no_service_is_named() {
        let Some(Outcome::Failed(sentence)) = run("reload", &[std::process::id().to_string().into()]) else {
            panic!("this process is no service");
        };
        assert!(sentence.contains("is no service"), "{sentence}");
    }
}
