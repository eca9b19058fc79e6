//! How much memory and how many descriptors processes use.

use std::fs;

/// Returns how much memory this process has for itself, in bytes, if that may be more than `bytes`. Otherwise, returns an
/// upper bound that is cheaper to find. `None` if the kernel does not say. (`proc_pid_status(5)`, `proc_pid_smaps(5)`.)
pub fn own_memory(bytes: u64) -> Option<u64> {
    // What is not a file's, which includes pages that are still the same as in the parent process of a fork.
    let anonymous = field("/proc/self/status", "RssAnon:")?;
    if anonymous <= bytes {
        return Some(anonymous);
    }
    // The kernel walks over all pages for this: some milliseconds for a gigabyte.
    Some(field("/proc/self/smaps_rollup", "Private_Dirty:").unwrap_or(anonymous))
}

/// Returns how much memory of a process is resident, in bytes. `None` if the process has ended, or belongs to another user.
pub fn resident_memory(pid: u32) -> Option<u64> {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Returns how many descriptors a process has open. `None` as for `resident_memory`. (`proc_pid_fd(5)`.)
pub fn open_descriptors(pid: u32) -> Option<u64> {
    let dir = format!("/proc/{pid}/fd");
    // Since Linux 6.2 the size is the number. Before, it is 0.
    let known = fs::metadata(&dir).ok()?.len();
    if known > 0 { Some(known) } else { Some(fs::read_dir(dir).ok()?.count() as u64) }
}

/// Returns a field with a unit of KiB, in bytes.
fn field(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn another_process_is_measured_until_it_has_ended() {
        // The kernel shows a process that has just begun without memory.
        let own = std::process::id();
        assert!(resident_memory(own).is_some_and(|bytes| bytes > 4096));
        assert!(open_descriptors(own).is_some_and(|number| number >= 3));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(resident_memory(child.id()).is_some() && open_descriptors(child.id()).is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((resident_memory(child.id()), open_descriptors(child.id())), (None, None));
    }

    /// Memory of a process counts for all of its tests, so this one starts the test program again for itself alone.
    #[test]
    fn memory_that_was_touched_counts() {
        const ALONE: &str = "MAYPOLE_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "sys::usage::tests::memory_that_was_touched_counts", "--test-threads", "1"])
                .env(ALONE, "1")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        let before = own_memory(0).unwrap();
        let touched = vec![7_u8; 128 << 20];
        // The kernel counts per processor, and adds the counts up late.
        let after = own_memory(0).unwrap();
        assert!(after >= before + (96 << 20), "{before} {after}");
        let bound = own_memory(u64::MAX).unwrap();
        assert!(bound >= before + (96 << 20), "{before} {bound}");
        drop(touched);
    }
}
