//! Finds the name that the user probably meant by a mistyped one.
//!
//! *Owns*: nothing. Only this module decides how similar two names must be, for options, variables and keywords. *Runs
//! on*: the thread that reads settings, after it has found an unknown name. *Source*: optimal string alignment
//! (insertions, deletions, replacements and swaps of neighbours), by `strsim`.

/// A mistyped name differs from the right one by at most one character in this many.
const CHARACTERS_PER_MISTAKE: usize = 4;

/// Returns the candidate that `name` was probably meant to be, or `None` if no candidate is similar enough.
///
/// The comparison ignores case, `-` and `_`. A candidate is similar if few characters differ, or if `name` is its
/// beginning or its end and at least half as long. If two candidates are equally similar, neither is returned.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = plain(name);
    if name.is_empty() {
        return None;
    }
    let (mut mistyped, mut cut): (Vec<(usize, &str)>, Vec<&str>) = (Vec::new(), Vec::new());
    for candidate in candidates {
        let known = plain(candidate);
        let mistakes = strsim::osa_distance(&name, &known);
        let mistakes_max = (name.len().max(known.len()) / CHARACTERS_PER_MISTAKE).max(1);
        if mistakes <= mistakes_max && mistakes < known.len() {
            mistyped.push((mistakes, candidate));
        }
        if name.len() * 2 >= known.len() && (known.starts_with(&name) || known.ends_with(&name)) {
            cut.push(candidate);
        }
    }
    let fewest = mistyped.iter().map(|(mistakes, _)| *mistakes).min();
    let mistyped = mistyped.iter().filter(|(mistakes, _)| Some(*mistakes) == fewest).map(|(_, candidate)| *candidate);
    only(mistyped).or_else(|| only(cut))
}

/// Returns the candidate if all candidates are the same.
fn only<'a>(candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut candidates = candidates.into_iter();
    let first = candidates.next()?;
    candidates.all(|other| other == first).then_some(first)
}

/// Returns a name in lower case, without `-` and `_`.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: [&str; 24] = [
        "bind",
        "paste",
        "factory",
        "chdir",
        "threads",
        "pool-size",
        "keep-alive",
        "header-timeout",
        "body-timeout",
        "write-timeout",
        "queue-timeout",
        "graceful-timeout",
        "limit-request-line",
        "limit-request-head",
        "max-body-size",
        "stream-requests",
        "request-buffer",
        "access-logfile",
        "access-logformat",
        "error-logfile",
        "log-level",
        "umask",
        "init",
        "unix-socket-mode",
    ];

    #[test]
    fn nearest_finds_what_was_mistyped() {
        for (given, meant) in [
            ("bnd", "bind"),
            ("keepalive", "keep-alive"),
            ("access-log-format", "access-logformat"),
            ("ACCESS_LOG_FORMAT", "access-logformat"),
            ("POOLSIZE", "pool-size"),
            ("pool_sise", "pool-size"),
            ("thread", "threads"),
            ("thraeds", "threads"),
            ("log-lvl", "log-level"),
            ("graceful-timout", "graceful-timeout"),
            ("max-body", "max-body-size"),
            ("body-size", "max-body-size"),
            ("error-log", "error-logfile"),
        ] {
            assert_eq!(nearest(given, OPTIONS), Some(meant), "{given}");
        }
    }

    #[test]
    fn nearest_of_a_name_that_means_something_else_is_none() {
        for given in [
            "timeout",
            "preload",
            "reload",
            "certfile",
            "keyfile",
            "max-requests",
            "reuse-port",
            "workers",
            "worker-class",
            "limit-request",
            "config",
            "user",
            "name",
            "x",
            "-",
            "",
        ] {
            assert_eq!(nearest(given, OPTIONS), None, "{given}");
        }
    }
}
