//! The commands of the command line that reach a running service, such as `maypole reload`.
//!
//! *Owns*: the table of the commands. *Runs on*: the main thread. *Invariants*: a command exits with 0 if it had its
//! effect, with 1 if it had none, with 2 if its words are wrong, and with 5 if the service belongs to another user.

use std::ffi::OsString;
use std::path::Path;

use super::client::{Answer, Failure, Target};
use super::words::{Accepted, Words};
use super::{Request, Response, followed, show};

/// What a run of a command has found out, for the exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The text is for the standard output. An empty one prints nothing.
    Done(String),
    /// The text is for the standard output, although the service is not ready.
    NotReady(String),
    /// The command has had no effect, or there is no such service.
    Failed(String),
    /// The service belongs to another user.
    Refused(String),
    /// The words are wrong.
    Usage(String),
}

/// A command.
struct Command {
    name: &'static str,
    /// What it accepts besides the service.
    accepted: Accepted,
    help: &'static str,
    action: Action,
}

/// What a command does.
enum Action {
    /// It shows something of the service.
    Show(fn(&Target, &Words) -> Outcome),
    /// It asks the service for a change. An error is a sentence: the argument is wrong.
    Change(fn(&str) -> Result<Request, String>),
}

const NO_WORDS: Accepted = Accepted { argument: None, options: &[] };
const JSON: Accepted = Accepted { argument: None, options: &["--json"] };

const COMMANDS: [Command; 10] = [
    Command {
        name: "status",
        accepted: JSON,
        help: "Show whether a service can take requests, and what each of its processes does. The command exits with \
               0 if the service is ready, and with 1 if not. --json prints all numbers as JSON.",
        action: Action::Show(status),
    },
    Command {
        name: "requests",
        accepted: JSON,
        help: "Show the requests that are being served, the oldest first, and where in the application each of them \
               is. --json prints them as JSON.",
        action: Action::Show(requests),
    },
    Command {
        name: "dump",
        accepted: NO_WORDS,
        help: "Show the stacks of all Python threads of each process, also if a thread keeps the GIL (Python's lock).",
        action: Action::Show(|target, _| dump(target)),
    },
    Command {
        name: "top",
        accepted: NO_WORDS,
        help: "Show a live page of a service: its processes, where its time goes, and its requests with the line of \
               the application that each of them runs. Keys choose a request, show its stack, and reload the service. \
               If the input or the output is no terminal, the command prints one page.",
        action: Action::Show(|_, words| {
            let words = words.clone();
            followed::top(move || words.target())
        }),
    },
    Command {
        name: "reload",
        accepted: NO_WORDS,
        help: "Reload the settings and the application of a service. The command waits until the new code serves. It \
               exits with 1 if that does not come up: the old code serves on then.",
        action: Action::Change(|_| Ok(Request::Reload)),
    },
    Command {
        name: "scale",
        accepted: Accepted { argument: Some("N"), options: &[] },
        help: "Let N workers serve. The command waits until they do. It exits with 1 if one does not come up.",
        action: Action::Change(Request::scale),
    },
    Command {
        name: "drain",
        accepted: NO_WORDS,
        help: "Let a service accept nothing more, and wait until every request has ended. The process stays. The \
               command exits with 1 if requests run for longer than --graceful-timeout.",
        action: Action::Change(|_| Ok(Request::Drain)),
    },
    Command {
        name: "stop",
        accepted: NO_WORDS,
        help: "Stop a service as SIGTERM does: requests may run for --graceful-timeout more. The command waits until \
               the service has ended.",
        action: Action::Change(|_| Ok(Request::Stop)),
    },
    Command {
        name: "quit",
        accepted: NO_WORDS,
        help: "End a service at once, and cut its requests off. The command waits until the service has ended.",
        action: Action::Change(|_| Ok(Request::Quit)),
    },
    Command {
        name: "log-level",
        accepted: Accepted { argument: Some("LEVEL"), options: &[] },
        help: "Log this level and more important ones: debug, info, warning, error or critical. This holds for all \
               processes of the service, until a reload or its end.",
        action: Action::Change(Request::log_level),
    },
];

const WITHOUT_SERVICE: &str = "Without PID and FILE it takes the only service of this machine.";

