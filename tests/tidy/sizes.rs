//! The form of a file: it opens with what it is, and it is not too long.

use crate::source::{read, rust_files, source};

/// The most lines of a file. A longer file holds two things.
const LINES_MAX: usize = 600;

#[test]
fn files_open_with_what_they_are() {
    for path in rust_files(&source()) {
        assert!(read(&path).starts_with("//!"), "{} does not open with `//!`", path.display());
    }
}

#[test]
fn files_stay_readable() {
    for path in rust_files(&source()) {
        let lines = read(&path).lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines, more than {LINES_MAX}", path.display());
    }
}
