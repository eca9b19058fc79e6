//! The code against the module table in `src/lib.rs`: which module may import which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::source::{code_of, imports, name_at_start, read, root, rust_files, source};

/// The table: each module, and the modules or the outside crates that it may import.
type Rooms = BTreeMap<String, BTreeSet<String>>;

/// The columns of the table.
const IMPORTS: usize = 2;
const CRATES: usize = 3;

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

/// Reads a column of the table in a doc comment: module | owns | imports | outside crates.
fn table(lib: &str, column: usize) -> Rooms {
    lib.lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(str::trim)
        .filter(|line| line.starts_with('|') && line.ends_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
        .filter(|cells| cells.len() == 4 && cells[0] != "module" && !cells[0].starts_with('-'))
        .map(|cells| (words(cells[0]).next().expect("a row names its module"), words(cells[column]).collect()))
        .collect()
}

#[test]
fn modules_import_only_what_their_row_names() {
    let rooms = table(&read(&source().join("lib.rs")), IMPORTS);
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
    let rooms = table(&read(&source().join("lib.rs")), IMPORTS);
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

/// Returns the names that code imports, or that begin a path.
fn names_of_paths(code: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("::") {
        let before = code[..at].trim_end_matches(is_name);
        let name = &code[before.len()..at];
        let follows_a_path = before.strip_suffix("::").is_some_and(|path| path.ends_with(is_name));
        if !name.is_empty() && !before.ends_with('.') && !follows_a_path {
            found.insert(name.to_owned());
        }
    }
    found
        .extend(code.lines().filter_map(|line| line.trim().strip_prefix("use ")?.strip_suffix(';').map(name_at_start)));
    found
}

/// Returns the name that code has for a crate of the table: `signal_hook` for `signal-hook`, `pyo3` for `pyo3 (GIL only)`.
fn crate_of(named: &str) -> String {
    named.split(' ').next().unwrap_or(named).replace('-', "_")
}

/// Returns the crates of the section `[dependencies]`, as code names them.
fn dependencies() -> BTreeSet<String> {
    let manifest = read(&root().join("Cargo.toml"));
    let section = manifest.split("\n[dependencies]\n").nth(1).and_then(|rest| rest.split("\n[").next());
    let lines = section.expect("the manifest has dependencies").lines();
    lines.filter_map(|line| line.split_once(" = ").map(|(name, _)| name.replace('-', "_"))).collect()
}

#[test]
fn modules_use_the_outside_crates_that_their_row_names() {
    let named = table(&read(&source().join("lib.rs")), CRATES);
    let crates = dependencies();
    assert!(crates.contains("pyo3") && crates.contains("signal_hook"), "{crates:?}");
    let mut used: Rooms = named.keys().map(|room| (room.clone(), BTreeSet::new())).collect();
    for path in rust_files(&source()) {
        let code = code_of(&read(&path));
        let code = code.split("#[cfg(test)]").next().unwrap_or(&code);
        let is_test = path.file_stem().is_some_and(|name| name == "tests");
        if let Some(used) = used.get_mut(&room_of(&path))
            && !is_test
        {
            used.extend(names_of_paths(code).intersection(&crates).cloned());
        }
    }
    for (room, used) in used {
        let named: BTreeSet<_> = named[&room].iter().map(|name| crate_of(name)).collect();
        assert_eq!(used, named, "the crates that `{room}` uses (left), and those in its row in src/lib.rs (right)");
    }
}

/// The files that may have unsafe code: all of `sys`, the glue of pyo3, and functions that call an unsafe function of
/// `sys` with a value from outside.
const UNSAFE: [&str; 18] = [
    "interpreter.rs",
    "listener.rs",
    "python/server.rs",
    "supervisor/succession.rs",
    "worker/faults.rs",
    "worker/place.rs",
    "worker/reexec.rs",
    "wsgi/block.rs",
    "wsgi/call/body.rs",
    "wsgi/call.rs",
    "wsgi/calling.rs",
    "wsgi/context.rs",
    "wsgi/counts.rs",
    "wsgi/environ.rs",
    "wsgi/file_wrapper.rs",
    "wsgi/interrupt.rs",
    "wsgi/patched.rs",
    "wsgi/start_response/given.rs",
];

#[test]
fn unsafe_code_stays_behind_its_fence() {
    let mut found = Vec::new();
    for path in rust_files(&source()) {
        let code = code_of(&read(&path));
        let is_unsafe = code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe");
        if is_unsafe && room_of(&path) != "sys" {
            found.push(path.strip_prefix(source()).unwrap_or(&path).display().to_string());
        }
    }
    assert_eq!(found, UNSAFE, "files with unsafe code (left), and those that may have it (right)");
}

#[test]
fn only_the_file_of_locks_uses_the_standard_library_s_locks() {
    let mut found = Vec::new();
    for path in rust_files(&source()) {
        let code = code_of(&read(&path));
        let mut words = code.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        if words.any(|word| ["Mutex", "RwLock", "Condvar", "PoisonError"].contains(&word)) {
            found.push(path.strip_prefix(source()).unwrap_or(&path).display().to_string());
        }
    }
    assert_eq!(found, ["sys/lock.rs"], "files that use a lock of the standard library instead of `sys::Lock`");
}

#[test]
fn rows_import_only_rows_below() {
    let lib = read(&source().join("lib.rs"));
    let rooms = table(&lib, IMPORTS);
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
    // The second and third file are parts of the first. The last has a pair of sockets, and none of a client.
    let own = ["transport.rs", "transport/secured.rs", "transport/kernel.rs", "bridge.rs"]
        .map(|name| source().join("connection").join(name));
    let used = |path: &Path| {
        let code = code_of(&read(path));
        imports(code.split("#[cfg(test)]").next().unwrap_or(&code), &["crate::sys::", "sys::"])
    };
    assert!(used(&transport).contains("receive"), "the transport receives");
    for path in rust_files(&source()).iter().filter(|path| room_of(path) == "connection" && !own.contains(path)) {
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
    let lib = "//! | module | owns | imports | outside crates |\n//! |---|---|---|---|\n//! | `a` | x, y | b, `c` | |\n//! | `b` | z | | pyo3 |\n";
    let rooms = table(lib, IMPORTS);
    assert_eq!(rooms["a"], BTreeSet::from(["b".to_owned(), "c".to_owned()]));
    assert!(rooms["b"].is_empty());
    assert_eq!(table(lib, CRATES)["b"], BTreeSet::from(["pyo3".to_owned()]));
    let seen: Vec<_> = names_of_paths("use libc::{a, b};\nuse clap;\nserde_json::c(); x.log::<T>(); ::log::d!()")
        .into_iter()
        .collect();
    assert_eq!(seen, ["clap", "libc", "log", "serde_json"]);
}

/// Returns the methods of the block of code that begins with `opening`.
fn methods(file: &str, opening: &str) -> BTreeSet<String> {
    let code = read(&source().join(file));
    let block = code.split(opening).nth(1).unwrap_or_else(|| panic!("{file} has no `{opening}`"));
    let block = block.split("\n}\n").next().unwrap_or(block);
    let lines = block.lines().filter_map(|line| line.strip_prefix("    fn "));
    lines.map(name_at_start).collect()
}

#[test]
fn handler_before_another_passes_every_method_on() {
    // The trait's default would hide what the other handler does.
    let (all, passed) = (methods("handler.rs", "pub trait Handler"), methods("files.rs", "impl Handler for Files"));
    assert!(all.len() > 5 && all.contains("admit"), "{all:?}");
    assert_eq!(all, passed);
}
