//! All hosts at once: while all is well, while the server is away, and before the builder has pushed.
//!
//! What the command by hand, or the kernel's hook, does not fetch is fetched by the command of `kcache-retry.timer`. In the end
//! every host is ready, nobody has compiled anything, and nobody has fetched more than its objects and a little.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Child;
use std::time::{Duration, Instant};

use super::{BUILT, Member, OVERHEAD, PACKAGES, Server, hosts, k, large, packages, size};

/// The hosts of one test.
struct Crowd {
    members: Vec<Member>,
    _dir: tempfile::TempDir,
}

/// What came of one test.
struct Row {
    what: String,
    seconds: f64,
    /// Hosts that were ready only after the command of their timer.
    by_timer: usize,
    fetched: u64,
    /// The part of it that are objects.
    objects: u64,
}

impl Crowd {
    /// So many of the hosts could build.
    fn of(server: &Server, builders: usize) -> Crowd {
        let dir = tempfile::tempdir().unwrap();
        let member = |n: usize| {
            let like = if n < builders { &BUILT.able } else { &BUILT.plain };
            Member::new(dir.path().join(n.to_string()), like, server, n)
        };
        let members: Vec<Member> = (0..hosts()).map(member).collect();
        let build = members.iter().filter(|m| m.dir.join("root/usr/src/one-1.0").exists()).count();
        assert_eq!(build, builders);
        Crowd { members, _dir: dir }
    }

    /// All begin at once.
    fn begin<'a>(members: &[&'a Member], words: &[&str]) -> Vec<(&'a Member, Child)> {
        members.iter().map(|member| (*member, member.command(words).spawn().unwrap())).collect()
    }

    /// All end. Returns those that failed.
    fn end<'a>(children: Vec<(&'a Member, Child)>) -> Vec<&'a Member> {
        let failed =
            |(member, mut child): (&'a Member, Child)| (!child.wait().unwrap().success()).then_some(member);
        children.into_iter().filter_map(failed).collect()
    }

    fn all(&self) -> Vec<&Member> {
        self.members.iter().collect()
    }

    /// The command of the timer on these hosts, after which all of them are ready.
    fn timer(members: &[&Member]) {
        let failed = Crowd::end(Crowd::begin(members, &["hooks", "run", "retry"]));
        assert!(failed.is_empty(), "{}", failed[0].said());
    }

    /// How many have begun to fetch.
    fn begun(&self) -> usize {
        let has = |member: &&Member| {
            std::fs::read_dir(member.dir.join("store/objects"))
                .is_ok_and(|mut objects| objects.next().is_some())
        };
        self.members.iter().filter(has).count()
    }

    /// In the end.
    fn judge(&self, what: String, start: Instant, by_timer: usize) -> Row {
        let seconds = start.elapsed().as_secs_f64();
        let host = &BUILT.builder.host;
        let objects = size(&host.store().join("objects"));
        let most = objects + PACKAGES as u64 * OVERHEAD;
        let mut fetched = 0;
        for member in &self.members {
            let said = member.said();
            assert!(member.is_ready(), "{}: {}", member.dir.display(), member.said());
            assert!(!said.contains("building"), "{said}");
            for package in packages() {
                assert!(said.contains(&format!("fetched {package}")), "{said}");
            }
            assert!(member.fetched() <= most, "{} bytes fetched, more than {most}", member.fetched());
            fetched = fetched.max(member.fetched());
        }
        let objects = size(&self.members[0].dir.join("store/objects"));
        Row { what, seconds, by_timer, fetched, objects }
    }
}

fn print(rows: &[Row], builders: usize) {
    let (hosts, built) = (hosts(), BUILT.seconds);
    let mut text = format!(
        "\n{hosts} hosts, {builders} of which could build; {PACKAGES} packages for {}; one build of each, {built:.0} s\n",
        k()
    );
    let head = ["cache", "all ready, s", "hosts/s", "by the timer", "kB a host", "of it objects"];
    let mut line = |cells: [String; 6]| {
        let [what, cells @ ..] = cells;
        write!(text, "{what:<38}").unwrap();
        cells.iter().for_each(|cell| write!(text, " {cell:>13}").unwrap());
        text.push('\n');
    };
    line(head.map(str::to_owned));
    for Row { what, seconds, by_timer, fetched, objects } in rows {
        let one = |value: f64| format!("{value:.1}");
        let (fetched, objects) = (*fetched as f64 / 1e3, *objects as f64 / 1e3);
        let rate = hosts as f64 / seconds;
        line([what.clone(), one(*seconds), one(rate), by_timer.to_string(), one(fetched), one(objects)]);
    }
    std::io::stdout().write_all(text.as_bytes()).unwrap();
}

#[test]
fn hosts_that_start_at_once_fetch_what_one_host_built() {
    let builders = hosts().div_ceil(20);
    let mut rows = Vec::new();
    for server in Server::all() {
        server.fill();
        let crowd = Crowd::of(&server, builders);
        let start = Instant::now();
        let failed = Crowd::end(Crowd::begin(&crowd.all(), &["install", "-k", k()]));
        Crowd::timer(&failed);
        rows.push(crowd.judge(format!("{}, all at once", server.name()), start, failed.len()));
    }
    print(&rows, builders);
}

#[test]
fn no_host_is_lost_if_the_server_is_killed_while_all_fetch() {
    // One that could build would not wait for the server, but compile.
    let builders = 0;
    let away = Duration::from_secs(if large().is_some() { 10 } else { 2 });
    let mut rows = Vec::new();
    for mut server in Server::all() {
        server.fill();
        let crowd = Crowd::of(&server, builders);
        let start = Instant::now();
        let children = Crowd::begin(&crowd.all(), &["install", "-k", k()]);
        while crowd.begun() < hosts() / 2 {
            std::thread::sleep(Duration::from_millis(10));
        }
        server.kill();
        std::thread::sleep(away);
        server.restart();
        let failed = Crowd::end(children);
        Crowd::timer(&failed);
        let what = format!("{}, killed for {} s", server.name(), away.as_secs());
        rows.push(crowd.judge(what, start, failed.len()));
    }
    print(&rows, builders);
}

#[test]
fn hosts_that_come_before_the_builder_are_made_ready_by_their_timers() {
    // One that could build would not wait for the builder either.
    let builders = 0;
    let mut rows = Vec::new();
    for server in Server::all() {
        let crowd = Crowd::of(&server, builders);
        let all = crowd.all();
        assert!(Crowd::end(Crowd::begin(&all, &["hooks", "run", "kernel-installed", k()])).is_empty());
        Crowd::timer(&all);
        assert!(all.iter().all(|member| !member.is_ready() && member.fetched() == 0));
        server.fill();
        // Their turn comes in an hour.
        Crowd::timer(&all);
        assert!(all.iter().all(|member| member.fetched() == 0));
        all.iter().for_each(|member| member.later(3600));
        let start = Instant::now();
        Crowd::timer(&all);
        rows.push(crowd.judge(format!("{}, before the builder", server.name()), start, hosts()));
    }
    print(&rows, builders);
}
