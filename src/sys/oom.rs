//! The memory of the control group of this process.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns how many processes of this control group the kernel has killed because its memory ran out. `None` if the
/// kernel does not say (`cgroups(7)`).
pub fn out_of_memory_kills() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups.lines().find_map(|line| counted(&fs::read_to_string(file_of(line)?).ok()?))
}

/// Returns the file with the counter of a line of `/proc/self/cgroup`: `0::/system.slice` in version 2,
/// `9:memory:/system.slice` in version 1.
fn file_of(line: &str) -> Option<PathBuf> {
    let mut fields = line.splitn(3, ':');
    let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let below = |root: &str, file: &str| Path::new(root).join(path.trim_start_matches('/')).join(file);
    if number == "0" && controllers.is_empty() {
        return Some(below("/sys/fs/cgroup", "memory.events"));
    }
    controllers
        .split(',')
        .any(|controller| controller == "memory")
        .then(|| below("/sys/fs/cgroup/memory", "memory.oom_control"))
}

/// Returns the counter in the text of either file.
fn counted(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_found_in_both_versions() {
        let file = |line| file_of(line).map(|path| path.display().to_string());
        assert_eq!(file("0::/a.slice/b").as_deref(), Some("/sys/fs/cgroup/a.slice/b/memory.events"));
        assert_eq!(file("9:memory:/docker/c").as_deref(), Some("/sys/fs/cgroup/memory/docker/c/memory.oom_control"));
        assert_eq!(file("4:cpu,cpuacct:/"), None);
    }

    #[test]
    fn counter_is_read_from_both_files() {
        assert_eq!(counted("low 0\noom 3\noom_kill 2\n"), Some(2));
        assert_eq!(counted("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(counted("oom_kill_disable 0\n"), None);
    }
}
