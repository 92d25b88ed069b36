//! One host builds, others fetch: keys, push, pull, pointers, and hosts that cannot compile anything.

use crate::builder::{BUILDER, Builder, MODULE, PACKAGE, decode, file, payload, pointer, url};
use crate::host::{FIXTURES, Host, run};
use crate::packages::with_makefile;
use fs_err as fs;
use kcache::store::Role;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn k() -> &'static str {
    &FIXTURES.new
}

/// A host that could compile nothing, trusts the builder and reads its cache.
fn client() -> Host {
    Host::image_only().trusting(&BUILDER).with_caches(&[&url(&BUILDER.cache_url())])
}

#[test]
fn a_host_with_only_a_kernel_image_installs_what_a_builder_built() {
    let host = client();
    let run = host.kcache(&["--json", "install", "-k", k()]).exits(0);
    let outcome = run.outcome();
    assert_eq!((outcome.state.as_str(), outcome.how.as_deref()), ("installed", Some("shared-cache")));
    assert!(!outcome.version.is_empty());
    assert!(host.modinfo(k(), PACKAGE, "vermagic").starts_with(k()));
    // Again: from the store, without the cache.
    let again = host.kcache(&["--json", "--offline", "install", "-k", k()]).exits(0).outcome();
    assert_eq!(again.how.as_deref(), Some("store"));
}

#[test]
fn an_identical_host_fetches_and_compiles_nothing() {
    let host = Host::new(&[k()]).with_packages(&[PACKAGE]).trusting(&BUILDER);
    let host = host.with_caches(&[&url(&BUILDER.cache_url())]);
    let run =
        host.kcache(&["install", PACKAGE, "-k", k(), "--json"]).exits(0).says(&["fetched v4l2loopback/"]);
    assert_eq!(run.outcome().how.as_deref(), Some("shared-cache"));
    assert!(host.modules(k()).contains_key(MODULE));
    // The log came along.
    host.kcache(&["log", PACKAGE, "-k", k()]).exits(0).prints(&["v4l2loopback.ko"]);
}

#[test]
fn nothing_is_used_of_a_builder_that_is_not_trusted_or_no_more() {
    let host = Host::image_only().with_caches(&[&url(&BUILDER.cache_url())]);
    host.kcache(&["install", "-k", k()]).exits(5);
    let host = host.trusting(&Builder::new("stranger", &[]));
    host.kcache(&["install", "-k", k()]).exits(5).says(&["signed with an untrusted key"]);
    let host = host.trusting(&BUILDER);
    host.kcache(&["pull", "-k", k()]).exits(0).prints(&["fetched"]);
    host.kcache(&["keys", "revoke", "builder"]).exits(0);
    // Not even what was fetched before.
    host.kcache(&["install", "-k", k()]).exits(5);
    assert!(host.modules(k()).is_empty());
    let key = BUILDER.public_key();
    host.kcache(&["keys", "trust", key.to_str().unwrap()]).exits(6).one_error();
}

/// A package that builds wherever there are two CPUs, of which no key knows.
fn choosy(host: &Host) {
    let makefile = "obj-m := choosy.o\nall:\n\t[ $$(nproc) -gt 1 ] || { echo 'error: too few'; false; }\n\t$(MAKE) -C $(K) M=$(CURDIR) modules\n";
    with_makefile(host, "choosy", "x", makefile, "MAKE=\"make all K=$kernel_source_dir\"\n");
}

#[test]
fn a_signed_failure_is_advice_where_one_can_build_and_an_answer_where_nothing_is_built() {
    let canary = Builder::new("canary", &[]);
    let cache = canary.cache_url();
    fs::create_dir(canary.cache()).unwrap();
    choosy(&canary.host);
    canary.host.write_config(&format!("[[cache]]\n{}\nwrite = true\n", url(&cache)));
    canary.host.kcache(&["build", "-j", "1", "choosy", "-k", k()]).exits(4).says(&["pushed choosy/"]);
    let host = || {
        let host = Host::new(&[k()]).trusting(&canary).with_caches(&[&url(&cache)]);
        choosy(&host);
        host
    };
    let how = |host: &Host, jobs: &str, exit| {
        let run = host.kcache(&["--json", "install", "-j", jobs, "choosy", "-k", k()]).exits(exit);
        (run.outcome().how.unwrap_or_default(), run.stderr.contains("build failed on "))
    };
    // Said, tried once, and what came of it is this host's own knowledge.
    let able = host();
    assert_eq!(how(&able, "2", 0), ("built".to_owned(), true));
    assert_eq!(how(&able, "1", 0), ("store".to_owned(), false));
    let alike = host();
    assert_eq!(how(&alike, "1", 4), ("built".to_owned(), true));
    assert_eq!(how(&alike, "2", 4), ("failure-remembered".to_owned(), false));
    // Who does not build is told; and tries it when it builds.
    let fetching = host();
    let pull = fetching.kcache(&["--json", "pull", "choosy", "-k", k()]).exits(4).outcome();
    assert_eq!((pull.state.as_str(), pull.how.as_deref()), ("failed", Some("shared-cache")));
    fetching.kcache(&["log", "choosy", "-k", k()]).exits(0).prints(&["error: too few"]);
    fetching
        .kcache(&["install", "-n", "-j", "2", "choosy", "-k", k()])
        .exits(0)
        .prints(&["would fetch or build"]);
    assert_eq!(how(&fetching, "2", 0), ("built".to_owned(), true));
}

