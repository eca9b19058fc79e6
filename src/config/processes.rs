//! The settings of worker processes, of the process itself, and of files that are watched.
//!
//! *Owns*: `Processes`, a part of `Config`. *Runs on*: the main thread, while the settings are read. *Invariants*: as
//! for `Config`. A service without any of the settings that need a supervisor is one process.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::kinds::{Assignment, ReloadEngine, Workers};
use super::read::named;
use super::units::{MIB, number, parse_duration, size};
use super::{ByteSize, Config, LOGS, Origin, PROCESS, WORKERS};

/// The most workers. The scoreboard has room for all of them and for their replacements.
pub const WORKERS_MAX: usize = 256;

/// The shortest `--worker-timeout`. The ticks of a worker come once a second, and later on a busy machine.
const WORKER_TIMEOUT_MIN: Duration = Duration::from_secs(2);

/// The most requests that `--max-requests` takes.
const REQUESTS_MAX: u64 = 1_000_000_000_000;

/// The settings of worker processes and of the process itself.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Processes {
    /// Write what the application prints to the error log
    ///
    /// Standard output and standard error of the process go to the file of `--error-logfile`. With `-` and `none` it
    /// has no effect.
    #[arg(long, help_heading = LOGS)]
    pub capture_output: bool,

    /// Serve with this many worker processes: a number, or `auto` for one per processor. Default: one process
    ///
    /// A supervisor starts the workers, replaces one that dies, and reloads the application without losing a request.
    /// `auto` counts the processors that the process may use: its processor mask and the quota of its control group
    /// limit them. Without the option and without its variable, the variable `WEB_CONCURRENCY` counts. Without all of
    /// them Maypole serves in one process, without a supervisor. `--threads`, `--pool-size` and `--max-connections`
    /// are for each worker.
    #[arg(short, long, value_name = "N", value_parser = Workers::parse, help_heading = WORKERS)]
    pub workers: Option<Workers>,

    /// Import the application once, and fork the workers. It implies `--workers 1`
    ///
    /// The workers share the memory of what was imported. Threads and connections that the import starts do not work
    /// in the workers.
    #[arg(long, alias = "preload-app", help_heading = WORKERS)]
    pub preload: bool,

    /// Replace a worker that does not respond for this long. 0 never does
    ///
    /// A worker does not respond if its coroutines stand still, or if a thread keeps the GIL while calls wait. A
    /// request that takes long is no reason. The stacks of all Python threads are logged first. A worker shows once a
    /// second that it responds, so that the time is at least 2 s.
    #[arg(long, value_name = "TIME", value_parser = worker_timeout, default_value = "30s", help_heading = WORKERS)]
    pub worker_timeout: Duration,

    /// Kill a new worker that does not serve after this long. 0 waits without a limit
    ///
    /// The time is for the start of Python and the import of the application.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "120s", help_heading = WORKERS)]
    pub worker_start_timeout: Duration,

    /// Replace a worker after this many requests. 0 never does. It implies `--workers 1`
    ///
    /// The replacement serves before the old worker stops. Only one worker is replaced at a time.
    #[arg(long, value_name = "N", value_parser = number::<u64>(0..=REQUESTS_MAX), default_value = "0")]
    #[arg(help_heading = WORKERS)]
    pub max_requests: u64,

    /// Add a random number of requests, up to this one, to `--max-requests`
    ///
    /// Each worker has a number of its own, so that the workers are not replaced one right after the other.
    #[arg(long, value_name = "N", value_parser = number::<u64>(0..=REQUESTS_MAX), default_value = "0")]
    #[arg(help_heading = WORKERS)]
    pub max_requests_jitter: u64,

    /// Replace a worker that uses more memory than this. It implies `--workers 1`. Default: no limit
    ///
    /// The memory is what the worker does not share with other processes, after freed memory was given back. The
    /// replacement serves before the old worker stops.
    #[arg(long, value_name = "SIZE", value_parser = size(MIB, u64::MAX), help_heading = WORKERS)]
    pub max_worker_memory: Option<ByteSize>,

    /// Replace a worker after this time. 0 never does. It implies `--workers 1`
    ///
    /// Each worker lives longer by a random part of the time, a tenth at most, so that the workers are not replaced one
    /// right after the other. The replacement serves before the old worker stops.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0s", help_heading = WORKERS)]
    pub worker_lifetime: Duration,

    /// Call the functions of this Python file when processes start and end. It implies `--workers 1`. Default: none
    ///
    /// The names are gunicorn's: `on_starting`, `when_ready`, `post_fork`, `post_worker_init`, `worker_exit`,
    /// `child_exit` and `on_exit`.
    #[arg(long, value_name = "FILE", help_heading = WORKERS)]
    pub hooks: Option<PathBuf>,

    /// Reload the application when one of its files changes, for development. It implies `--workers 1`
    ///
    /// The files are those of the loaded modules, the directories of templates, and `--reload-extra-file`.
    #[arg(long, help_heading = WORKERS)]
    pub reload: bool,

    /// Reload when this file or a file in this directory changes, too. Repeatable
    #[arg(long, value_name = "FILE", alias = "reload-extra-files", value_delimiter = ',', help_heading = WORKERS)]
    pub reload_extra_file: Vec<PathBuf>,

    /// Find changed files with `inotify`, by looking at each (`poll`), or as the system allows (`auto`)
    #[arg(long, value_name = "HOW", value_parser = ReloadEngine::parse, default_value = "auto", help_heading = WORKERS)]
    pub reload_engine: ReloadEngine,

    /// Give the application a module `uwsgi`, for services that need one
    ///
    /// It has `worker_id`, `numproc`, `opt`, `masterpid` and `started_on`. Any other name raises an error that says
    /// what to use instead.
    #[arg(long, help_heading = WORKERS)]
    pub uwsgi_module: bool,

    /// Put this into `uwsgi.opt`. Repeatable. `%t` in the value is the time of the start
    ///
    /// It needs `--uwsgi-module`.
    #[arg(long, value_name = "NAME=VALUE", value_parser = Assignment::parse, help_heading = WORKERS)]
    pub uwsgi_opt: Vec<Assignment>,

    /// Read settings from this file: TOML, a Python file of gunicorn, `python:MODULE`, or `none`. Default: the table in
    /// `pyproject.toml`
    ///
    /// The command line takes precedence over the environment, the environment over the file, and the file over the
    /// defaults. Without the option, the table `[tool.maypole]` of `pyproject.toml` in the directory of the application
    /// is read if there is one. `none` reads no file. See [configuration files](../howto/configuration.md).
    #[arg(short, long, value_name = "FILE", value_parser = named, help_heading = PROCESS)]
    pub config: Option<String>,

    /// Run as this user, once the addresses and the log files are open. Default: the user that starts it
    ///
    /// It takes a name or a number. Only root may change the user. The process gets all groups of the user, and the log
    /// files and the files of unix sockets are given to the user. The variables HOME and USER stay as they are. With
    /// workers, the supervisor stays root, and each worker changes its user before it imports the application.
    #[arg(short, long, value_name = "USER", value_parser = named, help_heading = PROCESS)]
    pub user: Option<String>,

    /// Run as this group. Default: the group of `--user`
    ///
    /// It takes a name or a number. Only root may change the group. Without `--user`, the process has no other groups.
    #[arg(short, long, value_name = "GROUP", value_parser = named, help_heading = PROCESS)]
    pub group: Option<String>,

    /// Write the number of the process to this file, and remove the file at the end. Default: no file
    ///
    /// With workers it is the number of the supervisor. A file that a process has left is replaced. A file with the
    /// number of a process that runs is not, nor is one that is no PID file: the start fails with exit code 3.
    #[arg(short, long, value_name = "FILE", alias = "pidfile", help_heading = PROCESS)]
    pub pid: Option<PathBuf>,

    /// Show this name in `ps` and `top`. Default: the command line, or the application's name with workers
    ///
    /// One process is `maypole [NAME]`. With workers they are `maypole: supervisor [NAME]` and `maypole: worker 2
    /// [NAME]`.
    #[arg(short = 'n', long, value_name = "TEXT", visible_alias = "name", value_parser = named, help_heading = PROCESS)]
    pub proc_name: Option<String>,

    /// Set this environment variable for the application. Repeatable
    ///
    /// It is set before the application is imported, and takes precedence over a variable of the same name.
    #[arg(short = 'e', long, value_name = "NAME=VALUE", visible_alias = "env", value_parser = Assignment::parse)]
    #[arg(help_heading = PROCESS)]
    pub raw_env: Vec<Assignment>,

    /// Do nothing: workers have no heartbeat file. The option is accepted for gunicorn's command lines
    #[arg(long, value_name = "DIR", help_heading = PROCESS)]
    pub worker_tmp_dir: Option<PathBuf>,
}

