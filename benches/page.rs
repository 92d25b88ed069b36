//! docs/performance.md: what a suite has measured goes between two marks of the page, and into a figure beside it.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::Command;

use fs_err as fs;

use crate::history;
use crate::measure::{Row, Table};

/// Puts a suite's table into its part of the page, and draws its figure.
pub fn write(project: &Path, suite: &str, table: &Table) -> io::Result<()> {
    let path = project.join("docs/performance.md");
    let page = fs::read_to_string(&path)?;
    let (begin, end) = (format!("<!-- make bench: {suite} -->\n"), "<!-- end -->\n");
    let parts = page.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(end)?.1)));
    let (head, tail) = parts.ok_or_else(|| io::Error::other(format!("{} has no {begin}", path.display())))?;
    let figures = project.join("docs/performance");
    fs::create_dir_all(&figures)?;
    // Both work in a system of their own, on ext4 in a file (benches/in_room.sh).
    let is_in_room = matches!(suite, "dkms" | "large");
    let bars = match is_in_room {
        true => Bar::of_rows(&table.rows),
        false => table.rows.iter().filter_map(Bar::of_limit).collect(),
    };
    let (title, unit) = match is_in_room {
        true => ("kcache beside dkms, in seconds", " s"),
        false => ("each ratio, as a part of what it may be at most", ""),
    };
    let mut text = measured(table, is_in_room);
    if !bars.is_empty() {
        fs::write(figures.join(format!("{suite}.svg")), svg(title, unit, &bars))?;
        text += &format!("\n![{title}](performance/{suite}.svg)\n");
    }
    fs::write(&path, format!("{head}{begin}{text}{end}{tail}"))
}

fn measured(table: &Table, is_in_room: bool) -> String {
    let mut text = format!("{}\n\n", machine(is_in_room));
    if !table.rows.is_empty() {
        text += "| what | against | kcache | plain | ratio | at most |\n|---|---|--:|--:|--:|--:|\n";
        table.rows.iter().for_each(|row| text += &(row.line() + "\n"));
    }
    if !table.costs.is_empty() {
        text += "\n| command | peak memory | system calls | those of the plain tool |\n|---|--:|--:|--:|\n";
        table.costs.iter().for_each(|cost| text += &(cost.line() + "\n"));
    }
    if !table.scaled.is_empty() {
        text += "| what | time | peak memory |\n|---|--:|--:|\n";
        table.scaled.iter().for_each(|scaled| text += &(scaled.line() + "\n"));
    }
    if !table.steps.is_empty() {
        text += history::HEAD;
        table.steps.iter().for_each(|step| text += &(step.line() + "\n"));
    }
    text
}

/// Where and when.
fn machine(is_in_room: bool) -> String {
    let said = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output().ok();
        output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("a CPU without a name", |(_, model)| model);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let temporary = std::env::temp_dir().display().to_string();
    let mounted = said("findmnt", &["-n", "-o", "FSTYPE", "-T", &temporary]);
    let file_system = if is_in_room { "ext4 in a file" } else { mounted.lines().next().unwrap_or_default() };
    format!(
        "{} CPUs ({model}), Linux {}, {file_system}, {}.",
        cpus,
        said("uname", &["-r"]).split('-').next().unwrap_or_default(),
        said("date", &["+%Y-%m-%d"])
    )
}

/// A bar of a figure.
struct Bar {
    label: String,
    value: f64,
    /// Whether it is what is to be looked at.
    ours: bool,
}

impl Bar {
    fn of_limit(row: &Row) -> Option<Bar> {
        Some(Bar { label: row.what.clone(), value: row.ratio() / row.at_most?, ours: true })
    }

    /// Both sides of the rows that have dkms on the other.
    fn of_rows(rows: &[Row]) -> Vec<Bar> {
        let beside = rows.iter().filter(|row| row.against.starts_with("dkms"));
        let both = |row: &Row| {
            let against = format!("{}: {}", row.what, row.against);
            let ours = Bar { label: format!("{}: kcache", row.what), value: row.ours, ours: true };
            [Bar { label: against, value: row.plain, ours: false }, ours]
        };
        beside.flat_map(both).collect()
    }
}

const WIDTH: f64 = 900.0;
const ROOM_FOR_LABELS: f64 = 470.0;
const LINE: f64 = 24.0;

/// A figure of horizontal bars on a logarithmic scale, with a line at 1 where that lies among them.
fn svg(title: &str, unit: &str, bars: &[Bar]) -> String {
    let least = bars.iter().map(|bar| bar.value).fold(f64::INFINITY, f64::min).min(1.0) / 1.5;
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max).max(1.0) * 1.5;
    let scale = |value: f64| {
        let part = (value / least).ln() / (most / least).ln();
        part * (WIDTH - ROOM_FOR_LABELS - 90.0)
    };
    let height = LINE * (bars.len() as f64 + 2.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"8\" y=\"18\" font-weight=\"bold\">{title}</text>\n"
    );
    for (at, bar) in bars.iter().enumerate() {
        let y = LINE * (at as f64 + 1.2);
        let (width, colour) = (scale(bar.value).max(1.0), if bar.ours { "#2a6f97" } else { "#b0b0b0" });
        let number = if bar.value < 10.0 { format!("{:.2}", bar.value) } else { format!("{:.0}", bar.value) };
        let label = bar.label.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            text,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{label}</text>\
             <rect x=\"{ROOM_FOR_LABELS}\" y=\"{y:.0}\" width=\"{width:.0}\" height=\"16\" fill=\"{colour}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{number}{unit}</text>",
            ROOM_FOR_LABELS - 8.0,
            y + 12.0,
            ROOM_FOR_LABELS + width + 6.0,
            y + 12.0,
        );
    }
    if unit.is_empty() {
        let x = ROOM_FOR_LABELS + scale(1.0);
        let _ = writeln!(
            text,
            "<line x1=\"{x:.0}\" y1=\"{LINE}\" x2=\"{x:.0}\" y2=\"{height}\" stroke=\"#c1121f\" stroke-dasharray=\"4 3\"/>"
        );
    }
    text + "</svg>\n"
}
