//! Keys and shared caches, exports, signatures from a service, debug information.

use fs_err as fs;
use std::process::Command;

use super::{Stage, k};
use crate::builder::url;
use crate::host::{Host, PATH, run};
use crate::packages::hello;

/// A host with one package, a key of its own, and an empty cache in `cache`.
struct Builder {
    host: Host,
    to: String,
}

impl Builder {
    fn new() -> Builder {
        let host = Host::new(&[k()]);
        hello(&host, "");
        let cache = host.dir().join("cache");
        fs::create_dir(&cache).unwrap();
        let to = format!("file://{}", cache.display());
        Builder { host, to }
    }
}

#[test]
fn push_and_export() {
    let Builder { host, to } = &Builder::new();
    let stage = Stage::on(host);
    let push = ["push", "--to", to, "hello", "-k", k()];
    stage.shows("push/no-cache", &["push"]);
    stage.shows("push/nothing-built", &push);
    stage.shows("export/nothing-built", &["export", "set.tar", "hello"]);
    host.kcache(&["build", "hello"]).exits(0);
    stage.shows("push/unsigned", &push);
    stage.shows("export/unsigned", &["export", "set.tar", "hello"]);
    stage.shows("keys/none", &["keys", "list"]);
    let without_key = |host: &Host| {
        let _ = fs::remove_dir_all(host.root().join("etc/kcache"));
    };
    stage.before(&without_key).shows("keys/generated", &["keys", "generate", "--name", "builder"]);
    stage.shows("keys/already-generated", &["keys", "generate", "--name", "builder"]);
    stage.shows("keys/list", &["keys", "list"]);
    stage.shows("push/dry-run", &[&["--dry-run"][..], &push].concat());
    let empty_cache = |host: &Host| {
        fs::remove_dir_all(host.dir().join("cache")).unwrap();
        fs::create_dir(host.dir().join("cache")).unwrap();
    };
    stage.before(&empty_cache).shows("push/pushed", &push);
    stage.shows("push/present", &push);
    stage.shows("export/exported", &["export", "set.tar", "hello"]);
    stage.shows("export/dry-run", &["export", "set.tar", "hello", "--dry-run"]);
    let without_file = |host: &Host| fs::remove_dir_all(host.dir().join("cache")).unwrap_or_default();
    stage.before(&without_file).shows("push/cache-is-gone", &push);
    host.write_config(&format!("[[cache]]\n{}\nwrite = true\n", url(to)));
    let nothing_built = |host: &Host| fs::remove_dir_all(host.store()).unwrap_or_default();
    stage.before(&nothing_built).shows("build/cache-is-gone", &["build", "hello"]);
}

#[test]
fn install_from_a_cache_and_import() {
    let Builder { host: builder, to } = &Builder::new();
    builder.kcache(&["keys", "generate", "--name", "builder"]).exits(0);
    builder.kcache(&["build", "hello"]).exits(0);
    builder.kcache(&["push", "--to", to, "hello", "-k", k()]).exits(0);
    let set = builder.dir().join("set.tar");
    builder.kcache(&["export", set.to_str().unwrap(), "hello"]).exits(0);

    let host = Host::without_headers(k());
    // Below this host's directory, so that its path is redacted.
    run(Command::new("cp").arg("-r").arg(builder.dir().join("cache")).arg(&set).arg(host.dir()));
    run(Command::new("cp").arg(builder.root().join("etc/kcache/trusted-keys/builder.pem")).arg(host.dir()));
    let cache = format!("file://{}", host.dir().join("cache").display());
    host.write_config(&format!("packages = ['hello']\n[[cache]]\n{}\n", url(&cache)));
    let stage = Stage::on(&host);
    stage.shows("install/no-trusted-key", &["install"]);
    stage.shows("import/no-trusted-key", &["import", "set.tar"]);
    let untrusted =
        |host: &Host| fs::remove_dir_all(host.root().join("etc/kcache/trusted-keys")).unwrap_or_default();
    stage.before(&untrusted).shows("keys/trusted", &["keys", "trust", "builder.pem"]);
    stage.shows("keys/already-trusted", &["keys", "trust", "builder.pem"]);
    stage.shows("install/dry-run-with-a-cache", &["install", "--dry-run"]);
    let empty = |host: &Host| {
        host.kcache(&["remove", "--all"]).exits(0);
        let _ = fs::remove_dir_all(host.store());
    };
    stage.before(&empty).shows("pull/fetched", &["pull"]);
    stage.before(&empty).shows("install/fetched", &["install"]);
    stage.shows("pull/present", &["pull"]);
    stage.shows("pull/offline", &["pull", "--offline"]);
    stage.before(&empty).shows("import/imported", &["import", "set.tar"]);
    stage.shows("import/present", &["import", "set.tar"]);
    stage.shows("import/no-export", &["import", "builder.pem"]);
    stage.shows("keys/unknown", &["keys", "revoke", "nobody"]);
    let trusted = |host: &Host| {
        let _ = fs::remove_dir_all(host.root().join("etc/kcache/revoked-keys"));
        host.kcache(&["keys", "trust", "builder.pem"]).exits(0);
    };
    stage.before(&trusted).shows("keys/revoked", &["keys", "revoke", "builder"]);
    stage.shows("keys/already-revoked", &["keys", "revoke", "builder"]);
    stage.shows("keys/list-revoked", &["keys", "list"]);
    stage.shows("keys/trust-a-revoked-one", &["keys", "trust", "builder.pem"]);
}

