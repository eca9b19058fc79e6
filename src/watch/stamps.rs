//! What is known of each watched file, and the search for files that have changed since.
//!
//! *Runs on*: the thread of `watch`. *Invariants*: a file counts as changed if its time of modification, its length or
//! its inode differs, or if it has appeared or disappeared. So a copy that replaces the file is a change, and a change
//! of its rights is none.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The most files of one directory tree. A tree with more is watched in part.
const TREE_FILES_MAX: usize = 20_000;

/// Directories of a tree that tools fill, and whose files no application reads as its own.
const TOOLS: [&str; 3] = ["__pycache__", "node_modules", "CVS"];

/// Endings of the files that editors write beside the file that they save.
const TEMPORARY: [&str; 6] = ["~", ".swp", ".swx", ".tmp", ".pyc", ".bak"];

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// This file. It may be missing.
    File(PathBuf),
    /// Each file below this directory, except hidden files and the temporary files of editors.
    Tree(PathBuf),
    /// Each Python file and each directory directly in this directory: what an import can find there.
    Sources(PathBuf),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Tree(dir) => write!(f, "all files below {}", dir.display()),
            Self::Sources(dir) => write!(f, "what an import can find in {}", dir.display()),
        }
    }
}

/// A version of a file: when it was modified, its length, and its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp((i64, i64), u64, u64);

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        if metadata.is_dir() {
            // The time of a directory changes with each entry, which is watched by itself if it counts.
            return Self((0, 0), 0, metadata.ino());
        }
        Self((metadata.mtime(), metadata.mtime_nsec()), metadata.len(), metadata.ino())
    }
}

/// The watched items, with the version of each file when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    files: BTreeMap<PathBuf, Option<Stamp>>,
    directories: BTreeMap<Item, BTreeMap<PathBuf, Stamp>>,
}

impl Stamps {
    /// Adds an item, and notes the present versions of its files. Returns whether it is new.
    pub(super) fn add(&mut self, item: &Item) -> bool {
        match item {
            Item::File(path) if self.files.contains_key(path) => false,
            Item::File(path) => {
                self.files.insert(path.clone(), stamp(path));
                true
            }
            Item::Tree(_) | Item::Sources(_) if self.directories.contains_key(item) => false,
            Item::Tree(_) | Item::Sources(_) => {
                self.directories.insert(item.clone(), list(item));
                true
            }
        }
    }

    /// Returns how many files are watched.
    pub(super) fn len(&self) -> usize {
        self.files.len() + self.directories.values().map(BTreeMap::len).sum::<usize>()
    }

    /// Returns whether a change at this path can be one of a watched file.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        self.files.contains_key(path)
            || self.directories.keys().any(|item| match item {
                Item::File(_) => false,
                Item::Tree(dir) => path.strip_prefix(dir).is_ok_and(|inner| !inner.iter().any(is_left_out)),
                Item::Sources(dir) => path.parent() == Some(dir) && (is_source(path) || path.extension().is_none()),
            })
    }

    /// Returns the files that have changed since the last look, and notes their new versions.
    pub(super) fn look(&mut self) -> BTreeSet<PathBuf> {
        let mut changed = BTreeSet::new();
        for (path, known) in &mut self.files {
            let now = stamp(path);
            if now != *known {
                *known = now;
                changed.insert(path.clone());
            }
        }
        for (item, known) in &mut self.directories {
            let now = list(item);
            changed.extend(
                now.iter().filter(|(path, stamp)| known.get(*path) != Some(stamp)).map(|(path, _)| path.clone()),
            );
            changed.extend(known.keys().filter(|path| !now.contains_key(*path)).cloned());
            *known = now;
        }
        changed
    }
}

/// Versions of files that another process watches.
#[derive(Debug, Default)]
pub struct Versions(BTreeMap<PathBuf, Option<Stamp>>);

impl Versions {
    /// Notes the present versions of these files, and forgets all others.
    pub fn note(&mut self, files: Vec<PathBuf>) {
        self.0.clear();
        self.keep(files);
    }

    /// Forgets all other files, and notes the present versions of those of these that are not known.
    pub fn keep(&mut self, files: Vec<PathBuf>) {
        self.0.retain(|path, _| files.contains(path));
        for path in files {
            let present = stamp(&path);
            self.0.entry(path).or_insert(present);
        }
    }

    /// Returns a file whose present version is another than the noted one.
    pub fn changed(&self) -> Option<&Path> {
        self.0.iter().find(|(path, noted)| stamp(path) != **noted).map(|(path, _)| &**path)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().as_ref().map(Stamp::of)
}

/// Returns the files of a directory that count, with their versions. A directory that cannot be read has none.
fn list(item: &Item) -> BTreeMap<PathBuf, Stamp> {
    let mut found = BTreeMap::new();
    match item {
        Item::File(_) => {}
        Item::Sources(dir) => {
            let counts = |path: &Path, metadata: &Metadata| metadata.is_dir() || is_source(path);
            found.extend(entries(dir).filter(|(path, metadata)| counts(path, metadata)).map(stamped));
        }
        Item::Tree(dir) => {
            let mut left = vec![dir.clone()];
            while let Some(dir) = left.pop() {
                for (path, metadata) in entries(&dir) {
                    // A directory behind a link could contain the tree itself.
                    if metadata.is_dir() && !path.is_symlink() {
                        left.push(path);
                    } else if metadata.is_file() && found.len() < TREE_FILES_MAX {
                        found.extend([stamped((path, metadata))]);
                    }
                }
            }
        }
    }
    found
}

fn stamped((path, metadata): (PathBuf, Metadata)) -> (PathBuf, Stamp) {
    let stamp = Stamp::of(&metadata);
    (path, stamp)
}

/// Returns the entries of a directory, without the names that are left out.
fn entries(dir: &Path) -> impl Iterator<Item = (PathBuf, Metadata)> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| !is_left_out(&entry.file_name())).filter_map(|entry| {
        let path = entry.path();
        fs::metadata(&path).ok().map(|metadata| (path, metadata))
    })
}

