//! Reading the tree: its files, and the code of a Rust file without comments and strings.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the root of the tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the folder of the crate.
pub fn source() -> PathBuf {
    root().join("src")
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns all Rust files below `dir`.
pub fn rust_files(dir: &Path) -> Vec<PathBuf> {
    files(dir, &["rs"])
}

/// Returns all files below `dir` with one of these names or extensions. Leaves out what tools have made, and hidden
/// folders.
pub fn files(dir: &Path, kinds: &[&str]) -> Vec<PathBuf> {
    const MADE: [&str; 5] = ["target", "artifacts", "corpus", "build", "dist"];
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries {
        let path = entry.expect("the directory can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !name.starts_with(['.', '_']) && !MADE.contains(&&*name) {
                found.extend(files(&path, kinds));
            }
        } else if kinds.contains(&path.extension().map_or(name, |extension| extension.to_string_lossy()).as_ref()) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Removes comments and the contents of string and character literals, so that only code is examined.
pub fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += rest.find("*/").map_or(rest.len(), |end| end + 2);
        } else if let Some(hashes) = raw_string_hashes(rest, at.checked_sub(1).map(|before| bytes[before])) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = hashes + 2;
            at += open + rest[open..].find(&close).map_or(rest.len() - open, |end| end + close.len());
        } else if bytes[at] == b'"' {
            at += 1;
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at += 1;
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") || rest.starts_with("'/'") {
            at += rest[1..].find('\'').expect("it is a character literal") + 2;
        } else {
            let character = rest.chars().next().expect("it is not the end");
            code.push(character);
            at += character.len_utf8();
        }
    }
    code
}

/// Returns the number of `#` if a raw string begins here.
pub fn raw_string_hashes(rest: &str, before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|byte| byte == b'_' || (byte.is_ascii_alphanumeric() && byte != b'b' && byte != b'c')) {
        return None;
    }
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// Returns the names that code imports by `crate::…`, each name of `use crate::{a, b::{c, d}}` included. The caller
/// drops names that are not modules. In the binary, `maypole::…` means the same.
pub fn imports(code: &str, prefixes: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for prefix in prefixes {
        for (at, _) in code.match_indices(prefix) {
            let part_of_a_longer_word =
                code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
            if !part_of_a_longer_word {
                found.extend(first_segments(&code[at + prefix.len()..]));
            }
        }
    }
    found
}

/// Returns the first name of a path, or of each path in a group.
pub fn first_segments(rest: &str) -> Vec<String> {
    let rest = rest.trim_start();
    let Some(group) = rest.strip_prefix('{') else {
        return vec![name_at_start(rest)];
    };
    let (mut depth, mut names, mut begins) = (1, Vec::new(), true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => {
                begins = true;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if begins && !character.is_whitespace() {
            names.push(name_at_start(&group[at..]));
            begins = false;
        }
    }
    names
}

pub fn name_at_start(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}
