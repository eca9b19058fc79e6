//! The names of the fields in which proxies name the client and its URL (RFC 7239; `X-Forwarded-*` by custom).

/// The fields of one custom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `X-Forwarded-For` and all other names that begin so, and `X-Real-IP`.
    XForwarded,
}

/// Returns the family of a field name (ASCII case ignored), if it has one.
#[inline]
pub fn family_of(name: &[u8]) -> Option<Family> {
    let begins_with = |prefix: &[u8]| name.get(..prefix.len()).is_some_and(|part| part.eq_ignore_ascii_case(prefix));
    match name.first()? {
        b'X' | b'x' if begins_with(b"x-forwarded-") || name.eq_ignore_ascii_case(b"x-real-ip") => {
            Some(Family::XForwarded)
        }
        b'F' | b'f' if name.eq_ignore_ascii_case(b"forwarded") => Some(Family::Forwarded),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_family() {
        for name in ["X-Forwarded-For", "x-forwarded-proto", "X-FORWARDED-SSL", "X-Real-IP", "x-forwarded-"] {
            assert_eq!(family_of(name.as_bytes()), Some(Family::XForwarded), "{name}");
        }
        assert_eq!(family_of(b"Forwarded"), Some(Family::Forwarded));
        for name in ["", "x", "X-Forwarded", "X_Forwarded_For", "Forwarded-For", "Forwards", "X-Real-IPs", "From"] {
            assert_eq!(family_of(name.as_bytes()), None, "{name}");
        }
    }
}
