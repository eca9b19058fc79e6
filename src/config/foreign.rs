//! Options of other servers: one table for each server says what Maypole does instead.
//!
//! *Owns*: the tables `foreign/*.toml`. Error messages about unknown options and the pages `docs/from-*.md` are made
//! from them. *Runs on*: the thread that reads settings, after it has found an unknown name. *Invariants*: a table is
//! text in the binary, and is parsed only when it is needed; the first sentence of `remarks` makes sense alone, because
//! the error message contains only that sentence.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::sync::LazyLock;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use toml::{Table, Value};

use super::{command_for, directory, nearest};

/// The tables. The server that most users come from is first.
const TABLES: [&str; 7] = [
    include_str!("foreign/gunicorn.toml"),
    include_str!("foreign/uwsgi.toml"),
    include_str!("foreign/waitress.toml"),
    include_str!("foreign/granian.toml"),
    include_str!("foreign/uvicorn.toml"),
    include_str!("foreign/hypercorn.toml"),
    include_str!("foreign/eventlet.toml"),
];

/// Every option of uWSGI with its short form, one per line. The patterns in uWSGI's table are matched against this
/// list.
const UWSGI_OPTIONS: &str = include_str!("foreign/uwsgi.txt");

/// A mistyped option is compared only with foreign names of at least this many characters: shorter names resemble
/// almost any other name.
const MISTYPED_CHARACTERS_MIN: usize = 5;

/// A sentence names at most this many servers.
const NAMED_MAX: usize = 3;

/// Parts of the names of gunicorn's worker classes that serve other applications than those of WSGI.
const NOT_WSGI: [&str; 3] = ["uvicorn", "asgi", "aiohttp"];

/// The value of `ours` for an option that has no counterpart.
const NONE: &str = "none";
/// The remarks about an option that has the same meaning, as a part of a sentence.
pub const THE_SAME: &str = "the same";
/// The value of `ours` for an option that names the application.
const FIRST_ARGUMENT: &str = "the first argument";

/// Another server, whose options users may try.
#[derive(Debug)]
pub struct Server {
    /// Its name in sentences.
    pub name: String,
    /// The page about it, below `docs`.
    pub page: String,
    /// The tables of that page.
    pub sections: Vec<Section>,
    /// Whether names without dashes are also command-line options, not only settings of a file or keywords.
    bare: bool,
    /// Whether `--no-` before an option turns it off.
    negatable: bool,
    /// Whether the server has only keywords and no command line.
    keywords: bool,
    /// All options of the server, with their short forms, if its table has patterns. Otherwise empty.
    listed: BTreeMap<&'static str, Option<&'static str>>,
    /// The keys of the server's long options.
    options: HashSet<String>,
}

/// A table of a page.
#[derive(Debug)]
pub struct Section {
    /// The anchor of its heading.
    pub anchor: String,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// Options that have the same counterpart.
#[derive(Debug, Clone)]
pub struct Row {
    /// `-w`, `--workers`, and `workers` if the setting has another name in a file; in uWSGI's table also patterns with
    /// `*`.
    pub names: Vec<String>,
    /// The server's default, if it matters that Maypole's default is different.
    pub default: Option<String>,
    /// Markdown: Maypole's options with their defaults, `none` or `the first argument`.
    pub ours: String,
    /// Markdown: what Maypole does instead. The first sentence makes sense alone.
    pub remarks: String,
    /// The server and the option whose row this row copies `ours` and `remarks` from.
    like: Option<String>,
}

/// What the user wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked<'a> {
    /// `--workers`, without the dashes and the value.
    Long(&'a str),
    /// `-w`.
    Short(char),
    /// `workers=4` in Python, or `MAYPOLE_WORKERS=4`.
    Setting(&'a str),
}

/// A row that matches the option.
#[derive(Debug, Clone, Copy)]
struct Found<'a> {
    server: &'a Server,
    section: &'a Section,
    row: &'a Row,
    /// The long name of an option that the user gave by its short name.
    long: Option<&'a str>,
}

/// What Maypole has instead of a setting of another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counterpart {
    /// The argument that names the application.
    Application,
    /// A setting, by its name, and how it differs: `the same` if it does not.
    Setting(String, String),
    /// Nothing, for this reason.
    Nothing(String),
}

