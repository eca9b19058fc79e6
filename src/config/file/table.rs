//! Settings in a TOML file: the table `[maypole]`, or `[tool.maypole]` in `pyproject.toml`.
//!
//! *Owns*: nothing; text in, settings out. *Runs on*: the thread that reads settings. *Source*: TOML 1.1; PEP 518 for
//! the table `tool`.

use std::fs;
use std::path::Path;

use clap::{Arg, ArgAction};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigFile, Entry, PROJECT_FILE, place_of};
use crate::config::read::is_setting;
use crate::config::switches::is_switch;
use crate::config::{Config, foreign, nearest};

/// The table of a file that `--config` names.
const TABLE: &str = "maypole";
/// The table of a Python project's file that has a table for each tool.
const TOOLS: &str = "tool";

/// Settings that only the command line has.
const COMMANDS: [&str; 3] = ["config", "check_config", "print_config"];

/// The placeholders of values that may be numbers.
const NUMBERS: [&str; 8] = ["N", "N[:]", "PORT", "SIZE", "BYTES", "OCTAL", "TIME", "VERSION"];
/// Settings that may be numbers although their placeholder does not say so.
const NUMBERED: [&str; 3] = ["user", "group", "stream_requests"];
/// The placeholder of octal values. In TOML `0o660` is the number, and `"660"` its text.
const OCTAL: &str = "OCTAL";

/// A TOML file while it is read.
struct Source<'a> {
    /// The name of the file, for error messages.
    name: &'a str,
    text: &'a str,
}

/// Reads the file that `--config` names.
pub(super) fn of_file(name: &str, path: &Path) -> Result<ConfigFile, String> {
    let text = fs::read_to_string(path).map_err(|error| cannot_read(name, &error))?;
    let source = Source { name, text: &text };
    let is_project = path.file_name().is_some_and(|file| file == PROJECT_FILE);
    let found = source.read()?;
    let Some((file, _)) = found else {
        let table = if is_project { "[tool.maypole]" } else { "[maypole]" };
        return Err(format!("{name}: there is no table {table}, which has the settings"));
    };
    Ok(ConfigFile { path: path.to_owned(), ..file })
}

/// Reads the file of the Python project, if there is one, and if it has settings.
pub(super) fn of_project(path: &Path) -> Result<Option<ConfigFile>, String> {
    // A file that cannot be read may have nothing to do with this server. Only a table in it makes it a setting.
    let Ok(text) = fs::read_to_string(path) else { return Ok(None) };
    if !text.contains(TABLE) {
        return Ok(None);
    }
    let found = Source { name: PROJECT_FILE, text: &text }.read()?;
    let of_tools = found.filter(|(_, is_of_tools)| *is_of_tools);
    Ok(of_tools.map(|(file, _)| ConfigFile { path: path.to_owned(), ..file }))
}

fn cannot_read(name: &str, error: &std::io::Error) -> String {
    let text = error.to_string();
    let plain = text.split(" (os error").next().unwrap_or(&text);
    format!("cannot read settings from {name}: {plain}")
}

impl Source<'_> {
    /// Reads the settings, and whether they stand below `[tool]`.
    fn read(&self) -> Result<Option<(ConfigFile, bool)>, String> {
        let document = DeTable::parse(self.text).map_err(|error| {
            let at = error.span().map_or(0, |span| self.line(span.start));
            format!("{}: {}", place_of(self.name, at), error.message())
        })?;
        let table = document.get_ref();
        let of_tools = below(table, TOOLS).and_then(|tools| below(tools, TABLE));
        let Some((settings, is_of_tools)) =
            below(table, TABLE).map(|table| (table, false)).or_else(|| of_tools.map(|table| (table, true)))
        else {
            return Ok(None);
        };
        let command = Config::command();
        let mut entries = Vec::new();
        for (key, value) in settings {
            let line = self.line(key.span().start);
            let wrong = |sentence: String| format!("{}: {sentence}", place_of(self.name, line));
            let arg = find(&command, key.get_ref(), settings).map_err(wrong)?;
            let values = values(arg, value.get_ref()).map_err(wrong)?;
            entries.push(Entry { name: arg.get_id().to_string(), values, line, ..Entry::default() });
        }
        entries.sort_by_key(|entry| entry.line);
        Ok(Some((ConfigFile { name: self.name.to_owned(), entries, ..ConfigFile::default() }, is_of_tools)))
    }

    /// Returns the line of a place in the text, from 1.
    fn line(&self, at: usize) -> usize {
        self.text.get(..at).unwrap_or(self.text).matches('\n').count() + 1
    }
}

