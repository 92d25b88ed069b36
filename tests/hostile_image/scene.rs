//! A hostile tree with bait beside it, and a call of each command on it, after which nothing of the bait may have changed.

use super::trace;
use crate::host::{FIXTURES, Host, PATH};
use crate::packages;
use fs_err as fs;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECRET: &str = "a-secret-of-the-callers";
/// The public key of RFC 8410, section 10.1.
const BUILDER: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

pub const USE: &str = "use file://{out}/cache --key {out}/builder.pem";

/// Each command, and how it is called. `{k}` is the kernel, `{out}` a directory of the caller's, `{src}` the package.
pub const CALLS: &[(&str, &[&str])] = &[
    ("install", &["install", "install hello -k {k}", "--dry-run install hello -k {k}"]),
    ("build", &["build hello -k {k}"]),
    ("check", &["check", "check -k default"]),
    ("status", &["status"]),
    ("boot-test", &["boot-test -k {k} --timeout 5"]),
    ("report", &["report --html {out}/page.html"]),
    ("metrics", &["metrics"]),
    ("explain", &["explain hello -k {k}"]),
    ("log", &["log hello -k {k}"]),
    ("adopt", &["adopt"]),
    ("rollback", &["rollback -k {k}"]),
    ("push", &["push --all"]),
    ("pull", &["pull hello -k {k}"]),
    ("export", &["export {out}/builds.tar"]),
    ("import", &["import {out}/builds.tar"]),
    ("gc", &["gc", "gc --max-size 1"]),
    ("verify", &["verify --repair"]),
    ("keys", &["keys list", "keys generate --name x", "keys mok", "keys revoke x"]),
    ("signatures", &["signatures export {out}/signatures"]),
    ("debuginfo", &["debuginfo"]),
    (
        "hooks",
        &[
            "hooks install",
            "hooks status",
            "hooks run kernel-installed {k}",
            "hooks run boot {k}",
            "hooks remove",
        ],
    ),
    ("init", &["init {src}"]),
    ("lint", &["lint {src}"]),
    ("config", &["config"]),
    ("use", &[USE]),
    ("remove", &["remove --all", "hooks run kernel-removed {k}"]),
];

/// A tree, what lies beside it, and who listens.
pub struct Scene {
    pub host: Host,
    heard: Arc<Mutex<Vec<u8>>>,
    pub before: BTreeMap<PathBuf, String>,
}

impl Scene {
    pub fn new() -> Scene {
        let host = Host::new(&[&FIXTURES.new]);
        packages::hello(&host, "text");
        for dir in ["bait/dir", "out/cache", "markers", "beside"] {
            fs::create_dir_all(host.dir().join(dir)).unwrap();
        }
        fs::write(host.dir().join("out/builder.pem"), BUILDER).unwrap();
        fs::set_permissions(host.dir().join("markers"), PermissionsExt::from_mode(0o1777)).unwrap();
        for (file, mode) in [("bait/file", 0o644), ("bait/dir/file", 0o600)] {
            fs::write(host.dir().join(file), "bait").unwrap();
            fs::set_permissions(host.dir().join(file), PermissionsExt::from_mode(mode)).unwrap();
        }
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut scene = Scene { host, heard, before: BTreeMap::new() };
        scene.before = scene.bait();
        scene
    }

    /// Listens, for as long as this process lives, and says where.
    pub fn listen(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, heard) = (listener.local_addr().unwrap().port(), self.heard.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                let mut bytes = [0; 4096];
                let n = stream.read(&mut bytes).unwrap_or(0);
                heard.lock().unwrap().extend_from_slice(&bytes[..n]);
                let _ = stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        port
    }

    /// All that a command could have changed of the bait.
    pub fn bait(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut pending = vec![self.host.dir().join("bait")];
        while let Some(path) = pending.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let (mode, owner) = (metadata.mode(), (metadata.uid(), metadata.gid()));
            let mut text = format!("{mode:o} {owner:?} {:?}", metadata.modified().unwrap());
            if metadata.is_dir() {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if metadata.is_symlink() {
                text += &fs::read_link(&path).unwrap().display().to_string();
            } else {
                text += &String::from_utf8_lossy(&fs::read(&path).unwrap());
            }
            found.insert(path, text);
        }
        found
    }

    pub fn place(&self, place: &str) -> PathBuf {
        self.host.root().join(place.replace("{k}", &FIXTURES.new))
    }

    /// Has a link, or whatever `make` makes, in the place of what was there.
    pub fn put(&self, place: &str, make: impl FnOnce(&Path)) {
        let path = self.place(place);
        let parent = path.parent().unwrap();
        if fs::create_dir_all(parent).is_err()
            || !fs::canonicalize(parent).unwrap().starts_with(self.host.root())
        {
            return; // something hostile is above it already
        }
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        let _ = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        make(&path);
    }

    pub fn link(&self, place: &str, to: &str) {
        self.put(place, |path| symlink(self.host.dir().join(to), path).unwrap());
    }

