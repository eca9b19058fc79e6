//! Every setting, once: name, type, default, limit, reason.
//!
//! *Owns*: `Config`, which the command line, the environment and Python's keywords all become through one parser.
//! *Runs on*: the main thread, before anything is started; afterwards it is only read.
//! *Invariants*: a default stands in its field's attribute and nowhere else; a field's doc is its `--help`, its first
//! sentence its row in the README; a field's parser keeps its own limits, `check` those between fields and with the
//! file system. Relative paths are meant from `chdir`: whoever serves changes directory first.

mod keywords;
mod listen;
mod nearest;
mod network;
mod rights;
mod show;
mod units;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use ::log::LevelFilter;
use clap::builder::{BoolishValueParser, PossibleValuesParser, TypedValueParser as _};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches as _};

pub use self::keywords::{Keyword, KeywordError, Offer};
pub use self::listen::ListenAddress;
pub use self::nearest::nearest;
pub use self::network::Network;
pub use self::rights::{FileRights, Owner};
pub use self::units::{ByteSize, DURATION_MAX, duration_text, parse_duration, parse_size};
use self::units::{GIB, KIB, MIB, bytes, number, positive_duration, size};

/// The most threads that run applications, unless a setting says otherwise: servers that say nothing share them.
pub const THREADS_DEFAULT: usize = 256;

/// What every environment variable of ours begins with.
const VARIABLE_PREFIX: &str = "MAYPOLE_";

/// A coroutine's stack is made of whole pages of that many bytes.
const PAGE_BYTES: u64 = 4096;

