//! Tests of taking over, giving back and dropping DKMS's modules.

use super::*;

pub(super) const DKMS: &str = "updates/dkms/one.ko";

/// A kernel for which DKMS has installed a module and run depmod.
pub(super) fn with_dkms() -> Host {
    let host = Host::new();
    let path = host.tree().join(DKMS);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(&path, Built::named("one").bytes()).unwrap();
    host.depmod();
    host
}

pub(super) fn files() -> Vec<ForeignFile> {
    vec![ForeignFile { package: "p".into(), path: DKMS.into() }]
}

fn exchange_at(
    host: &Host,
    packages: &[InstalledPackage],
    others: ForeignFiles,
    step: &Step<'_>,
) -> Result<Committed, Error> {
    let mut source =
        |module: &ModuleSpec| Ok(host.cache.borrow().get(&module.digest).ok_or("not in the cache")?.clone());
    host.site_does(|site| {
        let transaction = Transaction::begin_at(site, step)?;
        let plan = plan(&host.tree(), set(packages))?.with(&host.tree(), others.clone())?;
        transaction.apply_at(&plan, &mut source, step)
    })
}

pub(super) fn exchange(
    host: &Host,
    packages: &[InstalledPackage],
    others: ForeignFiles,
) -> Result<Committed, Error> {
    exchange_at(host, packages, others, &|_| Ok(()))
}

/// Crashes at the `n`th step. Returns the step's name; `None` if there are fewer steps.
pub(super) fn crash_at(
    host: &Host,
    packages: &[InstalledPackage],
    others: ForeignFiles,
    n: usize,
) -> Option<String> {
    let passed = RefCell::new(Vec::new());
    let step = |name: &str| {
        passed.borrow_mut().push(name.to_owned());
        assert!(passed.borrow().len() <= n, "crash");
        Ok(())
    };
    let died = catch_unwind(AssertUnwindSafe(|| exchange_at(host, packages, others.clone(), &step))).is_err();
    died.then(|| passed.borrow().last().cloned().unwrap_or_default())
}

/// Checks that the file exists and modprobe finds the module.
fn is_found(host: &Host) -> bool {
    host.found("one").is_some_and(|path| host.tree().join(path).is_file())
}

type Case = (Host, Vec<InstalledPackage>, ForeignFiles);
/// Everything under the modules directory.
type Picture = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// The cases: take over; give back; give back while another package stays; take over when kcache's is already
/// installed; drop.
fn cases() -> Vec<Case> {
    let p = |host: &Host| host.package("p", "1", &["one"]);
    let fresh = with_dkms();
    let take = (vec![p(&fresh)], ForeignFiles::Take(files()));
    let adopted = with_dkms();
    exchange(&adopted, &[p(&adopted)], ForeignFiles::Take(files())).unwrap();
    let beside = with_dkms();
    let q = beside.package("q", "1", &["two"]);
    exchange(&beside, &[p(&beside), q.clone()], ForeignFiles::Take(files())).unwrap();
    let second = with_dkms();
    let q2 = second.package("q", "1", &["two"]);
    second.install(std::slice::from_ref(&q2)).unwrap();
    let take_too = (vec![p(&second), q2], ForeignFiles::Take(files()));
    vec![
        (fresh, take.0, take.1),
        (adopted, vec![], ForeignFiles::GiveBack(files())),
        (beside, vec![q], ForeignFiles::GiveBack(files())),
        (second, take_too.0, take_too.1),
    ]
}

#[test]
fn modules_taken_over_are_given_back_unchanged() {
    let host = with_dkms();
    let before = host.picture();
    let package = host.package("p", "1", &["one"]);
    exchange(&host, &[package], ForeignFiles::Take(files())).unwrap();
    assert!(host.found("one").unwrap().starts_with("updates/kcache-"));
    assert!(!host.tree().join("updates/dkms").exists());
    assert_eq!(kept(&host.tree()).unwrap(), files());
    exchange(&host, &[], ForeignFiles::GiveBack(files())).unwrap();
    assert_eq!(host.picture(), before);
    assert_eq!(kept(&host.tree()).unwrap(), []);
}

