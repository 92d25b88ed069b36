//! A host to run kcache on: kernels, packages and a store under one temporary directory.
//!
//! ```text
//! DIR/root/     lib/modules/K, usr/src/linux-headers-K, usr/src/PACKAGE-VERSION ...  (--root)
//! DIR/store/    (--store)
//! DIR/tmp/      TMPDIR of every run: what is left here is litter
//! DIR/kcache    the binary, where nobody can reach it too
//! ```
//! `KCACHE_BIN=FILE` has the tests run another binary than the one compiled with them: a release, for figures.
//!
//! Kernels are copied from the fixtures, never linked: a hard link would change the headers' ctime under another test
//! that is being careful about exactly that.

use fs_err as fs;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use tempfile::TempDir;

/// What `tests/fixtures.sh` left.
pub struct Fixtures {
    dir: PathBuf,
    /// The newest two kernels 6.1, the newest one's cloud flavour, and the newest 6.12; as releases.
    pub old: String,
    pub new: String,
    pub cloud: String,
    pub six12: String,
}

pub static FIXTURES: LazyLock<Fixtures> = LazyLock::new(|| {
    let dir = std::env::var_os("KCACHE_FIXTURES").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/kcache-fixtures")
    });
    assert!(dir.join("stamp").exists(), "no fixtures in {}: run tests/fixtures.sh first", dir.display());
    let env = fs::read_to_string(dir.join("env")).unwrap();
    let value = |name: &str| {
        let line = env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name} in the fixtures' env")).to_owned()
    };
    Fixtures {
        old: value("K61_OLD"),
        new: value("K61_NEW"),
        cloud: value("K61_CLOUD"),
        six12: value("K612"),
        dir,
    }
});

impl Fixtures {
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Of a kernel's headers, what modules for x86 are built from: a third of the files, which makes a small host three times
/// as fast to set up. The many empty files of include/config only tell make what to build again.
const OF_HEADERS: &[&str] = &[
    ".config",
    ".kernelvariables",
    "Makefile",
    "Module.symvers",
    "arch",
    "scripts",
    "tools",
    "include/generated",
    "include/config/auto.conf",
    "include/config/kernel.release",
];
const OF_COMMON: &[&str] = &[
    "Makefile",
    "scripts",
    "tools",
    "arch/x86",
    "include/acpi",
    "include/asm-generic",
    "include/linux",
    "include/media",
    "include/uapi",
    "include/vdso",
    "include/video",
];

/// The in-tree modules that a small host has: those v4l2loopback depends on.
const FEW: [&str; 2] = ["kernel/drivers/media/mc", "kernel/drivers/media/v4l2-core"];
const NOBODY: &str = "65534";

pub struct Host {
    dir: TempDir,
    unprivileged: bool,
}

impl Host {
    /// A host with these kernels' headers, trimmed to what x86 modules are built from, and a few in-tree modules.
    pub fn new(kernels: &[&str]) -> Host {
        let host = Host::without_kernels();
        kernels.iter().for_each(|kernel| host.add_kernel(kernel));
        host
    }

    /// Adds such a kernel, with kbuild as the fixtures have it, as a package manager does.
    pub fn add_kernel(&self, kernel: &str) {
        self.copy_headers(kernel, OF_HEADERS, OF_COMMON);
        self.copy_kernel(kernel, &FEW);
    }

    /// A host with these kernels complete, as Debian's packages leave them.
    pub fn whole(kernels: &[&str]) -> Host {
        let host = Host::without_kernels();
        for kernel in kernels {
            host.copy_headers(kernel, &["."], &["."]);
            host.copy_kernel(kernel, &["kernel"]);
        }
        host
    }

    /// A host with a kernel's image and in-tree modules, but without its headers.
    pub fn without_headers(kernel: &str) -> Host {
        let host = Host::without_kernels();
        host.copy_kernel(kernel, &FEW);
        fs::remove_file(host.kernel(kernel).join("build")).unwrap();
        fs::remove_file(host.kernel(kernel).join("source")).unwrap();
        host
    }

    pub fn without_kernels() -> Host {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for made in ["root/lib/modules", "root/usr/src", "root/usr/lib", "root/boot", "tmp", "home"] {
            fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        // By another process: a file that this one has open for writing, and a child of another test's with it, is busy.
        let program = std::env::var_os("KCACHE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_kcache").into());
        run(Command::new("cp").arg(program).arg(dir.path().join("kcache")));
        Host { dir, unprivileged: false }
    }

