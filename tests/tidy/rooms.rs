//! The code against the module table in `src/lib.rs`: which module may import which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::source::{code_of, imports, name_at_start, read, rust_files, source};

/// The table: each module, and the modules that it may import.
type Rooms = BTreeMap<String, BTreeSet<String>>;

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
