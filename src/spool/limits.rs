//! The limit of bytes in all temporary files together.

use std::path::Path;

use crate::sys::{self, Space};

/// One MiB, in bytes.
const MIB: u64 = 1 << 20;
/// One GiB, in bytes.
const GIB: u64 = 1 << 30;
/// The largest default limit, for a large disk.
const DEFAULT_MAX: u64 = 16 * GIB;
/// The smallest default limit on a disk. A disk that is nearly full may get space again.
const DEFAULT_MIN: u64 = 64 << 20;

/// Returns the limit: the operator's, or a share of the space that is now free in `dir`. A limit on a file system in
/// memory is always logged.
pub(super) fn total(dir: &Path, given: Option<u64>) -> u64 {
    let space = space_of(dir);
    let total = given.unwrap_or_else(|| default_total(space, available_memory()));
    if space.is_memory && total > 0 {
        log::warn!(
            "{} is memory (tmpfs): temporary files may take {} MiB of it together. Name a directory on a disk with \
             --spool-dir, or another limit with --spool-total",
            dir.display(),
            total.div_ceil(1 << 20),
        );
    }
    total
}

/// Returns the limit for files in `dir` if the operator sets none.
pub fn default_total_of(dir: &Path) -> u64 {
    if dir.is_dir() { default_total(space_of(dir), available_memory()) } else { 0 }
}

/// Returns the space on a file system. If the directory does not exist, no file will be made.
fn space_of(dir: &Path) -> Space {
    sys::space_of(dir).unwrap_or(Space { available: 0, is_memory: false })
}

/// Returns a quarter of the free space; in memory, at most an eighth of the available memory.
fn default_total(space: Space, memory: Option<u64>) -> u64 {
    let quarter = space.available / 4;
    let total = if space.is_memory {
        quarter.min(memory.map_or(DEFAULT_MIN, |bytes| bytes / 8))
    } else {
        quarter.clamp(DEFAULT_MIN, DEFAULT_MAX)
    };
    // Whole mebibytes are easier to read.
    if total < MIB { total } else { total / MIB * MIB }
}

/// Returns the available memory of the machine (`MemAvailable` in `/proc/meminfo`) or of the container (cgroups(7),
/// version 2), whichever is less.
fn available_memory() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let of_machine = read("/proc/meminfo").and_then(|text| meminfo_available(&text));
    let number = |name: &str| read(&format!("/sys/fs/cgroup/memory.{name}"))?.trim().parse::<u64>().ok();
    let of_group = number("max").map(|max| max.saturating_sub(number("current").unwrap_or(0)));
    of_machine.into_iter().chain(of_group).min()
}

fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_a_quarter_of_the_disk_within_bounds() {
        let disk = |available| default_total(Space { available, is_memory: false }, Some(GIB));
        assert_eq!(disk(40 * GIB), 10 * GIB);
        assert_eq!(disk(4000 * GIB), 16 * GIB);
        assert_eq!(disk(0), 64 * MIB);
    }

    #[test]
    fn default_in_memory_is_a_share_of_memory() {
        let memory = |available, memory| default_total(Space { available, is_memory: true }, memory);
        assert_eq!(memory(16 * GIB, Some(8 * GIB)), GIB);
        assert_eq!(memory(GIB, Some(64 * GIB)), GIB / 4);
        assert_eq!(memory(16 * GIB, None), 64 * MIB);
        assert_eq!(memory(0, Some(GIB)), 0);
    }

    #[test]
    fn available_memory_is_read_in_bytes() {
        assert_eq!(meminfo_available("MemTotal:  5 kB\nMemAvailable:   12 kB\nBuffers: 1 kB\n"), Some(12 * 1024));
        assert_eq!(meminfo_available("MemTotal:  5 kB\n"), None);
    }
}
