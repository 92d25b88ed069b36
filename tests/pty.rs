//! Runs of kcache on a terminal. Each has a pty of its own, from script(1): without one, kcache draws no bars and prints no
//! colours.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use fs_err as fs;

use crate::host::{Host, PATH};

/// Columns of the terminal.
pub const COLUMNS: usize = 80;

/// Runs a command on a terminal of [`COLUMNS`] columns. Its exit code, and every byte that it wrote there.
pub fn run(host: &Host, typed: &Command) -> (Option<i32>, String) {
    run_with(host, typed, Stdio::null(), |_| ())
}

/// The same with somebody at the keyboard: `keys` gets the file that the terminal's content goes to.
pub fn typing(
    host: &Host,
    typed: &Command,
    keys: impl FnOnce(&Path, &mut ChildStdin),
) -> (Option<i32>, String) {
    run_with(host, typed, Stdio::piped(), |(log, child)| {
        let mut keyboard = child.stdin.take().unwrap();
        keys(log, &mut keyboard);
    })
}

fn run_with(
    host: &Host,
    typed: &Command,
    keyboard: Stdio,
    keys: impl FnOnce((&Path, &mut Child)),
) -> (Option<i32>, String) {
    let word = |word: &OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"));
    let words: Vec<String> = [typed.get_program()].into_iter().chain(typed.get_args()).map(word).collect();
    let log = host.dir().join("typescript");
    let _ = fs::remove_file(&log); // of a run before
    let mut script = Command::new("script");
    script.env_clear().env("PATH", PATH).env("HOME", host.dir().join("home")).env("TERM", "xterm");
    script.envs(typed.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.env("TMPDIR", host.dir().join("tmp")).current_dir(host.dir());
    // A pty of script's has no size unless script itself is on a terminal.
    script.arg("-qefc").arg(format!("stty cols {COLUMNS} rows 24; exec {}", words.join(" "))).arg(&log);
    let mut child = script.stdin(keyboard).stdout(Stdio::null()).spawn().unwrap();
    keys((&log, &mut child));
    let status = child.wait().unwrap();
    let text = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
    // The first and the last line are script's own, and name the command.
    (status.code(), text.lines().filter(|line| !line.starts_with("Script ")).collect::<Vec<_>>().join("\n"))
}