#[test]
fn indexes_omit_modules_that_were_taken_over() {
    let host = with_dkms();
    fs_err::write(host.tree().join("updates/dkms/other.ko"), Built::named("other").bytes()).unwrap();
    host.depmod();
    exchange(&host, &[host.package("p", "1", &["one"])], ForeignFiles::Take(files())).unwrap();
    assert_eq!(host.found("other").as_deref(), Some("updates/dkms/other.ko"));
    let published = host.picture();
    host.depmod();
    assert_eq!(host.picture(), published);
}

#[test]
fn dropped_modules_are_deleted() {
    let host = with_dkms();
    exchange(&host, &[], ForeignFiles::Drop(files())).unwrap();
    assert_eq!(host.found("one"), None);
    assert!(!host.tree().join("updates").exists());
    assert_eq!(left_beside(&host), Vec::<PathBuf>::new());
}

fn left_beside(host: &Host) -> Vec<PathBuf> {
    let paths = host.picture().into_keys();
    paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".kcache")).collect()
}

#[test]
fn a_module_without_a_replacement_is_not_taken_over() {
    let host = with_dkms();
    let before = host.picture();
    let refused = |packages: &[InstalledPackage], others: ForeignFiles, expect: &str| {
        assert_eq!(exchange(&host, packages, others).unwrap_err().to_string(), expect);
        assert_eq!(host.picture(), before);
    };
    let q = host.package("q", "1", &["two"]);
    refused(std::slice::from_ref(&q), ForeignFiles::Take(files()), "no module replaces updates/dkms/one.ko");
    for path in ["../one.ko", "/etc/one.ko", "updates/kcache-0/p/one.ko", "modules.dep"] {
        let file = ForeignFile { package: "p".into(), path: path.into() };
        let expect = format!("{path} is not a foreign module");
        refused(std::slice::from_ref(&q), ForeignFiles::Drop(vec![file]), &expect);
    }
}

#[test]
fn existing_files_are_not_replaced_when_giving_back() {
    let host = with_dkms();
    exchange(&host, &[host.package("p", "1", &["one"])], ForeignFiles::Take(files())).unwrap();
    fs_err::create_dir_all(host.tree().join("updates/dkms")).unwrap();
    fs_err::write(host.tree().join(DKMS), "built anew").unwrap();
    let before = host.picture();
    let error = exchange(&host, &[], ForeignFiles::GiveBack(files())).unwrap_err();
    assert!(error.to_string().contains("exists again"), "{error}");
    assert_eq!(host.picture(), before);
}

/// Calls back for each case after a crash at each of its steps, with the case, the tree before, and the step.
fn at_each_crash(see: impl Fn(&Case, &Picture, &str)) {
    for n in 0.. {
        let mut reached = false;
        for case in cases() {
            let (host, packages, others) = &case;
            let old = host.picture();
            let Some(step) = crash_at(host, packages, others.clone(), n) else { continue };
            reached = true;
            see(&case, &old, &step);
        }
        if !reached {
            assert!(n > 10);
            return;
        }
    }
}

#[test]
fn recovery_without_a_journal_keeps_foreign_modules() {
    at_each_crash(|(host, _, others), old, step| {
        let tree = Tree::open(&host.tree()).unwrap();
        let is_open = tree.journal().exists();
        for path in [tree.journal(), checked_json::copy(&tree.journal())].iter().filter(|path| path.exists())
        {
            fs_err::write(path, "{").unwrap();
        }
        let recovery = host.recover();
        assert!(is_found(host) && host.is_whole() && !tree.staging.exists(), "{step}: {others:?}");
        if is_open && recovery == Recovery::Undone {
            assert_eq!(host.picture(), *old, "{step}: {others:?}");
        }
    });
}

