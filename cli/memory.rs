//! How much memory builds may use.

use std::path::Path;

use fs_err as fs;

/// What one compiler may need, in bytes: gcc takes up to 300 MiB for one file of a module.
pub const OF_A_JOB: u64 = 512 << 20;

/// How much memory processes like this one can still get before others lose theirs, in bytes: of the machine
/// (proc_meminfo(5), `MemAvailable`), and of the control groups that this one is in (the kernel's cgroup-v2.rst, `memory.max`).
pub fn available() -> Option<u64> {
    let machine =
        fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_meminfo(&text, "MemAvailable:"))?;
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let groups = Path::new(own).ancestors().filter_map(|group| {
        let dir = Path::new("/sys/fs/cgroup").join(group);
        of_group(&|name| fs::read_to_string(dir.join(name)).ok())
    });
    groups.chain([machine]).min()
}

/// How much this machine has, in bytes.
pub fn total() -> Option<u64> {
    fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_meminfo(&text, "MemTotal:"))
}

fn of_meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Of a control group with a limit. What it has of the page cache can be had as well.
fn of_group(file: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let number = |name: &str| file(name)?.trim().parse::<u64>().ok();
    // Most have none, and their statistics cost more than all else here.
    let most = number("memory.max")?;
    let cached = file("memory.stat")
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok()));
    let used = number("memory.current")?.saturating_sub(cached.unwrap_or(0));
    Some(most.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_of_the_machine_or_what_a_limit_leaves_of_it() {
        assert_eq!(of_meminfo("MemTotal: 9 kB\nMemAvailable:    2048 kB\n", "MemAvailable:"), Some(2 << 20));
        assert_eq!(of_meminfo("MemTotal: 9 kB\n", "MemAvailable:"), None);
        let group = |max: &'static str| {
            move |name: &str| match name {
                "memory.max" => Some(format!("{max}\n")),
                "memory.current" => Some("700\n".to_owned()),
                "memory.stat" => Some("anon 1\ninactive_file 100\n".to_owned()),
                _ => None,
            }
        };
        assert_eq!(of_group(&group("1000")), Some(400));
        assert_eq!(of_group(&group("500")), Some(0));
        assert_eq!(of_group(&group("max")), None);
    }
}
