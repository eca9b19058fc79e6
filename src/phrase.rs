//! Parts of sentences for log lines: a number with its noun, a length of time, an excerpt of a client's data.
//!
//! *Runs on*: any thread. *Invariants*: no text is in Rust's debug format.

use std::time::Duration;

/// Returns a number and its noun: `1 request`, `2 requests`, `2 child processes`.
pub fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    let ending = match (number, noun.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{number} {noun}{ending}")
}

/// Returns a length of time for a sentence: `30 s`, `1.5 s`, `200 ms`.
pub fn seconds(time: Duration) -> String {
    let millis = time.as_millis();
    match millis {
        0 => "0 s".to_owned(),
        1..1000 => format!("{millis} ms"),
        1000..10_000 => format!("{:.1} s", time.as_secs_f64()).replace(".0 s", " s"),
        _ => format!("{} s", (millis + 500) / 1000),
    }
}

/// The most bytes of a client's data in a log line.
const EXCERPT_BYTES_MAX: usize = 200;

/// Returns data from a client, such as a request line: escaped, and cut if it is long.
pub fn excerpt(bytes: &[u8]) -> String {
    match bytes.get(..EXCERPT_BYTES_MAX) {
        Some(start) if bytes.len() > EXCERPT_BYTES_MAX => format!("{}…", start.escape_ascii()),
        _ => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_noun_agree() {
        let nouns = [(0, "request"), (1, "request"), (2, "request"), (1, "child process"), (3, "child process")];
        let texts = nouns.map(|(number, noun)| count(number, noun));
        assert_eq!(texts, ["0 requests", "1 request", "2 requests", "1 child process", "3 child processes"]);
    }

    #[test]
    fn length_of_time_has_the_precision_that_a_reader_needs() {
        let texts = [0, 7, 999, 1000, 1500, 9999, 30_000, 75_400].map(|millis| seconds(Duration::from_millis(millis)));
        assert_eq!(texts, ["0 s", "7 ms", "999 ms", "1 s", "1.5 s", "10 s", "30 s", "75 s"]);
    }

    #[test]
    fn excerpt_is_escaped_and_cut() {
        assert_eq!(excerpt(b"GET /a\x1b\" HTTP/1.1"), r#"GET /a\x1b\" HTTP/1.1"#);
        assert_eq!(excerpt(&[b'a'; 200]), "a".repeat(200));
        assert_eq!(excerpt(&[b'a'; 201]), "a".repeat(200) + "…");
    }
}
