//! The format of the access log in gunicorn's atoms, parsed once.
//!
//! *Owns*: nothing.
//! *Runs on*: the main thread, before anything is started.
//! *Source*: gunicorn, setting `access_log_format`; `common` and `combined` are Apache's names.

/// A parsed format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Format {
    /// One JSON object per line, with fixed keys.
    Json,
    /// A sequence of text and atoms.
    Line(Vec<Part>),
}

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Literal text.
    Text(Vec<u8>),
    /// A value of the entry.
    Atom(Atom),
    /// `{name}i`: a field of the request. The name is in lower case.
    RequestField(Vec<u8>),
    /// `{name}o`: a field of the response. The name is in lower case.
    ResponseField(Vec<u8>),
    /// `{name}e`: a value of the environ.
    Environ(String),
}

/// A value that every entry has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Atom {
    /// `h`
    Remote,
    /// `l`
    Identity,
    /// `u`
    User,
    /// `t`
    Time,
    /// `r`
    RequestLine,
    /// `m`
    Method,
    /// `U`
    Path,
    /// `q`
    Query,
    /// `H`
    Protocol,
    /// `s`
    Status,
    /// `B`
    Bytes,
    /// `b`
    BytesOrDash,
    /// `f`
    Referer,
    /// `a`
    UserAgent,
    /// `T`
    Seconds,
    /// `D`
    Micros,
    /// `M`
    Millis,
    /// `L`
    DecimalSeconds,
    /// `p`
    Process,
    /// `request_id`
    RequestId,
    /// `trace_id`
    TraceId,
    /// `proxy_queue`
    ProxyQueue,
    /// `receive`
    Receive,
    /// `queue`
    Queue,
    /// `application`
    Application,
    /// `suspended`
    Suspended,
    /// `send`
    Send,
    /// `complete`
    Complete,
}

/// Every atom by name.
pub(super) const ATOMS: [(&str, Atom); 28] = [
    ("h", Atom::Remote),
    ("l", Atom::Identity),
    ("u", Atom::User),
    ("t", Atom::Time),
    ("r", Atom::RequestLine),
    ("m", Atom::Method),
    ("U", Atom::Path),
    ("q", Atom::Query),
    ("H", Atom::Protocol),
    ("s", Atom::Status),
    ("B", Atom::Bytes),
    ("b", Atom::BytesOrDash),
    ("f", Atom::Referer),
    ("a", Atom::UserAgent),
    ("T", Atom::Seconds),
    ("D", Atom::Micros),
    ("M", Atom::Millis),
    ("L", Atom::DecimalSeconds),
    ("p", Atom::Process),
    ("request_id", Atom::RequestId),
    ("trace_id", Atom::TraceId),
    ("proxy_queue", Atom::ProxyQueue),
    ("receive", Atom::Receive),
    ("queue", Atom::Queue),
    ("application", Atom::Application),
    ("suspended", Atom::Suspended),
    ("send", Atom::Send),
    ("complete", Atom::Complete),
];

const COMMON: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s"#;
const COMBINED: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#;

/// The error in a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// There is no such atom.
    #[error("unknown atom %({name})s in the access log's format: expected {}", known_atoms())]
    UnknownAtom {
        /// The text between the parentheses.
        name: String,
    },
    /// A `%` does not begin an atom.
    #[error("lone '%' at position {position} of the access log's format: expected %(atom)s, or %% for the sign itself")]
    LonePercent {
        /// In bytes, from 0.
        position: usize,
    },
    /// The format has a line break or another control character.
    #[error("control character at position {position} of the access log's format: expected one printable line")]
    Control {
        /// In bytes, from 0.
        position: usize,
    },
}

impl Format {
    /// Reads `common`, `combined`, `json` or a format of atoms.
    pub(super) fn parse(text: &str) -> Result<Self, FormatError> {
        match text {
            "json" => Ok(Self::Json),
            "common" => parse_parts(COMMON).map(Self::Line),
            "combined" => parse_parts(COMBINED).map(Self::Line),
            text => parse_parts(text).map(Self::Line),
        }
    }

    /// Returns the format for Python's operator `%` with a mapping, in which each atom is text. The line of `json` is the
    /// entry `json`.
    pub(super) fn for_python(&self) -> String {
        let Self::Line(parts) = self else { return "%(json)s".to_owned() };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let piece = |part: &Part| match part {
            Part::Text(bytes) => text(bytes).replace('%', "%%"),
            Part::Atom(atom) => {
                let known = ATOMS.iter().find(|(_, known)| known == atom);
                format!("%({})s", known.map_or("", |(name, _)| *name))
            }
            Part::RequestField(name) => format!("%({{{}}}i)s", text(name)),
            Part::ResponseField(name) => format!("%({{{}}}o)s", text(name)),
            Part::Environ(name) => format!("%({{{name}}}e)s"),
        };
        parts.iter().map(piece).collect()
    }

    /// Returns the names of the environ values in the format, each once.
    pub(super) fn environ_names(&self) -> Vec<String> {
        let Self::Line(parts) = self else { return Vec::new() };
        let mut names = Vec::new();
        for part in parts {
            if let Part::Environ(name) = part
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        }
        names
    }
}

