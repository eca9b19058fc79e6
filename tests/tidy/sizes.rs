//! The form of a file: it opens with what it is, and neither the file nor a function in it is too long.

use std::path::{Path, PathBuf};

use crate::source::{files, name_at_start, read, root, rust_files, source};

/// The most lines of a file. A longer file holds two things.
const LINES_MAX: usize = 600;
/// The most lines of a function, from its signature to its last brace.
const FUNCTION_LINES_MAX: usize = 70;

/// The folders with code.
const FOLDERS: [&str; 7] = ["benches", "examples", "fuzz", "python", "src", "tests", "tools"];

fn code_files() -> impl Iterator<Item = PathBuf> {
    FOLDERS.iter().flat_map(|folder| files(&root().join(folder), &["rs", "py", "pyi"]))
}

/// Returns a file's path from the root of the tree.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).expect("it is in the tree").display().to_string()
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Returns the functions of a Rust file that `rustfmt` has formatted: the name, and the number of lines.
fn rust_functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let named = lines.iter().enumerate().filter_map(|(at, line)| Some((at, rust_function_name(line)?)));
    let body = |at: usize| {
        let opens = at + lines[at..].iter().position(|line| line.ends_with(['{', '}', ';']))?;
        if !lines[opens].ends_with('{') {
            return None;
        }
        let end = format!("{}}}", " ".repeat(indentation(lines[at])));
        lines[opens..].iter().position(|line| line.starts_with(&end)).map(|length| opens + length + 1 - at)
    };
    named.filter_map(|(at, name)| Some((name, body(at)?))).collect()
}

fn rust_function_name(line: &str) -> Option<String> {
    let mut words = line.trim_start();
    loop {
        let (word, rest) = words.split_once(' ')?;
        match word {
            "fn" => return Some(name_at_start(rest)),
            "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\"" => words = rest,
            _ if word.starts_with("pub(") => words = rest.strip_prefix("super) ").unwrap_or(rest),
            _ => return None,
        }
    }
}

/// Returns the functions of a Python file: the name, and the number of lines.
fn python_functions(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    // The functions that the line is in: the indentation, the name, the first line and the last line so far.
    let mut open: Vec<(usize, String, usize, usize)> = Vec::new();
    let mut in_string = None;
    for (at, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if in_string.is_none() && !code.is_empty() {
            // A line that begins with a bracket ends a signature.
            while open.last().is_some_and(|function| indentation(line) <= function.0 && !code.starts_with(')')) {
                let (_, name, first, last) = open.pop().expect("it has just been seen");
                found.push((name, last + 1 - first));
            }
            let signature = code.strip_prefix("async ").unwrap_or(code);
            if let Some(rest) = signature.strip_prefix("def ") {
                open.push((indentation(line), name_at_start(rest), at, at));
            }
        }
        for quotes in ["\"\"\"", "'''"] {
            let is_inside = in_string == Some(quotes);
            if (is_inside || in_string.is_none()) && line.matches(quotes).count() % 2 == 1 {
                in_string = if is_inside { None } else { Some(quotes) };
            }
        }
        if !code.is_empty() {
            for function in &mut open {
                function.3 = at;
            }
        }
    }
    found.extend(open.into_iter().map(|(_, name, first, last)| (name, last + 1 - first)));
    found
}

#[test]
fn files_open_with_what_they_are() {
    for path in rust_files(&source()) {
        assert!(read(&path).starts_with("//!"), "{} does not open with `//!`", path.display());
    }
}

#[test]
fn files_stay_readable() {
    let mut long = Vec::new();
    for path in code_files() {
        let (name, lines) = (shown(&path), read(&path).lines().count());
        if lines > LINES_MAX {
            long.push(format!("{name} has {lines} lines, more than {LINES_MAX}"));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn functions_stay_readable() {
    let mut long = Vec::new();
    for path in code_files() {
        let file = shown(&path);
        let text = read(&path);
        let functions = if path.extension().is_some_and(|kind| kind == "rs") {
            rust_functions(&text)
        } else {
            python_functions(&text)
        };
        for (name, lines) in functions {
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{file}: `{name}` has {lines} lines, more than {FUNCTION_LINES_MAX}"));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn lengths_are_those_of_the_text() {
    let rust = "impl A {\n    pub(super) fn a(\n        &self,\n    ) -> B {\n        let c = || {\n        };\n    }\n\n    fn d();\n}\nunsafe extern \"C\" fn e() {\n}\nfn f() {}\n";
    assert_eq!(rust_functions(rust), [("a".to_owned(), 6), ("e".to_owned(), 2)]);
    let python = "def a(\n    b,\n):\n    '''text\nno def here():\n    '''\n    async def c():\n        pass\n\n    return c\n\n\nd = 1\ndef e(): pass\n";
    let mut lengths = python_functions(python);
    lengths.sort();
    assert_eq!(lengths, [("a".to_owned(), 10), ("c".to_owned(), 2), ("e".to_owned(), 1)]);
}
