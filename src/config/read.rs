//! Makes a `Config` from command-line words and environment variables.
//!
//! *Owns*: nothing. *Runs on*: the main thread, or the thread that makes a server. *Invariants*: the command line takes
//! precedence over Maypole's variables, these over PORT and the sockets of a service manager, and these over defaults.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args as _, Command, FromArgMatches as _};
use log::LevelFilter;

use super::file::{self, Files, Place};
use super::{
    Bind, ByteSize, Config, Evaluator, FileRights, ListenAddress, OTHER, Origin, Origins, VARIABLE_PREFIX, Words,
    Workers,
};
use super::{Owner, help, listen, refusal, rights, switches};

/// The size of a page, in bytes. A coroutine's stack consists of whole pages.
const PAGE_BYTES: u64 = 4096;

/// How long requests may run at a restart for new code: a stream or a debugger must not delay it for long.
const RELOAD_STOP: Duration = Duration::from_secs(1);

/// Options that have no variable, because Kubernetes sets `MAYPOLE_PORT` for a service named `maypole`.
const WITHOUT_VARIABLE: [&str; 2] = ["host", "port"];

/// The variable with the number of processes that hosting platforms set, and that gunicorn, Puma and others read.
const WORKERS_VARIABLE: &str = "WEB_CONCURRENCY";

/// How the command line is used.
const USAGE: &str = "maypole [OPTIONS] MODULE[:CALLABLE]";

