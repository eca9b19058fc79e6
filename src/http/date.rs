//! The `Date` field's value: IMF-fixdate (RFC 9110 §5.6.7), e.g. `Sun, 06 Nov 1994 08:49:37 GMT`.

use std::time::SystemTime;

/// Writes `at` as IMF-fixdate.
pub fn imf_fixdate(_at: SystemTime) -> [u8; 29] {
    todo!()
}
