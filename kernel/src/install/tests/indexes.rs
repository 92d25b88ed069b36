//! Tests that indexes generated without depmod equal depmod's, byte for byte.
//!
//! They use generated trees with any order of events, and whole kernels: `KCACHE_INDEXES=all` uses each kernel of the
//! fixtures and more steps (`make test-indexes`). `KCACHE_MODULES` names a directory `RELEASE/PACKAGE/MODULE.ko` of
//! built modules, which are installed and removed as well.

use std::process::Command;

use super::*;

/// The `modules.*` that depmod writes for a tree, which is not changed.
fn of_depmod(tree: &Path) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let release = tree.file_name().unwrap();
    let base = dir.path().join("lib/modules").join(release);
    fs_err::create_dir_all(&base).unwrap();
    let brought = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];
    let wanted = |name: &str| brought.contains(&name) || !name.starts_with("modules.");
    disk::link_children(tree, &base, wanted).unwrap();
    let mut depmod = Command::new(depmod_of_tests());
    // The configuration of the generated root, which has none, or has its own.
    let root = tree.ancestors().nth(3).unwrap();
    let empty = dir.path().join("none");
    fs_err::create_dir(&empty).unwrap();
    let config = root.join("etc/depmod.d");
    depmod.arg("-C").arg(if config.is_dir() { &config } else { &empty });
    let output = depmod.arg("-b").arg(dir.path()).arg(release).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    indexes_of(&base)
}

fn indexes_of(tree: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = disk::names(tree).unwrap();
    names.retain(|name| name.starts_with("modules."));
    names.into_iter().map(|name| (name.clone(), fs_err::read(tree.join(name)).unwrap())).collect()
}

/// Describes where two sets of indexes differ, without printing megabytes.
pub(super) fn assert_same(tree: &Path, when: &str) {
    let (found, expected) = (indexes_of(tree), of_depmod(tree));
    assert!(found.keys().eq(expected.keys()), "{when}: {:?} and {:?}", found.keys(), expected.keys());
    for (name, expected) in &expected {
        let found = &found[name];
        if found != expected {
            let at = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
            let around = |bytes: &[u8]| {
                String::from_utf8_lossy(
                    &bytes[at.saturating_sub(300).min(bytes.len())..(at + 200).min(bytes.len())],
                )
                .into_owned()
            };
            panic!("{when}: {name} differs at byte {at}:\n{}\ndepmod:\n{}", around(found), around(expected));
        }
    }
}

/// A copy of a kernel's whole tree, with indexes by depmod.
struct Whole {
    dir: tempfile::TempDir,
    release: String,
    cache: HashMap<blake3::Hash, Vec<u8>>,
    /// The installed modules, by package.
    installed: BTreeMap<String, InstalledPackage>,
    /// Compression of the in-tree modules.
    compression: Compression,
    here: usize,
    reasons: Vec<String>,
}

impl Whole {
    fn new(fixtures: &Path, release: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("lib/modules");
        fs_err::create_dir_all(&modules).unwrap();
        let from = fixtures.join("root/lib/modules").join(release);
        let copied =
            Command::new("cp").args(["-a", "--no-preserve=ownership"]).arg(&from).arg(&modules).status();
        assert!(copied.unwrap().success());
        for link in ["build", "source"] {
            fs_err::remove_file(modules.join(release).join(link)).unwrap();
        }
        let headers = fixtures.join("root/usr/src").join(format!("linux-headers-{release}"));
        fs_err::create_dir(modules.join(release).join("build")).unwrap();
        let symvers = modules.join(release).join("build/Module.symvers");
        fs_err::copy(headers.join("Module.symvers"), symvers).unwrap();
        let mut whole = Self {
            dir,
            release: release.to_owned(),
            cache: HashMap::new(),
            installed: BTreeMap::new(),
            compression: Compression::None,
            here: 0,
            reasons: Vec::new(),
        };
        whole.depmod();
        let one = whole.find(&["dummy"]).remove(0);
        whole.compression = Compression::of_file_name(one.rsplit('/').next().unwrap()).unwrap().1;
        whole
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("lib/modules").join(&self.release)
    }

