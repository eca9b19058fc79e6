//! Writes points in time for log lines: in local time, but in JSON in UTC.
//!
//! *Owns*: nothing; reads no clock.
//! *Runs on*: any thread.
//! *Source*: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::phrase::push_padded;
use crate::sys;

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// A date and a time of day.
struct Civil {
    year: u64,
    /// From 1.
    month: u64,
    /// From 1.
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    millis: u64,
}

impl Civil {
    /// Returns the date and time in a zone that is `offset` seconds ahead of UTC.
    fn at_offset(time: SystemTime, offset: i32) -> Self {
        let by = Duration::from_secs(u64::from(offset.unsigned_abs()));
        Self::of(if offset < 0 { time - by } else { time + by })
    }

    /// Returns the date and time in UTC. A time before 1970 counts as the start of 1970.
    fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / DAY_SECONDS, since.as_secs() % DAY_SECONDS);
        // Count days from 1 March of the year 0, in eras of 400 years.
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            millis: u64::from(since.subsec_millis()),
        }
    }

    /// `05:00:00`
    fn push_clock(&self, out: &mut Vec<u8>) {
        push_padded(out, self.hour, 2);
        out.push(b':');
        push_padded(out, self.minute, 2);
        out.push(b':');
        push_padded(out, self.second, 2);
    }

    /// `2026-11-21`
    fn push_date(&self, out: &mut Vec<u8>) {
        push_padded(out, self.year, 4);
        out.push(b'-');
        push_padded(out, self.month, 2);
        out.push(b'-');
        push_padded(out, self.day, 2);
    }

    /// `.123`
    fn push_millis(&self, out: &mut Vec<u8>) {
        out.push(b'.');
        push_padded(out, self.millis, 3);
    }
}

/// Returns how far local time is ahead of UTC at `time`, in seconds.
pub(super) fn offset(time: SystemTime) -> i32 {
    // The unit tests expect UTC on every machine.
    if cfg!(test) { 0 } else { sys::local_offset(time) }
}

/// ` +0000]`
fn push_offset(out: &mut Vec<u8>, offset: i32) {
    out.extend_from_slice(if offset < 0 { b" -" } else { b" +" });
    let minutes = u64::from(offset.unsigned_abs() / 60);
    push_padded(out, minutes / 60 * 100 + minutes % 60, 4);
    out.push(b']');
}

/// `[21/Nov/2026:05:00:00 +0000]`
pub(super) fn push_common(out: &mut Vec<u8>, time: SystemTime, offset: i32) {
    let civil = Civil::at_offset(time, offset);
    out.push(b'[');
    push_padded(out, civil.day, 2);
    out.push(b'/');
    let month = usize::try_from(civil.month - 1).ok().and_then(|index| MONTHS.get(index));
    out.extend_from_slice(month.copied().unwrap_or(b"???"));
    out.push(b'/');
    push_padded(out, civil.year, 4);
    out.push(b':');
    civil.push_clock(out);
    push_offset(out, offset);
}

/// `[2026-11-21 05:00:00.123 +0000]`
pub(super) fn push_error(out: &mut Vec<u8>, time: SystemTime, offset: i32) {
    let civil = Civil::at_offset(time, offset);
    out.push(b'[');
    civil.push_date(out);
    out.push(b' ');
    civil.push_clock(out);
    civil.push_millis(out);
    push_offset(out, offset);
}

/// `2026-11-21T05:00:00.123Z`
pub(super) fn push_rfc3339(out: &mut Vec<u8>, time: SystemTime) {
    let civil = Civil::of(time);
    civil.push_date(out);
    out.push(b'T');
    civil.push_clock(out);
    civil.push_millis(out);
    out.push(b'Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(out: &mut Vec<u8>, time: SystemTime) {
        push_common(out, time, 0);
    }

    fn text(push: fn(&mut Vec<u8>, SystemTime), millis: u64) -> String {
        let mut out = Vec::new();
        push(&mut out, UNIX_EPOCH + Duration::from_millis(millis));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn time_in_each_style_is_written() {
        let millis = 1_795_237_200_123;
        assert_eq!(text(common, millis), "[21/Nov/2026:05:00:00 +0000]");
        assert_eq!(text(|out, time| push_error(out, time, 0), millis), "[2026-11-21 05:00:00.123 +0000]");
        assert_eq!(text(push_rfc3339, millis), "2026-11-21T05:00:00.123Z");
    }

    #[test]
    fn time_in_other_zones_has_their_offset() {
        let millis = 1_795_237_200_123;
        for (offset, expected) in [
            (19_800, "[21/Nov/2026:10:30:00 +0530]"),
            (-12_600, "[21/Nov/2026:01:30:00 -0330]"),
            (-18_000, "[21/Nov/2026:00:00:00 -0500]"),
            (-36_000, "[20/Nov/2026:19:00:00 -1000]"),
            (50_400, "[21/Nov/2026:19:00:00 +1400]"),
        ] {
            let mut out = Vec::new();
            push_common(&mut out, UNIX_EPOCH + Duration::from_millis(millis), offset);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn time_on_odd_days_is_right() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(text(push_rfc3339, seconds * 1000), expected);
        }
    }

    #[test]
    fn time_agrees_with_another_implementation() {
        for day in (0..60_000).step_by(7) {
            let seconds = day * DAY_SECONDS + day;
            let theirs = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            let ours = text(common, seconds * 1000);
            assert_eq!(ours[1..12].replace('/', " "), theirs[5..16]);
            assert_eq!(ours[13..21], theirs[17..25]);
        }
    }
}
