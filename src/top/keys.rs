//! Keys, from the bytes that a terminal sends for them.
//!
//! *Runs on*: the main thread. *Source*: ECMA-48 §5.4 (control sequences); the sequences of xterm and of the Linux
//! console.

/// A key that means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Character(char),
    Enter,
    Escape,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
}

/// Returns the keys of these bytes. What is left at their end is the beginning of a key whose rest may follow.
pub(super) fn read(bytes: &mut Vec<u8>) -> Vec<Key> {
    let mut keys = Vec::new();
    loop {
        let (key, length) = match *bytes.as_slice() {
            [] | [0x1b] | [0x1b, b'O'] => return keys,
            [0x1b, b'O', letter, ..] => (named(letter), 3),
            [0x1b, b'[', ref rest @ ..] => {
                let Some(end) = rest.iter().position(|byte| (0x40..0x7f).contains(byte)) else { return keys };
                (sequence(&rest[..end], rest[end]), end + 3)
            }
            [0x1b, ..] => (Some(Key::Escape), 1),
            [b'\r' | b'\n', ..] => (Some(Key::Enter), 1),
            [byte, ..] => (byte.is_ascii_graphic().then(|| Key::Character(char::from(byte))), 1),
        };
        let space = bytes.first() == Some(&b' ');
        keys.extend(if space { Some(Key::PageDown) } else { key });
        bytes.drain(..length);
    }
}

/// Returns the keys of the bytes after which nothing has followed.
pub(super) fn finish(bytes: &mut Vec<u8>) -> Vec<Key> {
    let is_escape = bytes.first() == Some(&0x1b);
    bytes.clear();
    is_escape.then_some(Key::Escape).into_iter().collect()
}

fn sequence(parameters: &[u8], letter: u8) -> Option<Key> {
    match (parameters, letter) {
        (b"5", b'~') => Some(Key::PageUp),
        (b"6", b'~') => Some(Key::PageDown),
        (b"1" | b"7", b'~') => Some(Key::Home),
        (b"4" | b"8", b'~') => Some(Key::End),
        ([], letter) => named(letter),
        _ => None,
    }
}

fn named(letter: u8) -> Option<Key> {
    match letter {
        b'A' => Some(Key::Up),
        b'B' => Some(Key::Down),
        b'H' => Some(Key::Home),
        b'F' => Some(Key::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_at_every_split() {
        let bytes = b"j\x1b[A\x1bOB\n\x1b[6~\x1b[1;5C \x1b[H\xc3\x01q";
        let keys = [
            Key::Character('j'),
            Key::Up,
            Key::Down,
            Key::Enter,
            Key::PageDown,
            Key::PageDown,
            Key::Home,
            Key::Character('q'),
        ];
        for split in 0..bytes.len() {
            let mut kept = bytes[..split].to_vec();
            let mut read_keys = read(&mut kept);
            kept.extend_from_slice(&bytes[split..]);
            read_keys.extend(read(&mut kept));
            assert_eq!((read_keys.as_slice(), kept.len()), (keys.as_slice(), 0), "split at {split}");
        }
    }

    #[test]
    fn escape_is_a_key_once_nothing_follows() {
        let mut bytes = b"\x1b".to_vec();
        assert!(read(&mut bytes).is_empty());
        assert_eq!((finish(&mut bytes), bytes.len()), (vec![Key::Escape], 0));
    }
}
