//! Options of other servers: each gets an error message that explains it, and the tables in `docs/from-*.md` match the
//! tables behind these messages. `MAYPOLE_BLESS=1` rewrites the tables in the pages.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use maypole::config::foreign::{Row, Section, Server, servers};
use maypole::config::{Config, Evaluator};

/// The most words in an error message. A longer explanation belongs on the page.
const WORDS_MAX: usize = 50;

fn docs() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// Returns the error message for `maypole ARGS m:app`. `None` if the command line accepts the option.
fn answer(words: &[&str]) -> Option<String> {
    let args = ["maypole"].iter().chain(words).chain(&["m:app"]).copied();
    let error = Config::parse_from(args).err()?;
    let is_taken = !matches!(error.kind(), clap::error::ErrorKind::UnknownArgument);
    if is_taken {
        return None;
    }
    assert_eq!(error.exit_code(), 2);
    Some(error.to_string())
}

/// Returns Maypole's own options, with their dashes.
fn ours() -> BTreeSet<String> {
    let command = Config::command();
    let longs = command.get_arguments().flat_map(|arg| arg.get_long_and_visible_aliases().unwrap_or_default());
    longs.map(|name| format!("--{name}")).chain(["--help".to_owned()]).collect()
}

fn rows() -> impl Iterator<Item = (&'static Server, &'static Section, &'static Row)> {
    servers().iter().flat_map(|server| {
        server.sections.iter().flat_map(move |section| section.rows.iter().map(move |row| (server, section, row)))
    })
}

/// Checks that a message is one line, begins like all errors, names the option and a page, and contains none of clap's
/// tips.
fn check(option: &str, text: &str) {
    assert!(text.starts_with(&format!("error: maypole has no {option} (")), "{option}: {text}");
    assert_eq!(text.lines().count(), 1, "{option}: {text}");
    assert!(text.ends_with('\n'), "{option}: {text}");
    for wrong in ["similar", "as a value", "Usage", "`", "](h", "](r", "  ", "..", "error: error"] {
        assert!(!text.contains(wrong), "{option} has '{wrong}': {text}");
    }
    assert!(text.contains("; see docs/from-"), "{option}: {text}");
    assert!(text.split(' ').count() <= WORDS_MAX, "{option}: {text}");
}

#[test]
fn every_foreign_option_is_answered_with_one_sentence() {
    let (mut answered, mut taken) = (0, Vec::new());
    for server in servers() {
        for name in server.option_names() {
            let option = format!("--{name}");
            match answer(&[&option]) {
                Some(text) => check(&option, &text),
                None => taken.push(option),
            }
            answered += 1;
        }
        for letter in server.short_options() {
            let option = format!("-{letter}");
            match answer(&[&option]) {
                Some(text) => check(&option, &text),
                None => taken.push(option),
            }
        }
    }
    assert!(answered > 1000, "{answered}");
    let known = ours();
    let foreign = |option: &&String| option.starts_with("--") && !known.contains(*option);
    let hidden = ["--limit-request-field_size", "--pidfile", "--preload-app"];
    let wrong: Vec<_> = taken.iter().filter(foreign).filter(|option| !hidden.contains(&option.as_str())).collect();
    assert!(wrong.is_empty(), "taken, but not ours: {wrong:?}");
}

#[test]
fn every_foreign_setting_is_answered_as_a_keyword() {
    for server in servers() {
        for name in server.setting_names() {
            let keyword = (name.clone(), vec!["1".to_owned()]);
            let Err(error) = Config::from_all_keywords(None, &[keyword], &Evaluator::default()) else { continue };
            let text = error.to_string();
            if text.starts_with("there is no setting") {
                assert!(text.starts_with(&format!("there is no setting '{name}' (")), "{text}");
                assert!(text.contains("; see docs/from-") && !text.contains("--") && !text.contains('\n'), "{text}");
            }
        }
    }
}

#[test]
fn answer_names_the_server_that_the_other_options_belong_to() {
    for (words, server) in [
        (&["--threads", "4", "--workers", "4", "--worker-class", "gthread"][..], "(gunicorn"),
        (&["--master", "--workers", "4", "--harakiri", "60"], "(uWSGI)"),
        (&["--http", ":8000", "--wsgi-file", "wsgi.py"], "(uWSGI)"),
        (&["--http", "1", "--interface", "wsgi", "--blocking-threads", "4"], "(granian)"),
        (&["-M", "-p", "4", "--need-app"], "(--master of uWSGI)"),
        (&["-w", "4", "-k", "gevent", "-t", "30"], "(--worker-class of gunicorn)"),
        (&["--server-name", "x", "--insecure-bind", "x"], "(hypercorn)"),
        (&["--server-name", "x", "--channel-timeout", "1"], "(waitress)"),
    ] {
        let text = answer(words).expect("it is refused");
        let first = text.lines().next().unwrap_or_default();
        assert!(first.contains(server), "{words:?}: {text}");
    }
}