/// Returns the table of this name in another table.
fn below<'a, 'i>(table: &'a DeTable<'i>, name: &str) -> Option<&'a DeTable<'i>> {
    table.get(name).and_then(|value| value.get_ref().as_table())
}

/// Returns the setting of this name. `all` are the settings of the file.
fn find<'a>(command: &'a clap::Command, key: &str, all: &DeTable) -> Result<&'a Arg, String> {
    let name = key.replace('-', "_");
    if COMMANDS.contains(&&*name) {
        return Err(format!("'{key}' is an option of the command line only"));
    }
    let option = name.replace('_', "-");
    let in_file = |arg: &&Arg| is_setting(arg) || arg.is_positional();
    let known =
        |arg: &&Arg| arg.get_id() == name.as_str() || arg.get_all_aliases().is_some_and(|all| all.contains(&&*option));
    if let Some(arg) = command.get_arguments().filter(in_file).find(known) {
        return Ok(arg);
    }
    let lead = format!("there is no setting '{key}'");
    let names: Vec<_> = command.get_arguments().filter(in_file).map(|arg| arg.get_id().as_str()).collect();
    let others: Vec<_> = all.keys().map(|key| &**key.get_ref()).filter(|name| !names.contains(name)).collect();
    if let Some(sentence) = foreign::explain_setting(&lead, key, &others) {
        return Err(sentence);
    }
    let near = nearest(key, names.iter().copied());
    Err(lead + &near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default())
}

/// Returns the values as the command line's parser takes them.
fn values(arg: &Arg, value: &DeValue) -> Result<Vec<String>, String> {
    let name = arg.get_id();
    let is_list = matches!(arg.get_action(), ArgAction::Append);
    match value {
        DeValue::Array(items) if is_list => items.iter().map(|item| single(arg, item.get_ref())).collect(),
        DeValue::Array(_) => Err(format!("'{name}' takes one value, not an array")),
        DeValue::Table(table) if takes_assignments(arg) => table
            .iter()
            .map(|(key, value): (&Spanned<_>, &Spanned<DeValue>)| match value.get_ref() {
                DeValue::String(text) => Ok(format!("{}={text}", key.get_ref())),
                _ => Err(format!("'{name}.{}' takes a string", key.get_ref())),
            })
            .collect(),
        value => single(arg, value).map(|value| vec![value]),
    }
}

fn single(arg: &Arg, value: &DeValue) -> Result<String, String> {
    let name = arg.get_id();
    let placeholder = placeholder(arg);
    let is_flag = is_switch(arg);
    let is_number = NUMBERS.contains(&placeholder.as_str()) || NUMBERED.contains(&name.as_str());
    match value {
        DeValue::Boolean(on) if is_flag => Ok(on.to_string()),
        DeValue::String(text) if !is_flag => Ok(text.to_string()),
        DeValue::Integer(number) if is_number && placeholder == OCTAL => {
            let number = u32::from_str_radix(number.as_str(), number.radix());
            number
                .map(|bits| format!("{bits:03o}"))
                .map_err(|_| format!("'{name}' takes an octal number such as 0o660"))
        }
        DeValue::Integer(number) if is_number => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| format!("'{name}' takes a smaller number")),
        DeValue::Float(number) if is_number => Ok(number.as_str().to_owned()),
        value => {
            let expected = match (is_flag, is_number) {
                (true, _) => "true or false",
                (false, true) => "a number or a string",
                (false, false) => "a string",
            };
            Err(format!("'{name}' takes {expected}, not {}", kind(value)))
        }
    }
}

/// Returns the placeholder of the setting's value.
fn placeholder(arg: &Arg) -> String {
    arg.get_value_names().and_then(<[_]>::first).map(ToString::to_string).unwrap_or_default()
}

/// Returns whether the setting's values are `NAME=VALUE`, `PATH=MODULE` or the like.
fn takes_assignments(arg: &Arg) -> bool {
    placeholder(arg).contains('=')
}

fn kind(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
