//! The README's table of settings is what the program says. `MAYPOLE_BLESS=1` rewrites it.

use std::fs;
use std::path::Path;

use maypole::config::Config;

const BEGIN: &str = "<!-- settings:begin -->\n";
const END: &str = "<!-- settings:end -->";

#[test]
fn settings_table_in_readme_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).expect("README.md is there");
    let (before, rest) = readme.split_once(BEGIN).expect("README.md has the first mark");
    let (table, after) = rest.split_once(END).expect("README.md has the second mark");
    let expected = format!("\n{}\n", Config::settings_table());
    if std::env::var_os("MAYPOLE_BLESS").is_some_and(|value| value == "1") {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).expect("README.md can be written");
    } else {
        assert_eq!(table, expected, "run MAYPOLE_BLESS=1 cargo test --test readme");
    }
}
