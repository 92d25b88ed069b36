//! A fleet: identical hosts that install the same packages for a new kernel, after one of them has built.
//!
//! `make test` runs a small one, `make fleet` one of 200 hosts, all of which start at once. Each host is a process with a root and
//! a store of its own; most have a kernel's image only, some have headers and could build. Nobody but the builder does.
//!
//! | the hosts | test |
//! |---|---|
//! | start at once | [`crowd`] |
//! | lose the server in the middle | [`crowd`] |
//! | come before the builder | [`crowd`] |
//! | are odd | [`cases`] |
//! | are builders, and sign the same builds at once | [`race`] |

mod cases;
mod crowd;
mod race;

use crate::builder::{Builder, url};
use crate::host::{FIXTURES, Host, PATH, run};
use crate::packages;
use crate::servers::{Garage, Nginx};
use fs_err as fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Instant;

const REAL: [&str; 4] = ["v4l2loopback", "acpi-call", "bbswitch", "dm-writeboost"];
const SMALL: [&str; 4] = ["one", "two", "three", "four"];
const PACKAGES: usize = REAL.len() + SMALL.len();
/// What a host may fetch for a package besides its objects: pointer and entry.
const OVERHEAD: u64 = 8 << 10;

fn k() -> &'static str {
    &FIXTURES.new
}

/// All packages' names.
fn packages() -> impl Iterator<Item = &'static str> {
    REAL.into_iter().chain(SMALL)
}

/// How many hosts `KCACHE_FLEET` asks for.
fn large() -> Option<usize> {
    std::env::var("KCACHE_FLEET").ok()?.parse().ok()
}

/// How many hosts there are.
fn hosts() -> usize {
    large().unwrap_or(8)
}

/// The host that has built all packages, and hosts that trust it: without headers, and with what it takes to build.
struct Built {
    builder: Builder,
    seconds: f64,
    plain: Host,
    able: Host,
}

/// What dm-writeboost depends on.
const ITS_MODULES: [&str; 3] = ["drivers/md/dm-mod.ko", "drivers/md/dm-bufio.ko", "lib/libcrc32c.ko"];

/// A host whose kernel has these too.
fn with_md(host: Host) -> Host {
    for module in ITS_MODULES {
        let at = format!("lib/modules/{}/kernel/{module}", k());
        let to = host.root().join(&at);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(FIXTURES.dir().join("root").join(at), to).unwrap();
    }
    run(Command::new("depmod").env("PATH", PATH).arg("-b").arg(host.root()).arg(k()));
    host
}

static BUILT: LazyLock<Built> = LazyLock::new(|| {
    let with_small = |host: Host| {
        SMALL.iter().for_each(|name| drop(packages::plain(&host, name, "fleet")));
        with_md(host)
    };
    let builder = Builder::of(with_small(Host::new(&[k()]).with_packages(&REAL)), "builder");
    let start = Instant::now();
    let built = builder.host.kcache(&["build", "-k", k()]).exits(0);
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(built.stderr.matches("building").count(), PACKAGES, "{}", built.shown());
    let plain = with_md(Host::image_only()).trusting(&builder);
    let able = with_small(Host::new(&[k()]).with_packages(&REAL)).trusting(&builder);
    Built { builder, seconds, plain, able }
});

/// A server that holds a shared cache.
enum Server {
    Nginx(Nginx),
    Garage { garage: Garage, credentials: String },
}

impl Server {
    /// One of each kind that there is here.
    fn all() -> Vec<Server> {
        [Some(Server::nginx()), Server::garage()].into_iter().flatten().collect()
    }

    fn nginx() -> Server {
        Server::Nginx(Nginx::writable())
    }

    fn garage() -> Option<Server> {
        let garage = Garage::cluster()?;
        let key = garage.key("fleet", &["--read", "--write"]);
        let credentials = format!("access-key-id = {:?}\nsecret-access-key = {:?}\n", key.id, key.secret);
        Some(Server::Garage { garage, credentials })
    }

