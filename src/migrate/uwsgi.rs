//! The configuration of uWSGI: its three forms of files, and its options.
//!
//! *Owns*: nothing; text in, settings out. *Source*: uWSGI's documentation, "Configuring uWSGI", for placeholders.

use std::collections::BTreeMap;
use std::path::Path;

use super::command::{entry, file_of_its_own, of_variable};
use super::conditions;
use crate::config::foreign::{self, Counterpart, THE_SAME};
use crate::config::{Ciphers, ConfigFile, nearest};

/// The name of the server in the tables.
const UWSGI: &str = "uWSGI";

/// The section of a file that is read.
pub(super) const SECTION: &str = "uwsgi";

/// A setting with its value and its line.
pub(super) type Pair = (String, String, usize);

/// Options whose values are addresses of sockets.
const SOCKETS: [&str; 7] =
    ["http", "http-socket", "http11-socket", "socket", "uwsgi-socket", "httprouter", "shared-socket"];
/// Options that name a log.
const LOGS: [&str; 5] = ["logto", "logto2", "logger", "req-logger", "logger-req"];
/// Options that name the application. The callable stands in an option of its own.
const MODULES: [&str; 4] = ["module", "wsgi", "wsgi-file", "file"];
/// Options that name an application, and its path or its host.
const MOUNTS: [&str; 2] = ["mount", "worker-mount"];
/// Options that go to the background, and whose value is the file of the log.
const BACKGROUND: [&str; 2] = ["daemonize", "daemonize2"];
/// Options whose value is a name and its value.
const PLACEHOLDERS: [&str; 3] = ["set", "set-placeholder", "set-ph"];
/// How deep sections may include each other.
const SECTIONS_DEPTH: usize = 8;
/// A body that is buffered up to this size always stays in memory here.
const BODY_IN_MEMORY: u64 = 64 << 10;
/// Options whose values are an address, the files of a certificate and its key, ciphers, and the file of the authorities
/// of clients.
const HTTPS: [&str; 2] = ["https", "https-socket"];
/// Options whose values have another form here, so that they cannot be taken over.
const OTHER_FORM: [&str; 6] =
    ["log-format", "logformat", "log-format-strftime", "logformat-strftime", "log-slow", "log-5xx"];

/// Reads a section of an ini file, and the sections that it includes: `ini = :base`.
pub(super) fn ini(text: &str, section: &str) -> Vec<Pair> {
    ini_section(text, section, SECTIONS_DEPTH)
}

fn ini_section(text: &str, section: &str, depth: usize) -> Vec<Pair> {
    let (mut pairs, mut is_ours) = (Vec::new(), false);
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            is_ours = name.trim_end_matches(']').trim() == section;
        } else if is_ours && !line.is_empty() && !line.starts_with(['#', ';']) {
            let (key, value) = line.split_once('=').unwrap_or((line, "true"));
            let (key, value) = (key.trim(), without_comment(value.trim()));
            match value.strip_prefix(':').filter(|_| key == "ini" && depth > 0) {
                Some(other) => pairs.extend(ini_section(text, other, depth - 1)),
                None => pairs.push((key.to_owned(), value.to_owned(), at + 1)),
            }
        }
    }
    pairs
}

