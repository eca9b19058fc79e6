//! Settings as keywords of a Python program, with the same names, values and error messages as on the command line.
//!
//! *Owns*: nothing; keywords become a command line, which the usual parser reads. *Runs on*: the thread that makes a
//! server.

use std::error::Error as _;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue};
use thiserror::Error;

use super::file::{Files, Place};
use super::read::{is_setting, working_directory};
use super::refusal::without_placeholder;
use super::switches::takes_value;
use super::words::option_words;
use super::{Config, Evaluator, Mount, UrlPath, foreign, nearest};

/// A placeholder on the command line for an application that the program passes as an object.
pub const OBJECT: &str = "application:object";

/// A keyword and its values. Several values have the effect of an option given several times.
pub type Keyword = (String, Vec<String>);

/// Why keywords cannot be read as settings.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeywordError {
    /// There is no such setting.
    #[error("there is no setting '{name}'{}", nearest.as_ref().map(|near| format!("; did you mean '{near}'?")).unwrap_or_default())]
    Unknown {
        /// What was given.
        name: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// The setting belongs to another server.
    #[error("{0}")]
    Foreign(String),
    /// The setting is one of worker processes, which a server that is part of a program does not start.
    #[error("'{name}' needs worker processes, which a Server does not start: use maypole.serve()")]
    NeedsWorkers {
        /// What was given.
        name: String,
    },
    /// The setting has no effect in a server that is part of a program.
    #[error("'{name}' is a setting of the command line, which a server inside a program does not have")]
    CommandLineOnly {
        /// What was given.
        name: String,
    },
    /// A value is wrong, or settings contradict each other.
    #[error("{0}")]
    Invalid(String),
}

/// Settings of the process, and of how the application is found. In a server that is part of a program, the program
/// itself decides these.
pub(super) const COMMAND_LINE_ONLY: [&str; 45] = [
    "application",
    "factory",
    "paste",
    "mount",
    "virtual_host",
    "chdir",
    "pythonpath",
    "capture_output",
    "workers",
    "preload",
    "worker_timeout",
    "worker_start_timeout",
    "max_requests",
    "max_requests_jitter",
    "max_worker_memory",
    "worker_lifetime",
    "hooks",
    "reload",
    "reload_extra_file",
    "reload_engine",
    "uwsgi_module",
    "uwsgi_opt",
    "config",
    "user",
    "group",
    "pid",
    "proc_name",
    "raw_env",
    "worker_tmp_dir",
    "control",
    "alarm_after",
    "statsd_host",
    "statsd_prefix",
    "dogstatsd_tags",
    "umask",
    "init",
    "error_logfile",
    "log_syslog",
    "log_syslog_to",
    "log_syslog_prefix",
    "log_syslog_facility",
    "disable_redirect_access_to_syslog",
    "log_config",
    "check_config",
    "print_config",
];

/// Those of `COMMAND_LINE_ONLY` that concern worker processes.
const OF_WORKERS: [&str; 12] = [
    "workers",
    "preload",
    "worker_timeout",
    "worker_start_timeout",
    "max_requests",
    "max_requests_jitter",
    "max_worker_memory",
    "worker_lifetime",
    "hooks",
    "reload",
    "reload_extra_file",
    "reload_engine",
];

/// Returns whether a setting concerns worker processes.
pub fn is_of_workers(name: &str) -> bool {
    OF_WORKERS.contains(&name)
}

/// Those of `OF_WORKERS` that have no effect on an application that a framework has loaded.
const OF_IMPORT: [&str; 4] = ["preload", "reload", "reload_extra_file", "reload_engine"];

/// Settings of the address, for which each framework has its own arguments.
const LISTENING: [&str; 3] = ["bind", "host", "port"];

/// A setting for a framework's command line: its name, the placeholder of its value (empty if it takes no value), and
/// its help.
pub type Offer = (String, String, String);

impl Config {
    /// Returns the settings of a server inside a program and of its worker processes, without those of the address. The
    /// commands of frameworks offer these.
    pub fn offered_keywords() -> Vec<Offer> {
        let offered = |arg: &&clap::Arg| {
            let name = arg.get_id().as_str();
            let is_offered = is_of_workers(name) && !OF_IMPORT.contains(&name);
            is_setting(arg) && !LISTENING.contains(&name) && (is_offered || !COMMAND_LINE_ONLY.contains(&name))
        };
        let offer = |arg: &clap::Arg| {
            let value = arg.get_value_names().filter(|_| takes_value(arg)).and_then(<[_]>::first);
            let value = value.map(ToString::to_string).unwrap_or_default();
            (arg.get_id().to_string(), value, arg.get_help().map(ToString::to_string).unwrap_or_default())
        };
        Self::command().get_arguments().filter(offered).map(offer).collect()
    }

