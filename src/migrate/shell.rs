//! Splits the text of a command into words, as a shell does.
//!
//! *Owns*: nothing. *Source*: POSIX.1-2017, "Shell Command Language", 2.2 Quoting. Expansions stay as they are written.

/// Returns the words. Quotes and backslashes are taken away.
pub(super) fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), close) if open == close => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            (_, character) => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        assert_eq!(words(r#" a "b c"  'd "e'\ f "g\"h" "" "#), ["a", "b c", "d \"e f", "g\"h", ""]);
    }
}
