//! `kcache debuginfo`: what `strip` takes out of modules is kept, and fetched when it is asked for.
//!
//! The kernels are Debian's, built with `CONFIG_DEBUG_INFO`.

use crate::builder::{BUILDER, MODULE, PACKAGE, covered, encode, file, openssl_sign, payload, url};
use crate::host::{FIXTURES, Host, rewrite_generation, run};
use crate::sharing::entry_of;
use fs_err as fs;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn k() -> &'static str {
    &FIXTURES.new
}

/// A host that could compile nothing, with the package installed from a cache.
fn client(cache: &str) -> Host {
    let host = Host::image_only().trusting(&BUILDER).with_caches(&[&url(cache)]);
    host.kcache(&["install", PACKAGE, "-k", k()]).exits(0).says(&["fetched"]);
    host
}

/// What is below `usr/lib/debug/.build-id`, files and drafts.
fn placed(directory: &Path) -> Vec<PathBuf> {
    let mut find = Command::new("find");
    let output = run(find.arg(directory).args(["-path", "*/.build-id/*", "-type", "f"]));
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}

fn readelf(option: &str, file: &Path) -> String {
    String::from_utf8(run(Command::new("readelf").arg(option).arg("-W").arg(file)).stdout).unwrap()
}

/// What an object's `.gnu_debuglink` names: a file, and the CRC of its bytes.
fn debuglink(module: &Path) -> (String, u32) {
    let dir = tempfile::tempdir().unwrap();
    let (link, copy) = (dir.path().join("link"), dir.path().join("copy"));
    let dump = format!(".gnu_debuglink={}", link.display());
    run(Command::new("objcopy").arg("--dump-section").arg(dump).arg(module).arg(copy));
    let bytes = fs::read(link).unwrap();
    let (name, crc) = bytes.split_at(bytes.len() - 4);
    let name = name.split(|byte| *byte == 0).next().unwrap();
    (String::from_utf8(name.to_vec()).unwrap(), u32::from_le_bytes(crc.try_into().unwrap()))
}

/// The CRC that binutils and gdb compute.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(!0, byte)
}

/// Whether a file is the debug information of a module.
fn check_pair(module: &Path, debug: &Path) {
    let name = module.file_name().unwrap().to_str().unwrap();
    assert_eq!(debuglink(module), (format!("{name}.debug"), crc32(&fs::read(debug).unwrap())));
    assert!(!readelf("-S", module).contains(" .debug_info "));
    assert!(readelf("-S", debug).contains(" .debug_info "));
    let line = |file| readelf("-n", file).lines().find(|line| line.contains("Build ID")).unwrap().to_owned();
    let id = line(module).split_whitespace().last().unwrap().to_owned();
    assert_eq!(line(module), line(debug));
    assert!(debug.ends_with(format!(".build-id/{}/{}.debug", &id[..2], &id[2..])), "{}", debug.display());
}

#[test]
fn debug_information_comes_when_it_is_asked_for_and_not_before() {
    let host = client(&BUILDER.cache_url());
    host.kcache(&["debuginfo", "--offline"]).exits(3).one_error();
    host.kcache(&["debuginfo", "--dry-run"]).exits(0);
    assert_eq!(placed(&host.root()), Vec::<PathBuf>::new());

    host.kcache(&["debuginfo"]).exits(0);
    let [debug] = &placed(&host.root())[..] else { panic!("not one file") };
    check_pair(&host.modules(k())[MODULE], debug);
    assert_eq!(fs::metadata(debug).unwrap().permissions().mode() & 0o777, 0o644);

    host.kcache(&["debuginfo", PACKAGE]).exits(0).prints(&["present"]);
    fs::write(debug, "damaged").unwrap();
    let run = host.kcache(&["debuginfo", "--offline", "--json", PACKAGE, "-k", k()]).exits(0);
    let record = run.json();
    assert_eq!((&record["type"], &record["state"]), (&"debuginfo".into(), &"written".into()));
    assert_eq!((&record["module"], &record["kernel"]), (&"v4l2loopback.ko".into(), &k().into()));
    check_pair(&host.modules(k())[MODULE], debug);
}

