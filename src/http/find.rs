//! Finds a byte in the short pieces of a head, eight bytes at once.
//!
//! *Runs on*: the calling thread. Most lines and words are so short that this costs less than a search by vectors, which
//! first chooses among its versions. Beyond `SHORT_BYTES` the vectors win.

/// The length in bytes up to which eight bytes at once are looked at.
const SHORT_BYTES: usize = 64;

const ONES: u64 = u64::MAX / 255;

/// Returns the place of the first `byte`.
#[inline]
pub fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    first(bytes, |eight| below(eight ^ spread(byte), 1), |other| other == byte, |far| memchr::memchr(byte, far))
}

/// Returns the place of the first CR or LF. A head hardly ever has other bytes below them.
pub(super) fn find_line_end(bytes: &[u8]) -> Option<usize> {
    let is_control = |byte| byte <= b'\r';
    let found = first(bytes, |eight| below(eight, b'\r' + 1), is_control, |far| memchr::memchr2(b'\r', b'\n', far))?;
    match bytes.get(found) {
        Some(b'\r' | b'\n') | None => Some(found),
        // A tab, or a control that no head may have.
        Some(_) => {
            let after = found.wrapping_add(1);
            let further = memchr::memchr2(b'\r', b'\n', bytes.get(after..)?)?;
            Some(after.wrapping_add(further))
        }
    }
}

/// Returns eight times the same byte.
const fn spread(byte: u8) -> u64 {
    // u64::from is not const.
    (byte as u64).wrapping_mul(ONES)
}

/// Marks the bytes below `limit`, which is at most 0x80, in their highest bits. A byte behind such a one, towards the
/// end, may be marked wrongly.
#[inline]
fn below(eight: u64, limit: u8) -> u64 {
    eight.wrapping_sub(spread(limit)) & !eight & spread(0x80)
}

#[inline]
fn first(
    bytes: &[u8],
    marks: impl Fn(u64) -> u64,
    is_wanted: impl Fn(u8) -> bool,
    find_far: impl FnOnce(&[u8]) -> Option<usize>,
) -> Option<usize> {
    let (near, far) = bytes.split_at_checked(SHORT_BYTES).unwrap_or((bytes, &[]));
    let (eights, rest) = near.as_chunks::<8>();
    let mut at: usize = 0;
    for eight in eights {
        let found = marks(u64::from_le_bytes(*eight));
        if found != 0 {
            return Some(at.saturating_add((found.trailing_zeros() / 8) as usize));
        }
        at = at.saturating_add(8);
    }
    let found = if far.is_empty() { rest.iter().position(|&byte| is_wanted(byte)) } else { find_far(far) };
    found.map(|further| at.saturating_add(further))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Bytes beside those that are searched, at the limits of the arithmetic, and any others.
    fn byte() -> impl Strategy<Value = u8> {
        prop_oneof![proptest::sample::select(&b"\0\x01\t\n\x0b\r\x0e \x7f\x80\x81\x8a\x8d\xff"[..]), any::<u8>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn search_of_each_byte_finds_the_same_place(bytes in vec(byte(), 0..160), start in 0_usize..9, wanted in byte()) {
            let part = bytes.get(start..).unwrap_or_default();
            prop_assert_eq!(find(wanted, part), part.iter().position(|&byte| byte == wanted));
        }

        #[test]
        fn search_of_each_byte_finds_the_same_line_end(
            plain in vec(prop_oneof![8 => 0x20_u8.., 1 => Just(b'\t')], 0..160),
            bytes in vec(byte(), 0..20),
            start in 0_usize..9,
        ) {
            let all = [plain, bytes].concat();
            let part = all.get(start..).unwrap_or_default();
            prop_assert_eq!(find_line_end(part), part.iter().position(|byte| matches!(byte, b'\r' | b'\n')));
        }
    }

    #[test]
    fn first_wanted_byte_is_found_at_every_place() {
        for length in 0..80 {
            let plain: Vec<u8> = (0..=255).filter(|byte| !matches!(byte, b'\r' | b'\n')).cycle().take(length).collect();
            assert_eq!((find_line_end(&plain), find(b'\n', &plain)), (None, None));
            for at in 0..length {
                for (first, others) in [(b'\r', b'\n'), (b'\n', b'\r'), (b'\r', b'\x0e'), (b'\n', b'\x0b')] {
                    let mut bytes = plain.clone();
                    bytes.iter_mut().skip(at).for_each(|byte| *byte = others);
                    bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = first);
                    assert_eq!((find_line_end(&bytes), find(first, &bytes)), (Some(at), Some(at)), "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn bytes_beside_the_wanted_one_do_not_count() {
        for byte in 0..=255_u8 {
            let others: Vec<u8> = (0..=255).filter(|other| *other != byte).chain([byte.wrapping_add(1); 9]).collect();
            assert!(others.windows(9).all(|window| find(byte, window).is_none()));
        }
    }
}
