//! A response that has broken off: how much of its body was sent, and which file could not be sent.
//!
//! *Runs on*: the connection's coroutine. *Invariants*: nothing here runs for a response that was sent as a whole.

use std::io;
use std::os::unix::ffi::OsStrExt as _;

use super::{Piece, SendQueue};
use crate::handler::Origin;
use crate::http::{BodyEncoder, RequestHead};
use crate::phrase::excerpt;
use crate::sys;

impl SendQueue {
    /// Returns how many bytes of a body have been sent. The queue ends with bytes of the body, or with `after` bytes that
    /// follow the body.
    #[cold]
    pub(in crate::connection::http1) fn body_bytes_sent(&self, mut encoder: BodyEncoder, after: usize) -> u64 {
        let mut unsent = self.waiting_bytes(usize::MAX).saturating_sub(after) as u64;
        let mut sent = self.body_bytes;
        if !matches!(encoder, BodyEncoder::Chunked) {
            return sent.saturating_sub(unsent);
        }
        for &size in self.chunks.sizes().iter().rev() {
            if unsent == 0 || sent == 0 {
                break;
            }
            unsent = unsent.saturating_sub(encoder.block_end().len() as u64);
            sent = sent.saturating_sub(size.min(unsent));
            let line = encoder.block(size).1;
            unsent = unsent.saturating_sub(size.saturating_add(line.as_bytes().len() as u64));
        }
        sent
    }

    /// Logs that the file in front cannot be sent as a whole: it has ended early, or reading it has failed.
    #[cold]
    pub(in crate::connection) fn report_file(&self, error: Option<&io::Error>, request: &RequestHead, origin: &Origin) {
        let name = match self.pieces.front() {
            Some(Piece::File(file, ..)) => sys::path_of(file).map(|path| excerpt(path.as_os_str().as_bytes())),
            Some(Piece::Spooled(..) | Piece::Spilled(..)) => Some("a temporary file".to_owned()),
            _ => None,
        };
        let name = name.as_deref().unwrap_or("its file");
        let why = match error {
            None => format!("{name} became shorter while it was sent"),
            Some(error) => format!("cannot read {name}: {}", sys::plain(error)),
        };
        let (client, line, id) = (origin.client_name(), excerpt(request.request_line()), request.id_text());
        log::error!("{client}: the response to \"{line}\"{id} is cut off: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::Block;

    /// Returns a queue with a head, or with an earlier block that was sent, and then with blocks of these sizes. Also
    /// returns the bytes to send. Only the body has the sign `#`.
    fn queue(mut encoder: BodyEncoder, begins: bool, sizes: &[usize], ends: bool) -> (SendQueue, Vec<u8>) {
        let (mut queue, mut wire) = (SendQueue::default(), Vec::new());
        let mut add = |queue: &mut SendQueue, size: usize| {
            let mut block = Vec::with_capacity(size + 8);
            block.resize(size, b'#');
            let (bytes, line) = encoder.block(size as u64);
            let parts = [line.as_bytes(), &block, encoder.block_end()].concat();
            queue.push_block(Piece::from_block(Block::Owned(block), bytes), bytes, line, encoder.block_end());
            parts
        };
        if begins {
            let mut head = Vec::with_capacity(512);
            head.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
            wire.extend_from_slice(&head);
            queue.push(Piece::Owned(head));
        } else {
            let sent = add(&mut queue, 3).len();
            queue.advance(sent);
        }
        for &size in sizes {
            wire.extend(add(&mut queue, size));
        }
        if ends {
            let last = encoder.finish().unwrap_or_default();
            wire.extend_from_slice(last);
            queue.push_static(last);
        }
        (queue, wire)
    }

    #[test]
    fn bytes_of_the_body_are_counted_wherever_the_response_breaks_off() {
        let chunked = BodyEncoder::Chunked;
        for (encoder, begins, sizes, ends) in [
            (chunked, true, &[5, 16, 1][..], true),
            (chunked, true, &[5, 16, 1], false),
            (chunked, false, &[5, 16, 1], true),
            (chunked, true, &[2000, 3, 3000, 20], true),
            (chunked, false, &[3, 1500], false),
            (chunked, true, &[], false),
            (BodyEncoder::UntilClose, true, &[7, 1500], true),
            (BodyEncoder::UntilClose, false, &[7, 1500], false),
            (BodyEncoder::Length { remaining: 1507 }, true, &[7, 1500], true),
            (BodyEncoder::None, true, &[], true),
        ] {
            let (_, wire) = queue(encoder, begins, sizes, ends);
            let earlier = if begins { 0 } else { 3 };
            let after = if ends { encoder.finish().unwrap_or_default().len() } else { 0 };
            for sent in 0..=wire.len() {
                let (mut queue, _) = queue(encoder, begins, sizes, ends);
                queue.advance(sent);
                let wanted = earlier + wire.iter().take(sent).filter(|&&byte| byte == b'#').count() as u64;
                assert_eq!(queue.body_bytes_sent(encoder, after), wanted, "{encoder:?} {sizes:?}: {sent} bytes");
            }
        }
    }

    #[test]
    fn chunks_of_an_earlier_response_do_not_count() {
        let (mut queue, wire) = queue(BodyEncoder::Chunked, true, &[5, 16], true);
        queue.advance(wire.len());
        queue.renew();
        queue.push(Piece::Owned(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()));
        assert_eq!(queue.body_bytes_sent(BodyEncoder::Chunked, 0), 0);
        let mut encoder = BodyEncoder::Chunked;
        let (bytes, line) = encoder.block(4);
        queue.push_block(Piece::from_block(Block::Owned(b"####".to_vec()), bytes), bytes, line, encoder.block_end());
        queue.advance(b"HTTP/1.1 200 OK\r\n\r\n4\r\n###".len());
        assert_eq!((queue.body_bytes_sent(encoder, 0), queue.chunks.sizes().len()), (3, 1));
    }
}
