//! Settings as the text of a TOML file.
//!
//! *Owns*: nothing; settings in, text out. *Runs on*: the main thread. *Invariants*: `--config` reads the text, and gets
//! the same settings.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::{Arg, ArgAction};

use super::{ConfigFile, Entry};
use crate::config::Config;
use crate::config::switches::is_switch;

/// The width of a comment.
const COLUMNS: usize = 100;

impl ConfigFile {
    /// Returns the settings as a TOML file. The remarks are comments at its end.
    pub fn to_toml(&self) -> String {
        let mut text = format!("# Settings from {}. Maypole reads this file with --config.\n\n[maypole]\n", self.name);
        let command = Config::command();
        for entry in self.merged() {
            let Some(arg) = command.get_arguments().find(|arg| arg.get_id() == entry.name.as_str()) else { continue };
            let notes = entry.notes.join("; ");
            let note = if notes.is_empty() { String::new() } else { format!("  # {notes}") };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{} = {}{note}", entry.name, value(arg, &entry.values));
        }
        if !self.remarks.is_empty() {
            text.push_str("\n# These settings have no effect here, or a different one:\n");
        }
        for remark in &self.remarks {
            comment(&mut text, remark);
        }
        text
    }

    /// Returns each setting once, the application first. A setting that may be repeated has all its values.
    fn merged(&self) -> Vec<Entry> {
        let command = Config::command();
        let is_list = |name: &str| {
            command.get_arguments().any(|arg| arg.get_id() == name && matches!(arg.get_action(), ArgAction::Append))
        };
        let mut merged: Vec<Entry> = Vec::new();
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in &self.entries {
            match places.get(entry.name.as_str()) {
                Some(place) if is_list(&entry.name) => {
                    let known = &mut merged[*place];
                    known.values.extend(entry.values.clone());
                    let new =
                        entry.notes.iter().filter(|note| !known.notes.contains(note)).cloned().collect::<Vec<_>>();
                    known.notes.extend(new);
                }
                Some(place) => merged[*place] = entry.clone(),
                None => {
                    places.insert(&entry.name, merged.len());
                    merged.push(entry.clone());
                }
            }
        }
        merged.sort_by_key(|entry| entry.name != "application");
        merged
    }
}

/// Returns the values in TOML.
fn value(arg: &Arg, values: &[String]) -> String {
    let placeholder = arg.get_value_names().and_then(<[_]>::first).map(ToString::to_string).unwrap_or_default();
    let one = |value: &String| {
        let is_number = ["N", "PORT"].contains(&placeholder.as_str()) && value.parse::<u32>().is_ok();
        if is_number { value.clone() } else { quoted(value) }
    };
    match arg.get_action() {
        _ if is_switch(arg) => values.last().cloned().unwrap_or_else(|| "false".to_owned()),
        ArgAction::Append => format!("[{}]", values.iter().map(one).collect::<Vec<_>>().join(", ")),
        _ => values.last().map(one).unwrap_or_default(),
    }
}

/// Returns a text as a string of TOML, in single quotes if that needs no escapes.
fn quoted(text: &str) -> String {
    if text.contains(['"', '\\']) && !text.contains('\'') && !text.chars().any(char::is_control) {
        return format!("'{text}'");
    }
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            character if character.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(character));
            }
            character => quoted.push(character),
        }
    }
    quoted + "\""
}

/// Writes a comment in lines of at most `COLUMNS` columns.
fn comment(text: &mut String, sentence: &str) {
    let mut line = String::from("#");
    for word in sentence.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#  ");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
