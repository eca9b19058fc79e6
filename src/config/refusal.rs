//! Rewords clap's errors whose own text would not help the user.
//!
//! *Owns*: nothing. *Runs on*: the main thread, while the settings are read.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use super::foreign;

/// The error message for a command line that names no application.
const NO_APPLICATION: &str = "no application is named

  example: maypole shop.wsgi:application
  This serves the object `application` of the module `shop.wsgi` on http://127.0.0.1:8000.";

/// Rewords the error; `words` is the command line.
pub(super) fn reworded(command: &mut Command, error: clap::Error, words: &[OsString]) -> clap::Error {
    match error.kind() {
        ErrorKind::UnknownArgument => foreign::explain(command, error, words),
        // MODULE is the only required argument.
        ErrorKind::MissingRequiredArgument => command.error(ErrorKind::MissingRequiredArgument, NO_APPLICATION),
        _ => short(with_variable(command, error)),
    }
}

/// Shortens the option's name in the error: drops the placeholder of its value.
fn short(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) {
        let name = without_placeholder(option);
        // clap puts MODULE into brackets, because `--paste` can replace it.
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).to_owned();
        error.insert(ContextKind::InvalidArg, ContextValue::String(name));
    }
    error
}

/// Returns the option without the placeholder of its value: `--threads` of `--threads <N>`, and `--preload` of
/// `--preload[=<PRELOAD>]`.
pub(super) fn without_placeholder(option: &str) -> &str {
    let name = option.split(' ').next().unwrap_or(option);
    name.split_once("[=").map_or(name, |(name, _)| name)
}

/// Adds the variable's name if a wrong value comes from a variable. The error otherwise names only the option.
fn with_variable(command: &Command, mut error: clap::Error) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (Some(option), Some(value)) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue)) else {
        return error;
    };
    let arg = command.get_arguments().find(|arg| arg.to_string() == option);
    let name = arg.and_then(Arg::get_env).map(|name| name.to_string_lossy().into_owned());
    let is_source = |name: &String| std::env::var(name).is_ok_and(|known| known.split(',').any(|known| known == value));
    if let Some(name) = name.filter(is_source) {
        let tip = format!("the value comes from the variable {name}");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}
