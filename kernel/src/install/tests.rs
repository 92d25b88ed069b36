//! Tests of transactions on a small tree with the real depmod: successful ones, with an error at each step, and with a
//! crash at each step.

mod concurrent;
mod corruption;
mod foreign_files;
mod indexes;
mod labels;
mod model;
mod newer_depmod;
mod prepared;
mod retiring;
mod signing;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use super::*;
use crate::compress::Compression;
use crate::index::{DepIndex, Kmod, depmod_of_tests};
use crate::ko::fixture::Built;

const RELEASE: &str = "6.1.0-56-amd64";
/// Time to wait for the lock. Another test's child process holds it between its fork and its exec.
const WAIT: Duration = Duration::from_secs(60);

/// A kernel with one in-tree module, and a source that has any requested module.
struct Host {
    dir: tempfile::TempDir,
    cache: RefCell<HashMap<blake3::Hash, Vec<u8>>>,
    fetched: Cell<usize>,
}

impl Host {
    fn new() -> Self {
        let host =
            Self { dir: tempfile::tempdir().unwrap(), cache: RefCell::default(), fetched: Cell::new(0) };
        let tree = host.tree();
        fs_err::create_dir_all(tree.join("kernel/fs")).unwrap();
        fs_err::write(tree.join("kernel/fs/intree.ko"), Built::named("intree").bytes()).unwrap();
        fs_err::write(tree.join("modules.order"), "kernel/fs/intree.ko\n").unwrap();
        fs_err::write(tree.join("modules.builtin"), "").unwrap();
        fs_err::write(tree.join("modules.builtin.modinfo"), "").unwrap();
        host
    }

    /// Like [`Host::new`], after a depmod run, as a distribution's kernel package leaves it.
    fn indexed() -> Self {
        let host = Self::new();
        host.depmod();
        host
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("lib/modules").join(RELEASE)
    }

    fn depmod(&self) {
        let status = std::process::Command::new(depmod_of_tests())
            .arg("-b")
            .arg(self.dir.path())
            .arg(RELEASE)
            .status();
        assert!(status.unwrap().success());
    }

    fn package(&self, name: &str, version: &str, modules: &[&str]) -> InstalledPackage {
        let module = |module: &&str| {
            let mut built = Built::named(module);
            built.modinfo.push(format!("version={version}"));
            built.modinfo.extend(["a", "b"].map(|bus| format!("alias={bus}-bus:*{module}*")));
            let bytes = built.bytes();
            let digest = blake3::hash(&bytes);
            let size = bytes.len() as u64;
            self.cache.borrow_mut().insert(digest, bytes);
            ModuleSpec { name: (*module).into(), digest, size }
        };
        let modules = modules.iter().map(module).collect();
        InstalledPackage {
            name: name.into(),
            version: version.into(),
            key: format!("key of {name} {version}"),
            modules,
        }
    }

