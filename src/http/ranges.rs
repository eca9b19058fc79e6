//! The parts of a representation that a client asks for: `Range` (RFC 9110 §14).
//!
//! *Runs on*: the connection's coroutine. *Invariants*: all parts lie within the representation, and together they are
//! no longer than it is. So a client cannot get more bytes by asking for parts that overlap.

use std::ops::Range;

use super::chars::{decimal, list};

/// The most parts of one response. A client that asks for more gets the whole (RFC 9110 §17.15).
const PARTS_MAX: usize = 16;

/// What a `Range` field asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranges {
    /// The whole representation: the field is malformed, has another unit, or asks for too much.
    Whole,
    /// These parts, in the order in which the client has named them.
    Parts(Vec<Range<u64>>),
    /// Nothing that the representation has.
    Unsatisfiable,
}

impl Ranges {
    /// Reads the value of a `Range` field for a representation of this length in bytes.
    pub fn of(value: &[u8], length: u64) -> Self {
        let Some(specs) = specs_of(value) else { return Self::Whole };
        let mut parts = Vec::new();
        let mut is_empty = true;
        for spec in list(specs) {
            is_empty = false;
            match Spec::of(spec, length) {
                Spec::Part(part) => parts.push(part),
                Spec::Missing => {}
                Spec::Malformed => return Self::Whole,
            }
        }
        let bytes = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.end.saturating_sub(part.start)));
        match parts.len() {
            0 if !is_empty => Self::Unsatisfiable,
            1..=PARTS_MAX if bytes <= length => Self::Parts(parts),
            _ => Self::Whole,
        }
    }
}

/// Returns the text after the unit, which must be `bytes`.
fn specs_of(value: &[u8]) -> Option<&[u8]> {
    let end = value.iter().position(|byte| *byte == b'=')?;
    let (unit, rest) = value.split_at_checked(end)?;
    unit.eq_ignore_ascii_case(b"bytes").then(|| rest.get(1..))?
}

/// What one element of the field means.
enum Spec {
    Part(Range<u64>),
    /// The representation does not have this part.
    Missing,
    Malformed,
}

impl Spec {
    fn of(text: &[u8], length: u64) -> Self {
        let Some((start, end)) = Self::bounds(text, length) else { return Self::Malformed };
        if start < end { Self::Part(start..end) } else { Self::Missing }
    }

    /// Returns where the part begins, and where it or the representation ends.
    fn bounds(text: &[u8], length: u64) -> Option<(u64, u64)> {
        let dash = text.iter().position(|byte| *byte == b'-')?;
        let (first, rest) = text.split_at_checked(dash)?;
        let last = rest.get(1..)?;
        if first.is_empty() {
            return Some((length.saturating_sub(decimal(last).ok()?), length));
        }
        let start = decimal(first).ok()?;
        if last.is_empty() {
            return Some((start, length));
        }
        let last = decimal(last).ok().filter(|last| *last >= start)?;
        Some((start, last.saturating_add(1).min(length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(of: &[(u64, u64)]) -> Ranges {
        Ranges::Parts(of.iter().map(|&(start, end)| start..end).collect())
    }

    #[test]
    fn parts_of_the_standard_are_found() {
        // RFC 9110 §14.1.2: the examples for a representation of 10,000 bytes.
        for (value, expected) in [
            ("bytes=0-499", parts(&[(0, 500)])),
            ("bytes=500-999", parts(&[(500, 1000)])),
            ("bytes=-500", parts(&[(9500, 10_000)])),
            ("bytes=9500-", parts(&[(9500, 10_000)])),
            ("bytes=0-0,-1", parts(&[(0, 1), (9999, 10_000)])),
            ("bytes= 0-999, 4500-5499, -1000", parts(&[(0, 1000), (4500, 5500), (9000, 10_000)])),
            ("BYTES=500-600,601-999", parts(&[(500, 601), (601, 1000)])),
        ] {
            assert_eq!(Ranges::of(value.as_bytes(), 10_000), expected, "{value}");
        }
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        for (value, expected) in [
            ("bytes=5-100", parts(&[(5, 10)])),
            ("bytes=-100", parts(&[(0, 10)])),
            ("bytes=0-18446744073709551615", parts(&[(0, 10)])),
            ("bytes=2-3,50-60", parts(&[(2, 4)])),
            ("bytes=10-", Ranges::Unsatisfiable),
            ("bytes=10-20,30-40", Ranges::Unsatisfiable),
            ("bytes=-0", Ranges::Unsatisfiable),
        ] {
            assert_eq!(Ranges::of(value.as_bytes(), 10), expected, "{value}");
        }
        assert_eq!(Ranges::of(b"bytes=-5", 0), Ranges::Unsatisfiable);
        assert_eq!(Ranges::of(b"bytes=0-", 0), Ranges::Unsatisfiable);
    }

    #[test]
    fn field_that_is_malformed_or_greedy_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=5-4",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=0x1-2",
            "lines=0-1",
            "bytes =0-1",
            "bytes=0-,0-",
            "bytes=0-5,5-9,0-1",
            "bytes=1-2;3-4",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(Ranges::of(value.as_bytes(), 10), Ranges::Whole, "{value}");
        }
        let many = format!("bytes={}", (0..17).map(|n| format!("{n}-{n}")).collect::<Vec<_>>().join(","));
        assert_eq!(Ranges::of(many.as_bytes(), 100), Ranges::Whole);
    }
}
