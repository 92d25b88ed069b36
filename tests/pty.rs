//! Runs of kcache on a terminal. Each has a pty of its own, from script(1): without one, kcache draws no bars and prints no
//! colours.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use fs_err as fs;

use crate::host::{Host, PATH};

/// Columns of the terminal.
pub const COLUMNS: usize = 80;

/// Runs a command on a terminal of [`COLUMNS`] columns. Its exit code, and every byte that it wrote there.
pub fn run(host: &Host, typed: &Command) -> (Option<i32>, String) {
    let word = |word: &OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"));
    let words: Vec<String> = [typed.get_program()].into_iter().chain(typed.get_args()).map(word).collect();
    let log = host.dir().join("typescript");
    let mut script = Command::new("script");
    script.env_clear().env("PATH", PATH).env("HOME", host.dir().join("home"));
    script.envs(typed.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm");
    script.env("TMPDIR", host.dir().join("tmp")).current_dir(host.dir());
    // A pty of script's has no size unless script itself is on a terminal.
    script.arg("-qefc").arg(format!("stty cols {COLUMNS} rows 24; exec {}", words.join(" "))).arg(&log);
    let status = script.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
    let text = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
    // The first and the last line are script's own, and name the command.
    (status.code(), text.lines().filter(|line| !line.starts_with("Script ")).collect::<Vec<_>>().join("\n"))
}
