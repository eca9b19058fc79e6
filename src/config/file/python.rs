//! Settings in a Python file of gunicorn: its names and values become settings of Maypole.
//!
//! *Owns*: nothing; names and values in, settings and remarks out. *Runs on*: the thread that reads settings. *Source*:
//! the table `foreign/gunicorn.toml` says what becomes of a name. gunicorn's `Setting` classes say how values are read.

use std::path::Path;

use clap::{Arg, ArgAction, Command};

use super::evaluation::{Evaluator, Global, GlobalValue, Globals};
use super::{ConfigFile, Entry};
use crate::config::foreign::{self, Counterpart};
use crate::config::read::is_setting;
use crate::config::{Config, nearest};

/// The server that such files are for.
const GUNICORN: &str = "gunicorn";
/// The setting that names the file of hooks. If this file has hooks, it names this file.
const HOOKS: &str = "hooks";
/// The setting that names a file for Python's logging. If this file has `logconfig_dict`, it names this file.
const LOG_CONFIG: &str = "log_config";
/// The setting that has the environment variables of the application.
const ENVIRONMENT: &str = "raw_env";
/// The variable in which gunicorn expects the path below which the application is.
const PREFIX_VARIABLE: &str = "SCRIPT_NAME";

/// The remark about a file whose workers would serve one request at a time.
const ONE_REQUEST: &str = "a worker runs the application on up to 256 threads at once; set it to 1 if the application is \
                           not safe with threads";

/// What becomes of a name.
enum Outcome {
    Setting(Entry),
    /// It is a function that `--hooks` calls.
    Hook,
    /// It is the dictionary that `--log-config` reads.
    LogConfig,
    /// It has no effect, for this reason.
    Remark(String),
    /// Maypole does not start with it, for this reason.
    Refusal(String),
    /// Maypole does this without a setting.
    Nothing,
}

/// Evaluates the file, or the module `python:MODULE`, and takes its settings over.
pub(super) fn of_file(name: &str, directory: &Path, evaluator: &Evaluator) -> Result<ConfigFile, String> {
    let location = name.strip_prefix("file:").unwrap_or(name);
    let is_missing = !location.starts_with("python:") && !directory.join(location).is_file();
    if is_missing {
        return Err(format!("cannot read settings from {location}: there is no such file"));
    }
    let globals = evaluator.evaluate(location, directory)?;
    take_over(location, &globals)
}

fn take_over(name: &str, globals: &Globals) -> Result<ConfigFile, String> {
    let command = Config::command();
    let mut file = ConfigFile { name: name.to_owned(), path: globals.file.clone(), ..ConfigFile::default() };
    let (mut has_hooks, mut log_config) = (false, None);
    let mut names: Vec<_> = globals.names.iter().collect();
    names.sort_by_key(|global| global.line);
    for global in names {
        let wrong = |sentence: String| format!("{}: {sentence}", file.at(global.line));
        match outcome(&command, global).map_err(wrong)? {
            Outcome::Setting(entry) => {
                if let Some(remark) = difference(global) {
                    file.remark(global.line, &global.name, &remark);
                }
                // As in gunicorn, a file in JSON counts, and not one in the form of `fileConfig`.
                let is_other = |known: &Entry| known.name == LOG_CONFIG && entry.name == LOG_CONFIG;
                if global.name != "logconfig" || !file.entries.iter().any(is_other) {
                    file.entries.retain(|known| !is_other(known));
                    file.entries.push(entry);
                }
            }
            Outcome::Hook => has_hooks = true,
            Outcome::LogConfig => log_config = Some(global.line),
            Outcome::Refusal(reason) => {
                file.refusal = Some(format!("{}: {}: {reason}", file.at(global.line), global.name));
                file.remark(global.line, &global.name, &reason);
            }
            Outcome::Remark(reason) => file.remark(global.line, &global.name, &reason),
            Outcome::Nothing => {}
        }
    }
    if has_hooks {
        let values = vec![globals.file.display().to_string()];
        file.entries.push(Entry { name: HOOKS.to_owned(), values, ..Entry::default() });
    }
    if let Some(line) = log_config {
        file.entries.retain(|entry| entry.name != LOG_CONFIG);
        let (name, values) = (LOG_CONFIG.to_owned(), vec![globals.file.display().to_string()]);
        file.entries.push(Entry { name, values, line, ..Entry::default() });
    }
    file.add_environment(&globals.environment);
    file.add_prefix();
    if !file.entries.iter().any(|entry| entry.name == "threads") && serves_one_request(globals) {
        file.remark(0, "threads", ONE_REQUEST);
    }
    Ok(file)
}

