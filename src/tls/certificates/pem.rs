//! Files in PEM: reading them, and saying what is wrong with one.
//!
//! *Owns*: nothing. *Runs on*: any plain thread. *Invariants*: no sentence contains a line of a file, because the line
//! may be that of a key. *Source*: RFC 7468.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use pem::{Pem, PemError};

use crate::sys;

/// The largest file that is read, in bytes. A file with all authorities of a browser has a quarter of a MiB.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What each part of a file begins with.
const BEGIN: &[u8] = b"-----BEGIN ";

/// The label of a certificate.
pub(super) const CERTIFICATE: &str = "CERTIFICATE";

/// The parts of a file, in their order.
#[derive(Debug)]
pub(super) struct PemFile<'a> {
    /// The option that names the file.
    pub(super) option: &'static str,
    pub(super) path: &'a Path,
    pub(super) parts: Vec<Pem>,
}

impl<'a> PemFile<'a> {
    /// Reads the file that an option names.
    ///
    /// # Errors
    /// A sentence that names the file, and what is wrong with it.
    pub(super) fn read(option: &'static str, path: &'a Path) -> Result<Self, String> {
        let file = Self { option, path, parts: Vec::new() };
        let unreadable = |error| file.wrong(&format!("cannot be read: {}", sys::plain(&error)));
        let bytes = read_bounded(path).map_err(unreadable)?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(file.wrong("is empty"));
        }
        if bytes.starts_with(&[0x30]) {
            let text = "is in DER: `openssl x509 -inform der -in FILE -out FILE.pem` makes PEM of a certificate, and \
                        `openssl pkcs8 -topk8 -nocrypt -inform der -in FILE -out FILE.pem` of a key";
            return Err(file.wrong(text));
        }
        let parts = pem::parse_many(&bytes).map_err(|error| file.wrong(&format!("is damaged: {}", fault(&error))))?;
        if parts.is_empty() {
            return Err(
                file.wrong("is not in PEM: it has no line that begins with -----BEGIN and a last one with -----END")
            );
        }
        // The parser ends at a part without an end.
        if bytes.windows(BEGIN.len()).filter(|bytes| *bytes == BEGIN).count() > parts.len() {
            return Err(file.wrong("is damaged: its last part has no line that begins with -----END"));
        }
        Ok(Self { parts, ..file })
    }

    /// Returns the DER of the parts with a label.
    ///
    /// # Errors
    /// There is none. The sentence says what is there instead.
    pub(super) fn all(&self, label: &str, what: &str) -> Result<Vec<&[u8]>, String> {
        let found: Vec<_> = self.parts.iter().filter(|part| part.tag() == label).map(Pem::contents).collect();
        if found.is_empty() {
            return Err(self.has_no(what));
        }
        Ok(found)
    }

    /// Returns that the file has something else.
    pub(super) fn has_no(&self, what: &str) -> String {
        let labels: Vec<_> = self.parts.iter().map(Pem::tag).collect();
        self.wrong(&format!("has no {what}, but {}", labels.join(", ")))
    }

    /// Returns a sentence about the file.
    pub(super) fn wrong(&self, what: &str) -> String {
        format!("{} {} {what}", self.option, self.path.display())
    }
}

/// Returns what is wrong. The sentences of the parser may contain lines of the file.
fn fault(error: &PemError) -> &'static str {
    match error {
        PemError::MismatchedTags(..) => "a part begins with another label than it ends with",
        PemError::InvalidData(_) => "a part is not in base64",
        PemError::InvalidHeader(_) => "a part has an empty line in its middle",
        PemError::NotUtf8(_) => "a part has bytes that are not text",
        _ => "a part has no label",
    }
}

/// Reads a file that has a usual length. It may be one whose length the system does not know.
///
/// # Errors
/// The file cannot be read, or it is longer.
pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::*;

    fn error(content: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pem");
        fs::write(&path, content).unwrap();
        let read = PemFile::read("--certfile", &path);
        let error = read.and_then(|file| file.all(CERTIFICATE, "certificate").map(drop)).unwrap_err();
        error.strip_prefix(&format!("--certfile {} ", path.display())).unwrap().to_owned()
    }

    #[test]
    fn file_that_is_wrong_says_how() {
        assert_eq!(error(b" \n"), "is empty");
        assert!(error(b"\x30\x82").starts_with("is in DER: `openssl"));
        assert!(error(b"hello").starts_with("is not in PEM"));
        assert!(error(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").starts_with("is damaged"));
        assert_eq!(
            error(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            "has no certificate, but PRIVATE KEY"
        );
        let missing = PemFile::read("--keyfile", Path::new("/nonexistent/x")).unwrap_err();
        assert_eq!(missing, "--keyfile /nonexistent/x cannot be read: No such file or directory");
    }
}