    /// Returns every setting of a server inside a program, with its value.
    pub fn keyword_settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = self.settings();
        settings.retain(|(name, _)| !COMMAND_LINE_ONLY.contains(name));
        settings
    }

    /// Reads the settings of a server inside a program, `bind` included.
    ///
    /// # Errors
    /// See `KeywordError`.
    pub fn from_keywords(keywords: &[Keyword]) -> Result<Self, KeywordError> {
        if let Some((name, _)) = keywords.iter().find(|(name, _)| COMMAND_LINE_ONLY.contains(&name.as_str())) {
            let name = name.clone();
            return Err(if is_of_workers(&name) {
                KeywordError::NeedsWorkers { name }
            } else {
                KeywordError::CommandLineOnly { name }
            });
        }
        let place = Place { directory: &working_directory(), files: Files::None, evaluator: &Evaluator::default() };
        Self::read_keywords(OBJECT, keywords, &place)
    }

    /// Takes the paths of further applications that the program passes as objects, and no others.
    ///
    /// # Errors
    /// A path is wrong, or has an application already.
    pub fn with_mounts(mut self, paths: &[String]) -> Result<Self, KeywordError> {
        // The environment may name applications, which a program does not import.
        self.sites.mount.clear();
        self.sites.virtual_host.clear();
        for path in paths {
            let mount = UrlPath::parse(path).map(|path| Mount { path, application: OBJECT.to_owned() });
            let wrong = |expected| KeywordError::Invalid(format!("invalid path '{path}' in mounts: {expected}"));
            self.sites.mount.push(mount.map_err(wrong)?);
        }
        let checked = self.check_sites().map_err(|sentence| sentence.replace("--mount ", "mount "));
        checked.map_err(KeywordError::Invalid)?;
        Ok(self)
    }

    /// Reads the settings of a process that only serves `application`, and the configuration file that a keyword names.
    /// `None` means that the program passes an object. `evaluator` evaluates a file in Python.
    ///
    /// # Errors
    /// See `KeywordError`.
    pub fn from_all_keywords(
        application: Option<&str>,
        keywords: &[Keyword],
        evaluator: &Evaluator,
    ) -> Result<Self, KeywordError> {
        let place = Place { directory: &working_directory(), files: Files::Named, evaluator };
        Self::read_keywords(application.unwrap_or(OBJECT), keywords, &place)
    }

    fn read_keywords(application: &str, keywords: &[Keyword], place: &Place) -> Result<Self, KeywordError> {
        let command = Self::command();
        let mut words = vec![OsString::from("maypole")];
        for (name, values) in keywords {
            let option = name.replace('_', "-");
            let known = command.get_arguments().find(|arg| {
                is_setting(arg)
                    && (arg.get_id() == name.as_str()
                        || arg.get_all_aliases().is_some_and(|all| all.contains(&&*option)))
            });
            let Some(arg) = known else { return Err(unknown(name, keywords)) };
            words.extend(option_words(arg, values));
        }
        words.extend(["--".into(), application.into()]);
        let mut config = Self::parse_in(words, &|name| std::env::var(name).ok(), place)
            .map_err(|error| KeywordError::Invalid(value_error(&error)))?;
        config.origins.are_keywords();
        let checked = config.check().and_then(|()| config.check_paths());
        checked.map_err(|sentence| KeywordError::Invalid(with_keywords(&sentence)))?;
        Ok(config)
    }
}

fn unknown(name: &str, all: &[Keyword]) -> KeywordError {
    let command = Config::command();
    let is_ours = |name: &&str| command.get_arguments().any(|arg| arg.get_id() == *name);
    // Maypole's own names are left out: they do not help to find the server that the others belong to.
    let all: Vec<_> = all.iter().map(|(name, _)| name.as_str()).filter(|name| !is_ours(name)).collect();
    if let Some(sentence) = foreign::explain_setting(&format!("there is no setting '{name}'"), name, &all) {
        return KeywordError::Foreign(with_keywords(&sentence));
    }
    let names = command.get_arguments().filter(|arg| is_setting(arg)).map(|arg| arg.get_id().as_str());
    let nearest = nearest(name, names).map(str::to_owned);
    KeywordError::Unknown { name: name.to_owned(), nearest }
}

