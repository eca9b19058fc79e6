//! The local time zone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns how far local time is ahead of UTC at this time, in seconds, according to `TZ` or `/etc/localtime`
/// (`localtime_r(3)`). Calls the C library once a minute: zones change at whole minutes, and a program may change
/// `TZ`.
pub fn local_offset(time: SystemTime) -> i32 {
    /// The minute since 1970 in the upper 32 bits, its offset in the lower 32 bits.
    static CACHED: AtomicU64 = AtomicU64::new(u64::MAX);
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let minute = seconds / 60;
    let cached = CACHED.load(Ordering::Relaxed);
    if cached >> 32 == minute {
        let [.., a, b, c, d] = cached.to_be_bytes();
        return i32::from_be_bytes([a, b, c, d]);
    }
    let offset = ask(seconds);
    CACHED.store(minute << 32 | u64::from(offset.cast_unsigned()), Ordering::Relaxed);
    offset
}

fn ask(seconds: u64) -> i32 {
    let Ok(seconds) = libc::time_t::try_from(seconds) else { return 0 };
    // SAFETY: all zeros are a valid value of this plain structure.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both live through the call, which writes to the second.
    let found = unsafe { libc::localtime_r(&raw const seconds, &raw mut parts) };
    if found.is_null() { 0 } else { i32::try_from(parts.tm_gmtoff).unwrap_or(0) }
}
