//! `apt upgrade` played over a host: real kernels one after the other, and the programs of kbuild that came with them.
//!
//! ```text
//! host one   at each step the new kernel's headers are added and kbuild's programs replaced, as apt does; then `kcache install`
//!            for all kernels. It signs what it builds, and pushes that into a directory
//! host two   the same, at another patch level of the compiler; uses that directory, with other-tools = "same-compiler"
//! judge      builds with exactly today's tools, into a store of its own and nowhere else: whether what is `ready` by older tools is
//!            right
//! ```
//!
//! `benches/history.sh` says which kernels there are. The other patch level is this compiler with another version text, and a byte of
//! another text in cc1: both are other programs, and make the same modules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fs_err as fs;
use kcache::store::Role;
use kcache_store::{Digest, Key, Store, Waiting};
use serde_json::Value;

use crate::measure::{Table, copy, run};

/// A package for a kernel.
type Pair = (String, String);
/// Names and digests of a build's modules.
type Bits = Vec<(String, Digest)>;

/// A kernel that was added, on both hosts.
pub struct Step {
    debian: String,
    kernel: String,
    kbuild: String,
    pub one: Counts,
    pub two: Counts,
}

/// What a host did at a step.
#[derive(Default)]
pub struct Counts {
    /// Packages that are ready, for all kernels.
    ready: usize,
    /// Those of them that were built with other tools than the host has now.
    other_tools: usize,
    built: usize,
    fetched: usize,
    /// Builds that failed: each host tries itself.
    failed: usize,
    /// Builds whose modules were those of an earlier build for the same kernel.
    known: usize,
    /// Not ready after the update, though ready before and only tools changed; or not ready when installed.
    wrongly_not_ready: usize,
    /// Ready without having been installed, or with other bits than today's tools make.
    wrongly_ready: usize,
    /// Builds by older tools that were made again, to compare.
    judged: usize,
}

pub const HEAD: &str = "\
| Debian | kernel added | kbuild | ready | built | of these known | ready by older tools | rebuilt to compare | second host: fetched | built | of these known | wrongly not ready | wrongly ready |
|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
";

impl Step {
    /// A row of a table in Markdown.
    pub fn line(&self) -> String {
        let Step { debian, kernel, kbuild, one, two } = self;
        let both = |count: fn(&Counts) -> usize| count(one) + count(two);
        let built = |counts: &Counts| match counts.failed {
            0 => counts.built.to_string(),
            failed => format!("{}, {failed} fail", counts.built),
        };
        let cells = [
            one.ready.to_string(),
            built(one),
            one.known.to_string(),
            one.other_tools.to_string(),
            both(|counts| counts.judged).to_string(),
            two.fetched.to_string(),
            built(two),
            two.known.to_string(),
            both(|counts| counts.wrongly_not_ready).to_string(),
            both(|counts| counts.wrongly_ready).to_string(),
        ];
        format!("| {debian} | {kernel} | {kbuild} | {} |", cells.join(" | "))
    }
}

/// What of the archive there is (`benches/history.sh`).
struct History {
    release: String,
    system: Option<PathBuf>,
    packages: Vec<PathBuf>,
    steps: Vec<Update>,
}

/// A kernel with its headers, and kbuild if that is another since.
struct Update {
    kernel: String,
    kbuild: String,
    debs: Vec<PathBuf>,
}

impl History {
    fn of(release: &str) -> Option<History> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/history.sh");
        let output = Command::new(script).arg(release).stderr(std::process::Stdio::inherit()).output();
        let output = output.expect("bash");
        if output.status.code() == Some(3) {
            return None; // it said why
        }
        assert!(output.status.success(), "benches/history.sh: {}", output.status);
        let (mut system, mut packages, mut steps) = (None, Vec::new(), Vec::new());
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            match line.split('\t').collect::<Vec<_>>()[..] {
                ["system", path] => system = Some(path.into()),
                ["package", deb] => packages.push(deb.into()),
                ["step", kernel, kbuild, ref debs @ ..] => steps.push(Update {
                    kernel: kernel.to_owned(),
                    kbuild: kbuild.to_owned(),
                    debs: debs.iter().map(PathBuf::from).collect(),
                }),
                _ => panic!("{line}"),
            }
        }
        Some(History { release: release.to_owned(), system, packages, steps })
    }
}

/// All releases that can be replayed here.
pub fn all(table: &mut Table) {
    for release in ["bookworm", "trixie"] {
        let Some(history) = History::of(release) else { continue };
        replay(&history, table);
    }
}