#[test]
fn answers_of_the_common_options_say_what_to_do() {
    for (words, expected) in [
        (
            &["--harakiri=30"][..],
            "error: maypole has no --harakiri (uWSGI); use --request-timeout: a client gets 504 at that time, and the \
             request's thread is given up, but the process goes on; see docs/from-uwsgi.md#processes-threads-and-time\n",
        ),
        (
            &["--wsgi-file", "wsgi.py"],
            "error: maypole has no --wsgi-file (uWSGI); name the application as the first argument: give the path, ending in \
             .py: path/to/wsgi.py; see docs/from-uwsgi.md#address-and-application\n",
        ),
        (
            &["--unix-socket-perms", "600"],
            "error: maypole has no --unix-socket-perms (waitress); use --unix-socket-mode: it is octal too; see \
             docs/from-waitress.md#adjustments\n",
        ),
    ] {
        assert_eq!(answer(words).as_deref(), Some(expected));
    }
}

#[test]
fn every_foreign_option_on_the_line_is_answered_at_once() {
    let text = answer(&["-k", "gthread", "--bind", ":8000", "--worker-connections", "60", "--spew", "--no-such"])
        .expect("it is refused");
    let begins: Vec<_> = text.lines().map(|line| line.split(" (").next().unwrap_or_default()).collect();
    assert_eq!(
        begins,
        ["error: maypole has no -k", "error: maypole has no --worker-connections", "error: maypole has no --spew"]
    );
}

#[test]
fn mistyped_option_names_the_one_that_was_meant() {
    for (given, meant) in [
        ("--bnd", "--bind"),
        ("--keepalive", "--keep-alive"),
        ("--access-log-format", "--access-logformat"),
        ("--pool-sise=3", "--pool-size"),
    ] {
        let expected =
            format!("error: maypole has no {}; did you mean {meant}?\n", given.split('=').next().unwrap_or(given));
        assert_eq!(answer(&[given]), Some(expected));
    }
    let text = answer(&["--worker-clas", "gthread"]).expect("it is refused");
    assert!(text.starts_with("error: maypole has no --worker-clas or --worker-class (gunicorn"), "{text}");
    let text = answer(&["--accesslog", "-"]).expect("it is refused");
    assert!(text.starts_with("error: maypole has no --accesslog (gunicorn); use --access-logfile; see"), "{text}");
    assert_eq!(
        answer(&["--no-such-option"]).as_deref(),
        Some("error: maypole has no --no-such-option; 'maypole --help' lists its options\n")
    );
    assert_eq!(
        answer(&["one:app"]).as_deref(),
        Some("error: MODULE is one application (--mount adds others): 'm:app' is one argument too many\n")
    );
}

#[test]
fn rows_name_options_that_exist_or_a_reason() {
    let known = ours();
    for (server, _, row) in rows() {
        let names = row.names.join(" ");
        assert!(!row.remarks.is_empty(), "{}: {names} has no remarks", server.name);
        assert!(row.remarks.ends_with('.'), "{}: the remarks of {names} end without a stop", server.name);
        if ["none", "the first argument"].contains(&row.ours.as_str()) {
            continue;
        }
        let options: Vec<_> = row.ours.split('`').filter(|code| code.starts_with("--")).collect();
        assert!(!options.is_empty(), "{}: {names} has '{}'", server.name, row.ours);
        for option in options {
            assert!(known.contains(option), "{}: there is no {option}, which {names} names", server.name);
        }
    }
}

#[test]
fn tables_on_the_pages_are_current() {
    for server in servers().iter().filter(|server| server.name != "eventlet") {
        let path = docs().join(&server.page);
        let mut page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let current = page.clone();
        for section in &server.sections {
            let heading = format!("{}/{}", server.name, section.anchor);
            let begin = format!("<!-- options {heading}: begin -->\n");
            let end = format!("<!-- options {heading}: end -->");
            let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{} has no {begin}", server.page));
            let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{} has no {end}", server.page));
            assert_eq!(last_anchor(before), section.anchor, "the heading above the table in {}", server.page);
            page = format!("{before}{begin}\n{}\n{end}{after}", table(server, section));
        }
        let blessed = std::env::var_os("MAYPOLE_BLESS").is_some_and(|value| value == "1");
        if page != current && blessed {
            fs::write(&path, page).expect("the page can be written");
        } else {
            assert!(page == current, "{} differs: run MAYPOLE_BLESS=1 cargo test --test foreign", server.page);
        }
    }
}

/// Returns the anchor that GitHub makes for the last heading.
fn last_anchor(text: &str) -> String {
    let heading = text.lines().rev().find(|line| line.starts_with('#')).unwrap_or_default();
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Returns a section's table in Markdown.
fn table(server: &Server, section: &Section) -> String {
    let mut text = format!("| {} | Maypole | remarks |\n|---|---|---|\n", server.name);
    for row in &section.rows {
        let names: Vec<_> = row.names.iter().map(|name| format!("`{name}`")).collect();
        let default = row.default.as_ref().map(|default| format!(" (`{default}`)")).unwrap_or_default();
        let cells = [format!("{}{default}", names.join(", ")), row.ours.clone(), row.remarks.clone()];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}
