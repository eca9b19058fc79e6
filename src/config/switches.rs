//! Switches: settings that are on or off. `--preload` turns one on, and `--no-preload` turns it off.
//!
//! *Owns*: nothing. *Runs on*: the main thread, or the thread that makes a server. *Invariants*: every setting of the
//! type `bool` has the same form, which only this file knows. Off on the command line takes precedence over on in the
//! environment or in a file, as any value does.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

/// What `--no-` before the name of a switch means, in the form that clap reads.
const OFF: &str = "=false";

/// Gives an argument of the type `bool` the form of a switch: `--preload`, `--preload=false`. Others stay as they are.
pub(super) fn with_form(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .value_parser(on_or_off)
        .num_args(0..=1)
        .require_equals(true)
        .default_value("false")
        .default_missing_value("true")
}

/// Returns whether the setting is on or off.
pub(super) fn is_switch(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|range| range.min_values() == 0)
}

/// Returns whether an option needs a value: a switch does not.
pub(super) fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !is_switch(arg)
}

/// Returns the option that turns a switch off: `--no-preload`.
pub(super) fn off_option(arg: &Arg) -> Option<String> {
    arg.get_long().filter(|_| is_switch(arg)).map(|long| format!("--no-{long}"))
}

/// Replaces `--no-preload` by `--preload=false`. Words behind `--` stay as they are.
pub(super) fn replace_off_options(command: &Command, words: &mut [OsString]) {
    let is_switch_named = |name: &str| {
        let has_name = |arg: &Arg| {
            arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
        };
        command.get_arguments().any(|arg| is_switch(arg) && has_name(arg))
    };
    for word in words.iter_mut().take_while(|word| *word != "--") {
        let name = word.to_str().and_then(|word| word.strip_prefix("--no-")).filter(|name| is_switch_named(name));
        if let Some(name) = name {
            *word = format!("--{name}{OFF}").into();
        }
    }
}

/// Reads the value of a switch.
fn on_or_off(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Evaluator};
    use super::*;

    fn names() -> Vec<String> {
        let command = Config::command();
        let switches = command.get_arguments().filter(|arg| is_switch(arg));
        switches.map(|arg| arg.get_id().as_str().replace('_', "-")).collect()
    }

    /// Returns the values of a switch and where they come from, for a command line with these words.
    fn value(name: &str, words: &[String]) -> (bool, String) {
        let words =
            ["maypole".to_owned()].iter().chain(words).chain(&["m:app".to_owned()]).cloned().collect::<Vec<_>>();
        let config = Config::parse_from(&words).unwrap();
        let id = name.replace('-', "_");
        let is_on = match id.as_str() {
            "check_config" => config.check_config,
            "print_config" => config.print_config,
            _ => config.settings().iter().find(|(known, _)| *known == id).unwrap().1 == "true",
        };
        (is_on, config.origins.of(&id).to_string())
    }

    #[test]
    fn each_switch_is_turned_on_and_off_in_every_form() {
        assert!(names().contains(&"preload".to_owned()), "{:?}", names());
        for name in names() {
            let word = |text: &str| text.replace("NAME", &name);
            let on = [vec![word("--NAME")], vec![word("--NAME=yes")], vec![word("--no-NAME"), word("--NAME")]];
            let off = [vec![word("--no-NAME")], vec![word("--NAME=0")], vec![word("--NAME"), word("--no-NAME")]];
            for words in on {
                assert_eq!(value(&name, &words), (true, "command line".to_owned()), "{words:?}");
            }
            for words in off {
                assert_eq!(value(&name, &words), (false, "command line".to_owned()), "{words:?}");
            }
            assert_eq!(value(&name, &[]), (false, "default".to_owned()), "{name}");
        }
    }

    #[test]
    fn switch_that_a_file_turns_on_is_turned_off_by_the_command_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shop.toml");
        let file = format!("--config={}", path.display());
        for name in names().into_iter().filter(|name| !["check-config", "print-config"].contains(&&**name)) {
            std::fs::write(&path, format!("[maypole]\n{name} = true\n")).unwrap();
            let read = |words: &[&str]| {
                let words = [&["maypole", &file], words, &["m:app"]].concat();
                let config = Config::read_from(words, &Evaluator::default()).unwrap();
                let again = Config::read_from(config.words(), &Evaluator::default()).unwrap();
                let value = |config: &Config| {
                    let is_ours = |(known, _): &(&str, String)| known.replace('_', "-") == name;
                    config.settings().into_iter().find(is_ours).unwrap().1
                };
                assert_eq!(value(&config), value(&again), "{name}");
                value(&config)
            };
            assert_eq!(
                (read(&[]), read(&[&format!("--no-{name}")])),
                ("true".to_owned(), "false".to_owned()),
                "{name}"
            );
        }
    }

    #[test]
    fn off_option_behind_the_end_of_options_is_a_word() {
        let mut words = ["maypole", "--no-preload", "--no-sendfile", "--", "--no-preload"].map(OsString::from);
        replace_off_options(&Config::command(), &mut words);
        assert_eq!(words, ["maypole", "--preload=false", "--no-sendfile", "--", "--no-preload"].map(OsString::from));
    }

    #[test]
    fn switch_with_another_value_says_what_it_takes() {
        let error = Config::parse_from(["maypole", "--preload=maybe", "m:app"]).unwrap_err().to_string();
        assert!(error.contains("invalid value 'maybe' for '--preload': expected true or false"), "{error}");
    }
}
