//! How WebSockets end, for their counts: the side that closes them, and the code.
//!
//! *Source*: RFC 6455 §7.4.

/// Who closed a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Closer {
    /// The client closed it, or left without a close.
    Client,
    /// The application closed it, or its function failed.
    Application,
    /// The server closed it, or gave the client up.
    Server,
}

impl Closer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Client, Self::Application, Self::Server];

    /// Returns its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Application => "application",
            Self::Server => "server",
        }
    }
}

/// The names of the codes in metrics. A range of codes whose meaning is not the server's has one name.
pub const CLOSE_CODES: [&str; 19] = [
    "1000", "1001", "1002", "1003", "1004", "1005", "1006", "1007", "1008", "1009", "1010", "1011", "1012", "1013",
    "1014", "1015", "3xxx", "4xxx", "other",
];

/// Returns the index of a code in `CLOSE_CODES`.
pub(super) fn index_of(code: u16) -> usize {
    match code {
        1000..=1015 => usize::from(code - 1000),
        3000..=3999 => 16,
        4000..=4999 => 17,
        _ => 18,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_has_its_name() {
        let named = [(1000, "1000"), (1015, "1015"), (1016, "other"), (2999, "other"), (3000, "3xxx"), (4999, "4xxx")];
        for (code, name) in named {
            assert_eq!(CLOSE_CODES[index_of(code)], name);
        }
        for (at, closer) in Closer::ALL.into_iter().enumerate() {
            assert_eq!(closer as usize, at);
        }
    }
}
