//! Tells systemd how the service is: `Type=notify`, `Type=notify-reload` and the watchdog.
//!
//! *Owns*: the socket to systemd, and what systemd was told last. *Runs on*: the supervisor's thread, or the thread
//! `maypole-signals` of a process without a supervisor. *Invariants*: a message never waits; one that systemd cannot take
//! is dropped. The watchdog gets a message only while requests can be served. *Source*: `sd_notify(3)`,
//! `systemd.service(5)`.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::sys;

/// The environment variables of the protocol.
pub const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];
/// The time between two looks at the service, if the watchdog does not ask for a shorter one.
const EVERY: Duration = Duration::from_secs(1);
/// A stop with running requests asks for this much more time, again and again.
const EXTENSION: Duration = Duration::from_secs(10);
/// The most bytes of a status. systemd ignores a message of 4 KiB or more (`NOTIFY_BUFFER_MAX`).
const STATUS_BYTES_MAX: usize = 1000;

/// What systemd needs to know of the service at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// The line that `systemctl status` shows.
    pub status: String,
    /// Whether requests can be served: a worker serves, and no thread keeps it from doing so.
    pub responds: bool,
}

/// The stage of the service, as systemd knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Serving,
    Stopping,
}

/// systemd, as far as it started this process and wants to be told.
#[derive(Debug)]
pub struct Systemd {
    socket: UnixDatagram,
    address: SocketAddr,
    /// systemd restarts the service if it is not told for this long that it is well.
    watchdog: Option<Duration>,
    stage: Stage,
    /// Whether a reload has begun and has not ended.
    is_reloading: bool,
    /// Why the last reload has failed. The status begins with it until the next reload.
    failure: Option<String>,
    status: String,
    next: Instant,
}

impl Systemd {
    /// Finds systemd by the variables of the environment. `None`: the process was started otherwise, or the unit has
    /// another `Type=`.
    pub fn find() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let name = variable(VARIABLES[0]).filter(|name| !name.is_empty())?;
        let watchdog = variable(VARIABLES[1]).and_then(|text| text.parse().ok()).map(Duration::from_micros);
        let is_own = variable(VARIABLES[2]).is_none_or(|pid| pid == std::process::id().to_string());
        let found = Self::connect(&name, watchdog.filter(|time| is_own && !time.is_zero()));
        found
            .inspect_err(|error| log::warn!("systemd cannot be told: {name} (NOTIFY_SOCKET): {}", sys::plain(error)))
            .ok()
    }

    fn connect(name: &str, watchdog: Option<Duration>) -> std::io::Result<Self> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let (stage, status, next) = (Stage::Starting, String::new(), Instant::now());
        Ok(Self { socket, address, watchdog, stage, is_reloading: false, failure: None, status, next })
    }

    /// Returns how long systemd waits for a sign of life. `None`: it waits for none.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Returns when `look` is due.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Tells that the service serves.
    pub fn ready(&mut self, status: &str) {
        self.stage = Stage::Serving;
        self.status = self.with_failure(status);
        self.send(&format!("READY=1\nSTATUS={}", self.status));
        self.next = Instant::now();
    }

    /// Tells that a reload begins.
    pub fn reloading(&mut self) {
        self.is_reloading = true;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", sys::machine_time().as_micros()));
    }

    /// Tells that a reload has ended. systemd knows no failed reload, so that only the status has the `failure`, until
    /// the next reload has ended.
    pub fn reloaded(&mut self, status: &str, failure: Option<String>) {
        self.is_reloading = false;
        self.failure = failure;
        self.ready(status);
    }

    /// Tells that the service stops.
    pub fn stopping(&mut self) {
        if self.stage != Stage::Stopping {
            self.stage = Stage::Stopping;
            self.send("STOPPING=1\nSTATUS=Stopping");
            self.next = Instant::now();
        }
    }

    /// Tells that the process with this number is the service from now on.
    pub fn follow(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
    }

    /// Tells how the service is, if it is time. While the service stops, asks for more time.
    pub fn look(&mut self, now: Instant, condition: impl FnOnce() -> Condition) {
        if now < self.next {
            return;
        }
        self.next = now + self.watchdog.map_or(EVERY, |time| EVERY.min(time / 3));
        match self.stage {
            Stage::Starting => {}
            Stage::Serving => self.tell(&condition()),
            Stage::Stopping => self.send(&format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros())),
        }
    }

    fn tell(&mut self, condition: &Condition) {
        let mut message = Vec::new();
        let status = self.with_failure(&condition.status);
        if self.status != status && !self.is_reloading {
            message.push(format!("STATUS={status}"));
            self.status = status;
        }
        if self.watchdog.is_some() && condition.responds {
            message.push("WATCHDOG=1".to_owned());
        }
        if !message.is_empty() {
            self.send(&message.join("\n"));
        }
    }

    /// Returns the status for systemd: one line, with the failure of the last reload before it.
    fn with_failure(&self, status: &str) -> String {
        match &self.failure {
            Some(failure) => format!("{}; {}", line(failure), line(status)),
            None => line(status),
        }
    }

    fn send(&self, message: &str) {
        if let Err(error) = self.socket.send_to_addr(message.as_bytes(), &self.address) {
            log::debug!("systemd could not be told of a change: {}", sys::plain(&error));
        }
    }
}