#[test]
fn a_kernel_has_its_modules_at_every_step() {
    at_each_crash(|(host, packages, others), old, step| {
        assert!(is_found(host), "{step}: before recovery");
        let recovery = host.recover();
        let recovered = host.picture();
        assert!(is_found(host) && host.is_whole(), "{step}");
        match recovery {
            Recovery::Undone | Recovery::Litter if step != "journal closed" => {
                assert_eq!(recovered, *old, "{step}");
                exchange(host, packages, others.clone()).unwrap();
            }
            _ => assert_ne!(recovered, *old, "{step}"),
        }
        assert_eq!(host.found("one").as_deref() == Some(DKMS), host.tree().join(DKMS).exists(), "{step}");
        assert!(is_found(host) && host.is_whole(), "{step}");
    });
}

#[test]
fn an_error_before_the_commit_leaves_everything_as_it_was() {
    let after = ["file kept", "file deleted", "file kept no longer", "old generation moved out"];
    for n in 0.. {
        let mut reached = false;
        for (host, packages, others) in cases() {
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
            if exchange_at(&host, &packages, others, &step).is_ok() {
                continue;
            }
            reached = true;
            let step = last.into_inner();
            if after.contains(&step.as_str()) || ["old generation gone", "journal closed"].contains(&&*step) {
                assert_ne!(host.recover(), Recovery::Nothing, "{step}");
            } else {
                assert_eq!(host.picture(), old, "{step}");
            }
            assert!(is_found(&host) && host.is_whole(), "{step}");
        }
        if !reached {
            break;
        }
    }
}

#[test]
fn a_foreign_depmod_after_a_crash_does_not_lose_a_module() {
    for n in 0.. {
        let mut reached = false;
        for (host, packages, others) in cases() {
            let Some(step) = crash_at(&host, &packages, others, n) else { continue };
            reached = true;
            fs_err::write(host.tree().join("updates/foreign.ko"), Built::named("foreign").bytes()).unwrap();
            host.depmod();
            host.recover();
            assert!(is_found(&host) && host.is_whole(), "{step}");
            assert_eq!(host.found("foreign").as_deref(), Some("updates/foreign.ko"), "{step}");
        }
        if !reached {
            break;
        }
    }
}

#[test]
fn kept_modules_are_deleted_with_the_kernel_or_the_package() {
    let host = with_dkms();
    exchange(&host, &[host.package("p", "1", &["one"])], ForeignFiles::Take(files())).unwrap();
    assert!(host.site_does(|site| forget_kept(site, "p")).unwrap());
    assert!(!host.site_does(|site| forget_kept(site, "p")).unwrap());
    assert_eq!(left_beside(&host), Vec::<PathBuf>::new());

    let host = with_dkms();
    exchange(&host, &[host.package("p", "1", &["one"])], ForeignFiles::Take(files())).unwrap();
    fs_err::remove_dir_all(host.tree()).unwrap();
    assert!(host.site_does(retire).unwrap());
    assert_eq!(left_beside(&host), Vec::<PathBuf>::new());
}

#[test]
fn files_added_after_a_crash_are_kept() {
    for n in 0.. {
        let mut reached = false;
        for (host, packages, others) in cases() {
            let Some(step) = crash_at(&host, &packages, others, n) else { continue };
            reached = true;
            let live = host.tree().join(DKMS);
            fs_err::create_dir_all(live.parent().unwrap()).unwrap();
            let _ = fs_err::remove_file(&live);
            fs_err::write(&live, "built anew").unwrap();
            host.recover();
            assert_eq!(fs_err::read(&live).unwrap(), b"built anew", "{step}");
        }
        if !reached {
            break;
        }
    }
}

#[test]
fn links_are_not_taken_over() {
    let host = with_dkms();
    let live = host.tree().join(DKMS);
    fs_err::rename(&live, live.with_file_name("real")).unwrap();
    fs_err::os::unix::fs::symlink("real", &live).unwrap();
    let before = host.picture();
    let error =
        exchange(&host, &[host.package("p", "1", &["one"])], ForeignFiles::Take(files())).unwrap_err();
    assert_eq!(error.to_string(), format!("{DKMS} is a link, which would break if moved"));
    assert_eq!(host.picture(), before);
}