impl Config {
    /// Reads the settings from a command line, whose first word is the program's name, and from the environment.
    ///
    /// # Errors
    /// clap's error about the command line or a variable. clap also returns `--help` and `--version` as errors.
    pub fn parse_from<I>(args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<OsString> + Clone,
    {
        Self::parse_with(args, &|name| std::env::var(name).ok())
    }

    /// Reads the settings as `parse_from` does, and from the configuration file that the command line or the
    /// environment names, or that of the project.
    ///
    /// # Errors
    /// As `parse_from`. The file cannot be read, or something in it is wrong.
    pub fn read_from<I>(args: I, evaluator: &Evaluator) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<OsString> + Clone,
    {
        let place = Place { directory: &working_directory(), files: Files::Found, evaluator };
        Self::parse_in(args.into_iter().map(Into::into).collect(), &|name| std::env::var(name).ok(), &place)
    }

    /// Reads the same command line again, in the directory in which it was given, and the configuration file anew.
    ///
    /// # Errors
    /// As `read_from`.
    pub fn read_again(&self) -> Result<Self, clap::Error> {
        Self::parse_in(self.words.given.clone(), &|name| std::env::var(name).ok(), &self.words.place())
    }

    /// Does what `parse_from` does, but reads foreign variables (`PORT`, `LISTEN_FDS`) with `variable`.
    pub(super) fn parse_with<I>(args: I, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<OsString> + Clone,
    {
        let place = Place { directory: &working_directory(), files: Files::None, evaluator: &Evaluator::default() };
        Self::parse_in(args.into_iter().map(Into::into).collect(), variable, &place)
    }

    /// Reads the settings, with a configuration file if `place` allows it.
    pub(super) fn parse_in(
        given: Vec<OsString>,
        variable: &dyn Fn(&str) -> Option<String>,
        place: &Place,
    ) -> Result<Self, clap::Error> {
        Self::parse_as(help::with_help(Self::command()), given, variable, place)
    }

    /// Reads the settings as `command` describes the command line.
    pub(super) fn parse_as(
        mut command: Command,
        mut given: Vec<OsString>,
        variable: &dyn Fn(&str) -> Option<String>,
        place: &Place,
    ) -> Result<Self, clap::Error> {
        switches::replace_off_options(&command, &mut given);
        let (mut words, mut file, mut unread) = (given.clone(), None, None);
        if place.files != Files::None {
            // Errors come up when the whole is read. Help and the version end here.
            let first = command.clone().ignore_errors(true).try_get_matches_from(&given)?;
            let found = file::find(&first, place);
            let found = found.map_err(|sentence| {
                clap::Error::raw(ErrorKind::ValueValidation, sentence.trim_end().to_owned() + "\n")
            })?;
            unread = found.is_none().then(|| file::unread(&first, place)).flatten();
            if let Some(found) = found {
                words.splice(1..1, found.words(&command, &first));
                file = Some((found, first));
            }
        }
        let matches = match command.try_get_matches_from_mut(&words) {
            Ok(matches) => matches,
            Err(error) => return Err(refusal::reworded(&mut command, error, &words)),
        };
        let mut config = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        config.resolve(&matches, variable).map_err(|sentence| command.error(ErrorKind::ValueValidation, sentence))?;
        if let Some((found, first)) = file {
            found.set_origins(&first, &mut config.origins);
            config.file = Some(found);
        }
        config.unread = unread;
        config.words = Words::new(given, words, place, config.chdir.as_deref());
        Ok(config)
    }

    /// Returns clap's description of the command line. An empty variable counts as unset, unless empty is a valid
    /// value.
    pub fn command() -> Command {
        let command = Self::augment_args(Command::new("maypole"))
            .about(env!("CARGO_PKG_DESCRIPTION"))
            .long_about(None)
            .version(env!("CARGO_PKG_VERSION"))
            .override_usage(USAGE)
            .disable_version_flag(true)
            // If an option is repeated, the last one counts, as in gunicorn.
            .args_override_self(true);
        command
            .mut_args(|arg| {
                if !is_setting(&arg) {
                    return arg;
                }
                let takes_value = arg.get_action().takes_values();
                let arg = switches::with_form(arg.allow_negative_numbers(takes_value));
                match variable_of(&arg) {
                    Some(name) if !is_unset(&arg, &name) => arg.env(name).hide_env_values(true),
                    _ => arg,
                }
            })
            .arg(
                Arg::new("version")
                    .short('v')
                    .short_alias('V')
                    .long("version")
                    .action(ArgAction::Version)
                    .help_heading(OTHER)
                    .help("Print the version, and exit"),
            )
    }

    /// Sets the values that depend on more than one field.
    fn resolve(&mut self, matches: &ArgMatches, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
        self.origins = origins(matches);
        let is_default = |name: &str| matches.value_source(name) == Some(ValueSource::DefaultValue);
        self.resolve_bind(matches, variable)?;
        self.resolve_workers(variable)?;
        self.resolve_proxies(matches.value_source("forwarded_allow_ips"), variable)?;
        if self.application.is_some() && self.paste.is_some() {
            if matches.value_source("paste") == Some(ValueSource::CommandLine) {
                return Err("--paste names an application, and so does MODULE: keep one of them".to_owned());
            }
            // The command line takes precedence over the environment.
            self.paste = None;
            self.origins.set("paste", Origin::Default);
        }
        if self.application.is_none() && self.factory {
            return Err("--factory is for MODULE[:CALLABLE], not for --paste, --mount and --virtual-host".to_owned());
        }
        let head = self.limit_request_head.as_usize();
        if is_default("limit_request_line") && self.limit_request_line > head {
            self.limit_request_line = head;
            self.origins.set("limit_request_line", Origin::Follows("limit_request_head"));
        }
        if is_default("limit_request_field_size") && self.limit_request_field_size > head {
            self.limit_request_field_size = head;
            self.origins.set("limit_request_field_size", Origin::Follows("limit_request_head"));
        }
        if is_default("request_buffer") && self.request_buffer > self.max_body_size {
            self.request_buffer = self.max_body_size;
            self.origins.set("request_buffer", Origin::Follows("max_body_size"));
        }
        if is_default("graceful_timeout") && self.processes.reload {
            self.graceful_timeout = RELOAD_STOP;
            self.origins.set("graceful_timeout", Origin::Follows("reload"));
        }
        self.spool_dir_given = !is_default("spool_dir");
        if is_default("threads") {
            self.threads = None;
        }
        self.stack_size = ByteSize(self.stack_size.0.next_multiple_of(PAGE_BYTES));
        Ok(())
    }

    /// Sets the addresses: from `--bind`, from `--host` and `--port`, or from the environment.
    fn resolve_bind(&mut self, matches: &ArgMatches, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
        let source = matches.value_source("bind");
        if self.host.is_none() && self.port.is_none() {
            if source == Some(ValueSource::DefaultValue)
                && let Some((bind, origin)) = listen::from_environment(variable, std::process::id())?
            {
                self.bind = bind.into_iter().map(Bind::from).collect();
                self.origins.set("bind", origin);
            }
            return Ok(());
        }
        if source == Some(ValueSource::CommandLine) {
            return Err(
                "--host and --port are the parts of --bind: give --bind HOST:PORT alone, or the parts without it"
                    .to_owned(),
            );
        }
        let port = match self.port {
            Some(port) => Some(port),
            None => listen::port_variable(variable)?,
        };
        self.bind = vec![ListenAddress::of_parts(self.host.as_deref(), port).into()];
        self.origins.set("bind", Origin::CommandLine);
        Ok(())
    }

    /// Sets the number of workers from the variable that other servers and hosting platforms use.
    fn resolve_workers(&mut self, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
        let value = variable(WORKERS_VARIABLE).filter(|value| !value.trim().is_empty());
        let Some(value) = value.filter(|_| self.processes.workers.is_none()) else { return Ok(()) };
        let workers = Workers::parse(&value)
            .map_err(|expected| format!("invalid value '{value}' for {WORKERS_VARIABLE}: {expected}"))?;
        self.processes.workers = Some(workers);
        self.origins.set("workers", Origin::Variable(WORKERS_VARIABLE.to_owned()));
        Ok(())
    }

    /// Returns the name of the application: MODULE, or the file of `--paste`, else the first of several applications.
    pub fn application_name(&self) -> &str {
        let other = || self.sites().find_map(|site| site.application());
        self.application.as_deref().or(self.paste.as_deref()).or_else(other).unwrap_or_default()
    }

    /// Returns the name of the service: that of `--proc-name`, else that of the application.
    pub fn service_name(&self) -> &str {
        self.processes.proc_name.as_deref().unwrap_or_else(|| self.application_name())
    }

    /// Returns the mode and the owner for the files of unix sockets. The owner is the user that the application runs as,
    /// unless a setting names another one.
    pub fn socket_rights(&self) -> FileRights {
        let (user, group) = (self.processes.user.clone(), self.processes.group.clone());
        let own = (user.is_some() || group.is_some()).then_some(Owner { user, group });
        rights::of_socket(self.unix_socket_mode, self.umask, self.unix_socket_owner.as_ref().or(own.as_ref()))
    }
}

/// Returns the working directory. Without one, a relative path cannot be made absolute, and the start fails later.
pub(super) fn working_directory() -> PathBuf {
    std::env::current_dir().unwrap_or_default()
}

/// Returns whether an argument is a setting with a name. MODULE, `--help` and `--version` are not.
pub(super) fn is_setting(arg: &Arg) -> bool {
    !arg.is_positional() && !matches!(arg.get_id().as_str(), "help" | "version")
}

/// Returns the environment variable of a setting, if it has one.
pub(super) fn variable_of(arg: &Arg) -> Option<String> {
    let name = arg.get_id().as_str();
    let has_one = is_setting(arg) && !WITHOUT_VARIABLE.contains(&name);
    has_one.then(|| variable_named(name))
}

fn variable_named(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.to_ascii_uppercase())
}

/// Returns whether the variable counts as unset because it is empty.
fn is_unset(arg: &Arg, variable: &str) -> bool {
    let empty_is_a_value = arg.get_id() == "server_header";
    !empty_is_a_value && std::env::var_os(variable).is_some_and(|value| value.is_empty())
}

/// Returns the origin of each value, as far as clap knows it.
fn origins(matches: &ArgMatches) -> Origins {
    let mut origins = Origins::default();
    for name in matches.ids().map(clap::Id::as_str) {
        match matches.value_source(name) {
            Some(ValueSource::CommandLine) => origins.set(name, Origin::CommandLine),
            Some(ValueSource::EnvVariable) => origins.set(name, Origin::Variable(variable_named(name))),
            _ => {}
        }
    }
    origins
}

/// Refuses only what cannot be the name of an application. The import checks the rest.
pub(super) fn application(text: &str) -> Result<String, String> {
    let module = text.rsplit_once(':').map_or(text, |(module, _)| module);
    if module.trim().is_empty() || text.ends_with(':') {
        return Err("expected MODULE, MODULE:CALLABLE, MODULE:FACTORY() or PATH.py:CALLABLE".to_owned());
    }
    Ok(text.to_owned())
}

/// Reads `--init`: whether process 1 starts an init.
pub(super) fn init() -> impl clap::builder::TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["auto", "off"]).map(|name| name == "auto")
}