/// Returns whether a file or a directory of this name is hidden, temporary, or made by a tool.
fn is_left_out(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.starts_with(b".")
        || bytes.starts_with(b"#")
        || TOOLS.iter().any(|tool| name == *tool)
        || TEMPORARY.iter().any(|ending| bytes.ends_with(ending.as_bytes()))
        // Vim makes a file of this name to find out whether it may.
        || name == "4913"
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["py", "so"].iter().any(|known| extension == *known))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn changed(stamps: &mut Stamps, dir: &Path) -> Vec<String> {
        let inside = |path: &PathBuf| path.strip_prefix(dir).unwrap().display().to_string();
        stamps.look().iter().map(inside).collect()
    }

    #[test]
    fn file_counts_as_changed_once_after_each_change() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("shop.py"), dir.path().join("other"));
        fs::write(&file, "1").unwrap();
        let mut stamps = Stamps::default();
        assert!(stamps.add(&Item::File(file.clone())) && !stamps.add(&Item::File(file.clone())));
        assert!(changed(&mut stamps, dir.path()).is_empty());
        fs::write(&file, "22").unwrap();
        assert_eq!(changed(&mut stamps, dir.path()), ["shop.py"]);
        assert!(changed(&mut stamps, dir.path()).is_empty());
        // An editor saves by a rename, here with the same time and the same length.
        fs::write(&other, "22").unwrap();
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
        fs::rename(&other, &file).unwrap();
        assert_eq!(changed(&mut stamps, dir.path()), ["shop.py"]);
        fs::remove_file(&file).unwrap();
        assert_eq!(changed(&mut stamps, dir.path()), ["shop.py"]);
        fs::write(&file, "22").unwrap();
        assert_eq!(changed(&mut stamps, dir.path()), ["shop.py"]);
    }

    #[test]
    fn noted_version_differs_from_a_later_one_until_it_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("app.toml"), dir.path().join("hooks.py"));
        fs::write(&file, "1").unwrap();
        let mut versions = Versions::default();
        versions.note(vec![file.clone()]);
        assert_eq!(versions.changed(), None);
        fs::write(&file, "22").unwrap();
        // A further file does not hide the change.
        versions.keep(vec![file.clone(), other.clone()]);
        assert_eq!(versions.changed(), Some(&*file));
        versions.note(vec![file.clone(), other.clone()]);
        assert_eq!(versions.changed(), None);
        fs::write(&other, "").unwrap();
        assert_eq!(versions.changed(), Some(&*other));
        versions.keep(vec![file]);
        assert_eq!(versions.changed(), None);
    }

    #[test]
    fn tree_has_every_file_but_those_of_tools_and_editors() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/loop")).unwrap();
        let mut stamps = Stamps::default();
        stamps.add(&Item::Tree(dir.path().to_owned()));
        for name in [".hidden", "a/page.html~", "a/.page.html.swp", "#page#", "4913", "x.pyc"] {
            fs::write(dir.path().join(name), "").unwrap();
            assert!(!stamps.concerns(&dir.path().join(name)), "{name}");
        }
        assert!(changed(&mut stamps, dir.path()).is_empty());
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/page.html"), "").unwrap();
        assert!(stamps.concerns(&dir.path().join("a/b/page.html")));
        assert_eq!(changed(&mut stamps, dir.path()), ["a/b/page.html"]);
        assert_eq!(stamps.len(), 1);
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        assert_eq!(changed(&mut stamps, dir.path()), ["a/b/page.html"]);
    }

    #[test]
    fn sources_are_what_an_import_can_find() {
        let dir = tempfile::tempdir().unwrap();
        let mut stamps = Stamps::default();
        stamps.add(&Item::Sources(dir.path().to_owned()));
        for name in ["notes.txt", "shop.db"] {
            fs::write(dir.path().join(name), "").unwrap();
            assert!(!stamps.concerns(&dir.path().join(name)), "{name}");
        }
        assert!(changed(&mut stamps, dir.path()).is_empty());
        fs::write(dir.path().join("shop.py"), "").unwrap();
        fs::create_dir(dir.path().join("views")).unwrap();
        assert_eq!(changed(&mut stamps, dir.path()), ["shop.py", "views"]);
        fs::write(dir.path().join("views/inner.py"), "").unwrap();
        assert!(changed(&mut stamps, dir.path()).is_empty());
    }
}
