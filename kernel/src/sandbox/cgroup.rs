//! Resource limits of builds: a control group for each (cgroup v2, Documentation/admin-guide/cgroup-v2.rst).
//!
//! ```text
//! /sys/fs/cgroup/.../PARENT/                  kcache's own group or the nearest parent that delegates controllers
//! /sys/fs/cgroup/.../PARENT/kcache-PID-N/     memory.max, memory.swap.max, memory.oom.group, pids.max, cpu.max
//! ```
//!
//! A group with processes cannot delegate controllers, and kcache's own group contains kcache. So groups for builds
//! are created beside it or further up, where kcache has permission: as root, or as a user below what systemd has
//! delegated. If there is no such place (cgroup v1, containers), builds run without control groups, and only their
//! uid's limit on processes applies.
//!
//! Processes are moved into the group after the sandbox was set up and before anything of the tree runs. A build that
//! exceeds its memory is killed as a whole (`memory.oom.group`); the group's own counter distinguishes that from other
//! deaths. A group is deleted when its build has ended; the next kcache deletes what a killed one left.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use fs_err as fs;
use rustix::process::Pid;

/// The controller without which a group is useless.
const NEEDED: &str = "memory";

/// Prefix of names of builds' groups, followed by the process id.
const NAME: &str = "kcache-";

/// Length in µs of a period in which a build gets its share of CPUs: the kernel's default.
const PERIOD: u64 = 100_000;

/// Resource limits of one sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes, including `/tmp` and page cache; needs control groups.
    pub memory: u64,
    /// Processes and threads, in its control group and of its uid.
    pub processes: u64,
    /// Number of CPUs; needs control groups.
    pub cpus: u64,
    /// Disk space in bytes in everything that it can write (`space`), also the limit on each file.
    pub disk: u64,
    /// Number of files and directories on disk, and again in memory.
    pub files: u64,
}

/// The place in which groups for builds are created.
#[derive(Clone, Debug)]
pub struct Groups {
    parent: PathBuf,
    /// The id of this process as other processes see it.
    owner: u32,
    /// Whether other processes are visible from here.
    sees_others: bool,
}

impl Groups {
    /// Determines the place from `/proc/self/cgroup` and `/proc/self/mountinfo`; `None` if there is none.
    pub fn find(own: &str, mounts: &str) -> Option<Groups> {
        let (top, mounted) = mount_of_v2(mounts)?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let own = Path::new(own).strip_prefix(mounted).ok()?;
        let is_normal = own.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !is_normal {
            return None; // kcache's own group is not visible here
        }
        let groups = own.ancestors().map(|group| Groups {
            parent: top.join(group),
            owner: std::process::id(),
            sees_others: true,
        });
        groups.into_iter().find(Groups::can_be_used)
    }

    /// For a process in its own pid namespace, which other processes see under the id `owner`. Does not delete others'
    /// groups.
    pub fn among_unseen(self, owner: u32) -> Groups {
        Groups { owner, sees_others: false, ..self }
    }

    fn can_be_used(&self) -> bool {
        let handed_on = fs::read_to_string(self.parent.join("cgroup.subtree_control")).unwrap_or_default();
        handed_on.split_whitespace().any(|controller| controller == NEEDED)
            && rustix::fs::access(&self.parent, rustix::fs::Access::WRITE_OK).is_ok()
            && rustix::fs::access(self.parent.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok()
    }

    /// Creates a group for one sandbox.
    pub(super) fn make(&self, limits: &Limits) -> io::Result<Group> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if self.sees_others {
            self.sweep();
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.parent.join(format!("{NAME}{}-{number}", self.owner));
        fs::create_dir(&path)?;
        let group = Group { path };
        group.set("memory.max", &limits.memory.to_string())?;
        // A file is missing without swap or its controller: then there is nothing to limit, or another limit applies.
        for (file, value) in [
            ("memory.swap.max", "0".to_owned()),
            ("memory.oom.group", "1".to_owned()),
            ("pids.max", limits.processes.to_string()),
            ("cpu.max", format!("{} {PERIOD}", limits.cpus * PERIOD)),
        ] {
            if group.path.join(file).exists() {
                group.set(file, &value)?;
            }
        }
        Ok(group)
    }

    /// Deletes groups of dead kcache processes.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(NAME)?.split_once('-'));
            if owner.is_some_and(|(pid, _)| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir(entry.path()); // busy while its processes die
            }
        }
    }
}

/// The group of one sandbox, deleted on drop.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
}

impl Group {
    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        // cgroupfs does not create files, so a missing one is an error.
        io::Write::write_all(
            &mut fs::OpenOptions::new().write(true).open(self.path.join(file))?,
            value.as_bytes(),
        )
    }

    /// Moves a process into the group.
    pub(super) fn add(&self, pid: Pid) -> io::Result<()> {
        self.set("cgroup.procs", &pid.as_raw_pid().to_string())
    }

    /// Whether the kernel killed processes of the group for lack of memory (`oom_kill` of `memory.events`).
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok();
        events.lines().find_map(count).is_some_and(|killed| killed > 0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path); // if processes are still dying, the next kcache deletes it
    }
}

