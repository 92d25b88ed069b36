//! `--help` of kcache and of every command, and `--version`. A command without a snapshot fails here.
//!
//! The global options stand in the help of `install`, and where they are the same in that of every other command, one line
//! says so.

use std::collections::BTreeSet;

use super::{Stage, names, screen::screen};
use crate::host::Host;
use crate::pty::COLUMNS;

/// The commands that `--help` lists: two spaces, a name, and what it does.
fn commands(help: &str) -> Vec<String> {
    let named = help.lines().filter_map(|line| line.strip_prefix("  "));
    let word = |line: &str| {
        line.split_whitespace()
            .next()
            .filter(|_| line.starts_with(|c: char| c.is_ascii_lowercase()))
            .map(str::to_owned)
    };
    named.filter_map(word).filter(|word| word != "help").collect()
}

#[test]
fn help_of_each_command() {
    let host = Host::without_kernels();
    let stage = Stage::on(&host).without_json();
    let help = screen(&stage.on_terminal(&["install", "--help"]).1);
    let global = &help[help.find("Global options:").unwrap()..];
    let without_global = Stage { left_out: (global, "[global options as of install]\n"), ..stage };
    stage.shows("help/kcache", &["--help"]);
    stage.shows("help/version", &["--version"]);
    let mut all: Vec<Vec<String>> = Vec::new();
    for command in commands(&host.kcache(&["--help"]).stdout) {
        let below = host.kcache(&[&command, "--help"]).exits(0).stdout;
        let below =
            below.split_once("Commands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap());
        all.push(vec![command.clone()]);
        all.extend(commands(below).into_iter().map(|name| vec![command.clone(), name]));
    }
    for words in &all {
        let help: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let stage = if help[0] == "install" { stage } else { without_global };
        stage.shows(&format!("help/{}", words.join("-")), &help);
        let shown = screen(&stage.on_terminal(&help).1);
        let wide: Vec<&str> = shown.lines().filter(|line| line.chars().count() > COLUMNS).collect();
        assert!(wide.is_empty(), "{words:?}: wider than the terminal: {wide:?}");
    }
    let names: BTreeSet<String> = names("help").into_iter().collect();
    let expect = all
        .iter()
        .map(|words| format!("help/{}", words.join("-")))
        .chain(["help/kcache", "help/version"].map(str::to_owned));
    assert_eq!(names, expect.collect::<BTreeSet<_>>());
}
