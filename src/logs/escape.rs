//! Escapes text from clients and applications for log lines.
//!
//! *Owns*: nothing. *Runs on*: any thread. *Invariants*: the values of an access line become printable ASCII without an
//! unescaped `"`; a JSON string is ASCII and valid; an error message keeps its lines, but none of them can look like
//! the start of a log entry.

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The bytes that need no escape in an access line: printable ASCII except `"` and `\`.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

/// Appends `bytes` to an access line: `\"`, `\\`, and `\xHH` for all bytes that are not printable ASCII.
pub(super) fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    push_with(out, bytes, |out, byte| match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        _ => push_hex(out, byte),
    });
}

/// Appends a value that has no quotes around it. Also escapes spaces, because a space would begin the next value.
pub(super) fn push_word(out: &mut Vec<u8>, bytes: &[u8]) {
    for (index, word) in bytes.split(|byte| *byte == b' ').enumerate() {
        if index > 0 {
            push_hex(out, b' ');
        }
        push_escaped(out, word);
    }
}

/// Appends `bytes` as a JSON string with its quotes. A byte outside ASCII is written as the latin-1 character of that
/// number, so that no byte is lost in any encoding.
pub(super) fn push_json(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    push_with(out, bytes, |out, byte| match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        _ => {
            out.extend_from_slice(b"\\u00");
            push_digits(out, byte);
        }
    });
    out.push(b'"');
}

/// Appends an error message. Line breaks and tabs stay. Other control characters, and characters that change the
/// direction of writing, are escaped. A continuation line that begins with `[`, like a log entry, gets a leading space.
pub(super) fn push_message(out: &mut Vec<u8>, message: &str) {
    for (index, line) in message.trim_end_matches('\n').split('\n').enumerate() {
        if index > 0 {
            out.push(b'\n');
            if line.starts_with('[') {
                out.push(b' ');
            }
        }
        push_line(out, line);
    }
}

fn push_line(out: &mut Vec<u8>, line: &str) {
    let mut rest = line;
    while let Some(at) = rest.find(is_harmful) {
        let (harmless, tail) = rest.split_at(at);
        out.extend_from_slice(harmless.as_bytes());
        let mut characters = tail.chars();
        if let Some(character) = characters.next() {
            match u8::try_from(character) {
                Ok(byte) => push_hex(out, byte),
                Err(_) => out.extend(character.escape_unicode().map(|c| c as u8)),
            }
        }
        rest = characters.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

fn is_harmful(character: char) -> bool {
    match character {
        '\t' => false,
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        _ => character.is_control(),
    }
}

/// Appends `bytes`: plain bytes unchanged, every other byte through `escape`.
fn push_with(out: &mut Vec<u8>, bytes: &[u8], escape: impl Fn(&mut Vec<u8>, u8)) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| !PLAIN[usize::from(*byte)]) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain);
        if let Some((byte, tail)) = tail.split_first() {
            escape(out, *byte);
            rest = tail;
        }
    }
    out.extend_from_slice(rest);
}

/// Appends `\xHH`.
fn push_hex(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(b"\\x");
    push_digits(out, byte);
}

fn push_digits(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(push: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn value_with_every_byte_stays_printable() {
        let every: Vec<u8> = (0..=255).collect();
        let line = text(|out| push_escaped(out, &every));
        assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        assert!(line.starts_with("\\x00\\x01"));
        assert!(line.contains("!\\\"#") && line.contains("[\\\\]") && line.contains("~\\x7f\\x80"));
        assert!(line.ends_with("\\xfe\\xff"));
    }

    #[test]
    fn value_that_would_forge_a_line_stays_in_its_own() {
        let line = text(|out| push_escaped(out, b"x\r\n1.2.3.4 - - \"GET\x1b[31m"));
        assert_eq!(line, r#"x\x0d\x0a1.2.3.4 - - \"GET\x1b[31m"#);
    }

    #[test]
    fn word_with_spaces_stays_one_word() {
        assert_eq!(text(|out| push_word(out, b"a b  \"c")), r#"a\x20b\x20\x20\"c"#);
    }

    #[test]
    fn json_with_every_byte_is_ascii() {
        let every: Vec<u8> = (0..=255).collect();
        let json = text(|out| push_json(out, &every));
        assert!(json.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        assert_eq!(text(|out| push_json(out, b"a\"\\\n\xe9")), r#""a\"\\\u000a\u00e9""#);
    }

    #[test]
    fn message_of_several_lines_stays_whole() {
        let message = "Traceback\n\tFile \"é\"\nValueError: x\n";
        assert_eq!(text(|out| push_message(out, message)), "Traceback\n\tFile \"é\"\nValueError: x");
    }

    #[test]
    fn message_that_would_forge_a_line_is_set_apart() {
        let message = "bad value\n[2026-11-21 05:00:00.000 +0000] [1] [ERROR] forged\r\x1b[2J\u{85}\u{202e}";
        let expected = "bad value\n [2026-11-21 05:00:00.000 +0000] [1] [ERROR] forged\\x0d\\x1b[2J\\x85\\u{202e}";
        assert_eq!(text(|out| push_message(out, message)), expected);
    }
}
