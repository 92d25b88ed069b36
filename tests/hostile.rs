//! Broken and hostile shared caches. Promise 5: a cache can make a host slower, never wrong.
//!
//! Each case is a web server that serves a builder's cache, but for one thing. Alone, nothing of it may be installed;
//! before a good cache, the good one is used; and where a host can build, it builds.

use crate::builder::{
    BUILDER, Builder, MODULE, PACKAGE, covered, encode, file, openssl_sign, payload, pointer, url,
};
use crate::host::{FIXTURES, Host, Run, run};
use crate::packages;
use crate::sharing::entry_of;
use crate::tools::update_kbuild;
use fs_err as fs;
use kcache::store::{Digest, Pointer, Role, SigningKey};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How a server answers for one path.
#[derive(Clone)]
enum Act {
    /// As it should.
    File,
    /// These bytes instead of the file's.
    Bytes(Vec<u8>),
    /// A status, with a page.
    Status(u16),
    /// Elsewhere, and from there back.
    RedirectLoop,
    /// One byte a second.
    Trickle,
    /// Headers, and then nothing.
    HangAfterHeaders,
    /// Nothing.
    Hang,
    /// Bytes without end.
    Endless,
    /// Half of what was announced, then the end.
    HalfOf,
    /// Half of what was announced, then a reset.
    Reset,
}

/// A web server on a free port of this machine. It ends with the test.
struct Server {
    port: u16,
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn new(directory: &Path, act: impl Fn(&str) -> Act + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (directory, act) = (directory.to_owned(), Arc::new(act));
        let (stopped, counted) = (stop.clone(), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (directory, act, stopped) = (directory.clone(), act.clone(), stopped.clone());
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || drop(answer(stream, &directory, &*act, &stopped)));
            }
        });
        Server { port, stop, requests }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn answer(
    mut stream: TcpStream,
    directory: &Path,
    act: &(dyn Fn(&str) -> Act + Sync),
    stopped: &AtomicBool,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let path = first.split(' ').nth(1).unwrap_or("/").to_owned();
    let file = fs::read(directory.join(path.trim_start_matches('/'))).ok();
    let head = |status: &str, length: usize| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
    };
    let wait = || {
        for _ in 0..600 {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let bytes = match (act(&path), file) {
        (Act::Bytes(bytes), _) => bytes,
        (Act::File, Some(file)) => file,
        (Act::File, None) => return stream.write_all(head("404 Not Found", 0).as_bytes()),
        (Act::Status(status), _) => {
            let page = b"<html><body>Please log in</body></html>";
            stream.write_all(head(&format!("{status} Odd"), page.len()).as_bytes())?;
            return stream.write_all(page);
        }
        (Act::RedirectLoop, _) => {
            let head = format!(
                "HTTP/1.1 302 Found\r\nLocation: {path}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            return stream.write_all(head.as_bytes());
        }
        (Act::Hang, _) => {
            wait();
            return Ok(());
        }
        (Act::HangAfterHeaders, _) => {
            stream.write_all(head("200 OK", 1000).as_bytes())?;
            wait();
            return Ok(());
        }
        (Act::Trickle, _) => {
            stream.write_all(head("200 OK", 1000).as_bytes())?;
            while !stopped.load(Ordering::Relaxed) {
                stream.write_all(b"{")?;
                std::thread::sleep(Duration::from_secs(1));
            }
            return Ok(());
        }
        (Act::Endless, _) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            while !stopped.load(Ordering::Relaxed) {
                stream.write_all(&[b' '; 65536])?;
            }
            return Ok(());
        }
        (Act::HalfOf | Act::Reset, None) => Vec::new(),
        (act @ (Act::HalfOf | Act::Reset), Some(file)) => {
            stream.write_all(head("200 OK", file.len()).as_bytes())?;
            stream.write_all(&file[..file.len() / 2])?;
            if matches!(act, Act::Reset) {
                // Closing with unread input and no linger makes the kernel send a reset.
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            }
            return Ok(());
        }
    };
    stream.write_all(head("200 OK", bytes.len()).as_bytes())?;
    stream.write_all(&bytes)?;
    stream.shutdown(Shutdown::Write)?;
    stream.read(&mut [0; 1]).map(drop)
}

fn k() -> &'static str {
    &FIXTURES.new
}