/// Returns how a setting that is taken over differs, if an operator has to know.
fn difference(global: &Global) -> Option<String> {
    match foreign::counterpart(GUNICORN, &global.name)? {
        Counterpart::Setting(ours, reason) if global.name == "timeout" => {
            Some(format!("{ours} has its value: {reason}"))
        }
        _ => None,
    }
}

/// Returns whether each worker of gunicorn would serve one request at a time.
fn serves_one_request(globals: &Globals) -> bool {
    let class = globals.names.iter().find(|global| global.name == "worker_class").map(|global| &global.value);
    match class {
        Some(GlobalValue::Text(class)) => class == "sync",
        class => class.is_none(),
    }
}

impl ConfigFile {
    /// Adds the environment variables that the file has set while it ran.
    fn add_environment(&mut self, environment: &[(String, String)]) {
        let set: Vec<_> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if set.is_empty() {
            return;
        }
        match self.entries.iter_mut().find(|entry| entry.name == ENVIRONMENT) {
            // What gunicorn's setting says comes last, so that it counts.
            Some(entry) => drop(entry.values.splice(0..0, set)),
            None => self.entries.push(Entry { name: ENVIRONMENT.to_owned(), values: set, ..Entry::default() }),
        }
    }

    /// Adds the path that gunicorn takes from a variable.
    fn add_prefix(&mut self) {
        let environment = self.entries.iter().find(|entry| entry.name == ENVIRONMENT);
        let path = |value: &String| value.strip_prefix(PREFIX_VARIABLE)?.strip_prefix('=').map(str::to_owned);
        let found = environment.and_then(|entry| Some((entry.values.iter().rev().find_map(path)?, entry.line)));
        if let Some((path, line)) = found.filter(|(path, _)| !path.is_empty()) {
            let notes = vec![format!("it was the variable {PREFIX_VARIABLE}")];
            self.entries.push(Entry { name: "prefix".to_owned(), values: vec![path], line, notes });
        }
    }
}

/// Decides what becomes of a name.
fn outcome(command: &Command, global: &Global) -> Result<Outcome, String> {
    let name = global.name.as_str();
    if let Some(outcome) = special(global)? {
        return Ok(outcome);
    }
    match foreign::counterpart(GUNICORN, name) {
        Some(Counterpart::Nothing(_)) if is_off(&global.value) => Ok(Outcome::Nothing),
        Some(Counterpart::Nothing(reason)) => Ok(Outcome::Remark(reason)),
        Some(Counterpart::Application) => Ok(entry("application", global, text_of(&global.value)?)),
        Some(Counterpart::Setting(ours, _)) if ours == HOOKS => {
            Ok(if global.value == GlobalValue::Function { Outcome::Hook } else { Outcome::Nothing })
        }
        Some(Counterpart::Setting(ours, _)) => setting(command, &ours, global),
        // A name that the file reads may be its own, such as `host` and `port`.
        None if !global.used && command.get_arguments().any(|arg| is_setting(arg) && arg.get_id() == name) => {
            setting(command, name, global)
        }
        None => Ok(unknown(command, global)),
    }
}

/// Decides about the names for which the table is not enough, because their values matter.
fn special(global: &Global) -> Result<Option<Outcome>, String> {
    let is_number = |number: u64| matches!(&global.value, GlobalValue::Number(value) if value.as_u64() == Some(number));
    Ok(match (global.name.as_str(), &global.value) {
        ("daemon", GlobalValue::Flag(true)) => {
            let Some(Counterpart::Nothing(reason)) = foreign::counterpart(GUNICORN, "daemon") else { return Ok(None) };
            Some(Outcome::Refusal(reason))
        }
        ("worker_class", GlobalValue::Text(class)) if ["sync", "gthread"].contains(&class.as_str()) => {
            Some(Outcome::Nothing)
        }
        ("worker_class", GlobalValue::Text(class)) => foreign::not_wsgi(class).map(Outcome::Remark),
        ("default_proc_name", _) | ("logconfig_dict", GlobalValue::None) => Some(Outcome::Nothing),
        ("logconfig_dict", GlobalValue::Mapping) => Some(Outcome::LogConfig),
        ("logconfig_dict", _) => return Err("'logconfig_dict' is no dict".to_owned()),
        // 0 is no limit in gunicorn. Here it is the whole head.
        ("limit_request_line" | "limit_request_field_size", _) if is_number(0) => {
            Some(entry(&global.name, global, vec!["64KiB".to_owned()]))
        }
        ("loglevel", GlobalValue::Text(level)) => {
            let level = level.to_ascii_lowercase();
            let levels = ["debug", "info", "warning", "error", "critical"];
            // gunicorn takes every other word for `info`.
            let known = if levels.contains(&level.as_str()) { level } else { "info".to_owned() };
            Some(entry("log_level", global, vec![known]))
        }
        _ => None,
    })
}

