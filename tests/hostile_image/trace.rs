//! What the kernel was asked for during a run, as strace tells it: a file for each process, in order.
//!
//! A process is *outside* until it, or one it descends from, was made with mounts of its own. What is outside may change files of the
//! places that are named, and none else, **nor try to**: that kcache sees the rest of the machine read-only (`EROFS`) is the
//! second wall, and here the first one is looked at. It executes and maps no file of the tree. What is inside gives up uid 0 before it
//! executes or maps anything but what kcache has put there for entering.

use fs_err as fs;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

const ENTER: &str = "/run/kcache/enter/";
const MAKES: [&str; 5] = ["clone", "clone3", "fork", "vfork", "unshare"];
const FOLLOWS: [&str; 5] = ["chmod", "chown", "fchmodat", "truncate", "setxattr"];

pub const STRACE: [&str; 12] = [
    "strace",
    "-ff",
    "-y",
    "-qq",
    "--seccomp-bpf",
    "--pidns-translation",
    "--signal=none",
    "-s",
    "4096",
    "-e",
    "trace=execve,execveat,mmap,open,openat,openat2,creat,unlink,unlinkat,rmdir,rename,renameat,renameat2,mkdir,mkdirat,\
     mknod,mknodat,symlink,symlinkat,link,linkat,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,truncate,ftruncate,\
     setxattr,lsetxattr,fsetxattr,removexattr,mount,umount2,clone,clone3,fork,vfork,unshare,setuid,setresuid,chdir,fchdir",
    "-o",
];

/// Where a run may change files, and what it is that it must not execute.
pub struct Bounds {
    pub tree: PathBuf,
    pub writable: Vec<PathBuf>,
    pub cwd: PathBuf,
}

#[derive(Clone)]
struct Process {
    pid: u32,
    outside: bool,
    privileged: bool,
    /// It, or one it descends from, has taken mounts of its own, over which it sees the machine read-only.
    confined: bool,
    cwd: PathBuf,
}

/// A line: `NAME(ARGUMENTS) = RESULT`.
struct Call<'a> {
    name: &'a str,
    arguments: &'a str,
    result: &'a str,
}

/// What was done that must not be, and how many processes were seen outside and inside.
#[derive(Default)]
pub struct Seen {
    pub wrong: Vec<String>,
    pub outside: usize,
    pub inside: usize,
}

/// Reads what strace wrote to `DIR/t.PID`.
pub fn read(dir: &Path, bounds: &Bounds) -> Seen {
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let pid: u32 = path.extension().unwrap().to_str().unwrap().parse().unwrap();
        texts.insert(pid, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
    }
    let known: BTreeSet<u32> = texts.keys().copied().collect();
    texts.retain(|_, text| !text.is_empty()); // killed before it asked for anything
    let is_first = |text: &String| text.starts_with("execve(") && text.contains("[\"timeout\"");
    let first = texts.iter().find(|(_, text)| is_first(text)).expect("strace has seen the first process").0;
    let mut pending = vec![Process {
        pid: *first,
        outside: true,
        privileged: true,
        confined: false,
        cwd: bounds.cwd.clone(),
    }];
    let mut seen = Seen::default();
    let mut unnamed: Vec<Process> = Vec::new(); // each with the number of its maker
    loop {
        let Some(mut process) = pending.pop() else {
            // A process that is killed while it makes another one is not seen to have made it. Numbers go up: it is the last before.
            let Some(pid) = texts.keys().next().copied() else { break };
            let before = |maker: &Process| (maker.pid < pid, maker.pid);
            let Some(last) = (0..unnamed.len()).max_by_key(|index| before(&unnamed[*index])) else { break };
            pending.push(Process { pid, ..unnamed.swap_remove(last) });
            continue;
        };
        let Some(text) = texts.remove(&process.pid) else { continue };
        *(if process.outside { &mut seen.outside } else { &mut seen.inside }) += 1;
        for line in text.lines() {
            unnamed.extend(process.was_making(line));
            let Some(call) = parse(line).filter(Call::counts) else { continue };
            if MAKES.contains(&call.name) {
                let Some(child) = process.makes(&call) else { continue };
                // The number may be that of its own namespace, which strace no longer finds when both are being killed.
                match known.contains(&child.pid) {
                    true => pending.push(child),
                    false => unnamed.push(Process { pid: process.pid, ..child }),
                }
            } else if let Some(wrong) = process.does(&call, bounds) {
                seen.wrong.push(format!("{wrong}: {line}"));
            }
        }
    }
    // Whom nobody was seen to make would have been judged by nobody.
    assert!(texts.is_empty(), "processes of unknown parents: {:?}", texts.keys());
    seen
}

impl Call<'_> {
    /// Whether it was done, or would have been if the machine could be written.
    fn counts(&self) -> bool {
        !self.result.starts_with("-1") || self.is_denied()
    }

    fn is_denied(&self) -> bool {
        self.result.starts_with("-1 EROFS")
    }
}

