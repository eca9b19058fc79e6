//! `maypole migrate`: the configuration of another server as a TOML file of Maypole.
//!
//! *Owns*: nothing; files and command lines in, text out. *Runs on*: the main thread, in a process that does nothing else.
//! *Invariants*: `--config` reads what is printed. Each line that has no counterpart, or that changes its meaning, is a
//! comment. The tables of foreign options in `config` say what becomes of a setting.

mod command;
mod conditions;
mod shell;
mod uwsgi;

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::config::{ConfigFile, Evaluator};

/// What some editors write at the beginning of a file.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Whether the command line asks for a migration: its first word is `migrate`, and a word that is no option follows. An
/// application of this name needs no further word, so both can be told apart.
pub fn is_asked(words: &[OsString]) -> bool {
    words.get(1).is_some_and(|word| word == "migrate")
        && words.get(2).is_some_and(|word| !word.to_string_lossy().starts_with('-'))
}

/// Returns the TOML file for the words after `migrate`: a file, or the command line of gunicorn or uWSGI.
///
/// # Errors
/// A sentence: the file cannot be read, or is of no known form.
pub fn run(words: &[OsString], evaluator: &Evaluator) -> Result<String, String> {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut file = match &words[..] {
        [one] if !one.contains(' ') => of_file(one, evaluator)?,
        [one] => command::of_words("the command line", &shell::words(one), 0)?,
        all => command::of_words("the command line", all, 0)?,
    };
    file.leave_out_wrong_values();
    Ok(file.to_toml())
}

/// Reads a file. Its name tells its form.
fn of_file(name: &str, evaluator: &Evaluator) -> Result<ConfigFile, String> {
    // uWSGI names a section behind the file: `uwsgi.ini:production`.
    let named = name.rsplit_once(':').filter(|(file, _)| Path::new(file).extension().is_some_and(|it| it == "ini"));
    let (name, section) = named.unwrap_or((name, uwsgi::SECTION));
    let path = Path::new(name);
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    if ending == "py" || name.starts_with("python:") {
        return ConfigFile::of_python(name, evaluator);
    }
    let text = fs::read_to_string(path).map_err(|error| {
        let error = error.to_string();
        format!("cannot read {name}: {}", error.split(" (os error").next().unwrap_or(&error))
    })?;
    let text = text.trim_start_matches(BYTE_ORDER_MARK);
    let stem = path.file_name().map(|stem| stem.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    match ending.as_str() {
        "ini" => uwsgi::of_pairs(path, uwsgi::ini(text, section)),
        "yaml" | "yml" => uwsgi::of_pairs(path, uwsgi::yaml(text)),
        "xml" => uwsgi::of_pairs(path, uwsgi::xml(text)),
        _ if stem.starts_with("procfile") => of_procfile(name, text),
        _ => Err(format!(
            "cannot tell what {name} is: expected gunicorn.conf.py, uwsgi.ini, uwsgi.yaml, uwsgi.xml, a Procfile or a \
             command line of gunicorn or uWSGI"
        )),
    }
}

/// Reads the command in a Procfile that starts a server.
fn of_procfile(name: &str, text: &str) -> Result<ConfigFile, String> {
    let commands = text.lines().enumerate().filter_map(|(at, line)| {
        let (process, command) = line.split_once(':')?;
        let is_comment = process.trim_start().starts_with('#');
        (!is_comment && command::names_server(command)).then(|| (process.trim() != "web", at + 1, command))
    });
    let Some((_, line, command)) = commands.min_by_key(|(is_other, line, _)| (*is_other, *line)) else {
        return Err(format!("{name} has no command of gunicorn or uWSGI"));
    };
    command::of_words(name, &shell::words(command), line)
}
