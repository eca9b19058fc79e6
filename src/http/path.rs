//! The path of a request target and its escapes (RFC 3986 §2.1, §3.3).

/// Decodes escapes such as `%41`. A `%` that does not begin an escape is kept.
pub fn percent_decoded(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some(Character { byte, after, .. }) = first(rest) {
        decoded.push(byte);
        rest = after;
    }
    decoded
}

/// Decodes escapes such as `%41`. `None`: a `%` begins none.
pub fn strictly_decoded(path: &[u8]) -> Option<Vec<u8>> {
    characters(path).map(|at| (at.is_escaped || at.byte != b'%').then_some(at.byte)).collect()
}

/// Returns the characters of a path, with its escapes decoded. A `%` that does not begin an escape is a character.
pub fn characters(path: &[u8]) -> impl Iterator<Item = Character<'_>> {
    std::iter::successors(first(path), |at| first(at.after))
}

/// Returns whether an escaped path is `prefix` or below it. See [`below`].
pub fn is_below(path: &[u8], prefix: &[u8]) -> bool {
    below(path, prefix).is_some()
}

/// Returns the rest of an escaped path that is `prefix` or below it: empty, or from its slash on. `/shop` and
/// `/%73hop/cart` are below `/shop`, `/shopping` is not. `prefix` is decoded and has no slash at its end. An escaped
/// slash does not separate segments.
pub fn below<'a>(path: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let mut rest = path;
    for &wanted in prefix {
        let Character { byte, is_escaped, after } = first(rest)?;
        if byte != wanted || (is_escaped && byte == b'/') {
            return None;
        }
        rest = after;
    }
    matches!(rest, [] | [b'/', ..]).then_some(rest)
}

/// A character of a path.
#[derive(Debug, Clone, Copy)]
pub struct Character<'a> {
    /// Its byte, decoded.
    pub byte: u8,
    /// Whether it is written as an escape.
    pub is_escaped: bool,
    /// The path behind it.
    after: &'a [u8],
}

fn first(path: &[u8]) -> Option<Character<'_>> {
    if let [b'%', high, low, after @ ..] = path
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return Some(Character { byte: high << 4 | low, is_escaped: true, after });
    }
    path.split_first().map(|(&byte, after)| Character { byte, is_escaped: false, after })
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| digit.try_into().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_others_kept() {
        for (path, decoded) in
            [("/%41%7e%2F", "/A~/"), ("/%4", "/%4"), ("/%", "/%"), ("/%zz%%41", "/%zz%A"), ("", ""), ("/%2541", "/%41")]
        {
            assert_eq!(String::from_utf8_lossy(&percent_decoded(path.as_bytes())), decoded, "{path}");
        }
    }

    #[test]
    fn escapes_are_decoded_and_no_others_taken() {
        for (path, decoded) in [("a%41%2f", Some("aA/")), ("", Some("")), ("%2541", Some("%41")), ("é", Some("é"))] {
            assert_eq!(strictly_decoded(path.as_bytes()), decoded.map(|text| text.as_bytes().to_vec()), "{path}");
        }
        for path in ["%", "a%4", "%zz", "%+1", "%-1", "% 1", "%u002e", "%%41"] {
            assert_eq!(strictly_decoded(path.as_bytes()), None, "{path}");
        }
    }

    #[test]
    fn path_below_a_prefix() {
        for (path, prefix, expected) in [
            ("/shop", "/shop", true),
            ("/shop/", "/shop", true),
            ("/shop//x", "/shop", true),
            ("/%73h%6Fp/x", "/shop", true),
            ("/shop/../x", "/shop", true),
            ("/shopping", "/shop", false),
            ("/sho", "/shop", false),
            ("/Shop", "/shop", false),
            ("//shop", "/shop", false),
            ("/shop%2Fx", "/shop", false),
            ("%2Fshop/x", "/shop", false),
            ("/a%2Fb/x", "/a/b", false),
            ("/a/b/x", "/a/b", true),
            ("/a//b", "/a/b", false),
            ("/100%25/x", "/100%", true),
            ("/%C3%BCber", "/über", true),
            ("/shop?", "/shop", false),
            ("", "/shop", false),
            ("*", "/shop", false),
            ("/anything", "", true),
            ("", "", true),
        ] {
            assert_eq!(is_below(path.as_bytes(), prefix.as_bytes()), expected, "{path} below {prefix}");
        }
        for (path, rest) in [("/%73hop/a%2Fb", "/a%2Fb"), ("/shop", ""), ("/shop/", "/")] {
            assert_eq!(below(path.as_bytes(), b"/shop"), Some(rest.as_bytes()), "{path}");
        }
    }
}