fn replay(history: &History, table: &mut Table) {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = dir.path().join("cache");
    fs::create_dir(&cache).expect("room");
    let cache = format!("[[cache]]\nurl = \"file://{}\"\n", cache.display());
    let mut one = Host::new(&dir.path().join("one"), history, &format!("{cache}write = true\n"));
    one.succeeds(&["keys", "generate", "--name", "one"]);
    let mut two =
        Host::new(&dir.path().join("two"), history, &format!("other-tools = \"same-compiler\"\n{cache}"));
    let key = one.root.join("etc/kcache/trusted-keys/one.pem");
    two.succeeds(&["keys", "trust", &key.display().to_string()]);
    two.use_another_compiler(history);

    let mut known = BTreeMap::new();
    for (at, update) in history.steps.iter().enumerate() {
        let is_last = at + 1 == history.steps.len();
        let counts = [&mut one, &mut two].map(|host| {
            host.update(update);
            host.install(&update.kernel, &mut known)
        });
        let [mut one_counts, mut two_counts] = counts;
        assert_eq!(two_counts.other_tools, two_counts.ready, "another compiler is another tool");
        // Of the second host all builds are by another compiler: its last kernel stands for all.
        one.judge(None, &mut one_counts);
        if is_last {
            two.judge(Some(&update.kernel), &mut two_counts);
        }
        let (kernel, kbuild) = (update.kernel.clone(), update.kbuild.clone());
        let step = Step { debian: history.release.clone(), kernel, kbuild, one: one_counts, two: two_counts };
        table.step(step);
    }
}

/// A directory with kernels and packages, and a store.
struct Host {
    dir: PathBuf,
    root: PathBuf,
    /// What kcache is run under.
    wrapper: Vec<String>,
    /// What was ready after the last installation.
    ready: BTreeSet<Pair>,
}

impl Host {
    fn new(dir: &Path, history: &History, config: &str) -> Host {
        let root = dir.join("root");
        match &history.system {
            Some(system) => copy(system, &root),
            None => fs::create_dir_all(root.join("lib/modules")).expect("room"),
        }
        fs::create_dir_all(root.join("usr/src")).expect("room");
        for deb in &history.packages {
            unpack(deb, &root, "./usr/src");
        }
        fs::write(dir.join("store.toml"), config).expect("room");
        fs::write(dir.join("judge.toml"), "").expect("room");
        Host { dir: dir.to_owned(), root, wrapper: Vec::new(), ready: BTreeSet::new() }
    }

