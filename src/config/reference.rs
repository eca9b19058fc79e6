//! Generates `docs/reference/settings.md`, and the types of the keywords for editors and mypy.
//!
//! *Owns*: nothing; reads clap's description of the settings. *Runs on*: a test, which writes and compares the files.

use std::fmt::Write as _;

use clap::{Arg, ArgAction};

use super::keywords::COMMAND_LINE_ONLY;
use super::read::{is_setting, variable_of};
use super::switches::{is_switch, off_option, takes_value};
use super::{Config, GROUPS, help};

/// A size that is above every limit.
const HUGE: &str = "99999999999999";
/// The words by which an error message with a range is recognized.
const RANGES: [&str; 2] = [" from ", " at least "];

/// The width of a line in a Python file.
const PYTHON_COLUMNS: usize = 120;

impl Config {
    /// Returns the reference of all settings by group, in Markdown.
    pub fn settings_reference() -> String {
        let command = Self::command();
        let mut text = String::new();
        for group in GROUPS {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "## {group}\n");
            let of_group = |arg: &&Arg| arg.get_help_heading() == Some(group) && !arg.is_hide_set();
            command.get_arguments().filter(of_group).for_each(|arg| section(&mut text, arg));
        }
        text
    }

    /// Returns the module `maypole._settings`: two `TypedDict`s, one for the keywords of a server and one for those of
    /// a process.
    pub fn settings_types() -> String {
        let command = Self::command();
        let mut text = String::from(HEAD);
        let named = |arg: &&Arg| is_setting(arg) && !arg.is_hide_set();
        let is_of_process = |arg: &&Arg| COMMAND_LINE_ONLY.contains(&arg.get_id().as_str());
        text.push_str(SERVER);
        command.get_arguments().filter(named).filter(|arg| !is_of_process(arg)).for_each(|arg| key(&mut text, arg));
        text.push_str(PROCESS);
        command.get_arguments().filter(named).filter(is_of_process).for_each(|arg| key(&mut text, arg));
        text
    }
}

const HEAD: &str = r#""""The settings as keywords, with their types, for editors and type checkers: `**settings: Unpack[Settings]`.