    fn site_does<T>(&self, act: impl FnOnce(Site<'_>) -> T) -> T {
        let (tree, print) = (ModulesDir::from(&self.tree()), |_: &str| ());
        act(Site {
            tree: &tree,
            root: self.dir.path(),
            depmod: &depmod_of_tests(),
            always_depmod: false,
            depmods: &(),
            sign: Some(&sign),
            wait: WAIT,
            print: &print,
        })
    }

    fn install_at(&self, packages: &[InstalledPackage], step: &Step<'_>) -> Result<Committed, Error> {
        let mut source = |module: &ModuleSpec| {
            self.fetched.set(self.fetched.get() + 1);
            Ok(self.cache.borrow().get(&module.digest).ok_or("not in the cache")?.clone())
        };
        self.site_does(|site| {
            let transaction = Transaction::begin_at(site, step)?;
            let plan = plan(&self.tree(), set(packages))?;
            transaction.apply_at(&plan, &mut source, step)
        })
    }

    fn install(&self, packages: &[InstalledPackage]) -> Result<Committed, Error> {
        self.install_at(packages, &|_| Ok(()))
    }

    /// Installs, and crashes at the `n`th step. Returns the step's name; `None` if there are fewer steps.
    fn crash_at(&self, packages: &[InstalledPackage], n: usize) -> Option<String> {
        let passed = RefCell::new(Vec::new());
        let step = |name: &str| {
            passed.borrow_mut().push(name.to_owned());
            assert!(passed.borrow().len() <= n, "crash");
            Ok(())
        };
        let died = catch_unwind(AssertUnwindSafe(|| self.install_at(packages, &step))).is_err();
        died.then(|| passed.borrow().last().cloned().unwrap_or_default())
    }

    fn recover(&self) -> Recovery {
        self.site_does(|site| Transaction::begin(site).unwrap().recovered())
    }

    /// Names, modes, contents and link targets of everything under the modules directory.
    fn picture(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut picture = BTreeMap::new();
        let mut waiting = vec![self.dir.path().join("lib/modules")];
        while let Some(path) = waiting.pop() {
            let metadata = fs_err::symlink_metadata(&path).unwrap();
            let content = if metadata.is_dir() {
                waiting.extend(fs_err::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                Vec::new()
            } else {
                fs_err::read(&path).unwrap()
            };
            picture.insert(path, (metadata.permissions().mode(), content));
        }
        picture
    }

    fn found(&self, module: &str) -> Option<String> {
        let index = DepIndex::parse(&fs_err::read(self.tree().join(DEP_BIN)).unwrap()).unwrap();
        index.lookup(module).map(|entry| entry.path.to_owned())
    }

    fn current(&self) -> Option<Generation> {
        current(&self.tree()).unwrap()
    }

    fn is_whole(&self) -> bool {
        let Some(generation) = self.current() else { return true };
        verify(&self.tree(), &generation).unwrap().is_empty()
    }
}

/// A fake signature, for tests that do not verify it.
fn sign(signer: &Identity, _: &ModuleSpec, module: &[u8]) -> Result<Vec<u8>, BoxError> {
    let message = signer.subject.as_bytes();
    let length = (message.len() as u32).to_be_bytes();
    Ok([module, message, &[0, 0, 2, 0, 0, 0, 0, 0], &length, b"~Module signature appended~\n"].concat())
}

fn signer(subject: &str) -> Option<Identity> {
    Some(Identity { subject: subject.into(), certificate: subject.into(), hash: None })
}

fn set(packages: &[InstalledPackage]) -> Set {
    let (kernel_version, compression) = ("#1 SMP".to_owned(), Compression::Xz);
    Set { kernel_version, compression, signer: None, packages: packages.to_vec() }
}

fn acts(plan: &InstallPlan) -> Vec<(&str, Act)> {
    plan.changes.iter().map(|change| (change.package.as_str(), change.act)).collect()
}

#[test]
fn modules_are_installed_and_found() {
    let host = Host::indexed();
    let outcome = host.install(&[host.package("p", "1", &["one", "two-three"])]).unwrap();
    let dir = format!("updates/kcache-{}/p", outcome.generation.as_deref().unwrap());
    assert_eq!(host.found("one"), Some(format!("{dir}/one.ko.xz")));
    assert_eq!(host.found("two_three"), Some(format!("{dir}/two-three.ko.xz")));
    assert_eq!(host.found("intree"), Some("kernel/fs/intree.ko".into()));
    let modes = |path: &str| host.picture()[&host.tree().join(path)].0 & 0o777;
    assert_eq!((modes(&dir), modes(&format!("{dir}/one.ko.xz")), modes(DEP_BIN)), (0o755, 0o644, 0o644));
    assert!(host.is_whole());
}

#[test]
fn the_published_indexes_are_those_of_a_depmod_on_the_live_tree() {
    let host = Host::indexed();
    for packages in [
        vec![host.package("p", "1", &["one"]), host.package("q", "1", &["two"])],
        vec![host.package("q", "1", &["two"])],
    ] {
        host.install(&packages).unwrap();
        let published = host.picture();
        host.depmod();
        assert_eq!(host.picture(), published);
    }
}

#[test]
fn an_identical_set_changes_nothing() {
    let host = Host::indexed();
    let packages = [host.package("p", "1", &["one"])];
    assert!(host.install(&packages).unwrap().changed);
    let before = host.picture();
    assert!(!host.install(&packages).unwrap().changed);
    assert_eq!(host.picture(), before);
}

#[test]
fn removing_the_last_package_leaves_the_tree_as_it_was() {
    for host in [Host::new(), Host::indexed()] {
        let before = host.picture();
        host.install(&[host.package("p", "1", &["one"])]).unwrap();
        host.install(&[host.package("q", "1", &["one"])]).unwrap();
        let outcome = host.install(&[]).unwrap();
        assert_eq!((outcome.generation, outcome.changed), (None, true));
        assert_eq!(host.picture(), before);
    }
}

#[test]
fn a_foreign_updates_directory_is_kept() {
    let host = Host::new();
    fs_err::create_dir_all(host.tree().join("updates/dkms")).unwrap();
    fs_err::write(host.tree().join("updates/dkms/foreign.ko"), Built::named("foreign").bytes()).unwrap();
    fs_err::write(host.tree().join("updates/loose.ko"), Built::named("loose").bytes()).unwrap();
    host.depmod();
    let before = host.picture();
    host.install(&[host.package("p", "1", &["one"])]).unwrap();
    assert_eq!(host.found("foreign"), Some("updates/dkms/foreign.ko".into()));
    assert_eq!(host.found("loose"), Some("updates/loose.ko".into()));
    host.install(&[]).unwrap();
    assert_eq!(host.picture(), before);
}

#[test]
fn indexes_of_a_later_depmod_are_kept_and_regenerated() {
    let host = Host::new();
    host.install(&[host.package("p", "1", &["one"])]).unwrap();
    fs_err::create_dir_all(host.tree().join("updates/dkms")).unwrap();
    fs_err::write(host.tree().join("updates/dkms/foreign.ko"), Built::named("foreign").bytes()).unwrap();
    host.depmod();
    host.install(&[]).unwrap();
    assert_eq!(host.found("foreign"), Some("updates/dkms/foreign.ko".into()));
    assert_eq!(host.found("one"), None);
}

#[test]
fn a_plan_lists_all_changes() {
    let host = Host::indexed();
    let (p, q, r) =
        (host.package("p", "1", &["one"]), host.package("q", "1", &["two"]), host.package("r", "1", &["x"]));
    host.install(&[p.clone(), q]).unwrap();
    let plan = plan(&host.tree(), set(&[host.package("q", "2", &["two"]), p, r])).unwrap();
    assert_eq!(acts(&plan), [("p", Act::Keep), ("q", Act::Replace), ("r", Act::Add)]);
    assert!(plan.depmod && !plan.is_nothing());
    let plan = super::plan(&host.tree(), set(&[])).unwrap();
    assert_eq!(acts(&plan), [("p", Act::Remove), ("q", Act::Remove)]);
}

#[test]
fn unchanged_modules_need_no_cache() {
    let host = Host::indexed();
    let (p, q) = (host.package("p", "1", &["one"]), host.package("q", "1", &["two"]));
    host.install(&[p.clone(), q]).unwrap();
    host.cache.borrow_mut().clear();
    host.install(&[p]).unwrap();
    assert_eq!(host.fetched.get(), 2);
    assert!(host.is_whole());
}

#[test]
fn the_previous_set_can_be_restored() {
    let host = Host::indexed();
    let first = host.install(&[host.package("p", "1", &["one"])]).unwrap().generation;
    host.install(&[host.package("p", "2", &["one"])]).unwrap();
    let previous = host.current().unwrap().previous.unwrap();
    assert_eq!(host.install(&previous.packages).unwrap().generation, first);
    assert!(host.is_whole());
}

#[test]
fn corrupt_files_and_indexes_are_detected_and_repaired() {
    let host = Host::indexed();
    let packages = [host.package("p", "1", &["one", "two"])];
    host.install(&packages).unwrap();
    let whole = host.picture();
    let module = host.tree().join(host.found("one").unwrap());
    let damages: [&dyn Fn(); 4] = [
        &|| fs_err::write(&module, b"").unwrap(),
        &|| fs_err::remove_file(&module).unwrap(),
        &|| fs_err::remove_file(host.tree().join(DEP_BIN)).unwrap(),
        &|| fs_err::write(host.tree().join(DEP_BIN), b"cut").unwrap(),
    ];
    for damage in damages {
        damage();
        assert!(!host.is_whole());
        assert!(host.install(&packages).unwrap().changed);
        assert_eq!(host.picture(), whole);
    }
}

#[test]
fn wrong_bytes_from_the_source_are_refused() {
    let host = Host::indexed();
    let good = host.package("p", "1", &["one"]);
    host.install(std::slice::from_ref(&good)).unwrap();
    let before = host.picture();
    let bad = host.package("q", "1", &["two"]);
    let digest = bad.modules[0].digest;
    let cases: [(&[u8], &str); 3] = [
        (b"short", "module two has the digest"),
        (&[0; 1 << 16], "module two has the digest"),
        (b"", "module two has the digest"),
    ];
    for (bytes, expect) in cases {
        host.cache.borrow_mut().insert(digest, bytes.to_vec());
        let error = host.install(&[good.clone(), bad.clone()]).unwrap_err().to_string();
        assert!(error.starts_with(expect), "{error}");
        assert_eq!(host.picture(), before);
    }
}

#[test]
fn a_foreign_module_that_takes_precedence_is_reported() {
    let host = Host::indexed();
    // This root's own configuration counts, not this machine's.
    let config = host.dir.path().join("etc/depmod.d");
    fs_err::create_dir_all(&config).unwrap();
    fs_err::write(config.join("order.conf"), "search built-in updates\n").unwrap();
    let before = host.picture();
    let error = host.install(&[host.package("p", "1", &["intree"])]).unwrap_err().to_string();
    assert!(
        error.starts_with("modprobe loads kernel/fs/intree.ko for intree, not kcache's updates/"),
        "{error}"
    );
    assert_eq!(host.picture(), before);
}

#[test]
fn a_failing_or_wrong_depmod_changes_nothing() {
    let host = Host::indexed();
    let before = host.picture();
    let program = host.dir.path().join("depmod");
    let check = |script: &str, expect: &str| {
        fs_err::write(
            &program,
            format!(
                "#!/bin/sh\nfor arg; do [ \"$last\" = -b ] && base=$arg; last=$arg; done\n\
                 out=$base/usr/lib/modules/$last\n{script}\n"
            ),
        )
        .unwrap();
        fs_err::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let packages = [host.package("p", "1", &["one"])];
        let error = host.site_does(|site| {
            let transaction = Transaction::begin(Site { depmod: &program, ..site }).unwrap();
            let plan = plan(&host.tree(), set(&packages)).unwrap();
            let mut source = |module: &ModuleSpec| Ok(host.cache.borrow()[&module.digest].clone());
            transaction.apply(&plan, &mut source).expect_err(script)
        });
        assert!(error.to_string().contains(expect), "{error}");
        assert_eq!(host.picture(), before);
    };
    check("echo boom >&2; exit 1", "depmod failed (exit status: 1): boom");
    check("exit 0", "modules.dep.bin");
    check(
        "/sbin/depmod \"$@\"; truncate -s 40 $out/modules.dep.bin",
        "depmod wrote a corrupt modules.dep.bin",
    );
    check(
        "/sbin/depmod \"$@\"; truncate -s 6 $out/modules.symbols.bin",
        "depmod wrote a corrupt modules.symbols.bin",
    );
    check("/sbin/depmod \"$@\"; truncate -s 10 $out/modules.dep", "differ at");
    check("rm $out/kernel; /sbin/depmod \"$@\"", "depmod would drop kernel/fs/intree.ko");
    check("rm $out/updates/*; /sbin/depmod \"$@\"", "modprobe does not find one");
}

#[test]
fn a_plan_that_no_longer_fits_is_refused() {
    let host = Host::indexed();
    let stale = plan(&host.tree(), set(&[host.package("p", "1", &["one"])])).unwrap();
    host.install(&[host.package("q", "1", &["two"])]).unwrap();
    host.site_does(|site| {
        let result = Transaction::begin(site).unwrap().apply(&stale, &mut |_| Ok(Vec::new()));
        assert!(matches!(result, Err(Error::Changed { .. })));
    });
}

/// From nothing to a set, to another version, and to nothing; on kernels with and without indexes before.
fn journeys(starts: &[fn() -> Host]) -> Vec<(Host, Vec<InstalledPackage>)> {
    let mut journeys = Vec::new();
    for start in starts {
        let host = start();
        let to = vec![host.package("p", "1", &["one"])];
        journeys.push((host, to));
        let installed = || {
            let host = start();
            host.install(&[host.package("p", "1", &["one"])]).unwrap();
            host
        };
        let host = installed();
        let to = vec![host.package("p", "2", &["one", "two"])];
        journeys.push((host, to));
        journeys.push((installed(), vec![]));
    }
    journeys
}

#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new_set() {
    for n in 0.. {
        let mut reached = false;
        for (host, packages) in journeys(&[Host::new, Host::indexed]) {
            let old = host.picture();
            let Some(step) = host.crash_at(&packages, n) else { continue };
            reached = true;
            let has_index = host.tree().join(DEP_BIN).exists();
            assert!(!has_index || host.is_whole(), "{step}: modprobe finds a whole set before recovery");
            let recovery = host.recover();
            let recovered = host.picture();
            let again = host.install(&packages).unwrap();
            let new = host.picture();
            match recovery {
                Recovery::Undone | Recovery::Litter if again.changed => assert_eq!(recovered, old, "{step}"),
                _ => assert_eq!(recovered, new, "{step}"),
            }
            assert!(host.is_whole(), "{step}");
        }
        if !reached {
            break;
        }
    }
}

#[test]
fn a_recovery_may_crash_as_well() {
    for n in 0.. {
        let mut reached = false;
        for (host, packages) in journeys(&[Host::indexed]).into_iter().skip(1) {
            let old = host.picture();
            if host.crash_at(&packages, n).is_none() {
                continue;
            }
            reached = true;
            // The next run first recovers, and crashes while it does.
            let _ = host.crash_at(&packages, 1);
            host.recover();
            let recovered = host.picture();
            let changed = host.install(&packages).unwrap().changed;
            assert_eq!(recovered, if changed { old } else { host.picture() });
        }
        if !reached {
            break;
        }
    }
}

#[test]
fn errors_before_the_commit_undo_everything_and_later_ones_are_warnings() {
    for n in 0.. {
        let mut reached = false;
        for (host, packages) in journeys(&[Host::new]) {
            let old = host.picture();
            let passed = Cell::new(0);
            let last = RefCell::new(String::new());
            let step = |name: &str| {
                passed.set(passed.get() + 1);
                if passed.get() != n + 1 {
                    return Ok(());
                }
                *last.borrow_mut() = name.to_owned();
                Err(io::Error::other("the disk is gone"))
            };
            let done = host.install_at(&packages, &step);
            if passed.get() <= n {
                continue;
            }
            reached = true;
            let step = last.into_inner();
            if ["old generation moved out", "old generation gone", "journal closed"].contains(&step.as_str())
            {
                let Some(Remark::Undone(told)) = done.unwrap().remarks.pop() else { panic!("{step}") };
                assert!(told.ends_with("the next run will delete it: the disk is gone"), "{step}: {told}");
                assert!(interrupted(&host.tree()).unwrap() && host.is_whole(), "{step}");
                assert_ne!(host.recover(), Recovery::Nothing, "{step}");
                assert!(!host.install(&packages).unwrap().changed, "{step}: the commit had happened");
            } else {
                assert_eq!(done.unwrap_err().to_string(), "the disk is gone");
                assert_eq!(host.picture(), old, "{step}");
            }
        }
        if !reached {
            break;
        }
    }
}

#[test]
fn a_crashed_repair_is_completed() {
    for n in 0.. {
        let host = Host::indexed();
        let packages = [host.package("p", "1", &["one"])];
        host.install(&packages).unwrap();
        let whole = host.picture();
        fs_err::write(host.tree().join(host.found("one").unwrap()), b"").unwrap();
        let Some(step) = host.crash_at(&packages, n) else { break };
        host.recover();
        host.install(&packages).unwrap();
        assert_eq!(host.picture(), whole, "{step}");
    }
}

#[test]
fn recovery_handles_a_foreign_depmod_after_a_crash() {
    for n in 0.. {
        let host = Host::indexed();
        host.install(&[host.package("p", "1", &["one"])]).unwrap();
        let old = host.current().map(|generation| generation.generation);
        let packages = [host.package("p", "2", &["one", "two"])];
        let Some(step) = host.crash_at(&packages, n) else { break };
        fs_err::create_dir_all(host.tree().join("updates/dkms")).unwrap();
        fs_err::write(host.tree().join("updates/dkms/foreign.ko"), Built::named("foreign").bytes()).unwrap();
        host.depmod();
        host.recover();
        assert!(host.is_whole(), "{step}");
        assert_eq!(host.found("foreign").as_deref(), Some("updates/dkms/foreign.ko"), "{step}");
        let names = Tree::open(&host.tree()).unwrap().generations().unwrap();
        assert_eq!(names.len(), 1, "{step}");
        if host.current().map(|generation| generation.generation) != old {
            assert!(!host.install(&packages).unwrap().changed, "{step}");
        }
    }
}
