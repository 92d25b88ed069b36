//! What is measured, and against whom: kcache's own work as a ratio of the same work done by plain tools in the same run.
//!
//! `make bench` prints the table that stands in benches/README.md. Machines are shared and noisy: each pair is run
//! alternately, several times, and the medians are compared. Needs root: `depmod`, overlay mounts and the fixtures of
//! tests/fixtures.sh.

#![allow(clippy::print_stdout, reason = "the table is this program's output")]

#[path = "../tests/servers.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod servers;
mod shared;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use kcache_store::tree;

/// The packages that are installed at once; those of the archive that tests use, too.
const PACKAGES: [&str; 6] =
    ["v4l2loopback", "acpi-call", "xtables-addons", "jool-dkms", "dm-writeboost", "bbswitch"];

/// One that takes 10 s and more to compile.
const SLOW: &str = "xtables-addons";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("walk", trees)) = arguments.split_first().map(|(word, rest)| (word.as_str(), rest)) {
        let files: u64 = trees.iter().map(|dir| walk(Path::new(dir))).sum();
        return if files > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if arguments.first().is_some_and(|word| word == "shared") {
        shared::all(Path::new(&arguments[1]));
        return ExitCode::SUCCESS;
    }
    let Some(bench) = Bench::prepare() else { return ExitCode::FAILURE };
    println!("| what | against | kcache | plain | ratio | at most |");
    println!("|---|---|---|---|---|---|");
    bench.warm_look_up();
    bench.first_hash();
    bench.hit_install();
    bench.verdict();
    bench.miss();
    shared::all(&bench.fixtures.join("root/lib/modules").join(&bench.kernel).join("kernel"));
    ExitCode::SUCCESS
}

/// A system with one kernel, and a store.
struct Bench {
    dir: tempfile::TempDir,
    fixtures: PathBuf,
    kernel: String,
}