/// Mount point of the unified hierarchy, and its root within it (proc_pid_mountinfo(5): root, mount point, `-`, type).
fn mount_of_v2(mounts: &str) -> Option<(PathBuf, PathBuf)> {
    let of_line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        after.starts_with("cgroup2 ").then(|| (PathBuf::from(at), PathBuf::from(root)))
    };
    mounts.lines().find_map(of_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory: 1 << 30, processes: 528, cpus: 2, disk: 1 << 30, files: 1000 };

    /// Directories as the kernel would show them.
    fn hierarchy(handed_on: &[(&str, &str)]) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        for (group, controllers) in handed_on {
            let group = dir.path().join(group);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join("cgroup.subtree_control"), controllers).unwrap();
            fs::write(group.join("cgroup.procs"), "").unwrap();
        }
        let mount = format!("25 21 0:22 / {} rw,nosuid - cgroup2 cgroup2 rw\n", dir.path().display());
        (dir, format!("24 21 0:21 / /sys rw - sysfs sysfs rw\n{mount}"))
    }

    #[test]
    fn groups_are_created_in_the_nearest_parent_that_delegates_memory() {
        let (dir, mounts) = hierarchy(&[
            ("", "cpu memory pids"),
            ("user.slice", "memory pids"),
            ("user.slice/user-0.slice", "pids"),
            ("user.slice/user-0.slice/session-1.scope", ""),
        ]);
        let own = "1:name=systemd:/x\n0::/user.slice/user-0.slice/session-1.scope\n";
        let groups = Groups::find(own, &mounts).unwrap();
        assert_eq!(groups.parent, dir.path().join("user.slice"));
    }

    #[test]
    fn without_delegation_there_are_no_groups() {
        let (_dir, mounts) = hierarchy(&[("", "cpu pids"), ("a", "")]);
        assert!(Groups::find("0::/a\n", &mounts).is_none());
        assert!(Groups::find("0::/../elsewhere\n", &mounts).is_none());
        assert!(Groups::find("4:memory:/a\n", &mounts).is_none());
        assert!(
            Groups::find("0::/a\n", "30 21 0:30 / /sys/fs/cgroup rw - cgroup cgroup rw,memory\n").is_none()
        );
    }

    #[test]
    fn a_group_without_limits_is_an_error() {
        let (dir, mounts) = hierarchy(&[("", "memory")]);
        // No kernel creates files in the new directory.
        assert!(Groups::find("0::/\n", &mounts).unwrap().make(&LIMITS).is_err());
        assert!(fs::read_dir(dir.path()).unwrap().all(|entry| !entry.unwrap().path().is_dir()));
    }

    #[test]
    fn an_oom_kill_is_distinguished_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let check = |events: &str, expect: bool| {
            let path = dir.path().join("group");
            fs::create_dir(&path).unwrap();
            fs::write(path.join("memory.events"), events).unwrap();
            let group = Group { path: path.clone() };
            assert_eq!(group.ran_out_of_memory(), expect, "{events}");
            drop(group);
            fs::remove_dir_all(path).unwrap();
        };
        check("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 1\n", true);
        check("low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\n", false);
        check("", false);
    }

    /// A real group, if this machine allows the test to create one.
    #[test]
    fn exceeding_the_memory_limit_kills_the_group() {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let Some(groups) = Groups::find(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo")) else {
            return;
        };
        let limits = Limits { memory: 64 << 20, processes: 20, cpus: 1, ..LIMITS };
        let Ok(group) = groups.make(&limits) else { return };
        let mut sh = std::process::Command::new("sh");
        sh.args(["-c", "ulimit -v 400000; read -r go; exec tail /dev/zero"]);
        let mut sh = sh.stdin(std::process::Stdio::piped()).spawn().unwrap();
        if group.add(Pid::from_child(&sh)).is_err() {
            sh.kill().unwrap();
            sh.wait().unwrap();
            return;
        }
        let set = |file: &str| read(&group.path.join(file).display().to_string()).trim().to_owned();
        assert_eq!([set("memory.max"), set("memory.oom.group")], [(64 << 20).to_string(), "1".to_owned()]);
        io::Write::write_all(&mut sh.stdin.take().unwrap(), b"go\n").unwrap();
        let status = sh.wait().unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(status.signal(), Some(9), "{status}");
        assert!(group.ran_out_of_memory());
        let path = group.path.clone();
        drop(group);
        assert!(!path.exists(), "{}", path.display());
    }

    #[test]
    fn groups_of_dead_kcaches_are_deleted() {
        let (dir, mounts) = hierarchy(&[("", "memory")]);
        let (dead, alive) = ("kcache-4194305-0", format!("kcache-{}-9", std::process::id()));
        for name in [dead, &alive, "other-4194305-0"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Groups::find("0::/\n", &mounts).unwrap().sweep();
        let left = [dead, &alive, "other-4194305-0"].map(|name| dir.path().join(name).exists());
        assert_eq!(left, [false, true, true]);
    }
}
