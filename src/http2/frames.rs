//! Counts the frames that a client sends, by what they cost.
//!
//! *Owns*: the position inside the current frame. *Runs on*: the calling thread. *Invariants*: the same bytes give the
//! same counts at every split point. Nothing is checked here: `h2` checks each frame.

use super::gathered::Gathered;

/// The length of a frame's header in bytes (RFC 9113 §4.1).
pub(super) const HEADER_BYTES: usize = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
/// The flag `END_STREAM` of a DATA frame.
pub(super) const END_STREAM: u8 = 1;
/// The flag `END_HEADERS` of a HEADERS or CONTINUATION frame.
const END_HEADERS: u8 = 4;

/// How many frames have begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All frames.
    pub all: u32,
    /// Frames that carry no part of a request: PING, SETTINGS, PRIORITY, `WINDOW_UPDATE`, CONTINUATION, empty DATA, and
    /// unknown types.
    pub idle: u32,
    /// Streams that the client has reset.
    pub resets: u32,
    /// Frames that end a header block, so that a head is complete: HEADERS and CONTINUATION.
    pub heads: u32,
    /// Frames of `PUSH_PROMISE`, which no client may send (RFC 9113 §8.4).
    pub pushes: u32,
}

/// Follows the frames in the bytes of a client.
#[derive(Debug, Default)]
pub struct FrameMeter {
    header: Gathered<HEADER_BYTES>,
    /// How many bytes of the payload are missing.
    left: usize,
    /// Whether a header block has begun and not ended.
    in_block: bool,
    /// Whether the current frame is one of DATA.
    in_data: bool,
}

impl FrameMeter {
    /// Takes the next bytes, after the preface. Returns the frames whose headers they end.
    pub fn take(&mut self, mut bytes: &[u8]) -> Counts {
        let mut counts = Counts::default();
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left = self.left.saturating_sub(skipped);
            bytes = bytes.get(skipped..).unwrap_or_default();
            bytes = self.header.take(bytes);
            if let Some(header) = self.header.all() {
                self.header.clear();
                self.begin(header, &mut counts);
            }
        }
        counts
    }

    fn begin(&mut self, header: [u8; HEADER_BYTES], counts: &mut Counts) {
        let [long, middle, short, kind, flags, ..] = header;
        self.left = usize::from(long) << 16 | usize::from(middle) << 8 | usize::from(short);
        self.in_data = kind == DATA;
        if matches!(kind, HEADERS | CONTINUATION) {
            self.in_block = flags & END_HEADERS == 0;
            counts.heads = counts.heads.saturating_add(u32::from(!self.in_block));
        }
        let is_idle = match kind {
            DATA => self.left == 0 && flags & END_STREAM == 0,
            HEADERS => false,
            RST_STREAM => {
                counts.resets = counts.resets.saturating_add(1);
                false
            }
            PUSH_PROMISE => {
                counts.pushes = counts.pushes.saturating_add(1);
                false
            }
            _ => true,
        };
        counts.all = counts.all.saturating_add(1);
        counts.idle = counts.idle.saturating_add(u32::from(is_idle));
    }

    /// Returns whether the client owes the rest of something that must come at once: of a header block, or of a frame
    /// without data.
    pub fn is_inside(&self) -> bool {
        self.in_block || self.header.has_some() || (self.left > 0 && !self.in_data)
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap_or_default().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER_BYTES + payload, 0);
        frame
    }

    fn all() -> Vec<u8> {
        [
            frame(4, 0, 12),
            frame(1, 0, 300),
            frame(9, 4, 7),
            frame(0, 0, 70_000),
            frame(0, 0, 0),
            frame(0, 1, 0),
            frame(6, 0, 8),
            frame(8, 0, 4),
            frame(3, 0, 4),
            frame(99, 0, 1),
            frame(5, 0, 9),
        ]
        .concat()
    }

    #[test]
    fn frames_are_counted_at_every_split_size() {
        let wanted = Counts { all: 11, idle: 6, resets: 1, heads: 1, pushes: 1 };
        for size in [1, 2, 7, 8, 9, 10, 11, 100, 100_000] {
            let (mut meter, mut counts) = (FrameMeter::default(), Counts::default());
            for part in all().chunks(size) {
                let more = meter.take(part);
                counts.all += more.all;
                counts.idle += more.idle;
                counts.resets += more.resets;
                counts.pushes += more.pushes;
                counts.heads += more.heads;
            }
            assert_eq!(counts, wanted, "{size}");
            assert!(!meter.is_inside());
        }
    }

    #[test]
    fn client_owes_the_rest_of_a_block_and_of_a_short_frame() {
        let mut meter = FrameMeter::default();
        meter.take(&frame(1, 0, 5));
        assert!(meter.is_inside(), "the block goes on");
        meter.take(&frame(9, 4, 5));
        assert!(!meter.is_inside());
        meter.take(&frame(0, 0, 5)[..12]);
        assert!(!meter.is_inside(), "data may come slowly");
        meter.take(&[0, 0]);
        meter.take(&frame(6, 0, 8)[..4]);
        assert!(meter.is_inside());
    }
}