#[test]
fn a_store_that_was_lost_is_no_obstacle_and_elsewhere_is_where_one_likes() {
    let host = client(&BUILDER.cache_url());
    fs::remove_dir_all(host.store()).unwrap();
    let to = host.dir().join("symbols");
    let run = host.kcache(&["debuginfo", "--output", to.to_str().unwrap()]).exits(0);
    run.says(&["fetched v4l2loopback"]).prints(&["symbols/.build-id/"]);
    check_pair(&host.modules(k())[MODULE], &placed(&to)[0]);
    assert_eq!(placed(&host.root()), Vec::<PathBuf>::new());
}

/// The compressed objects of a cache, largest first: the first one is the debug information.
fn objects(cache: &Path) -> Vec<PathBuf> {
    let mut find = Command::new("find");
    let output = run(find.arg(cache).args(["-path", "*/objects/*", "-type", "f"]));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut found: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    found
}

fn check_spoilt(spoil: impl FnOnce(&[PathBuf]), says: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let cache = BUILDER.copy_of_cache(dir.path());
    let host = client(&format!("file://{}", cache.display()));
    spoil(&objects(&cache));
    host.kcache(&["debuginfo"]).exits(3).one_error().says(says);
    assert_eq!(placed(&host.root()), Vec::<PathBuf>::new());
}

#[test]
fn what_nobody_has_or_a_cache_lies_about_is_not_written() {
    check_spoilt(|objects| fs::remove_file(&objects[0]).unwrap(), &["not in the store or a shared cache"]);
    let lie = |objects: &[PathBuf]| assert!(fs::copy(&objects[1], &objects[0]).is_ok());
    check_spoilt(lie, &["warning:", "ignoring ", "not in the store or a shared cache"]);
}

/// A package's entry in a cache, and what it says.
fn entry(cache: &Path, package: &str) -> (PathBuf, Value, Value) {
    let path = file(&cache.join("entries"), &entry_of(package));
    let mut envelope: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    envelope.as_object_mut().unwrap().remove("checksum");
    let manifest = serde_json::from_slice(&payload(&envelope).0).unwrap();
    (path, envelope, manifest)
}

#[test]
fn what_a_builder_has_signed_and_is_of_another_module_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = BUILDER.copy_of_cache(dir.path());
    let (path, mut envelope, mut manifest) = entry(&cache, PACKAGE);
    let is_debug = |output: &&Value| output["role"] == "debug";
    let other =
        entry(&cache, "bbswitch").2["outputs"].as_array().unwrap().iter().find(is_debug).unwrap().clone();
    for output in manifest["outputs"].as_array_mut().unwrap().iter_mut().filter(|output| is_debug(&&**output))
    {
        (output["digest"], output["size"]) = (other["digest"].clone(), other["size"].clone());
    }
    let manifest = manifest.to_string();
    let signed = covered(envelope["payloadType"].as_str().unwrap(), manifest.as_bytes());
    envelope["payload"] = encode(manifest.as_bytes()).into();
    envelope["signatures"][0]["sig"] = openssl_sign(&BUILDER.private_key(), &signed).into();
    fs::write(path, envelope.to_string()).unwrap();
    let host = client(&format!("file://{}", cache.display()));
    host.kcache(&["debuginfo"]).exits(6).one_error().says(&["v4l2loopback.ko", "the build-id is not"]);
    assert_eq!(placed(&host.root()), Vec::<PathBuf>::new());
}

