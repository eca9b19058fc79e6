//! The names of the commands for a running service: for `-h`, and for a word that is nearly one of them.
//!
//! *Owns*: these names. *Runs on*: the thread that reads settings or imports the application. *Invariants*: `control` has
//! the commands themselves, and its tests compare the names.

use super::nearest;

/// Each command with its argument, and what it is for. `-h` shows both in one line of 80 columns.
pub const COMMANDS: [(&str, &str); 10] = [
    ("status", "what each process does, and whether the service is ready"),
    ("requests", "where each request is: the line of your code"),
    ("dump", "the stacks of all Python threads"),
    ("top", "status, requests and stacks on a live page in the terminal"),
    ("reload", "read the settings and the application again"),
    ("scale N", "set the number of workers"),
    ("drain", "accept no new connections, and wait for the requests"),
    ("stop", "let the requests end, then end the service"),
    ("quit", "end the service at once"),
    ("log-level LEVEL", "log more or less"),
];

/// A shorter name must be the beginning of the word, or the word its beginning.
const NAME_MIN: usize = 5;

/// Returns the names of the commands.
pub fn names_of_commands() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().filter_map(|(usage, _)| usage.split(' ').next())
}

/// Returns the end of a sentence about a word that is no application: the command that it may stand for.
pub fn command_for(word: &str) -> Option<String> {
    if word == "help" {
        return Some("; maypole --help lists the options and the commands".to_owned());
    }
    // `shop` differs from `stop` by one character, and is an application.
    let is_meant = |name: &&str| name.len() >= NAME_MIN || word.starts_with(name) || name.starts_with(word);
    let meant = nearest(word, names_of_commands().filter(is_meant))?;
    Some(format!("; did you mean the command 'maypole {meant}'?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_that_is_nearly_a_command_is_found() {
        for (word, meant) in
            [("request", "requests"), ("dumps", "dump"), ("loglevel", "log-level"), ("stauts", "status")]
        {
            assert_eq!(command_for(word), Some(format!("; did you mean the command 'maypole {meant}'?")), "{word}");
        }
        for word in ["shop", "step", "shop.wsgi:app", "server", ""] {
            assert_eq!(command_for(word), None, "{word}");
        }
        assert!(command_for("help").is_some_and(|end| end.contains("--help")));
    }
}