#[test]
fn pushing_needs_a_signature_or_an_explicit_word() {
    let host = Host::new(&[k()]);
    crate::packages::trio(&host, "unsigned");
    host.kcache(&["push", "-k", k()]).exits(2);
    let cache = host.dir().join("cache");
    let to = format!("file://{}", cache.display());
    host.kcache(&["push", "--to", &to, "trio", "-k", k()]).exits(3);
    host.kcache(&["build", "trio", "-k", k()]).exits(0);
    host.kcache(&["push", "--to", &to, "trio", "-k", k()]).exits(6);
    host.kcache(&["push", "--to", &to, "--unsigned", "trio", "-k", k()]).exits(1);
    fs::create_dir(&cache).unwrap();
    host.kcache(&["push", "-n", "--to", &to, "--unsigned", "trio", "-k", k()]).exits(0);
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
    host.kcache(&["push", "--to", &to, "--unsigned", "trio", "-k", k()]).exits(0);
    host.kcache(&["keys", "generate", "--name", "late"]).exits(0);
    host.kcache(&["push", "--to", &to, "trio", "-k", k()]).exits(0);
    let entry = fs::read_to_string(file(&cache.join("entries"), ".json")).unwrap();
    assert!(entry.contains("keyid"), "{entry}");
    host.kcache(&["push", "--to", &to, "--all"]).exits(0).prints(&["present"]);
}

#[test]
fn of_two_builders_that_differ_the_first_is_kept_and_the_second_gets_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let cache = BUILDER.copy_of_cache(dir.path());
    let second = Builder::new("second", &[PACKAGE]);
    let host = &second.host;
    let to = format!("file://{}", cache.display());
    // Somebody has tampered with the second builder's module after it was built.
    host.kcache(&["keys", "trust", BUILDER.public_key().to_str().unwrap()]).exits(0);
    host.kcache(&["build", PACKAGE, "-k", k()]).exits(0);
    host.kcache(&["push", "--to", &to, PACKAGE, "-k", k()]).exits(0).prints(&["signed"]);
    let before = fs::read(file(&cache.join("entries"), &entry_name(host))).unwrap();
    tamper(host);
    host.kcache(&["push", "--to", &to, PACKAGE, "-k", k()])
        .exits(6)
        .prints(&["conflict"])
        .says(&["not reproducible"]);
    assert_eq!(fs::read(file(&cache.join("entries"), &entry_name(host))).unwrap(), before);
    // Now there are two signatures, and hosts that ask for two are served.
    let strict = Host::image_only().trusting(&BUILDER).trusting(&second);
    let strict = strict.with_caches(&[&url(&to)]);
    let config = fs::read_to_string(strict.root().join("etc/kcache/config.toml")).unwrap();
    strict.write_config(&format!("threshold = 2\n{config}"));
    strict.kcache(&["install", "-k", k()]).exits(0);
    strict.write_config(&format!("threshold = 3\n{config}"));
    fs::remove_dir_all(strict.store()).unwrap();
    strict.kcache(&["pull", "-k", k()]).exits(5).says(&["2 of 3 required trusted signatures"]);
}

/// The name of the one entry of a host's store.
fn entry_name(host: &Host) -> String {
    file(&host.store().join("entries"), ".json").file_name().unwrap().to_str().unwrap().to_owned()
}

/// Makes a host's store say that its one build came out otherwise, and signs that.
fn tamper(host: &Host) {
    let store = kcache::store::Store::open(
        &host.store(),
        &kcache::store::Waiting { limit: std::time::Duration::from_secs(5), print: &|_| () },
    )
    .unwrap();
    let key = entry_name(host).trim_end_matches(".json").parse().unwrap();
    let mut manifest = store.lookup(&key).unwrap().unwrap().into_manifest();
    let stored = store.put_object(&mut &b"other bytes"[..]).unwrap();
    for output in manifest.outputs.iter_mut().filter(|output| output.role == Role::Module) {
        (output.digest, output.size) = (stored.digest, stored.size);
    }
    let mut entry = kcache::store::Entry::new(manifest).unwrap();
    let key = host.root().join("etc/kcache/signing-key.pem");
    entry.sign(&kcache::store::SigningKey::read(&key).unwrap());
    store.replace(&entry).unwrap();
}

