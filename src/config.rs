//! Every setting, once: name, type, default, limit, reason.

use std::path::PathBuf;
use std::time::Duration;

/// Every setting.
#[derive(Debug, Clone)]
pub struct Config {
    /// The application.
    pub application: String,
    /// Call it to get the application.
    pub factory: bool,
    /// Where to listen.
    pub bind: Vec<ListenAddress>,
    /// listen(2)'s queue.
    pub backlog: u32,
    /// Directory to change to before the application is imported.
    pub chdir: Option<PathBuf>,
    /// More directories for sys.path.
    pub pythonpath: Vec<PathBuf>,
    /// Requests served at once.
    pub pool_size: usize,
    /// Hard cap of the executor.
    pub threads: usize,
    /// Open connections.
    pub max_connections: Option<usize>,
    /// Idle time.
    pub keep_alive: Duration,
    /// From the first byte of a head to its last.
    pub header_timeout: Duration,
    /// Between two pieces of a body.
    pub body_timeout: Duration,
    /// Without progress while sending.
    pub write_timeout: Duration,
    /// Waiting for a permit.
    pub queue_timeout: Duration,
    /// Draining.
    pub graceful_timeout: Duration,
    /// Bytes per second after a grace of 5 s, 0 = off.
    pub min_rate: u64,
    /// Bytes.
    pub limit_request_line: usize,
    /// Fields.
    pub limit_request_fields: usize,
    /// Bytes.
    pub limit_request_field_size: usize,
    /// Bytes of a whole body.
    pub max_body_size: ByteSize,
    /// Bytes of a body kept in memory.
    pub request_buffer: ByteSize,
    /// When bodies are streamed.
    pub stream_requests: StreamRequests,
    /// Bytes of a response waiting in memory.
    pub response_buffer: ByteSize,
    /// Bytes of a response waiting on disk.
    pub response_spool: ByteSize,
    /// Directory of temporary files (default: the system's).
    pub spool_dir: PathBuf,
    /// Mode bits taken away from files.
    pub umask: Option<u32>,
    /// `none`, `-` (standard output) or a path.
    pub access_logfile: LogTarget,
    /// Format.
    pub access_logformat: String,
    /// `-` (standard error) or a path.
    pub error_logfile: LogTarget,
    /// Level.
    pub log_level: log::LevelFilter,
    /// The Server field; empty: none.
    pub server_header: String,
    /// Check and exit.
    pub check_config: bool,
    /// Print and exit.
    pub print_config: bool,
    /// Bytes of a coroutine's stack.
    pub stack_size: ByteSize,
}

/// The whole head of a request, in bytes.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `host:port` or `[v6]:port`; the host may be a name.
    Tcp {
        /// name or address, without brackets
        host: String,
        /// 0: any free one
        port: u16,
    },
    /// `unix:PATH`
    Unix(PathBuf),
    /// `fd://N`: an inherited listening socket.
    Fd(i32),
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
