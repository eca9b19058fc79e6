//! The files of the settings (`--reload`): which versions were read, and whether there are newer ones.
//!
//! *Owns*: what is known of the files. *Runs on*: the supervisor's thread. *Invariants*: the first worker watches the
//! files. If it ends before it has seen a change, the next one takes the changed file for the one that was read. So
//! the supervisor compares versions whenever a worker begins to serve.

use std::path::PathBuf;

use crate::watch::Versions;

/// The files of the settings, as they were when they were last read.
#[derive(Default)]
pub(super) struct SettingsFiles {
    read: Versions,
    /// A file that has changed, until the settings are read anew.
    changed: Option<String>,
}

impl SettingsFiles {
    /// Notes the versions of the files, which are read next.
    pub(super) fn read(&mut self, files: Vec<PathBuf>) {
        self.read.note(files);
    }

    /// Replaces the files: settings that have just been read can name other ones.
    pub(super) fn replace(&mut self, files: Vec<PathBuf>) {
        self.read.keep(files);
    }

    /// Looks for a newer version.
    pub(super) fn look(&mut self) {
        if let Some(path) = self.read.changed() {
            let here = std::env::current_dir().unwrap_or_default();
            self.changed = Some(path.strip_prefix(here).unwrap_or(path).display().to_string());
        }
    }

    /// Notes the worker's report that files have changed, unless the newest versions are being read already.
    pub(super) fn reported(&mut self, files: String) {
        if self.read.changed().is_some() {
            self.changed = Some(files);
        }
    }

    /// Returns a file that has changed since the last call.
    pub(super) fn take_changed(&mut self) -> Option<String> {
        self.changed.take()
    }
}
