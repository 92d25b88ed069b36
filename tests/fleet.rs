//! A fleet: identical hosts that install the same packages for a new kernel at once, after one of them has built.
//!
//! `make test` runs a small one, `make fleet` one of 200 hosts. Each host is a process with a root and a store of its own;
//! most have a kernel's image only, some have headers and could build. Nobody but the builder does.

mod cases;

use crate::builder::{Builder, url};
use crate::host::{FIXTURES, Host, PATH, run};
use crate::packages;
use crate::servers::{Garage, Nginx};
use fs_err as fs;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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

/// How many hosts there are.
fn hosts() -> usize {
    std::env::var("KCACHE_FLEET").ok().and_then(|hosts| hosts.parse().ok()).unwrap_or(8)
}

/// One host of the fleet: a directory like that of [`Host`].
struct Member {
    dir: PathBuf,
    builds: bool,
}

impl Member {
    fn new(dir: PathBuf, like: &Host, table: &str, files: &[(&str, String)]) -> Member {
        fs::create_dir(&dir).unwrap();
        // What is there is only read, and replaced where it changes: it may be the same file for all.
        run(Command::new("cp").arg("-al").arg(like.root()).arg(&dir));
        let etc = dir.join("root/etc/kcache");
        fs::remove_file(etc.join("config.toml")).ok();
        let names = packages().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        fs::write(etc.join("config.toml"), format!("packages = [{names}]\n[[cache]]\n{table}\n")).unwrap();
        for (name, text) in files {
            fs::write(etc.join(name), text).unwrap();
            fs::set_permissions(etc.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        Member { builds: like.headers(k()).exists(), dir }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", PATH).env("HOME", &self.dir).current_dir(&self.dir);
        command.arg("--root").arg(self.dir.join("root")).arg("--store").arg(self.dir.join("store"));
        command.arg("--config").arg(self.dir.join("root/etc/kcache/config.toml"));
        command.args(["--json", "install", "-k", k()]).stdin(Stdio::null());
        let log = |name: &str| fs::File::create(self.dir.join(name)).unwrap().into_parts().0;
        command.stdout(log("stdout")).stderr(log("stderr"));
        command
    }

    /// Bytes of all that was fetched: files of the store are what came over the line.
    fn fetched(&self) -> u64 {
        size(&self.dir.join("store/entries"))
            + size(&self.dir.join("store/objects"))
            + size(&self.dir.join("store/by-kernel"))
    }

    fn said(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap();
        format!("{}{}", read("stdout"), read("stderr"))
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

/// What a run of the whole fleet came to.
struct Row {
    cache: &'static str,
    seconds: f64,
    slowest: f64,
    fetched: u64,
    objects: u64,
}

/// Everybody installs: at once, or one `after` the other has begun.
fn install(cache: &'static str, members: &[Member], program: &Path, objects: u64, after: Duration) -> Row {
    let start = Instant::now();
    let begin = |member: &Member| {
        let child = member.command(program).spawn().unwrap();
        std::thread::sleep(after);
        child
    };
    let children: Vec<_> = members.iter().map(begin).collect();
    let mut slowest = 0f64;
    for (mut child, member) in children.into_iter().zip(members) {
        let status = child.wait().unwrap();
        slowest = slowest.max(start.elapsed().as_secs_f64());
        assert!(status.success(), "{}: {status}\n{}", member.dir.display(), member.said());
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut fetched = 0;
    for member in members {
        let said = member.said();
        let shared = said.matches("\"how\":\"shared-cache\"").count();
        assert_eq!(shared, PACKAGES, "{said}");
        assert!(!said.contains("building"), "{said}");
        let most = objects + PACKAGES as u64 * OVERHEAD;
        assert!(member.fetched() <= most, "{} bytes fetched, more than {most}", member.fetched());
        fetched = fetched.max(member.fetched());
    }
    Row { cache, seconds, slowest, fetched, objects }
}

fn table(rows: &[Row], hosts: usize, builders: usize, built: f64) -> String {
    let mut text = format!(
        "{hosts} hosts, {builders} of which could build; {} packages for {}; one build of each, {built:.0} s\n",
        PACKAGES,
        k()
    );
    let head = ["cache", "all hosts, s", "hosts/s", "kB fetched a host", "kB of objects"];
    writeln!(text, "{:<28} {:>13} {:>8} {:>18} {:>14}", head[0], head[1], head[2], head[3], head[4]).unwrap();
    for row in rows {
        let (fetched, objects) = (row.fetched as f64 / 1e3, row.objects as f64 / 1e3);
        let rate = hosts as f64 / row.seconds;
        writeln!(text, "{:<28} {:>13.1} {rate:>8.1} {fetched:>18.1} {objects:>14.1}", row.cache, row.slowest)
            .unwrap();
    }
    text
}

#[test]
fn a_fleet_fetches_what_one_host_built() {
    let nginx = Nginx::writable();
    let garage = Garage::cluster();
    let key = garage.as_ref().map(|garage| garage.key("fleet", &["--read", "--write"]));
    let credentials = key.map_or(String::new(), |key| {
        format!("access-key-id = {:?}\nsecret-access-key = {:?}\n", key.id, key.secret)
    });
    let s3 = |node| {
        let garage = garage.as_ref().unwrap();
        format!(
            "{}\ncredentials = '/etc/kcache/s3'\noptions = {{ aws_endpoint = {:?}, aws_region = 'garage' }}",
            url(&format!("s3://{}", Garage::BUCKET)),
            garage.endpoint_of(node),
        )
    };
    let http = |_| url(&nginx.url());

    let builder = Builder::new("builder", &REAL);
    SMALL.iter().for_each(|name| drop(packages::plain(&builder.host, name, "fleet")));
    let etc = builder.host.root().join("etc/kcache");
    fs::write(etc.join("s3"), &credentials).unwrap();
    fs::set_permissions(etc.join("s3"), PermissionsExt::from_mode(0o600)).unwrap();
    let mut tables = vec![http(0)];
    tables.extend(garage.is_some().then(|| s3(0)));
    let tables: String = tables.iter().map(|table| format!("[[cache]]\n{table}\nwrite = true\n")).collect();
    builder.host.write_config(&tables);
    let start = Instant::now();
    let built = builder.host.kcache(&["build", "-k", k()]).exits(0);
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(built.stderr.matches("building").count(), PACKAGES, "{}", built.shown());
    let objects = size(&nginx.files().join("objects"));

    let plain = Host::image_only().trusting(&builder);
    let able = Host::new(&[k()]).with_packages(&REAL).trusting(&builder);
    SMALL.iter().for_each(|name| drop(packages::plain(&able, name, "fleet")));
    let dir = tempfile::tempdir().unwrap();
    let program = builder.host.dir().join("kcache");
    let builders = hosts().div_ceil(20);
    let mut rows = Vec::new();
    // Three nodes of Garage and 200 hosts on two cores: at once, each would wait for the others longer than for an answer.
    let mut caches: Vec<(_, &dyn Fn(usize) -> String, _)> =
        vec![("nginx, all at once", &http, Duration::ZERO)];
    if garage.is_some() {
        caches.push(("Garage, 3 nodes, 5 a second", &s3, Duration::from_millis(200)));
    }
    for (cache, table, after) in caches {
        let files = [("s3", credentials.clone())];
        let like = |n: usize| if n < builders { &able } else { &plain };
        let member = |n| {
            let own = dir.path().join(format!("{}-{n}", &cache[..5]));
            Member::new(own, like(n), &table(n % 3), &files)
        };
        let members: Vec<Member> = (0..hosts()).map(member).collect();
        assert_eq!(members.iter().filter(|member| member.builds).count(), builders);
        rows.push(install(cache, &members, &program, objects, after));
    }
    let table = table(&rows, hosts(), builders, seconds);
    std::io::stdout().write_all(table.as_bytes()).unwrap();
}