/// Every setting.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Config {
    /// The WSGI application: `pkg.mod:callable`, `pkg.mod:factory()`, `dir/file.py:callable`; the callable defaults
    /// to `application`, then `app`. A path is any file: `./site.wsgi`; one in a package is that package's module
    #[arg(value_name = "MODULE[:CALLABLE]", value_parser = application, required_unless_present = "paste")]
    pub application: Option<String>,

    /// Take the application from a file for `PasteDeploy` instead: `site.ini`, `site.ini#NAME`; `[loggers]` in it sets
    /// up logging
    #[arg(long, value_name = "FILE[#NAME]", value_parser = paste_file)]
    pub paste: Option<String>,

    /// Call the callable, without arguments, to get the application
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub factory: bool,

    /// Where to listen, repeatable: `host:port`, `[v6]:port`, `unix:PATH`, `unix:@NAME` (abstract), `fd://N`.
    /// Without it: the sockets that systemd passes, else `0.0.0.0:$PORT` where PORT is set
    #[arg(short, long, value_name = "ADDRESS", value_delimiter = ',', value_parser = ListenAddress::parse)]
    #[arg(default_value = "127.0.0.1:8000")]
    pub bind: Vec<ListenAddress>,

    /// Mode of a unix socket's file, in octal, such as 660; by default 777 without the bits of `--umask`, as with gunicorn,
    /// so that a proxy of another user can connect
    #[arg(long, value_name = "OCTAL", value_parser = rights::mode)]
    pub unix_socket_mode: Option<u32>,

    /// Owner of a unix socket's file, by name or number: `USER`, `USER:GROUP`, `:GROUP`
    #[arg(long, value_name = "USER[:GROUP]", value_parser = Owner::parse)]
    pub unix_socket_owner: Option<Owner>,

    /// Connections that the kernel holds before they are accepted; it cuts the number to `net.core.somaxconn`
    #[arg(long, value_name = "N", value_parser = number::<u32>(1..=65_535), default_value = "2048")]
    pub backlog: u32,

    /// Connections come through a proxy that begins each with a header of the PROXY protocol: `off`, `v1`, `v2`, `auto`
    /// (either)
    #[arg(long, value_name = "off|v1|v2|auto", value_parser = ProxyProtocol::parse, default_value = "off")]
    pub proxy_protocol: ProxyProtocol,

    /// With `--proxy-protocol`: the proxies' addresses and networks, or `*`; a unix socket's clients are always taken
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = Network::parse)]
    #[arg(default_value = "127.0.0.1,::1")]
    pub proxy_allow_from: Vec<Network>,

    /// Directory to change to before the application is imported; relative paths are meant from there
    #[arg(long, value_name = "DIR")]
    pub chdir: Option<PathBuf>,

    /// Directories to put on `sys.path`, repeatable
    #[arg(long, value_name = "DIR", value_delimiter = ',')]
    pub pythonpath: Vec<PathBuf>,

    /// Requests served at once: those queued for the application and those inside it
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=100_000), default_value = "1000")]
    pub pool_size: usize,

    /// The most threads that run the application; how many there are follows what it does
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=10_000), default_value_t = THREADS_DEFAULT)]
    pub threads: usize,

    /// The most connections open at once; by default what the limit of file descriptors leaves
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=10_000_000))]
    pub max_connections: Option<usize>,

    /// How long a connection may stay idle between two requests; 0 closes it after each response
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "75s")]
    pub keep_alive: Duration,

    /// From the first byte of a request's head to its last
    #[arg(long, value_name = "DURATION", value_parser = positive_duration, default_value = "10s")]
    pub header_timeout: Duration,

    /// Between two pieces of a request's body
    #[arg(long, value_name = "DURATION", value_parser = positive_duration, default_value = "30s")]
    pub body_timeout: Duration,

    /// Without progress while a response is sent
    #[arg(long, value_name = "DURATION", value_parser = positive_duration, default_value = "60s")]
    pub write_timeout: Duration,

    /// Answer 503 when a complete request has waited this long for its place in the pool and a thread of the application;
    /// 0 does not wait for a place, and 1s for a thread
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    pub queue_timeout: Duration,

    /// How long requests may take to finish when the server stops; 0 does not wait. What is left of it, and 5 s at least, is for the end of Python
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    pub graceful_timeout: Duration,

    /// Bytes per second below which a client is too slow, in both directions, after 5 s of grace; 0 is off
    #[arg(long, value_name = "BYTES", value_parser = bytes::<u64>(0, GIB), default_value = "240")]
    pub min_rate: u64,

    /// The longest request line, in bytes (414)
    #[arg(long, value_name = "BYTES", value_parser = bytes::<usize>(16, MIB), default_value = "8190")]
    pub limit_request_line: usize,

    /// The most header fields of a request (431)
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=16_384), default_value = "100")]
    pub limit_request_fields: usize,

    /// The longest header field of a request, in bytes (431)
    #[arg(long, value_name = "BYTES", alias = "limit-request-field_size")]
    #[arg(value_parser = bytes::<usize>(16, MIB), default_value = "8190")]
    pub limit_request_field_size: usize,

    /// The longest head of a request: its line and all header fields (431)
    #[arg(long, value_name = "SIZE", value_parser = size(16, MIB), default_value = "64KiB")]
    pub limit_request_head: ByteSize,

    /// The longest body of a request (413)
    #[arg(long, value_name = "SIZE", value_parser = size(1, u64::MAX), default_value = "1GiB")]
    pub max_body_size: ByteSize,

    /// The longest body of a request kept in memory; others go to a temporary file, and so do bodies above 64 KiB while
    /// those in memory have 16 times this
    #[arg(long, value_name = "SIZE", value_parser = size(0, GIB), default_value = "4MiB")]
    pub request_buffer: ByteSize,

    /// Bodies that the application reads while they arrive: `never`, those above SIZE, `always`
    #[arg(long, value_name = "never|SIZE|always", value_parser = StreamRequests::parse, default_value = "never")]
    pub stream_requests: StreamRequests,

    /// How much of a response waits in memory for a slow client
    #[arg(long, value_name = "SIZE", value_parser = size(4 * KIB, GIB), default_value = "64KiB")]
    pub response_buffer: ByteSize,

    /// How much of a response waits in a temporary file for a slow client, before the application has to; less than
    /// 64KiB: none
    #[arg(long, value_name = "SIZE", value_parser = size(0, u64::MAX), default_value = "64MiB")]
    pub response_spool: ByteSize,

    /// Directory of temporary files; by default the system's
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir(), hide_default_value = true)]
    pub spool_dir: PathBuf,

    /// Whether the operator named that directory: then it has to be usable.
    #[arg(skip)]
    pub spool_dir_given: bool,

    /// The most bytes in all temporary files together; beyond it applications wait for their clients, and bodies of requests
    /// wait for room, then 503. By default a quarter of the free space, at most 16GiB
    #[arg(long, value_name = "SIZE", value_parser = size(0, u64::MAX))]
    pub spool_total: Option<ByteSize>,

    /// Mode bits taken away from files that are made, in octal, such as 027
    #[arg(short = 'm', long, value_name = "OCTAL", value_parser = rights::umask)]
    pub umask: Option<u32>,

    /// As process 1 of a container, start an init that reaps orphans and passes signals on, with the server as its child
    #[arg(long, value_name = "auto|off", value_parser = init(), action = ArgAction::Set, default_value = "auto")]
    pub init: bool,

    /// The access log: `none`, `-` (standard output) or a path
    #[arg(long, value_name = "FILE", value_parser = LogTarget::parse, default_value = "none")]
    pub access_logfile: LogTarget,

    /// The access log's format: `common`, `combined`, `json`, or gunicorn's atoms
    #[arg(long, value_name = "FORMAT", value_parser = non_empty)]
    #[arg(default_value = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#)]
    pub access_logformat: String,

    /// The error log: `-` (standard error), `none` or a path
    #[arg(long, value_name = "FILE", visible_alias = "log-file", value_parser = LogTarget::parse, default_value = "-")]
    pub error_logfile: LogTarget,

    /// The least serious lines of the error log
    #[arg(long, value_name = "LEVEL", ignore_case = true, value_parser = log_level(), default_value = "info")]
    pub log_level: LevelFilter,

    /// The version of HTTP that responses are sent in at most: `1.1`, `1.0` (no chunks, no interim responses, and each
    /// response closes its connection)
    #[arg(long, value_name = "1.1|1.0", value_parser = HttpVersion::parse, default_value = "1.1")]
    pub max_http_version: HttpVersion,

    /// The Server field of responses; empty: none
    #[arg(long, value_name = "TEXT", value_parser = field_value, default_value = "maypole")]
    pub server_header: String,

    /// Give requests that ask for another protocol the connection as `werkzeug.socket`, with which libraries for WebSocket
    /// take it over
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub werkzeug_socket: bool,

    /// Check the settings and import the application, then exit
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub check_config: bool,

    /// Print every setting, then exit
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub print_config: bool,

    /// A coroutine's stack, rounded up to whole pages
    #[arg(long, value_name = "SIZE", value_parser = size(32 * KIB, 8 * MIB), default_value = "64KiB")]
    pub stack_size: ByteSize,
}

