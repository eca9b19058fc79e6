//! Reads the files of the certificates again when they have changed, and warns once a day of those that expire.
//!
//! *Owns*: the thread `maypole-certs`. *Runs on*: that thread. *Invariants*: a change is acted on once the files have
//! stayed as they are from one look to the next: a certificate and its key change one after the other. The thread ends
//! soon after the certificates are dropped.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::{Certificates, DAY_S};
use crate::sys;

/// Between two looks at the files. One takes some microseconds for each file.
const LOOK: Duration = Duration::from_millis(500);

/// A version of a file: when it was modified, its length, and its inode. `None`: it cannot be seen.
type Stamp = Option<(i64, i64, u64, u64)>;

/// The versions of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamps(Vec<(PathBuf, Stamp)>);

impl Stamps {
    /// Looks at the files.
    pub(super) fn of(files: &[PathBuf]) -> Self {
        // A link is followed: tools that renew certificates change what it leads to.
        let stamp = |path: &PathBuf| {
            let found = fs::metadata(path).ok()?;
            Some((found.mtime(), found.mtime_nsec(), found.len(), found.ino()))
        };
        Self(files.iter().map(|path| (path.clone(), stamp(path))).collect())
    }

    /// Looks at the same files again.
    fn again(&self) -> Self {
        Self::of(&self.0.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>())
    }
}

/// Whether a process writes to the log what it does with the certificates. Of several workers, one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// It does.
    Loud,
    /// It does not.
    Quiet,
}

impl Certificates {
    /// Logs what an operator should know, and looks at the files from now on, for as long as the certificates are in
    /// use.
    ///
    /// # Errors
    /// The process cannot start a thread.
    pub fn watch(self: &Arc<Self>, voice: Voice) -> io::Result<()> {
        if voice == Voice::Loud {
            self.say_remarks();
        }
        let certificates = Arc::downgrade(self);
        sys::start_thread_without_signals("maypole-certs", move || run(&certificates, voice)).map(drop)
    }
}

fn run(certificates: &Weak<Certificates>, voice: Voice) {
    let mut told = Instant::now();
    let mut last: Option<Stamps> = None;
    loop {
        thread::sleep(LOOK);
        let Some(certificates) = certificates.upgrade() else { return };
        if told.elapsed() >= Duration::from_secs(DAY_S) {
            told = Instant::now();
            if voice == Voice::Loud {
                certificates.say_ends();
            }
        }
        let known = certificates.state.lock().stamps.clone();
        let now = known.again();
        // Without a change there is nothing to do; after one, the next look has to find the same.
        let has_settled = now != known && last.as_ref() == Some(&now);
        last = Some(now.clone());
        if has_settled {
            certificates.renew(now, voice);
        }
    }
}

impl Certificates {
    /// Reads the files, whose versions are `now`.
    fn renew(&self, now: Stamps, voice: Voice) {
        match self.reload() {
            Ok(()) if voice == Voice::Loud => {
                log::info!("the certificates have changed: new connections have the new ones");
                self.say_ends();
            }
            Ok(()) => {}
            Err(error) => {
                // The same files are not tried again.
                self.state.lock().stamps = now;
                if voice == Voice::Loud {
                    log::error!("the certificates have changed, and the ones before stay in use: {error}");
                }
            }
        }
    }
}
