//! A request to a running service, over its socket for commands.
//!
//! *Owns*: the way to the service. *Runs on*: the main thread of a command; the status threads of a supervisor.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{is_trusted, name, name_of_worker, prefix};
use crate::phrase::terminal::printable;
use crate::sys;

/// A running service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The process with this number.
    Pid(u32),
    /// The service whose socket is this file.
    File(PathBuf),
}

/// What a service has sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status of the response (RFC 9110 §15).
    pub(super) status: u16,
    /// The body.
    pub(super) body: Vec<u8>,
}

/// Why a service has not responded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such service, or it has ended. The sentence says so.
    NoResponse(String),
    /// It belongs to another user. The sentence names that user.
    Refused(String),
}

impl Failure {
    /// Returns the sentence.
    pub(super) fn into_sentence(self) -> String {
        let (Self::NoResponse(sentence) | Self::Refused(sentence)) = self;
        sentence
    }
}

impl From<String> for Failure {
    fn from(sentence: String) -> Self {
        Self::NoResponse(sentence)
    }
}

impl Target {
    /// Sends a request, and waits for the response.
    ///
    /// # Errors
    /// There is no such service, or it belongs to another user.
    pub(super) fn ask(&self, method: &str, path: &str) -> Result<Answer, Failure> {
        let received = self.exchange(method, path)?;
        Answer::of(&received).ok_or_else(|| format!("{self} has ended before it responded").into())
    }

    /// Sends a request, and receives until the service closes the connection.
    ///
    /// # Errors
    /// There is no such service, or it belongs to another user.
    pub(super) fn exchange(&self, method: &str, path: &str) -> Result<Vec<u8>, Failure> {
        let mut stream = self.connect()?;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        let mut response = Vec::new();
        let received = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut response));
        // A service closes the connection of a stranger without a response.
        if response.is_empty()
            && let Ok(peer) = sys::peer_of(&stream)
            && is_foreign(peer.uid)
        {
            return Err(refused(peer.pid, peer.uid));
        }
        received.map_err(|error| format!("{self} does not respond: {}", sys::plain(&error)))?;
        Ok(response)
    }

    /// Returns what the service shows at `path`.
    ///
    /// # Errors
    /// It shows nothing there, or there is no such service.
    pub(super) fn show(&self, path: &str) -> Result<Vec<u8>, Failure> {
        match self.ask("GET", path)? {
            Answer { status: 200, body } => Ok(body),
            Answer { status, .. } => Err(format!("{self} does not show {path}: it responds with {status}").into()),
        }
    }

    fn connect(&self) -> Result<UnixStream, Failure> {
        let pid = match self {
            Self::File(file) => return connect_file(file),
            Self::Pid(pid) => *pid,
        };
        let connected = sys::connect_abstract(&name(pid)).or_else(|error| {
            // A worker has another name. If there is none, the first error says more.
            sys::connect_abstract(&name_of_worker(pid)).map_err(|_| error)
        });
        let stream = connected.map_err(|error| {
            let error = sys::plain(&error);
            format!("process {pid} is no service of Maypole: {error}")
        })?;
        check(stream, pid)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "process {pid}"),
            Self::File(file) => write!(f, "the service at {}", file.display()),
        }
    }
}

/// Asks a worker what it shows at `path`, and waits at most `limit`.
///
/// # Errors
/// A sentence: the worker has not responded by then, or has not opened its door yet.
pub fn ask_worker(pid: u32, path: &str, limit: Duration) -> Result<Vec<u8>, String> {
    let end = Instant::now() + limit;
    let connected = sys::connect_abstract(&name_of_worker(pid)).map_err(|error| sys::plain(&error))?;
    let mut stream = check(connected, pid).map_err(Failure::into_sentence)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let response = receive(&mut stream, request.as_bytes(), end).map_err(|error| sys::plain(&error))?;
    match Answer::of(&response) {
        Some(Answer { status: 200, body }) => Ok(body),
        Some(Answer { status, .. }) => Err(format!("it responds with {status}")),
        None => Err("it has ended before it responded".to_owned()),
    }
}