#[test]
fn the_debug_information_of_another_build_is_not_that_of_what_is_installed() {
    let host = client(&BUILDER.cache_url());
    let generations = host.kernel(k()).join("updates");
    let generation = file(&generations, "generation.json");
    let text = fs::read_to_string(&generation).unwrap();
    let digest = text.split("\"digest\":").nth(1).unwrap().split('"').nth(1).unwrap();
    rewrite_generation(&generation, &text.replace(digest, &digest.chars().rev().collect::<String>()));
    host.kcache(&["debuginfo"]).exits(3).one_error().says(&["a different build than the installed one"]);
    assert_eq!(placed(&host.root()), Vec::<PathBuf>::new());
}

#[test]
fn what_is_only_built_has_its_own_and_twice_the_same() {
    let host = Host::new(&[k()]).with_packages(&[PACKAGE]);
    host.kcache(&["debuginfo", PACKAGE]).exits(3).one_error().says(&["is not installed for any kernel"]);
    host.kcache(&["debuginfo"]).exits(3).one_error().says(&["has installed nothing"]);
    host.kcache(&["debuginfo", PACKAGE, "-k", k()])
        .exits(3)
        .says(&["have no entry for its build", "--rebuild"]);
    host.kcache(&["build", "--check", PACKAGE, "-k", k()]).exits(0);
    host.kcache(&["debuginfo", PACKAGE, "-k", k()]).exits(0).prints(&["written"]);
    assert_eq!(placed(&host.root()).len(), 1);
}

/// A package with one module, and what else its recipe says.
fn hello(host: &Host, recipe: &str) {
    let conf = format!(
        "PACKAGE_NAME=hello\nPACKAGE_VERSION=1\nBUILT_MODULE_NAME=hello\nDEST_MODULE_NAME=hello-there\n\
         DEST_MODULE_LOCATION=/updates\n{recipe}"
    );
    let source = "#include <linux/module.h>\nint init_module(void) { return 0; }\nMODULE_LICENSE(\"GPL\");\n\
                  MODULE_DESCRIPTION(\"says nothing\");\n";
    let makefile = "obj-m := hello.o\n".to_owned();
    let files = [("dkms.conf", conf), ("hello.c", source.to_owned()), ("Makefile", makefile)];
    host.write_package("hello-1", &files);
}

#[test]
fn a_module_that_is_not_stripped_or_of_a_kernel_without_any_is_reported() {
    let host = Host::new(&[k()]);
    let check = |recipe: &str, has_it: bool| {
        hello(&host, recipe);
        host.kcache(&["install", "hello", "-k", k()]).exits(0);
        let run = host.kcache(&["debuginfo", "hello"]).exits(3).one_error();
        run.says(&["no debug information for hello-there.ko: its build produced none"]);
        let sections = readelf("-S", &host.modules(k())["hello/hello-there.ko"]);
        assert_eq!((sections.contains(" .debug_info "), sections.contains("gnu_debuglink")), (has_it, false));
    };
    check("STRIP=no\n", true);
    // The kernel, from now on without CONFIG_DEBUG_INFO.
    let config = host.headers(k()).join("include/config/auto.conf");
    let text = fs::read_to_string(&config).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("CONFIG_DEBUG_INFO")).collect();
    fs::write(config, kept.join("\n") + "\n").unwrap();
    check("", false);
}

#[test]
fn a_module_is_known_by_the_name_it_is_installed_by_and_is_parted_once() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    fs::remove_file(host.root().join("usr/src/hello-1/dkms.conf")).unwrap();
    let make = "make -C /lib/modules/$kernelver/build M=$PWD modules";
    // Modules are stripped after each command: the second time there is nothing left to be parted from.
    let recipe = format!(
        "name = 'hello'\nversion = '1'\nmake = ['{make}', 'true']\n[[module]]\nname = 'hello'\ninstall-as = 'hello-there'\n"
    );
    let source = host.write_package("hello-1", &[("kcache.toml", recipe)]);
    host.kcache(&["install", source.to_str().unwrap(), "-k", k()]).exits(0);
    host.kcache(&["debuginfo", "hello"]).exits(0).prints(&["hello-there.ko "]);
    check_pair(&host.modules(k())["hello/hello-there.ko"], &placed(&host.root())[0]);
}