fn client(tables: &[&str]) -> Host {
    Host::image_only().trusting(&BUILDER).with_caches(tables)
}

/// Alone the server gets nothing installed; with a good cache behind it the good one's module is.
#[track_caller]
fn check(act: impl Fn(&str) -> Act + Clone + Send + Sync + 'static, says: &[&str]) {
    let server = Server::new(&BUILDER.cache(), act.clone());
    let alone = client(&[&url(&server.url())]);
    alone.kcache(&["install", "-k", k()]).exits(5).says(says);
    assert!(alone.modules(k()).is_empty());
    assert_store_is_sound(&alone);
    let server = Server::new(&BUILDER.cache(), act);
    let both = client(&[&url(&server.url()), &url(&BUILDER.cache_url())]);
    both.kcache(&["install", "-k", k()]).exits(0);
    assert_is_the_builders(&both);
}

/// What is installed is, byte for byte, what the builder built.
#[track_caller]
fn assert_is_the_builders(host: &Host) {
    let modules = host.modules(k());
    let installed = Digest::of(&fs::read(&modules[MODULE]).unwrap()).to_string();
    file(&BUILDER.cache().join("objects"), &format!("{installed}.zst"));
}

/// Every object of a store is what its name says.
#[track_caller]
fn assert_store_is_sound(host: &Host) {
    let output = run(Command::new("find").arg(host.store().join("objects")).args(["-type", "f"]));
    for path in String::from_utf8(output.stdout).unwrap().lines() {
        let bytes = zstd(&["-d", "-c", path], b"");
        let name = Path::new(path).file_stem().unwrap().to_str().unwrap();
        assert_eq!(Digest::of(&bytes).to_string(), name);
    }
}

fn zstd(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("input");
    fs::write(&at, input).unwrap();
    run(Command::new("zstd").arg("-q").args(arguments).stdin(fs::File::open(&at).unwrap().into_file())).stdout
}

fn is_entry(path: &str) -> bool {
    path.starts_with("/entries/")
}

fn is_pointer(path: &str) -> bool {
    path.starts_with("/by-kernel/")
}

/// For everything.
fn always(act: Act) -> impl Fn(&str) -> Act + Clone + Send + Sync + 'static {
    move |_| act.clone()
}

/// For the files of one kind; the others are as they should be.
fn only(which: fn(&str) -> bool, act: Act) -> impl Fn(&str) -> Act + Clone + Send + Sync + 'static {
    move |path| if which(path) { act.clone() } else { Act::File }
}

fn is_object(path: &str) -> bool {
    path.starts_with("/objects/")
}

/// The digest of the module of the package that is fetched.
fn module_digest() -> String {
    let manifest: Value = serde_json::from_slice(&payload(&entry()).0).unwrap();
    let outputs = manifest["outputs"].as_array().unwrap();
    let module = outputs.iter().find(|output| output["role"] == "module").unwrap();
    module["digest"].as_str().unwrap().to_owned()
}

/// The builder's entry, as JSON.
fn entry() -> Value {
    read_json(&file(&BUILDER.cache().join("entries"), &entry_of(PACKAGE)))
}

/// Without its checksum, which whoever changes an entry leaves out.
fn read_json(path: &Path) -> Value {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    json.as_object_mut().unwrap().remove("checksum");
    json
}

/// Serves the builder's entry changed so.
#[track_caller]
fn check_entry(change: impl FnOnce(&mut Value), says: &[&str]) {
    let mut entry = entry();
    change(&mut entry);
    check(only(is_entry, Act::Bytes(entry.to_string().into_bytes())), says);
}

/// A manifest changed so, and rightly signed by the builder all the same, by openssl.
#[track_caller]
fn check_manifest(change: impl FnOnce(&mut Value), says: &[&str]) {
    let mut entry = entry();
    let mut manifest: Value = serde_json::from_slice(&payload(&entry).0).unwrap();
    change(&mut manifest);
    let manifest = manifest.to_string();
    let signed = covered(entry["payloadType"].as_str().unwrap(), manifest.as_bytes());
    entry["payload"] = encode(manifest.as_bytes()).into();
    entry["signatures"][0]["sig"] = openssl_sign(&BUILDER.private_key(), &signed).into();
    check(only(is_entry, Act::Bytes(entry.to_string().into_bytes())), says);
}

