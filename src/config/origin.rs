//! Where the values of settings come from, for `--print-config`.
//!
//! *Owns*: nothing. *Runs on*: the main thread, while the settings are read and printed.

use std::collections::BTreeMap;
use std::fmt;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    /// The default.
    #[default]
    Default,
    /// An option on the command line.
    CommandLine,
    /// A keyword of a Python program.
    Keyword,
    /// The environment variable of this name.
    Variable(String),
    /// A line of a configuration file: `maypole.toml:4`.
    File(String),
    /// The sockets that systemd passes.
    Systemd,
    /// The default, lowered to the value of the setting of this name.
    Follows(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::CommandLine => f.write_str("command line"),
            Self::Keyword => f.write_str("keyword"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File(line) => f.write_str(line),
            Self::Systemd => f.write_str("systemd (LISTEN_FDS)"),
            Self::Follows(name) => write!(f, "default, follows {name}"),
        }
    }
}

/// The origins of all values that are not defaults.
#[derive(Debug, Clone, Default)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Returns where the value of the setting `name` comes from.
    pub fn of(&self, name: &str) -> Origin {
        self.0.get(name).cloned().unwrap_or_default()
    }

    pub(super) fn set(&mut self, name: &str, origin: Origin) {
        self.0.insert(name.to_owned(), origin);
    }

    /// Turns origins on the command line into keywords, for a command line that was made from keywords.
    pub(super) fn are_keywords(&mut self) {
        for origin in self.0.values_mut().filter(|origin| **origin == Origin::CommandLine) {
            *origin = Origin::Keyword;
        }
    }
}