/// Returns what Maypole has instead of a setting of `server`, which may be a short option such as `-w`. `None` if the
/// server has no such setting.
pub fn counterpart(server: &str, setting: &str) -> Option<Counterpart> {
    let short = setting.strip_prefix('-').filter(|_| is_short(setting)).and_then(|short| short.chars().next());
    let asked = short.map_or(Asked::Setting(setting), Asked::Short);
    let row = servers().iter().find(|known| known.name == server)?.find(asked)?.row;
    let reason = answer(&row.remarks);
    Some(match row.ours.as_str() {
        NONE => Counterpart::Nothing(reason),
        FIRST_ARGUMENT => Counterpart::Application,
        ours => {
            let option = ours.split('`').find_map(|code| code.strip_prefix("--"))?;
            Counterpart::Setting(option.replace('-', "_"), reason)
        }
    })
}

/// Returns why a class of gunicorn's workers cannot be replaced: it serves other applications than those of WSGI.
pub fn not_wsgi(worker_class: &str) -> Option<String> {
    let name = worker_class.to_ascii_lowercase();
    NOT_WSGI.iter().any(|part| name.contains(part)).then(|| {
        format!("{worker_class} serves applications that are not WSGI (ASGI, aiohttp); Maypole serves only WSGI")
    })
}

/// Returns all tables. The first call parses them.
///
/// # Panics
/// If a table is malformed. The tests check that none is.
pub fn servers() -> &'static [Server] {
    static SERVERS: LazyLock<Vec<Server>> = LazyLock::new(read);
    &SERVERS
}

fn read() -> Vec<Server> {
    let mut servers: Vec<Server> = TABLES.iter().map(|text| Server::read(text)).collect();
    let originals: Vec<(String, Row)> =
        servers.iter().flat_map(|server| server.rows().map(|(_, row)| (server.name.clone(), row.clone()))).collect();
    for row in servers.iter_mut().flat_map(|server| &mut server.sections).flat_map(|section| &mut section.rows) {
        let Some(like) = row.like.take() else { continue };
        let (server, option) = like.split_once(' ').expect("`like` names a server and an option");
        let same = |(name, other): &&(String, Row)| name == server && other.names.iter().any(|name| name == option);
        let (_, original) = originals.iter().find(same).expect("`like` names a row");
        row.ours.clone_from(&original.ours);
        if row.remarks.is_empty() {
            row.remarks.clone_from(&original.remarks);
        }
    }
    servers
}

/// Returns an error that explains the unknown option, with one sentence for each option of another server on the
/// command line.
pub(super) fn explain(command: &Command, error: clap::Error, words: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else { return error };
    let words: Vec<_> = words.iter().skip(1).map(|word| word.to_string_lossy()).collect();
    let asked: Vec<Asked> =
        words.iter().take_while(|word| *word != "--").filter_map(|word| Asked::read(word)).collect();
    let servers = servers();
    let mut sentences = vec![unknown_word(command, servers, given, &words, &asked)];
    let first = Asked::read(given);
    let mut answered: Vec<Asked> = first.into_iter().collect();
    for one in &asked {
        if first.is_some() && !answered.contains(one) && !one.is_of(command) {
            answered.push(*one);
            let found = find(servers, *one, &asked);
            if !found.is_empty() {
                sentences.push(sentence(&one.lead(), &found));
            }
        }
    }
    clap::Error::raw(ErrorKind::UnknownArgument, sentences.join("\nerror: ") + "\n")
}

