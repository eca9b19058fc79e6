//! What the name of a file says: its content type, and whether it may exist compressed.
//!
//! *Runs on*: the connection's coroutine.

use std::path::Path;

use crate::http::{RequestHead, quality_of};

/// A content coding, and the suffix of the files that have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Coding {
    /// `br`
    pub(super) name: &'static str,
    /// `.br`
    pub(super) suffix: &'static str,
}

/// The codings, the smallest files first.
const CODINGS: [Coding; 3] = [
    Coding { name: "br", suffix: ".br" },
    Coding { name: "zstd", suffix: ".zst" },
    Coding { name: "gzip", suffix: ".gz" },
];

/// Returns the content type of a file, from the end of its name.
pub(super) fn content_type(path: &Path) -> String {
    let guess = mime_guess::from_path(path).first_or_octet_stream();
    match guess.essence_str() {
        // RFC 9239 §6.
        "application/javascript" => "text/javascript; charset=utf-8".to_owned(),
        text if guess.type_() == mime_guess::mime::TEXT => format!("{text}; charset=utf-8"),
        other => other.to_owned(),
    }
}

/// Returns whether a file of this content type becomes smaller if it is compressed.
pub(super) fn is_compressible(content_type: &str) -> bool {
    let (kind, subtype) = content_type.split_once('/').unwrap_or_default();
    match kind {
        "image" => subtype.starts_with("svg") || subtype == "bmp" || subtype.contains("icon"),
        "audio" | "video" => false,
        "font" => !subtype.starts_with("woff"),
        _ => !["zip", "gzip", "x-bzip2", "x-xz", "x-7z-compressed", "zstd", "vnd.rar"].contains(&subtype),
    }
}

/// Returns the codings that the client accepts, its favourites first (RFC 9110 §12.5.3). A coding that it takes less
/// gladly than the file as it is (`identity`) is none of them.
pub(super) fn accepted(head: &RequestHead) -> Vec<Coding> {
    let quality = |name: &str| quality_of(head, b"accept-encoding", name.as_bytes());
    let least = quality("identity").max(1);
    let mut accepted: Vec<_> =
        CODINGS.iter().map(|coding| (quality(coding.name), *coding)).filter(|(q, _)| *q >= least).collect();
    accepted.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
    accepted.into_iter().map(|(_, coding)| coding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_type_follows_the_name() {
        for (name, expected) in [
            ("a.css", "text/css; charset=utf-8"),
            ("a.html", "text/html; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.mjs", "text/javascript; charset=utf-8"),
            ("a.txt", "text/plain; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.svg", "image/svg+xml"),
            ("a.PNG", "image/png"),
            ("a.wasm", "application/wasm"),
            ("a.woff2", "font/woff2"),
            ("a.webmanifest", "application/manifest+json"),
            ("a", "application/octet-stream"),
            ("a.unknown", "application/octet-stream"),
        ] {
            assert_eq!(content_type(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn files_that_are_compressed_already_are_not_looked_for_again() {
        for name in ["a.css", "a.js", "a.json", "a.svg", "a.ico", "a.ttf", "a.unknown", "a.wasm", "a.xml", "a.pdf"] {
            assert!(is_compressible(&content_type(Path::new(name))), "{name}");
        }
        for name in ["a.png", "a.jpg", "a.webp", "a.mp4", "a.mp3", "a.woff2", "a.zip", "a.gz"] {
            assert!(!is_compressible(&content_type(Path::new(name))), "{name}");
        }
    }
}
