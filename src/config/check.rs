//! Checks the rules between settings, and settings against the file system.
//!
//! *Owns*: nothing. *Runs on*: the main thread, or the thread that makes a server. *Invariants*: `check` looks only at
//! the values, so its result is the same on every machine; `check_paths` looks at this machine.

use std::path::Path;

use super::{Bind, Config, ListenAddress, LogTarget};

impl Config {
    /// Checks the rules between settings.
    ///
    /// # Errors
    /// A sentence that says which rule is broken.
    pub fn check(&self) -> Result<(), String> {
        for (index, address) in self.bind.iter().enumerate() {
            let any_free_port = matches!(address.address, ListenAddress::Tcp { port: 0, .. });
            let is_same = |other: &Bind| other.address == address.address;
            if !any_free_port && self.bind[..index].iter().any(is_same) {
                return Err(format!("--bind names {} twice", address.address));
            }
        }
        for (option, limit) in [
            ("--limit-request-line", self.limit_request_line),
            ("--limit-request-field-size", self.limit_request_field_size),
        ] {
            if limit > self.limit_request_head.as_usize() {
                let head = self.limit_request_head;
                return Err(format!("{option} ({limit}) must not be larger than --limit-request-head ({head})"));
            }
        }
        if self.request_buffer > self.max_body_size {
            let (buffer, max) = (self.request_buffer, self.max_body_size);
            return Err(format!("--request-buffer ({buffer}) must not be larger than --max-body-size ({max})"));
        }
        self.files.check()?;
        self.check_sites()?;
        self.check_tls()?;
        self.check_status()?;
        self.check_processes()
    }

    /// Checks that `--chdir` is a directory, that the application is not a file of settings, and that the log files are
    /// not directories.
    ///
    /// # Errors
    /// A sentence that says which path is wrong.
    pub fn check_paths(&self) -> Result<(), String> {
        if let Some(dir) = &self.chdir
            && !dir.is_dir()
        {
            let why = if dir.exists() { "is not one" } else { "does not exist" };
            return Err(format!("--chdir must be a directory, and {} {why}", dir.display()));
        }
        let base = self.chdir.clone().unwrap_or_default();
        if let Some(sentence) = self.application.as_deref().and_then(|name| instead_of_settings(name, &base)) {
            return Err(sentence);
        }
        self.files.check_paths(&base)?;
        for (option, target) in [("--access-logfile", &self.access_logfile), ("--error-logfile", &self.error_logfile)] {
            if let LogTarget::File(path) = target
                && base.join(path).is_dir()
            {
                return Err(format!("{option} must be a file, and {} is a directory", path.display()));
            }
        }
        Ok(())
    }
}

/// Returns how a file of settings is used that was named in the place of the application: `maypole uwsgi.ini`.
fn instead_of_settings(name: &str, base: &Path) -> Option<String> {
    let instead = match Path::new(name).extension()?.to_str()? {
        "toml" => format!("`maypole --config {name}` reads it"),
        "ini" => format!(
            "`maypole migrate {name}` makes a TOML file of settings of uWSGI, and `maypole --paste {name}` serves the \
             application that a file of PasteDeploy names"
        ),
        "yaml" | "yml" | "xml" => format!("`maypole migrate {name}` makes a TOML file of settings of uWSGI"),
        _ => return None,
    };
    // A module may have such a name, too: `shop.ini` is the module `ini` of the package `shop`.
    base.join(name).is_file().then(|| format!("{name} is a file of settings, and no application: {instead}"))
}
