//! The time that a request has spent in a proxy's queue: since the time in its field `X-Request-Start`.
//!
//! *Owns*: nothing. *Runs on*: the connection's coroutine. *Invariants*: only a trusted peer's field counts. Without the
//! field no clock is read.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Connection;
use crate::http::RequestHead;

/// A longer time is an error of the proxy's clock, or of the value.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Numbers below this one are seconds, until the year 5138. A thousand times as much is one of milliseconds, and so on.
const SECONDS_END: u64 = 100_000_000_000;
/// The longest value that is read, in bytes.
const VALUE_BYTES_MAX: usize = 40;

impl Connection {
    /// Returns how long a request has been on its way since its proxy got it, until its first byte arrived. `None`: no
    /// trusted proxy has said when it got the request.
    #[inline]
    pub(super) fn proxy_queue(&self, head: &RequestHead) -> Option<Duration> {
        let value = head.request_start()?;
        if self.shared.derived.trust.trusts(self.connected.client) { waited(value, self.head_began?) } else { None }
    }
}

#[cold]
fn waited(value: &[u8], began: Instant) -> Option<Duration> {
    let arrived = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(began.elapsed())?;
    // The clocks of two machines may differ.
    let queued = arrived.saturating_sub(moment(value)?);
    (queued <= LONGEST).then_some(queued)
}

/// Reads a time since 1970 in seconds, milliseconds, microseconds or nanoseconds: nginx's `t=${msec}`, such as
/// `t=1795237200.123`, or Heroku's `1795237200123`.
fn moment(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value.get(..value.len().min(VALUE_BYTES_MAX))?).ok()?.trim();
    let text = text.strip_prefix("t=").unwrap_or(text);
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) {
        return None;
    }
    let number: u64 = whole.parse().ok()?;
    let mut unit = 1_000_000_000;
    while number >= SECONDS_END.saturating_mul(1_000_000_000 / unit) && unit > 1 {
        unit /= 1000;
    }
    let nanos = format!("{:0<9}", decimals.get(..decimals.len().min(9))?).parse::<u64>().ok()?;
    Some(Duration::from_nanos(number.checked_mul(unit)?.checked_add(nanos * unit / 1_000_000_000)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moment_is_read_in_every_unit() {
        let nanos = |value: &str| moment(value.as_bytes()).map(|moment| moment.as_nanos());
        for value in
            ["t=1795237200.123", "1795237200.123", "t=1795237200123", "1795237200123000", "1795237200123000000"]
        {
            assert_eq!(nanos(value), Some(1_795_237_200_123_000_000), "{value}");
        }
        assert_eq!(nanos("t=1795237200"), Some(1_795_237_200_000_000_000));
        assert_eq!(nanos("1795237200123.5"), Some(1_795_237_200_123_500_000));
        for value in ["", "t=", "now", "-1", "1e9", "1.2.3", "t=t=1", "99999999999999999999999", "1795237200 1"] {
            assert_eq!(nanos(value), None, "{value}");
        }
    }

    #[test]
    fn time_of_a_clock_that_is_fast_is_nothing_and_of_another_day_unknown() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let waited = |seconds: u64| waited(seconds.to_string().as_bytes(), Instant::now());
        assert_eq!(waited(now + 100), Some(Duration::ZERO));
        assert!(waited(now - 100).is_some_and(|waited| (100..200).contains(&waited.as_secs())));
        assert_eq!(waited(now - 90_000), None);
    }
}
