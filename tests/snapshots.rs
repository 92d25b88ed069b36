//! Everything that kcache prints, as an administrator sees it: each command in each of its states.
//!
//! A snapshot is a file, `tests/snapshots/SUBJECT/STATE.txt`, with a command's whole output on a terminal of 80 columns, in
//! a pipe, and with `--json`. [`redact`] replaces what differs between hosts and runs. A test compares and writes nothing; a
//! missing or different file is a failure that shows the difference. If a change of the output is meant, rewrite the files
//! and read the diff:
//!
//! ```text
//! UPDATE_EXPECT=1 cargo test --test kcache snapshots::
//! ```
//!
//! A test here goes through the states of one host, in order. What a command does is tested elsewhere; this is about what it
//! says.

mod authors;
mod caches;
mod dkms;
mod help;
mod install;
mod mistakes;
mod redact;
pub mod screen;
mod upkeep;
mod verdict;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;

use crate::host::{FIXTURES, Host, Run};
use crate::pty;
use redact::Redaction;
use screen::screen;

fn k() -> &'static str {
    &FIXTURES.new
}

/// Where and how a command is run.
#[derive(Clone, Copy)]
struct Stage<'a> {
    host: &'a Host,
    /// Runs before each of the three runs of a command, for a command that changes what it prints the next time.
    before: &'a dyn Fn(&Host),
    command: fn(&Host, &[&str]) -> Command,
    /// The name in the prompt.
    program: &'static str,
    /// Whether it is also run with `--json`.
    has_json: bool,
    /// A text that stands in many outputs, and what stands in its place.
    left_out: (&'a str, &'a str),
}

impl<'a> Stage<'a> {
    fn on(host: &'a Host) -> Stage<'a> {
        Stage {
            host,
            before: &|_| (),
            command: Host::command,
            program: "kcache",
            has_json: true,
            left_out: ("\0", ""),
        }
    }

    fn before(self, before: &'a dyn Fn(&Host)) -> Stage<'a> {
        Stage { before, ..self }
    }

    fn without_json(self) -> Stage<'a> {
        Stage { has_json: false, ..self }
    }

    /// Compares all that a command prints with the snapshot of this name.
    #[track_caller]
    fn shows(&self, name: &str, words: &[&str]) {
        let mut redaction = self.redaction();
        let typed: Vec<String> = words.iter().map(|word| typed(word)).collect();
        let prompt = redaction.apply(&format!("$ {} {}", self.program, typed.join(" ")));
        let (code, written) = self.on_terminal(words);
        let shown = redaction.apply(&screen(&written));
        let mut text = format!("{}\n\n-- terminal, exit {code}\n{shown}", prompt.trim_end());
        let mut before = None;
        let json = self.has_json.then_some(("--json", &["--json"][..]));
        for (form, option) in std::iter::once(("pipe", &[][..])).chain(json) {
            let run = self.piped(&[option, words].concat());
            let streams = [run.stdout, run.stderr].map(|stream| redaction.apply(&stream));
            let code = run.code.unwrap();
            write!(text, "\n-- {form}, exit {code}{}", told(&streams, &shown, before.as_ref())).unwrap();
            before = Some(streams);
        }
        compare(name, &text.replace(self.left_out.0, self.left_out.1));
    }

    /// Compares what it sends to a terminal, with each escape character as `ESC`. For commands that draw no bars.
    #[track_caller]
    fn shows_colours(&self, name: &str, words: &[&str]) {
        let (_, written) = self.on_terminal(words);
        compare(name, &(self.redaction().apply(&written.replace('\x1b', "ESC")) + "\n"));
    }

    fn redaction(&self) -> Redaction<'a> {
        Redaction::new(self.host.dir(), [(&FIXTURES.new, "N"), (&FIXTURES.old, "O")])
    }

    fn on_terminal(&self, words: &[&str]) -> (i32, String) {
        (self.before)(self.host);
        let (code, written) = pty::run(self.host, &(self.command)(self.host, words));
        (code.unwrap(), written)
    }

    fn piped(&self, words: &[&str]) -> Run {
        (self.before)(self.host);
        Run::of((self.command)(self.host, words))
    }
}

/// A word as it would be typed into a shell.
fn typed(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-=:,%@".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

/// stdout and stderr of a run; in a few words where they are what the terminal showed, or what the run before printed.
fn told(streams: &[String; 2], shown: &str, before: Option<&[String; 2]>) -> String {
    match streams.each_ref().map(String::as_str) {
        _ if Some(streams) == before => ": as in a pipe\n".to_owned(),
        ["", ""] => ": nothing\n".to_owned(),
        [stdout, ""] if stdout == shown => ": the same on stdout\n".to_owned(),
        ["", stderr] if stderr == shown => ": the same on stderr\n".to_owned(),
        [stdout, ""] => format!("\nstdout:\n{stdout}"),
        ["", stderr] => format!("\nstderr:\n{stderr}"),
        [stdout, stderr] => format!("\nstdout:\n{stdout}stderr:\n{stderr}"),
    }
}

/// Compares a text with a snapshot; with `UPDATE_EXPECT` set, writes it instead.
#[track_caller]
fn compare(name: &str, text: &str) {
    let file = directory().join(name).with_extension("txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
    }
    expect_test::expect_file![file].assert_eq(text);
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")
}

/// The names of the snapshots below a subject.
fn names(subject: &str) -> Vec<String> {
    let files = fs::read_dir(directory().join(subject)).unwrap().map(|entry| entry.unwrap().path());
    files.map(|file| format!("{subject}/{}", file.file_stem().unwrap().display())).collect()
}

#[test]
fn every_snapshot_has_its_test() {
    let entries: Vec<PathBuf> =
        fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (subjects, sources): (Vec<&PathBuf>, Vec<&PathBuf>) = entries.iter().partition(|path| path.is_dir());
    let code: String = sources.into_iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    for subject in subjects.iter().map(|path| path.file_name().unwrap().to_str().unwrap()) {
        // Those of `help` come from a list; its own test compares.
        for name in names(subject).iter().filter(|_| subject != "help") {
            assert!(code.contains(&format!("\"{name}\"")), "no test has the snapshot {name}; delete it");
        }
    }
}