/// Returns the sentence about a keyword or a variable that is a setting of another server, or `None`. The sentence
/// begins with `lead`; `names` are all keywords of the call.
pub(super) fn explain_setting(lead: &str, name: &str, names: &[&str]) -> Option<String> {
    let asked: Vec<_> = names.iter().map(|name| Asked::Setting(name)).collect();
    let found = find(servers(), Asked::Setting(name), &asked);
    (!found.is_empty()).then(|| sentence(lead, &found))
}

fn unknown_word(command: &Command, servers: &[Server], given: &str, words: &[Cow<'_, str>], all: &[Asked]) -> String {
    let Some(asked) = Asked::read(given) else {
        if directory::is_described_by(command) {
            return format!("DIR is one directory (--static adds others): '{given}' is one argument too many");
        }
        let first = words.iter().find(|word| !word.starts_with('-')).map_or("", AsRef::as_ref);
        let meant = command_for(first).unwrap_or_default();
        return format!("MODULE is one application (--mount adds others): '{given}' is one argument too many{meant}");
    };
    let found = find(servers, asked, all);
    if !found.is_empty() {
        return sentence(&asked.lead(), &found);
    }
    let lead = asked.lead();
    let Asked::Long(name) = asked else {
        return format!("{lead}; 'maypole --help' lists its options");
    };
    let ours = command.get_arguments().flat_map(|arg| arg.get_long_and_visible_aliases().unwrap_or_default());
    if let Some(meant) = nearest(name, ours) {
        return format!("{lead}; did you mean --{meant}?");
    }
    let found = find(servers, Asked::Setting(name), all);
    if !found.is_empty() {
        return sentence(&lead, &found);
    }
    let theirs = servers.iter().flat_map(Server::option_names).filter(|name| name.len() >= MISTYPED_CHARACTERS_MIN);
    if let Some(meant) = nearest(name, theirs) {
        let found = find(servers, Asked::Long(meant), all);
        return sentence(&format!("{lead} or --{meant}"), &found);
    }
    format!("{lead}; 'maypole --help' lists its options")
}

/// Returns the rows that match `asked`, from the servers that know the largest number of the words in `all`. All
/// returned rows have the same meaning.
fn find<'a>(servers: &'a [Server], asked: Asked, all: &[Asked]) -> Vec<Found<'a>> {
    let known = |server: &Server| all.iter().filter(|one| server.find(**one).is_some()).count();
    let mut found: Vec<(usize, Found)> =
        servers.iter().filter_map(|server| server.find(asked).map(|found| (known(server), found))).collect();
    let most = found.iter().map(|(known, _)| *known).max().unwrap_or_default();
    found.retain(|(known, _)| *known == most);
    let meaning = |found: &Found<'a>| (&*found.row.ours, answer(&found.row.remarks));
    let first = found.first().map(|(_, first)| meaning(first));
    found.into_iter().map(|(_, found)| found).filter(|found| Some(meaning(found)) == first).collect()
}

/// Makes one sentence from rows that have the same meaning.
fn sentence(lead: &str, found: &[Found]) -> String {
    let Found { server, section, row, long } = found[0];
    let mut names: Vec<_> = found.iter().map(|found| found.server.name.as_str()).collect();
    let others = if names.len() > NAMED_MAX { " and others" } else { "" };
    names.truncate(if others.is_empty() { NAMED_MAX } else { NAMED_MAX - 1 });
    let long = long.map(|long| format!("--{long} of ")).unwrap_or_default();
    let instead = match row.ours.as_str() {
        NONE => String::new(),
        FIRST_ARGUMENT => "; name the application as the first argument".to_owned(),
        ours => {
            let ours = plain(ours);
            let options: Vec<_> = ours.split([' ', ',']).filter(|word| word.starts_with("--")).collect();
            format!("; use {}", options.join(" and "))
        }
    };
    let reason = match answer(&row.remarks).as_str() {
        THE_SAME => String::new(),
        reason => format!(": {reason}"),
    };
    let (names, page, anchor) = (names.join(", "), &server.page, &section.anchor);
    format!("{lead} ({long}{names}{others}){instead}{reason}; see docs/{page}#{anchor}")
}

