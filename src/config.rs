//! Defines each setting once: name, type, default, limit and reason.
//!
//! *Owns*: `Config`. One parser makes it from the command line, the environment and Python keywords. *Runs on*: the
//! main thread, before anything is started; afterwards the settings are only read. *Invariants*: a default stands only
//! in its field's attribute, or in a constant that the attribute names. The first paragraph of a field's doc is its
//! `--help`, and the whole doc is its section of the reference. A field's parser checks the field's own limits, `check`
//! checks rules between fields, and `check_paths` checks paths against the file system. Paths are relative to `chdir`:
//! the process changes directory before it serves.

mod bind;
mod check;
mod ciphers;
mod commands;
mod directory;
mod file;
mod files;
pub mod foreign;
mod forwarded;
mod help;
mod http2;
mod keywords;
mod kinds;
mod listen;
mod logs;
mod nearest;
mod network;
mod origin;
mod processes;
mod read;
mod reference;
mod refusal;
mod rights;
mod show;
mod sites;
mod statsd;
mod status;
mod suspending;
mod switches;
mod syslog;
mod tls;
mod units;
mod variables;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use log::LevelFilter;

pub use self::bind::{Bind, Scheme};
pub use self::ciphers::{Ciphers, SUITES, Suite};
pub use self::commands::{command_for, names_of_commands};
pub use self::directory::FILES_COMMAND;
pub use self::file::{ConfigFile, EVALUATION_VARIABLE, Entry, Evaluator};
pub use self::files::{FileSettings, SendfileRoot, StaticFiles};
pub use self::forwarded::{ForwardedFamily, ForwardedSettings};
pub use self::http2::{Http2Settings, HttpVersions};
pub use self::keywords::{Keyword, KeywordError, OBJECT, Offer, is_of_workers, with_keywords};
pub use self::kinds::{Assignment, HttpVersion, LogTarget, ProxyProtocol, ReloadEngine, StreamRequests, Workers};
pub use self::listen::{HOST_DEFAULT, ListenAddress, PORT_DEFAULT};
pub use self::logs::{LogSettings, Share};
pub use self::nearest::nearest;
pub use self::network::Network;
pub use self::origin::{Origin, Origins};
pub use self::processes::{Processes, WORKERS_MAX};
pub use self::read::{LEVELS, level_named};
use self::read::{application, field_value, init, log_level, non_empty, paste_file};
pub use self::rights::{FileRights, Owner};
pub use self::show::level_name;
pub use self::sites::{HostPattern, Mount, Site, SiteSettings, UrlPath, UrlScheme, VirtualHost};
pub use self::statsd::{StatsdAddress, StatsdSettings};
pub use self::status::StatusSettings;
pub use self::suspending::{SuspendSettings, SuspendedOnStop};
pub use self::syslog::{SocketKind, SyslogAddress, SyslogSettings};
pub use self::tls::{ClientCertificates, KernelTls, KeyPassword, TlsSettings, TlsVersions};
pub use self::units::{ByteSize, DURATION_MAX, duration_text, parse_duration};
use self::units::{GIB, KIB, MIB, bytes, number, positive_duration, size};
pub use self::variables::unknown_variables;
use self::words::Words;

/// The default of `--threads`.
const THREADS_DEFAULT: &str = "256";

/// The maximum of `--threads`.
pub const THREADS_MAX: u64 = 10_000;

/// The default of `--pool-size`.
pub const POOL_SIZE_DEFAULT: usize = 1000;

/// The maximum of `--pool-size`.
pub const POOL_SIZE_MAX: usize = 100_000;

/// The maximum of `--limit-request-head`, in bytes.
pub const HEAD_BYTES_MAX: u64 = MIB;

/// The prefix of Maypole's environment variables.
const VARIABLE_PREFIX: &str = "MAYPOLE_";

// The groups of `--help` and of the reference.
const APPLICATION: &str = "Application";
const LISTENING: &str = "Where it listens";
const TLS: &str = "TLS";
const HTTP2: &str = "HTTP/2";
const PROXIES: &str = "Behind a proxy";
const FILES: &str = "Static files";
const LIMITS: &str = "Limits";
const TIMES: &str = "Time limits";
const LOGS: &str = "Logs";
const STATUS: &str = "Status and metrics";
const WORKERS: &str = "Workers";
const PROCESS: &str = "Process";
const OTHER: &str = "Other";

