//! Starting this program again as a worker, and reaping processes that have ended.
//!
//! *Owns*: nothing. *Runs on*: the supervisor's thread. *Invariants*: a started process has an empty signal mask, and no
//! descriptor of the supervisor but the standard ones and the one that it is given.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::poll::wait_for_any;
use super::process::{SignalMask, set_umask, umask};

/// The variables of an environment.
type Environment = [(OsString, OsString)];

/// How this program was started: what a worker is started with.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file of the program, or of the Python interpreter that has imported it.
    path: PathBuf,
    /// The words of the command line, the program's name first.
    words: Vec<OsString>,
    /// The working directory, by the name that the shell had for it.
    dir: PathBuf,
    umask: Option<u32>,
}

/// The variables with which a service manager speaks to the process that it has started.
const OF_SERVICE_MANAGER: [&str; 6] =
    ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// How long a started process is to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It gets SIGTERM when this process ends.
    OfParent,
    /// It goes on when this process ends, and has the sockets of a service manager.
    Own,
}

/// The end of a trial.
#[derive(Debug)]
pub struct Trial {
    /// How the program ended. `None`: it did not end in time, and was killed.
    pub status: Option<ExitStatus>,
    /// What it has printed, on its output and its error output: the last `OUTPUT_BYTES_MAX` bytes.
    pub output: Vec<u8>,
}

/// How often a process is looked at that is about to end.
const LOOK: Duration = Duration::from_millis(20);
/// The most bytes that are kept of the output of a trial.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

impl Program {
    /// Returns the program at `path`, to be started with `words` in the current directory.
    ///
    /// # Errors
    /// The current directory has been removed.
    pub fn new(path: PathBuf, words: Vec<OsString>) -> io::Result<Self> {
        Ok(Self { path, words, dir: working_directory()?, umask: umask() })
    }

    /// Returns the program of this process, as it was started with `words`. A symbolic link in its path is kept, so that
    /// a later start runs the version that the link names then. (At the start of the process.)
    ///
    /// # Errors
    /// The current directory or the program's file has been removed.
    pub fn own(words: Vec<OsString>) -> io::Result<Self> {
        let running = std::env::current_exe()?;
        let named = words.first().and_then(|name| find(name)).filter(|path| is_same_file(path, &running));
        Self::new(named.unwrap_or(running), words)
    }

    /// Returns the directory that the process was started in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the umask that the process was started with, if it is known.
    pub fn umask(&self) -> Option<u32> {
        self.umask
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(name) = self.words.first() {
            command.arg0(name);
        }
        command.args(self.words.iter().skip(1)).current_dir(&self.dir);
        command
    }