/// Returns the first sentence of remarks, worded to follow a colon.
fn answer(remarks: &str) -> String {
    let text = plain(remarks);
    let sentence = text.split_once(". ").map_or_else(|| text.strip_suffix('.').unwrap_or(&text), |(first, _)| first);
    let (word, rest) = sentence.split_once(' ').unwrap_or((sentence, ""));
    // Names and abbreviations keep their capital.
    let is_ordinary = word.chars().skip(1).all(|c| c.is_lowercase() || c == '-') && word != "Maypole";
    let word = if is_ordinary { word.to_lowercase() } else { word.to_owned() };
    format!("{word} {rest}").trim_end().to_owned()
}

/// Removes Markdown's marks: keeps the text of links, and code without its backticks.
fn plain(markdown: &str) -> String {
    let (mut text, mut is_code) = (String::new(), false);
    let mut characters = markdown.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '`' => is_code = !is_code,
            '[' if !is_code => {}
            ']' if !is_code && characters.peek() == Some(&'(') => {
                characters.by_ref().find(|character| *character == ')');
            }
            _ => text.push(character),
        }
    }
    text
}

/// Returns whether a name is an option such as `-w`.
fn is_short(name: &str) -> bool {
    name.starts_with('-') && !name.starts_with("--")
}

/// Returns a name without leading dashes, and with hyphens instead of underscores.
fn key(name: &str) -> String {
    name.trim_start_matches('-').replace('_', "-")
}

/// Returns how specific `pattern`, a name or a pattern with one `*`, is. `None` if it does not match `name`.
fn specificity(pattern: &str, name: &str) -> Option<usize> {
    match pattern.split_once('*') {
        None => (pattern == name).then_some(usize::MAX),
        Some((start, end)) => {
            let fits = name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end);
            fits.then_some(start.len() + end.len())
        }
    }
}

impl<'a> Asked<'a> {
    /// Reads a word of the command line.
    fn read(word: &'a str) -> Option<Self> {
        if let Some(long) = word.strip_prefix("--") {
            let name = long.split('=').next().unwrap_or_default();
            return (!name.is_empty()).then_some(Self::Long(name));
        }
        word.strip_prefix('-').and_then(|short| short.chars().next()).map(Self::Short)
    }

    /// Returns the beginning of the sentence.
    fn lead(self) -> String {
        match self {
            Self::Long(name) => format!("maypole has no --{name}"),
            Self::Short(letter) => format!("maypole has no -{letter}"),
            Self::Setting(name) => format!("there is no setting '{name}'"),
        }
    }

    /// Returns whether Maypole has this option.
    fn is_of(self, command: &Command) -> bool {
        command.get_arguments().any(|arg| match self {
            Self::Long(name) => {
                arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
            }
            Self::Short(letter) => {
                arg.get_short() == Some(letter) || arg.get_all_short_aliases().is_some_and(|all| all.contains(&letter))
            }
            Self::Setting(name) => arg.get_id() == name,
        }) || matches!(self, Self::Long("help") | Self::Short('h'))
    }
}

impl Server {
    fn read(text: &str) -> Self {
        let table: Table = text.parse().expect("the table is TOML");
        let flag = |name: &str| table.get(name).and_then(Value::as_bool).unwrap_or(false);
        let mut server = Self {
            name: string(&table, "server").expect("a table has a server"),
            page: string(&table, "page").expect("a table has a page"),
            sections: array(&table, "section").map(Section::read).collect(),
            bare: flag("bare"),
            negatable: flag("negatable"),
            keywords: flag("keywords"),
            listed: BTreeMap::new(),
            options: HashSet::new(),
        };
        if server.rows().any(|(_, row)| row.names.iter().any(|name| name.contains('*'))) {
            let option =
                |line: &'static str| line.split_once(" -").map_or((line, None), |(long, short)| (long, Some(short)));
            server.listed = UWSGI_OPTIONS.lines().map(option).collect();
        }
        server.options = server.option_names().into_iter().map(key).collect();
        server
    }