/// Sends a request and receives the response until `end`.
fn receive(stream: &mut UnixStream, request: &[u8], end: Instant) -> io::Result<Vec<u8>> {
    let (mut response, mut bytes) = (Vec::new(), [0; 16384]);
    // A request is far smaller than the socket's buffer, so sending does not wait.
    stream.write_all(request)?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(response),
            Ok(count) => response.extend_from_slice(bytes.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
}

/// Returns the stream if process `pid` listens at its other end. Root takes the process of any user: it has named the
/// process, or its own worker.
fn check(stream: UnixStream, pid: u32) -> Result<UnixStream, Failure> {
    match sys::peer_of(&stream) {
        Ok(peer) if peer.pid != pid => {
            let sentence = format!("the name of process {pid} belongs to process {} of user {}", peer.pid, peer.uid);
            Err(Failure::NoResponse(sentence))
        }
        Ok(peer) if is_trusted(peer) || sys::user_id_of_process() == 0 => Ok(stream),
        Ok(peer) => Err(refused(pid, peer.uid)),
        Err(error) => Err(sys::plain(&error).into()),
    }
}

fn connect_file(file: &Path) -> Result<UnixStream, Failure> {
    UnixStream::connect(file).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("no service listens on {}", file.display()).into(),
        io::ErrorKind::PermissionDenied => {
            let (file, error) = (file.display(), sys::plain(&error));
            Failure::Refused(format!("{file}: {error}: give the command as the user of the service, or as root"))
        }
        _ => format!("{}: {}", file.display(), sys::plain(&error)).into(),
    })
}

/// Returns whether this process may not command those of a user.
fn is_foreign(user: u32) -> bool {
    let own = sys::user_id_of_process();
    own != 0 && own != user
}

/// Returns that process `pid` belongs to `user`, who has started it.
fn refused(pid: u32, user: u32) -> Failure {
    // A service may have changed its user since its socket was made.
    let user = fs::metadata(format!("/proc/{pid}")).map_or(user, |process| process.uid());
    let name = match sys::Account::numbered(user) {
        Ok(Some(account)) => account.name(),
        _ => user.to_string(),
    };
    let own = if user == 0 { "as root".to_owned() } else { format!("as {name} or as root") };
    Failure::Refused(format!("process {pid} belongs to user {name}: give the command {own}"))
}

impl Answer {
    /// Reads a response whose end is the end of the connection.
    pub(super) fn of(response: &[u8]) -> Option<Self> {
        let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        let (head, body) = response.split_at(end + 4);
        let status = std::str::from_utf8(head).ok()?.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, body: body.to_vec() })
    }
}

/// Returns the only service of this PID namespace.
pub(super) fn only_service() -> Result<u32, String> {
    let table = fs::read_to_string("/proc/net/unix").map_err(|error| format!("give a PID: {}", sys::plain(&error)))?;
    let found = services(&table, &format!("@{}", prefix()));
    match *found.as_slice() {
        [pid] => Ok(pid),
        [] => Err("no service of Maypole runs here".to_owned()),
        _ => {
            let found: Vec<String> = found.iter().map(|pid| format!("\n  {pid}  {}", command_line(*pid))).collect();
            Err(format!("there are several services; give the PID of one:{}", found.concat()))
        }
    }
}

/// Returns the command line of a process, or the title that it has given itself. Both have the application; a command
/// line has the addresses, too. A process that does not respond shows it as well.
fn command_line(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&words).replace('\0', " ");
    printable(text.trim_end())
}

/// Returns the processes that listen on names with this prefix, from the text of `/proc/net/unix` (`proc_net(5)`).
fn services(table: &str, prefix: &str) -> Vec<u32> {
    let mut found: Vec<u32> = table
        .lines()
        .filter_map(|line| line.split_whitespace().next_back()?.strip_prefix(prefix)?.parse().ok())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_their_names() {
        let table = "Num RefCount Protocol Flags Type St Inode Path\n\
                     0: 2 0 10000 1 01 7 @maypole/40/12\n0: 2 0 10000 1 01 8 @maypole/41/13\n0: 2 0 10000 1 01 9\n\
                     0: 2 0 10000 1 03 7 @maypole/40/12\n0: 2 0 10000 1 01 6 @maypole/40/7\n";
        assert_eq!(services(table, "@maypole/40/"), [7, 12]);
    }

    #[test]
    fn response_is_read_to_its_end() {
        let answer = Answer { status: 409, body: b"{}".to_vec() };
        assert_eq!(Answer::of(b"HTTP/1.1 409 Conflict\r\nA: b\r\n\r\n{}"), Some(answer));
        assert_eq!(Answer::of(b"HTTP/1.1 409 Conf"), None);
    }
}
