//! The elements of `Forwarded`: what one proxy says (RFC 7239 §4).

/// What one proxy says of the request that it received.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// Its peer.
    pub(super) node: Option<Vec<u8>>,
    pub(super) scheme: Option<Vec<u8>>,
    pub(super) host: Option<Vec<u8>>,
}

impl Element {
    /// Reads an element: pairs of a name and a value, with `;` between them. Returns `None` if it is malformed, also if
    /// a name is repeated.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut element = Self::default();
        let mut has_by = false;
        let mut rest = text;
        loop {
            let (name, value, after) = pair(rest)?;
            let is_new = match name.to_ascii_lowercase().as_slice() {
                b"for" => element.node.replace(value).is_none(),
                b"proto" => element.scheme.replace(value).is_none(),
                b"host" => element.host.replace(value).is_none(),
                b"by" => !std::mem::replace(&mut has_by, true),
                _ => true,
            };
            match after {
                _ if !is_new => return None,
                [] => return Some(element),
                [b';', after @ ..] => rest = after,
                _ => return None,
            }
        }
    }
}

/// Reads `token "=" ( token / quoted-string )`. Returns the name, the value without its quotes, and what follows.
fn pair(text: &[u8]) -> Option<(&[u8], Vec<u8>, &[u8])> {
    let text = text.trim_ascii_start();
    let (name, rest) = text.split_at_checked(text.iter().position(|&byte| byte == b'=')?)?;
    let rest = rest.get(1..)?;
    if name.is_empty() || !name.iter().all(|&byte| is_token_byte(byte)) {
        return None;
    }
    if let [b'"', quoted @ ..] = rest {
        let (value, after) = unquoted(quoted)?;
        return Some((name, value, after.trim_ascii_start()));
    }
    let end = rest.iter().position(|&byte| !is_value_byte(byte)).unwrap_or(rest.len());
    let (value, after) = rest.split_at_checked(end)?;
    (!value.is_empty()).then(|| (name, value.to_vec(), after.trim_ascii_start()))
}

/// Reads the rest of a quoted string. Returns its text, and what follows the closing quote (RFC 9110 §5.6.4).
fn unquoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return None,
            [b'"', after @ ..] => return Some((value, after)),
            [b'\\', byte, after @ ..] | [byte, after @ ..] => {
                value.push(*byte);
                after
            }
        };
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A value without quotes is a token. Proxies also write addresses with a port and in brackets without quotes.
fn is_value_byte(byte: u8) -> bool {
    is_token_byte(byte) || matches!(byte, b':' | b'[' | b']')
}

/// Returns the elements of a list from the last to the first. A comma within quotes does not separate. Reading from the
/// end, a quote that a client has left open does not reach the elements that proxies have added after it.
pub(super) fn from_the_end(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(list);
    std::iter::from_fn(move || {
        let list = rest?;
        let mut is_quoted = false;
        let comma = list.iter().rposition(|&byte| {
            is_quoted ^= byte == b'"';
            byte == b',' && !is_quoted
        });
        let (before, element) = match comma {
            Some(comma) => (list.get(..comma), list.get(comma + 1..)?),
            None => (None, list),
        };
        rest = before;
        Some(element.trim_ascii())
    })
    .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(node: Option<&str>, scheme: Option<&str>, host: Option<&str>) -> Element {
        let owned = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
        Element { node: owned(node), scheme: owned(scheme), host: owned(host) }
    }

    #[test]
    fn elements_are_read() {
        for (text, expected) in [
            ("for=1.2.3.4", element(Some("1.2.3.4"), None, None)),
            ("For=\"[2001:db8::1]:4711\"", element(Some("[2001:db8::1]:4711"), None, None)),
            ("for=1.2.3.4;proto=https;by=203.0.113.43", element(Some("1.2.3.4"), Some("https"), None)),
            ("for=1.2.3.4 ; host=\"a:80\" ; secret=x", element(Some("1.2.3.4"), None, Some("a:80"))),
            ("proto=http", element(None, Some("http"), None)),
            ("for=\"_a\\\"b\"", element(Some("_a\"b"), None, None)),
            ("for=[::1]:80", element(Some("[::1]:80"), None, None)),
        ] {
            assert_eq!(Element::parse(text.as_bytes()), Some(expected), "{text}");
        }
        for text in [
            "",
            "for",
            "for=",
            "=x",
            "for=1.2.3.4;",
            "for=1;for=2",
            "by=1;by=2",
            "for=\"1",
            "for=1 2",
            "f r=1",
            "for=a/b",
        ] {
            assert_eq!(Element::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn elements_come_from_the_end() {
        let of = |list: &'static str| {
            from_the_end(list.as_bytes()).map(|it| String::from_utf8_lossy(it).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(of("a, b ,c"), ["c", "b", "a"]);
        assert_eq!(of("a,, ,b,"), ["b", "a"]);
        assert_eq!(of("a=\"x,y\", b"), ["b", "a=\"x,y\""]);
        assert_eq!(of("a=\", b"), ["b", "a=\""]);
        assert!(of("").is_empty() && of(" , ").is_empty());
    }
}
