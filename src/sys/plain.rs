//! Error messages for users, without the number that Rust appends to the system's message.

use std::error::Error;
use std::io;

/// The text that the standard library puts before the number of a system error.
const SUFFIX: &str = " (os error ";

/// Returns the messages of an error and of its causes, joined by colons: `cannot bind 127.0.0.1:80: Permission denied`.
/// For an `io::Error` this is the system's message (strerror(3)) without its number. If an error's message already ends
/// with that of its cause, the cause is not repeated.
pub fn plain(error: &(dyn Error + 'static)) -> String {
    let mut text = own_text(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = own_text(error);
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// Returns an error's own message.
fn own_text(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    match error.downcast_ref::<io::Error>() {
        Some(error) => without_number(text, error.raw_os_error()),
        None => text,
    }
}

fn without_number(text: String, number: Option<i32>) -> String {
    let Some(number) = number else { return text };
    match text.strip_suffix(&format!("{SUFFIX}{number})")) {
        Some(words) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot look: {}", plain(.0))]
    struct Repeats(#[source] io::Error);

    #[test]
    fn error_of_the_system_is_said_without_its_number() {
        let error = io::Error::from_raw_os_error(libc::EADDRINUSE);
        assert_eq!(plain(&error), "Address already in use");
    }

    #[test]
    fn causes_follow_after_colons() {
        let error = anyhow::Error::from(io::Error::from_raw_os_error(libc::EACCES)).context("cannot bind 127.0.0.1:80");
        assert_eq!(plain(error.as_ref()), "cannot bind 127.0.0.1:80: Permission denied");
    }

    #[test]
    fn cause_that_is_in_the_text_is_not_repeated() {
        assert_eq!(
            plain(&Repeats(io::Error::from_raw_os_error(libc::ENOENT))),
            "cannot look: No such file or directory"
        );
    }

    #[test]
    fn words_of_others_stay_as_they_are() {
        assert_eq!(plain(&io::Error::other("their words (os error 2)")), "their words (os error 2)");
    }
}
