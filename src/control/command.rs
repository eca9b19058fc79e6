//! The command `maypole reload`.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::{Request, Response, is_trusted, name, prefix};
use crate::sys;

/// How the command is used.
const USAGE: &str = "maypole reload [PID | --pid FILE]";

/// What a run of the command has found out, for the exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The sentence is for the standard output.
    Done(String),
    /// The reload has failed, or there is no such supervisor.
    Failed(String),
    /// The words are wrong.
    Usage(String),
}

/// Tells a supervisor to reload, and waits until the new code serves or has failed. `words` follow `reload`.
pub fn reload(words: &[OsString]) -> Outcome {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let pid = match *words.as_slice() {
        [] => only_supervisor(),
        ["-h" | "--help"] => return Outcome::Done(format!("Usage: {USAGE}\n\n{HELP}")),
        ["-p" | "--pid", file] => pid_in(Path::new(file)),
        [word] => match (word.parse(), word.strip_prefix("--pid=")) {
            (Ok(pid), _) => Ok(pid),
            (_, Some(file)) => pid_in(Path::new(file)),
            _ => return Outcome::Usage(format!("'{word}' is no process number; usage: {USAGE}")),
        },
        _ => return Outcome::Usage(format!("usage: {USAGE}")),
    };
    match pid.and_then(|pid| ask(pid, Request::Reload)) {
        Ok(response) if response.is_ok => Outcome::Done(response.sentence),
        Ok(response) => Outcome::Failed(response.sentence),
        Err(sentence) => Outcome::Failed(sentence),
    }
}

const HELP: &str = "Reload the settings and the application of a service with workers. The command waits until the new \
                    code serves. It exits with 1 if that does not come up: the old code serves on then.\n\
                    Without PID and FILE it takes the only supervisor of this machine.";

fn pid_in(file: &Path) -> Result<u32, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {}", file.display(), sys::plain(&error)))?;
    text.trim().parse().map_err(|_| format!("{} has no process number", file.display()))
}

/// Returns the only supervisor of this PID namespace.
fn only_supervisor() -> Result<u32, String> {
    let table = fs::read_to_string("/proc/net/unix").map_err(|error| format!("give a PID: {}", sys::plain(&error)))?;
    let found = supervisors(&table, &format!("@{}", prefix()));
    match *found.as_slice() {
        [pid] => Ok(pid),
        [] => Err("no supervisor runs here".to_owned()),
        _ => {
            let found: Vec<String> = found.iter().map(u32::to_string).collect();
            Err(format!("there are several supervisors: {}; give the PID of one", found.join(", ")))
        }
    }
}

/// Returns the processes that listen on names with this prefix, from the text of `/proc/net/unix` (`proc_net(5)`).
fn supervisors(table: &str, prefix: &str) -> Vec<u32> {
    let mut found: Vec<u32> = table
        .lines()
        .filter_map(|line| line.split_whitespace().next_back()?.strip_prefix(prefix)?.parse().ok())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Sends a request to a supervisor, and waits for the response.
fn ask(pid: u32, request: Request) -> Result<Response, String> {
    let (channel, peer) = sys::connect_channel(&name(pid)).map_err(|error| {
        let error = sys::plain(&error);
        format!(
            "process {pid} is no supervisor of this user: {error}. One process without workers takes SIGHUP instead"
        )
    })?;
    if peer.pid != pid || !is_trusted(peer) {
        return Err(format!("the name of the supervisor {pid} belongs to process {} of user {}", peer.pid, peer.uid));
    }
    let asked = serde_json::to_vec(&request).map_err(std::io::Error::from).and_then(|bytes| channel.send(&bytes, &[]));
    let received = asked.and_then(|()| channel.receive()).map_err(|error| sys::plain(&error))?;
    let message = received.ok_or_else(|| format!("the supervisor {pid} has ended"))?;
    serde_json::from_slice(&message.bytes).map_err(|error| format!("the supervisor {pid} speaks otherwise: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supervisors_are_found_by_their_names() {
        let table = "Num RefCount Protocol Flags Type St Inode Path\n\
                     0: 2 0 10000 5 01 7 @maypole/40/12\n0: 2 0 10000 5 01 8 @maypole/41/13\n0: 2 0 10000 1 01 9\n\
                     0: 2 0 10000 5 03 7 @maypole/40/12\n0: 2 0 10000 5 01 6 @maypole/40/7\n";
        assert_eq!(supervisors(table, "@maypole/40/"), [7, 12]);
    }

    #[test]
    fn wrong_words_are_a_usage_error() {
        for words in [&["shop"][..], &["1", "2"], &["--force"]] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert!(matches!(reload(&words), Outcome::Usage(_)), "{words:?}");
        }
    }

    #[test]
    fn process_that_is_no_supervisor_is_named() {
        let Outcome::Failed(sentence) = reload(&[std::process::id().to_string().into()]) else {
            panic!("this process is no supervisor");
        };
        assert!(sentence.contains("is no supervisor"), "{sentence}");
    }
}