    fn depmod(&self) {
        let mut depmod = Command::new(depmod_of_tests());
        let empty = self.dir.path().join("none");
        fs_err::create_dir_all(&empty).unwrap();
        let status = depmod.arg("-C").arg(&empty).arg("-b").arg(self.dir.path()).arg(&self.release).status();
        assert!(status.unwrap().success());
    }

    fn package(&mut self, name: &str, modules: &[(String, Vec<u8>)]) -> InstalledPackage {
        let module = |(name, bytes): &(String, Vec<u8>)| {
            let digest = blake3::hash(bytes);
            self.cache.insert(digest, bytes.clone());
            ModuleSpec { name: name.clone(), digest, size: bytes.len() as u64 }
        };
        let modules = modules.iter().map(module).collect();
        InstalledPackage { name: name.to_owned(), version: "1".to_owned(), key: name.to_owned(), modules }
    }

    /// The decompressed bytes of in-tree modules, by path.
    fn own(&self, paths: &[&str]) -> Vec<(String, Vec<u8>)> {
        paths.iter().map(|path| self.read(path)).collect()
    }

    fn read(&self, path: &str) -> (String, Vec<u8>) {
        let (name, compression) = Compression::of_file_name(path.rsplit('/').next().unwrap()).unwrap();
        let bytes = fs_err::read(self.tree().join(path)).unwrap();
        (name.to_owned(), compression.decompress(&bytes, 1 << 30).unwrap())
    }

    /// Installs what is in `installed`, and compares indexes.
    fn apply(&mut self, when: &str) {
        let packages: Vec<InstalledPackage> = self.installed.values().cloned().collect();
        let mut source =
            |module: &ModuleSpec| Ok(self.cache.get(&module.digest).ok_or("not in the cache")?.clone());
        let tree = self.tree();
        let wanted = Set { compression: self.compression, ..set(&packages) };
        let plan = plan(&tree, wanted).unwrap();
        let outcome =
            self.site_does(|site, _| Transaction::begin(site).unwrap().apply(&plan, &mut source).unwrap());
        match outcome.indexed {
            Some(Indexed::Here { .. }) => self.here += 1,
            Some(Indexed::ByDepmod { reason }) => self.reasons.push(format!("{when}: {reason}")),
            None => {}
        }
        assert_same(&tree, when);
    }

