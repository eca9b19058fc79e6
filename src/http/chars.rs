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

fn classes_of(byte: u8) -> u8 {
    // An index of type u8 is always in range, so the compiler drops the check.
    CLASSES.get(usize::from(byte)).copied().unwrap_or_default()
}

fn has(byte: u8, class: u8) -> bool {
    classes_of(byte) & class != 0
}

/// Returns whether all bytes are in a class. Looks at four bytes before it branches.
#[inline]
fn all_have(bytes: &[u8], class: u8) -> bool {
    let (fours, rest) = bytes.as_chunks::<4>();
    let of_four = |&[a, b, c, d]: &[u8; 4]| classes_of(a) & classes_of(b) & classes_of(c) & classes_of(d) & class != 0;
    fours.iter().all(of_four) && rest.iter().all(|&byte| has(byte, class))
}

/// `tchar` (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    has(byte, TOKEN)
}

/// `token` (RFC 9110 §5.6.2).
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all_have(bytes, TOKEN)
}

/// A byte of a field value: `field-vchar`, SP, HTAB (RFC 9110 §5.5).
pub(super) fn is_field_value_byte(byte: u8) -> bool {
    has(byte, FIELD_VALUE)
}

/// A field value without CR, LF, NUL, DEL and the other controls (RFC 9110 §5.5).
pub(super) fn is_field_value(bytes: &[u8]) -> bool {
    let (eights, rest) = bytes.as_chunks::<8>();
    let plain = |eight: &[u8; 8]| is_free_of_controls(u64::from_ne_bytes(*eight)) || all_have(eight, FIELD_VALUE);
    eights.iter().all(plain) && all_have(rest, FIELD_VALUE)
}

/// Returns whether none of eight bytes is below 0x20 or 0x7F. If a byte is below 0x20, the subtraction borrows from its
/// highest bit, which is 0 in the byte itself.
#[inline]
fn is_free_of_controls(eight: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGHEST: u64 = 0x80 * ONES;
    let deletes = eight ^ (0x7F * ONES);
    let below_space = eight.wrapping_sub(0x20 * ONES) & !eight;
    let is_delete = deletes.wrapping_sub(ONES) & !deletes;
    (below_space | is_delete) & HIGHEST == 0
}

/// Returns whether a name is `usual` (ASCII case ignored). It mostly is in the same case, too.
#[inline]
pub(super) fn is_name<const N: usize>(name: &[u8], usual: &[u8; N]) -> bool {
    name == usual || name.eq_ignore_ascii_case(usual)
}

/// Visible ASCII without `#`.
pub(super) fn is_target(bytes: &[u8]) -> bool {
    all_have(bytes, TARGET)
}

/// `unreserved` or `sub-delims` (RFC 3986 §3.2.2).
pub(super) fn is_reg_name_byte(byte: u8) -> bool {
    has(byte, REG_NAME)
}

/// Bytes that are all `unreserved` or `sub-delims`.
pub(super) fn is_reg_name(bytes: &[u8]) -> bool {
    all_have(bytes, REG_NAME)
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
    use proptest::collection::vec;
    use proptest::prelude::*;

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
    fn field_value_and_token_every_byte_at_every_place() {
        for byte in 0..=255 {
            for length in 1..=17 {
                for at in 0..length {
                    let mut value = vec![if byte % 2 == 0 { b'a' } else { b'\t' }; length];
                    *value.get_mut(at).expect("below the length") = byte;
                    assert_eq!(is_field_value(&value), is_field_value_byte(byte), "{value:?}");
                    value.fill(b'a');
                    *value.get_mut(at).expect("below the length") = byte;
                    assert_eq!(is_token(&value), is_token_byte(byte), "{value:?}");
                }
            }
        }
        assert!(is_field_value(b"") && is_field_value(&[0xFF; 16]));
    }

    proptest! {
        #[test]
        fn bytes_together_are_in_a_class_if_each_is(plain in vec(0x21_u8..0x7F, 0..40), bytes in vec(any::<u8>(), 0..4)) {
            for bytes in [[&plain[..], &bytes].concat(), [&bytes[..], &plain].concat()] {
                let each = |class| bytes.iter().all(|&byte| has(byte, class));
                prop_assert_eq!(is_field_value(&bytes), each(FIELD_VALUE));
                prop_assert_eq!(is_token(&bytes), each(TOKEN) && !bytes.is_empty());
                prop_assert_eq!(is_target(&bytes), each(TARGET));
                prop_assert_eq!(is_reg_name(&bytes), each(REG_NAME));
            }
        }
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
