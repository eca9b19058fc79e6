//! Checks the code against the module table in `src/lib.rs`: which module may import which. Also checks that every file
//! begins with a description and that no file is too long.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of a file. A longer file holds two things.
const LINES_MAX: usize = 600;

/// The table: each module, and the modules that it may import.
type Rooms = BTreeMap<String, BTreeSet<String>>;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns all Rust files below `dir`.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the directory can be read") {
        let path = entry.expect("its entries too").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns the module that a file belongs to: `src/http/request.rs` to `http`, `src/lib.rs` to `lib`.
fn room_of(path: &Path) -> String {
    let inside = path.strip_prefix(source()).expect("it is below src");
    let first = inside.iter().next().expect("it has a name").to_string_lossy();
    first.strip_suffix(".rs").unwrap_or(&first).to_owned()
}

/// Returns the words in a cell of the table: `` `config`, `log` `` and `config, log` are the same.
fn words(cell: &str) -> impl Iterator<Item = String> + '_ {
    cell.split(',')
        .map(|word| word.trim().trim_matches('`').trim_end_matches(".rs").to_owned())
        .filter(|word| !word.is_empty())
}

/// Reads the table in a doc comment: module | owns | imports | outside crates.
fn table(lib: &str) -> Rooms {
    lib.lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(str::trim)
        .filter(|line| line.starts_with('|') && line.ends_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
        .filter(|cells| cells.len() == 4 && cells[0] != "module" && !cells[0].starts_with('-'))
        .map(|cells| (words(cells[0]).next().expect("a row names its module"), words(cells[2]).collect()))
        .collect()
}

/// Removes comments and the contents of string and character literals, so that only code is examined.
fn code_of(text: &str) -> String {
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
fn raw_string_hashes(rest: &str, before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|byte| byte == b'_' || (byte.is_ascii_alphanumeric() && byte != b'b' && byte != b'c')) {
        return None;
    }
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// Returns the names that code imports by `crate::…`, each name of `use crate::{a, b::{c, d}}` included. The caller
/// drops names that are not modules. In the binary, `maypole::…` means the same.
fn imports(code: &str, prefixes: &[&str]) -> BTreeSet<String> {
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
fn first_segments(rest: &str) -> Vec<String> {
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

fn name_at_start(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn modules_import_only_what_their_row_names() {
    let rooms = table(&read(&source().join("lib.rs")));
    assert!(!rooms.is_empty(), "there is no module table in src/lib.rs");
    let mut wrong = Vec::new();
    for path in rust_files(&source()) {
        let room = room_of(&path);
        if room == "lib" {
            continue;
        }
        let Some(allowed) = rooms.get(&room) else {
            continue; // that is the next test's
        };
        let prefixes: &[&str] = if room == "main" { &["crate::", "maypole::"] } else { &["crate::"] };
        for import in imports(&code_of(&read(&path)), prefixes) {
            if import != room && rooms.contains_key(&import) && !allowed.contains(&import) {
                wrong.push(format!("{} imports `{import}`; its row does not", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_and_rows_are_the_same() {
    let rooms = table(&read(&source().join("lib.rs")));
    let named: BTreeSet<_> = rooms.keys().cloned().collect();
    let mut there: BTreeSet<_> = rust_files(&source()).iter().map(|path| room_of(path)).collect();
    there.remove("lib");
    assert_eq!(there, named, "modules (left) and rows of the table in src/lib.rs (right)");
    for (room, imports) in &rooms {
        for import in imports {
            assert!(rooms.contains_key(import), "the row of `{room}` names `{import}`, which has no row");
        }
    }
}

#[test]
fn rows_import_only_rows_below() {
    let lib = read(&source().join("lib.rs"));
    let rooms = table(&lib);
    let place = |room: &str| {
        let row = lib.lines().position(|line| {
            line.starts_with("//! |")
                && words(line.trim_start_matches("//! |").split('|').next().unwrap_or("")).any(|w| w == room)
        });
        row.unwrap_or_else(|| panic!("`{room}` has no row"))
    };
    for (room, imports) in &rooms {
        for import in imports {
            assert!(place(import) > place(room), "the row of `{import}` stands above `{room}`, which imports it");
        }
    }
}

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

#[test]
fn only_the_transport_of_a_connection_calls_sockets() {
    let socket = code_of(&read(&source().join("sys/socket.rs")));
    let mut calls: BTreeSet<_> = socket.split("\npub fn ").skip(1).map(name_at_start).collect();
    assert!(calls.contains("receive") && calls.contains("send_file"), "{calls:?}");
    calls.insert("Waitable".to_owned());
    let transport = source().join("connection/transport.rs");
    let used = |path: &Path| {
        let code = code_of(&read(path));
        imports(code.split("#[cfg(test)]").next().unwrap_or(&code), &["crate::sys::", "sys::"])
    };
    assert!(used(&transport).contains("receive"), "the transport receives");
    for path in rust_files(&source()).iter().filter(|path| room_of(path) == "connection" && **path != transport) {
        let wrong: Vec<_> = used(path).intersection(&calls).cloned().collect();
        assert!(wrong.is_empty(), "{} calls a socket: {}", path.display(), wrong.join(", "));
    }
}

#[test]
fn tidy_sees_what_it_should() {
    let code = code_of(concat!(
        "//! use crate::doc;\n/* crate::block */\nuse crate::{a, b::{c, d}, self as me};\n",
        "fn f() { let _ = (\"crate::string\", r#\"crate::raw \" \"#, '\"', b\"crate::bytes\"); crate::e::g(); }\n",
        "use crate :: h; use other_crate::i; pub(in crate::j) fn k() {}\n",
    ));
    let seen: Vec<_> = imports(&code, &["crate::"]).into_iter().collect();
    assert_eq!(seen, ["a", "b", "e", "j", "self"]);
    let rooms = table(
        "//! | module | owns | imports | outside crates |\n//! |---|---|---|---|\n//! | `a` | x, y | b, `c` | |\n//! | `b` | z | | pyo3 |\n",
    );
    assert_eq!(rooms["a"], BTreeSet::from(["b".to_owned(), "c".to_owned()]));
    assert!(rooms["b"].is_empty());
}