    fn copy_headers(&self, kernel: &str, of_headers: &[&str], of_common: &[&str]) {
        let headers = format!("usr/src/linux-headers-{kernel}");
        let from = FIXTURES.dir.join("root");
        let makefile = fs::read_to_string(from.join(&headers).join("Makefile")).unwrap();
        let common =
            makefile.trim().strip_prefix("include /").and_then(|p| p.strip_suffix("/Makefile")).unwrap();
        let scripts = fs::read_link(from.join(&headers).join("scripts")).unwrap();
        let kbuild = scripts.components().rev().nth(1).unwrap().as_os_str().to_str().unwrap().to_owned();

        self.copy(&from, &format!("usr/lib/{kbuild}"), &["."]);
        self.copy(&from, &headers, of_headers);
        self.copy(&from, common, of_common);
    }

    fn copy_kernel(&self, kernel: &str, in_tree: &[&str]) {
        let from = FIXTURES.dir.join("root");
        self.copy(&from, "boot", &[&format!("vmlinuz-{kernel}"), &format!("config-{kernel}")]);
        let mut parts =
            vec!["build", "source", "modules.builtin", "modules.builtin.modinfo", "modules.order"];
        parts.extend(in_tree);
        self.copy(&from, &format!("lib/modules/{kernel}"), &parts);
        run(Command::new("depmod").env("PATH", PATH).arg("-b").arg(self.root()).arg(kernel));
    }

    /// Copies parts of a directory to the same place under this host's root.
    fn copy(&self, from: &Path, directory: &str, parts: &[&str]) {
        let to = self.root().join(directory);
        fs::create_dir_all(&to).unwrap();
        let mut cp = Command::new("cp");
        cp.args(["-a", "--parents", "--reflink=auto", "--no-preserve=ownership"]).args(parts).arg(&to);
        run(cp.current_dir(from.join(directory)));
    }

    /// Adds real packages, by the beginning of their directories' names.
    pub fn with_packages(self, names: &[&str]) -> Host {
        let packages = FIXTURES.dir.join("packages");
        for entry in fs::read_dir(packages.join("usr/src")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if names.iter().any(|wanted| name.starts_with(wanted)) {
                self.copy(&packages, "usr/src", &[&name]);
            }
        }
        self
    }

    /// From here on kcache runs as a user that owns this host and nothing else.
    pub fn owned_by_a_user(mut self) -> Host {
        self.unprivileged = is_root();
        if self.unprivileged {
            run(Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(self.dir.path()));
        }
        self
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn kernel(&self, kernel: &str) -> PathBuf {
        self.root().join("lib/modules").join(kernel)
    }

    pub fn headers(&self, kernel: &str) -> PathBuf {
        self.root().join("usr/src").join(format!("linux-headers-{kernel}"))
    }

    /// Writes files of a package `NAME-VERSION` under /usr/src.
    pub fn write_package(&self, directory: &str, files: &[(&str, String)]) -> PathBuf {
        let source = self.root().join("usr/src").join(directory);
        for (path, text) in files {
            let path = source.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        source
    }

    /// kcache with a bare environment, on this host.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_as(&self.program(), arguments)
    }

    /// A file of settings under the root is what the administrator of this host says, so it is named; what a tree says that
    /// nobody trusts is for [`Host::image`].
    fn command_as(&self, program: &[PathBuf], arguments: &[&str]) -> Command {
        let mut command = self.image_as(program, &[]);
        let config = self.root().join("etc/kcache/config.toml");
        if config.exists() && !arguments.contains(&"--config") {
            command.arg("--config").arg(config);
        }
        command.args(arguments);
        command
    }

    /// kcache on this host as on a tree of which nothing is known.
    pub fn image(&self, arguments: &[&str]) -> Command {
        self.image_as(&self.program(), arguments)
    }

    fn image_as(&self, program: &[PathBuf], arguments: &[&str]) -> Command {
        let mut command = bare(self.dir(), program);
        command.arg("--root").arg(self.root()).arg("--store").arg(self.store()).args(arguments);
        command
    }

    /// The binary by another name, through a link, with this host's root told by the environment: as `dkms`.
    pub fn called(&self, name: &str, arguments: &[&str]) -> Command {
        let link = self.dir().join(name);
        if !link.exists() {
            fs_err::os::unix::fs::symlink("kcache", &link).unwrap();
        }
        let mut command = Command::new(link);
        command.args(arguments).env_clear().env("PATH", PATH).current_dir(self.dir());
        command.env("HOME", self.dir().join("home")).env("TMPDIR", self.dir().join("tmp"));
        command.env("KCACHE_ROOT", self.root()).env("KCACHE_STORE", self.store());
        command
    }

    /// What is to be typed for kcache: the binary, or how a user runs it.
    fn program(&self) -> Vec<PathBuf> {
        let mut program: Vec<PathBuf> = Vec::new();
        if self.unprivileged {
            program =
                ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"].map(PathBuf::from).into();
        }
        program.push(self.dir().join("kcache"));
        program
    }

    pub fn kcache(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments))
    }