/// Which header of the PROXY protocol connections begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None.
    Off,
    /// The text of version 1.
    V1,
    /// The binary form of version 2.
    V2,
    /// Either of them.
    Auto,
}

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// Which request bodies are streamed to the application instead of being received first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamRequests {
    /// None.
    Never,
    /// Those longer than that many bytes (a chunked one: none).
    Above(u64),
    /// All.
    Always,
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere.
    None,
    /// `-`: standard output (access) or standard error (errors).
    Standard,
    /// A file, appended to.
    File(PathBuf),
}

impl Config {
    /// Reads the settings from a command line, whose first word is the program's name, and from the environment.
    ///
    /// # Errors
    /// What clap says about the command line or a variable; also `--help` and `--version`, which it calls errors.
    pub fn parse_from<I>(args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<OsString> + Clone,
    {
        Self::parse_with(args, &|name| std::env::var(name).ok())
    }

    /// `parse_from`, with the variables that are not ours (`PORT`, `LISTEN_FDS`) from elsewhere.
    fn parse_with<I>(args: I, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<OsString> + Clone,
    {
        let mut command = Self::command();
        let matches = match command.try_get_matches_from_mut(args) {
            Ok(matches) => matches,
            Err(error) => return Err(with_variable(&command, error)),
        };
        let mut config = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        config.resolve(&matches, variable).map_err(|sentence| command.error(ErrorKind::ValueValidation, sentence))?;
        Ok(config)
    }

    /// What the command line takes. A variable that is empty counts as unset, but where empty is a value.
    pub fn command() -> Command {
        let command = Self::augment_args(Command::new("maypole"))
            .about(env!("CARGO_PKG_DESCRIPTION"))
            .long_about(None)
            .version(env!("CARGO_PKG_VERSION"))
            .disable_version_flag(true)
            // As in gunicorn, the last one counts.
            .args_override_self(true);
        command
            .mut_args(|arg| {
                if arg.is_positional() {
                    return arg;
                }
                let name = format!("{VARIABLE_PREFIX}{}", arg.get_id().as_str().to_ascii_uppercase());
                let empty_is_a_value = arg.get_id() == "server_header";
                if !empty_is_a_value && std::env::var_os(&name).is_some_and(|value| value.is_empty()) {
                    return arg;
                }
                let takes_value = arg.get_action().takes_values();
                arg.env(name).hide_env_values(true).allow_negative_numbers(takes_value)
            })
            .arg(
                Arg::new("version")
                    .short('v')
                    .short_alias('V')
                    .long("version")
                    .action(ArgAction::Version)
                    .help("Print version"),
            )
    }

    /// Settles what one field's parser cannot know.
    fn resolve(&mut self, matches: &ArgMatches, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
        let is_default = |name: &str| matches.value_source(name) == Some(ValueSource::DefaultValue);
        if is_default("bind")
            && let Some(bind) = listen::from_environment(variable, std::process::id())?
        {
            self.bind = bind;
        }
        if self.application.is_some() && self.paste.is_some() {
            if matches.value_source("paste") == Some(ValueSource::CommandLine) {
                return Err("--paste names an application, and so does MODULE: keep one of them".to_owned());
            }
            // What is said on the command line counts before the environment.
            self.paste = None;
        }
        if self.paste.is_some() && self.factory {
            return Err("--factory is for MODULE[:CALLABLE], not for --paste".to_owned());
        }
        let head = self.limit_request_head.as_usize();
        if is_default("limit_request_line") {
            self.limit_request_line = self.limit_request_line.min(head);
        }
        if is_default("limit_request_field_size") {
            self.limit_request_field_size = self.limit_request_field_size.min(head);
        }
        if is_default("request_buffer") {
            self.request_buffer = self.request_buffer.min(self.max_body_size);
        }
        self.spool_dir_given = !is_default("spool_dir");
        self.stack_size = ByteSize(self.stack_size.0.next_multiple_of(PAGE_BYTES));
        Ok(())
    }

    /// What names the application: MODULE, or `--paste`'s file.
    pub fn application_name(&self) -> &str {
        self.application.as_deref().or(self.paste.as_deref()).unwrap_or_default()
    }

    /// The rights of unix sockets' files.
    pub fn socket_rights(&self) -> FileRights {
        rights::of_socket(self.unix_socket_mode, self.umask, self.unix_socket_owner.as_ref())
    }

    /// The rules between settings, and between settings and the file system.
    ///
    /// # Errors
    /// The sentence that says which rule is broken.
    pub fn check(&self) -> Result<(), String> {
        for (index, address) in self.bind.iter().enumerate() {
            let any_free_port = matches!(address, ListenAddress::Tcp { port: 0, .. });
            if !any_free_port && self.bind[..index].contains(address) {
                return Err(format!("--bind names {address} twice"));
            }
        }
        for (option, limit) in [
            ("--limit-request-line", self.limit_request_line),
            ("--limit-request-field-size", self.limit_request_field_size),
        ] {
            if limit > self.limit_request_head.as_usize() {
                let head = self.limit_request_head;
                return Err(format!("{option} ({limit}) must not be larger than --limit-request-head ({head})"));
            }
        }
        if self.request_buffer > self.max_body_size {
            let (buffer, max) = (self.request_buffer, self.max_body_size);
            return Err(format!("--request-buffer ({buffer}) must not be larger than --max-body-size ({max})"));
        }
        if let Some(dir) = &self.chdir
            && !dir.is_dir()
        {
            return Err(format!("--chdir must be a directory, and {} is none", dir.display()));
        }
        let base = self.chdir.clone().unwrap_or_default();
        for (option, target) in [("--access-logfile", &self.access_logfile), ("--error-logfile", &self.error_logfile)] {
            if let LogTarget::File(path) = target
                && base.join(path).is_dir()
            {
                return Err(format!("{option} must be a file, and {} is a directory", path.display()));
            }
        }
        Ok(())
    }
}

impl ProxyProtocol {
    /// Reads `off`, `v1`, `v2` or `auto`; `false` and `true` mean the first and the last.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "off" | "false" => Ok(Self::Off),
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            "auto" | "true" => Ok(Self::Auto),
            _ => Err("expected off, v1, v2 or auto".to_owned()),
        }
    }
}

