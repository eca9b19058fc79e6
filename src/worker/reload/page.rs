//! The response to every request while the code of the application cannot be loaded: its traceback.
//!
//! *Runs on*: an executor thread, with the GIL held. *Invariants*: the text is escaped. The page loads nothing from
//! elsewhere, and its policy permits only its own script and style. *Source*: Content Security Policy Level 3, §2.3.1.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::phrase::html;

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// It asks for the page again, and loads it anew once the mark in the response differs.
const SCRIPT: &str = include_str!("page.js");

/// The hashes of `STYLE` and `SCRIPT`. A test computes them.
const STYLE_HASH: &str = "sha256-nSk97IvUbZjLlVGcANlUQsHZ7OLUl2N+A1f/CNtEBBo=";
const SCRIPT_HASH: &str = "sha256-hWCKSz9+DbLe27DM4ib/ytIJN7ATcFIdCdVEt6o88xA=";

/// The field that tells one traceback from another, for the script.
const MARK: &str = "Maypole-Reload";

/// Why the application cannot be loaded.
#[derive(Debug, Clone)]
pub(super) struct Page {
    title: String,
    text: String,
    mark: String,
}

impl Page {
    /// Makes the page of an error: its title, and the text of a traceback.
    pub(super) fn new(title: &str, text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self { title: title.to_owned(), text: text.to_owned(), mark: format!("{:016x}", hasher.finish()) }
    }

    /// Returns the fields and the body of the response, for a client that accepts these types.
    pub(super) fn response(&self, accept: &str) -> (Vec<(&'static str, String)>, Vec<u8>) {
        let is_html = accept.contains("text/html");
        let (kind, body) = if is_html { ("text/html", self.html()) } else { ("text/plain", self.plain()) };
        let mut fields = vec![
            ("Content-Type", format!("{kind}; charset=utf-8")),
            ("Content-Length", body.len().to_string()),
            ("Cache-Control", "no-store".to_owned()),
            ("X-Content-Type-Options", "nosniff".to_owned()),
            (MARK, self.mark.clone()),
        ];
        if is_html {
            let policy = format!(
                "default-src 'none'; style-src '{STYLE_HASH}'; script-src '{SCRIPT_HASH}'; connect-src 'self'; \
                 base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            );
            fields.push(("Content-Security-Policy", policy));
        }
        (fields, body.into_bytes())
    }

    fn plain(&self) -> String {
        format!("{}\n\n{}\n", self.title, self.text)
    }

    fn html(&self) -> String {
        let hint = "Maypole loads the application anew when a file changes. Then this page reloads.";
        html::fill(
            HTML,
            &[
                ("{title}", &html::escape(&self.title)),
                ("{style}", STYLE),
                ("{text}", &html::escape(&self.text)),
                ("{hint}", hint),
                ("{mark}", &self.mark),
                ("{script}", SCRIPT),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_escapes_the_traceback_and_leaves_its_braces_alone() {
        let page = Page::new("SyntaxError: '<' {script}", "x = {title} < \"a\" & 'b'");
        let (fields, body) = page.response("text/html,*/*;q=0.8");
        let body = String::from_utf8_lossy(&body);
        assert!(body.contains("<h1>SyntaxError: &#39;&lt;&#39; {script}</h1>"), "{body}");
        assert!(body.contains("<pre>x = {title} &lt; &quot;a&quot; &amp; &#39;b&#39;</pre>"), "{body}");
        assert_eq!(body.matches("<script").count(), 1);
        assert!(fields.iter().any(|(name, value)| *name == "Content-Length" && *value == body.len().to_string()));
    }

    #[test]
    fn client_that_does_not_ask_for_html_gets_text() {
        let (fields, body) = Page::new("title", "<text>").response("*/*");
        assert_eq!(String::from_utf8_lossy(&body), "title\n\n<text>\n");
        assert_eq!(fields[0].1, "text/plain; charset=utf-8");
        assert!(fields.iter().all(|(name, _)| *name != "Content-Security-Policy"));
    }
}
