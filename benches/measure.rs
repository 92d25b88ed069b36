//! How it is measured: both sides alternately, several times; medians, and the ratio of the medians.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::history::Step;
use crate::scale::Scaled;

/// What was measured.
#[derive(Default)]
pub struct Table {
    pub rows: Vec<Row>,
    pub costs: Vec<Cost>,
    pub scaled: Vec<Scaled>,
    pub steps: Vec<Step>,
}

impl Table {
    /// Adds a row, and says so.
    pub fn add(&mut self, row: Row) {
        println!("{}", row.line());
        self.rows.push(row);
    }

    pub fn scale(&mut self, scaled: Scaled) {
        println!("{}", scaled.line());
        self.scaled.push(scaled);
    }

    pub fn step(&mut self, step: Step) {
        println!("{}", step.line());
        self.steps.push(step);
    }

    pub fn cost(&mut self, cost: Cost) {
        println!("{}", cost.line());
        self.costs.push(cost);
    }
}

/// kcache beside something else.
pub struct Row {
    pub what: String,
    pub against: String,
    /// Seconds.
    pub ours: f64,
    pub plain: f64,
    /// The ratio that is aimed at.
    pub at_most: Option<f64>,
}

impl Row {
    /// Runs both alternately, once more than it counts.
    pub fn compare(
        what: &str,
        against: &str,
        times: usize,
        at_most: Option<f64>,
        mut ours: impl FnMut() -> Duration,
        mut plain: impl FnMut() -> Duration,
    ) -> Row {
        ours();
        plain();
        let pairs: Vec<(Duration, Duration)> = (0..times).map(|_| (ours(), plain())).collect();
        let side = |side: fn(&(Duration, Duration)) -> Duration| {
            median(pairs.iter().map(|pair| side(pair).as_secs_f64()).collect())
        };
        let (what, against) = (what.to_owned(), against.to_owned());
        Row { what, against, ours: side(|pair| pair.0), plain: side(|pair| pair.1), at_most }
    }

    pub fn ratio(&self) -> f64 {
        self.ours / self.plain
    }

    /// A row of a table in Markdown.
    pub fn line(&self) -> String {
        let Row { what, against, ours, plain, at_most } = self;
        let at_most = at_most.map_or(String::new(), |most| most.to_string());
        let ratio = self.ratio();
        let ratio = if ratio < 0.1 { format!("{ratio:.4}") } else { format!("{ratio:.2}") };
        format!("| {what} | {against} | {} | {} | {ratio} | {at_most} |", time(*ours), time(*plain))
    }
}

/// What else a command takes.
pub struct Cost {
    pub what: String,
    /// KiB that the process itself had resident at most.
    pub memory: u32,
    /// System calls of it and its children.
    pub calls: Option<u64>,
    /// Those of the plain tool.
    pub plain_calls: Option<u64>,
}

impl Cost {
    /// Of a command, run twice.
    pub fn of(what: &str, first: &mut Command, second: &mut Command, plain: Option<&mut Command>) -> Cost {
        let (memory, calls, plain_calls) = (peak(first), calls(second), plain.and_then(calls));
        Cost { what: what.to_owned(), memory, calls, plain_calls }
    }

    pub fn line(&self) -> String {
        let number = |count: Option<u64>| count.map_or(String::new(), |count| count.to_string());
        let memory = f64::from(self.memory) / 1024.0;
        format!("| {} | {memory:.1} MiB | {} | {} |", self.what, number(self.calls), number(self.plain_calls))
    }
}

/// A time with three digits at most.
fn time(seconds: f64) -> String {
    match seconds {
        ..0.0995 => format!("{:.1} ms", seconds * 1e3),
        ..1.0 => format!("{:.0} ms", seconds * 1e3),
        ..100.0 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// How many system calls a command makes, with its children (strace -c). `None` where there is no strace.
fn calls(command: &mut Command) -> Option<u64> {
    let counts = tempfile::NamedTempFile::new().ok()?;
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-o"]).arg(counts.path()).arg(command.get_program()).args(command.get_args());
    strace.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    strace.status().ok().filter(|status| status.success())?;
    let text = fs::read_to_string(counts.path()).ok()?;
    let total = text.lines().find(|line| line.trim_end().ends_with("total"))?;
    total.split_whitespace().nth(3)?.parse().ok()
}

/// Lets the page cache go (the kernel's sysctl/vm.rst, `drop_caches`).
pub fn without_page_cache() {
    run(&mut Command::new("sync"));
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root");
}

pub fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Runs a command that must succeed; how long it took.
pub fn run(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{command:?}: {status:?}");
    start.elapsed()
}

/// Runs a command that must succeed; the most memory that the process itself had resident, in KiB (proc(5), VmHWM).
pub fn peak(command: &mut Command) -> u32 {
    let Ok(mut child) = command.spawn() else { return 0 };
    let mut most = 0;
    while let Ok(None) = child.try_wait() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let high = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        most = most.max(high.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    most
}

/// One statx a file, one thread.
pub fn walk(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let mut files = 0;
    for entry in entries.flatten() {
        files += 1;
        if entry.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            files += walk(&entry.path());
        }
    }
    files
}

/// Reads every file, one thread, one buffer.
pub fn read_all(dir: &Path) -> std::io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    let mut directories = vec![dir.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                let mut file = std::fs::File::open(entry.path())?;
                while file.read(&mut buffer)? > 0 {}
            }
        }
    }
    Ok(())
}

pub fn modules_of(dir: &Path) -> Vec<PathBuf> {
    let mut modules = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            modules.extend(modules_of(&path));
        } else if path.to_string_lossy().contains(".ko") {
            modules.push(path);
        }
    }
    modules
}

pub fn copy_synced(file: &Path, to: &Path) {
    let to = to.join(file.file_name().unwrap_or_default());
    if fs::copy(file, &to).is_ok()
        && let Ok(file) = fs::File::open(&to)
    {
        drop(file.sync_all());
    }
}

pub fn copy(from: &Path, to: &Path) {
    drop(fs::create_dir_all(to.parent().unwrap_or(to)));
    run(Command::new("cp").args(["-a", "--reflink=auto", "-T"]).arg(from).arg(to));
}