#[test]
fn signatures_that_are_forged_stripped_swapped_or_re_keyed() {
    let other = read_json(&file(&BUILDER.cache().join("entries"), &entry_of("bbswitch")));
    let sig = other["signatures"][0]["sig"].clone();
    check_entry(|entry| entry["signatures"] = json!([]), &["unsigned"]);
    check_entry(|entry| entry["signatures"][0]["sig"] = "AAAA".into(), &["invalid signature"]);
    check_entry(|entry| entry["signatures"][0]["sig"] = sig, &["invalid signature"]);
    check_entry(|entry| entry["signatures"][0]["keyid"] = "0".repeat(64).into(), &["an untrusted key"]);
    // Rightly signed, but the answer to another question.
    check_entry(|entry| *entry = other, &["expected key"]);
}

#[test]
fn entries_of_a_key_that_is_not_trusted() {
    let stranger = Builder::new("stranger", &[]);
    let key = SigningKey::read(&stranger.private_key()).unwrap();
    let id = key.public().id().to_string();
    let mut entry = entry();
    let sig = openssl_sign(&stranger.private_key(), &payload(&entry).1);
    entry["signatures"] = json!([{"keyid": id, "sig": sig}]);
    let act = Act::Bytes(entry.to_string().into_bytes());
    check(only(is_entry, act), &[&id, "an untrusted key"]);
}

#[test]
fn manifests_that_are_signed_and_break_the_rules() {
    let name = |name: &str| {
        let name = name.to_owned();
        move |manifest: &mut Value| manifest["outputs"][1]["name"] = name.into()
    };
    check_manifest(name("../../../../etc/passwd"), &["invalid name"]);
    check_manifest(name("/etc/passwd"), &["invalid name"]);
    check_manifest(name(&"x".repeat(129)), &["invalid name"]);
    check_manifest(name("log"), &["does not sort before"]);
    check_manifest(name("a.ko"), &["does not sort before"]);
    check_manifest(|manifest| manifest["format"] = 2.into(), &["format 2"]);
    check_manifest(|manifest| manifest["outputs"][1]["size"] = (1u64 << 40).into(), &["larger than"]);
    check_manifest(
        |manifest| manifest["outputs"][1]["digest"] = "0".repeat(64).into(),
        &["no cache has a build"],
    );
    check_manifest(|manifest| manifest["outputs"][1]["size"] = 7.into(), &["sent more than"]);
    // Of another kernel build: not what was asked for.
    check_manifest(
        |manifest| manifest["labels"]["kernel-version"] = "#2 SMP".into(),
        &["for another kernel-version: #2 SMP"],
    );
    check_manifest(
        |manifest| manifest["labels"]["package"] = "other".into(),
        &["for another package: other"],
    );
    check_manifest(
        |manifest| manifest["fields"][0]["value"] = "0".repeat(64).into(),
        &["its fields belong to"],
    );
}

#[test]
fn objects_that_differ_from_their_entry() {
    check(only(is_object, Act::Bytes(zstd(&["-c"], b"something else"))), &["is corrupt"]);
    check(only(is_object, Act::Bytes(b"<html>".to_vec())), &["invalid compressed data"]);
    check(only(is_object, Act::Bytes(Vec::new())), &["is corrupt"]);
    let bomb = zstd(&["-c"], &vec![0; 1 << 30]);
    assert!(bomb.len() < 100_000);
    // An object that is smaller itself, such as a log, is not even received.
    let is_module = |path: &str| path.starts_with("/objects/") && path.contains(&module_digest());
    check(only(is_module, Act::Bytes(bomb)), &["more bytes"]);
    check(only(is_object, Act::HalfOf), &["cannot be reached"]);
    check(only(is_object, Act::Reset), &["cannot be reached"]);
    check(only(is_object, Act::Status(404)), &["no cache has a build"]);
}