    fn name(&self) -> &'static str {
        match self {
            Server::Nginx(_) => "nginx",
            Server::Garage { .. } => "Garage, 3 nodes",
        }
    }

    /// The `[[cache]]` table of a host: each has one of the nodes.
    fn table(&self, host: usize) -> String {
        match self {
            Server::Nginx(nginx) => format!("[[cache]]\n{}\n", url(&nginx.url())),
            Server::Garage { garage, .. } => format!(
                "[[cache]]\n{}\ncredentials = '/etc/kcache/s3'\noptions = {{ aws_endpoint = {:?}, aws_region = 'garage' }}\n",
                url(&format!("s3://{}", Garage::BUCKET)),
                garage.endpoint_of(host % 3),
            ),
        }
    }

    /// Writes settings for a host into its `/etc/kcache`, before other ones. Returns their file.
    fn configure(&self, etc: &Path, host: usize, before: &str, after: &str) -> PathBuf {
        if let Server::Garage { credentials, .. } = self {
            fs::write(etc.join("s3"), credentials).unwrap();
            fs::set_permissions(etc.join("s3"), PermissionsExt::from_mode(0o600)).unwrap();
        }
        let config = etc.join("config.toml");
        // The file may be a link to that of another host.
        fs::remove_file(&config).ok();
        fs::write(&config, format!("{before}\n{}{after}\n", self.table(host))).unwrap();
        config
    }

    /// The builder of all packages pushes them.
    fn fill(&self) {
        let root = BUILT.builder.host.root();
        let dir = tempfile::tempdir_in(root.join("etc/kcache")).unwrap();
        self.configure(dir.path(), 0, "", "write = true");
        let config = dir.path().join("config.toml");
        let at_root = format!("/etc/kcache/{}/s3", dir.path().file_name().unwrap().to_str().unwrap());
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("/etc/kcache/s3", &at_root)).unwrap();
        let words = ["--config", config.to_str().unwrap(), "push", "-k", k()];
        BUILT.builder.host.kcache(&words).exits(0).prints(&["pushed"]);
    }

    /// Ends it, all nodes at once, as a power failure would.
    fn kill(&mut self) {
        match self {
            Server::Nginx(nginx) => nginx.kill(),
            Server::Garage { garage, .. } => (0..3).for_each(|node| garage.kill(node)),
        }
    }

    /// Starts it again, with what it had.
    fn restart(&mut self) {
        match self {
            Server::Nginx(nginx) => nginx.restart(),
            Server::Garage { garage, .. } => garage.restart_all(),
        }
    }
}

/// One host of the fleet: a directory like that of [`Host`].
struct Member {
    dir: PathBuf,
    program: PathBuf,
}

impl Member {
    fn new(dir: PathBuf, like: &Host, server: &Server, number: usize) -> Member {
        fs::create_dir(&dir).unwrap();
        // What is there is only read, and replaced where it changes: it may be the same file for all.
        run(Command::new("cp").arg("-al").arg(like.root()).arg(&dir));
        let names = packages().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        server.configure(&dir.join("root/etc/kcache"), number, &format!("packages = [{names}]"), "");
        Member { dir, program: like.dir().join("kcache") }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", PATH).env("HOME", &self.dir).current_dir(&self.dir);
        command.arg("--root").arg(self.dir.join("root")).arg("--store").arg(self.dir.join("store"));
        command.arg("--config").arg(self.dir.join("root/etc/kcache/config.toml"));
        command.args(words).stdin(Stdio::null());
        let log = |name: &str| {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join(name));
            file.unwrap()
        };
        command.stdout(log("stdout")).stderr(log("stderr"));
        command
    }

    /// Whether its kernel may be booted.
    fn is_ready(&self) -> bool {
        self.command(&["check", "-q", "-k", k()]).status().unwrap().success()
    }

    /// Bytes of all that was fetched: files of the store are what came over the line.
    fn fetched(&self) -> u64 {
        ["entries", "objects", "by-kernel"].iter().map(|part| size(&self.dir.join("store").join(part))).sum()
    }

    /// What all its commands printed.
    fn said(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap();
        format!("{}{}", read("stdout"), read("stderr"))
    }

    /// As if its timer had asked so many seconds earlier.
    fn later(&self, seconds: u64) {
        let path = self.dir.join("store/retry.json");
        let mut kept: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        kept["last"] = (kept["last"].as_u64().unwrap() - seconds).into();
        fs::write(path, kept.to_string()).unwrap();
    }
}

/// Bytes of all files under a directory, if there is one.
fn size(dir: &Path) -> u64 {
    if !dir.exists() {
        return 0;
    }
    let output = run(Command::new("find").arg(dir).args(["-type", "f", "-printf", "%s\n"]));
    String::from_utf8(output.stdout).unwrap().lines().map(|size| size.parse::<u64>().unwrap()).sum()
}
