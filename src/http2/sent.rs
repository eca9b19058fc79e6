//! Follows the frames that a client gets, so that the server knows what it has really sent of each stream.
//!
//! *Owns*: the position inside the current frame. *Runs on*: the calling thread. *Invariants*: the same bytes give the
//! same sums at every split point. No frame has padding, because `h2` sends none.

use super::frames::{DATA, END_STREAM, HEADER_BYTES, HEADERS, RST_STREAM};
use super::gathered::Gathered;

const GOAWAY: u8 = 7;
/// The bytes of GOAWAY up to the end of its error code. `RST_STREAM` has nothing before its code (RFC 9113 §6.4, §6.8).
const GOAWAY_BYTES: usize = 8;
/// What GOAWAY names as the last stream while the client may still have opened others (RFC 9113 §6.8).
const ANY_STREAM: u32 = u32::MAX >> 1;

/// How many bytes were sent of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of the body.
    pub body: u64,
    /// Bytes of frames, with their headers.
    pub wire: u64,
}

/// What sent bytes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// A part of a frame of a stream. `is_last`: the response has been sent to its end.
    Part {
        /// The number of the stream.
        stream: u32,
        /// How long the part is.
        sent: Sent,
        /// Whether it ends the response.
        is_last: bool,
    },
    /// The server has reset a stream.
    Reset {
        /// The number of the stream.
        stream: u32,
        /// The error code.
        code: u32,
    },
    /// The server has told the client to leave with this error code.
    GoAway(u32),
    /// The server has told the client to leave, and will say later which was the last stream.
    Announced,
}

/// Follows the frames in the bytes for a client.
#[derive(Debug, Default)]
pub struct SentMeter {
    header: Gathered<HEADER_BYTES>,
    /// How many bytes of the payload are missing.
    left: usize,
    /// The beginning of a payload that has an error code.
    payload: Gathered<GOAWAY_BYTES>,
}

impl Sent {
    /// Adds a part.
    pub fn add(&mut self, part: Self) {
        self.body = self.body.saturating_add(part.body);
        self.wire = self.wire.saturating_add(part.wire);
    }
}

impl SentMeter {
    /// Takes the next bytes that were sent, and reports what they show. The header of a frame counts once all of it was
    /// sent.
    pub fn take(&mut self, mut bytes: &[u8], mut show: impl FnMut(Shown)) {
        while !bytes.is_empty() {
            let mut sent = Sent::default();
            if self.header.all().is_none() {
                bytes = self.header.take(bytes);
                let Some([long, middle, short, ..]) = self.header.all() else { return };
                self.left = usize::from(long) << 16 | usize::from(middle) << 8 | usize::from(short);
                self.payload.clear();
                sent.wire = HEADER_BYTES as u64;
            }
            let (payload, rest) = bytes.split_at_checked(self.left.min(bytes.len())).unwrap_or_default();
            let [_, _, _, kind, flags, number @ ..] = self.header.so_far();
            if matches!(kind, RST_STREAM | GOAWAY) {
                self.payload.take(payload);
            }
            let bytes_sent = payload.len() as u64;
            sent.wire = sent.wire.saturating_add(bytes_sent);
            sent.body = if kind == DATA { bytes_sent } else { 0 };
            self.left = self.left.saturating_sub(payload.len());
            bytes = rest;
            let has_ended = self.left == 0;
            let stream = u32::from_be_bytes(number) & ANY_STREAM;
            if stream > 0 {
                let is_last = has_ended && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
                show(Shown::Part { stream, sent, is_last });
            }
            if has_ended {
                self.header.clear();
                self.show_code(kind, stream, &mut show);
            }
        }
    }

    /// Reports the error code of a frame that was sent, if it has one.
    fn show_code(&self, kind: u8, stream: u32, show: &mut impl FnMut(Shown)) {
        let payload = u64::from_be_bytes(self.payload.so_far());
        let first = u32::try_from(payload >> 32).unwrap_or_default();
        let second = u32::try_from(payload & u64::from(u32::MAX)).unwrap_or_default();
        match kind {
            RST_STREAM => show(Shown::Reset { stream, code: first }),
            GOAWAY if first & ANY_STREAM == ANY_STREAM && second == 0 => show(Shown::Announced),
            GOAWAY => show(Shown::GoAway(second)),
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
        let header = [length[1], length[2], length[3], kind, flags, 0, 0, 0, stream];
        [&header, payload].concat()
    }

    #[test]
    fn streams_are_summed_and_ended_at_every_split_size() {
        let bytes = [
            frame(4, 0, 0, &[0; 12]),
            frame(HEADERS, 4, 1, &[0; 30]),
            frame(HEADERS, 5, 3, &[0; 10]),
            frame(DATA, 0, 1, &[0; 10_000]),
            frame(RST_STREAM, 0, 5, &[0, 0, 0, 7]),
            frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
            frame(DATA, END_STREAM, 1, &[]),
            frame(GOAWAY, 0, 0, b"\0\0\0\x05\0\0\0\x0bdebug"),
        ]
        .concat();
        for size in [1, 2, 7, 8, 9, 10, 11, 100, 100_000] {
            let (mut meter, mut sums, mut others) = (SentMeter::default(), BTreeMap::<u32, Sent>::new(), Vec::new());
            for part in bytes.chunks(size) {
                meter.take(part, |shown| match shown {
                    Shown::Part { stream, sent, is_last } => {
                        sums.entry(stream).or_default().add(sent);
                        others.extend(is_last.then_some(Err(stream)));
                    }
                    other => others.push(Ok(other)),
                });
            }
            let wire = |body, wire| Sent { body, wire };
            assert_eq!(sums, [(1, wire(10_000, 10_057)), (3, wire(0, 19)), (5, wire(0, 13))].into(), "{size}");
            let wanted =
                [Err(3), Ok(Shown::Reset { stream: 5, code: 7 }), Ok(Shown::Announced), Err(1), Ok(Shown::GoAway(11))];
            assert_eq!(others, wanted, "{size}");
        }
    }

    #[test]
    fn part_of_a_frame_counts_at_once_and_does_not_end_the_stream() {
        let (mut meter, mut seen) = (SentMeter::default(), Vec::new());
        let frame = frame(DATA, END_STREAM, 1, &[0; 100]);
        meter.take(&frame[..50], |shown| seen.push(shown));
        let part = |body, wire, is_last| Shown::Part { stream: 1, sent: Sent { body, wire }, is_last };
        assert_eq!(seen, [part(41, 50, false)]);
        meter.take(&frame[50..], |shown| seen.push(shown));
        assert_eq!(seen[1..], [part(59, 59, true)]);
    }
}