    fn rows(&self) -> impl Iterator<Item = (&Section, &Row)> {
        self.sections.iter().flat_map(|section| section.rows.iter().map(move |row| (section, row)))
    }

    /// Returns the long options, without their dashes.
    pub fn option_names(&self) -> Vec<&str> {
        if !self.listed.is_empty() {
            return self.listed.keys().copied().collect();
        }
        let names = self.rows().flat_map(|(_, row)| &row.names);
        let is_bare = |name: &str| self.bare && !name.starts_with('-') && !name.contains(':');
        let is_option = |name: &&String| !self.keywords && (name.starts_with("--") || is_bare(name));
        names.filter(is_option).map(|name| name.trim_start_matches('-')).collect()
    }

    /// Returns the short options.
    pub fn short_options(&self) -> Vec<char> {
        let listed = self.listed.values().flatten().copied();
        let named = self.rows().flat_map(|(_, row)| &row.names).filter(|name| is_short(name)).map(|name| &name[1..]);
        listed.chain(named).filter_map(|name| name.chars().next()).collect()
    }

    /// Returns the names of settings in a file, or of keywords.
    pub fn setting_names(&self) -> Vec<String> {
        if !self.listed.is_empty() {
            return Vec::new();
        }
        let names = self.rows().flat_map(|(_, row)| &row.names).filter(|name| !is_short(name));
        names.map(|name| key(name).replace('-', "_")).collect()
    }

    fn find(&self, asked: Asked) -> Option<Found<'_>> {
        match asked {
            Asked::Short(letter) => {
                let short = letter.to_string();
                let listed = self.listed.iter().find(|(_, known)| **known == Some(&*short)).map(|(long, _)| *long);
                let found = match listed {
                    Some(long) => self.row(|name| specificity(name, long)),
                    None => self.row(|name| specificity(name, &format!("-{short}"))),
                }?;
                let named = || found.row.names.iter().find_map(|name| name.strip_prefix("--"));
                Some(Found { long: listed.or_else(named), ..found })
            }
            Asked::Long(name) => {
                let given = key(name);
                let positive = given.strip_prefix("no-").filter(|_| self.negatable);
                let name = [Some(&*given), positive].into_iter().flatten().find(|name| self.options.contains(*name))?;
                self.row(|known| if is_short(known) { None } else { specificity(&key(known), name) })
            }
            Asked::Setting(name) => {
                let name = key(name);
                if !self.listed.is_empty() && !self.options.contains(&name) {
                    return None;
                }
                self.row(|known| if is_short(known) { None } else { specificity(&key(known), &name) })
            }
        }
    }

    /// Returns the row whose name fits best.
    fn row(&self, fits: impl Fn(&str) -> Option<usize>) -> Option<Found<'_>> {
        let best = |row: &Row| row.names.iter().filter_map(|name| fits(name)).max();
        let rows = self.rows().filter_map(|(section, row)| best(row).map(|fit| (fit, section, row)));
        rows.max_by_key(|(fit, ..)| *fit).map(|(_, section, row)| Found { server: self, section, row, long: None })
    }
}

impl Section {
    fn read(table: &Table) -> Self {
        Self {
            anchor: string(table, "anchor").expect("a section has an anchor"),
            rows: array(table, "row").map(Row::read).collect(),
        }
    }
}

impl Row {
    fn read(table: &Table) -> Self {
        let names = string(table, "names").expect("a row has names");
        Self {
            names: names.split(' ').map(str::to_owned).collect(),
            default: string(table, "default"),
            ours: string(table, "ours").unwrap_or_default(),
            remarks: string(table, "remarks").unwrap_or_default(),
            like: string(table, "like"),
        }
    }
}

fn string(table: &Table, name: &str) -> Option<String> {
    table.get(name).and_then(Value::as_str).map(str::to_owned)
}

fn array<'a>(table: &'a Table, name: &str) -> impl Iterator<Item = &'a Table> {
    table.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table)
}
