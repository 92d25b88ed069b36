//! Kernels' directories that are links, mounts of their own, or from a lower layer of overlayfs, as in images and live systems.

use std::os::unix::fs::symlink;

use fs_err as fs;

use crate::host::{FIXTURES, Host, Run, is_root};
use crate::packages::{hello, plain};

/// How the kernel's directory is mounted for a run: what is written stays.
#[derive(Clone, Copy)]
enum Layers {
    /// On a file system of its own, an overlay, of which what was there is the lower layer.
    Tree,
    /// All of `/lib/modules`, likewise.
    Above,
}

struct Layered {
    host: Host,
    layers: Layers,
}

impl Layered {
    /// A host with a package installed, whose directory is a lower layer from now on.
    fn new(layers: Layers) -> Layered {
        let host = Host::new(&[&FIXTURES.new]);
        hello(&host, "lower");
        host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
        for name in ["upper", "work"] {
            fs::create_dir(host.dir().join(name)).unwrap();
        }
        let layered = Layered { host, layers };
        fs::rename(layered.mounted(), layered.host.dir().join("lower")).unwrap();
        fs::create_dir(layered.mounted()).unwrap();
        layered
    }

    fn mounted(&self) -> std::path::PathBuf {
        match self.layers {
            Layers::Tree => self.host.kernel(&FIXTURES.new),
            Layers::Above => self.host.root().join("lib/modules"),
        }
    }

    /// Runs kcache on the mounted layers; `killed_after` ends it after so many seconds.
    fn kcache(&self, killed_after: Option<&str>, arguments: &[&str]) -> Run {
        let script = r#"cd "$1"; mounted=$2 limit=$3; shift 3
            mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work "$mounted" || exit 99
            [ "$limit" ] || exec "$@"
            exec timeout -s KILL "$limit" "$@""#;
        let (dir, mounted) = (self.host.dir().display().to_string(), self.mounted().display().to_string());
        let unshare = ["unshare", "-m", "--propagation", "private", "bash", "-c", script, "sh"];
        self.host.kcache_under(
            &[&unshare[..], &[&dir, &mounted, killed_after.unwrap_or_default()]].concat(),
            arguments,
        )
    }

    fn check(&self) {
        let run = self.kcache(None, &["check", "-k", &FIXTURES.new]).exits(0);
        run.prints(&["ready"]);
        self.kcache(None, &["verify"]).exits(0);
    }
}

fn every_change_works(layers: Layers) {
    if !is_root() {
        return; // mounting needs root
    }
    let layered = Layered::new(layers);
    layered.check();
    plain(&layered.host, "second", "x");
    let kernel = ["-k", FIXTURES.new.as_str()];
    let run = |words: &[&str]| layered.kcache(None, &[words, &kernel].concat()).exits(0);
    run(&["install"]);
    layered.check();
    run(&["rollback"]);
    run(&["rollback"]);
    run(&["remove", "hello"]);
    run(&["install"]);
    layered.check();
    run(&["remove", "--all"]);
    let left = |name: &str| {
        let found = std::process::Command::new("find")
            .arg(layered.host.dir().join(name))
            .args(["-name", "*kcache*"])
            .output();
        String::from_utf8(found.unwrap().stdout).unwrap()
    };
    // What is removed of a lower layer is a character device in the upper one.
    let upper = left("upper");
    let kept: Vec<&str> = upper
        .lines()
        .filter(|path| {
            !std::os::unix::fs::FileTypeExt::is_char_device(&fs::symlink_metadata(path).unwrap().file_type())
        })
        .collect();
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn a_kernel_whose_directory_is_a_mount_of_its_own_gets_every_change() {
    every_change_works(Layers::Tree);
}

#[test]
fn a_kernel_of_a_lower_layer_gets_every_change() {
    every_change_works(Layers::Above);
}

#[test]
fn a_run_that_was_killed_on_such_a_tree_is_completed_or_undone() {
    if !is_root() {
        return; // mounting needs root
    }
    for layers in [Layers::Tree, Layers::Above] {
        let layered = Layered::new(layers);
        plain(&layered.host, "second", "x");
        layered.kcache(None, &["build", "-k", &FIXTURES.new]).exits(0);
        for (at, millis) in (10..260).step_by(22).enumerate() {
            let change: &[&str] = if at % 2 == 0 { &["install"] } else { &["remove", "second"] };
            let limit = format!("{}.{:03}", millis / 1000, millis % 1000);
            layered.kcache(Some(&limit), &[change, &["-k", &FIXTURES.new]].concat());
            // What lies there is one of the two sets.
            layered.kcache(None, &["install", "hello", "-k", &FIXTURES.new]).exits(0);
            layered.kcache(None, &["verify"]).exits(0);
            layered.kcache(None, &["check", "hello", "-k", &FIXTURES.new]).exits(0);
        }
    }
}

#[test]
fn a_kernel_whose_directory_is_a_link_is_that_kernel() {
    for target in ["/data/any-name", "../../data/any-name"] {
        let host = Host::new(&[&FIXTURES.new]);
        hello(&host, "x");
        let tree = host.kernel(&FIXTURES.new);
        fs::create_dir(host.root().join("data")).unwrap();
        fs::rename(&tree, host.root().join("data/any-name")).unwrap();
        symlink(target, &tree).unwrap();
        host.kcache(&["install", "-k", &FIXTURES.new, "--depmod=always"]).exits(0);
        assert!(host.root().join("data/any-name/updates").is_dir());
        host.kcache(&["check", "-k", &FIXTURES.new]).exits(0).prints(&["ready"]);
        host.kcache(&["verify"]).exits(0);
        assert!(host.kcache(&["status"]).exits(0).stdout.contains(&FIXTURES.new));
        host.kcache(&["remove", "--all", "-k", &FIXTURES.new]).exits(0);
        let left: Vec<_> =
            fs::read_dir(host.root().join("data")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["any-name"]);
        assert!(!host.root().join("data/any-name/updates").exists());
    }
}