#[test]
fn use_a_cache_and_see_what_is_newer_there() {
    let Builder { host: builder, to } = &Builder::new();
    builder.kcache(&["keys", "generate", "--name", "builder"]).exits(0);
    let push = |text: &str| {
        hello(builder, text);
        builder.kcache(&["build", "hello"]).exits(0);
        builder.kcache(&["push", "--to", to, "hello", "-k", k()]).exits(0);
    };
    push("broken");
    let keys = builder.kcache(&["keys", "list", "--json"]).exits(0).json();
    let id = keys[0]["id"].as_str().unwrap();
    let host = Host::without_headers(k());
    let cache = host.dir().join("cache");
    let copy = || run(Command::new("cp").arg("-rT").arg(builder.dir().join("cache")).arg(&cache));
    copy();
    let url = format!("file://{}", cache.display());
    let stage = Stage::on(&host);
    let unused = |host: &Host| {
        let _ = fs::remove_dir_all(host.root().join("etc/kcache"));
    };
    let stage = stage.before(&unused);
    stage.shows("use/which-key", &["use", &url]);
    stage.shows("use/no-such-key", &["use", &url, "--key", "0123456789abcdef"]);
    stage.shows("use/cache-is-gone", &["use", "/host/cache", "--key", id]);
    stage.shows("use/dry-run", &["use", &url, "--key", id, "--dry-run"]);
    stage.shows("use/written", &["use", &url, "--key", &id[..16]]);
    let stage = stage.before(&|_| ());
    stage.shows("use/in-use", &["use", &url]);

    host.write_config(&format!("packages = ['hello']\n[[cache]]\nurl = {url:?}\n"));
    host.kcache(&["install"]).exits(0);
    push("fixed");
    copy();
    stage.shows("check/outdated", &["check", "--remote"]);
    stage.shows("status/outdated", &["status", "--remote"]);
    let before = |host: &Host| {
        host.kcache(&["remove", "--all"]).exits(0);
        let _ = fs::remove_dir_all(host.store());
    };
    stage.before(&before).without_json().shows("hooks/retry", &["hooks", "run", "retry"]);
}

#[test]
fn debuginfo() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    let stage = Stage::on(&host);
    stage.shows("debuginfo/nothing-installed", &["debuginfo"]);
    host.kcache(&["install"]).exits(0);
    stage.shows("debuginfo/dry-run", &["debuginfo", "--dry-run"]);
    let none = |host: &Host| fs::remove_dir_all(host.root().join("usr/lib/debug")).unwrap_or_default();
    stage.before(&none).shows("debuginfo/written", &["debuginfo"]);
    stage.shows("debuginfo/present", &["debuginfo", "hello"]);
    let lost = |host: &Host| fs::remove_dir_all(host.store().join("objects")).unwrap_or_default();
    stage.before(&lost).shows("debuginfo/lost", &["debuginfo", "-n"]);
}

#[test]
fn signatures() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    let stage = Stage::on(&host);
    stage.shows("signatures/no-certificate", &["signatures", "export", "desk"]);
    let no_mok = |host: &Host| fs::remove_dir_all(host.root().join("etc/kcache/mok")).unwrap_or_default();
    stage.before(&no_mok).shows("keys/mok", &["keys", "mok", "--name", "lab"]);
    stage.shows("keys/mok-exists", &["keys", "mok", "--name", "lab"]);
    host.write_config("[signing]\ncertificate = '/etc/kcache/mok/certificate.der'\n");
    stage.shows("signatures/nothing-built", &["signatures", "export", "desk"]);
    host.kcache(&["build", "hello"]).exits(0);
    stage.shows("install/no-signature", &["install", "hello"]);
    let empty_desk = |host: &Host| fs::remove_dir_all(host.dir().join("desk")).unwrap_or_default();
    stage.before(&empty_desk).shows("signatures/dry-run", &["signatures", "export", "desk", "--dry-run"]);
    stage.before(&empty_desk).shows("signatures/exported", &["signatures", "export", "desk"]);
    let mok = host.root().join("etc/kcache/mok");
    let sign = "openssl x509 -inform DER -in $0/certificate.der -out cert.pem; for m in desk/*.ko; do
        openssl cms -sign -binary -noattr -nocerts -in $m -signer cert.pem -inkey $0/key.pem -md sha256 -outform DER -out ${m%.ko}.p7s
        done";
    run(Command::new("sh").args(["-ec", sign]).arg(mok).current_dir(host.dir()).env("PATH", PATH));
    let none = |host: &Host| fs::remove_dir_all(host.store().join("signatures")).unwrap_or_default();
    stage.before(&none).shows("signatures/imported", &["signatures", "import", "desk"]);
    stage.shows("signatures/every-module-has-one", &["signatures", "export", "desk"]);
    let removed = |host: &Host| {
        host.kcache(&["remove", "--all"]).exits(0);
    };
    stage.before(&removed).shows("install/signed", &["install", "hello"]);
    fs::write(host.dir().join("hello.p7s"), "").unwrap();
    stage.shows("signatures/wrong-name", &["signatures", "import", "hello.p7s"]);
}