/// Runs the command with this name, if there is one. `words` follow the name.
pub fn run(name: &str, words: &[OsString]) -> Option<Outcome> {
    let command = COMMANDS.iter().find(|command| command.name == name)?;
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let usage = command.accepted.usage(name);
    if words.iter().any(|word| ["-h", "--help"].contains(word)) {
        return Some(Outcome::Done(format!("{usage}\n\n{}\n{WITHOUT_SERVICE}", command.help)));
    }
    let act = || {
        let wrong = |sentence| Outcome::Usage(format!("{sentence}; {usage}{}", application(name)));
        let words = command.accepted.read(&words).map_err(wrong)?;
        let found = |words: &Words| words.target().map_err(|error| Outcome::Failed(error + &application(name)));
        match command.action {
            Action::Show(show) => found(&words).map(|target| show(&target, &words)),
            Action::Change(request) => {
                let request = request(&words.argument).map_err(wrong)?;
                found(&words).map(|target| change(&target, request))
            }
        }
    };
    Some(act().unwrap_or_else(|outcome| outcome))
}

/// Returns the end of a sentence, if an application in this directory has the name of a command.
fn application(name: &str) -> String {
    let file = format!("{name}.py");
    if Path::new(&file).is_file() {
        return format!("; to serve the application {file}, write maypole ./{file}");
    }
    if Path::new(name).join("__init__.py").is_file() {
        return format!("; to serve the application in {name}/, name its callable: maypole {name}:app");
    }
    String::new()
}

/// Shows what a service does.
fn status(target: &Target, words: &Words) -> Outcome {
    let asked = target.ask("GET", "/readyz").and_then(|readiness| Ok((readiness, target.show("/stats.json")?)));
    let shown = asked.and_then(|(readiness, stats)| {
        let text = if words.has("--json") {
            String::from_utf8_lossy(&stats).into_owned()
        } else {
            show::status(&stats, &String::from_utf8_lossy(&readiness.body))?
        };
        Ok((text, readiness.status == 200))
    });
    match shown {
        Ok((text, true)) => Outcome::Done(text),
        Ok((text, false)) => Outcome::NotReady(text),
        Err(failure) => failure.into(),
    }
}

/// Shows the requests of a service.
fn requests(target: &Target, words: &Words) -> Outcome {
    let text = target.show("/requests.json").and_then(|document| {
        if words.has("--json") {
            return Ok(String::from_utf8_lossy(&document).into_owned());
        }
        show::requests(&document).map_err(Failure::from)
    });
    text.map_or_else(Outcome::from, Outcome::Done)
}

/// Shows the stacks of a service.
fn dump(target: &Target) -> Outcome {
    let text = target.show("/stacks").map(|text| show::lines(String::from_utf8_lossy(&text).trim_end()));
    text.map_or_else(Outcome::from, Outcome::Done)
}

/// Tells a service to change something, and waits for what comes of it.
fn change(target: &Target, request: Request) -> Outcome {
    match tell(target, request) {
        Ok(Response { is_ok: true, .. }) if request.is_end() => Outcome::Done("stopped".to_owned()),
        Ok(Response { is_ok: true, sentence }) => Outcome::Done(sentence),
        Ok(Response { sentence, .. }) => Outcome::Failed(sentence),
        Err(failure) => failure.into(),
    }
}

/// Sends a request to a service, and returns the response.
pub(super) fn tell(target: &Target, request: Request) -> Result<Response, Failure> {
    let received = target.exchange("POST", &request.target())?;
    Ok(match Answer::of(&received) {
        Some(answer) => read(target, &answer),
        // A service that ends may end before it has responded.
        None if request.is_end() => Response::success(String::new()),
        None => Response::failure(format!("{target} has ended before it responded")),
    })
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoResponse(sentence) => Self::Failed(sentence),
            Failure::Refused(sentence) => Self::Refused(sentence),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::names_of_commands;

    #[test]
    fn help_names_every_command() {
        assert!(COMMANDS.iter().map(|command| command.name).eq(names_of_commands()));
    }

    #[test]
    fn wrong_words_are_a_usage_error() {
        for (name, words) in
            [("reload", &["shop"][..]), ("reload", &["--force"]), ("scale", &[]), ("scale", &["x", "1"])]
        {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert!(matches!(run(name, &words), Some(Outcome::Usage(_))), "{name} {words:?}");
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
