//! `kcache use`: one command, and a host fetches from a cache what a builder signed.

use crate::builder::{BUILDER, Builder, MODULE, PACKAGE};
use crate::host::{FIXTURES, Host, PATH, Run};
use crate::packages::hello;
use crate::servers::{Nginx, PASSWORD, USER};
use fs_err as fs;
use std::path::PathBuf;
use std::process::Command;

fn k() -> &'static str {
    &FIXTURES.new
}

fn id(builder: &Builder) -> String {
    let list = builder.host.kcache(&["keys", "list", "--json"]).exits(0).json();
    list[0]["id"].as_str().unwrap().to_owned()
}

fn etc(host: &Host, path: &str) -> PathBuf {
    host.root().join("etc/kcache").join(path)
}

fn names(dir: PathBuf) -> Vec<String> {
    let Ok(files) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Installs [`PACKAGE`] with the settings that were written: what a tree under `--root` says of caches on this machine counts only
/// if its file is named.
fn install(host: &Host, file: &str) -> Run {
    let config = etc(host, "config.d").join(file);
    let mut text = fs::read_to_string(&config).unwrap();
    text.insert_str(0, &format!("packages = [{PACKAGE:?}]\n"));
    fs::write(&config, text).unwrap();
    host.kcache(&["--config", config.to_str().unwrap(), "install", "-k", k()])
}

#[test]
fn one_command_and_a_host_installs_what_a_builder_pushed() {
    let nginx = Nginx::read_only();
    BUILDER.copy_of_cache(&nginx.files());
    let url = format!("{}/cache", nginx.url());
    let host = Host::image_only();
    let id = id(&BUILDER);
    let short = format!("127.0.0.1-{}", &id[..12]);
    let run = host.kcache(&["use", &url, "--key", &id[..16]]).exits(0);
    run.says(&[&format!("{short} is trusted: {id}")])
        .prints(&["/etc/kcache/config.d/50-127.0.0.1.toml  written"]);
    assert_eq!(names(etc(&host, "trusted-keys")), [format!("{short}.pem")]);
    install(&host, "50-127.0.0.1.toml").exits(0).says(&["fetched v4l2loopback"]);
    assert!(host.modules(k()).contains_key(MODULE));
}

/// A builder that has published a site file for its package, and its key's id.
fn with_site(nginx: &Nginx) -> (Builder, String) {
    let builder = Builder::new("site", &[]);
    hello(&builder.host, "");
    fs::write(etc(&builder.host, "site.toml"), "packages = ['hello']\n").unwrap();
    builder.host.kcache(&["build", "hello", "-k", k()]).exits(0);
    let to = format!("file://{}", nginx.files().display());
    builder.host.kcache(&["push", "--to", &to, "hello", "-k", k()]).exits(0);
    let id = id(&builder);
    (builder, id)
}

#[test]
fn the_site_file_of_a_cache_is_offered_and_followed_only_if_that_is_wished() {
    let nginx = Nginx::read_only();
    let (_builder, id) = with_site(&nginx);
    let url = nginx.url();
    let host = Host::image_only();
    let run = host.kcache(&["use", &url, "--key", &id]).exits(0);
    run.says(&[
        "the cache has a site file, for hosts that want hello",
        "hint: to want them here, use --site",
    ]);
    assert_eq!(names(etc(&host, "config.d")), ["50-127.0.0.1.toml"]);
    host.kcache(&["use", &url, "--key", &id, "--site", "-n"]).exits(0).prints(&["40-site.toml  would write"]);
    assert_eq!(names(etc(&host, "config.d")), ["50-127.0.0.1.toml"]);
    let run = host.kcache(&["use", &url, "--key", &id, "--site"]).exits(0);
    run.prints(&["/etc/kcache/config.d/40-site.toml  written"]);
    let json = host.kcache(&["--json", "use", &url]).exits(0);
    let last: serde_json::Value = serde_json::from_str(json.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&last["type"], &last["action"]), (&"site".into(), &"keep".into()));
    // All that is written, as settings of the host's own.
    let text = names(etc(&host, "config.d"))
        .iter()
        .map(|name| fs::read_to_string(etc(&host, "config.d").join(name)).unwrap())
        .collect::<String>();
    fs::write(etc(&host, "config.toml"), text).unwrap();
    host.kcache(&["install", "-k", k()]).exits(0).says(&["fetched hello"]);

    // Nobody has published one, or another builder has.
    let (other, site) = (Host::image_only(), "40-site.toml".to_owned());
    let run = other.kcache(&["use", &BUILDER.cache_url(), "--key", &self::id(&BUILDER)]).exits(0);
    assert!(!run.stderr.contains("site file"), "{}", run.shown());
    let run = other.kcache(&["use", &BUILDER.cache_url(), "--site"]).exits(0);
    run.says(&["no site file that this key signed"]).prints(&["40-site.toml  written"]);
    assert!(names(etc(&other, "config.d")).contains(&site));
    let stranger = BUILDER.public_key();
    let run = Host::image_only().kcache(&["use", &url, "--key", stranger.to_str().unwrap()]).exits(0);
    assert!(!run.stderr.contains("hosts that want"), "{}", run.shown());
}

