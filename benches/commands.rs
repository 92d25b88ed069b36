//! Whole commands on one kernel with the packages of the fixtures, against plain tools that do the same work.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use fs_err as fs;
use kcache_store::tree;

use crate::measure::{
    Cost, Row, Table, copy, copy_synced, modules_of, peak, read_all, run, timed, without_page_cache,
};

/// The packages that are installed at once; those of the archive that tests use, too.
const PACKAGES: [&str; 6] =
    ["v4l2loopback", "acpi-call", "xtables-addons", "jool-dkms", "dm-writeboost", "bbswitch"];

/// One that takes 10 s and more to compile.
const SLOW: &str = "xtables-addons";

/// A system with one kernel, and a store.
pub struct Bench {
    dir: tempfile::TempDir,
    fixtures: PathBuf,
    kernel: String,
    program: PathBuf,
}

impl Bench {
    /// With nothing but what fixtures there are.
    pub fn find() -> Option<Bench> {
        Bench::of("K61_NEW")
    }

    /// The same for another of their kernels.
    pub fn of(which: &str) -> Option<Bench> {
        let home = std::env::var("HOME").unwrap_or_default();
        let fixtures = std::env::var_os("KCACHE_FIXTURES").map(PathBuf::from);
        let fixtures = fixtures.unwrap_or_else(|| Path::new(&home).join(".cache/kcache-fixtures"));
        let Ok(env) = fs::read_to_string(fixtures.join("env")) else {
            println!("no fixtures in {}: run tests/fixtures.sh", fixtures.display());
            return None;
        };
        let kernel = env.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix('='));
        let kernel = kernel.unwrap_or_default().to_owned();
        let program = env!("CARGO_BIN_EXE_kcache").into();
        Some(Bench { dir: tempfile::tempdir().ok()?, fixtures, kernel, program })
    }

    /// With the newest 6.1 kernel and all packages.
    pub fn with_kernel() -> Option<Bench> {
        Bench::with_kernel_of("K61_NEW")
    }

    /// The same for another kernel.
    pub fn with_kernel_of(which: &str) -> Option<Bench> {
        let bench = Bench::of(which)?;
        let root = bench.root();
        let from = bench.fixtures.join("root");
        let common = format!("usr/src/linux-headers-{}-common", bench.kernel.trim_end_matches("-amd64"));
        let parts = [
            bench.kbuild(),
            format!("usr/src/linux-headers-{}", bench.kernel),
            common,
            format!("lib/modules/{}", bench.kernel),
        ];
        for part in &parts {
            copy(&from.join(part), &root.join(part));
        }
        copy(&bench.fixtures.join("packages/usr/src/."), &root.join("usr/src"));
        run(Command::new("depmod").arg("-b").arg(&root).arg(&bench.kernel));
        Some(bench)
    }

    /// With the image and the in-tree modules of a kernel only.
    pub fn with_image_of(which: &str) -> Option<Bench> {
        let bench = Bench::of(which)?;
        let (from, root, kernel) = (bench.fixtures.join("root"), bench.root(), &bench.kernel);
        let tree = format!("lib/modules/{kernel}");
        let parts = [tree.clone(), format!("boot/vmlinuz-{kernel}"), format!("boot/config-{kernel}")];
        parts.iter().for_each(|part| copy(&from.join(part), &root.join(part)));
        for link in ["build", "source"] {
            drop(fs::remove_file(root.join(&tree).join(link)));
        }
        run(Command::new("depmod").arg("-b").arg(&root).arg(kernel));
        Some(bench)
    }

    /// The directory of the kernel's build programs.
    fn kbuild(&self) -> String {
        let scripts = self.fixtures.join(format!("root/usr/src/linux-headers-{}/scripts", self.kernel));
        let link = fs::read_link(scripts).unwrap_or_default();
        let name = link.iter().rev().nth(1).unwrap_or_default().to_string_lossy();
        format!("usr/lib/{name}")
    }

    /// The kernel's release.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// With everything in the store.
    pub fn filled() -> Option<Bench> {
        Bench::filled_by(env!("CARGO_BIN_EXE_kcache").into())
    }

    /// With everything in the store, all by another program.
    fn filled_by(program: PathBuf) -> Option<Bench> {
        let bench = Bench { program, ..Bench::with_kernel()? };
        run(&mut bench.kcache(&["build", "-q", "-k", &bench.kernel]));
        Some(bench)
    }

    /// Compares this program with another release of it, each on a system of its own.
    pub fn releases(before: PathBuf, table: &mut Table) -> Option<()> {
        let (ours, theirs) = (Bench::filled()?, Bench::filled_by(before)?);
        let mut compare = |what: &str, times, work: &dyn Fn(&Bench) -> Duration| {
            let (ours, theirs) = (|| work(&ours), || work(&theirs));
            table.add(Row::compare(what, "the release before", times, Some(1.03), ours, theirs));
        };
        let on_kernel =
            |words: &[&str], bench: &Bench| run(bench.kcache(words).args(["-q", "-k", &bench.kernel]));
        compare("warm look-up", 31, &|bench| on_kernel(&["build", "v4l2loopback"], bench));
        compare("build that misses", 5, &|bench| on_kernel(&["build", "--rebuild", SLOW], bench));
        compare("install that hits", 15, &|bench| {
            run(&mut bench.kcache(&["remove", "--all"]));
            on_kernel(&["install"], bench)
        });
        compare("install with nothing to do", 31, &|bench| on_kernel(&["install"], bench));
        compare("check", 31, &|bench| on_kernel(&["check"], bench));
        Some(())
    }

    /// Adds kernels that share that one's `common` headers and have no modules of their own.
    pub fn add_kernels(&self, count: u32) {
        let headers = |release: &str| self.root().join("usr/src").join(format!("linux-headers-{release}"));
        for n in 1..=count {
            let release = format!("6.1.0-{}-amd64", 1000 + n);
            let own = headers(&release);
            copy(&headers(&self.kernel), &own);
            for file in ["include/generated/utsrelease.h", "include/config/auto.conf"] {
                let text = fs::read_to_string(own.join(file)).expect("a header");
                fs::write(own.join(file), text.replace(&self.kernel, &release)).expect("room");
            }
            let tree = self.root().join("lib/modules").join(&release);
            fs::create_dir_all(tree.join("kernel")).expect("room");
            for name in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
                fs::write(tree.join(name), "").expect("room");
            }
            let link = format!("/usr/src/linux-headers-{release}");
            std::os::unix::fs::symlink(link, tree.join("build")).expect("room");
            run(Command::new("depmod").arg("-b").arg(self.root()).arg(&release));
        }
    }

    /// Goes through all of them.
    pub fn all(&self, table: &mut Table) {
        self.first_hash(table);
        self.warm_look_up(table);
        self.hit_install(table);
        self.verdict(table);
        self.miss(table);
    }

    /// In-tree modules of the kernel.
    pub fn modules(&self) -> PathBuf {
        self.fixtures.join("root/lib/modules").join(&self.kernel).join("kernel")
    }

    /// The system's root.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// The program, told of this system and this store.
    pub fn kcache(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.root()).arg("--store").arg(self.store()).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The directories that the kernel's headers are made of.
    fn headers(&self) -> Vec<PathBuf> {
        let src = self.root().join("usr/src");
        vec![
            src.join(format!("linux-headers-{}", self.kernel)),
            src.join(format!("linux-headers-{}-common", self.kernel.trim_end_matches("-amd64"))),
            self.root().join(self.kbuild()).join("scripts"),
            self.root().join(self.kbuild()).join("tools"),
        ]
    }

    fn warm_look_up(&self, table: &mut Table) {
        let me = std::env::current_exe().unwrap_or_default();
        let words = ["build", "v4l2loopback", "-k", &self.kernel];
        let ours = || run(&mut self.kcache(&words));
        let walk = || {
            let mut walk = Command::new(&me);
            walk.arg("walk").args(self.headers());
            walk
        };
        let plain = || run(&mut walk());
        let against = "walk + one statx a file, whole process";
        table.add(Row::compare(
            "warm look-up of one package, whole process",
            against,
            15,
            Some(1.2),
            ours,
            plain,
        ));
        let cold = |work: &dyn Fn() -> Duration| {
            without_page_cache();
            work()
        };
        let what = "the same, page cache cold";
        table.add(Row::compare(what, against, 3, None, || cold(&ours), || cold(&plain)));
        table.cost(Cost::of(
            "warm look-up",
            &mut self.kcache(&words),
            &mut self.kcache(&words),
            Some(&mut walk()),
        ));
    }

    fn first_hash(&self, table: &mut Table) {
        let roots: Vec<tree::TreeRoot> = self
            .headers()
            .into_iter()
            .map(|path| tree::TreeRoot {
                label: path.display().to_string(),
                path,
                skip: Vec::new(),
                programs: false,
            })
            .collect();
        let ours = || timed(|| drop(tree::tree_digest(None, &roots, 0)));
        let plain = || timed(|| self.headers().iter().for_each(|dir| drop(read_all(dir))));
        let what = "first hash of a header tree, page cache warm";
        table.add(Row::compare(what, "reading the same files once", 9, Some(1.2), ours, plain));
    }

    fn hit_install(&self, table: &mut Table) {
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
            })
        };
        let depmod = || plain() + run(Command::new("depmod").arg("-b").arg(&other).arg(&self.kernel));
        let what = format!("install that hits, {} packages, {} modules", PACKAGES.len(), modules.len());
        table.add(Row::compare(&what, "copy + fsync of the modules", 7, Some(2.0), ours, plain));
        table.add(Row::compare("the same", "copy + fsync of the modules, one depmod", 7, None, ours, depmod));
        let words = ["install", "-k", &self.kernel];
        let install = || {
            run(&mut self.kcache(&["remove", "--all"]));
            self.kcache(&words)
        };
        table.cost(Cost::of("install that hits", &mut install(), &mut install(), None));
        let nothing = || run(&mut self.kcache(&words));
        let what = "install with nothing to do";
        let walk = || {
            run(Command::new(std::env::current_exe().unwrap_or_default()).arg("walk").args(self.headers()))
        };
        table.add(Row::compare(what, "walk + one statx a file of the headers", 9, None, nothing, walk));
        table.cost(Cost::of(what, &mut self.kcache(&words), &mut self.kcache(&words), None));
    }

    /// After [`Bench::hit_install`], which leaves everything installed.
    fn verdict(&self, table: &mut Table) {
        let me = std::env::current_exe().unwrap_or_default();
        let ours = || run(&mut self.kcache(&["check", "-q", "-k", &self.kernel]));
        let plain = || {
            timed(|| {
                run(Command::new(&me).arg("walk").args(self.headers()));
                std::thread::sleep(Duration::from_millis(150));
            })
        };
        let what = format!("check of a kernel with {} packages installed", PACKAGES.len());
        table.add(Row::compare(&what, "walk + one statx a file, and 150 ms", 9, Some(1.0), ours, plain));
        let words = ["check", "-q", "-k", &self.kernel];
        table.cost(Cost::of("check", &mut self.kcache(&words), &mut self.kcache(&words), None));
    }

    fn miss(&self, table: &mut Table) {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let words = ["build", "--rebuild", SLOW, "-k", &self.kernel];
        let ours = || run(&mut self.kcache(&words));
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
        let against = format!("make -j{jobs} by hand, strip");
        table.add(Row::compare(&what, &against, 3, Some(1.03), ours, plain));
        table.cost(Cost { what, memory: peak(&mut self.kcache(&words)), calls: None, plain_calls: None });
    }
}