fn entry(name: &str, global: &Global, values: Vec<String>) -> Outcome {
    let expression = global.expression.as_ref().filter(|expression| !expression.contains('\n'));
    let mut notes: Vec<_> = expression.map(|expression| format!("computed: {expression}")).into_iter().collect();
    if let Some(Counterpart::Setting(_, reason)) = foreign::counterpart(GUNICORN, &global.name)
        && !reason.starts_with(foreign::THE_SAME)
    {
        notes.push(reason);
    }
    Outcome::Setting(Entry { name: name.to_owned(), values, line: global.line, notes })
}

/// Gives a setting of Maypole the value of a name.
fn setting(command: &Command, setting: &str, global: &Global) -> Result<Outcome, String> {
    let Some(arg) = command.get_arguments().find(|arg| arg.get_id() == setting) else {
        return Ok(Outcome::Remark("there is no such setting".to_owned()));
    };
    if let GlobalValue::Function | GlobalValue::Mapping | GlobalValue::Other(_) = &global.value {
        return Err(format!("'{}' is {}", global.name, kind(&global.value)));
    }
    if matches!(&global.value, GlobalValue::None) || text_of(&global.value)?.iter().all(String::is_empty) {
        return Ok(Outcome::Nothing);
    }
    Ok(entry(setting, global, values(arg, &global.value)?))
}

/// Returns the value as the command line's parser takes it.
fn values(arg: &Arg, value: &GlobalValue) -> Result<Vec<String>, String> {
    let is_octal = arg.get_value_names().and_then(<[_]>::first).is_some_and(|name| name == "OCTAL");
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, value) => Ok(vec![(!is_off(value)).to_string()]),
        (_, GlobalValue::Number(number)) if is_octal => {
            let number = number.as_u64().ok_or_else(|| format!("'{}' is no mode", arg.get_id()))?;
            Ok(vec![format!("{number:03o}")])
        }
        (_, GlobalValue::Text(text)) if is_octal => Ok(vec![text.trim_start_matches("0o").to_owned()]),
        (ArgAction::Append, value) => text_of(value),
        (_, GlobalValue::List(items)) => Ok(vec![items.join(",")]),
        (_, value) => text_of(value),
    }
}

/// Returns the value as text, and each item of a list by itself.
fn text_of(value: &GlobalValue) -> Result<Vec<String>, String> {
    match value {
        GlobalValue::Flag(on) => Ok(vec![on.to_string()]),
        GlobalValue::Number(number) => Ok(vec![number.to_string()]),
        GlobalValue::Text(text) => Ok(vec![text.clone()]),
        GlobalValue::List(items) => Ok(items.clone()),
        GlobalValue::None => Ok(Vec::new()),
        value => Err(format!("the value is {}", kind(value))),
    }
}

/// Returns whether Python takes the value for false.
fn is_off(value: &GlobalValue) -> bool {
    match value {
        GlobalValue::None => true,
        GlobalValue::Flag(on) => !on,
        GlobalValue::Number(number) => number.as_f64() == Some(0.0),
        GlobalValue::Text(text) => ["", "false", "False", "none", "None"].contains(&text.as_str()),
        GlobalValue::List(items) => items.is_empty(),
        GlobalValue::Function | GlobalValue::Mapping | GlobalValue::Other(_) => false,
    }
}

fn kind(value: &GlobalValue) -> String {
    match value {
        GlobalValue::Function => "a function".to_owned(),
        GlobalValue::Mapping => "an object of type dict".to_owned(),
        GlobalValue::Other(name) => format!("an object of type {name}"),
        _ => "a plain value".to_owned(),
    }
}

/// Decides about a name that neither gunicorn nor Maypole has. A file has names for its own use, which gunicorn ignores.
fn unknown(command: &Command, global: &Global) -> Outcome {
    if global.used || global.line == 0 {
        return Outcome::Nothing;
    }
    let ours = command.get_arguments().filter(|arg| is_setting(arg)).map(|arg| arg.get_id().as_str());
    let servers = foreign::servers().iter().filter(|server| server.name == GUNICORN);
    let theirs: Vec<_> = servers.flat_map(foreign::Server::setting_names).collect();
    let near = nearest(&global.name, ours.chain(theirs.iter().map(String::as_str)));
    let is_value = !matches!(global.value, GlobalValue::Function | GlobalValue::Other(_));
    match near {
        Some(near) => Outcome::Remark(format!("there is no such setting; did you mean '{near}'?")),
        None if is_value => Outcome::Remark("there is no such setting".to_owned()),
        None => Outcome::Nothing,
    }
}
