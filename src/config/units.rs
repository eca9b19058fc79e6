//! Reads and prints sizes, durations and counts in settings.
//!
//! *Owns*: nothing; values in, values or a sentence out. *Runs on*: the main thread, while the settings are read.
//! *Invariants*: a printed value reads back as the same value; an error message says what would be valid.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// One KiB, in bytes.
pub const KIB: u64 = 1024;
/// One MiB, in bytes.
pub const MIB: u64 = 1024 * KIB;
/// One GiB, in bytes.
pub const GIB: u64 = 1024 * MIB;
/// One TiB, in bytes.
pub const TIB: u64 = 1024 * GIB;

/// The largest size that can be given: the largest offset in a file.
const SIZE_MAX: u64 = i64::MAX as u64;

/// The longest duration that can be given: one wait in the event loop may not be longer than 24.8 days.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 24 * 60 * 60);

/// The size units that are printed, from large to small.
const SIZE_UNITS: [(&str, u64); 4] = [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];

/// The duration units that are printed, in milliseconds, from large to small.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 24 * 60 * 60 * 1000), ("h", 60 * 60 * 1000), ("m", 60 * 1000), ("s", 1000), ("ms", 1)];

impl ByteSize {
    /// Returns the size as a length in memory. A larger size becomes `usize::MAX`.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZE_UNITS.iter().find(|(_, bytes)| self.0 != 0 && self.0.is_multiple_of(*bytes)) {
            Some((name, bytes)) => write!(f, "{}{name}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Reads a size: `8190`, `64k`, `64KiB`, `1.5M`, `1GiB`. Every unit is a power of 1024: `k`, `kB` and `KiB` are the
/// same.
pub(super) fn parse_size(text: &str) -> Result<ByteSize, String> {
    let (number, unit) = split_unit(text);
    let bytes = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" | "kb" | "kib" => Some(KIB),
        "m" | "mb" | "mib" => Some(MIB),
        "g" | "gb" | "gib" => Some(GIB),
        "t" | "tb" | "tib" => Some(TIB),
        _ => None,
    };
    bytes
        .and_then(|bytes| scaled(number, bytes))
        .filter(|size| *size <= SIZE_MAX)
        .map(ByteSize)
        .ok_or_else(|| "expected a size such as 8190, 64k, 64KiB, 1.5M or 1GiB".to_owned())
}

/// Returns a parser of sizes from `min` to `max` bytes.
pub fn size(min: u64, max: u64) -> impl Fn(&str) -> Result<ByteSize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let size = parse_size(text)?;
        if (min..=max).contains(&size.0) {
            return Ok(size);
        }
        let (min, max) = (ByteSize(min), ByteSize(max));
        Err(if max.0 >= SIZE_MAX {
            format!("expected a size of at least {min}")
        } else {
            format!("expected a size from {min} to {max}")
        })
    }
}

/// Returns a parser of sizes for fields that hold a number of bytes.
pub fn bytes<T: TryFrom<u64>>(
    min: u64,
    max: u64,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    let read = size(min, max);
    move |text| {
        let size = read(text)?;
        T::try_from(size.0).map_err(|_| format!("expected a size of at most {}", ByteSize(max)))
    }
}

/// Reads a duration: `75` (seconds), `1.5s`, `500ms`, `2m`, `1h`, `1d`, at most 24 days, in whole milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "s" | "sec" => Some(1000),
        "ms" => Some(1),
        "m" | "min" => Some(60 * 1000),
        "h" => Some(60 * 60 * 1000),
        "d" => Some(24 * 60 * 60 * 1000),
        _ => None,
    };
    let duration = unit
        .and_then(|unit| scaled(number, unit))
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a duration such as 75, 1.5s, 500ms or 2m".to_owned())?;
    if duration > DURATION_MAX {
        return Err(format!("expected a duration of at most {}", duration_text(DURATION_MAX)));
    }
    Ok(duration)
}

/// Reads a duration that may not be zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("expected a duration of at least 1ms, such as 30, 1.5s, 500ms or 2m".to_owned()),
        duration => Ok(duration),
    }
}

/// Returns a duration as it is printed: in the largest unit that gives a whole number.
pub fn duration_text(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let (name, unit) = DURATION_UNITS.iter().find(|(_, unit)| millis.is_multiple_of(*unit)).unwrap_or(&("ms", 1));
    format!("{}{name}", millis / unit)
}

/// Returns a parser of whole numbers in `range`.
pub fn number<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let value = text.trim().parse().ok().filter(|value| range.contains(value));
        value
            .and_then(|value| T::try_from(value).ok())
            .ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
    }
}

