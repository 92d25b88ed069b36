//! A builder with a key of its own, and hosts that trust it.

use crate::host::{FIXTURES, Host, run};
use fs_err as fs;
use kcache::kernel::kernels;
use kcache::kernel::rootfs::Root;
use kcache::resolve::by_pointer;
use kcache::store::{Entry, Manifest, SigningKey, Store, Waiting};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

/// The package that is built, and one that is not.
pub const PACKAGE: &str = "v4l2loopback";
/// Its only module, as it is installed.
pub const MODULE: &str = "v4l2loopback/v4l2loopback.ko";

/// A host that has built [`PACKAGE`] for the newest 6.1 and pushed it into a directory.
pub struct Builder {
    pub host: Host,
    name: String,
}

/// One for all tests, which only read it.
pub static BUILDER: LazyLock<Builder> = LazyLock::new(|| {
    let builder = Builder::new("builder", &[PACKAGE, "bbswitch"]);
    let (cache, kernel) = (builder.cache_url(), &FIXTURES.new);
    fs::create_dir(builder.cache()).unwrap();
    builder.host.kcache(&["build", PACKAGE, "bbswitch", "-k", kernel]).exits(0);
    builder.host.kcache(&["push", "--to", &cache, PACKAGE, "bbswitch", "-k", kernel]).exits(0);
    builder
});

impl Builder {
    /// A host with packages, headers and a new key.
    pub fn new(name: &str, packages: &[&str]) -> Builder {
        Builder::of(Host::new(&[&FIXTURES.new]).with_packages(packages), name)
    }

    /// A host with a new key.
    pub fn of(host: Host, name: &str) -> Builder {
        let mut builder = Builder { host, name: String::new() };
        builder.generate(name);
        builder
    }

    /// Gives it a key that is its own from now on.
    pub fn generate(&mut self, name: &str) {
        self.host.kcache(&["keys", "generate", "--name", name]).exits(0);
        self.name = name.to_owned();
    }

    /// The directory that it pushes to.
    pub fn cache(&self) -> PathBuf {
        self.host.dir().join("cache")
    }

    pub fn cache_url(&self) -> String {
        format!("file://{}", self.cache().display())
    }

    /// A copy of the cache, for a test to spoil.
    pub fn copy_of_cache(&self, to: &Path) -> PathBuf {
        let cache = to.join("cache");
        run(Command::new("cp").arg("-r").arg(self.cache()).arg(&cache));
        cache
    }

    /// Changes the one entry in its store, and signs what comes of it.
    pub fn forge(&self, change: impl FnOnce(&mut Manifest)) {
        let waiting = Waiting { limit: Duration::from_secs(5), print: &|_| () };
        let store = Store::open(&self.host.store(), &waiting).unwrap();
        let path: PathBuf = file(&store.dir().join("entries"), ".json");
        let key = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let mut manifest = store.lookup(&key).unwrap().unwrap().into_manifest();
        change(&mut manifest);
        manifest.outputs.sort_by(|one, other| one.name.cmp(&other.name));
        let mut entry = Entry::new(manifest).unwrap();
        entry.sign(&SigningKey::read(&self.private_key()).unwrap());
        store.replace(&entry).unwrap();
    }

    /// The file of its public key.
    pub fn public_key(&self) -> PathBuf {
        self.host.root().join(format!("etc/kcache/trusted-keys/{}.pem", self.name))
    }

    /// The file of its private key.
    pub fn private_key(&self) -> PathBuf {
        self.host.root().join("etc/kcache/signing-key.pem")
    }
}

impl Host {
    /// A host that could compile nothing: the kernel's image, some in-tree modules, and `/etc/kcache`.
    pub fn image_only() -> Host {
        Host::without_headers(&FIXTURES.new)
    }

    /// Trusts a builder.
    pub fn trusting(self, builder: &Builder) -> Host {
        let key = builder.public_key();
        self.kcache(&["keys", "trust", key.to_str().unwrap()]).exits(0);
        self
    }

    /// Uses shared caches: `url = "..."` and what else belongs into their tables.
    pub fn with_caches(self, tables: &[&str]) -> Host {
        let mut text = format!("packages = [{PACKAGE:?}]\n");
        for table in tables {
            writeln!(text, "[[cache]]\n{table}").unwrap();
        }
        self.write_config(&text);
        self
    }

    pub fn write_config(&self, text: &str) {
        let directory = self.root().join("etc/kcache");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("config.toml"), text).unwrap();
    }
}

/// A table's `url`.
pub fn url(url: &str) -> String {
    format!("url = {url:?}")
}

/// The one file under a directory whose path ends so.
pub fn file(directory: &Path, suffix: &str) -> PathBuf {
    let output = run(Command::new("find").arg(directory).args(["-type", "f"]));
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Vec<&str> = text.lines().filter(|path| path.ends_with(suffix)).collect();
    assert_eq!(found.len(), 1, "{suffix} in {text}");
    PathBuf::from(found[0])
}

/// A cache's pointer to a package's newest build for the fixtures' kernel; another one beside it is named by the build's kin.
pub fn pointer(cache: &Path, package: &str) -> PathBuf {
    let kernels = kernels::installed(&Root::new(BUILDER.host.root())).unwrap();
    let kernel = kernels.into_iter().find(|kernel| kernel.release == FIXTURES.new).unwrap();
    let id = by_pointer::kernel_id(std::env::consts::ARCH, &kernel.image_version.unwrap());
    cache.join(format!("by-kernel/{}/{id}/{package}.json", FIXTURES.new))
}

/// What is in an envelope, and what a signature of it covers.
pub fn payload(envelope: &serde_json::Value) -> (Vec<u8>, Vec<u8>) {
    let payload = decode(envelope["payload"].as_str().unwrap());
    let signed = covered(envelope["payloadType"].as_str().unwrap(), &payload);
    (payload, signed)
}

/// DSSE's pre-authentication encoding.
pub fn covered(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut signed = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    signed.extend(payload);
    signed
}

/// A signature made by openssl, in base64.
pub fn openssl_sign(key: &Path, bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("bytes");
    fs::write(&at, bytes).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["pkeyutl", "-sign", "-rawin", "-inkey"]).arg(key).arg("-in").arg(&at);
    encode(&run(&mut openssl).stdout)
}

pub fn encode(bytes: &[u8]) -> String {
    String::from_utf8(base64(&["-w0"], bytes)).unwrap()
}

pub fn decode(text: &str) -> Vec<u8> {
    base64(&["-d"], text.as_bytes())
}

fn base64(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("input");
    fs::write(&at, input).unwrap();
    run(Command::new("base64").args(arguments).arg(&at)).stdout
}
