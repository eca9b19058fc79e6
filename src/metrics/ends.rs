//! How connections and workers end, for their counts.

/// How a connection ended, or left this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum End {
    /// The client closed it, or broke it off.
    Client,
    /// The client sent no further request in time.
    KeepAlive,
    /// It closed after a response, as the client wished or as the response announced.
    Response,
    /// Its request was refused.
    Refused,
    /// A response broke off: the application failed, or the client did not read.
    Aborted,
    /// It had been idle the longest, and the server needed its place.
    Evicted,
    /// It moved to another process.
    Moved,
    /// A call took it over.
    Hijacked,
    /// The server stopped.
    Stopped,
    /// The server could not keep it.
    Error,
}

impl End {
    /// All ends.
    pub const ALL: [Self; 10] = [
        Self::Client,
        Self::KeepAlive,
        Self::Response,
        Self::Refused,
        Self::Aborted,
        Self::Evicted,
        Self::Moved,
        Self::Hijacked,
        Self::Stopped,
        Self::Error,
    ];

    /// Returns the end's name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::KeepAlive => "keep_alive",
            Self::Response => "response",
            Self::Refused => "refused",
            Self::Aborted => "aborted",
            Self::Evicted => "evicted",
            Self::Moved => "moved",
            Self::Hijacked => "hijacked",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }
}

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Departure {
    /// A signal ended it unexpectedly.
    Signal,
    /// It ended unexpectedly by itself.
    Exit,
    /// It did not respond.
    Stuck,
    /// It ended before it served.
    Start,
    /// It had asked for a replacement, for a reason that this version does not know.
    Recycled,
    /// A reload replaced it.
    Reload,
    /// The service stopped, or has fewer workers now.
    Stopped,
    /// It was to stop, and had to be killed.
    Killed,
    /// It had served as many requests as it may.
    Requests,
    /// It had lived for as long as it may.
    Lifetime,
    /// It had used more memory than it may.
    Memory,
    /// Too many of its calls were past their deadline.
    Overdue,
}

impl Departure {
    /// All causes.
    pub const ALL: [Self; 12] = [
        Self::Signal,
        Self::Exit,
        Self::Stuck,
        Self::Start,
        Self::Recycled,
        Self::Reload,
        Self::Stopped,
        Self::Killed,
        Self::Requests,
        Self::Lifetime,
        Self::Memory,
        Self::Overdue,
    ];

    /// Returns the cause with this name, for a worker that asks for a replacement.
    pub fn asked(name: &str) -> Self {
        let causes = [Self::Requests, Self::Lifetime, Self::Memory, Self::Overdue];
        causes.into_iter().find(|cause| cause.name() == name).unwrap_or(Self::Recycled)
    }

    /// Returns the cause's name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Exit => "exit",
            Self::Stuck => "stuck",
            Self::Start => "start",
            Self::Recycled => "recycled",
            Self::Reload => "reload",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::Requests => "requests",
            Self::Lifetime => "lifetime",
            Self::Memory => "memory",
            Self::Overdue => "overdue",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_asks_for_a_replacement_by_a_name_that_may_be_of_another_version() {
        for cause in [Departure::Requests, Departure::Lifetime, Departure::Memory, Departure::Overdue] {
            assert_eq!(Departure::asked(cause.name()), cause);
        }
        assert_eq!([Departure::asked(""), Departure::asked("signal")], [Departure::Recycled; 2]);
    }
}
