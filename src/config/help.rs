//! `--help` in groups, and `-h` with the options that matter most, at most 80 columns wide.
//!
//! *Owns*: nothing; reads clap's description of the settings. *Runs on*: the main thread. *Invariants*: an option's
//! text is the first paragraph of its setting's doc, followed by the default in brackets.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::GROUPS;
use super::commands::{COMMANDS, names_of_commands};
use super::switches::takes_value;

/// The width of the text.
const COLUMNS: usize = 80;
/// The column in which an option's text begins.
const TEXT_AT: usize = 22;
/// A default longer than this is not shown, because the option's text states it.
const DEFAULT_MAX: usize = 24;

/// The options of `-h`.
const SHORT: [&str; 12] = [
    "bind",
    "port",
    "chdir",
    "factory",
    "pool_size",
    "threads",
    "workers",
    "config",
    "graceful_timeout",
    "access_logfile",
    "log_level",
    "check_config",
];

const EXAMPLES: &str = "  maypole shop.wsgi:application                 serve on http://127.0.0.1:8000
  maypole -b 0.0.0.0:80 'shop:create_app()'     on every address, from a factory
  maypole -b unix:/run/shop.sock shop.wsgi      on a unix socket, for a proxy
";

const LEGEND: &str = "\
Defaults stand in [brackets]. --pool-size can also be set as the variable
MAYPOLE_POOL_SIZE, and so on. SIZE is 64k or 1GiB, TIME 500ms, 75 (s) or 2m.
--no-preload and MAYPOLE_PRELOAD=false turn --preload off, and so on.
";

/// The column in which the purpose of a command begins.
const PURPOSE_AT: usize = 18;

/// Has `--help` and `-h` print these texts.
pub(super) fn with_help(command: Command) -> Command {
    let (short, long) = (short(&command), long(&command));
    command.help_template("{before-help}").before_help(short).before_long_help(long)
}

/// Has `--help` and `-h` of `maypole files` print the options that it takes.
pub(super) fn of_directory(command: Command) -> Command {
    let mut text = format!("{} maypole files DIR [OPTIONS]\n\n", heading("Usage:"));
    text.push_str("Serve the files of a directory and nothing else, without Python.\n\n");
    groups(&mut text, &command);
    row(&mut text, "-h, --help", "Print this.");
    command.help_template("{before-help}").before_help(text.clone()).before_long_help(text)
}

fn usage(text: &mut String) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{} maypole [OPTIONS] MODULE[:CALLABLE]\n       maypole files DIR [OPTIONS]\n       maypole COMMAND [OPTIONS]\n",
        heading("Usage:")
    );
}

/// Writes what each command is for.
fn commands(text: &mut String) {
    let _ = writeln!(text, "{}", heading("Commands for a running service (maypole COMMAND --help explains each):"));
    for (usage, purpose) in COMMANDS {
        let _ = writeln!(text, "{:PURPOSE_AT$}{purpose}", format!("  {usage}"));
    }
    text.push('\n');
}

/// `-h`.
fn short(command: &Command) -> String {
    let mut text = format!("Maypole {} serves a WSGI application.\n\n", env!("CARGO_PKG_VERSION"));
    usage(&mut text);
    let _ = writeln!(text, "{}\n{EXAMPLES}", heading("Examples:"));
    commands(&mut text);
    let _ = writeln!(text, "{}", heading("The options that matter most:"));
    for name in SHORT {
        command.get_arguments().filter(|arg| arg.get_id() == name).for_each(|arg| entry(&mut text, arg));
    }
    let _ = writeln!(text, "\n`maypole --help` prints all options. The documentation: {}", documentation());
    text
}

/// Returns the place of the documentation.
fn documentation() -> &'static str {
    match env!("CARGO_PKG_HOMEPAGE") {
        "" => "docs/README.md in the source.",
        home => home,
    }
}

/// `--help`.
fn long(command: &Command) -> String {
    let mut text = String::new();
    usage(&mut text);
    let names = names_of_commands().collect::<Vec<_>>().join(", ");
    let does = format!("Speak to a running service: {names}. -h says what each of these is for.");
    row(&mut text, "COMMAND", &does);
    text.push('\n');
    text.push_str(LEGEND);
    text.push('\n');
    groups(&mut text, command);
    row(&mut text, "-h, --help", "Print this. -h prints the options that matter most.");
    text
}

/// Writes the options of each group that has one.
fn groups(text: &mut String, command: &Command) {
    let of_group = |group| command.get_arguments().filter(move |arg| arg.get_help_heading() == Some(group));
    let shown = GROUPS.map(|group| (group, of_group(group).filter(|arg| !arg.is_hide_set()).collect::<Vec<_>>()));
    for (number, (group, args)) in shown.iter().filter(|(_, args)| !args.is_empty()).enumerate() {
        let line = if number == 0 { "" } else { "\n" };
        let _ = writeln!(text, "{line}{}", heading(&format!("{group}:")));
        for arg in args {
            entry(text, arg);
        }
    }
}

/// Writes an option and its text.
fn entry(text: &mut String, arg: &Arg) {
    let does = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('`', "");
    let end = if does.ends_with(['.', ']']) { "" } else { "." };
    let default = default(arg).map(|default| format!(" [{default}]")).unwrap_or_default();
    row(text, &name(arg), &format!("{does}{end}{default}"));
}

/// `-b, --bind ADDRESS`
pub(super) fn name(arg: &Arg) -> String {
    let value = arg.get_value_names().filter(|_| takes_value(arg)).and_then(<[_]>::first);
    let Some(long) = arg.get_long() else { return value.map(ToString::to_string).unwrap_or_default() };
    let short = arg.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    let value = value.map(|value| format!(" {value}")).unwrap_or_default();
    format!("{short}--{long}{value}")
}

/// Returns the default, if it is short enough to show.
fn default(arg: &Arg) -> Option<String> {
    if arg.is_hide_default_value_set() || !takes_value(arg) {
        return None;
    }
    let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let text = values.join(",");
    (!text.is_empty() && text.len() <= DEFAULT_MAX).then_some(text)
}

/// Writes a name and its wrapped text in two columns. After a name that is too long for its column, the text begins on
/// the same line.
fn row(text: &mut String, name: &str, does: &str) {
    let mut line = format!("{:TEXT_AT$}", format!("  {name}  "));
    let mut is_first = true;
    for word in does.split(' ') {
        if !is_first && line.len() + 1 + word.len() > COLUMNS {
            text.push_str(&line);
            text.push('\n');
            line = " ".repeat(TEXT_AT);
        } else if !is_first {
            line.push(' ');
        }
        line.push_str(word);
        is_first = false;
    }
    text.push_str(&line);
    text.push('\n');
}

/// Returns the text in bold. clap removes the codes if the output is not a terminal.
fn heading(text: &str) -> String {
    format!("\u{1b}[1m{text}\u{1b}[0m")
}
