//! The id of each request: taken from a proxy, or made.
//!
//! *Owns*: the state from which ids are made. *Runs on*: the connections' coroutines. *Invariants*: an id comes from a
//! field of the request only if the peer is trusted. It has 1 to 128 visible characters of ASCII. An id is no secret:
//! one who knows some ids may guess others. *Source*: RFC 9562 §5.7, §6.2 (method 3).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::http::RequestHead;
use crate::sys;

/// The length of an id that is made: `019ac21e-8a2b-7c3d-9e4f-0123456789ab`.
const LENGTH: usize = 36;
/// Where the two digits of each byte are.
const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// The increment of the generator `SplitMix64` (Steele, Lea, Flood, 2014): it reaches every state once.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Gives each request its id.
#[derive(Debug)]
pub(super) struct RequestIds {
    /// The name of the field that has the id.
    field: Box<[u8]>,
    state: AtomicU64,
}

impl RequestIds {
    /// Ids are in the field of this name. Call it after the last fork.
    pub(super) fn new(field: &str) -> Self {
        Self { field: field.as_bytes().into(), state: AtomicU64::new(sys::random()) }
    }

    /// Returns the name of the field.
    pub(super) fn field(&self) -> &[u8] {
        &self.field
    }

    /// Gives a request its id. With `is_trusted`, that of the field counts.
    #[inline(never)]
    pub(super) fn identify(&self, head: &mut RequestHead, is_trusted: bool) {
        if !(is_trusted && head.take_id(&self.field)) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            head.set_id(&text(now, self.next()));
        }
    }

    fn next(&self) -> u64 {
        let mut mixed = self.state.fetch_add(STEP, Ordering::Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Returns a UUID of version 7: 48 bits of milliseconds, 12 bits of the rest of the time, 62 random bits.
fn text(now: Duration, random: u64) -> [u8; LENGTH] {
    let part = u128::from(now.subsec_nanos() % 1_000_000) * 4096 / 1_000_000;
    let number = (now.as_millis() << 80) | 7 << 76 | part << 64 | 2 << 62 | u128::from(random >> 2);
    let mut text = [b'-'; LENGTH];
    for (place, byte) in PLACES.into_iter().zip(number.to_be_bytes()) {
        let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        text[place..][..2].copy_from_slice(&digits);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_the_example_of_the_standard() {
        // RFC 9562, appendix A.6: 2022-02-22T19:22:22Z, with another part of the time.
        let now = Duration::from_secs(1_645_557_742) + Duration::from_nanos(999_999);
        assert_eq!(&text(now, 0x18C4_DC0C_0C07_398F << 2), b"017f22e2-79b0-7fff-98c4-dc0c0c07398f");
    }

    #[test]
    fn ids_in_order_of_time_are_in_order_of_text() {
        let ids = RequestIds::new("X-Request-ID");
        let at = |micros| text(Duration::from_micros(micros), ids.next());
        let made: Vec<_> = (1..2000).map(|step| at(1_795_237_200_000_000 + step)).collect();
        assert!(made.is_sorted());
    }
}
