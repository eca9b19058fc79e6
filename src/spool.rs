//! Bytes in memory up to a limit, then in an unlinked temporary file.
//!
//! *Owns*: one body while it is being received, and the thread that writes files for those who must not wait. *Runs on*:
//! the connection's coroutine while a body is written (the page cache takes the bytes), then on whichever thread reads it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use crossbeam::channel::Sender;

/// A body that is being, or has been, received.
#[derive(Debug)]
pub struct Spool {
    memory: Vec<u8>,
    memory_bytes_max: usize,
    file: Option<File>,
    bytes: u64,
    dir: PathBuf,
}

/// What a spool holds when it is read.
#[derive(Debug)]
pub enum Content {
    /// All bytes, in memory.
    Memory(Vec<u8>),
    /// All bytes, in a file whose position is undefined.
    File(File),
}

impl Spool {
    /// An empty spool that keeps at most `memory_bytes_max` bytes in memory and makes its file in `dir`.
    pub fn new(memory_bytes_max: usize, dir: &Path) -> Self {
        Self { memory: Vec::new(), memory_bytes_max, file: None, bytes: 0, dir: dir.to_owned() }
    }

    /// A spool that holds these bytes.
    pub fn from_bytes(memory: Vec<u8>) -> Self {
        let bytes = memory.len() as u64;
        Self { memory_bytes_max: memory.len(), memory, file: None, bytes, dir: PathBuf::new() }
    }

    /// Makes room for a body of that many bytes, as far as memory is meant to hold it.
    pub fn reserve(&mut self, bytes: u64) {
        if let Some(bytes) = usize::try_from(bytes).ok().filter(|&bytes| bytes <= self.memory_bytes_max) {
            self.memory.reserve_exact(bytes);
        }
    }

    /// Appends.
    ///
    /// # Errors
    /// The temporary file cannot be made or written (no space, no permission).
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(data)?;
        } else if self.memory.len() + data.len() <= self.memory_bytes_max {
            self.memory.extend_from_slice(data);
        } else {
            let mut file = temporary_file(&self.dir)?;
            file.write_all(&self.memory)?;
            file.write_all(data)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        self.bytes += data.len() as u64;
        Ok(())
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The bytes, to be read.
    pub fn into_content(self) -> Content {
        match self.file {
            Some(file) => Content::File(file),
            None => Content::Memory(self.memory),
        }
    }
}

/// A new temporary file without a name: it goes when it is closed, and nobody else can open it.
pub fn temporary_file(dir: &Path) -> io::Result<File> {
    tempfile::tempfile_in(dir)
}

/// A file that holds these bytes.
pub fn store(bytes: &[u8], dir: &Path) -> io::Result<File> {
    let mut file = temporary_file(dir)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Has a thread of its own do work on files that a coroutine must not wait for, one piece after the other.
pub fn in_background(work: impl FnOnce() + Send + 'static) {
    type Work = Box<dyn FnOnce() + Send>;
    static QUEUE: OnceLock<Sender<Work>> = OnceLock::new();
    let queue = QUEUE.get_or_init(|| {
        let (queue, work) = crossbeam::channel::unbounded::<Work>();
        let started =
            thread::Builder::new().name("maypole-disk".into()).spawn(move || work.iter().for_each(|work| work()));
        if let Err(error) = started {
            log::error!("cannot start the thread for temporary files: {error}");
        }
        queue
    });
    // Without the thread the work is done here, however long that takes.
    if let Err(refused) = queue.send(Box::new(work)) {
        (refused.0)();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn body_within_the_limit_stays_in_memory() {
        let mut spool = Spool::new(4, &std::env::temp_dir());
        spool.write(b"ab").unwrap();
        spool.write(b"cd").unwrap();
        assert_eq!(spool.len(), 4);
        assert!(matches!(spool.into_content(), Content::Memory(bytes) if bytes == b"abcd"));
    }

    #[test]
    fn body_over_the_limit_moves_to_a_file_whole() {
        let mut spool = Spool::new(4, &std::env::temp_dir());
        spool.write(b"abc").unwrap();
        spool.write(b"de").unwrap();
        spool.write(b"f").unwrap();
        assert_eq!(spool.len(), 6);
        let Content::File(mut file) = spool.into_content() else { panic!("still in memory") };
        let mut all = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut all).unwrap();
        assert_eq!(all, "abcdef");
    }

    #[test]
    fn spool_whose_directory_is_missing_says_so() {
        let mut spool = Spool::new(1, Path::new("/nonexistent/maypole"));
        assert!(spool.write(b"abc").is_err());
    }
}
