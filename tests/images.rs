//! Trees under `--root` that somebody else has made, and processes that somebody else has set up: neither decides what is
//! written on this machine, to whom the caller's secrets go, or who may write what kcache makes.

use crate::builder::{Builder, url};
use crate::host::{FIXTURES, Host, Run, run};
use crate::packages;
use fs_err as fs;
use kcache::store::Role;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

fn k() -> &'static str {
    &FIXTURES.new
}

/// kcache on a tree, as its caller types it who knows nothing of it: with the store in it, and these secrets.
fn on_image(host: &Host, arguments: &[&str]) -> Run {
    let mut command = Command::new(host.dir().join("kcache"));
    command.arg("--root").arg(host.root()).args(arguments).env_clear().env("PATH", crate::host::PATH);
    for name in ["GITHUB_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        command.env(name, "the caller's secret");
    }
    command
        .env("HOME", host.dir().join("home"))
        .env("TMPDIR", host.dir().join("tmp"))
        .current_dir(host.dir());
    command.env("XDG_CACHE_HOME", host.dir().join("home"));
    Run::from(command.output().unwrap())
}

#[test]
fn caches_set_by_an_image_reach_nothing_on_this_machine() {
    let host = Host::new(&[k()]);
    packages::hello(&host, "text");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let here = listener.local_addr().unwrap();
    let config = format!(
        "packages = ['hello']\n[[cache]]\nurl = 'http://{here}/c'\ncredentials-env = 'GITHUB'\n\
         [[cache]]\nurl = 'http://localhost:{}/c'\n[[cache]]\nurl = 's3://b/x'\noptions = {{ aws_endpoint = 'http://{here}' }}\n",
        here.port()
    );
    host.write_config(&config);
    let trusted = host.root().join("etc/kcache/trusted-keys");
    fs::create_dir_all(&trusted).unwrap();
    let made = Builder::new("someone", &[]);
    run(Command::new("cp").arg(made.public_key()).arg(&trusted));
    for words in [&["status"][..], &["check"], &["install", "hello", "-k", k()]] {
        let run = on_image(&host, words);
        run.says(&["ignored settings: cache s3://, cache.credentials-env; a tree under --root"]);
    }
    assert!(listener.accept().is_err(), "the image had this machine speak to itself");
}

#[test]
fn directories_set_by_an_image_are_written_inside_it_or_not_at_all() {
    let host = Host::new(&[k()]);
    packages::hello(&host, "text");
    let elsewhere = host.dir().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let there = elsewhere.display();
    host.write_config(&format!("store = '{there}/store'\n[[cache]]\nurl = 'file://{there}'\nwrite = true\n"));
    host.kcache(&["keys", "generate", "--name", "image"]).exits(0);
    on_image(&host, &["install", "hello", "-k", k()])
        .exits(0)
        .says(&["ignored settings: cache file://, store;"]);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    if crate::host::is_root() {
        assert!(host.root().join("var/cache/kcache/entries").is_dir());
    }
}

#[test]
fn links_in_an_images_store_are_refused() {
    if !crate::host::is_root() {
        return; // a user's store is in their home
    }
    let host = Host::new(&[k()]);
    packages::hello(&host, "text");
    let store = host.root().join("var/cache/kcache");
    for name in ["entries", "objects", "tmp", "lock", "index.sqlite", "format"] {
        let elsewhere = host.dir().join(format!("elsewhere-{name}"));
        fs::create_dir_all(&store).unwrap();
        fs::create_dir_all(elsewhere.join("kcache-scratch-old")).unwrap();
        symlink(elsewhere.join("there"), store.join(name)).unwrap();
        for words in [&["install", "hello", "-k", k()][..], &["gc"], &["verify"], &["status"]] {
            let run = on_image(&host, words);
            assert!(run.code == Some(6) && run.stderr.contains(name), "{name}: {}", run.shown());
        }
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1, "{name}");
        fs::remove_dir_all(&store).unwrap();
    }
}

#[test]
fn links_in_an_image_have_nothing_written_where_they_lead() {
    let host = Host::new(&[k()]);
    packages::hello(&host, "text");
    host.kcache(&["install", "hello", "-k", k()]).exits(0);
    let (marks, debug) = (host.root().join("run/kcache/ready"), host.root().join("usr/lib/debug"));
    let elsewhere = host.dir().join("elsewhere");
    for directory in [&marks, &debug, &elsewhere] {
        fs::create_dir_all(directory).unwrap();
    }
    let victim = elsewhere.join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, marks.join(k())).unwrap();
    symlink(&elsewhere, debug.join(".build-id")).unwrap();
    let mut check = host.image(&["check", "--mark", "-k", k()]);
    Run::from(check.output().unwrap()).exits(0);
    let mut debuginfo = host.image(&["debuginfo", "hello", "-k", k()]);
    debuginfo.output().unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
}

/// What lies under a directory and has any of these bits.
fn with_bits(directory: &Path, bits: &str) -> String {
    let mut find = Command::new("find");
    find.arg(directory).args(["!", "-type", "l", "-perm", bits, "-printf", "%m %P\\n"]);
    String::from_utf8(run(&mut find).stdout).unwrap()
}