#[test]
fn an_older_pointer_is_followed_only_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let cache = BUILDER.copy_of_cache(dir.path());
    let host = Host::image_only().trusting(&BUILDER);
    let host = host.with_caches(&[&url(&format!("file://{}", cache.display()))]);
    host.kcache(&["install", "-k", k()]).exits(0);
    // Another build becomes the newest, and is then hidden again by whoever runs the cache.
    let pointer = pointer(&cache, "v4l2loopback");
    let old = fs::read(&pointer).unwrap();
    let name = kcache::store::Pointer::name(
        k(),
        pointer.parent().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap(),
        PACKAGE,
    )
    .unwrap();
    let parsed = kcache::store::Pointer::parse(&pointer, &name, &old).unwrap();
    let key = kcache::store::SigningKey::read(&BUILDER.private_key()).unwrap();
    let newer = kcache::store::Pointer::new(&name, parsed.key(), parsed.epoch() + 1, &key).unwrap();
    fs::write(&pointer, newer.encode().unwrap()).unwrap();
    host.kcache(&["pull", "-k", k()]).exits(0);
    fs::write(&pointer, &old).unwrap();
    host.kcache(&["pull", "-k", k()]).exits(0).says(&["not newer than the accepted pointer"]);
    host.kcache(&["pull", "--allow-rollback", "-k", k()]).exits(0);
    let quiet = host.kcache(&["pull", "-k", k()]).exits(0);
    assert!(!quiet.stderr.contains("ignoring pointer"), "{}", quiet.shown());
    // A key that names an epoch which nothing comes after holds nobody up.
    let beyond = kcache::store::Pointer::new(&name, "1".repeat(64).parse().unwrap(), u64::MAX, &key).unwrap();
    fs::write(&pointer, beyond.encode().unwrap()).unwrap();
    host.kcache(&["pull", "-k", k()]).exits(0).says(&["more than a day ahead"]);
    fs::write(&pointer, newer.encode().unwrap()).unwrap();
    let healed = host.kcache(&["pull", "-k", k()]).exits(0);
    assert!(!healed.stderr.contains("ignoring pointer"), "{}", healed.shown());
}

#[test]
fn keys_that_others_can_read_or_change_are_refused() {
    let host = client();
    let key = host.root().join("etc/kcache/signing-key.pem");
    fs::copy(BUILDER.private_key(), &key).unwrap();
    fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    host.kcache(&["install", "-k", k()]).exits(6).says(&["readable by others", "chmod 600"]).one_error();
    fs::remove_file(&key).unwrap();
    let trusted = host.root().join("etc/kcache/trusted-keys/builder.pem");
    fs::set_permissions(&trusted, PermissionsExt::from_mode(0o666)).unwrap();
    host.kcache(&["install", "-k", k()]).exits(6).says(&["writable by others"]).one_error();
    assert!(host.modules(k()).is_empty());
}