/// Cuts off a comment behind a value. uWSGI knows comments only at the beginning of a line, but it reads a number up to
/// the first other character, so that a comment behind a number works there.
fn without_comment(value: &str) -> &str {
    let begins =
        |(at, character): &(usize, char)| ['#', ';'].contains(character) && value[..*at].ends_with(char::is_whitespace);
    value.char_indices().find(begins).map_or(value, |(at, _)| value[..at].trim_end())
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
    let (pairs, conditions) = conditions::decided(pairs, &|name| std::env::var(name).ok());
    let pairs = replaced(path, pairs);
    let value_of = |name: &str| pairs.iter().rev().find(|(key, ..)| key == name).map(|(_, value, _)| value.clone());
    let callable = value_of("callable");
    for (key, value, line) in &pairs {
        let key = key.replace('_', "-");
        if key == "callable" {
            continue;
        }
        if MOUNTS.contains(&key.as_str()) && !value.contains("$(") {
            mount(&mut file, &key, value, callable.as_deref(), *line);
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
    for (line, key, sentence) in &conditions {
        file.remark(*line, key, sentence);
    }
    let has_log = file.entries.iter().any(|entry| entry.name == "error_logfile");
    if let Some((_, log, line)) = pairs.iter().rev().find(|(key, ..)| BACKGROUND.contains(&key.as_str()))
        && !has_log
        && log.contains(['/', '.'])
    {
        let note = "it was the log of the process in the background";
        file.entries.push(entry("error_logfile", vec![log.clone()], *line, note));
    }
    let imports_itself = ["lazy-apps", "lazy"].into_iter().any(|key| value_of(key).is_some());
    if file.entries.iter().any(|entry| entry.name == "workers") && !imports_itself {
        let reason = "uWSGI imports the application once, and forks the workers; `preload = true` does that here";
        file.remark(0, "lazy-apps", reason);
    }
    Ok(file)
}

/// Takes an application over that is mounted at a path or a host: `/shop=shop.wsgi`, `shop.example=shop.py`.
fn mount(file: &mut ConfigFile, key: &str, value: &str, callable: Option<&str>, line: usize) {
    let Some((place, module)) = value.split_once('=') else {
        return file.remark(line, key, "it names no application");
    };
    let with_callable = callable.filter(|_| !module.contains(':'));
    let module = with_callable.map_or_else(|| module.to_owned(), |callable| format!("{module}:{callable}"));
    let names_host = !place.starts_with('/');
    if names_host && place.contains('/') {
        return file.remark(line, key, "an application has a path or a host here, not both");
    }
    let name = if names_host { "virtual_host" } else { "mount" };
    let value = format!("{place}={module}");
    // The values of an option that is given several times are one setting.
    match file.entries.iter_mut().find(|entry| entry.name == name) {
        Some(entry) => entry.values.push(value),
        None => file.entries.push(entry(name, vec![value], line, THE_SAME)),
    }
}

fn take(file: &mut ConfigFile, key: &str, value: &str, line: usize) {
    let is_off = ["false", "0", "no", "off"].contains(&value);
    if value.contains("$(") {
        return file.remark(line, key, &of_variable(value));
    }
    match foreign::counterpart(UWSGI, key) {
        Some(Counterpart::Nothing(_)) if is_off => {}
        Some(Counterpart::Nothing(reason)) => file.remark(line, key, &reason),
        Some(Counterpart::Setting(..)) if HTTPS.contains(&key) => take_https(file, value, line),
        Some(Counterpart::Setting(_, reason)) if OTHER_FORM.contains(&key) => file.remark(line, key, &reason),
        Some(Counterpart::Setting(ours, _)) if ours == "config" => file.remark(line, key, &file_of_its_own(value)),
        Some(Counterpart::Setting(_, reason)) if is_without_counterpart(key, value) => file.remark(line, key, &reason),
        Some(Counterpart::Setting(ours, reason)) => {
            let (value, note) = converted(key, &ours, value);
            file.entries.push(entry(&ours, vec![value], line, note.unwrap_or(&reason)));
        }
        Some(Counterpart::Application) => {
            file.entries.push(entry("application", vec![value.to_owned()], line, THE_SAME));
        }
        None => {
            let options = foreign::servers().iter().filter(|server| server.name == UWSGI);
            let meant = nearest(key, options.flat_map(foreign::Server::option_names));
            let meant = meant.map(|meant| format!("; did you mean '{meant}'?")).unwrap_or_default();
            file.remark(line, key, &format!("uWSGI has no such option{meant}"));
        }
    }
}

/// Takes `ADDRESS,CERTIFICATE,KEY[,CIPHERS[,AUTHORITIES]]`. Authorities after an exclamation mark have to be those of
/// every client.
fn take_https(file: &mut ConfigFile, value: &str, line: usize) {
    let mut take = |name, value: String| file.entries.push(entry(name, vec![value], line, THE_SAME));
    for (name, part) in ["bind", "certfile", "keyfile", "ciphers", "ca_certs"].into_iter().zip(value.split(',')) {
        match (name, part.strip_prefix('!')) {
            (_, None) if part.is_empty() => {}
            ("bind", _) => take(name, format!("https://{part}")),
            ("ca_certs", authorities) => {
                take(name, authorities.unwrap_or(part).to_owned());
                take("cert_reqs", if authorities.is_some() { "required" } else { "optional" }.to_owned());
            }
            // Lists such as HIGH name no suite: the default is what they mean.
            ("ciphers", _) if Ciphers::parse(part).is_err() => {}
            _ => take(name, part.to_owned()),
        }
    }
}

/// Returns whether the value of an option that has a counterpart has none.
fn is_without_counterpart(key: &str, value: &str) -> bool {
    let target = value.split_once(':').map(|(target, _)| target);
    match key {
        "post-buffering" => value.parse::<u64>().is_ok_and(|bytes| (1..BODY_IN_MEMORY).contains(&bytes)),
        _ if LOGS.contains(&key) => {
            target.is_some_and(|target| target != "file") || ["syslog", "rsyslog"].contains(&value)
        }
        _ => false,
    }
}

/// Returns the value in Maypole's form, and what differs. `None`: what the table says.
fn converted<'a>(key: &str, ours: &str, value: &'a str) -> (String, Option<&'a str>) {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match key {
        "reload-on-rss" if is_number => (format!("{value}MiB"), Some(THE_SAME)),
        "chmod-socket" | "chmod" if value == "true" => ("666".to_owned(), Some(THE_SAME)),
        _ if LOGS.contains(&key) => {
            let target = if value == "stdio" { "-" } else { value };
            (target.strip_prefix("file:").unwrap_or(target).to_owned(), None)
        }
        "paste" => (value.trim_start_matches("config:").to_owned(), Some(THE_SAME)),
        "py-auto-reload" | "py-autoreload" | "python-auto-reload" | "python-autoreload" => {
            ((value != "0" && value != "false").to_string(), None)
        }
        _ if SOCKETS.contains(&key) || ours == "bind" => {
            // For uWSGI an address without a port is a file. A number alone was meant as a port.
            let has_no_port = !value.contains(':') && !is_number;
            let is_path = value.contains('/') && !value.contains("://") && !value.starts_with("unix:");
            let is_path = is_path || has_no_port;
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
    for (key, value, line) in pairs {
        // `set-placeholder = base=/srv` is `base = /srv`.
        let named = value.split_once('=').filter(|_| PLACEHOLDERS.contains(&key.replace('_', "-").as_str()));
        let named = named.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
        let (key, mut value) = named.unwrap_or((key, value));
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
