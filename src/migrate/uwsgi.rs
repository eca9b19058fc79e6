//! The configuration of uWSGI: its three forms of files, and its options.
//!
//! *Owns*: nothing; text in, settings out. *Source*: uWSGI's documentation, "Configuring uWSGI", for placeholders.

use std::collections::BTreeMap;
use std::path::Path;

use super::command::entry;
use crate::config::ConfigFile;
use crate::config::foreign::{self, Counterpart, THE_SAME};

/// The name of the server in the tables.
const UWSGI: &str = "uWSGI";

/// A setting with its value and its line.
pub(super) type Pair = (String, String, usize);

/// Options whose values are addresses of sockets.
const SOCKETS: [&str; 7] =
    ["http", "http-socket", "http11-socket", "socket", "uwsgi-socket", "httprouter", "shared-socket"];
/// Options that name the application. The callable stands in an option of its own.
const MODULES: [&str; 4] = ["module", "wsgi", "wsgi-file", "file"];
/// Options whose values have another form here, so that they cannot be taken over.
const OTHER_FORM: [&str; 4] = ["log-format", "logformat", "log-format-strftime", "logformat-strftime"];

/// Reads the section `[uwsgi]` of an ini file.
pub(super) fn ini(text: &str) -> Vec<Pair> {
    let (mut pairs, mut is_ours) = (Vec::new(), false);
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            is_ours = section.trim_end_matches(']').trim() == "uwsgi";
        } else if is_ours && !line.is_empty() && !line.starts_with(['#', ';']) {
            let (key, value) = line.split_once('=').unwrap_or((line, "true"));
            pairs.push((key.trim().to_owned(), value.trim().to_owned(), at + 1));
        }
    }
    pairs
}

/// Reads the mapping `uwsgi` of a YAML file, whose values are plain.
pub(super) fn yaml(text: &str) -> Vec<Pair> {
    let (mut pairs, mut is_ours) = (Vec::new(), false);
    for (at, line) in text.lines().enumerate() {
        let plain = line.trim();
        if plain.is_empty() || plain.starts_with('#') {
            continue;
        }
        if !line.starts_with([' ', '\t']) {
            is_ours = plain == "uwsgi:";
        } else if is_ours && let Some((key, value)) = plain.trim_start_matches("- ").split_once(':') {
            let value = value.split(" #").next().unwrap_or(value).trim().trim_matches(['"', '\'']);
            pairs.push((key.trim().to_owned(), value.to_owned(), at + 1));
        }
    }
    pairs
}

/// Reads the elements of an XML file: `<processes>4</processes>`, `<master/>`.
pub(super) fn xml(text: &str) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for element in line.split('<').skip(1) {
            let Some((name, value)) = element.split_once('>') else { continue };
            if name.starts_with(['/', '!', '?']) || name == "uwsgi" {
                continue;
            }
            let is_empty = name.ends_with('/') || value.trim().is_empty();
            let value = if is_empty { "true" } else { value.trim() };
            pairs.push((name.trim_end_matches('/').trim().to_owned(), value.to_owned(), at + 1));
        }
    }
    pairs
}

/// Reads the options of a command line. A word that follows an option and is none itself is its value.
pub(super) fn options(words: &[String]) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix("--") else {
            if word.starts_with('-') {
                let value = words.next_if(|next| !next.starts_with('-'));
                pairs.push((word.clone(), value.cloned().unwrap_or_else(|| "true".to_owned())));
            } else {
                pairs.push(("ini".to_owned(), word.clone()));
            }
            continue;
        };
        let (option, value) = match option.split_once('=') {
            Some((option, value)) => (option, value.to_owned()),
            None => {
                (option, words.next_if(|next| !next.starts_with('-')).cloned().unwrap_or_else(|| "true".to_owned()))
            }
        };
        pairs.push((option.to_owned(), value));
    }
    pairs
}