/// The groups, in the order in which they are printed.
const GROUPS: [&str; 13] =
    [APPLICATION, LISTENING, TLS, HTTP2, PROXIES, FILES, LIMITS, TIMES, LOGS, STATUS, WORKERS, PROCESS, OTHER];

/// The most threads that run the application if `--threads` is not set.
pub const SHARED_THREADS_MAX: usize = match usize::from_str_radix(THREADS_DEFAULT, 10) {
    Ok(threads) => threads,
    Err(_) => panic!("the default is a number"),
};

/// Every setting. The first paragraph of a field's doc is its text in `--help`, the rest is for the reference.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Config {
    /// Serve `module:name`, `module:factory()` or `dir/file.py:name`. Default name: `application`, else `app`
    ///
    /// A name is imported as Python imports it, with the working directory first on `sys.path`. A dotted name after the
    /// colon is an attribute of an attribute. A call may have literal arguments: `'shop:create_app("production")'`.
    ///
    /// A word with a slash, or one that ends in `.py`, is a file; it may have another ending, such as `./site.wsgi`. A
    /// file in a package is imported as that package's module.
    #[arg(value_name = "MODULE[:CALLABLE]", value_parser = application, required_unless_present_any = ["paste", "mount", "virtual_host"])]
    #[arg(help_heading = APPLICATION)]
    pub application: Option<String>,

    /// Call the named callable, and serve what it returns
    ///
    /// The same as `()` after the name: `--factory shop:create_app` is `'shop:create_app()'`.
    #[arg(long, help_heading = APPLICATION)]
    pub factory: bool,

    /// Serve the application of a `PasteDeploy` file
    ///
    /// It stands in place of MODULE. `site.ini#admin` is the application `admin` of the file; without a name it is
    /// `main`. A `[loggers]` section in the file sets up Python's logging. The package `PasteDeploy` has to be
    /// installed.
    #[arg(long, value_name = "FILE[#NAME]", value_parser = paste_file, help_heading = APPLICATION)]
    pub paste: Option<String>,

    /// Change to this directory first; paths are relative to it
    ///
    /// The application is imported from there, and the paths in all other settings are relative to it.
    #[arg(long, value_name = "DIR", help_heading = APPLICATION)]
    pub chdir: Option<PathBuf>,

    /// Add this directory to `sys.path`. Repeatable
    ///
    /// Several directories stand behind the working directory in the order in which they are given. A variable
    /// separates them by commas.
    #[arg(long, value_name = "DIR", value_delimiter = ',', help_heading = APPLICATION)]
    pub pythonpath: Vec<PathBuf>,

    /// Give WebSocket libraries the connection: `werkzeug.socket`
    ///
    /// flask-sock, simple-websocket and Flask-SocketIO look for this key in the environ of a request that asks for
    /// another protocol. Without the setting they answer such a request with an error. Each open WebSocket takes a
    /// thread and a place in the pool for as long as it is open. See [taking a connection
    /// over](../howto/websockets.md).
    #[arg(long, help_heading = APPLICATION)]
    pub werkzeug_socket: bool,

    /// Listen here: `HOST:PORT`, `[V6]:PORT`, `unix:PATH`, `unix:@NAME`, `fd://N`. Repeatable. Without it: systemd's
    /// sockets, `0.0.0.0:$PORT`, or the default
    ///
    /// A host may be a name; then Maypole listens on each of its addresses. `:8000` and `*:8000` mean every IPv4
    /// address, `[::]:8000` every IPv6 and IPv4 address, and port 0 any free port. A host without a port means port
    /// 8000. A port without a host is refused, because Maypole does not guess whether other machines may connect.
    /// `tcp://HOST:PORT` is taken as well. `https://` before
    /// an address means TLS, and `http://` means none; without either, an address has TLS if there is a `--certfile`.
    ///
    /// `unix:@NAME` is an abstract socket, which has no file. `fd://N` is a listening socket that the parent process
    /// has passed on. The sockets that systemd passes (`LISTEN_FDS`) are used without any setting.
    #[arg(short, long, value_name = "ADDRESS", value_delimiter = ',', value_parser = Bind::parse)]
    #[arg(default_value = "127.0.0.1:8000", help_heading = LISTENING)]
    pub bind: Vec<Bind>,

    /// Listen on this host: the host of `--bind`. [127.0.0.1]
    ///
    /// `--host 0.0.0.0` is `--bind 0.0.0.0:8000`, and `--host 0.0.0.0 --port 80` is `--bind 0.0.0.0:80`. With `--bind`
    /// beside it the start is refused. If the variable PORT is set and `--port` is not given, the port is that of PORT.
    ///
    /// There is no variable for it, nor for `--port`: a Kubernetes service of the name `maypole` sets `MAYPOLE_PORT` in
    /// every container of its namespace, to a URL. Use `MAYPOLE_BIND`, or PORT.
    #[arg(long, value_name = "HOST", value_parser = listen::parse_host_alone, help_heading = LISTENING)]
    pub host: Option<String>,

    /// Listen on this port: the port of `--bind`. [8000]
    ///
    /// `--port 80` is `--bind 127.0.0.1:80`: only this machine can connect. Add `--host 0.0.0.0` for all others. With
    /// `--bind` beside it the start is refused.
    #[allow(rustdoc::broken_intra_doc_links, reason = "help names a default in brackets")]
    #[arg(long, value_name = "PORT", value_parser = number::<u16>(0..=65_535), help_heading = LISTENING)]
    pub port: Option<u16>,

    /// Give a unix socket this file mode. Default: 777 less `--umask`, so that a proxy of any user can connect
    ///
    /// In a program `0o660` and `"660"` are the same.
    ///
    /// Connecting needs the right to write to the file. gunicorn has the same default. `660` together with
    /// `--unix-socket-owner` lets one group in and no other user. The mode is set before the socket listens.
    #[arg(long, value_name = "OCTAL", value_parser = rights::mode, help_heading = LISTENING)]
    pub unix_socket_mode: Option<u32>,

    /// Give a unix socket this owner. Default: the server's
    ///
    /// Only root may give a file to another user. Any user may give a file to a group that the user is in.
    #[arg(long, value_name = "USER[:GROUP]", value_parser = Owner::parse, help_heading = LISTENING)]
    pub unix_socket_owner: Option<Owner>,

    /// Let the kernel hold this many connections that are not accepted yet. It drops more
    ///
    /// The kernel cuts the number to `net.core.somaxconn` (4096 on Linux since 5.4). A client whose connection is
    /// dropped tries again after a second.
    #[arg(long, value_name = "N", value_parser = number::<u32>(1..=65_535), default_value = "2048")]
    #[arg(help_heading = LISTENING)]
    pub backlog: u32,

    /// TLS, and its certificates.
    #[command(flatten)]
    pub tls: TlsSettings,

    /// HTTP/2.
    #[command(flatten)]
    pub http2: Http2Settings,

    /// Expect a PROXY header on each connection: `off`, `v1`, `v2`, `auto`. Answer 400 without it
    ///
    /// A proxy that forwards connections instead of requests tells the client's address in this way. See
    /// [proxies that forward connections](../howto/behind-haproxy.md).
    #[arg(long, value_name = "WHICH", value_parser = ProxyProtocol::parse, default_value = "off")]
    #[arg(help_heading = PROXIES)]
    pub proxy_protocol: ProxyProtocol,

    /// Take PROXY headers from these networks only, or `*`. Answer 403 to others
    ///
    /// It has no effect without `--proxy-protocol`. Clients of a unix socket are always taken: its mode says who may
    /// connect.
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = Network::parse)]
    #[arg(default_value = "127.0.0.1,::1", help_heading = PROXIES)]
    pub proxy_allow_from: Vec<Network>,

    /// Proxies that forward requests.
    #[command(flatten)]
    pub forwarded: ForwardedSettings,

    /// Files that are served without the application.
    #[command(flatten)]
    pub files: FileSettings,

    /// The URLs of the applications.
    #[command(flatten)]
    pub sites: SiteSettings,

    /// Serve at most this many requests at once. More wait for up to `--queue-timeout`
    ///
    /// A request has a place in the pool from the moment it is complete until the application's iterable is closed.
    /// Slow and idle clients have none. See [sizing](../howto/sizing.md).
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=POOL_SIZE_MAX as u64))]
    #[arg(default_value_t = POOL_SIZE_DEFAULT, help_heading = LIMITS)]
    pub pool_size: usize,

    /// Run the application on at most this many threads. Only as many start as it can use
    ///
    /// An application that computes runs on one thread. One that waits, for a database say, gets one for each request
    /// that waits. With 1 the application is never called twice at once, and `wsgi.multithread` is false.
    ///
    /// Servers of one program share their threads if they do not set this. A server that sets it has threads of its
    /// own.
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=THREADS_MAX), default_value = THREADS_DEFAULT)]
    #[arg(help_heading = LIMITS)]
    pub threads: Option<usize>,

    /// Hold at most this many connections. One more closes the longest idle one. Default: as `ulimit -n` allows
    ///
    /// If none is idle, new connections wait in the kernel (`--backlog`). Of the files that the process may have open,
    /// 64 are left to the application, and an eighth of the rest to temporary files. A number above what is left is
    /// lowered to it. `--print-config` shows the number that holds.
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=10_000_000), help_heading = LIMITS)]
    pub max_connections: Option<usize>,

    /// Answer 414 to a longer request line
    ///
    /// If it is not set, a smaller `--limit-request-head` lowers it.
    #[arg(long, value_name = "BYTES", value_parser = bytes::<usize>(16, MIB), default_value = "8190")]
    #[arg(help_heading = LIMITS)]
    pub limit_request_line: usize,

    /// Answer 431 to more header fields
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=16_384), default_value = "100")]
    #[arg(help_heading = LIMITS)]
    pub limit_request_fields: usize,

    /// Answer 431 to a longer header field
    ///
    /// A field counts with its name. If it is not set, a smaller `--limit-request-head` lowers it.
    #[arg(long, value_name = "BYTES", alias = "limit-request-field_size")]
    #[arg(value_parser = bytes::<usize>(16, MIB), default_value = "8190", help_heading = LIMITS)]
    pub limit_request_field_size: usize,

    /// Answer 431 to a longer request head
    ///
    /// gunicorn has no such setting: it allows the number of fields times the size of a field.
    #[arg(long, value_name = "SIZE", value_parser = size(16, HEAD_BYTES_MAX), default_value = "64KiB")]
    #[arg(help_heading = LIMITS)]
    pub limit_request_head: ByteSize,

    /// Answer 413 to a longer request body
    ///
    /// A body with a `Content-Length` is refused as soon as its head is there, a chunked one when it has grown too
    /// long.
    #[arg(long, value_name = "SIZE", value_parser = size(1, u64::MAX), default_value = "1GiB", help_heading = LIMITS)]
    pub max_body_size: ByteSize,

    /// Hold a request body up to this size in memory, and put a longer one into a temporary file
    ///
    /// All bodies in memory together have 16 times this. Once that is used up, a body above 64 KiB goes to a temporary
    /// file as well. If it is not set, a smaller `--max-body-size` lowers it.
    #[arg(long, value_name = "SIZE", value_parser = size(0, GIB), default_value = "4MiB", help_heading = LIMITS)]
    pub request_buffer: ByteSize,

    /// Pass a body on while it arrives: `never`, above SIZE, `always`. The application may wait then
    ///
    /// Without it the application never waits for a client that sends slowly, and `CONTENT_LENGTH` is right for a
    /// chunked body too. With it a thread is held for as long as the client sends. See [uploads](../howto/uploads.md).
    #[arg(long, value_name = "WHEN", value_parser = StreamRequests::parse, default_value = "never")]
    #[arg(help_heading = LIMITS)]
    pub stream_requests: StreamRequests,

    /// Hold this much of a response in memory for a slow client, and put more into a temporary file
    ///
    /// It counts for each connection.
    #[arg(long, value_name = "SIZE", value_parser = size(4 * KIB, GIB), default_value = "64KiB")]
    #[arg(help_heading = LIMITS)]
    pub response_buffer: ByteSize,

    /// Put this much of a response into a temporary file. For more, the application waits for the client
    ///
    /// Less than 64KiB turns the file off: the application waits once `--response-buffer` is full.
    #[arg(long, value_name = "SIZE", value_parser = size(0, u64::MAX), default_value = "64MiB")]
    #[arg(help_heading = LIMITS)]
    pub response_spool: ByteSize,

    /// Make temporary files here. Default: `$TMPDIR`, else `/tmp`
    ///
    /// The files have no name, and are gone when the process is. A directory that is named has to be usable, or the
    /// start fails with exit code 3. If no file can be made in the default directory, Maypole says so and serves
    /// without: bodies above `--request-buffer` get 413, and the application waits for slow clients.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir(), hide_default_value = true)]
    #[arg(help_heading = LIMITS)]
    pub spool_dir: PathBuf,

    /// Whether the operator named that directory: then it has to be usable.
    #[arg(skip)]
    pub spool_dir_given: bool,

    /// Limit all temporary files together. Then uploads wait, then get 503. Default: 1/4 of the free space
    ///
    /// Responses stay in memory at the limit, and the application waits for its client. A body waits for up to
    /// `--body-timeout`. In a directory that is memory (tmpfs) the default is at most an eighth of the memory that is
    /// available. 0 turns temporary files off.
    #[arg(long, value_name = "SIZE", value_parser = size(0, u64::MAX), help_heading = LIMITS)]
    pub spool_total: Option<ByteSize>,

    /// Close a connection that is idle this long. 0 closes it after each response
    ///
    /// Behind a proxy it should be longer than the proxy's own time, so that it is the proxy that closes.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "75s", help_heading = TIMES)]
    pub keep_alive: Duration,

    /// Answer 408 to a head that takes longer than this
    ///
    /// It counts from the head's first byte to its last. The connection is closed.
    #[arg(long, value_name = "TIME", value_parser = positive_duration, default_value = "10s", help_heading = TIMES)]
    pub header_timeout: Duration,

    /// Answer 408 if a body stops for this long
    ///
    /// Each piece that comes starts it anew. A client that sends a byte now and then is caught by `--min-rate`. A message
    /// of a WebSocket has this time, too: the socket is closed with 1008.
    #[arg(long, value_name = "TIME", value_parser = positive_duration, default_value = "30s", help_heading = TIMES)]
    pub body_timeout: Duration,

    /// Close the connection if the client reads nothing for this long
    #[arg(long, value_name = "TIME", value_parser = positive_duration, default_value = "60s", help_heading = TIMES)]
    pub write_timeout: Duration,

    /// Answer 503 to a request that waits this long for its turn. 0 does not wait
    ///
    /// The request is complete by then, and the application has not been called. With 0 a request still waits up to 1 s
    /// for a thread.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s", help_heading = TIMES)]
    pub queue_timeout: Duration,

    /// Answer 504 to a request that takes this long, log where it is, and give up its thread. 0 is no limit
    ///
    /// The time begins when the request is complete, and ends when the application's iterable is closed. A response
    /// that has begun is cut. The thread goes on, and what it gives is dropped; another thread takes its place. A
    /// request that no thread has begun by then gets 503. See
    /// [a limit for each request](../howto/request-timeout.md).
    #[arg(short = 't', long, visible_alias = "timeout", value_name = "TIME", value_parser = parse_duration)]
    #[arg(default_value = "0s", help_heading = TIMES)]
    pub request_timeout: Duration,

    /// Raise `maypole.RequestTimeout` in the code of a request at its `--request-timeout`, to end it
    ///
    /// A thread that ends its call within a second is kept. The exception comes between two steps of Python code: it
    /// cannot end a call in C, and it can leave a lock or a transaction as it is. See
    /// [what an interruption can break](../howto/request-timeout.md#what-an-interruption-can-break).
    #[arg(long, help_heading = TIMES)]
    pub request_interrupt: bool,

    /// Let requests end for this long after SIGTERM, then cut them. 0 cuts them at once
    ///
    /// What is left of it, and at least 5 s, is for the end of Python: exit functions and threads of the application. A
    /// supervisor has to wait longer than that before it kills: systemd's `TimeoutStopSec`, Kubernetes'
    /// `terminationGracePeriodSeconds`. With `--reload` the default is 1 s.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s", help_heading = TIMES)]
    pub graceful_timeout: Duration,

    /// Suspended responses.
    #[command(flatten)]
    pub suspending: SuspendSettings,

    /// Close a connection slower than this, in bytes a second, after 5 s of grace. 0 is no limit
    ///
    /// It counts while a request or a message of a WebSocket is received, and while a response is sent, not while the
    /// application works.
    #[arg(long, value_name = "BYTES", value_parser = bytes::<u64>(0, GIB), default_value = "240", help_heading = TIMES)]
    pub min_rate: u64,

    /// Log each request to a file, `none` or `-` (stdout)
    ///
    /// A file is appended to. Inside a program `-` is the logger `maypole.access`.
    #[arg(long, value_name = "FILE", value_parser = LogTarget::parse, default_value = "none", help_heading = LOGS)]
    pub access_logfile: LogTarget,

    /// Log each request as `common`, `combined`, `json` or in gunicorn's atoms. Default: as gunicorn does
    ///
    /// `%%` is the sign itself. [Logs](logs.md) lists the atoms and the members of `json`.
    #[arg(long, value_name = "FORMAT", value_parser = non_empty, help_heading = LOGS)]
    #[arg(default_value = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#)]
    pub access_logformat: String,

    /// Log the server's lines to a file, `none` or `-` (stderr)
    ///
    /// A file is appended to. What the application writes to `wsgi.errors` goes there, too.
    #[arg(long, value_name = "FILE", visible_alias = "log-file", value_parser = LogTarget::parse, default_value = "-")]
    #[arg(help_heading = LOGS)]
    pub error_logfile: LogTarget,

    /// Leave out lines less serious than `debug`, `info`, `warning`, `error` or `critical`
    #[arg(long, value_name = "LEVEL", ignore_case = true, value_parser = log_level(), default_value = "info")]
    #[arg(help_heading = LOGS)]
    pub log_level: LevelFilter,

    /// Requests in the logs.
    #[command(flatten)]
    pub logs: LogSettings,

    /// What the service shows of itself.
    #[command(flatten)]
    pub status: StatusSettings,

    /// Worker processes, and the process itself.
    #[command(flatten)]
    pub processes: Processes,

    /// Take these mode bits, such as 027, from new files. Default: keep the umask that the process has
    ///
    /// The application's files and directories are among them. To let a proxy use a unix socket, set
    /// `--unix-socket-mode` instead: a umask of 117 takes the x bit from every directory that the application makes.
    #[arg(short = 'm', long, value_name = "OCTAL", value_parser = rights::umask, help_heading = PROCESS)]
    pub umask: Option<u32>,

    /// Start an init as process 1 of a container, or not: `auto`, `off`. It reaps orphans and passes signals on
    ///
    /// The server is its child then. The init ends as the server does: with its exit status, or 128 + N if signal N
    /// ended it. With `off`, orphans stay as zombies.
    #[arg(long, value_name = "WHEN", value_parser = init(), action = ArgAction::Set, default_value = "auto")]
    #[arg(help_heading = PROCESS)]
    pub init: bool,

    /// Check the settings, import the application, and exit
    ///
    /// It exits with 0 if all is well, else with the code that the start would have. It binds no address.
    #[arg(long, help_heading = PROCESS)]
    pub check_config: bool,

    /// Print each setting, its value and its source, and exit
    ///
    /// Each line is `name = value`, two spaces, and `# source`. Limits are shown as they hold, such as the number of
    /// connections that the limit of open files allows. Behind them stand the Python that runs, its virtual environment
    /// and `sys.path`. The application is not imported.
    #[arg(long, help_heading = PROCESS)]
    pub print_config: bool,

    /// Answer in HTTP `1.1` or `1.0` at most
    ///
    /// With `1.0` there are no chunks and no interim responses, and each response closes its connection.
    #[arg(long, value_name = "VERSION", value_parser = HttpVersion::parse, default_value = "1.1", help_heading = OTHER)]
    pub max_http_version: HttpVersion,

    /// Send this Server field; empty sends none
    #[arg(long, value_name = "TEXT", value_parser = field_value, default_value = "maypole", help_heading = OTHER)]
    pub server_header: String,

    /// Give each coroutine a stack of this size
    ///
    /// Only pages that are used take memory. The default is enough for all that the server does: the
    /// application runs on threads, with stacks of their own.
    #[arg(long, value_name = "SIZE", value_parser = size(32 * KIB, 8 * MIB), default_value = "128KiB")]
    #[arg(help_heading = OTHER)]
    pub stack_size: ByteSize,

    /// Where each value comes from.
    #[arg(skip)]
    pub origins: Origins,

    /// The configuration file that some of them come from.
    #[arg(skip)]
    file: Option<ConfigFile>,

    /// A file that gunicorn would read, and that is not read here.
    #[arg(skip)]
    unread: Option<&'static str>,

    /// The command lines that all of them were read from.
    #[arg(skip)]
    words: Words,
}

impl Config {
    /// Returns the most threads that run the application.
    pub fn threads_max(&self) -> usize {
        self.threads.unwrap_or(SHARED_THREADS_MAX)
    }
}

#[cfg(test)]
mod tests;
