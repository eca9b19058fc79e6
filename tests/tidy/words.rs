//! Words that do not occur, because they leave open who acts, or how much is meant.

use std::path::Path;

use crate::source::{files, read, root};

/// The words. A sentence names its actor instead: the client, the application, the coroutine, the thread, the operator.
const WORDS: [&str; 11] = [
    "answer whether",
    "answers whether",
    "anybody",
    "everybody",
    "nobody",
    "so many",
    "somebody",
    "those who",
    "what there is",
    "whoever",
    "whom",
];

/// Files that need a word: a user's name is `nobody`, and this list.
const EXCEPTIONS: [&str; 6] = [
    "docs/reference/answers.md",
    "tests/test_answers.py",
    "tests/test_paste.py",
    "tests/test_systemd.py",
    "tests/test_unix_socket.py",
    "tests/tidy/words.rs",
];

/// Returns the text as one line in lower case, without the marks that begin a line of a comment.
fn flowing(text: &str) -> String {
    let words = text.lines().flat_map(|line| line.trim_start_matches([' ', '\t', '/', '!', '#', '*', '>']).split(' '));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ").to_lowercase()
}

fn has(text: &str, word: &str) -> bool {
    let is_part = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word)
        .any(|(at, _)| !is_part(text[..at].chars().next_back()) && !is_part(text[at + word.len()..].chars().next()))
}

#[test]
fn sentences_name_their_actor() {
    let kinds = ["rs", "py", "pyi", "md", "toml", "yml", "conf", "service", "Makefile"];
    let mut found = Vec::new();
    for path in files(root(), &kinds) {
        let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        if EXCEPTIONS.contains(&&*name) {
            continue;
        }
        let text = flowing(&read(Path::new(&path)));
        found.extend(WORDS.iter().filter(|word| has(&text, word)).map(|word| format!("{name}: \"{word}\"")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn word_is_found_across_lines_and_not_inside_another() {
    let text = flowing("    // At most so\n    // Many bytes.\nlet nobody_else = 1;");
    assert!(has(&text, "so many"));
    assert!(!has(&text, "nobody"));
}
