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

/// Returns whether an escaped path is `prefix` or below it: `/shop` and `/%73hop/cart` are below `/shop`, `/shopping` is
/// not. `prefix` is decoded and has no slash at its end. An escaped slash does not separate segments.
pub fn is_below(path: &[u8], prefix: &[u8]) -> bool {
    let mut rest = path;
    for &wanted in prefix {
        match first(rest) {
            Some(Character { byte, is_escaped, after }) if byte == wanted && !(is_escaped && byte == b'/') => {
                rest = after;
            }
            _ => return false,
        }
    }
    matches!(rest, [] | [b'/', ..])
}

/// A character at the beginning of a path.
struct Character<'a> {
    byte: u8,
    is_escaped: bool,
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
    }
}
