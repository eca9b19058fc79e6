//! Settings as text: `--print-config` and the table of the README.
//!
//! *Owns*: nothing; reads `Config` and clap's description of it.
//! *Runs on*: the main thread.
//! *Invariants*: what is printed for a setting, but `none`, is a value that its parser takes.

use std::fmt;
use std::fmt::Write as _;
use std::path::Path;

use ::log::LevelFilter;
use clap::Arg;

use super::units::duration_text;
use super::{ByteSize, Config, HttpVersion, LogTarget, ProxyProtocol, StreamRequests};

impl Config {
    /// Every setting with its value, in the order of `--help`; without the two that are commands.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
        let path = |path: &Path| path.display().to_string();
        let option = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        vec![
            ("application", option(self.application.clone())),
            ("paste", option(self.paste.clone())),
            ("factory", self.factory.to_string()),
            ("bind", list(&mut self.bind.iter().map(ToString::to_string))),
            ("unix_socket_mode", option(self.unix_socket_mode.map(|bits| format!("{bits:03o}")))),
            ("unix_socket_owner", option(self.unix_socket_owner.as_ref().map(ToString::to_string))),
            ("backlog", self.backlog.to_string()),
            ("proxy_protocol", self.proxy_protocol.to_string()),
            ("proxy_allow_from", list(&mut self.proxy_allow_from.iter().map(ToString::to_string))),
            ("chdir", option(self.chdir.as_deref().map(path))),
            ("pythonpath", list(&mut self.pythonpath.iter().map(|dir| path(dir)))),
            ("pool_size", self.pool_size.to_string()),
            ("threads", self.threads.to_string()),
            ("max_connections", option(self.max_connections.map(|n| n.to_string()))),
            ("keep_alive", duration_text(self.keep_alive)),
            ("header_timeout", duration_text(self.header_timeout)),
            ("body_timeout", duration_text(self.body_timeout)),
            ("write_timeout", duration_text(self.write_timeout)),
            ("queue_timeout", duration_text(self.queue_timeout)),
            ("graceful_timeout", duration_text(self.graceful_timeout)),
            ("min_rate", self.min_rate.to_string()),
            ("limit_request_line", self.limit_request_line.to_string()),
            ("limit_request_fields", self.limit_request_fields.to_string()),
            ("limit_request_field_size", self.limit_request_field_size.to_string()),
            ("limit_request_head", self.limit_request_head.to_string()),
            ("max_body_size", self.max_body_size.to_string()),
            ("request_buffer", self.request_buffer.to_string()),
            ("stream_requests", self.stream_requests.to_string()),
            ("response_buffer", self.response_buffer.to_string()),
            ("response_spool", self.response_spool.to_string()),
            ("spool_dir", path(&self.spool_dir)),
            ("spool_total", option(self.spool_total.map(|size| size.to_string()))),
            ("umask", option(self.umask.map(|bits| format!("{bits:03o}")))),
            ("init", if self.init { "auto" } else { "off" }.to_owned()),
            ("access_logfile", self.access_logfile.to_string()),
            ("access_logformat", self.access_logformat.clone()),
            ("error_logfile", self.error_logfile.to_string()),
            ("log_level", level_text(self.log_level).to_owned()),
            ("max_http_version", self.max_http_version.to_string()),
            ("server_header", self.server_header.clone()),
            ("werkzeug_socket", self.werkzeug_socket.to_string()),
            ("stack_size", self.stack_size.to_string()),
        ]
    }

    /// The README's table of settings, in Markdown.
    pub fn settings_table() -> String {
        let mut table = String::from("| option | variable | default | meaning |\n|---|---|---|---|\n");
        for arg in Self::command().get_arguments().filter(|arg| arg.get_env().is_some() || arg.is_positional()) {
            let cells = [option_cell(arg), variable_cell(arg), default_cell(arg), cell(&help(arg))];
            // Writing to a string cannot fail.
            let _ = writeln!(table, "| {} |", cells.join(" | "));
        }
        table
    }
}

fn option_cell(arg: &Arg) -> String {
    let Some(long) = arg.get_long() else {
        return code(&arg.get_value_names().unwrap_or_default().join(" "));
    };
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let aliases = arg.get_visible_aliases().unwrap_or_default();
    let names: Vec<_> = std::iter::once(long).chain(aliases).map(|name| format!("`--{name}`")).collect();
    format!("{short}{}", names.join(", "))
}

fn variable_cell(arg: &Arg) -> String {
    arg.get_env().map(|name| code(&name.to_string_lossy())).unwrap_or_default()
}

fn default_cell(arg: &Arg) -> String {
    if arg.is_hide_default_value_set() || !arg.get_action().takes_values() {
        return String::new();
    }
    arg.get_default_values().iter().map(|value| code(&value.to_string_lossy())).collect::<Vec<_>>().join(", ")
}

/// The help sentence and the values there are.
fn help(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    if !arg.get_action().takes_values() {
        return help;
    }
    let values: Vec<_> = arg.get_possible_values().iter().map(|value| code(value.get_name())).collect();
    if values.is_empty() { help } else { format!("{help}: {}", values.join(", ")) }
}

fn code(text: &str) -> String {
    format!("`{}`", cell(text))
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn level_text(level: LevelFilter) -> &'static str {
    match level {
        LevelFilter::Off | LevelFilter::Error => "error",
        LevelFilter::Warn => "warning",
        LevelFilter::Info => "info",
        LevelFilter::Debug | LevelFilter::Trace => "debug",
    }
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Auto => "auto",
        })
    }
}

impl fmt::Display for HttpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
        })
    }
}

impl fmt::Display for StreamRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Above(bytes) => ByteSize(*bytes).fmt(f),
            Self::Always => f.write_str("always"),
        }
    }
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Standard => f.write_str("-"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_name_every_argument_once() {
        let config = Config::parse_from(["maypole", "m:app"]).unwrap();
        let printed: Vec<_> = config.settings().iter().map(|(name, _)| *name).collect();
        let command = Config::command();
        let known: Vec<_> = command
            .get_arguments()
            .map(|arg| arg.get_id().as_str())
            .filter(|name| !["check_config", "print_config", "version"].contains(name))
            .collect();
        assert_eq!(printed, known);
    }

    #[test]
    fn settings_printed_read_back() {
        let args = ["maypole", "m:app", "-b", "[::1]:80", "-b", "unix:/x", "-m", "27", "--stream-requests", "1M"];
        let config = Config::parse_from(args).unwrap();
        let mut again = vec!["maypole".to_owned(), config.application.clone().unwrap()];
        for (name, value) in config.settings() {
            if name != "application" && value != "none" && value != "false" && !value.is_empty() {
                again.push(format!("--{}={value}", name.replace('_', "-")));
            }
        }
        assert_eq!(Config::parse_from(again).unwrap().settings(), config.settings());
    }

    #[test]
    fn table_has_a_row_for_every_option() {
        let table = Config::settings_table();
        assert!(table.contains("| `-b`, `--bind` | `MAYPOLE_BIND` | `127.0.0.1:8000` | Where to listen"), "{table}");
        assert!(table.contains("| `--stack-size` | `MAYPOLE_STACK_SIZE` | `64KiB` |"), "{table}");
        assert_eq!(table.lines().count(), Config::command().get_arguments().count() + 1);
    }
}
