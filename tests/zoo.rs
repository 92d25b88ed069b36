//! Kernels of every make: other distributions' layouts, and every kind of kernel that changes a module. `tests/zoo/build.sh` builds
//! them once, from the rows of `tests/zoo/kinds.tsv`.
//!
//! `make zoo` tests all of them and prints the table in `docs/kernels.md`. `make test` tests a few of those that are there, and
//! builds none.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;

use crate::boot_test;
use crate::host::{FIXTURES, Host, PATH, Run, run};
use crate::indexes;
use crate::packages::{prebuilt, with_makefile};

/// The kinds that `make test` tests: no `.config`, a separate source, and CRCs in sections of their own.
const SAMPLE: [&str; 3] = ["deb", "suse", "extended-only"];

/// A row of `kinds.tsv`, as far as it says how to test it.
struct Kind {
    name: String,
    layout: String,
    symbols: String,
}

fn kinds() -> Vec<Kind> {
    let rows = include_str!("zoo/kinds.tsv").lines().filter(|line| !line.starts_with('#'));
    let kind = |row: &str| {
        let fields: Vec<&str> = row.split('\t').collect();
        let [name, _, layout, _, symbols] = fields[..] else { panic!("five fields in {row:?}") };
        Kind { name: name.to_owned(), layout: layout.to_owned(), symbols: symbols.to_owned() }
    };
    rows.map(kind).collect()
}

fn zoo() -> PathBuf {
    FIXTURES.dir().join("zoo")
}

/// The results of one kernel: what was tried, and whether it came out right.
struct Found {
    release: String,
    cells: Vec<(&'static str, String)>,
}

impl Found {
    fn add(&mut self, what: &'static str, wrong: Result<(), String>) {
        self.cells.push((what, wrong.err().unwrap_or_else(|| "yes".to_owned())));
    }

    fn skip(&mut self, what: &'static str) {
        self.cells.push((what, "-".to_owned()));
    }

