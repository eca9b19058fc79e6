//! The command lines of gunicorn and uWSGI.
//!
//! *Owns*: nothing; words in, settings out. *Source*: gunicorn's `config.py` for its switches.

use crate::config::foreign::{self, Counterpart, THE_SAME};
use crate::config::{ConfigFile, Entry};

use super::uwsgi;

/// The name of gunicorn in the tables.
const GUNICORN: &str = "gunicorn";

/// The options of gunicorn that take no value.
const SWITCHES: [&str; 24] = [
    "-D",
    "-R",
    "--capture-output",
    "--casefold-http-method",
    "--check-config",
    "--daemon",
    "--disable-redirect-access-to-syslog",
    "--do-handshake-on-connect",
    "--enable-backlog-metric",
    "--enable-stdio-inheritance",
    "--http2-cleartext",
    "--initgroups",
    "--log-syslog",
    "--no-control-socket",
    "--no-sendfile",
    "--permit-obsolete-folding",
    "--permit-unconventional-http-method",
    "--permit-unconventional-http-version",
    "--preload",
    "--print-config",
    "--reload",
    "--reuse-port",
    "--spew",
    "--strip-header-spaces",
];

/// Settings of the command line that a file cannot have.
const NOT_IN_A_FILE: [&str; 3] = ["config", "check_config", "print_config"];

/// Returns whether the command starts gunicorn or uWSGI.
pub(super) fn names_server(command: &str) -> bool {
    super::shell::words(command).iter().any(|word| server_of(word).is_some())
}

/// Returns the server that the word starts.
fn server_of(word: &str) -> Option<&'static str> {
    let name = word.rsplit('/').next().unwrap_or(word);
    [GUNICORN, "uwsgi"].into_iter().find(|server| *server == name)
}

/// Reads a command line. `name` is the file that it stands in, at this `line`.
pub(super) fn of_words(name: &str, words: &[String], line: usize) -> Result<ConfigFile, String> {
    let Some((at, server)) = words.iter().enumerate().find_map(|(at, word)| Some((at, server_of(word)?))) else {
        return Err(format!("{name} starts neither gunicorn nor uWSGI"));
    };
    let end = words[at..].iter().position(|word| ["&&", ";", "|", "&"].contains(&word.as_str()));
    let options = &words[at + 1..end.map_or(words.len(), |end| at + end)];
    let mut file = ConfigFile { name: name.to_owned(), ..ConfigFile::default() };
    let variables = words[..at].iter().filter(|word| is_assignment(word)).cloned().collect::<Vec<_>>();
    if !variables.is_empty() {
        file.entries.push(Entry { name: "raw_env".to_owned(), values: variables, line, ..Entry::default() });
    }
    if server == GUNICORN {
        of_gunicorn(&mut file, options, line);
        return Ok(file);
    }
    let pairs = uwsgi::options(options).into_iter().map(|(option, value)| (option, value, line)).collect();
    let read = uwsgi::of_pairs(name.as_ref(), pairs)?;
    file.entries.extend(read.entries);
    file.remarks.extend(read.remarks);
    Ok(file)
}

/// Returns whether a word before the command sets a variable: `PYTHONUNBUFFERED=1`.
fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
    })
}

fn of_gunicorn(file: &mut ConfigFile, words: &[String], line: usize) {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if !word.starts_with('-') || word == "-" {
            take(file, "wsgi_app", Some(word.clone()), line);
            continue;
        }
        let is_short = !word.starts_with("--");
        let (option, attached) = match word.split_once('=') {
            Some((option, value)) if !is_short => (option, Some(value)),
            _ if is_short && word.len() > 2 => word.split_at_checked(2).map_or((&**word, None), |(o, v)| (o, Some(v))),
            _ => (word.as_str(), None),
        };
        let value = match attached {
            Some(value) => Some(value.to_owned()),
            None if SWITCHES.contains(&option) => None,
            None => words.next().cloned(),
        };
        take(file, option, value, line);
    }
}

/// Takes an option over. `None` is a switch that is on.
fn take(file: &mut ConfigFile, option: &str, value: Option<String>, line: usize) {
    if let Some(text) = value.as_ref().filter(|value| value.contains('$')) {
        return file.remark(line, option, &of_variable(text));
    }
    if let Some(class) = value.as_ref().filter(|_| ["-k", "--worker-class"].contains(&option)) {
        if ["sync", "gthread"].contains(&class.as_str()) {
            return;
        }
        if let Some(reason) = foreign::not_wsgi(class) {
            return file.remark(line, option, &reason);
        }
    }
    let values = vec![value.clone().unwrap_or_else(|| "true".to_owned())];
    match foreign::counterpart(GUNICORN, option) {
        Some(Counterpart::Application) => file.entries.push(entry("application", values, line, THE_SAME)),
        Some(Counterpart::Setting(ours, _)) if NOT_IN_A_FILE.contains(&ours.as_str()) => {
            let reason = match value {
                Some(path) => file_of_its_own(&path),
                None => "it is an option of the command line only".to_owned(),
            };
            file.remark(line, option, &reason);
        }
        Some(Counterpart::Setting(ours, reason)) => file.entries.push(entry(&ours, values, line, &reason)),
        Some(Counterpart::Nothing(reason)) => file.remark(line, option, &reason),
        None => file.remark(line, option, "gunicorn has no such option"),
    }
}

/// Says why a value with a variable of the environment is not taken over.
pub(super) fn of_variable(value: &str) -> String {
    if value.contains("PORT") {
        return "Maypole listens on the port in the variable PORT by itself".to_owned();
    }
    format!("{value} has a variable of the environment; a variable such as MAYPOLE_WORKERS gives a setting its value")
}

/// Says what to do with another configuration file.
pub(super) fn file_of_its_own(path: &str) -> String {
    format!("{path} is a file of its own: `maypole migrate {path}`")
}

/// Makes a setting. `difference` is what its counterpart does differently.
pub(super) fn entry(name: &str, values: Vec<String>, line: usize, difference: &str) -> Entry {
    let notes = if difference.starts_with(THE_SAME) { Vec::new() } else { vec![difference.to_owned()] };
    Entry { name: name.to_owned(), values, line, notes }
}