/// Splits `64k` into `64` and `k`.
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// Returns `number` times `unit`, exactly: `1.5` × 1024 = 1536. `None` if `number` is not a number or the product is
/// not whole.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // Nine digits after the point are far more than any unit needs, and 10^9 × a unit fits in 128 bits.
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let parts = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit);
    if !parts.is_multiple_of(divisor) {
        return None;
    }
    let whole = u128::from(whole.parse::<u64>().ok()?) * u128::from(unit);
    u64::try_from(whole.checked_add(parts / divisor)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_with_each_unit_is_a_power_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("8190", 8190),
            ("64k", 65_536),
            ("64K", 65_536),
            ("64kb", 65_536),
            ("64KiB", 65_536),
            ("64 KiB", 65_536),
            ("1.5k", 1536),
            ("0.5M", 524_288),
            ("1m", 1_048_576),
            ("1GiB", 1_073_741_824),
            ("2T", 2_199_023_255_552),
            ("12b", 12),
        ] {
            assert_eq!(parse_size(text), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn size_that_is_none_says_what_would_be_right() {
        for text in
            ["", "k", "12x", "-1", "+1", "1.k", ".5k", "1..5k", "0.3k", "1e3", "9223372036854775808", "8388608T"]
        {
            let error = parse_size(text).unwrap_err();
            assert_eq!(error, "expected a size such as 8190, 64k, 64KiB, 1.5M or 1GiB", "{text}");
        }
    }

    #[test]
    fn size_out_of_range_names_the_range() {
        assert_eq!(size(32 * KIB, 8 * MIB)("1k").unwrap_err(), "expected a size from 32KiB to 8MiB");
        assert_eq!(size(1, u64::MAX)("0").unwrap_err(), "expected a size of at least 1");
        assert_eq!(bytes::<usize>(1, 64 * KIB)("1M").unwrap_err(), "expected a size from 1 to 64KiB");
        assert_eq!(bytes::<usize>(1, 64 * KIB)("8k"), Ok(8192));
    }

    #[test]
    fn size_printed_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1025, 65_536, 1_048_576, 3 << 30, 5 << 40, SIZE_MAX] {
            assert_eq!(parse_size(&ByteSize(bytes).to_string()), Ok(ByteSize(bytes)));
        }
        assert_eq!(ByteSize(65_536).to_string(), "64KiB");
        assert_eq!(ByteSize(1 << 30).to_string(), "1GiB");
        assert_eq!(ByteSize(8190).to_string(), "8190");
        assert_eq!(ByteSize(0).to_string(), "0");
    }

    #[test]
    fn duration_with_each_unit_is_read() {
        for (text, millis) in [
            ("0", 0),
            ("75", 75_000),
            ("1.5", 1500),
            ("1.5s", 1500),
            ("0.001s", 1),
            ("500ms", 500),
            ("500 ms", 500),
            ("2m", 120_000),
            ("2min", 120_000),
            ("1h", 3_600_000),
            ("24d", 2_073_600_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn duration_that_is_none_says_what_would_be_right() {
        for text in ["", "12x", "-1", "ms", "0.5ms", "0.0001s", "1s2", "inf", "NaN", "99999999999999999999"] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error, "expected a duration such as 75, 1.5s, 500ms or 2m", "{text}");
        }
    }

    #[test]
    fn duration_beyond_24_days_is_refused() {
        assert_eq!(parse_duration("25d").unwrap_err(), "expected a duration of at most 24d");
    }

    #[test]
    fn duration_zero_is_refused_where_it_means_nothing() {
        let error = positive_duration("0").unwrap_err();
        assert_eq!(error, "expected a duration of at least 1ms, such as 30, 1.5s, 500ms or 2m");
        assert_eq!(positive_duration("1ms"), Ok(Duration::from_millis(1)));
    }

    #[test]
    fn duration_printed_reads_back() {
        for (millis, text) in [
            (0, "0s"),
            (1, "1ms"),
            (1500, "1500ms"),
            (75_000, "75s"),
            (120_000, "2m"),
            (7_200_000, "2h"),
            (86_400_000, "1d"),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(duration_text(duration), text);
            assert_eq!(parse_duration(text), Ok(duration));
        }
    }

    #[test]
    fn number_out_of_range_names_the_range() {
        let read = number::<usize>(1..=100);
        assert_eq!(read("100"), Ok(100));
        for text in ["0", "101", "", "1.5", "ten", "-1"] {
            assert_eq!(read(text).unwrap_err(), "expected a whole number from 1 to 100", "{text}");
        }
        assert_eq!(number::<u8>(0..=1000)("300").unwrap_err(), "expected a whole number from 0 to 1000");
    }
}