Made from the command line's own description by `MAYPOLE_BLESS=1 cargo test --test generated`; do not edit it.
"""

from __future__ import annotations

from os import PathLike
from typing import TypedDict
"#;

const SERVER: &str = r#"

class Settings(TypedDict, total=False):
    """The settings of `maypole.Server`. None means the default."""
"#;

const PROCESS: &str = r#"

class ProcessSettings(Settings, total=False):
    """The settings of `maypole.serve`: those of a server, and those of a process that does nothing else."""
"#;

/// Writes the section of one setting: its names, its effect and its values.
fn section(text: &mut String, arg: &Arg) {
    let title = arg.get_long().map_or_else(|| help::name(arg), |long| format!("--{long}"));
    let mut facts = vec![format!("`{}`", help::name(arg))];
    facts.extend(off_option(arg).map(|option| format!("`{option}` turns it off")));
    facts.extend(arg.get_visible_aliases().unwrap_or_default().iter().map(|alias| format!("alias `--{alias}`")));
    facts.extend(variable_of(arg).map(|name| format!("variable `{name}`")));
    let of_process = if COMMAND_LINE_ONLY.contains(&arg.get_id().as_str()) { " of `maypole.serve`" } else { "" };
    facts.extend(is_setting(arg).then(|| format!("keyword `{}`{of_process}", arg.get_id())));
    facts.extend(default(arg).map(|default| format!("default `{default}`")));
    let _ = writeln!(text, "### `{title}`\n\n{}\n", facts.join(" · "));
    let short = does(arg);
    let long = arg.get_long_help().map(ToString::to_string).unwrap_or_default();
    let more = long.split_once("\n\n").map(|(_, more)| more.trim_end()).unwrap_or_default();
    for paragraph in std::iter::once(sentence(&short)).chain(taken(arg)).chain(more.split("\n\n").map(sentence)) {
        if !paragraph.is_empty() {
            let _ = writeln!(text, "{}\n", wrapped(&paragraph, PYTHON_COLUMNS, ""));
        }
    }
}

/// Returns the help text of a setting, without a default in brackets.
fn does(arg: &Arg) -> String {
    let text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    text.split_once(" [").map_or(text.clone(), |(does, _)| does.to_owned())
}

/// Ends a text with a period. clap removes the period from some texts.
fn sentence(text: &str) -> String {
    let text = text.trim();
    let end = if text.is_empty() || text.ends_with('.') { "" } else { "." };
    format!("{text}{end}")
}

/// Returns the values that the setting takes, as its parser states them in the error about an invalid value.
fn taken(arg: &Arg) -> Option<String> {
    let long = arg.get_long().filter(|_| takes_value(arg))?;
    let expected = |value: &str| {
        let error = Config::parse_from(["maypole".to_owned(), format!("--{long}={value}"), "m".to_owned()]).err()?;
        let text = error.to_string();
        text.lines().next()?.split_once(": expected ").map(|(_, expected)| expected.to_owned())
    };
    // The error about a number that is too large or too small names the range.
    let with_range =
        [HUGE, "0"].map(expected).into_iter().flatten().find(|text| RANGES.iter().any(|it| text.contains(it)));
    let expected = with_range.or_else(|| expected("\0"))?;
    let said = does(arg).to_lowercase();
    let is_said = expected.to_lowercase().split([',', ' ']).all(|word| word == "or" || said.contains(word));
    (!is_said).then(|| format!("It takes {expected}."))
}

fn default(arg: &Arg) -> Option<String> {
    if arg.is_hide_default_value_set() || !takes_value(arg) {
        return None;
    }
    let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !values.is_empty() {
        return Some(values.join(","));
    }
    // A default that clap does not know stands in the text.
    let text = arg.get_help().map(ToString::to_string)?;
    Some(text.split_once(" [")?.1.trim_end_matches(']').to_owned())
}

/// Writes a key of a `TypedDict` and its doc.
fn key(text: &mut String, arg: &Arg) {
    let short = does(arg).replace('\\', "\\\\");
    let default = default(arg).map(|default| format!(" Default: `{default}`.")).unwrap_or_default();
    let doc = format!("\"\"\"{}{default}\"\"\"", sentence(&short));
    let _ = writeln!(
        text,
        "\n    {}: {} | None\n{}",
        arg.get_id(),
        python_type(arg),
        wrapped(&doc, PYTHON_COLUMNS, "    ")
    );
}

/// Returns the Python type of a setting's values.
fn python_type(arg: &Arg) -> String {
    if is_switch(arg) {
        return "bool".to_owned();
    }
    let value = arg.get_value_names().and_then(<[_]>::first).map(ToString::to_string).unwrap_or_default();
    let one = match value.as_str() {
        "N" if arg.get_id() == "workers" => "int | str",
        "N" | "PORT" => "int",
        "SIZE" | "BYTES" | "OCTAL" => "int | str",
        "TIME" | "SHARE" => "float | str",
        "FILE" | "DIR" | "FILE[#NAME]" => "str | PathLike[str]",
        _ if arg.get_id() == "stream_requests" => "int | str",
        _ => "str",
    };
    match arg.get_action() {
        ArgAction::Append => format!("{one} | list[{one}]"),
        _ => one.to_owned(),
    }
}

/// Wraps the text into lines of at most `columns` columns.
fn wrapped(text: &str, columns: usize, indent: &str) -> String {
    let mut lines = vec![indent.to_owned()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if line.len() + 1 + word.len() > columns && line.len() > indent.len() {
            lines.push(format!("{indent}{word}"));
        } else {
            line.push_str(if line.len() > indent.len() { " " } else { "" });
            line.push_str(word);
        }
    }
    lines.join("\n")
}