/// Reads `--worker-timeout`.
fn worker_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        timeout if timeout.is_zero() || timeout >= WORKER_TIMEOUT_MIN => Ok(timeout),
        _ => Err("expected 0 or at least 2s: a worker shows once a second that it responds".to_owned()),
    }
}

impl Processes {
    /// Returns how many workers serve, with a supervisor. `None`: Maypole serves in one process.
    pub fn count(&self) -> Option<usize> {
        self.workers.map(Workers::count).or_else(|| self.implied().map(|_| 1))
    }

    /// Returns the first option, other than `--workers`, that needs a supervisor.
    fn implied(&self) -> Option<&'static str> {
        let given = [
            ("--preload", self.preload),
            ("--reload", self.reload),
            ("--max-requests", self.max_requests > 0),
            ("--max-worker-memory", self.max_worker_memory.is_some()),
            ("--worker-lifetime", !self.worker_lifetime.is_zero()),
            ("--hooks", self.hooks.is_some()),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(option, _)| option)
    }
}

impl Config {
    /// Returns whether the settings ask for workers, which a supervisor starts and watches.
    pub fn needs_supervisor(&self) -> bool {
        self.processes.count().is_some()
    }

    /// Checks the rules between the settings of processes. A file may set what has no effect yet: another value may come
    /// from the command line at times.
    pub(super) fn check_processes(&self) -> Result<(), String> {
        let processes = &self.processes;
        let rules = [
            ("max_requests_jitter", "--max-requests", processes.max_requests > 0),
            ("reload_extra_file", "--reload", processes.reload),
            ("uwsgi_opt", "--uwsgi-module", processes.uwsgi_module),
        ];
        if processes.reload && processes.preload {
            return Err(
                "--reload cannot be combined with --preload, which keeps the code that it has imported".to_owned()
            );
        }
        let is_given = |name| matches!(self.origins.of(name), Origin::CommandLine | Origin::Keyword);
        match rules.into_iter().find(|(name, _, has_effect)| is_given(name) && !has_effect) {
            Some((name, needed, _)) => Err(format!("--{} has no effect without {needed}", name.replace('_', "-"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Config {
        let words = ["maypole", "m:app"].iter().chain(words);
        Config::parse_with(words, &|_| None).unwrap()
    }

    #[test]
    fn supervisor_is_needed_by_workers_and_by_what_implies_one() {
        for (words, count) in [
            (&[][..], None),
            (&["-w", "4"], Some(4)),
            (&["-w", "1"], Some(1)),
            (&["--preload"], Some(1)),
            (&["--preload-app", "-w3"], Some(3)),
            (&["--reload"], Some(1)),
            (&["--max-requests", "0"], None),
            (&["--max-requests", "1000"], Some(1)),
            (&["--max-worker-memory", "512M"], Some(1)),
            (&["--worker-lifetime", "1h"], Some(1)),
            (&["--hooks", "hooks.py"], Some(1)),
            (&["-u", "www-data", "-g", "www-data", "-p", "/run/x.pid", "-n", "shop", "-e", "A=b", "-c", "none"], None),
        ] {
            let config = parse(words);
            assert_eq!((config.processes.count(), config.needs_supervisor()), (count, count.is_some()), "{words:?}");
        }
        let processors = std::thread::available_parallelism().unwrap().get();
        assert_eq!(parse(&["-w", "auto"]).processes.count(), Some(processors.min(WORKERS_MAX)));
    }

    #[test]
    fn web_concurrency_counts_if_the_workers_are_not_given() {
        let variable = |name: &str| (name == "WEB_CONCURRENCY").then(|| "3".to_owned());
        let of = |words: &[&str]| {
            let config = Config::parse_with(["maypole", "m:app"].iter().chain(words), &variable).unwrap();
            (config.processes.count(), config.origins.of("workers").to_string())
        };
        assert_eq!(of(&[]), (Some(3), "variable WEB_CONCURRENCY".to_owned()));
        assert_eq!(of(&["-w2"]), (Some(2), "command line".to_owned()));
        let many = |name: &str| (name == "WEB_CONCURRENCY").then(|| "many".to_owned());
        let error = Config::parse_with(["maypole", "m:app"], &many).unwrap_err().to_string();
        assert!(error.starts_with("error: invalid value 'many' for WEB_CONCURRENCY: expected auto or a"), "{error}");
    }

    #[test]
    fn option_without_the_one_that_it_belongs_to_is_an_error() {
        for (words, sentence) in [
            (&["--max-requests-jitter", "5"][..], "--max-requests-jitter has no effect without --max-requests"),
            (&["--reload-extra-file", "x"], "--reload-extra-file has no effect without --reload"),
            (&["--uwsgi-opt", "a=b"], "--uwsgi-opt has no effect without --uwsgi-module"),
        ] {
            assert_eq!(parse(words).check(), Err(sentence.to_owned()));
        }
    }

    #[test]
    fn reload_shortens_a_stop_and_excludes_preload() {
        let stop = |words: &[&str]| parse(words).graceful_timeout.as_secs();
        assert_eq!(stop(&[]), 30);
        assert_eq!(stop(&["--reload"]), 1);
        assert_eq!(stop(&["--reload", "--graceful-timeout", "5s"]), 5);
        assert_eq!(parse(&["--reload"]).origins.of("graceful_timeout").to_string(), "default, follows reload");
        let refused = parse(&["--reload", "--preload"]).check().unwrap_err();
        assert!(refused.starts_with("--reload cannot be combined with --preload"), "{refused}");
    }
}
