//! A part of a buffer, as two 32-bit offsets: half the size of a slice, and it does not borrow.

/// Where something stands in the head that owns it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// From `start` to before `end`. Heads over 4 GiB are refused before this is called.
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self { start: u32::try_from(start).unwrap_or(u32::MAX), end: u32::try_from(end).unwrap_or(u32::MAX) }
    }

    /// The bytes themselves; nothing where the span does not belong to `buffer`.
    #[inline]
    pub(super) fn of(self, buffer: &[u8]) -> &[u8] {
        buffer.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// How many bytes it spans.
    pub(super) fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }
}
