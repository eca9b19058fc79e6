//! Memory that several processes share: words of 64 bits, each read and written as a whole.
//!
//! *Runs on*: any thread of any process that has the descriptor. *Invariants*: the memory keeps its size while a
//! process has it, because its descriptor is sealed. It begins as zeros.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

/// The seals that fix the size (`fcntl(2)`).
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// Makes an empty file in memory, which is closed on exec(2).
///
/// # Errors
/// The process has no descriptor left.
pub fn memory_file() -> io::Result<std::fs::File> {
    // SAFETY: memfd_create(2) makes a descriptor, which has no other owner. The name ends with a zero byte.
    unsafe {
        let fd = libc::memfd_create(c"maypole".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd).into()) }
    }
}

/// Shared memory, mapped into this process. A page that no process has touched takes no memory.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory stays mapped until the value is dropped, and is used as atomic words only.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Makes memory of `count` words.
    ///
    /// # Errors
    /// The process has no descriptor or no address space left.
    pub fn create(count: usize) -> io::Result<Self> {
        // SAFETY: memfd_create(2) makes a descriptor, which has no other owner. The name ends with a zero byte.
        let fd = unsafe {
            let fd = libc::memfd_create(c"maypole".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let bytes = libc::off_t::try_from(bytes_of(count)).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: plain calls on a descriptor that is ours.
        let sealed = unsafe {
            libc::ftruncate(fd.as_raw_fd(), bytes) == 0 && libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) == 0
        };
        if !sealed {
            return Err(io::Error::last_os_error());
        }
        Self::map(fd, count)
    }

    /// Maps the memory of a descriptor that another process has made by `create`.
    ///
    /// # Errors
    /// The descriptor is no such memory, or has fewer words. There is no address space left.
    pub fn open(fd: OwnedFd, count: usize) -> io::Result<Self> {
        // SAFETY: plain calls, and an all-zero structure is valid memory for the second.
        let (seals, size) = unsafe {
            let mut status: libc::stat = std::mem::zeroed();
            let found = libc::fstat(fd.as_raw_fd(), &raw mut status) == 0;
            (libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS), if found { status.st_size } else { 0 })
        };
        // Reading beyond the end would end the process by SIGBUS. A descriptor of another kind has -1 as its seals.
        let is_sealed = seals > 0 && seals & SEALS == SEALS;
        if !is_sealed || usize::try_from(size).unwrap_or(0) < bytes_of(count) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no shared memory of the expected size"));
        }
        Self::map(fd, count)
    }

    fn map(fd: OwnedFd, count: usize) -> io::Result<Self> {
        let (rights, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes_of(count), rights, shared, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { fd, start, count })
    }

    /// Returns the words.
    #[inline]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, begins at a page, and lives as long as `self`. The seals keep every
        // process from making it smaller. Words are atomic, so other processes may write them at any time.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference to it is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), bytes_of(self.count)) };
    }
}

fn bytes_of(count: usize) -> usize {
    count.saturating_mul(size_of::<AtomicU64>())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn word_that_one_mapping_writes_is_read_in_another() {
        let one = SharedMemory::create(1024).unwrap();
        let other = SharedMemory::open(one.as_fd().try_clone_to_owned().unwrap(), 1024).unwrap();
        assert_eq!(other.words()[1023].load(Ordering::Relaxed), 0);
        one.words()[1023].store(7, Ordering::Relaxed);
        assert_eq!(other.words()[1023].load(Ordering::Relaxed), 7);
        drop(one);
        assert_eq!(other.words()[1023].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn descriptor_that_could_shrink_is_refused() {
        let memory = SharedMemory::create(512).unwrap();
        assert!(SharedMemory::open(memory.as_fd().try_clone_to_owned().unwrap(), 513).is_err());
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(SharedMemory::open(file.into(), 512).is_err());
        let sealed = std::fs::File::from(memory.as_fd().try_clone_to_owned().unwrap());
        assert!(sealed.set_len(0).is_err());
    }
}