/// Returns a text as one line, cut if it is long. A text of the application must not become another assignment.
fn line(text: &str) -> String {
    let fits = |(index, char): &(usize, char)| index + char.len_utf8() <= STATUS_BYTES_MAX;
    let start = text.char_indices().take_while(fits).last().map_or(0, |(index, char)| index + char.len_utf8());
    let line = text[..start].replace(char::is_control, " ");
    if start < text.len() { line + "…" } else { line }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Returns systemd's end of a socket, and the process's end.
    fn pair(watchdog: Option<Duration>) -> (UnixDatagram, Systemd, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let theirs = UnixDatagram::bind(&path).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (theirs, Systemd::connect(path.to_str().unwrap(), watchdog).unwrap(), dir)
    }

    fn received(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 2048];
        let length = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    fn condition(status: &str, responds: bool) -> Condition {
        Condition { status: status.to_owned(), responds }
    }

    #[test]
    fn life_of_a_service_is_told_in_order() {
        let (theirs, mut systemd, _dir) = pair(None);
        systemd.ready("2 workers");
        assert_eq!(received(&theirs).unwrap(), "READY=1\nSTATUS=2 workers");
        let now = Instant::now();
        systemd.look(now, || condition("2 workers", true));
        assert_eq!(received(&theirs), None, "nothing has changed");
        systemd.look(now, || panic!("it is not time yet"));
        systemd.look(now + EVERY, || condition("1 worker", true));
        assert_eq!(received(&theirs).unwrap(), "STATUS=1 worker");
        systemd.reloading();
        let text = received(&theirs).unwrap();
        let time: u128 = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!(time > 0 && time <= sys::machine_time().as_micros());
        systemd.reloaded("2 workers", None);
        assert_eq!(received(&theirs).unwrap(), "READY=1\nSTATUS=2 workers");
        systemd.stopping();
        systemd.stopping();
        assert_eq!(received(&theirs).unwrap(), "STOPPING=1\nSTATUS=Stopping");
        systemd.look(Instant::now() + EVERY, || panic!("the service stops"));
        assert_eq!(received(&theirs).unwrap(), "EXTEND_TIMEOUT_USEC=10000000");
        assert_eq!(received(&theirs), None);
    }

    #[test]
    fn failure_of_a_reload_stays_in_the_status_until_the_next_reload() {
        let (theirs, mut systemd, _dir) = pair(None);
        systemd.reloaded("2 workers", Some("the reload has failed: no\nMAINPID=1".to_owned()));
        assert_eq!(received(&theirs).unwrap(), "READY=1\nSTATUS=the reload has failed: no MAINPID=1; 2 workers");
        let now = Instant::now();
        systemd.look(now, || condition("2 workers", true));
        assert_eq!(received(&theirs), None, "nothing has changed");
        systemd.look(now + EVERY, || condition("1 worker", true));
        assert_eq!(received(&theirs).unwrap(), "STATUS=the reload has failed: no MAINPID=1; 1 worker");
        systemd.reloaded("2 workers", Some("ä".repeat(STATUS_BYTES_MAX)));
        let long = format!("READY=1\nSTATUS={}…; 2 workers", "ä".repeat(STATUS_BYTES_MAX / 2));
        assert_eq!(received(&theirs).unwrap(), long);
        systemd.reloaded("2 workers", None);
        assert_eq!(received(&theirs).unwrap(), "READY=1\nSTATUS=2 workers");
    }

    #[test]
    fn watchdog_is_told_only_while_the_service_responds() {
        let watchdog = Duration::from_millis(900);
        let (theirs, mut systemd, _dir) = pair(Some(watchdog));
        systemd.ready("");
        received(&theirs);
        let now = Instant::now();
        systemd.look(now, || condition("", true));
        assert_eq!(received(&theirs).unwrap(), "WATCHDOG=1");
        assert_eq!(systemd.next(), now + watchdog / 3);
        systemd.look(now + watchdog, || condition("stuck", false));
        assert_eq!(received(&theirs).unwrap(), "STATUS=stuck");
    }

    #[test]
    fn abstract_socket_is_told_too() {
        let name = format!("maypole-test-{}", std::process::id());
        let theirs = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Systemd::connect(&format!("@{name}"), None).unwrap().follow(4711);
        assert_eq!(received(&theirs).unwrap(), "MAINPID=4711");
    }
}