fn parse_parts(format: &str) -> Result<Vec<Part>, FormatError> {
    if let Some(position) = format.find(|c: char| c.is_control() && c != '\t') {
        return Err(FormatError::Control { position });
    }
    let mut parts = Vec::new();
    let mut text = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        let (before, after) = rest.split_at(at);
        text.extend_from_slice(before.as_bytes());
        if let Some(tail) = after.strip_prefix("%%") {
            text.push(b'%');
            rest = tail;
            continue;
        }
        let position = format.len() - after.len();
        let (name, tail) = split_atom(after).ok_or(FormatError::LonePercent { position })?;
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(parse_atom(name)?);
        rest = tail;
    }
    text.extend_from_slice(rest.as_bytes());
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

/// Splits `%(name)s…` into `name` and `…`. As in Python, `d` is accepted in place of `s`.
fn split_atom(text: &str) -> Option<(&str, &str)> {
    let (name, tail) = text.strip_prefix("%(")?.split_once(')')?;
    Some((name, tail.strip_prefix(['s', 'd'])?))
}

fn parse_atom(name: &str) -> Result<Part, FormatError> {
    if let Some((_, atom)) = ATOMS.iter().find(|(known, _)| *known == name) {
        return Ok(Part::Atom(*atom));
    }
    let braced = name.strip_prefix('{').and_then(|name| name.rsplit_once('}')).filter(|(name, _)| !name.is_empty());
    match braced {
        Some((name, "i")) => Ok(Part::RequestField(name.to_ascii_lowercase().into_bytes())),
        Some((name, "o")) => Ok(Part::ResponseField(name.to_ascii_lowercase().into_bytes())),
        Some((name, "e")) => Ok(Part::Environ(name.to_owned())),
        _ => Err(FormatError::UnknownAtom { name: name.to_owned() }),
    }
}

fn known_atoms() -> String {
    let names: Vec<_> = ATOMS.iter().map(|(name, _)| *name).collect();
    format!("one of {}, {{header}}i, {{header}}o, {{variable}}e", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(format: &str) -> Vec<Part> {
        match Format::parse(format).unwrap() {
            Format::Line(parts) => parts,
            Format::Json => panic!("{format} is a line"),
        }
    }

    #[test]
    fn format_of_text_and_atoms_is_taken_apart() {
        assert_eq!(
            parts("a %(h)s 100%% %({X-Id}i)s%({ETag}o)s%({wsgi.Multi}e)s %(D)d."),
            [
                Part::Text(b"a ".to_vec()),
                Part::Atom(Atom::Remote),
                Part::Text(b" 100% ".to_vec()),
                Part::RequestField(b"x-id".to_vec()),
                Part::ResponseField(b"etag".to_vec()),
                Part::Environ("wsgi.Multi".to_owned()),
                Part::Text(b" ".to_vec()),
                Part::Atom(Atom::Micros),
                Part::Text(b".".to_vec()),
            ]
        );
    }

    #[test]
    fn format_with_a_name_is_known() {
        assert_eq!(Format::parse("json"), Ok(Format::Json));
        assert_eq!(parts("common"), parts(COMMON));
        let config = crate::config::Config::parse_from(["maypole", "m:app"]).unwrap();
        assert_eq!(parts("combined"), parts(&config.access_logformat));
    }

    #[test]
    fn format_with_an_unknown_atom_names_the_known_ones() {
        for name in ["x", "", "{a}x", "{}i", "{a", "H "] {
            let error = Format::parse(&format!("%(h)s %({name})s")).unwrap_err();
            assert_eq!(error, FormatError::UnknownAtom { name: name.to_owned() });
        }
        let text = Format::parse("%(x)s").unwrap_err().to_string();
        assert!(
            text.starts_with("unknown atom %(x)s in the access log's format: expected one of h, l, u, t, "),
            "{text}"
        );
        assert!(text.ends_with("send, complete, {header}i, {header}o, {variable}e"), "{text}");
    }

    #[test]
    fn format_with_a_lone_percent_says_where() {
        for format in ["ab%", "ab%h", "ab%(h", "ab%(h)", "ab%(h)5s"] {
            assert_eq!(Format::parse(format), Err(FormatError::LonePercent { position: 2 }), "{format}");
        }
    }

    #[test]
    fn format_of_several_lines_is_refused() {
        assert_eq!(Format::parse("a\n%(h)s"), Err(FormatError::Control { position: 1 }));
    }

    #[test]
    fn format_for_python_has_the_same_atoms() {
        let format = |text| Format::parse(text).unwrap().for_python();
        assert_eq!(format(COMBINED), COMBINED);
        assert_eq!(
            format("100%% %(D)d %({X-Id}i)s %({Etag}o)s %({wsgi.a}e)s"),
            "100%% %(D)s %({x-id}i)s %({etag}o)s %({wsgi.a}e)s"
        );
        assert_eq!(format("json"), "%(json)s");
    }

    #[test]
    fn environ_names_are_listed_once() {
        let format = Format::parse("%({A}e)s %({b}e)s %({A}e)s %({c}i)s").unwrap();
        assert_eq!(format.environ_names(), ["A", "b"]);
    }
}