    /// Runs the program with this environment and one more variable, and waits for its end, at most for `limit`. Keeps
    /// the last part of its output. The program is killed if this process ends before it. (Plain thread.)
    ///
    /// # Errors
    /// The file cannot be run, or a limit of the process is reached.
    pub fn try_with(
        &self,
        environment: &Environment,
        more: (&str, &str),
        limit: Option<Duration>,
    ) -> io::Result<Trial> {
        let end = limit.map(|limit| Instant::now() + limit);
        let (mut reader, writer) = io::pipe()?;
        let mut command = self.command();
        command.env_clear().envs(environment.iter().map(|(name, value)| (name, value))).env(more.0, more.1);
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let prepare = || {
            // SAFETY: a system call without memory. The calling thread lives as long as this trial.
            match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: the function makes only a system call, which fork(2) allows in the child of a process with threads.
        let mut child = unsafe { command.pre_exec(prepare) }.spawn()?;
        // The command has the writing ends, which would keep the pipe open.
        drop(command);
        let (mut output, mut is_open) = (Vec::new(), true);
        loop {
            // The program may write without an end.
            if end.is_some_and(|end| Instant::now() >= end) {
                child.kill()?;
                child.wait()?;
                return Ok(Trial { status: None, output });
            }
            if is_open && wait_for_any(&[reader.as_fd()], Some(LOOK))[0] {
                is_open = read_piece(&mut reader, &mut output)? > 0;
                continue;
            }
            if let Some(status) = child.try_wait()? {
                // What it has written last may still be in the pipe. A process that it has started may write on.
                let mut left = OUTPUT_BYTES_MAX;
                while is_open && left > 0 && wait_for_any(&[reader.as_fd()], Some(Duration::ZERO))[0] {
                    let bytes = read_piece(&mut reader, &mut output)?;
                    (is_open, left) = (bytes > 0, left.saturating_sub(bytes));
                }
                return Ok(Trial { status: Some(status), output });
            }
            if !is_open {
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Runs the program in this process instead of the current one (execve(2)), with this environment and one more
    /// variable, which has the number of a descriptor. The new program gets this descriptor and those in `kept`, and the
    /// first umask. Returns only an error. All signals are blocked in the new program, until it handles them.
    pub fn replace(&self, environment: &Environment, more: (&str, BorrowedFd<'_>), kept: &[RawFd]) -> io::Error {
        let (variable, descriptor) = (more.0, more.1.as_raw_fd());
        let numbers: Vec<_> = kept.iter().copied().chain([descriptor]).collect();
        let mut command = self.command();
        command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        command.env(variable, descriptor.to_string());
        let umask = self.umask;
        let prepare = move || {
            umask.map(set_umask);
            for number in &numbers {
                // SAFETY: a system call without memory.
                if unsafe { libc::fcntl(*number, libc::F_SETFD, 0) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            SignalMask::block_all();
            Ok(())
        };
        // SAFETY: the function runs in this process, where it may do anything.
        unsafe { command.pre_exec(prepare) }.exec()
    }

    /// Starts the program. The environment variable `variable` has the number of `descriptor`, which the new process
    /// inherits. Returns the number of the process.
    ///
    /// # Errors
    /// The file cannot be run, or the limit of processes is reached.
    #[allow(clippy::zombie_processes, reason = "`reap` waits for it")]
    pub fn start(&self, variable: &str, descriptor: BorrowedFd<'_>, life: Life) -> io::Result<u32> {
        let (number, supervisor) = (descriptor.as_raw_fd(), std::process::id());
        let mut command = self.command();
        command.env(variable, number.to_string());
        if life == Life::OfParent {
            for foreign in OF_SERVICE_MANAGER {
                command.env_remove(foreign);
            }
        }
        let prepare = move || {
            // SAFETY: system calls without memory.
            unsafe {
                if libc::fcntl(number, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                if life == Life::Own {
                    return Ok(());
                }
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as libc::c_ulong) < 0 {
                    return Err(io::Error::last_os_error());
                }
                // If the supervisor has ended before prctl(2), no signal comes.
                if libc::getppid().cast_unsigned() != supervisor {
                    libc::_exit(1);
                }
            }
            Ok(())
        };
        // SAFETY: the function makes only system calls, which fork(2) allows in the child of a process with threads.
        let child = unsafe { command.pre_exec(prepare) }.spawn()?;
        Ok(child.id())
    }
}

/// Reads once, and keeps the last part of the output. Returns how many bytes were read.
fn read_piece(reader: &mut io::PipeReader, output: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; 4096];
    let bytes = reader.read(&mut piece)?;
    output.extend_from_slice(&piece[..bytes]);
    output.drain(..output.len().saturating_sub(OUTPUT_BYTES_MAX));
    Ok(bytes)
}

/// Returns the working directory by its name in `PWD`, which may be a symbolic link, else by its real name.
fn working_directory() -> io::Result<PathBuf> {
    let real = std::env::current_dir()?;
    let named = std::env::var_os("PWD").map(PathBuf::from);
    Ok(named.filter(|named| named.is_absolute() && is_same_file(named, &real)).unwrap_or(real))
}

/// Returns the path of the program that a shell starts by this name.
fn find(name: &OsStr) -> Option<PathBuf> {
    let name = Path::new(name);
    if name.components().count() > 1 {
        return std::path::absolute(name).ok();
    }
    let dirs = std::env::var_os("PATH")?;
    std::env::split_paths(&dirs).map(|dir| dir.join(name)).find(|path| path.is_absolute() && path.is_file())
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino())).ok();
    identity(one).is_some_and(|one| Some(one) == identity(other))
}

/// Makes this process the parent of the orphans among its descendants (`PR_SET_CHILD_SUBREAPER`), or no longer.
pub fn adopt_orphans(adopts: bool) {
    // SAFETY: a system call without memory. Linux before 3.4 refuses it, which changes nothing else.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, libc::c_ulong::from(adopts)) };
}

/// Returns whether this process is the parent of the orphans among its descendants.
pub fn adopts_orphans() -> bool {
    let mut adopts: libc::c_int = 0;
    // SAFETY: the number lives through the call. On failure it stays 0.
    unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut adopts) };
    adopts != 0
}

/// Reaps any child process that has ended. `None`: there is none.
pub fn reap() -> Option<(u32, ExitStatus)> {
    wait_for(-1).ok().flatten()
}

/// Reaps this child process if it has ended. `None`: it has not.
///
/// # Errors
/// There is no such child: other code of the process has reaped it.
pub fn reap_one(pid: u32) -> io::Result<Option<ExitStatus>> {
    wait_for(pid.cast_signed()).map(|reaped| reaped.map(|(_, status)| status))
}

fn wait_for(which: libc::pid_t) -> io::Result<Option<(u32, ExitStatus)>> {
    let mut status = 0;
    // SAFETY: the number lives through the call.
    let reaped = unsafe { libc::waitpid(which, &raw mut status, libc::WNOHANG) };
    if reaped < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((reaped > 0).then(|| (reaped.cast_unsigned(), ExitStatus::from_raw(status))))
}

/// Waits until this child process has ended, and reaps it. Kills it if that takes longer than `timeout`. Does nothing if
/// there is no such child.
pub fn await_end(pid: u32, timeout: Duration) {
    let end = Instant::now() + timeout;
    let mut is_killed = false;
    while let Ok(None) = reap_one(pid) {
        if !is_killed && Instant::now() >= end {
            send_signal(pid, libc::SIGKILL);
            is_killed = true;
        }
        std::thread::sleep(LOOK);
    }
}

/// Returns the user of this process.
pub fn user_id_of_process() -> u32 {
    // SAFETY: geteuid(2) cannot fail.
    unsafe { libc::geteuid() }
}

/// Sends a signal to a process that has not been reaped.
pub fn send_signal(pid: u32, signal: i32) {
    // SAFETY: a system call without memory. An error means that the process has ended.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::Channel;
    use super::*;

    #[test]
    fn started_process_has_the_descriptor_and_is_reaped() {
        let (ours, theirs) = Channel::pair().unwrap();
        let script = r#"read -r _ < /dev/null; [ -e "/proc/self/fd/$LINK" ] && exit 7"#;
        let words = ["sh", "-c", script].map(OsString::from).to_vec();
        let pid = Program::new("/bin/sh".into(), words).unwrap().start("LINK", theirs.as_fd(), Life::OfParent).unwrap();
        drop(theirs);
        assert!(ours.receive().unwrap().is_none());
        let status = loop {
            if let Some(status) = reap_one(pid).unwrap() {
                break status;
            }
            std::thread::yield_now();
        };
        assert_eq!(status.code(), Some(7));
    }

    #[test]
    fn trial_ends_in_time_although_its_program_prints_without_an_end() {
        let of = |script: &str, limit| {
            let words = ["sh", "-c", script].map(OsString::from).to_vec();
            Program::new("/bin/sh".into(), words).unwrap().try_with(&[], ("WORD", "1"), limit).unwrap()
        };
        let trial = of("while :; do echo 0123456789; done", Some(Duration::from_millis(300)));
        assert!(trial.status.is_none());
        assert!((1..=OUTPUT_BYTES_MAX).contains(&trial.output.len()), "{}", trial.output.len());
        let trial = of("echo started; exit 3", None);
        assert_eq!((trial.status.unwrap().code(), trial.output.as_slice()), (Some(3), b"started\n".as_slice()));
    }

    #[test]
    fn trial_returns_the_status_and_the_end_of_the_output() {
        let script = r#"head -c 100000 /dev/zero; echo "$MORE" >&2; exit 3"#;
        let words = ["sh", "-c", script].map(OsString::from).to_vec();
        let program = Program::new("/bin/sh".into(), words).unwrap();
        let environment = [("PATH".into(), std::env::var_os("PATH").unwrap())];
        let trial = program.try_with(&environment, ("MORE", "the last line"), Some(Duration::from_secs(60))).unwrap();
        assert_eq!(trial.status.unwrap().code(), Some(3));
        assert_eq!(trial.output.len(), OUTPUT_BYTES_MAX);
        assert!(trial.output.ends_with(b"\0the last line\n"));
    }

    #[test]
    fn own_program_is_found_by_the_name_that_it_was_started_with() {
        let running = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&running, &link).unwrap();
        assert_eq!(Program::own(vec![link.clone().into()]).unwrap().path, link);
        assert_eq!(Program::own(vec!["/bin/sh".into()]).unwrap().path, running);
    }
}