fn parse(line: &str) -> Option<Call<'_>> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    Some(Call { name, arguments: arguments.trim_end().strip_suffix(')')?, result: result.trim() })
}

impl Process {
    /// A child; or other mounts for the process itself.
    fn makes(&mut self, call: &Call<'_>) -> Option<Process> {
        let mounts = call.arguments.contains("CLONE_NEWNS");
        if call.name == "unshare" {
            self.confined |= mounts;
            return None;
        }
        let outside = self.outside && !mounts;
        let translated = call.result.split_once("/* ").map(|(_, number)| number);
        let number = translated.unwrap_or(call.result).split_whitespace().next()?;
        Some(Process { pid: number.parse().ok()?, outside, ..self.clone() })
    }

    /// The child of a call that did not return; its number is not known.
    fn was_making(&self, line: &str) -> Option<Process> {
        let (name, arguments) = line.split_once('(')?;
        let end = arguments.trim_end();
        let is_open = end.ends_with(" ...>") || end.ends_with(" = ?") || end.ends_with(" = ? <unavailable>");
        let makes = MAKES.contains(&name) && name != "unshare" && is_open;
        let outside = self.outside && !arguments.contains("CLONE_NEWNS");
        makes.then(|| Process { outside, ..self.clone() })
    }

    fn does(&mut self, call: &Call<'_>, bounds: &Bounds) -> Option<String> {
        match call.name {
            "setuid" | "setresuid" => {
                let mut ids = call.arguments.split(", ");
                self.privileged &= !ids.all(|id| id.parse::<u32>().is_ok_and(|id| id > 0));
                None
            }
            "chdir" | "fchdir" => {
                self.cwd = self.places(call).pop()?;
                None
            }
            "execve" | "execveat" => self.executes(&self.places(call)[0], bounds),
            "mmap" if call.arguments.contains("PROT_EXEC") => {
                self.executes(self.places(call).first()?, bounds)
            }
            "mmap" => None,
            _ if !self.outside => None,
            "mount" | "umount2" => (!self.confined).then(|| "a mount outside".to_owned()),
            "open" | "openat" | "openat2" | "creat" => {
                let writes = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"];
                let writes = call.name == "creat" || writes.iter().any(|flag| call.arguments.contains(flag));
                let path = match call.is_denied() {
                    true => real(&self.places(call).pop()?, !call.arguments.contains("O_NOFOLLOW")),
                    false => PathBuf::from(call.result.split_once('<')?.1.rsplit_once('>')?.0),
                };
                (writes && !bounds.may_change(&path)).then(|| format!("{} opened", path.display()))
            }
            name => {
                let mut places = self.places(call);
                if name.starts_with("symlink") {
                    places.drain(..places.len() - 1); // what a link leads to is not changed
                }
                let follows = FOLLOWS.contains(&name);
                let mut places = places.into_iter().map(|path| real(&path, follows));
                places.find(|path| !bounds.may_change(path)).map(|path| format!("{} changed", path.display()))
            }
        }
    }

    fn executes(&self, path: &Path, bounds: &Bounds) -> Option<String> {
        if self.outside {
            let path = real(path, true);
            return path.starts_with(&bounds.tree).then(|| format!("{} run outside", path.display()));
        }
        (self.privileged && !path.starts_with(ENTER))
            .then(|| format!("{} run with privileges", path.display()))
    }

    /// The paths that a call names: its strings, from the directory before them or the current one; or the file of a descriptor.
    fn places(&self, call: &Call<'_>) -> Vec<PathBuf> {
        let (mut base, mut found) = (None, Vec::new());
        let arguments = call.arguments.split(", [\"").next().unwrap(); // of execve no more than the path
        for word in arguments.split(", ") {
            if let Some(text) = word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
                found.push(base.as_ref().unwrap_or(&self.cwd).join(text));
            } else if let Some((_, path)) = word.split_once('<') {
                base = path.strip_suffix('>').map(PathBuf::from);
            }
        }
        if found.is_empty() {
            found.extend(base);
        }
        found
    }
}

impl Bounds {
    fn may_change(&self, path: &Path) -> bool {
        let text = path.to_str().unwrap_or("");
        let nothing = ["pipe:", "socket:", "anon_inode:", "/memfd:", "/dev/null", "/dev/tty", "/dev/pts/"];
        let own = ["/proc/", "/run/kcache/", "/var/lib/kcache/"];
        self.writable.iter().any(|dir| path.starts_with(dir))
            || nothing.iter().chain(&own).any(|start| text.starts_with(start))
            || ["/run/kcache", "/var/lib/kcache"].contains(&text)
            || (text.starts_with("/sys/fs/cgroup/") && text.contains("kcache"))
    }
}

/// Where a path leads, as far as it is still there: its directory, and itself if `follows`.
fn real(path: &Path, follows: bool) -> PathBuf {
    if follows && let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    let (Some(parent), Some(Component::Normal(name))) = (path.parent(), path.components().next_back()) else {
        return path.to_owned();
    };
    real(parent, true).join(name)
}

