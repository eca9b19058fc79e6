//! The character classes of RFC 9110 §5.6, RFC 9112 §7.1.1 and RFC 3986, one table look-up each.

const TOKEN: u8 = 1;
const FIELD_VALUE: u8 = 1 << 1;
const TARGET: u8 = 1 << 2;
const REG_NAME: u8 = 1 << 3;
const QUOTED_TEXT: u8 = 1 << 4;

static CLASSES: [u8; 256] = classes();

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "evaluated by the compiler only")]
#[allow(clippy::cast_possible_truncation, reason = "the index is below 256")]
const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let byte = index as u8;
        let alphanumeric = byte.is_ascii_alphanumeric();
        // RFC 9110 §5.6.2: tchar.
        if alphanumeric || is_one_of(byte, b"!#$%&'*+-.^_`|~") {
            table[index] |= TOKEN;
        }
        // RFC 9110 §5.5: field-vchar, SP, HTAB; obs-text is kept as opaque data.
        if byte == b'\t' || (byte >= 0x20 && byte != 0x7F) {
            table[index] |= FIELD_VALUE;
        }
        // RFC 3986 allows fewer characters. Others that clients send unencoded, such as `|` and `"`, pass unchanged.
        if byte > 0x20 && byte < 0x7F && byte != b'#' {
            table[index] |= TARGET;
        }
        // RFC 3986 §3.2.2: unreserved and sub-delims; the percent sign is checked separately.
        if alphanumeric || is_one_of(byte, b"-._~!$&'()*+,;=") {
            table[index] |= REG_NAME;
        }
        // RFC 9110 §5.6.4: qdtext.
        if table[index] & FIELD_VALUE != 0 && byte != b'"' && byte != b'\\' {
            table[index] |= QUOTED_TEXT;
        }
        index += 1;
    }
    table
}

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "evaluated by the compiler only")]
const fn is_one_of(byte: u8, set: &[u8]) -> bool {
    let mut index = 0;
    while index < set.len() {
        if set[index] == byte {
            return true;
        }
        index += 1;
    }
    false
}

fn has(byte: u8, class: u8) -> bool {
    // An index of type u8 is always in range, so the compiler drops the check.
    CLASSES.get(usize::from(byte)).is_some_and(|classes| classes & class != 0)
}

/// `tchar` (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    has(byte, TOKEN)
}

/// `token` (RFC 9110 §5.6.2).
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| has(byte, TOKEN))
}

/// A byte of a field value: `field-vchar`, SP, HTAB (RFC 9110 §5.5).
pub(super) fn is_field_value_byte(byte: u8) -> bool {
    has(byte, FIELD_VALUE)
}

/// A field value without CR, LF, NUL, DEL and the other controls (RFC 9110 §5.5).
pub(super) fn is_field_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| has(byte, FIELD_VALUE))
}

/// Visible ASCII without `#`.
pub(super) fn is_target(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| has(byte, TARGET))
}

/// `unreserved` or `sub-delims` (RFC 3986 §3.2.2).
pub(super) fn is_reg_name_byte(byte: u8) -> bool {
    has(byte, REG_NAME)
}

/// `unreserved` (RFC 3986 §2.3).
pub(super) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `qdtext` (RFC 9110 §5.6.4).
pub(super) fn is_quoted_text_byte(byte: u8) -> bool {
    has(byte, QUOTED_TEXT)
}

/// Removes SP and HTAB at both ends (RFC 9110 §5.6.3). HTTP has no other white space.
pub(super) fn trim_white_space(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Returns the elements of a comma-separated list, without empty ones (RFC 9110 §5.6.1.2).
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim_white_space).filter(|element| !element.is_empty())
}

/// The reason why bytes are not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DecimalError {
    /// They are empty, or not all of them are digits.
    NotDigits,
    /// The number does not fit 64 bits.
    TooLarge,
}

/// Reads `1*DIGIT` as a number.
pub(super) fn decimal(bytes: &[u8]) -> Result<u64, DecimalError> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return Err(DecimalError::NotDigits);
    }
    bytes
        .iter()
        .try_fold(0_u64, |value, &byte| value.checked_mul(10)?.checked_add(u64::from(byte.wrapping_sub(b'0'))))
        .ok_or(DecimalError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_every_byte_as_the_rfc_lists() {
        let accepted: Vec<u8> = (0..=255).filter(|&byte| is_token_byte(byte)).collect();
        let mut expected = b"!#$%&'*+-.^_`|~".to_vec();
        expected.extend(b'0'..=b'9');
        expected.extend(b'A'..=b'Z');
        expected.extend(b'a'..=b'z');
        expected.sort_unstable();
        assert_eq!(accepted, expected);
        assert!(!is_token(b""));
    }

    #[test]
    fn field_value_controls_refused() {
        let refused: Vec<u8> = (0..=255).filter(|&byte| !is_field_value_byte(byte)).collect();
        let expected: Vec<u8> = (0..0x20).filter(|&byte| byte != b'\t').chain([0x7F]).collect();
        assert_eq!(refused, expected);
    }

    #[test]
    fn decimal_anything_but_digits_refused() {
        for bytes in [&b""[..], b"+3", b" 3", b"3 ", b"3_0", b"0x3", b"-0", b"3.0", b"\xb2"] {
            assert_eq!(decimal(bytes), Err(DecimalError::NotDigits), "{bytes:?}");
        }
        assert_eq!(decimal(b"0010"), Ok(10));
        assert_eq!(decimal(b"18446744073709551615"), Ok(u64::MAX));
        assert_eq!(decimal(b"18446744073709551616"), Err(DecimalError::TooLarge));
    }

    #[test]
    fn trim_only_space_and_tab_are_white_space() {
        assert_eq!(trim_white_space(b"\t a b \t"), b"a b");
        assert_eq!(trim_white_space(b"\x0ba\x0c"), b"\x0ba\x0c");
    }
}