#[test]
fn keys_of_an_image_never_land_on_the_machine_that_works_on_it() {
    let host = Host::image_only();
    let outside = host.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(host.root().join("etc")).unwrap();
    std::os::unix::fs::symlink(&outside, host.root().join("etc/kcache")).unwrap();
    host.kcache(&["keys", "generate", "--name", "image"]).exits(1).says(&["dangling link"]).one_error();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_host_with_a_revoked_key_signs_nothing() {
    let mut builder = Builder::new("leaked", &[]);
    let (host, cache) = (&builder.host, builder.cache_url());
    fs::create_dir(builder.cache()).unwrap();
    crate::packages::hello(host, "first");
    host.write_config(&format!("[[cache]]\n{}\nwrite = true\n", url(&cache)));
    host.kcache(&["build", "hello", "-k", k()]).exits(0).says(&["pushed hello/"]);
    host.kcache(&["keys", "revoke", "leaked"])
        .exits(0)
        .says(&["this is this host's own key", "hint: delete "]);
    host.kcache(&["keys", "revoke", "leaked"]).exits(0).says(&["already revoked"]);
    let again = host
        .kcache(&["build", "hello", "-k", k()])
        .exits(0)
        .says(&["own key is revoked", "not pushing: no signing key"]);
    assert!(!again.stderr.contains("pushed hello/"), "{}", again.shown());
    // With a new key all of it is shared again, and hosts that know of the revocation use it.
    fs::remove_file(builder.private_key()).unwrap();
    builder.generate("new");
    builder.host.kcache(&["push", "hello", "-k", k()]).exits(0);
    let client = Host::image_only().trusting(&builder).with_caches(&[&url(&cache)]);
    client.kcache(&["install", "hello", "-k", k()]).exits(0).says(&["fetched hello"]);
}

#[test]
fn a_fetched_build_is_not_signed_as_if_built_here() {
    let dir = tempfile::tempdir().unwrap();
    let cache = BUILDER.copy_of_cache(dir.path());
    let to = format!("file://{}", cache.display());
    let second = Builder::new("second", &[PACKAGE]);
    let host = &second.host;
    host.kcache(&["keys", "trust", BUILDER.public_key().to_str().unwrap()]).exits(0);
    host.kcache(&["--cache", &to, "pull", PACKAGE, "-k", k()]).exits(0).prints(&["fetched"]);
    host.kcache(&["push", "--to", &to, PACKAGE, "-k", k()]).exits(0).prints(&["present"]);
    host.kcache(&["build", "--rebuild", PACKAGE, "-k", k()]).exits(0);
    host.kcache(&["push", "--to", &to, PACKAGE, "-k", k()]).exits(0).prints(&["signed"]);
}

#[test]
fn openssl_reads_the_keys_and_checks_the_signatures() {
    let dir = tempfile::tempdir().unwrap();
    let cache = BUILDER.cache();
    let entry = file(&cache.join("entries"), &entry_of(PACKAGE));
    let envelope: serde_json::Value = serde_json::from_slice(&fs::read(entry).unwrap()).unwrap();
    let (_, signed) = payload(&envelope);
    fs::write(dir.path().join("signed"), signed).unwrap();
    fs::write(dir.path().join("sig"), decode(envelope["signatures"][0]["sig"].as_str().unwrap())).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.current_dir(dir.path()).args(["pkeyutl", "-verify", "-pubin", "-rawin", "-in", "signed"]);
    run(openssl.args(["-sigfile", "sig", "-inkey"]).arg(BUILDER.public_key()));
    let der = run(Command::new("openssl")
        .args(["pkey", "-pubin", "-outform", "DER", "-in"])
        .arg(BUILDER.public_key()));
    fs::write(dir.path().join("der"), der.stdout).unwrap();
    let sum = run(Command::new("sha256sum").arg(dir.path().join("der"))).stdout;
    let keyid = envelope["signatures"][0]["keyid"].as_str().unwrap();
    assert!(String::from_utf8(sum).unwrap().starts_with(keyid));
    run(Command::new("openssl").args(["pkey", "-noout", "-in"]).arg(BUILDER.private_key()));
    // And the other way round: a key that openssl made.
    let key = dir.path().join("key.pem");
    run(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&key));
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    kcache::store::SigningKey::read(&key).unwrap();
}

/// The file name of the builder's entry of a package.
pub fn entry_of(package: &str) -> String {
    let pointer = pointer(&BUILDER.cache(), package);
    let kernel = pointer.parent().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    let name = kcache::store::Pointer::name(k(), kernel, package).unwrap();
    let parsed = kcache::store::Pointer::parse(&pointer, &name, &fs::read(&pointer).unwrap()).unwrap();
    format!("{}.json", parsed.key())
}

#[test]
fn mistakes_in_the_configuration_of_caches_are_usage_errors() {
    let host = Host::image_only();
    let check = |config: &str, words: &[&str]| {
        host.write_config(config);
        host.kcache(&["install", "-k", k()]).exits(2).says(words).one_error();
    };
    check("[[cache]]\nurl = 'ftp://host/x'\n", &["ftp://host/x", "s3"]);
    check(
        "[[cache]]\nurl = 'https://user:secret@host/x'\n",
        &["https://host/x", "use the setting `credentials`"],
    );
    check("[[cache]]\nurls = 'x'\n", &["config.toml", "urls"]);
    check("[cache]\nurl = 'x'\n", &["config.toml"]);
    check("[[cache]]\nurl = 'https://h'\nca = '/no/such.pem'\n", &["/no/such.pem", "No such file"]);
    check("threshold = 0\n", &["threshold", "above 0"]);
    check("signing-key = '/no/such'\n", &["/no/such"]);
    host.write_config("");
    host.kcache(&["-n", "keys", "generate"]).exits(2).says(&["no dry run"]).one_error();
    assert!(!host.root().join("etc/kcache/trusted-keys").exists());
    let shown = host.kcache(&["--cache", "https://user:secret@host/x", "install", "-k", k()]).exits(2);
    assert!(!shown.stderr.contains("secret"), "{}", shown.shown());
}
