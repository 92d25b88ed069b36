//! Tests of concurrent changes before each step of a transaction: a foreign module is added or removed, and depmod
//! runs.

use super::*;

fn theirs(host: &Host) -> PathBuf {
    host.tree().join("updates/dkms/theirs.ko")
}

fn put(host: &Host) {
    fs_err::create_dir_all(theirs(host).parent().unwrap()).unwrap();
    fs_err::write(theirs(host), Built::named("theirs").bytes()).unwrap();
    host.depmod();
}

fn take_away(host: &Host) {
    fs_err::remove_file(theirs(host)).unwrap();
    host.depmod();
}

/// Makes a change at each step in turn. Afterwards kcache's modules must be found, and the foreign one if it exists.
fn at_each_step(before: impl Fn(&Host), act: impl Fn(&Host)) {
    for n in 0.. {
        let host = Host::indexed();
        host.install(&[host.package("p", "1", &["one"])]).unwrap();
        before(&host);
        let passed = Cell::new(0);
        let step = |_: &str| {
            if passed.replace(passed.get() + 1) == n {
                act(&host);
            }
            Ok(())
        };
        host.install_at(&[host.package("p", "2", &["one"])], &step).unwrap();
        assert!(host.is_whole(), "step {n}: ours is not found");
        let is_there = theirs(&host).exists();
        let expect = is_there.then(|| "updates/dkms/theirs.ko".to_owned());
        if passed.get() <= n {
            assert!(n > 8, "only {n} steps");
            return;
        }
        assert_eq!(host.found("theirs"), expect, "step {n}");
        assert_eq!(
            host.tree().join("updates").read_dir().unwrap().count(),
            2,
            "step {n}: an old generation stays"
        );
    }
}

#[test]
fn a_module_added_at_any_step_is_indexed() {
    at_each_step(|_| (), put);
}

#[test]
fn a_module_removed_at_any_step_is_not_indexed() {
    at_each_step(put, take_away);
}

#[test]
fn endless_concurrent_changes_do_not_block_a_transaction() {
    let host = Host::indexed();
    let step = |_: &str| {
        put(&host);
        Ok(())
    };
    host.install_at(&[host.package("p", "1", &["one"])], &step).unwrap();
    host.depmod();
    assert!(host.is_whole());
    assert!(host.found("theirs").is_some());
}
