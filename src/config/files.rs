//! The settings of files that are served without the application.
//!
//! *Owns*: `FileSettings`, a part of `Config`. *Runs on*: the main thread, while the settings are read. *Invariants*: as
//! for `Config`. A prefix begins with a slash and does not end with one; that of the whole site is empty.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::FILES;

const EXPECTED: &str = "expected /PREFIX=DIR, such as /static=public/static";

/// The settings of files that are served without the application.
#[derive(Debug, Clone, Args)]
pub struct FileSettings {
    /// Serve the files of a directory below this prefix, without Python: `--static /static=public`. Repeatable
    ///
    /// A request below the prefix never reaches the application: without a file it gets 404. Of several prefixes the
    /// longest counts. `index.html` stands for its directory; there are no listings. Beside `app.css` may lie
    /// `app.css.br`, `.zst` or `.gz`, for clients that accept them. Hidden files and symbolic links that leave the
    /// directory are not served. A variable separates several by commas. See [static files](../static.md).
    #[arg(long = "static", id = "static", value_name = "/PREFIX=DIR", value_delimiter = ',')]
    #[arg(value_parser = StaticFiles::parse, help_heading = FILES)]
    pub static_files: Vec<StaticFiles>,

    /// Send this `Cache-Control` with each file, such as `public, max-age=3600`. Default: none
    ///
    /// A client without it asks again whether the file has changed, which costs a request but no file. For names that
    /// change with the content, as those of Django's `ManifestStaticFilesStorage`, use
    /// `public, max-age=31536000, immutable`.
    #[arg(long, value_name = "VALUE", value_parser = cache_control, help_heading = FILES)]
    pub static_cache_control: Option<String>,
}

/// Reads the value of a `Cache-Control` field.
fn cache_control(text: &str) -> Result<String, String> {
    let is_printable = |byte: u8| matches!(byte, b' '..=b'~');
    let text = text.trim();
    let is_value = !text.is_empty() && text.bytes().all(is_printable);
    if is_value { Ok(text.to_owned()) } else { Err("expected directives such as public, max-age=3600".to_owned()) }
}

/// A prefix of the path, and the directory whose files are below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticFiles {
    /// `/static`
    pub prefix: String,
    /// The directory.
    pub directory: PathBuf,
}

impl StaticFiles {
    /// Reads `/PREFIX=DIR`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (prefix, directory) = text.split_once('=').ok_or(EXPECTED)?;
        let (prefix, directory) = (prefix.trim(), directory.trim());
        if !prefix.starts_with('/') || directory.is_empty() {
            return Err(EXPECTED.to_owned());
        }
        let prefix = prefix.trim_end_matches('/');
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;:@".contains(&byte);
        if prefix.contains("//")
            || prefix.split('/').any(|part| matches!(part, "." | ".."))
            || !prefix.bytes().all(is_plain)
        {
            return Err("the prefix must be a path as URLs have it, such as /static".to_owned());
        }
        Ok(Self { prefix: prefix.to_owned(), directory: PathBuf::from(directory) })
    }
}

impl fmt::Display for StaticFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.prefix.is_empty() { "/" } else { &self.prefix };
        write!(f, "{prefix}={}", self.directory.display())
    }
}

impl FileSettings {
    /// Returns the settings with their values.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let files = self.static_files.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let files = if files.is_empty() { "none".to_owned() } else { files };
        let cache_control = self.static_cache_control.clone().unwrap_or_else(|| "none".to_owned());
        vec![("static", files), ("static_cache_control", cache_control)]
    }

    /// Checks that no prefix is there twice.
    pub(super) fn check(&self) -> Result<(), String> {
        for (index, files) in self.static_files.iter().enumerate() {
            if self.static_files[..index].iter().any(|before| before.prefix == files.prefix) {
                let prefix = if files.prefix.is_empty() { "/" } else { &files.prefix };
                return Err(format!("--static names {prefix} twice"));
            }
        }
        Ok(())
    }

    /// Checks that the directories are there. `base` is the directory that relative ones are below.
    pub(super) fn check_paths(&self, base: &Path) -> Result<(), String> {
        for files in &self.static_files {
            let directory = base.join(&files.directory);
            if !directory.is_dir() {
                let why = if directory.exists() { "is not one" } else { "does not exist" };
                return Err(format!("--static {files}: it must be a directory, and {} {why}", directory.display()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn prefix_and_directory_are_read() {
        for (text, prefix, directory) in [
            ("/static=public", "/static", "public"),
            ("/static/=/srv/www/", "/static", "/srv/www/"),
            ("/=site", "", "site"),
            ("/a/b.c=x=y", "/a/b.c", "x=y"),
        ] {
            let read = StaticFiles::parse(text).unwrap();
            assert_eq!((read.prefix.as_str(), read.directory.to_str().unwrap()), (prefix, directory), "{text}");
        }
        for text in
            ["", "static=public", "/static", "/static=", "=public", "/a//b=x", "/a/../b=x", "/a b=x", "/%61=x", "/ä=x"]
        {
            assert!(StaticFiles::parse(text).is_err(), "{text}");
        }
    }
}
