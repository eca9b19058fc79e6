//! Text inside HTML.
//!
//! *Runs on*: any thread. *Invariants*: what `escape` returns is text in HTML, and no markup.

/// Replaces the characters that have a meaning in HTML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Puts parts in the places of a frame that have their names, such as `{title}`. A part may contain such a name itself,
/// so each place is replaced once, from left to right.
pub fn fill(frame: &str, parts: &[(&str, &str)]) -> String {
    let (mut page, mut rest) = (String::with_capacity(frame.len()), frame);
    while let Some(at) = rest.find('{') {
        let (before, after) = rest.split_at(at);
        page.push_str(before);
        let part = parts.iter().find(|(name, _)| after.starts_with(name));
        let (name, value) = part.unwrap_or(&("{", "{"));
        page.push_str(value);
        rest = &after[name.len()..];
    }
    page + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_that_has_the_name_of_a_place_stays() {
        assert_eq!(fill("<{a}> { {b}{a}", &[("{a}", "{b}"), ("{b}", "1")]), "<{b}> { 1{b}");
        assert_eq!(escape("a & '<b>\"'"), "a &amp; &#39;&lt;b&gt;&quot;&#39;");
    }
}
