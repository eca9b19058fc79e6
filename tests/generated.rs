//! Checks that the files generated from the settings are up to date. `MAYPOLE_BLESS=1` rewrites them.

use std::fs;
use std::path::Path;

use maypole::config::Config;

const BEGIN: &str = "<!-- settings:begin -->\n";
const END: &str = "<!-- settings:end -->";

fn is_blessed() -> bool {
    std::env::var_os("MAYPOLE_BLESS").is_some_and(|value| value == "1")
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Checks that a file has the expected content. With `MAYPOLE_BLESS=1`, writes that content if the file differs.
#[track_caller]
fn compare(name: &str, expected: &str) {
    let found = fs::read_to_string(path(name)).expect("the file is there");
    if found != expected && is_blessed() {
        return fs::write(path(name), expected).expect("the file can be written");
    }
    assert!(found == expected, "{name} is old: run MAYPOLE_BLESS=1 cargo test --test generated");
}

#[test]
fn settings_reference_is_current() {
    let page = fs::read_to_string(path("docs/reference/settings.md")).expect("the page is there");
    let (before, rest) = page.split_once(BEGIN).expect("the page has the first mark");
    let (_, after) = rest.split_once(END).expect("the page has the second mark");
    let expected = format!("{before}{BEGIN}\n{}{END}{after}", Config::settings_reference());
    compare("docs/reference/settings.md", &expected);
}

#[test]
fn types_of_the_keywords_are_current() {
    compare("python/maypole/_settings.py", &Config::settings_types());
}