#[test]
fn a_cache_that_is_configured_is_asked_as_its_settings_say() {
    let nginx = Nginx::secure();
    BUILDER.copy_of_cache(&nginx.files());
    let host = Host::image_only();
    let url = format!("{}/cache", nginx.url());
    host.write_config(&format!(
        "[[cache]]\nurl = {url:?}\nca = '/etc/kcache/ca.pem'\ncredentials = '/etc/kcache/password'\n"
    ));
    fs::write(etc(&host, "ca.pem"), nginx.ca()).unwrap();
    let password = format!("username = {USER:?}\npassword = {PASSWORD:?}\n");
    fs::write(etc(&host, "password"), password).unwrap();
    fs::set_permissions(etc(&host, "password"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    host.kcache(&["use", &url, "--key", &id(&BUILDER)]).exits(0).says(&["is trusted", "already configured"]);
}

#[test]
fn nothing_is_written_unless_the_key_is_named_or_confirmed_and_the_cache_answers() {
    let host = Host::image_only();
    let (url, id) = (BUILDER.cache_url(), id(&BUILDER));
    let stranger = Builder::new("stranger", &[]);
    let before = host.tree();
    let refuses = |words: &[&str], code: i32, says: &[&str]| {
        let run = host.kcache(&[&["use"], words].concat()).exits(code).one_error().says(says);
        assert_eq!(host.tree(), before, "{}", run.shown());
    };
    refuses(&[&url], 2, &["which key is to be trusted", &id, "use --key ID"]);
    refuses(&[&url, "--key", &id[..15]], 2, &["at least 16 digits"]);
    refuses(&[&url, "--key", &"0".repeat(64)], 6, &["no key 0000", &id]);
    refuses(
        &["file:///nowhere/cache", "--key", &id],
        1,
        &["cannot be reached: /nowhere/cache does not exist"],
    );
    refuses(&["http://127.0.0.1:9/", "--key", &id], 1, &["cannot be reached"]);
    refuses(&["ftp://cache.example.org/", "--key", &id], 2, &["unknown scheme"]);
    refuses(&["https://user:secret@cache.example.org/", "--key", &id], 2, &["must not contain"]);
    refuses(&[&url, "--key", &id, "--offline"], 2, &["--offline"]);
    refuses(&[&url, "--key", &id, "--ca", "ca.pem"], 2, &["absolute"]);
    host.kcache(&["use", &url, "--key", &id, "--dry-run"])
        .exits(0)
        .prints(&["would write"])
        .says(&["would be trusted"]);
    assert_eq!(host.tree(), before);
    // A cache into which nobody has pushed, and a key from elsewhere.
    let empty = host.dir().join("empty");
    fs::create_dir(&empty).unwrap();
    let empty = format!("file://{}", empty.display());
    refuses(&[&empty, "--key", &id], 6, &["the cache offers none"]);
    refuses(&[&empty], 6, &["offers no builder's key"]);
    let file = stranger.public_key();
    let run = host.kcache(&["use", &empty, "--key", file.to_str().unwrap()]).exits(0);
    run.says(&["its builder has pushed nothing yet", "is trusted"]);
}

#[test]
fn at_a_terminal_the_key_is_shown_and_taken_only_after_a_yes() {
    for (typed, code) in [("n", 6), ("yes", 0)] {
        let host = Host::image_only();
        let before = host.tree();
        let words = ["use", &BUILDER.cache_url()];
        let command = host.command(&words);
        let line: Vec<&str> = [command.get_program()]
            .into_iter()
            .chain(command.get_args())
            .map(|w| w.to_str().unwrap())
            .collect();
        let log = host.dir().join("typescript");
        let script = format!("echo {typed} | script -qefc '{}' {}", line.join(" "), log.display());
        let run = Run::from(Command::new("sh").args(["-c", &script]).env("PATH", PATH).output().unwrap());
        let shown = fs::read_to_string(log).unwrap();
        assert!(run.code == Some(code) && shown.contains(&id(&BUILDER)), "{typed}: {}\n{shown}", run.shown());
        assert_eq!(host.tree() == before, code == 6, "{shown}");
    }
    // The site file is a question of its own.
    let nginx = Nginx::read_only();
    let (_builder, id) = with_site(&nginx);
    for (typed, wants) in [("n", false), ("y", true)] {
        let host = Host::image_only();
        let command = host.command(&["use", &nginx.url(), "--key", &id]);
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let line = words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
        let script =
            format!("echo {typed} | script -qefc '{line}' {}", host.dir().join("typescript").display());
        let run = Run::from(Command::new("sh").args(["-c", &script]).env("PATH", PATH).output().unwrap());
        assert!(run.code == Some(0), "{}", run.shown());
        assert_eq!(names(etc(&host, "config.d")).contains(&"40-site.toml".to_owned()), wants);
    }
}

#[test]
fn a_second_time_changes_nothing_and_no_file_of_another_cache_is_replaced() {
    let nginx = [Nginx::read_only(), Nginx::read_only()];
    let url = |n: usize| format!("{}/cache", nginx[n].url());
    nginx.iter().for_each(|nginx| drop(BUILDER.copy_of_cache(&nginx.files())));
    let (host, id) = (Host::image_only(), id(&BUILDER));
    host.kcache(&["use", &url(0), "--key", &id]).exits(0);
    let first = host.tree();
    let again = host.kcache(&["use", &url(0)]).exits(0).says(&["already trusted", "already configured"]);
    assert_eq!((host.tree(), again.stdout.as_str()), (first, ""));
    let records = host.kcache(&["--json", "use", &url(1)]).exits(0);
    let lines: Vec<serde_json::Value> =
        records.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&lines[0]["type"], &lines[0]["changed"], &lines[0]["id"]),
        (&"key".into(), &false.into(), &id.as_str().into())
    );
    assert_eq!((&lines[1]["type"], &lines[1]["action"]), (&"use".into(), &"write".into()));
    assert_eq!(names(etc(&host, "config.d")), ["50-127.0.0.1.toml", "51-127.0.0.1.toml"]);
    // Revoked is revoked.
    let key = names(etc(&host, "trusted-keys")).remove(0);
    host.kcache(&["keys", "revoke", key.trim_end_matches(".pem")]).exits(0);
    host.kcache(&["use", &url(0), "--key", &id]).exits(6).says(&["is revoked"]);
}

#[test]
fn a_cache_offers_the_keys_of_all_its_builders_and_a_served_store_its_own() {
    let one = Builder::new("one", &[]);
    let two = Builder::new("two", &[]);
    let cache = one.cache();
    fs::create_dir(&cache).unwrap();
    for builder in [&one, &two, &one] {
        hello(&builder.host, "");
        builder.host.kcache(&["build", "hello", "-k", k()]).exits(0);
        builder.host.kcache(&["push", "--to", &one.cache_url(), "hello", "-k", k()]).exits(0);
    }
    let offered = fs::read_to_string(cache.join("keys/builders.pem")).unwrap();
    let pem = |builder: &Builder| fs::read_to_string(builder.public_key()).unwrap();
    assert_eq!(offered, format!("{}{}", pem(&one), pem(&two)));
    assert_eq!(fs::read_to_string(two.host.store().join("keys/builders.pem")).unwrap(), pem(&two));
}