#[test]
fn bodies_without_an_end_and_json_without_measure() {
    check(only(is_pointer, Act::Endless), &["sent more than"]);
    check(only(is_entry, Act::Endless), &["sent more than"]);
    check(only(is_object, Act::Endless), &["sent more than"]);
    check(only(is_entry, Act::Bytes(vec![b'['; 100 << 20])), &["sent more than"]);
    let deep = [b"[".repeat(10_000), b"]".repeat(10_000)].concat();
    check(only(is_entry, Act::Bytes(deep)), &["ignoring "]);
    let deep = ["{\"payloadType\":".repeat(10_000), "0".to_owned(), "}".repeat(10_000)].concat();
    check(only(is_entry, Act::Bytes(deep.into_bytes())), &["ignoring "]);
    check(only(is_pointer, Act::Bytes(Vec::new())), &["ignoring "]);
}

#[test]
fn servers_that_answer_something_else() {
    check(only(is_pointer, Act::Bytes(b"<html>Please log in</html>".to_vec())), &["ignoring "]);
    check(always(Act::RedirectLoop), &["shared cache http://127.0.0.1"]);
    check(always(Act::Status(403)), &["refused access"]);
    check(always(Act::Status(401)), &["refused access"]);
    for status in [429, 500, 503] {
        check(always(Act::Status(status)), &[&status.to_string()]);
    }
}

#[test]
fn servers_that_do_not_answer() {
    // They wait, and so do it at once.
    std::thread::scope(|scope| {
        scope.spawn(|| check(always(Act::Hang), &["did not answer within 3 s"]));
        scope.spawn(|| check(only(is_object, Act::HangAfterHeaders), &["did not answer within 3 s"]));
        scope.spawn(|| check(only(is_entry, Act::Trickle), &["did not finish within"]));
    });
}

#[test]
fn an_unreachable_server_is_reported_once_and_the_host_builds() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = Host::new(&[k()]).trusting(&BUILDER);
    for name in ["one", "two", "three"] {
        packages::plain(&host, name, "text");
    }
    let host = host.with_caches(&[&url(&format!("http://127.0.0.1:{port}"))]);
    host.write_config(&format!("[[cache]]\n{}\n", url(&format!("http://127.0.0.1:{port}"))));
    let run = host.kcache(&["install", "-k", k()]).exits(0).says(&["cannot be reached"]);
    assert_eq!(run.stderr.matches("warning").count(), 1, "{}", run.shown());
    assert_eq!(host.modules(k()).len(), 3);
    let quiet: Run = host.kcache(&["--offline", "install", "-k", k()]).exits(0);
    assert!(!quiet.stderr.contains("cache"), "{}", quiet.shown());
}

#[test]
fn a_server_that_hangs_is_asked_once_and_once_more_however_many_packages_there_are() {
    let server = Server::new(&BUILDER.cache(), |_| Act::Hang);
    let host = client(&[&url(&server.url())]);
    let names = "packages = ['a', 'b', 'c', 'd', 'e', 'f']\n";
    host.write_config(&format!("{names}[[cache]]\n{}\n", url(&server.url())));
    let said = ["did not answer within 3 s", "querying shared caches again"];
    host.kcache(&["-j", "6", "install", "-k", k()]).exits(5).says(&said);
    assert_eq!(server.requests.load(Ordering::Relaxed), 2);
    // A host that can build does not wait a second time.
    let server = Server::new(&BUILDER.cache(), |_| Act::Hang);
    let host = Host::new(&[k()]).trusting(&BUILDER);
    ["one", "two"].iter().for_each(|name| drop(packages::plain(&host, name, "text")));
    host.kcache(&["--cache", &server.url(), "install", "-k", k()]).exits(0).says(&said[..1]);
    assert_eq!(server.requests.load(Ordering::Relaxed), 1);
}