    /// The same run, as a child of another program with its own arguments: strace, unshare.
    pub fn kcache_under(&self, wrapper: &[&str], arguments: &[&str]) -> Run {
        let program: Vec<PathBuf> = wrapper.iter().map(PathBuf::from).chain(self.program()).collect();
        Run::of(self.command_as(&program, arguments))
    }

    /// Everything under the root's /lib/modules and /etc, and what it is: for "nothing changed".
    pub fn tree(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        for part in ["lib/modules", "etc", "var"] {
            describe(&self.root(), Path::new(part), &mut found);
        }
        found
    }

    /// The modules that kcache installed for a kernel: `PACKAGE/MODULE.ko[.xz]` and where it lies.
    pub fn modules(&self, kernel: &str) -> BTreeMap<String, PathBuf> {
        let mut found = BTreeMap::new();
        let Ok(generations) = fs::read_dir(self.kernel(kernel).join("updates")) else { return found };
        for generation in generations.map(|entry| entry.unwrap().path()) {
            // A foreign module.
            if !generation.is_dir() {
                continue;
            }
            for package in fs::read_dir(generation).unwrap().map(|entry| entry.unwrap().path()) {
                if package.is_dir() {
                    let modules = fs::read_dir(&package).unwrap().map(|entry| entry.unwrap().path());
                    found.extend(modules.map(|path| (last_two(&path), path)));
                }
            }
        }
        found
    }

    /// The `.modinfo` field of an installed module, whichever way it is compressed.
    pub fn modinfo(&self, kernel: &str, module: &str, field: &str) -> String {
        let modules = self.modules(kernel);
        let path = modules.iter().find(|(name, _)| name.contains(module));
        let (_, path) = path.unwrap_or_else(|| panic!("no {module} among {:?}", modules.keys()));
        let output = run(Command::new("modinfo").env("PATH", PATH).args(["-F", field]).arg(path));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What a kernel has under each of these names, as `modprobe` sees it under `root`: the file's digest, or nothing.
    /// A name that the indexes resolve to a file that is absent or empty is what must never happen.
    pub fn resolved(root: &Path, kernel: &str, names: &[&str]) -> BTreeMap<String, Option<String>> {
        let digest = |name: &&str| {
            let mut modprobe = Command::new("modprobe");
            modprobe.env("PATH", PATH).arg("-d").arg(root).args(["-S", kernel, "--show-depends", name]);
            let output = modprobe.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let path = text.lines().last()?.strip_prefix("insmod ")?.trim().to_owned();
            let bytes = fs::read(path).expect("what the indexes name is there");
            assert!(!bytes.is_empty(), "{name} is an empty file");
            Some(blake3::hash(&bytes).to_string())
        };
        names.iter().map(|name| (name.to_string(), digest(name))).collect()
    }
}

pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

fn bare(dir: &Path, program: &[PathBuf]) -> Command {
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).env_clear().env("PATH", PATH).current_dir(dir);
    command.env("HOME", dir.join("home")).env("TMPDIR", dir.join("tmp"));
    command
}

/// Runs what has to succeed for the test to mean anything.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn last_two(path: &Path) -> String {
    let mut parts = path.iter().rev().map(OsStr::to_string_lossy);
    let (module, package) = (parts.next().unwrap(), parts.next().unwrap());
    format!("{package}/{module}")
}

