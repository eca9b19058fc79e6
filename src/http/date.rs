//! The `Date` field's value: IMF-fixdate (RFC 9110 §5.6.7), e.g. `Sun, 06 Nov 1994 08:49:37 GMT`.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;

/// The last second with a year of four digits: 9999-12-31 23:59:59, in seconds since 1970.
const LATEST: u64 = 253_402_300_799;

/// Writes `at` as IMF-fixdate. A time before 1970 or after 9999 becomes the nearest time in that range.
pub fn imf_fixdate(at: SystemTime) -> [u8; 29] {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().min(LATEST));
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
    let mut date = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    // The format always has the length of the buffer, so this cannot fail.
    let _ = write!(&mut date[..], "{}", HttpDate::from(at));
    date
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imf_fixdate_rfc_example_as_in_the_rfc() {
        assert_eq!(&imf_fixdate(UNIX_EPOCH + Duration::from_secs(784_111_777)), b"Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn imf_fixdate_outside_the_format_is_clamped() {
        assert_eq!(&imf_fixdate(UNIX_EPOCH - Duration::from_secs(1)), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(&imf_fixdate(UNIX_EPOCH + Duration::from_secs(LATEST + 1)), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