/// What is found in these lines of a process outside, and in those of its child with mounts of its own.
fn found(outside: &str, inside: &str) -> Vec<String> {
    found_after("clone(child_stack=NULL, flags=CLONE_NEWNS|SIGCHLD) = 9\n", outside, inside)
}

fn found_after(child: &str, outside: &str, inside: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let text =
        format!("execve(\"/usr/bin/timeout\", [\"timeout\"], 0x1 /* 1 var */) = 0\n{child}{outside}\n");
    fs::write(dir.path().join("t.7"), text).unwrap();
    fs::write(dir.path().join("t.9"), format!("{inside}\n")).unwrap();
    let bounds = Bounds { tree: "/t/root".into(), writable: vec!["/t/root".into()], cwd: "/t/out".into() };
    let seen = read(dir.path(), &bounds);
    assert_eq!((seen.outside, seen.inside), (1, 1));
    seen.wrong
}

#[test]
fn a_child_whose_maker_was_killed_is_judged_as_its_child() {
    let bash = r#"execve("/bin/bash", ["bash"], 0x1 /* 1 var */) = 0"#;
    for end in [
        " <unfinished ...>",
        " <unfinished ...>) = ?",
        " <detached ...>",
        ") = ?",
        ") = ? <unavailable>",
        ") = 2",
    ] {
        let child = format!("clone(child_stack=NULL, flags=CLONE_NEWNS|SIGCHLD{end}\n");
        assert_eq!(found_after(&child, "", bash).len(), 1, "{end}");
    }
}

#[test]
fn each_kind_of_wrong_is_found_in_a_trace() {
    let entered = "execve(\"/run/kcache/enter/ld.so\", [\"ld.so\"], 0x1 /* 0 vars */) = 0";
    for wrong in [
        r#"openat(AT_FDCWD</t/out>, "/t/root/link", O_WRONLY|O_CREAT, 0666) = 3</etc/passwd>"#,
        r#"openat(5</t/root>, "a", O_RDWR) = 3</t/beside>"#,
        r#"openat(AT_FDCWD</t/out>, "/t/beside/a", O_WRONLY|O_CREAT, 0666) = -1 EROFS (Read-only file system)"#,
        r#"mkdir("/t/beside/a", 0755) = -1 EROFS (Read-only file system)"#,
        r#"unlinkat(5</t/beside>, "a", 0) = 0"#,
        r#"mkdir("a", 0755) = 0"#,
        r#"chdir("/t/beside") = 0
mkdir("../root2", 0755) = 0"#,
        r#"renameat(5</t/root>, "a", 6</t/beside>, "b") = 0"#,
        r#"symlink("/t/root/a", "/t/beside/b") = 0"#,
        "fchown(5</t/beside>, 0, 0) = 0",
        r#"execve("/t/root/bin/sh", ["sh", "/t/out"], 0x1 /* 1 var */) = 0"#,
        "mmap(NULL, 4096, PROT_READ|PROT_EXEC, MAP_PRIVATE, 3</t/root/lib/token.so>, 0) = 0x7f0000000000",
        r#"mount("/t/a", "/t/root/b", NULL, MS_BIND, NULL) = 0"#,
        "unshare(CLONE_NEWNS) = 0\nmkdir(\"/t/beside/a\", 0755) = 0",
    ] {
        assert_eq!(found(wrong, entered).len(), 1, "{wrong}");
    }
    for right in [
        r#"openat(AT_FDCWD</t/out>, "/t/root/a", O_WRONLY|O_CREAT, 0666) = 3</t/root/a>"#,
        r#"openat(AT_FDCWD</t/out>, "/etc/passwd", O_RDONLY) = 3</etc/passwd>"#,
        r#"mkdir("/t/beside/a", 0755) = -1 EEXIST (File exists)"#,
        "unshare(CLONE_NEWNS) = 0\nmount(\"/t/a\", \"/t/a\", NULL, MS_BIND, NULL) = 0",
        r#"symlink("/t/beside/b", "/t/root/a") = 0"#,
        r#"execve("/sbin/depmod", ["depmod", "/t/root"], 0x1 /* 1 var */) = 0"#,
        "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3</t/root/lib/token.so>, 0) = 0x7f0000000000",
    ] {
        assert!(found(right, entered).is_empty(), "{right}");
    }
    let bash = r#"execve("/bin/bash", ["bash"], 0x1 /* 1 var */) = 0"#;
    let library = "mmap(NULL, 4096, PROT_EXEC, MAP_PRIVATE, 3</usr/lib/x.so>, 0) = 0x7f0000000000";
    for inside in [bash, library] {
        assert_eq!(found("", &format!("{entered}\nsetresuid(-1, 5, -1) = 0\n{inside}")).len(), 1, "{inside}");
        assert!(found("", &format!("{entered}\nsetresuid(5, 5, 5) = 0\n{inside}")).is_empty(), "{inside}");
    }
}