    /// A program that leaves a note where nothing in a sandbox can leave one.
    pub fn program(&self, name: &str) {
        let marker = self.host.dir().join("markers").join(name);
        let text =
            format!("#!/bin/sh\n(id -u; grep CapEff /proc/self/status) >{} 2>&1\nexit 1\n", marker.display());
        for dir in ["usr/bin", "usr/sbin", "bin", "sbin"] {
            let path = self.host.root().join(dir).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }

    /// Kernels and packages whose names are options, commands, ways out or nothing that can be shown.
    pub fn odd_names(&self) {
        for name in ["-rf", "$(touch x)", "a b", "..-..", "\u{1b}[2J", "a\nb", "\u{202e}", "%s%n", ";id"] {
            self.put(&format!("lib/modules/{name}/updates"), |path| fs::create_dir(path).unwrap());
            self.put(&format!("usr/src/{name}-1.0/dkms.conf"), |path| {
                fs::write(path, format!("PACKAGE_NAME='{name}'\nBUILT_MODULE_NAME[0]='{name}'\n")).unwrap();
            });
        }
    }

    /// Settings that name places, secrets and commands of this machine, and a listener.
    pub fn settings(&self, port: u16) {
        let bait = self.host.dir().join("bait").display().to_string();
        let marker = self.host.dir().join("markers/settings").display().to_string();
        let config = format!(
            "store = '{bait}/dir/store'\nsigning-key = '{bait}/file'\ndefault-kernel = '{bait}/file'\npackage-scripts = ['*']\n\
             packages = ['hello']\ncompiler-launcher = 'ccache'\nbuild-timeout = 1\n\
             [signing]\nkey = 'pkcs11:token=x?module-path={module}'\ncertificate = '{bait}/file'\n\
             passphrase-command = ['touch', '{marker}']\n\
             [[cache]]\nurl = 'file://{bait}/dir'\nwrite = true\n\
             [[cache]]\nurl = 'http://127.0.0.1:{port}/c'\ncredentials-env = 'HOST'\nwrite = true\nca = '{bait}/file'\n\
             [[cache]]\nurl = 's3://b/x'\noptions = {{ aws_endpoint = 'http://127.0.0.1:{port}', aws_allow_http = 'true' }}\n",
            module = self.place("usr/lib/token.so").display(),
        );
        self.put("etc/kcache/config.toml", |path| fs::write(path, config).unwrap());
    }

    /// Runs a command as a caller does who has secrets, and looks at what must not have happened. Its exit code.
    pub fn call(&self, words: &str) -> i32 {
        self.call_under(&[], words)
    }

    /// The same, watched by strace. How many processes it saw outside of sandboxes and inside.
    pub fn call_traced(&self, words: &str) -> (usize, usize) {
        let (dir, scene) = (tempfile::tempdir().unwrap(), self.host.dir());
        let file = dir.path().join("t");
        self.call_under(&[&trace::STRACE[..], &[file.to_str().unwrap()]].concat(), words);
        let bounds = trace::Bounds {
            tree: self.host.root(),
            writable: ["root", "store", "tmp", "out"].map(|name| scene.join(name)).into(),
            cwd: scene.join("out"),
        };
        let seen = trace::read(dir.path(), &bounds);
        assert!(seen.wrong.is_empty(), "{words}:\n{}", seen.wrong.join("\n"));
        (seen.outside, seen.inside)
    }

    fn call_under(&self, wrapper: &[&str], words: &str) -> i32 {
        let dir = |name: &str| self.host.dir().join(name);
        let source = self.host.root().join("usr/src/hello-1.0");
        let words = words
            .replace("{k}", &FIXTURES.new)
            .replace("{out}", dir("out").to_str().unwrap())
            .replace("{src}", source.to_str().unwrap());
        let wrapped = [wrapper, &["timeout", "-s", "KILL", "60"]].concat();
        let mut command = Command::new(wrapped[0]);
        command.args(&wrapped[1..]).arg(dir("kcache")).arg("--root").arg(self.host.root());
        command.args(words.split(' ')).env_clear().env("PATH", PATH).current_dir(dir("out"));
        for name in [
            "HOST_TOKEN",
            "HOST_PASSWORD",
            "KCACHE_TOKEN",
            "GITHUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
        ] {
            command.env(name, SECRET);
        }
        command.env("AWS_ACCESS_KEY_ID", "id").env("HOME", dir("home")).env("TMPDIR", dir("tmp"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code();
        assert!(code.is_some_and(|code| code <= 8), "{words}: {code:?}: {said}");
        assert!(!said.contains("Usage:"), "{words} is no call: {said}");
        assert_eq!(self.bait(), self.before, "{words} has changed what lies outside of the tree: {said}");
        let ran: Vec<PathBuf> =
            fs::read_dir(dir("markers")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(ran.is_empty(), "{words} ran programs of the tree on this machine: {ran:?}");
        let heard = String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned();
        assert!(!heard.contains(SECRET), "{words} has sent a secret: {heard}");
        code.unwrap()
    }

    pub fn call_all(&self) {
        CALLS.iter().flat_map(|(_, calls)| *calls).for_each(|words| {
            self.call(words);
        });
    }
}