/// Takes settings over.
///
/// # Errors
/// There is none to take over.
pub(super) fn of_pairs(path: &Path, pairs: Vec<Pair>) -> Result<ConfigFile, String> {
    let name = path.display().to_string();
    if pairs.is_empty() {
        return Err(format!("{name} has no settings of uWSGI"));
    }
    let mut file = ConfigFile { name, ..ConfigFile::default() };
    let pairs = replaced(path, pairs);
    let value_of = |name: &str| pairs.iter().rev().find(|(key, ..)| key == name).map(|(_, value, _)| value.clone());
    let callable = value_of("callable");
    for (key, value, line) in &pairs {
        let key = key.replace('_', "-");
        if key == "callable" {
            continue;
        }
        if MODULES.contains(&key.as_str()) {
            let with_callable = callable.as_ref().filter(|_| !value.contains(':'));
            let named = with_callable.map_or_else(|| value.clone(), |callable| format!("{value}:{callable}"));
            file.entries.push(entry("application", vec![named], *line, THE_SAME));
        } else {
            take(&mut file, &key, value, *line);
        }
    }
    let imports_itself = ["lazy-apps", "lazy"].into_iter().any(|key| value_of(key).is_some());
    if file.entries.iter().any(|entry| entry.name == "workers") && !imports_itself {
        let reason = "uWSGI imports the application once, and forks the workers; `preload = true` does that here";
        file.remark(0, "lazy-apps", reason);
    }
    Ok(file)
}

fn take(file: &mut ConfigFile, key: &str, value: &str, line: usize) {
    let is_off = ["false", "0", "no", "off"].contains(&value);
    match foreign::counterpart(UWSGI, key) {
        Some(Counterpart::Nothing(_)) if is_off => {}
        Some(Counterpart::Nothing(reason)) => file.remark(line, key, &reason),
        Some(Counterpart::Setting(_, reason)) if OTHER_FORM.contains(&key) => file.remark(line, key, &reason),
        Some(Counterpart::Setting(ours, reason)) if ours == "config" => file.remark(line, key, &reason),
        Some(Counterpart::Setting(ours, reason)) => {
            let (value, note) = converted(key, &ours, value);
            file.entries.push(entry(&ours, vec![value], line, note.unwrap_or(&reason)));
        }
        Some(Counterpart::Application) => {
            file.entries.push(entry("application", vec![value.to_owned()], line, THE_SAME));
        }
        None => file.remark(line, key, "uWSGI has no such option"),
    }
}

/// Returns the value in Maypole's form, and what differs. `None`: what the table says.
fn converted<'a>(key: &str, ours: &str, value: &'a str) -> (String, Option<&'a str>) {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match key {
        "reload-on-rss" if is_number => (format!("{value}MiB"), Some(THE_SAME)),
        "chmod-socket" | "chmod" if value == "true" => ("666".to_owned(), Some(THE_SAME)),
        "paste" => (value.trim_start_matches("config:").to_owned(), Some(THE_SAME)),
        "py-auto-reload" | "py-autoreload" | "python-auto-reload" | "python-autoreload" => {
            ((value != "0" && value != "false").to_string(), None)
        }
        _ if SOCKETS.contains(&key) || ours == "bind" => {
            let is_path = value.contains('/') && !value.contains("://") && !value.starts_with("unix:");
            let speaks_uwsgi = ["socket", "uwsgi-socket", "-s"].contains(&key);
            let note = if speaks_uwsgi { "HTTP: replace uwsgi_pass by proxy_pass in nginx" } else { THE_SAME };
            (if is_path { format!("unix:{value}") } else { value.to_owned() }, Some(note))
        }
        _ => (value.to_owned(), None),
    }
}

/// Replaces the placeholders `%(name)`, `%d` and `%n`, and leaves out the names that exist for them only.
fn replaced(path: &Path, pairs: Vec<Pair>) -> Vec<Pair> {
    let text =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
    let directory = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let directory = directory.map(|directory| format!("{}/", directory.display())).unwrap_or_default();
    let mut known = BTreeMap::from([("%d".to_owned(), directory), ("%n".to_owned(), text(path.file_stem()))]);
    let mut replaced: Vec<Pair> = Vec::new();
    let mut used = Vec::new();
    for (key, mut value, line) in pairs {
        for (placeholder, text) in &known {
            if value.contains(placeholder.as_str()) {
                used.push(placeholder.clone());
                value = value.replace(placeholder.as_str(), text);
            }
        }
        known.insert(format!("%({key})"), value.clone());
        replaced.push((key, value, line));
    }
    let is_option = |key: &str| foreign::counterpart(UWSGI, key).is_some();
    replaced.retain(|(key, ..)| is_option(key) || !used.contains(&format!("%({key})")));
    replaced
}
