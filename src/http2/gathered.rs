//! The first bytes of something that comes in parts: the header of a frame, or the beginning of its payload.
//!
//! *Runs on*: the calling thread. *Invariants*: the same bytes are gathered at every split point.

/// The first `N` bytes.
#[derive(Debug)]
pub(super) struct Gathered<const N: usize> {
    bytes: [u8; N],
    /// How many of them have come.
    have: usize,
}

impl<const N: usize> Default for Gathered<N> {
    fn default() -> Self {
        Self { bytes: [0; N], have: 0 }
    }
}

impl<const N: usize> Gathered<N> {
    /// Takes the bytes that are missing. Returns those after them.
    #[inline]
    pub(super) fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match bytes.split_first_chunk() {
            Some((all, rest)) if self.have == 0 => {
                (self.bytes, self.have) = (*all, N);
                rest
            }
            _ => self.take_part(bytes),
        }
    }

    fn take_part<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (part, rest) = bytes.split_at_checked(N.saturating_sub(self.have)).unwrap_or((bytes, &[]));
        for (place, byte) in self.bytes.iter_mut().skip(self.have).zip(part) {
            *place = *byte;
        }
        self.have = self.have.saturating_add(part.len());
        rest
    }

    /// Returns the bytes, if all of them have come.
    #[inline]
    pub(super) fn all(&self) -> Option<[u8; N]> {
        (self.have == N).then_some(self.bytes)
    }

    /// Returns the bytes, with zeros for those that have not come.
    pub(super) fn so_far(&self) -> [u8; N] {
        self.bytes
    }

    /// Returns whether a part of them has come.
    pub(super) fn has_some(&self) -> bool {
        self.have > 0
    }

    /// Begins again.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.have = 0;
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_gathered_at_every_split_point() {
        for size in 1..=10 {
            let mut gathered = Gathered::<4>::default();
            let mut taken = Vec::new();
            for mut part in b"abcdefghijkl".chunks(size) {
                while !part.is_empty() {
                    part = gathered.take(part);
                    assert!(gathered.has_some());
                    if let Some(bytes) = gathered.all() {
                        taken.push(bytes);
                        gathered.clear();
                    }
                }
            }
            assert_eq!(taken, [*b"abcd", *b"efgh", *b"ijkl"], "{size}");
            assert!(!gathered.has_some());
        }
    }
}