    /// What apt does for a new kernel.
    fn update(&self, update: &Update) {
        for deb in &update.debs {
            let name = deb.file_name().unwrap_or_default().to_string_lossy();
            let name = name.split('_').next().unwrap_or_default();
            drop(fs::remove_dir_all(self.root.join("usr/lib").join(name))); // the older kbuild
            unpack(deb, &self.root, ".");
        }
        // Of its image, only what depmod asks for.
        let tree = self.root.join("lib/modules").join(&update.kernel);
        for name in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            fs::write(tree.join(name), "").expect("room");
        }
        run(Command::new("depmod").arg("-b").arg(&self.root).arg(&update.kernel));
    }

    /// Gives it the same compiler as another program, under the same name.
    fn use_another_compiler(&mut self, history: &History) {
        let root = history.system.as_deref().unwrap_or(Path::new("/"));
        for (path, text) in compilers(root) {
            let mut bytes = fs::read(root.join(&path)).expect("a compiler");
            change_version(&mut bytes, text);
            if history.system.is_some() {
                fs::write(self.root.join(&path), bytes).expect("room"); // a copy of its own
                continue;
            }
            let other = self.dir.join(path.file_name().expect("a name"));
            fs::copy(root.join(&path), &other).expect("room"); // with its mode
            fs::write(&other, bytes).expect("room");
            let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
            let mount = ["unshare", "--mount", "sh", "-c", script, "sh"].map(str::to_owned);
            let places = [other, root.join(&path)].map(|place| place.display().to_string());
            self.wrapper.extend(mount.into_iter().chain(places));
        }
    }

    fn kcache(&self, store: &str, words: &[&str]) -> Command {
        let mut all = self.wrapper.clone();
        all.push(env!("CARGO_BIN_EXE_kcache").to_owned());
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]).arg("--root").arg(&self.root).arg("--store").arg(self.dir.join(store));
        command.arg("--config").arg(self.dir.join(format!("{store}.toml"))).args(words);
        command
    }

    fn succeeds(&self, words: &[&str]) {
        run(&mut self.kcache("store", &[&["-q"], words].concat()));
    }

    /// What it prints, one document a line.
    fn json(&self, store: &str, words: &[&str]) -> Vec<Value> {
        let output = self.kcache(store, &[&["--json", "-q"], words].concat()).output().expect("kcache");
        let text = String::from_utf8_lossy(&output.stdout);
        let documents: Result<Vec<Value>, _> =
            serde_json::Deserializer::from_str(&text).into_iter().collect();
        match documents {
            Ok(documents) if !documents.is_empty() => documents,
            _ => panic!("{words:?}: {text}\n{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// How each package stands for each kernel: its state, and whether by other tools than today's.
    fn check(&self) -> BTreeMap<Pair, (String, bool)> {
        let document = &self.json("store", &["check", "-k", "all"])[0];
        let mut found = BTreeMap::new();
        for package in document["packages"].as_array().expect("packages") {
            for (kernel, standing) in package["kernels"].as_object().expect("kernels") {
                let other_tools = standing["tools_changed"].as_array().is_some_and(|tools| !tools.is_empty());
                let state = text(&standing["state"]);
                found.insert((text(&package["name"]), kernel.clone()), (state, other_tools));
            }
        }
        found
    }

    /// Checks, installs for all kernels, and checks again. `known`: the bits of all builds so far.
    fn install(&mut self, new: &str, known: &mut BTreeMap<Pair, BTreeSet<Bits>>) -> Counts {
        let mut counts = Counts::default();
        for (pair, (state, _)) in self.check() {
            let is_ready = state == "ready";
            if self.ready.contains(&pair) && !is_ready {
                println!("after the update, {} for {} is {state}", pair.0, pair.1);
                counts.wrongly_not_ready += 1;
            }
            if pair.1 == new && is_ready {
                println!("{} for {} is ready, and not installed", pair.0, pair.1);
                counts.wrongly_ready += 1;
            }
        }
        let mut installed = BTreeSet::new();
        for result in self.json("store", &["install", "-k", "all"]) {
            if result["type"] != "result" {
                continue;
            }
            let pair = (text(&result["package"]), text(&result["kernel"]));
            let is_installed = result["state"] == "installed";
            let how = text(&result["how"]);
            counts.built += usize::from(how == "built" && is_installed);
            counts.failed += usize::from(how == "built" && !is_installed);
            counts.fetched += usize::from(how == "shared-cache" && is_installed);
            if is_installed {
                installed.insert(pair.clone());
                let bits = self.bits("store", &result["key"]);
                let is_new = known.entry(pair.clone()).or_default().insert(bits);
                if how == "built" && !is_new {
                    println!("{} for {} was built to bits that were known", pair.0, pair.1);
                    counts.known += 1;
                }
            }
        }
        for (pair, (state, other_tools)) in self.check() {
            if state == "ready" {
                self.ready.insert(pair);
                counts.ready += 1;
                counts.other_tools += usize::from(other_tools);
            } else if installed.contains(&pair) {
                println!("{} for {} is installed, and {state}", pair.0, pair.1);
                counts.wrongly_not_ready += 1;
            }
        }
        counts
    }

    /// Builds with today's tools what is ready by others, for one kernel or all, and compares.
    fn judge(&self, kernel: Option<&str>, counts: &mut Counts) {
        for ((package, release), (state, other_tools)) in self.check() {
            if state != "ready" || !other_tools || kernel.is_some_and(|kernel| kernel != release) {
                continue;
            }
            let installed = self.json("store", &["install", &package, "-k", &release]);
            let again = self.json("judge", &["build", "--refresh-tools", &package, "-k", &release]);
            counts.judged += usize::from(again[0]["how"] == "built");
            if self.bits("store", &installed[0]["key"]) != self.bits("judge", &again[0]["key"]) {
                println!("{package} for {release} is ready, and today's tools make other bits");
                counts.wrongly_ready += 1;
            }
        }
    }

    /// The modules of an entry.
    fn bits(&self, store: &str, key: &Value) -> Bits {
        let waiting = Waiting { limit: Duration::from_secs(60), print: &|_| () };
        let store = Store::open(&self.dir.join(store), &waiting).expect("a store");
        let key: Key = text(key).parse().expect("a key");
        let entry = store.lookup(&key).expect("an entry").expect("an entry");
        let modules = entry.manifest().outputs.iter().filter(|output| output.role == Role::Module);
        modules.map(|output| (output.name.clone(), output.digest)).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Unpacks a part of a package, as dpkg would over a system where /lib may be a link.
fn unpack(deb: &Path, root: &Path, part: &str) {
    let script = "dpkg-deb --fsys-tarfile \"$1\" | tar -x --no-same-owner -C \"$2\" --exclude=./usr/share --keep-directory-symlink \"$3\"";
    run(Command::new("bash").args(["-o", "pipefail", "-c", script, "bash"]).arg(deb).arg(root).arg(part));
}

/// The compiler's two programs below a root, and the beginning of a text in each that has its version. That of the first one is what
/// it says it is; that of the second one is told by `-v` alone, for what is in parentheses is in each module it makes.
fn compilers(root: &Path) -> Vec<(PathBuf, &'static str)> {
    let find = |script: &str| {
        let output = Command::new("sh").arg("-c").arg(script).current_dir(root).output().expect("sh");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    };
    let cc = find("ls usr/bin/x86_64-linux-gnu-gcc-[0-9]* | sort -V | tail -n 1");
    let cc1 = find("ls usr/lib*/gcc/x86_64-linux-gnu/*/cc1 | sort -V | tail -n 1");
    vec![(cc, "(Debian "), (cc1, "--with-pkgversion='Debian ")]
}

/// Makes the last digit of a version the one before: `14.2.0-19` is `14.2.0-18`.
fn change_version(program: &mut [u8], before: &str) {
    let at = program.windows(before.len()).position(|window| window == before.as_bytes()).expect(before);
    let end = program[at + before.len()..].iter().position(|byte| b")'".contains(byte)).expect("an end");
    let digit = &mut program[at + before.len() + end - 1];
    assert!(digit.is_ascii_digit(), "a version that ends in a digit");
    *digit = if *digit == b'0' { b'1' } else { *digit - 1 };
}