    fn wrong(&self) -> impl Iterator<Item = &(&'static str, String)> {
        self.cells.iter().filter(|(_, cell)| !matches!(cell.as_str(), "yes" | "-"))
    }
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// A run's exit code and words are these.
fn ends(run: &Run, code: i32, words: &[&str]) -> Result<(), String> {
    let missing = words.iter().find(|word| !run.stderr.contains(**word));
    check(run.code == Some(code) && missing.is_none(), || format!("{missing:?}\n{}", run.shown()))
}

/// Two modules, of which one uses what the other exports. Both use the kernel's own.
fn pair(host: &Host) {
    let module = |body: &str, start: &str| {
        format!(
            "#include <linux/module.h>\n{body}\nstatic int __init start(void) {{ {start} }}\n\
             static void __exit stop(void) {{ }}\nmodule_init(start);\nmodule_exit(stop);\nMODULE_LICENSE(\"GPL\");\n"
        )
    };
    let exports =
        "int zoo_answer(int x);\nint zoo_answer(int x) { return x + 1; }\nEXPORT_SYMBOL_GPL(zoo_answer);";
    let uses = "extern int zoo_answer(int x);";
    let conf = "PACKAGE_NAME=zoo\nPACKAGE_VERSION=1.0\nAUTOINSTALL=yes\n\
        BUILT_MODULE_NAME[0]=zoo_base\nDEST_MODULE_LOCATION[0]=/extra\n\
        BUILT_MODULE_NAME[1]=zoo_user\nDEST_MODULE_LOCATION[1]=/extra\n";
    host.write_package(
        "zoo-1.0",
        &[
            ("dkms.conf", conf.to_owned()),
            ("Makefile", "obj-m := zoo_base.o zoo_user.o\n".to_owned()),
            ("zoo_base.c", module(exports, "pr_info(\"here\\n\"); return 0;")),
            ("zoo_user.c", module(uses, "return zoo_answer(1) == 2 ? 0 : -EINVAL;")),
        ],
    );
}

/// A host with one kernel of the zoo; its release.
fn host_of(name: &str) -> (Host, String) {
    let host = Host::without_kernels();
    for made in ["lib/modules", "lib"] {
        fs::remove_dir(host.root().join(made)).unwrap();
    }
    let archive = zoo().join(format!("{name}.tar.zst"));
    run(Command::new("tar")
        .args(["--zstd", "--no-same-owner", "-xf"])
        .arg(archive)
        .arg("-C")
        .arg(host.root())
        .env("PATH", PATH));
    let release = fs::read_to_string(host.root().join("release")).unwrap().trim().to_owned();
    pair(&host);
    (host, release)
}

/// The kernel's own key, with its certificate in the same file.
const KEY: &str = "etc/kernel/signing_key.pem";

/// An installed module, decompressed and without its signature.
fn bare(host: &Host, release: &str) -> Vec<u8> {
    let modules = host.modules(release);
    let path = &modules.iter().find(|(name, _)| name.contains("zoo_base")).expect("it is installed").1;
    let decompress = match path.extension().unwrap().to_str().unwrap() {
        "ko" => "cat",
        "gz" => "gzip -dc",
        "xz" => "xz -dc",
        _ => "zstd -dcq",
    };
    let mut bytes = run(Command::new("sh")
        .arg("-c")
        .arg(format!("{decompress} <'{}'", path.display()))
        .env("PATH", PATH))
    .stdout;
    if bytes.ends_with(b"~Module signature appended~\n") {
        let at = bytes.len() - 28;
        let length = u32::from_be_bytes(bytes[at - 4..at].try_into().unwrap()) as usize;
        bytes.truncate(at - 12 - length);
    }
    bytes
}

/// The module with a part of a section changed, as `objcopy` does it.
fn changed(dir: &Path, module: &[u8], section: &str, change: impl Fn(&mut Vec<u8>)) -> Option<Vec<u8>> {
    let (file, part) = (dir.join("changed.ko"), dir.join("section"));
    fs::write(&file, module).unwrap();
    let objcopy = |option: &str| {
        let mut command = Command::new("objcopy");
        command.env("PATH", PATH).arg(option).arg(format!("{section}={}", part.display())).arg(&file);
        command.output().unwrap().status.success()
    };
    // Of a section that is not there it says so, and writes nothing.
    let _ = fs::remove_file(&part);
    objcopy("--dump-section");
    let mut bytes = fs::read(&part).ok()?;
    change(&mut bytes);
    fs::write(&part, bytes).unwrap();
    assert!(objcopy("--update-section"), "{section}");
    Some(fs::read(&file).unwrap())
}

/// A package that brings a wrong module is refused, and says this.
fn refused(host: &Host, release: &str, module: &[u8], words: &[&str]) -> Result<(), String> {
    prebuilt(host, "wrong", module);
    let before = host.tree();
    let done = host.kcache(&["install", "wrong", "-k", release]);
    fs::remove_dir_all(host.root().join("usr/src/wrong-1.0")).unwrap();
    ends(&done, 6, words)?;
    check(before == host.tree(), || "something was installed".to_owned())
}

/// A package whose module needs a symbol that the kernel does not export is refused, and says so.
fn unknown_symbol(host: &Host, release: &str, symbol: &str) -> Result<(), String> {
    let make =
        "MAKE=\"make -C $kernel_source_dir M=$dkms_tree/needs/1.0/build KBUILD_MODPOST_WARN=1 modules\"\n";
    let source = with_makefile(host, "needs", "", "obj-m := needs.o\n", make);
    let text = format!(
        "#include <linux/module.h>\nextern int {symbol}(void);\nstatic int __init start(void) {{ return {symbol}(); }}\n\
         module_init(start);\nMODULE_LICENSE(\"GPL\");\n"
    );
    fs::write(source.join("needs.c"), text).unwrap();
    let done = host.kcache(&["install", "needs", "-k", release]);
    fs::remove_dir_all(source).unwrap();
    ends(&done, 6, &[symbol])
}

/// All that is tried with one kernel. `boots` asks for a virtual machine, too.
fn examine(kind: &Kind, boots: bool) -> Found {
    let (host, release) = host_of(&kind.name);
    let k = release.as_str();
    let mut found = Found { release: release.clone(), cells: Vec::new() };
    let has = |symbol: &str| kind.symbols.split(' ').any(|has| has == symbol);
    if has("MODULE_SIG_FORCE") {
        let unsigned = host.kcache(&["install", "-k", k]);
        found.add("refuses unsigned", ends(&unsigned, 6, &["enforces module signatures"]));
        host.write_config(&format!("[signing]\nkey = '/{KEY}'\n"));
    } else {
        found.skip("refuses unsigned");
    }
    let installed = host.kcache(&["install", "-k", k]);
    found.add("builds", ends(&installed, 0, &[]));
    if installed.code != Some(0) {
        return found;
    }
    let checked = host.kcache(&["check", "-k", k]);
    found.add("check", ends(&checked, 0, &[]));
    found.add("like in-tree", like_in_tree(kind, &host, k));
    found.add("indexes", indexes::difference(&host, k).map_or(Ok(()), Err));
    let module = bare(&host, k);
    let vermagic = |bytes: &mut Vec<u8>| {
        let at = bytes.windows(9).position(|text| text == b"vermagic=").expect("it has a vermagic");
        bytes[at + 9] = b'8';
    };
    let other = changed(host.dir(), &module, ".modinfo", vermagic).expect("it has a .modinfo");
    found.add("refuses vermagic", refused(&host, k, &other, &[k]));
    let crc = |bytes: &mut Vec<u8>| bytes[0] ^= 1;
    let sections = ["__version_ext_crcs", "__versions"];
    let other = sections.iter().find_map(|section| changed(host.dir(), &module, section, crc));
    match other {
        Some(other) => found.add("refuses CRC", refused(&host, k, &other, &["was built against"])),
        None if has("MODVERSIONS") => found.add("refuses CRC", Err("it has no CRCs".to_owned())),
        None => found.skip("refuses CRC"),
    }
    // With TRIM_UNUSED_KSYMS, one that the source exports and nothing of this kernel uses.
    let symbol = if has("TRIM_UNUSED_KSYMS") { "vfs_rename" } else { "nobody_exports_this" };
    found.add("refuses symbol", unknown_symbol(&host, k, symbol));
    match boots {
        true => found.add("loads", loads(&host, k)),
        false => found.skip("loads"),
    }
    found
}

/// A module has the kernel's own vermagic, and the name, compression and signature of one of the kernel's own.
fn like_in_tree(kind: &Kind, host: &Host, k: &str) -> Result<(), String> {
    let tree = host.kernel(k).join("kernel/fs/configfs");
    let own = fs::read_dir(tree).unwrap().next().expect("configfs is a module").unwrap().path();
    let ours = host.modules(k).into_iter().find(|(name, _)| name.contains("zoo_user")).unwrap().1;
    let field = |module: &Path, name: &str| {
        let output = run(Command::new("modinfo").env("PATH", PATH).args(["-F", name]).arg(module));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    // Debian 12's modinfo shows nothing of a signature with SHA-3, and kcache's has the strongest hash that it makes.
    let sha3 = kind.symbols.contains("SHA3");
    if sha3 {
        let hash = field(&ours, "sig_hashalgo");
        check(hash == "sha512", || format!("its signature has {hash:?}"))?;
    }
    let fields = ["vermagic", "sig_id", "sig_hashalgo", "signer", "sig_key"];
    for name in &fields[..if sha3 { 1 } else { fields.len() }] {
        let (expected, is) = (field(&own, name), field(&ours, name));
        check(expected == is, || format!("{name} is {is:?}, not {expected:?}"))?;
    }
    check(own.extension() == ours.extension(), || format!("it is {}", ours.display()))
}

/// Both modules load in a virtual machine.
fn loads(host: &Host, k: &str) -> Result<(), String> {
    let booted = host.kcache(&["boot-test", "-k", k, "--json"]);
    ends(&booted, 0, &[])?;
    let states: Vec<String> = boot_test::modules(&booted).into_values().map(|module| module.state).collect();
    check(states == ["loads", "loads"], || format!("{states:?}\n{}", booted.shown()))
}

/// A row of the table, at once: the whole takes long.
fn print(row: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{row}").unwrap();
    out.flush().unwrap();
}

#[test]
fn kernels_of_every_make_get_their_modules() {
    let all = std::env::var("KCACHE_ZOO").ok();
    let wanted = |kind: &&Kind| match all.as_deref() {
        Some("all") => true,
        Some(names) => names.split(' ').any(|name| name == kind.name),
        None => SAMPLE.contains(&kind.name.as_str()),
    };
    let mut wrong = String::new();
    let mut header = false;
    for kind in kinds().iter().filter(wanted) {
        if !zoo().join(format!("{}.tar.zst", kind.name)).exists() {
            let why = fs::read_to_string(zoo().join(format!("{}.skipped", kind.name)));
            let why = why.unwrap_or_else(|_| "not built: run tests/zoo/build.sh".to_owned());
            print(&format!("| {} | {} | skipped: {} |", kind.name, kind.layout, why.trim()));
            continue;
        }
        let found = examine(kind, all.is_some());
        if !std::mem::replace(&mut header, true) {
            let names: Vec<&str> = found.cells.iter().map(|(name, _)| *name).collect();
            print(&format!("| kind | layout | release | {} |", names.join(" | ")));
        }
        let cells: Vec<&str> = found
            .cells
            .iter()
            .map(|(_, cell)| if matches!(cell.as_str(), "yes" | "-") { cell.as_str() } else { "NO" })
            .collect();
        print(&format!("| {} | {} | {} | {} |", kind.name, kind.layout, found.release, cells.join(" | ")));
        for (what, said) in found.wrong() {
            wrong.push_str(&format!("{}: {what}: {said}\n", kind.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