#[test]
fn a_build_that_the_kernel_would_not_load_is_refused_although_it_is_signed() {
    // The builder itself is at fault: what it signed is a module for another kernel.
    let builder = Builder::new("careless", &[]);
    let host = Host::new(&[k()]).trusting(&builder);
    for host in [&builder.host, &host] {
        packages::hello(host, "text");
    }
    fs::create_dir(builder.cache()).unwrap();
    builder.host.kcache(&["build", "hello", "-k", k()]).exits(0);
    spoil_vermagic(&builder);
    builder.host.kcache(&["push", "--to", &builder.cache_url(), "--all"]).exits(0);
    host.write_config(&format!("[[cache]]\n{}\n", url(&builder.cache_url())));
    let run = host
        .kcache(&["--json", "install", "hello", "-k", k()])
        .exits(0)
        .says(&["refusing the build from", "vermagic"]);
    assert_eq!(run.outcome().how.as_deref(), Some("built"));
    // The same where it could only stand in for a build by this host's tools.
    let other = Host::new(&[k()]).trusting(&builder).with_caches(&[&url(&builder.cache_url())]);
    packages::hello(&other, "text");
    update_kbuild(&other);
    for _ in 0..2 {
        let run = other.kcache(&["--json", "build", "hello", "-k", k()]).exits(0);
        assert_eq!(run.outcome().how.as_deref(), Some("built"));
        run.says(&["refusing the build from", "vermagic"]);
        fs::remove_dir_all(other.store()).unwrap();
    }
}

/// Makes the one module of a builder's store one for another kernel, and has that signed.
fn spoil_vermagic(builder: &Builder) {
    let store = builder.host.store();
    let waiting = kcache::store::Waiting { limit: Duration::from_secs(5), print: &|_| () };
    let store = kcache::store::Store::open(&store, &waiting).unwrap();
    let path = file(&store.dir().join("entries"), ".json");
    let key = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let mut manifest = store.lookup(&key).unwrap().unwrap().into_manifest();
    let output = manifest.outputs.iter_mut().find(|output| output.role == Role::Module).unwrap();
    let mut module = store.read_object(&output.digest, output.size).unwrap().unwrap();
    let at = module.windows(10).position(|window| window == b"vermagic=6").unwrap() + 9;
    module[at] = b'5';
    let stored = store.put_object(&mut &module[..]).unwrap();
    (output.digest, output.size) = (stored.digest, stored.size);
    let mut entry = kcache::store::Entry::new(manifest).unwrap();
    entry.sign(&SigningKey::read(&builder.private_key()).unwrap());
    store.replace(&entry).unwrap();
}

#[test]
fn a_directory_where_a_file_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let cache = BUILDER.copy_of_cache(dir.path());
    let check = |path: PathBuf, cache: &Path| {
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let bad = url(&format!("file://{}", cache.display()));
        client(&[&bad]).kcache(&["install", "-k", k()]).exits(5);
        let both = client(&[&bad, &url(&BUILDER.cache_url())]);
        both.kcache(&["install", "-k", k()]).exits(0);
        assert_is_the_builders(&both);
    };
    check(file(&cache.join("entries"), &entry_of(PACKAGE)), &cache);
    check(pointer(&cache, "v4l2loopback"), &cache);
}

#[test]
fn a_pointer_of_another_package_kernel_or_time() {
    let other = fs::read(pointer(&BUILDER.cache(), "bbswitch")).unwrap();
    check(only(is_pointer, Act::Bytes(other)), &["expected by-kernel/"]);
    let key = SigningKey::read(&BUILDER.private_key()).unwrap();
    let name = Pointer::name(k(), Digest::of(b"another kernel"), PACKAGE).unwrap();
    let other = Pointer::new(&name, "1".repeat(64).parse().unwrap(), 1 << 40, &key).unwrap();
    check(only(is_pointer, Act::Bytes(other.encode().unwrap())), &["expected by-kernel/"]);
}

#[test]
fn an_interrupted_download_leaves_no_object_and_the_next_run_continues() {
    let server = Server::new(&BUILDER.cache(), only(is_object, Act::Trickle));
    let host = client(&[&url(&server.url())]);
    let mut child = host.command(&["install", "-k", k()]).stderr(Stdio::piped()).spawn().unwrap();
    // Pointer, entry, and then the objects, which never come.
    while server.requests.load(Ordering::Relaxed) < 3 {
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(10));
    }
    run(Command::new("kill").args(["-INT", &child.id().to_string()]));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(host.modules(k()).is_empty());
    assert_eq!(fs::read_dir(host.store().join("objects")).unwrap().count(), 0);
    let url = BUILDER.cache_url();
    host.kcache(&["--cache", &url, "install", "-k", k()]).exits(0);
    assert_is_the_builders(&host);
}