pub(super) fn non_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected common, combined, json or a format".to_owned()) } else { Ok(text.to_owned()) }
}

/// Reads a name, which may not be empty.
pub(super) fn named(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("expected a name".to_owned()) } else { Ok(text.to_owned()) }
}

pub(super) fn paste_file(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected FILE or FILE#NAME".to_owned()) } else { Ok(text.to_owned()) }
}

/// Reads a field value (RFC 9110 §5.5), ASCII only.
pub(super) fn field_value(text: &str) -> Result<String, String> {
    if text.bytes().all(|b| matches!(b, 0x20..=0x7e)) {
        return Ok(text.trim().to_owned());
    }
    Err("expected printable ASCII, or nothing for no Server field".to_owned())
}

/// The names of the levels, as gunicorn has them.
pub const LEVELS: [&str; 5] = ["debug", "info", "warning", "error", "critical"];

/// Reads a level by gunicorn's names. `critical` means error, because the crate `log` has no higher level.
pub(super) fn log_level() -> impl clap::builder::TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(LEVELS).map(|name| level_named(&name).unwrap_or(LevelFilter::Error))
}

/// Returns the level with gunicorn's name.
pub fn level_named(name: &str) -> Option<LevelFilter> {
    match name.to_ascii_lowercase().as_str() {
        "debug" => Some(LevelFilter::Debug),
        "info" => Some(LevelFilter::Info),
        "warning" => Some(LevelFilter::Warn),
        "error" | "critical" => Some(LevelFilter::Error),
        _ => None,
    }
}
