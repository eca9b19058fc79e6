//! How much memory this process uses.

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
