//! Divides the file descriptors of the process among connections, temporary files and the application.
//!
//! *Owns*: nothing; it calculates, and asks the kernel for room. *Runs on*: the thread that starts a server.

use crate::sys;

/// Descriptors reserved for the application.
const DESCRIPTORS_KEPT: usize = 64;
/// One of this many descriptors is reserved for temporary files: 120 at the default limit of 1024.
const SPOOL_SHARE: usize = 8;
/// The largest table of descriptors that is made before there are clients. The kernel takes 8 bytes for each.
const TABLE_MAX: usize = 32 * 1024;

/// Below this limit, Python and the server cannot start, or the server cannot hold a single client.
const LIMIT_MIN: usize = 44;

/// The shares of the descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// The number of descriptors that the process may have.
    pub limit: usize,
    /// The number of descriptors for temporary files.
    pub files: usize,
    /// The number of descriptors for connections.
    pub connections: usize,
}

impl Descriptors {
    /// Raises the soft limit of this process to its hard limit, and returns the shares.
    pub fn of_process() -> Self {
        Self::of(sys::raise_descriptor_limit())
    }

    fn of(limit: usize) -> Self {
        let all = limit.saturating_sub(DESCRIPTORS_KEPT).max(2);
        let files = (all / SPOOL_SHARE).max(1);
        Self { limit, files, connections: all - files }
    }

    /// Checks that a server can start with this limit.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub fn check(self) -> Result<(), String> {
        if self.limit >= LIMIT_MIN {
            return Ok(());
        }
        Err(format!(
            "the process may have {} files open at once (ulimit -n), and Maypole needs at least {LIMIT_MIN}, and one more for \
             each client",
            self.limit
        ))
    }

    /// Makes room in the kernel's table of descriptors, so that clients that come do not wait for it.
    pub fn make_room(self) {
        if let Err(error) = sys::enlarge_descriptor_table(self.limit.min(TABLE_MAX)) {
            log::debug!("the table of descriptors grows when clients come: {}", sys::plain(&error));
        }
    }

    /// Returns the limit of connections: the number that a setting asks for, but at most the share of connections.
    pub fn connections_max(self, wanted: Option<usize>) -> usize {
        wanted.map_or(self.connections, |wanted| wanted.min(self.connections))
    }

    /// Returns the cause of the limit of connections if a setting asks for `wanted`: the setting or the limit of open
    /// files.
    pub fn cause(self, wanted: Option<usize>) -> String {
        match wanted {
            Some(wanted) if wanted <= self.connections => "--max-connections".to_owned(),
            _ => format!("the limit of open files is {}: ulimit -n, LimitNOFILE= in a systemd unit", self.limit),
        }
    }

    /// Returns a warning if the limit is too low for `wanted` connections or `pool_size` requests at once.
    pub fn warning(self, wanted: Option<usize>, pool_size: usize) -> Option<String> {
        let Self { limit, connections, .. } = self;
        match wanted {
            Some(wanted) if wanted > connections => Some(format!(
                "--max-connections is {wanted}, but the limit of open files (ulimit -n) is {limit}, which is enough for \
                 {connections} connections: at most {connections} clients are served at once"
            )),
            None if pool_size > connections => Some(format!(
                "the limit of open files (ulimit -n) is {limit}, which is enough for {connections} connections: fewer \
                 requests than --pool-size ({pool_size}) can be served at once"
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_shared_out() {
        assert_eq!(Descriptors::of(1024), Descriptors { limit: 1024, files: 120, connections: 840 });
        assert!(Descriptors::of(16).check().is_err_and(|text| text.starts_with("the process may have 16 files open")));
        assert!(Descriptors::of(43).check().is_err());
        assert_eq!(Descriptors::of(44).check(), Ok(()));
        assert_eq!(Descriptors::of(64), Descriptors { limit: 64, files: 1, connections: 1 });
        assert_eq!(Descriptors::of(1024).connections_max(None), 840);
        assert_eq!(
            (Descriptors::of(1024).connections_max(Some(20)), Descriptors::of(1024).connections_max(Some(5000))),
            (20, 840)
        );
    }

    #[test]
    fn limit_that_is_too_small_for_the_settings_is_told() {
        let descriptors = Descriptors::of(256);
        assert_eq!(descriptors.warning(None, 168), None);
        assert!(descriptors.warning(None, 1000).is_some_and(|text| text.contains("is enough for 168 connections")));
        assert_eq!(descriptors.warning(Some(100), 1000), None);
        assert!(descriptors.warning(Some(300), 10).is_some_and(|text| text.starts_with("--max-connections is 300,")));
    }
}
