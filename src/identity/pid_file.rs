//! The file of `--pid`, which has the number of the process.
//!
//! *Owns*: the file, from its creation until the process removes it. *Runs on*: the main thread writes it; the thread
//! that ends the process removes it. *Invariants*: a file that is not a PID file is never replaced. A reader sees the old
//! file or the whole new one. The process keeps the file locked, so that another process that got the same number later
//! is not mistaken for this one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, bail};

use crate::sys::{self, Lock};

/// The largest size that a PID file can have.
const BYTES_MAX: u64 = 32;

/// The file that this process has written.
static WRITTEN: Lock<Option<PidFile>> = Lock::new(None);

#[derive(Debug)]
struct PidFile {
    path: PathBuf,
    /// Holds the lock. A process that has changed its user empties the file with it if it may not remove the file.
    file: File,
    /// The process that has written the file. A forked child leaves the file alone.
    process: u32,
}

/// Writes the number of this process to the file, which `remove_pid_file` removes. A file that a process has left is
/// replaced. So is the file of `predecessor`, which hands its service over to this process.
///
/// # Errors
/// Another process that runs has written the file, the file is no PID file, or it cannot be written.
pub fn write_pid_file(path: &Path, predecessor: Option<u32>) -> anyhow::Result<()> {
    let path = std::path::absolute(path)?;
    let cannot = || format!("cannot write the PID file {} (--pid)", path.display());
    match owner_of(&path).with_context(cannot)? {
        Owner::Other => bail!("{} (--pid) exists and is no PID file: it is not replaced", path.display()),
        Owner::Running(other) if Some(other) != predecessor => {
            bail!("process {other} runs and has {} as its PID file (--pid): name another file", path.display())
        }
        Owner::Running(_) | Owner::Gone => {}
    }
    let file = write(&path).with_context(cannot)?;
    *WRITTEN.lock() = Some(PidFile { path, file, process: process::id() });
    Ok(())
}

/// Writes the number of this process to another file, or to none, and removes the file of before.
///
/// # Errors
/// As `write_pid_file`. The file of before stays.
pub fn change_pid_file(path: Option<&Path>) -> anyhow::Result<()> {
    let before = WRITTEN.lock().take_if(|written| written.process == process::id());
    if let Some(path) = path
        && let Err(error) = write_pid_file(path, None)
    {
        *WRITTEN.lock() = before;
        return Err(error);
    }
    before.iter().for_each(remove);
    Ok(())
}

/// Removes the file that this process has written, unless another process has replaced it.
pub fn remove_pid_file() {
    let written = WRITTEN.lock().take_if(|written| written.process == process::id());
    written.iter().for_each(remove);
}

fn remove(written: &PidFile) {
    if number_in(&written.path).is_ok_and(|number| number == Some(written.process))
        && fs::remove_file(&written.path).is_err()
        && let Err(error) = written.file.set_len(0)
    {
        log::warn!("cannot remove the PID file {}: {}", written.path.display(), sys::plain(&error));
    }
}

/// The process that a PID file belongs to.
enum Owner {
    /// The file belongs to no process that runs, or there is no file.
    Gone,
    /// This process runs.
    Running(u32),
    /// The file has something else than a number.
    Other,
}

fn owner_of(path: &Path) -> io::Result<Owner> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Owner::Gone),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(Owner::Other);
    }
    let number = match number_of(&file)? {
        Some(number) => number,
        None if file.metadata()?.len() == 0 => return Ok(Owner::Gone),
        None => return Ok(Owner::Other),
    };
    // In a container that starts again, another process may have got the number. Only the process that wrote the file
    // has it locked.
    let is_locked = !sys::lock_file(&file).unwrap_or(false);
    let runs = number != process::id() && sys::process_exists(number);
    Ok(if runs && is_locked { Owner::Running(number) } else { Owner::Gone })
}

fn number_in(path: &Path) -> io::Result<Option<u32>> {
    number_of(&File::open(path)?)
}

/// Returns the number in a PID file. `None`: it is no PID file.
fn number_of(file: &File) -> io::Result<Option<u32>> {
    let mut text = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut text)?;
    Ok(std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()))
}

/// Writes a new file beside the old one, and renames it.
fn write(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", process::id()));
    let new = PathBuf::from(name);
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
    let written = sys::lock_file(&file)
        .and_then(|_| file.write_all(format!("{}\n", process::id()).as_bytes()))
        .and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn file_has_the_number_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.pid");
        // A process that has ended has left its number.
        fs::write(&path, "999999999\n").unwrap();
        write_pid_file(&path, None).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let other = dir.path().join("other.pid");
        change_pid_file(Some(&other)).unwrap();
        assert!(other.exists() && !path.exists());
        assert!(change_pid_file(Some(dir.path())).is_err());
        assert!(other.exists());
        change_pid_file(None).unwrap();
        assert!(!other.exists());
        write_pid_file(&path, None).unwrap();
        // Another process has taken the file over: it stays.
        fs::write(&path, "1\n").unwrap();
        remove_pid_file();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");

        write_pid_file(&path, None).unwrap();
        remove_pid_file();
        assert!(!path.exists());

        // Process 1 runs. Its number counts only while the file is locked.
        fs::write(&path, "1\n").unwrap();
        let theirs = File::open(&path).unwrap();
        assert!(sys::lock_file(&theirs).unwrap());
        let error = write_pid_file(&path, None).unwrap_err().to_string();
        assert!(error.starts_with("process 1 runs and has "), "{error}");
        write_pid_file(&path, Some(1)).unwrap();
        remove_pid_file();
        assert!(!path.exists());

        fs::write(&path, "root:x:0:0").unwrap();
        assert!(write_pid_file(&path, None).unwrap_err().to_string().contains("is no PID file"));
        assert!(write_pid_file(dir.path(), None).unwrap_err().to_string().contains("is no PID file"));
    }
}
