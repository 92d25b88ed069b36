//! `kcache export` and `import`: a set of builds as one file, for hosts without a network.

use crate::builder::{BUILDER, Builder, MODULE, PACKAGE};
use crate::host::{FIXTURES, Host, run};
use crate::packages;
use fs_err as fs;
use kcache::store::{Manifest, Role};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn k() -> &'static str {
    &FIXTURES.new
}

fn export(to: &Path) {
    let to = to.to_str().unwrap();
    BUILDER
        .host
        .kcache(&["export", to, PACKAGE, "bbswitch", "-k", k()])
        .exits(0)
        .says(&["exported 2 entries"]);
}

fn import(host: &Host, from: &Path) -> crate::host::Run {
    host.kcache(&["import", from.to_str().unwrap()])
}

#[test]
fn a_host_without_network_compiler_and_headers_installs_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("set.tar");
    export(&file);
    let host = Host::image_only().trusting(&BUILDER);
    import(&host, &file).exits(0).says(&["imported 2 entries (0 already present), 4 objects and 2 pointers"]);
    import(&host, &file).exits(0).says(&["imported 0 entries (2 already present), 0 objects and 0 pointers"]);
    host.kcache(&["install", PACKAGE, "-k", k()]).exits(0).prints(&["from the store"]);
    assert!(host.modules(k()).contains_key(MODULE));
}

#[test]
fn the_same_set_is_the_same_file_and_an_unpacked_one_is_a_shared_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("1.tar"), dir.path().join("2.tar"));
    export(&first);
    // From another host's store, which has got it from the first.
    let host = Host::image_only().trusting(&BUILDER);
    import(&host, &first).exits(0);
    host.kcache(&["export", second.to_str().unwrap(), "--all"]).exits(0);
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
    let unpacked = dir.path().join("cache");
    fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar").arg("-xf").arg(&first).arg("-C").arg(&unpacked));
    let url = format!("file://{}", unpacked.display());
    let other = Host::image_only().trusting(&BUILDER);
    other.kcache(&["--cache", &url, "install", PACKAGE, "-k", k()]).exits(0).says(&["fetched"]);
}

#[test]
fn what_is_not_trusted_cut_off_or_no_export_is_not_imported() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("set.tar");
    export(&file);
    let host = Host::image_only();
    import(&host, &file).exits(6).says(&["an untrusted key", "kcache keys trust"]);
    let host = host.trusting(&BUILDER);
    import(&host, Path::new("/no/such/file")).exits(1).says(&["/no/such/file"]).one_error();
    import(&host, &BUILDER.public_key()).exits(6).one_error();
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    import(&host, &file).exits(6).says(&["set.tar"]).one_error();
    // What was whole was kept, and the rest is all that is fetched the next time.
    fs::write(&file, &whole).unwrap();
    import(&host, &file).exits(0);
    host.kcache(&["install", PACKAGE, "-k", k()]).exits(0);
}

#[test]
fn a_signed_entry_that_lies_about_its_fields_or_has_no_module_is_not_imported() {
    let check = |change: &dyn Fn(&mut Manifest), words: &str| {
        let builder = Builder::new("evil", &[]);
        packages::hello(&builder.host, "text");
        builder.host.kcache(&["build", "hello", "-k", k()]).exits(0);
        builder.forge(change);
        let file = builder.host.dir().join("set.tar");
        builder.host.kcache(&["export", file.to_str().unwrap(), "--all"]).exits(0);
        let client = Host::new(&[k()]).trusting(&builder);
        packages::hello(&client, "text");
        import(&client, &file).exits(6).says(&[words]).one_error();
        client.kcache(&["install", "hello", "--no-build", "-k", k()]).exits(3);
        assert!(client.modules(k()).is_empty());
    };
    check(&|manifest| manifest.fields.truncate(1), "its fields belong to key");
    check(&|manifest| manifest.outputs.retain(|output| output.role != Role::Module), "has no module");
}

#[test]
fn an_export_goes_through_pipes_and_into_devices_and_replaces_none() {
    let host = Host::image_only().trusting(&BUILDER);
    let mut export = BUILDER.host.command(&["export", "-", PACKAGE, "-k", k()]);
    let mut export = export.stdout(Stdio::piped()).spawn().unwrap();
    let mut import = host.command(&["import", "-"]);
    let import = import.stdin(export.stdout.take().unwrap()).output().unwrap();
    assert!(export.wait().unwrap().success());
    crate::host::Run::from(import).exits(0).says(&["imported 1 entry"]);
    let pipe = host.dir().join("pipe");
    run(Command::new("mkfifo").arg(&pipe));
    let mut reader = Command::new("cat").arg(&pipe).stdout(Stdio::null()).spawn().unwrap();
    BUILDER.host.kcache(&["export", pipe.to_str().unwrap(), PACKAGE, "-k", k()]).exits(0);
    assert!(reader.wait().unwrap().success());
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn an_export_names_what_is_missing_and_leaves_no_half_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new(&[k()]).with_packages(&[PACKAGE]);
    let file = dir.path().join("set.tar");
    host.kcache(&["export", file.to_str().unwrap(), PACKAGE, "-k", k()]).exits(3);
    host.kcache(&["build", PACKAGE, "-k", k()]).exits(0);
    host.kcache(&["export", file.to_str().unwrap(), PACKAGE, "-k", k()]).exits(6).one_error();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    host.kcache(&["export", "--unsigned", file.to_str().unwrap(), "--all"]).exits(0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
