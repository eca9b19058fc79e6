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

    /// Send files below this directory that the application names in `X-Sendfile` or `X-Accel-Redirect`. Repeatable
    ///
    /// The application decides, and the server sends: its response has the field and an empty body, and the server sends
    /// the file instead, without Python and without a place in the pool. `X-Sendfile` has the path of a file.
    /// `X-Accel-Redirect` has a path of a URL, which needs `--sendfile-root /PREFIX=DIR`: with `/protected=/srv/media`,
    /// `/protected/a.pdf` is `/srv/media/a.pdf`. The client never sees the fields. A file outside the directories gets
    /// 500. Without the setting, the fields pass as the application gave them, for a proxy. See
    /// [files of the application](../static.md#files-that-the-application-names).
    #[arg(long, value_name = "[/PREFIX=]DIR", value_delimiter = ',', value_parser = SendfileRoot::parse)]
    #[arg(help_heading = FILES)]
    pub sendfile_root: Vec<SendfileRoot>,
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

/// A directory whose files the application may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendfileRoot {
    /// The beginning of the paths in `X-Accel-Redirect` that stand for it: `/protected`. `None`: no such path does.
    pub prefix: Option<String>,
    /// The directory.
    pub directory: PathBuf,
}

impl SendfileRoot {
    /// Reads `DIR` or `/PREFIX=DIR`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || (text.contains('=') && !text.starts_with('/')) {
            return Err("expected DIR or /PREFIX=DIR, such as /protected=media".to_owned());
        }
        if text.contains('=') {
            let StaticFiles { prefix, directory } = StaticFiles::parse(text)?;
            return Ok(Self { prefix: Some(prefix), directory });
        }
        Ok(Self { prefix: None, directory: PathBuf::from(text) })
    }
}

impl fmt::Display for SendfileRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.as_deref() {
            None => write!(f, "{}", self.directory.display()),
            Some(prefix) => write!(f, "{}={}", if prefix.is_empty() { "/" } else { prefix }, self.directory.display()),
        }
    }
}

impl FileSettings {
    /// Returns the settings with their values.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(",") };
        let cache_control = self.static_cache_control.clone().unwrap_or_else(|| "none".to_owned());
        vec![
            ("static", list(self.static_files.iter().map(ToString::to_string).collect())),
            ("static_cache_control", cache_control),
            ("sendfile_root", list(self.sendfile_root.iter().map(ToString::to_string).collect())),
        ]
    }

    /// Returns each directory with the setting that names it, and the prefix, if it has one.
    fn directories(&self) -> impl Iterator<Item = (String, &Path, Option<&str>)> {
        let of_static = self
            .static_files
            .iter()
            .map(|files| (format!("--static {files}"), files.directory.as_path(), Some(files.prefix.as_str())));
        of_static.chain(
            self.sendfile_root
                .iter()
                .map(|root| (format!("--sendfile-root {root}"), root.directory.as_path(), root.prefix.as_deref())),
        )
    }

    /// Checks that no option has a prefix twice.
    pub(super) fn check(&self) -> Result<(), String> {
        let option = |setting: &str| setting.split(' ').next().unwrap_or_default().to_owned();
        let named: Vec<_> =
            self.directories().filter_map(|(setting, _, prefix)| Some((option(&setting), prefix?))).collect();
        for (index, named_here) in named.iter().enumerate() {
            if named[..index].contains(named_here) {
                let (option, prefix) = named_here;
                return Err(format!("{option} names {} twice", if prefix.is_empty() { "/" } else { *prefix }));
            }
        }
        Ok(())
    }

    /// Checks that the directories are there. `base` is the directory that relative ones are below.
    pub(super) fn check_paths(&self, base: &Path) -> Result<(), String> {
        for (setting, directory, _) in self.directories() {
            let directory = base.join(directory);
            if !directory.is_dir() {
                let why = if directory.exists() { "is not one" } else { "does not exist" };
                return Err(format!("{setting}: it must be a directory, and {} {why}", directory.display()));
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

    #[test]
    fn root_of_the_application_may_have_a_prefix() {
        for (text, prefix, directory) in [
            ("media", None, "media"),
            (" /srv/media ", None, "/srv/media"),
            ("/protected/=media", Some("/protected"), "media"),
            ("/=media", Some(""), "media"),
        ] {
            let read = SendfileRoot::parse(text).unwrap();
            let expected = (prefix.map(str::to_owned), PathBuf::from(directory));
            assert_eq!((read.prefix, read.directory), expected, "{text}");
        }
        for text in ["", " ", "a=b", "/a=", "/a//b=c"] {
            assert!(SendfileRoot::parse(text).is_err(), "{text}");
        }
    }
}