fn describe(root: &Path, path: &Path, found: &mut BTreeMap<PathBuf, String>) {
    let full = root.join(path);
    let Ok(metadata) = full.symlink_metadata() else { return };
    let kind = metadata.file_type();
    let content = if kind.is_symlink() {
        fs::read_link(&full).unwrap().display().to_string()
    } else if kind.is_file() {
        blake3::hash(&fs::read(&full).unwrap()).to_string()
    } else {
        assert!(!kind.is_socket() && !kind.is_fifo(), "{} is neither file nor directory", full.display());
        for entry in fs::read_dir(&full).unwrap() {
            describe(root, &path.join(entry.unwrap().file_name()), found);
        }
        "directory".to_owned()
    };
    found.insert(path.to_owned(), format!("{:o} {content}", metadata.permissions().mode()));
}

/// One run of kcache, to be judged.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(mut command: Command) -> Run {
        Run::from(command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Run {
        assert!(self.code == Some(code), "expected exit {code}\n{}", self.shown());
        self
    }

    /// stderr names each of these.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Run {
        for word in words {
            assert!(self.stderr.contains(word), "stderr does not say {word:?}\n{}", self.shown());
        }
        self
    }

    /// stdout names each of these.
    #[track_caller]
    pub fn prints(self, words: &[&str]) -> Run {
        for word in words {
            assert!(self.stdout.contains(word), "stdout does not say {word:?}\n{}", self.shown());
        }
        self
    }

    /// stderr has exactly one error.
    #[track_caller]
    pub fn one_error(self) -> Run {
        let errors = self.stderr.lines().filter(|line| line.starts_with("error")).count();
        assert!(errors == 1, "{errors} errors\n{}", self.shown());
        self
    }

    /// The records that `--json` printed.
    #[track_caller]
    pub fn records(&self) -> Vec<Record> {
        let parse = |line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}\n{}", self.shown()))
        };
        self.stdout.lines().map(parse).collect()
    }

    /// The outcomes among the records.
    #[track_caller]
    pub fn outcomes(&self) -> Vec<Outcome> {
        let outcome = |record| if let Record::Result(outcome) = record { Some(outcome) } else { None };
        self.records().into_iter().filter_map(outcome).collect()
    }

    /// The one outcome there is.
    #[track_caller]
    pub fn outcome(&self) -> Outcome {
        let mut outcomes = self.outcomes();
        assert!(outcomes.len() == 1, "expected one outcome\n{}", self.shown());
        outcomes.remove(0)
    }

    /// One document, of a command that prints no stream.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{}", self.shown()))
    }

    pub fn shown(&self) -> String {
        format!("exit {:?}\nstdout:\n{}\nstderr:\n{}", self.code, self.stdout, self.stderr)
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Run {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Run { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// A line of `kcache install --json`. Fields may be added to any of them.
#[derive(Deserialize, Debug, PartialEq)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Record {
    Result(Outcome),
    Generation {
        kernel: String,
        generation: Option<String>,
        changed: bool,
    },
    Summary {
        exit: i32,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize, Debug, PartialEq)]
pub struct Outcome {
    pub package: String,
    pub version: String,
    pub kernel: String,
    pub state: String,
    pub how: Option<String>,
    pub key: Option<String>,
    pub seconds: f64,
    pub modules: Vec<String>,
    pub error: Option<String>,
}

/// Waits for the second process of a run that was killed: root's run on another root has one, which the kernel kills a moment
/// after the first.
pub fn wait_for_second(first: u32) {
    let name = format!("kcache: confined by {first} ");
    let is_it = |process: fs::DirEntry| {
        fs::read(process.path().join("cmdline")).is_ok_and(|words| words.starts_with(name.as_bytes()))
    };
    while fs::read_dir("/proc").unwrap().flatten().any(is_it) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// A file name that is not UTF-8.
pub fn not_utf8() -> &'static Path {
    Path::new(OsStr::from_bytes(b"latin-\xe9.h"))
}

/// Makes a `generation.json` and its copy say something else, as somebody would who knows of checksums.
pub fn rewrite_generation(path: &Path, text: &str) {
    let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
    value.as_object_mut().unwrap().remove("checksum");
    for path in [path.with_extension("json.copy"), path.to_owned()] {
        fs::write(path, value.to_string()).unwrap();
    }
}