#[test]
fn the_umask_of_whoever_calls_counts_for_nothing() {
    for umask in ["000", "077"] {
        let host = Host::new(&[k()]);
        packages::hello(&host, "text");
        let shell = format!("umask {umask}; exec \"$@\"");
        let under = |words: &[&str]| host.kcache_under(&["sh", "-c", &shell, "sh"], words);
        under(&["keys", "generate", "--name", "own"]).exits(0);
        under(&["install", "hello", "-k", k()]).exits(0);
        under(&["check", "--mark", "-k", k()]);
        let made = [host.store(), host.root().join("etc/kcache"), host.kernel(k()).join("updates")];
        for directory in made.iter().chain([&host.root().join("run")]).filter(|directory| directory.exists())
        {
            assert_eq!(with_bits(directory, "/022"), "", "{umask}");
        }
        for part in ["entries", "objects"] {
            let all = with_bits(&host.store().join(part), "-444").lines().count();
            assert_eq!(all, with_bits(&host.store().join(part), "/700").lines().count(), "{umask}");
        }
        let generation = host.kernel(k()).join("updates");
        assert_eq!(with_bits(&generation, "-444"), with_bits(&generation, "/700"), "{umask}");
    }
}

#[test]
fn a_store_that_others_can_write_is_not_installed_from() {
    let host = Host::new(&[k()]);
    packages::hello(&host, "text");
    host.kcache(&["build", "hello", "-k", k()]).exits(0);
    for name in ["", "entries", "objects"] {
        let path = if name.is_empty() { host.store() } else { host.store().join(name) };
        fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        let run = host.kcache(&["install", "hello", "-k", k()]).exits(6).one_error();
        run.says(&[path.to_str().unwrap(), "writable by others", "mode 0777", "hint: "]);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    host.kcache(&["install", "hello", "-k", k()]).exits(0);
}

#[test]
fn keys_and_settings_that_others_can_write_are_not_used() {
    let host = Host::new(&[k()]);
    host.write_config("jobs = 1\n");
    let config = host.root().join("etc/kcache/config.toml");
    fs::set_permissions(&config, PermissionsExt::from_mode(0o666)).unwrap();
    host.kcache(&["status"]).exits(6).one_error().says(&["config.toml is writable by others", "mode 0666"]);
    fs::set_permissions(&config, PermissionsExt::from_mode(0o644)).unwrap();
    host.kcache(&["keys", "generate", "--name", "own"]).exits(0);
    let keys = host.root().join("etc/kcache/trusted-keys");
    fs::set_permissions(&keys, PermissionsExt::from_mode(0o777)).unwrap();
    host.kcache(&["status"]).exits(6).one_error().says(&["trusted-keys", "writable by others"]);
}

#[test]
fn a_module_that_the_recipe_does_not_promise_is_not_installed_whoever_signed_it() {
    let builder = Builder::new("evil", &[]);
    packages::hello(&builder.host, "text");
    fs::create_dir(builder.cache()).unwrap();
    builder.host.kcache(&["build", "hello", "-k", k()]).exits(0);
    builder.forge(|manifest| {
        let mut other = manifest.outputs.iter().find(|output| output.role == Role::Module).unwrap().clone();
        other.name = "ext4.ko".to_owned();
        manifest.outputs.push(other);
    });
    builder.host.kcache(&["push", "--to", &builder.cache_url(), "--all"]).exits(0);
    // One that could build it, and one that has neither headers nor source.
    let client = Host::new(&[k()]).trusting(&builder);
    packages::hello(&client, "text");
    client.write_config(&format!("[[cache]]\n{}\n", url(&builder.cache_url())));
    let built = client.kcache(&["--json", "install", "hello", "-k", k()]).exits(0);
    assert_eq!(built.outcome().how.as_deref(), Some("built"), "{}", built.shown());
    built.says(&["refus", "ext4.ko is not named by its recipe"]);
    let bare = Host::image_only().trusting(&builder);
    bare.write_config(&format!("packages = ['hello']\n[[cache]]\n{}\n", url(&builder.cache_url())));
    bare.kcache(&["install", "-k", k()]).exits(6).says(&["ext4.ko is not named by its recipe"]);
    assert!(client.modules(k()).keys().chain(bare.modules(k()).keys()).all(|name| !name.contains("ext4")));
}

#[test]
fn a_module_of_the_kernels_own_name_must_be_named_by_its_recipe() {
    let host = Host::new(&[k()]);
    // `loop` is a module of Debian's kernel; whatever is built is taken where a recipe names none.
    let files = |name: &str, lines: &str| {
        let kcache = format!("name = '{name}'\nversion = '1.0'\n{lines}");
        let makefile = "obj-m := loop.o\n".to_owned();
        [("kcache.toml", kcache), ("Makefile", makefile), ("loop.c", packages::module_c("text"))]
    };
    let found = host.write_package("found-1.0", &files("found", ""));
    let run = host.kcache(&["install", found.to_str().unwrap(), "-k", k()]).exits(6);
    run.says(&["loop.ko would replace the in-tree module kernel/drivers/block/loop.ko"]);
    assert!(host.modules(k()).is_empty());
    let named = host.write_package("named-1.0", &files("named", "[[module]]\nname = 'loop'\n"));
    host.kcache(&["install", named.to_str().unwrap(), "-k", k()]).exits(0);
    assert!(host.modules(k()).contains_key("named/loop.ko"));
}