impl HttpVersion {
    /// Reads `1.0` or `1.1`, also with `HTTP/` before it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text.strip_prefix("HTTP/").unwrap_or(text) {
            "1.0" => Ok(Self::Http10),
            "1.1" => Ok(Self::Http11),
            _ => Err("expected 1.0 or 1.1".to_owned()),
        }
    }
}

impl StreamRequests {
    /// Reads `never`, `always`, `SIZE` or `above SIZE`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text.to_ascii_lowercase().as_str() {
            "never" => Ok(Self::Never),
            "always" => Ok(Self::Always),
            text => parse_size(text.strip_prefix("above ").unwrap_or(text))
                .map(|size| Self::Above(size.0))
                .map_err(|_| "expected never, always or a size such as 16MiB".to_owned()),
        }
    }
}

impl LogTarget {
    /// Reads `none`, `-` or a path.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("expected none, - or a path".to_owned()),
            "-" => Ok(Self::Standard),
            "none" | "None" => Ok(Self::None),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

/// Says so when a wrong value stands in a variable, where nobody looks who reads the option's name.
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

/// The application's name is judged where it is imported; here only what cannot be one.
fn application(text: &str) -> Result<String, String> {
    let module = text.rsplit_once(':').map_or(text, |(module, _)| module);
    if module.trim().is_empty() || text.ends_with(':') {
        return Err("expected MODULE, MODULE:CALLABLE, MODULE:FACTORY() or PATH.py:CALLABLE".to_owned());
    }
    Ok(text.to_owned())
}

/// Whether process 1 starts an init.
fn init() -> impl clap::builder::TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["auto", "off"]).map(|name| name == "auto")
}

fn non_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected common, combined, json or a format".to_owned()) } else { Ok(text.to_owned()) }
}

fn paste_file(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected FILE or FILE#NAME".to_owned()) } else { Ok(text.to_owned()) }
}

/// RFC 9110 §5.5, ASCII only.
fn field_value(text: &str) -> Result<String, String> {
    if text.bytes().all(|b| matches!(b, 0x20..=0x7e)) {
        return Ok(text.trim().to_owned());
    }
    Err("expected printable ASCII, or nothing for no Server field".to_owned())
}

/// gunicorn's names; the crate's five levels have none above error.
fn log_level() -> impl clap::builder::TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["debug", "info", "warning", "error", "critical"]).map(|name| {
        match name.to_ascii_lowercase().as_str() {
            "debug" => LevelFilter::Debug,
            "info" => LevelFilter::Info,
            "warning" => LevelFilter::Warn,
            _ => LevelFilter::Error,
        }
    })
}

#[cfg(test)]
mod tests;
