//! `kcache verify`: damage of any kind is told, and put right where that can be.

use fs_err as fs;

use crate::host::{FIXTURES, Host};
use crate::packages::{TRIO, hello, trio};

fn k() -> &'static str {
    FIXTURES.new.as_str()
}

fn installed() -> Host {
    let host = Host::new(&[&FIXTURES.new]);
    trio(&host, "whole");
    host.kcache(&["install", "-k", k()]).exits(0);
    host
}

/// Any file below a directory of the store.
fn one_of(host: &Host, dir: &str) -> std::path::PathBuf {
    let shards = fs::read_dir(host.store().join(dir)).unwrap();
    let mut files = shards.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap());
    files.next().unwrap().unwrap().path()
}

#[test]
fn an_intact_store_is_reported_as_such_and_not_changed() {
    let host = installed();
    let before = host.tree();
    host.kcache(&["verify"]).exits(0);
    host.kcache(&["verify", "--repair"]).exits(0).says(&["all intact"]);
    assert_eq!(host.tree(), before);
    let summary = host.kcache(&["verify", "--json"]).exits(0).stdout.clone();
    assert!(summary.contains("\"damaged\":0") && summary.lines().count() == 1, "{summary}");
}

#[test]
fn corruption_in_the_store_is_reported_and_a_repair_leaves_only_intact_data() {
    let host = installed();
    for dir in ["objects", "entries"] {
        let path = one_of(&host, dir);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let shown = path.display().to_string();
        host.kcache(&["verify"]).exits(6).prints(&[&shown]);
        host.kcache(&["verify", "--repair", "--dry-run"]).exits(6).prints(&[&shown]);
        assert!(path.exists());
        host.kcache(&["verify", "--repair"]).exits(0).prints(&["deleted; will be fetched or rebuilt"]);
        host.kcache(&["verify"]).exits(0);
        host.kcache(&["install", "-k", k()]).exits(0);
        host.kcache(&["verify"]).exits(0);
    }
}

#[test]
fn corruption_in_a_kernels_tree_is_reported_and_repaired_from_the_store() {
    let host = installed();
    let before = host.tree();
    let (_, module) = host.modules(k()).into_iter().next().unwrap();
    fs::write(&module, "rot").unwrap();
    let shown = module.display().to_string();
    host.kcache(&["verify"]).exits(6).prints(&[&format!("kernel {}: {shown}", k()), "expected"]);
    host.kcache(&["verify", "--repair"]).exits(0).prints(&["reinstalled"]);
    assert_eq!(host.tree(), before);

    let dep = host.kernel(k()).join("modules.dep.bin");
    fs::write(&dep, "").unwrap();
    host.kcache(&["verify"]).exits(6).prints(&["modules.dep.bin cannot be read"]);
    host.kcache(&["verify", "--repair"]).exits(0);
    assert_eq!(host.tree(), before);
    assert!(Host::resolved(&host.root(), k(), &TRIO).values().all(Option::is_some));
}

#[test]
fn indexes_that_differ_from_depmods_are_reported_and_regenerated() {
    let host = installed();
    let softdep = host.kernel(k()).join("modules.softdep");
    let before = host.tree();
    let more = format!("{}softdep videodev pre: mc\n", fs::read_to_string(&softdep).unwrap());
    fs::write(&softdep, more).unwrap();
    let told = format!("kernel {}: {} differs from what depmod writes for the tree", k(), softdep.display());
    host.kcache(&["verify"]).exits(6).prints(&[&told]);
    host.kcache(&["verify", "--repair"]).exits(0).prints(&[&format!("{told}: reinstalled")]);
    assert_eq!(host.tree(), before);
    host.kcache(&["verify"]).exits(0);
}

#[test]
fn what_cannot_be_put_back_is_left_with_the_command_that_does() {
    let host = installed();
    let (_, module) = host.modules(k()).into_iter().next().unwrap();
    fs::remove_file(&module).unwrap();
    fs::remove_dir_all(host.store()).unwrap();
    host.kcache(&["verify", "--repair"])
        .exits(6)
        .says(&["no store in", &format!("`kcache install -k {}`", k())]);
}

#[test]
fn a_corrupt_generation_json_is_repaired_from_its_copy_or_else_by_install() {
    let host = Host::new(&[&FIXTURES.new]);
    trio(&host, "whole");
    hello(&host, "whole");
    host.kcache(&["install", "-k", k()]).exits(0);
    let before = host.tree();
    let (_, module) = host.modules(k()).into_iter().next().unwrap();
    let generation = module.parent().unwrap().parent().unwrap().join("generation.json");
    let copy = generation.with_extension("json.copy");
    for path in [&generation, &copy] {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 2;
        fs::write(path, bytes).unwrap();
        let shown = format!("{} is corrupt", path.display());
        host.kcache(&["verify"]).exits(6).prints(&[&shown]);
        host.kcache(&["check", "-k", k()]).exits(3).prints(&[&shown]);
        host.kcache(&["verify", "--repair"]).exits(0).prints(&["reinstalled"]);
        assert_eq!(host.tree(), before);
    }
    let damage = || [&generation, &copy].map(|path| fs::write(path, "{").unwrap());
    damage();
    host.kcache(&["check", "-k", k()]).exits(3).prints(&["generation.json is corrupt"]);
    let hint = format!("hint: run `kcache install -k {}`", k());
    host.kcache(&["verify", "--repair"]).exits(6).prints(&["generation.json is corrupt"]).says(&[&hint]);
    host.kcache(&["install", "-k", k(), "hello"])
        .exits(1)
        .says(&["is corrupt, and trio is also installed", "hint: name all packages"]);
    host.kcache(&["install", "-k", k()]).exits(0);
    host.kcache(&["verify"]).exits(0);
    damage();
    host.kcache(&["remove", "-k", k(), "--all"]).exits(0);
    host.kcache(&["verify"]).exits(0).says(&["modules of 0 kernels"]);
    assert!(host.modules(k()).is_empty());
}

#[test]
fn a_corrupt_index_is_reported_and_regenerated() {
    let host = installed();
    let before = host.tree();
    for name in ["modules.alias.bin", "modules.symbols.bin", "modules.dep.bin", "modules.dep"] {
        let path = host.kernel(k()).join(name);
        let mut bytes = fs::read(&path).unwrap();
        // In a name or a path: what an index says, not how it is laid out.
        let at = bytes.windows(3).rposition(|window| window.iter().all(u8::is_ascii_lowercase)).unwrap();
        bytes[at + 1] ^= 1;
        fs::write(&path, bytes).unwrap();
        host.kcache(&["verify"]).exits(6).prints(&["is corrupt: it and ", " differ at "]);
        host.kcache(&["verify", "--repair"]).exits(0).prints(&["reinstalled"]);
        assert_eq!(host.tree(), before, "{name}");
    }
}
