//! A part of a buffer, as two 32-bit offsets: half the size of a slice, and it does not borrow.

/// The position of a part in the head that owns it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Makes the span from `start` to before `end`. Heads over 4 GiB are refused before this is called.
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self { start: u32::try_from(start).unwrap_or(u32::MAX), end: u32::try_from(end).unwrap_or(u32::MAX) }
    }

    /// Returns the bytes of the span in `buffer`; none if the span is beyond it.
    #[inline]
    pub(super) fn of(self, buffer: &[u8]) -> &[u8] {
        buffer.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Returns the number of bytes of the span.
    pub(super) fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }
}