impl Bench {
    /// Copies the newest 6.1 kernel and all packages, and fills the store.
    fn prepare() -> Option<Bench> {
        let home = std::env::var("HOME").unwrap_or_default();
        let fixtures = std::env::var_os("KCACHE_FIXTURES").map(PathBuf::from);
        let fixtures = fixtures.unwrap_or_else(|| Path::new(&home).join(".cache/kcache-fixtures"));
        let Ok(env) = fs::read_to_string(fixtures.join("env")) else {
            println!("no fixtures in {}: run tests/fixtures.sh", fixtures.display());
            return None;
        };
        let kernel =
            env.lines().find_map(|line| line.strip_prefix("K61_NEW=")).unwrap_or_default().to_owned();
        let bench = Bench { dir: tempfile::tempdir().ok()?, fixtures, kernel };
        let root = bench.root();
        let from = bench.fixtures.join("root");
        let common = format!("usr/src/linux-headers-{}-common", bench.kernel.trim_end_matches("-amd64"));
        let parts = [
            "usr/lib/linux-kbuild-6.1".into(),
            format!("usr/src/linux-headers-{}", bench.kernel),
            common,
            format!("lib/modules/{}", bench.kernel),
        ];
        for part in &parts {
            copy(&from.join(part), &root.join(part));
        }
        copy(&bench.fixtures.join("packages/usr/src/."), &root.join("usr/src"));
        run(Command::new("depmod").arg("-b").arg(&root).arg(&bench.kernel));
        run(&mut bench.kcache(&["build", "-q", "-k", &bench.kernel]));
        Some(bench)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn kcache(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kcache"));
        command
            .arg("--root")
            .arg(self.root())
            .arg("--store")
            .arg(self.dir.path().join("store"))
            .args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The directories that the kernel's headers are made of.
    fn headers(&self) -> Vec<PathBuf> {
        let src = self.root().join("usr/src");
        vec![
            src.join(format!("linux-headers-{}", self.kernel)),
            src.join(format!("linux-headers-{}-common", self.kernel.trim_end_matches("-amd64"))),
            self.root().join("usr/lib/linux-kbuild-6.1/scripts"),
            self.root().join("usr/lib/linux-kbuild-6.1/tools"),
        ]
    }

    fn warm_look_up(&self) {
        let me = std::env::current_exe().unwrap_or_default();
        let ours = || run(&mut self.kcache(&["build", "v4l2loopback", "-k", &self.kernel]));
        let plain = || run(Command::new(&me).arg("walk").args(self.headers()));
        row(
            "warm look-up of one package, whole process",
            "walk + one statx a file, whole process",
            15,
            1.5,
            ours,
            plain,
        );
    }

    fn first_hash(&self) {
        let roots: Vec<tree::Root> = self
            .headers()
            .into_iter()
            .map(|path| tree::Root { label: path.display().to_string(), path, skip: Vec::new() })
            .collect();
        let ours = || timed(|| drop(tree::tree_digest(None, &roots, 0)));
        let plain = || timed(|| self.headers().iter().for_each(|dir| drop(read_all(dir))));
        row(
            "first hash of a header tree, page cache warm",
            "reading the same files once",
            9,
            1.3,
            ours,
            plain,
        );
    }

    fn hit_install(&self) {
        run(&mut self.kcache(&["install", "-k", &self.kernel]));
        let modules = modules_of(&self.root().join("lib/modules").join(&self.kernel).join("updates"));
        let other = self.dir.path().join("plain");
        let tree = Path::new("lib/modules").join(&self.kernel);
        copy(&self.fixtures.join("root").join(&tree), &other.join(&tree));
        let ours = || {
            run(&mut self.kcache(&["remove", "--all"]));
            run(&mut self.kcache(&["install", "-k", &self.kernel]))
        };
        let plain = || {
            let to = other.join(&tree).join("updates/plain");
            drop(fs::remove_dir_all(&to));
            timed(|| {
                drop(fs::create_dir_all(&to));
                for module in &modules {
                    copy_synced(module, &to);
                }
                run(Command::new("depmod").arg("-b").arg(&other).arg(&self.kernel));
            })
        };
        let what = format!("install that hits, {} packages, {} modules", PACKAGES.len(), modules.len());
        row(&what, "copy + fsync of the modules, one depmod", 7, 1.5, ours, plain);
    }

    /// After [`Bench::hit_install`], which leaves everything installed.
    fn verdict(&self) {
        let me = std::env::current_exe().unwrap_or_default();
        let ours = || run(&mut self.kcache(&["check", "-q", "-k", &self.kernel]));
        let plain = || {
            timed(|| {
                run(Command::new(&me).arg("walk").args(self.headers()));
                std::thread::sleep(Duration::from_millis(150));
            })
        };
        let what = format!("check of a kernel with {} packages installed", PACKAGES.len());
        row(&what, "walk + one statx a file, and 150 ms", 9, 1.0, ours, plain);
    }

    fn miss(&self) {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = std::cell::Cell::new(0);
        let ours = || {
            let start = Instant::now();
            memory.set(memory.get().max(peak(&mut self.kcache(&[
                "build",
                "--rebuild",
                SLOW,
                "-k",
                &self.kernel,
            ]))));
            start.elapsed()
        };
        let source = self.root().join("usr/src");
        let package = fs::read_dir(&source).ok().and_then(|mut entries| {
            entries.find_map(|entry| {
                entry.ok().map(|e| e.path()).filter(|path| path.to_string_lossy().contains(SLOW))
            })
        });
        let Some(package) = package else { return };
        let by_hand = self.dir.path().join("hand");
        let plain = || {
            drop(fs::remove_dir_all(&by_hand));
            copy(&package, &by_hand);
            let script = format!(
                "mount -t overlay -o lowerdir={root}/usr:/usr none /usr && cd {hand} && \
                 make -j{jobs} -C /usr/src/linux-headers-{kernel} M=$PWD/extensions XA_ABSTOPSRCDIR=$PWD \
                 XA_TOPSRCDIR=$PWD V=1 modules && find -name '*.ko' -exec strip -g {{}} +",
                root = self.root().display(),
                hand = by_hand.display(),
                kernel = self.kernel,
            );
            let mut command = Command::new("unshare");
            run(command.args(["-m", "bash", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()))
        };
        let what = format!("build that misses ({SLOW})");
        row(&what, &format!("make -j{jobs} by hand, strip"), 3, 1.05, ours, plain);
        println!("\npeak memory of kcache in that build: {:.1} MiB", f64::from(memory.get()) / 1024.0);
    }
}

/// Runs both alternately and prints the medians.
fn row(
    what: &str,
    against: &str,
    times: usize,
    at_most: f64,
    mut ours: impl FnMut() -> Duration,
    mut plain: impl FnMut() -> Duration,
) {
    ours();
    plain();
    let pairs: Vec<(Duration, Duration)> = (0..times).map(|_| (ours(), plain())).collect();
    let median = |side: fn(&(Duration, Duration)) -> Duration| {
        let mut all: Vec<Duration> = pairs.iter().map(side).collect();
        all.sort();
        all[all.len() / 2].as_secs_f64() * 1000.0
    };
    let (ours, plain) = (median(|pair| pair.0), median(|pair| pair.1));
    println!("| {what} | {against} | {ours:.0} ms | {plain:.0} ms | {:.2} | {at_most} |", ours / plain);
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Runs a command that must succeed; how long it took.
fn run(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{command:?}: {status:?}");
    start.elapsed()
}

/// Runs a command that must succeed; the most memory that the process itself had resident, in KiB (proc(5), VmHWM).
fn peak(command: &mut Command) -> u32 {
    let Ok(mut child) = command.spawn() else { return 0 };
    let mut most = 0;
    while let Ok(None) = child.try_wait() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let high = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        most = most.max(high.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    most
}

/// One statx a file, one thread.
fn walk(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let mut files = 0;
    for entry in entries.flatten() {
        files += 1;
        if entry.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            files += walk(&entry.path());
        }
    }
    files
}

/// Reads every file, one thread, one buffer.
fn read_all(dir: &Path) -> std::io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    let mut directories = vec![dir.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                let mut file = std::fs::File::open(entry.path())?;
                while file.read(&mut buffer)? > 0 {}
            }
        }
    }
    Ok(())
}

fn modules_of(dir: &Path) -> Vec<PathBuf> {
    let mut modules = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            modules.extend(modules_of(&path));
        } else if path.to_string_lossy().contains(".ko") {
            modules.push(path);
        }
    }
    modules
}

fn copy_synced(file: &Path, to: &Path) {
    let to = to.join(file.file_name().unwrap_or_default());
    if fs::copy(file, &to).is_ok()
        && let Ok(file) = fs::File::open(&to)
    {
        drop(file.sync_all());
    }
}

fn copy(from: &Path, to: &Path) {
    drop(fs::create_dir_all(to.parent().unwrap_or(to)));
    run(Command::new("cp").args(["-a", "--reflink=auto", "-T"]).arg(from).arg(to));
}