    fn site_does<T>(&self, act: impl FnOnce(Site<'_>, &Tree) -> T) -> T {
        let tree = self.tree();
        let dir = ModulesDir::from(&tree);
        let site = Site {
            tree: &dir,
            root: self.dir.path(),
            depmod: &depmod_of_tests(),
            always_depmod: false,
            depmods: &(),
            sign: None,
            wait: WAIT,
            print: &|_| (),
        };
        act(site, &Tree::open(&tree).unwrap())
    }

    fn add(&mut self, name: &str, modules: &[(String, Vec<u8>)]) {
        let package = self.package(name, modules);
        self.installed.insert(name.to_owned(), package);
        self.apply(&format!("{} with {name}", self.release));
    }

    fn remove(&mut self, name: &str) {
        self.installed.remove(name);
        self.apply(&format!("{} without {name}", self.release));
    }

    /// Paths of the in-tree modules with one of these file names.
    fn find(&self, names: &[&str]) -> Vec<String> {
        let dep = fs_err::read_to_string(self.tree().join("modules.dep")).unwrap();
        let listed = dep.lines().filter_map(|line| line.split_once(':')).map(|(path, _)| path);
        let is_one = |path: &&str| {
            let file = path.rsplit('/').next().unwrap();
            path.starts_with("kernel/")
                && names.iter().any(|name| Compression::of_file_name(file).unwrap().0 == *name)
        };
        listed.filter(is_one).map(str::to_owned).collect()
    }
}

fn fixtures() -> PathBuf {
    let dir = std::env::var_os("KCACHE_FIXTURES").map(PathBuf::from);
    dir.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/kcache-fixtures"))
}

/// The kernels to test, the smallest first; none if there are no fixtures.
#[expect(clippy::print_stdout, reason = "says why a test does nothing")]
fn kernels() -> Vec<String> {
    let path = fixtures().join("env");
    if !everything() && !path.exists() {
        println!("skipped, because {} does not exist: run tests/fixtures.sh", path.display());
        return Vec::new();
    }
    let env = fs_err::read_to_string(path).unwrap();
    let value = |name: &str| {
        env.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    };
    let all = ["K61_CLOUD", "K612", "K61_NEW"].into_iter().filter_map(value);
    all.take(if everything() { 3 } else { 1 }).collect()
}

fn everything() -> bool {
    std::env::var_os("KCACHE_INDEXES").is_some()
}

/// In-tree modules that others need, so that an override of one changes many lines, and some without dependencies.
const OVERRIDDEN: [&str; 8] =
    ["x_tables", "dm-mod", "libcrc32c", "nf_tables", "usbcore", "mii", "xfs", "dummy"];

#[test]
fn a_real_kernel_has_depmods_indexes_after_any_change() {
    for release in kernels() {
        let mut whole = Whole::new(&fixtures(), &release);
        // An unknown module, with everything that an index can contain.
        let mut built = Built::named("made-up");
        built.modinfo.extend(
            [
                "alias=pci:v00001AF4d0000[0-9a-f]*",
                "alias=char-major-10-99",
                "alias=devname:made-up",
                "alias=of:N*T*]",
                "softdep=pre: crc32c post: xfs",
                "alias=made-up",
            ]
            .map(str::to_owned),
        );
        built.undefined.push(("dm_register_target".into(), false));
        built.exports.push(("made_up_symbol".into(), 1, String::new()));
        whole.add("made", &[("made-up".to_owned(), built.bytes())]);
        let mut user = Built::named("user");
        user.undefined.extend([("made_up_symbol".into(), false), ("xt_register_target".into(), false)]);
        whole.add("user", &[("user".to_owned(), user.bytes())]);
        for name in OVERRIDDEN {
            let paths = whole.find(&[name]);
            let Some(path) = paths.first() else { continue };
            let modules = whole.own(&[path]);
            whole.add(&format!("over-{name}"), &modules);
        }
        whole.remove("made");
        whole.add("made", &[("made-up".to_owned(), built.bytes())]);
        for name in OVERRIDDEN {
            if whole.installed.contains_key(&format!("over-{name}")) {
                whole.remove(&format!("over-{name}"));
            }
        }
        whole.remove("user");
        whole.remove("made");
        assert_eq!(whole.reasons, [""; 0], "depmod ran");
    }
}

/// Names and bytes of modules.
type Modules = Vec<(String, Vec<u8>)>;

/// The packages in a directory, with their modules.
fn packages_in(dir: &Path) -> Vec<(String, Modules)> {
    let module = |file: &PathBuf| {
        let name = file.file_name()?.to_str()?;
        let (name, compression) = Compression::of_file_name(name)?;
        Some((name.to_owned(), compression.decompress(&fs_err::read(file).ok()?, 1 << 30).ok()?))
    };
    let package = |name: String| {
        let files = disk::names(&dir.join(&name)).unwrap();
        let files: Vec<PathBuf> = files.iter().map(|file| dir.join(&name).join(file)).collect();
        (name, files.iter().filter_map(module).collect())
    };
    disk::names(dir).unwrap().into_iter().map(package).collect()
}

#[test]
#[expect(clippy::print_stdout, reason = "figures, for --nocapture")]
fn built_modules_are_installed_and_removed() {
    let Some(built) = std::env::var_os("KCACHE_MODULES").map(PathBuf::from) else { return };
    for release in disk::names(&built).unwrap() {
        let mut whole = Whole::new(&fixtures(), &release);
        let packages = packages_in(&built.join(&release));
        // Two packages that build modules of the same name are never in one set.
        let mut names = std::collections::BTreeSet::new();
        let fits = |(_, modules): &&(String, Modules)| {
            let new = modules.iter().all(|(name, _)| !names.contains(name));
            names.extend(modules.iter().map(|(name, _)| name.clone()));
            new && !modules.is_empty()
        };
        let packages: Vec<_> = packages.iter().filter(fits).collect();
        packages.iter().for_each(|(name, modules)| whole.add(name, modules));
        packages.iter().for_each(|(name, _)| whole.remove(name));
        packages.iter().rev().for_each(|(name, modules)| whole.add(name, modules));
        // Every second one, then the others.
        let (even, odd): (Vec<_>, Vec<_>) = packages.iter().enumerate().partition(|(n, _)| n % 2 == 0);
        even.iter().chain(&odd).for_each(|(_, (name, _))| whole.remove(name));
        println!("{release}: {} without depmod; {:#?}", whole.here, whole.reasons);
    }
}

/// The median of some runs, in seconds.
fn median(mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..7)
        .map(|_| {
            let start = std::time::Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[3]
}

/// A measurement: `KCACHE_INDEXES=all cargo test --release -p kcache-kernel --lib duration_of -- --nocapture`.
#[test]
#[expect(clippy::print_stdout, reason = "figures, for --nocapture")]
fn duration_of_updating_and_depmod() {
    if !everything() {
        return;
    }
    for release in kernels() {
        let mut whole = Whole::new(&fixtures(), &release);
        let alone = whole.find(&["dummy", "loop", "nbd", "veth", "vxlan", "wireguard", "zram", "bonding"]);
        let renamed = |path: &String| {
            let (name, bytes) = whole.read(path);
            (format!("{name}-too"), bytes)
        };
        let modules: Vec<(String, Vec<u8>)> = alone.iter().map(renamed).collect();
        whole.add("some", &modules);
        whole.site_does(|site, tree| {
            let generation = current(&tree.path).unwrap().unwrap();
            disk::make_private_dir(&tree.staging).unwrap();
            let fresh = || {
                for dir in [tree.base(), tree.depmod_dir()] {
                    disk::if_found(fs_err::remove_dir_all(dir)).unwrap();
                }
                stage::stage_base(tree, None).unwrap();
                let dir = generation.dir_name();
                let link = tree.base_tree().join("updates").join(&dir);
                fs_err::os::unix::fs::symlink(tree.updates().join(&dir), link).unwrap();
            };
            let staging = median(fresh);
            let here = median(|| {
                fresh();
                assert!(matches!(reindex::reindex(&site, tree, None), Ok(reindex::Reindexed::Written(_))));
            });
            let by_depmod = median(|| {
                fresh();
                drop(depmod::call(&site, tree).unwrap());
            });
            let (here, by_depmod) = ((here - staging) * 1e3, (by_depmod - staging) * 1e3);
            println!("{release}: {here:.1} ms, depmod {by_depmod:.1} ms, ratio {:.4}", here / by_depmod);
            fs_err::remove_dir_all(&tree.staging).unwrap();
        });
    }
}

/// Installs on a small host after a change. Returns why depmod ran, or how many modules were read.
fn after(act: impl FnOnce(&Host)) -> String {
    let host = Host::new();
    later();
    host.depmod();
    host.install(&[host.package("p", "1", &["one"])]).unwrap();
    act(&host);
    let outcome = host.install(&[host.package("p", "2", &["one"])]).unwrap();
    assert_same(&host.tree(), "afterwards");
    assert!(host.is_whole());
    match outcome.indexed.unwrap() {
        Indexed::Here { read } => format!("{read} read"),
        Indexed::ByDepmod { reason } => {
            reason.to_string().replace(&host.dir.path().display().to_string(), "DIR")
        }
    }
}

/// Long enough for file times to differ.
fn later() {
    std::thread::sleep(Duration::from_millis(20));
}

fn write(host: &Host, path: &str, bytes: &[u8]) {
    let path = host.dir.path().join(path.replace("TREE", &format!("lib/modules/{RELEASE}")));
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, bytes).unwrap();
}

fn set_back(host: &Host, names: &[&str], seconds: u64) {
    for name in names {
        let file = fs_err::File::open(host.tree().join(name)).unwrap().into_parts().0;
        let modified = file.metadata().unwrap().modified().unwrap();
        file.set_modified(modified - Duration::from_secs(seconds)).unwrap();
    }
}

#[test]
fn foreign_changes_are_indexed_with_or_without_a_depmod_run() {
    let check = |expect: &str, act: &dyn Fn(&Host)| assert_eq!(after(act), expect);
    let example = |host: &Host| write(host, "TREE/updates/example.ko", &Built::example().bytes());
    check("1 read", &|_| ());
    check("2 read", &|host| write(host, "TREE/extra/theirs.ko", &Built::named("theirs").bytes()));
    check("2 read", &|host| {
        write(host, "TREE/extra/theirs.ko", &Built::named("theirs").bytes());
        host.depmod();
    });
    check("1 read", &|host| fs_err::remove_file(host.tree().join("kernel/fs/intree.ko")).unwrap());
    check("2 read", &|host| {
        later();
        let mut other = Built::named("intree");
        other.modinfo.push("alias=other".to_owned());
        write(host, "TREE/kernel/fs/intree.ko", &other.bytes());
    });
    check("2 read", &|host| write(host, "TREE/updates/intree.ko", &Built::named("intree").bytes()));
    check("2 read", &|host| {
        if Kmod::of_tests().excludes() {
            write(host, "TREE/updates/old/a.ko", &Built::named("a").bytes());
        }
        write(host, "TREE/updates/a.ko", &Built::named("a").bytes());
        write(host, "etc/depmod.d/a.conf", b"exclude old\n");
    });
    // Nothing shows which modules need it.
    check(
        "example_fn is newly exported or no longer exported, and there is no Module.symvers to tell the effect",
        &example,
    );
    check("2 read", &|host| {
        write(host, "TREE/build/Module.symvers", b"0x1\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n");
        example(host);
    });
    check("other modules may need example_fn, which was not exported before", &|host| {
        write(host, "TREE/build/Module.symvers", b"0x1\texample_fn\tvmlinux\tEXPORT_SYMBOL\t\n");
        example(host);
    });
}

#[test]
fn new_symbols_of_an_own_module_need_no_symvers() {
    let host = Host::new();
    later();
    host.depmod();
    let mut built = Built::named("one");
    built.exports.push(("one_fn".to_owned(), 1, String::new()));
    let bytes = built.bytes();
    let (digest, size) = (blake3::hash(&bytes), bytes.len() as u64);
    host.cache.borrow_mut().insert(digest, bytes);
    let modules = vec![ModuleSpec { name: "one".into(), digest, size }];
    let package = InstalledPackage { modules, ..host.package("p", "1", &["one"]) };
    let outcome = host.install(&[package]).unwrap();
    assert!(matches!(outcome.indexed, Some(Indexed::Here { .. })), "{:?}", outcome.indexed);
    assert_same(&host.tree(), "with a new symbol");
}

#[test]
fn depmod_runs_if_anything_is_uncertain() {
    let check = |expect: &str, act: &dyn Fn(&Host)| assert_eq!(after(act), expect);
    check("modules.softdep does not exist", &|host| {
        fs_err::remove_file(host.tree().join("modules.softdep")).unwrap()
    });
    check("modules.symbols does not exist", &|host| {
        let path = host.tree().join("modules.symbols");
        fs_err::remove_file(&path).unwrap();
        fs_err::os::unix::fs::symlink("/dev/null", path).unwrap();
    });
    check("line 1 of modules.alias is not as depmod writes it", &|host| {
        write(host, "TREE/modules.alias", b"")
    });
    check("line 1 of modules.dep.bin is not as depmod writes it", &|host| {
        write(host, "TREE/modules.dep.bin", b"cut")
    });
    check("line 3 of modules.dep is not as depmod writes it", &|host| {
        let text = fs_err::read_to_string(host.tree().join("modules.dep")).unwrap();
        write(host, "TREE/modules.dep", format!("{text}kernel/a.ko\n").as_bytes());
    });
    check("the indexes were not written together", &|host| set_back(host, &["modules.dep"], 3600));
    check("modules.order is newer than the indexes", &|host| {
        later();
        write(host, "TREE/modules.order", b"kernel/fs/intree.ko\n");
    });
    check("updates/other: a directory that is a link", &|host| {
        write(host, "elsewhere/a.ko", &Built::named("a").bytes());
        fs_err::os::unix::fs::symlink(host.dir.path().join("elsewhere"), host.tree().join("updates/other"))
            .unwrap();
    });
    check("DIR/etc/depmod.d/a.conf: modules from outside the tree", &|host| {
        write(host, "etc/depmod.d/a.conf", b"external * /nowhere\n");
    });
    check("kernel/fs/intree.ko: a module of this name is built into the kernel", &|host| {
        write(host, "TREE/modules.builtin", b"kernel/x/intree.ko\n");
        host.depmod();
    });
    check("kernel/a.ko: updates/a.ko is of the same rank", &|host| {
        write(host, "etc/depmod.d/a.conf", b"search built-in\n");
        write(host, "TREE/updates/a.ko", &Built::named("a").bytes());
        write(host, "TREE/kernel/a.ko", &Built::named("a").bytes());
    });
}

pub(super) fn install_by(host: &Host, site: Site<'_>, version: &str) -> Indexed {
    let package = host.package("p", version, &["one"]);
    let mut source =
        |module: &ModuleSpec| Ok(host.cache.borrow().get(&module.digest).ok_or("not in the cache")?.clone());
    let plan = plan(site.tree, set(&[package])).unwrap();
    Transaction::begin(site).unwrap().apply(&plan, &mut source).unwrap().indexed.unwrap()
}

#[test]
fn depmod_runs_if_required_or_unknown() {
    let host = Host::indexed();
    let script = host.dir.path().join("depmod");
    fs_err::write(&script, "#!/bin/sh\nexec /sbin/depmod \"$@\"\n").unwrap();
    fs_err::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let asked = host.site_does(|site| install_by(&host, Site { always_depmod: true, ..site }, "1"));
    assert_eq!(asked, Indexed::ByDepmod { reason: DepmodReason::Asked });
    let other = host.site_does(|site| install_by(&host, Site { depmod: &script, ..site }, "2"));
    assert!(matches!(other, Indexed::ByDepmod { reason: DepmodReason::Version { .. } }), "{other:?}");
    assert!(matches!(host.site_does(|site| install_by(&host, site, "3")), Indexed::Here { .. }));
}

#[test]
fn wrong_indexes_are_detected_and_regenerated() {
    let host = Host::indexed();
    host.install(&[host.package("p", "1", &["one"])]).unwrap();
    let differing = || {
        let scratch = tempfile::tempdir().unwrap();
        let faults = host.site_does(|site| compare(site, scratch.path())).unwrap();
        faults.iter().map(|fault| fault.to_string()).collect::<Vec<_>>()
    };
    let before = host.picture();
    assert!(differing().is_empty());
    write(
        &host,
        "TREE/modules.softdep",
        b"# Soft dependencies extracted from modules themselves.\nsoftdep one pre: two\n",
    );
    let expect = format!(
        "{} differs from what depmod writes for the tree",
        host.tree().join("modules.softdep").display()
    );
    assert_eq!(differing(), [expect]);
    let made = host.site_does(|site| Transaction::begin(site).unwrap().remake_indexes()).unwrap();
    assert_eq!(made.indexed, Some(Indexed::ByDepmod { reason: DepmodReason::Asked }));
    assert_eq!(host.picture(), before);
}

#[test]
fn cyclic_dependencies_are_left_to_depmod() {
    let host = Host::indexed();
    let built = |name: &str, exports: &str, needs: &str| {
        let mut built = Built::named(name);
        built.exports.push((exports.to_owned(), 1, String::new()));
        built.undefined.push((needs.to_owned(), false));
        built.bytes()
    };
    write(&host, "TREE/build/Module.symvers", b"");
    write(&host, "TREE/updates/one.ko", &built("one", "of_one", "of_two"));
    write(&host, "TREE/updates/two.ko", &built("two", "of_two", "of_one"));
    let before = host.picture();
    let error = host.install(&[host.package("p", "1", &["three"])]).unwrap_err().to_string();
    assert!(error.contains("Cycle detected"), "{error}");
    assert_eq!(host.picture(), before);
}