/// Returns the parser's error message about a value, with the keyword's name.
pub(super) fn value_error(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let (Some(option), Some(value)) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue)) else {
        let whole = error.to_string();
        let first = whole.lines().next().unwrap_or_default();
        return with_keywords(first.strip_prefix("error: ").unwrap_or(first));
    };
    let name = with_keywords(without_placeholder(&option));
    let reason = match (error.source(), text(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(values)) => format!("expected one of {values}"),
        (None, None) => "it cannot be read".to_owned(),
    };
    format!("invalid value '{value}' for {name}: {reason}")
}

/// Replaces options by keywords: `--pool-size` becomes `pool_size`.
pub fn with_keywords(sentence: &str) -> String {
    let words = sentence.split(' ').map(|word| match word.strip_prefix("--") {
        Some(option) => option.replace('-', "_"),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyword(name: &str, value: &str) -> Keyword {
        (name.to_owned(), vec![value.to_owned()])
    }

    fn error(name: &str, value: &str) -> String {
        Config::from_keywords(&[keyword(name, value)]).unwrap_err().to_string()
    }

    #[test]
    fn keywords_are_read_as_options_are() {
        let keywords = [
            keyword("pool_size", "7"),
            keyword("keep_alive", "1.5"),
            ("bind".to_owned(), vec!["127.0.0.1:0".to_owned(), "[::1]:0".to_owned()]),
        ];
        let config = Config::from_keywords(&keywords).unwrap();
        assert_eq!((config.pool_size, config.keep_alive.as_millis(), config.bind.len()), (7, 1500, 2));
    }

    #[test]
    fn keywords_are_offered_with_their_help() {
        let offered = Config::offered_keywords();
        let threads = offered.iter().find(|(name, ..)| name == "threads").unwrap();
        assert_eq!((threads.1.as_str(), &threads.2[..19]), ("N", "Run the application"));
        assert!(offered.iter().all(|(name, ..)| name != "bind" && name != "version"));
        assert!(offered.iter().any(|(name, ..)| name == "workers"));
        assert!(offered.iter().all(|(name, ..)| !["chdir", "preload", "reload"].contains(&name.as_str())));
    }

    #[test]
    fn keyword_that_is_none_names_the_nearest() {
        assert_eq!(error("pool_sise", "7"), "there is no setting 'pool_sise'; did you mean 'pool_size'?");
        assert_eq!(error("keep_alife", "7"), "there is no setting 'keep_alife'; did you mean 'keep_alive'?");
        assert_eq!(error("xyzzy", "7"), "there is no setting 'xyzzy'");
        assert_eq!(error("pool-size", "7"), "there is no setting 'pool-size'; did you mean 'pool_size'?");
    }

    #[test]
    fn keyword_of_another_server_says_what_to_use() {
        assert_eq!(
            error("max_request_body_size", "7"),
            "there is no setting 'max_request_body_size' (waitress); use max_body_size: the default is 1GiB in both; see \
             docs/from-waitress.md#adjustments"
        );
        assert!(error("harakiri", "4").starts_with("there is no setting 'harakiri' (uWSGI); use request_timeout: "));
        assert!(error("keepalive", "4").starts_with("there is no setting 'keepalive' (gunicorn); use keep_alive: "));
    }

    #[test]
    fn value_that_is_wrong_says_what_would_be_right() {
        assert_eq!(
            error("pool_size", "0"),
            "invalid value '0' for pool_size: expected a whole number from 1 to 100000"
        );
        assert_eq!(
            error("log_level", "loud"),
            "invalid value 'loud' for log_level: expected one of debug, info, warning, error, critical"
        );
    }

    #[test]
    fn settings_of_the_process_are_refused_inside_a_program() {
        assert!(error("chdir", "/").contains("a setting of the command line"));
        assert!(error("workers", "2").ends_with("use maypole.serve()"));
        assert!(Config::from_all_keywords(None, &[keyword("chdir", "/")], &Evaluator::default()).is_ok());
        let factory = [keyword("factory", "true")];
        assert!(Config::from_all_keywords(Some("m:app"), &factory, &Evaluator::default()).unwrap().factory);
    }
}
