//! Rules about commands: builds should not read the running system, the clock, git or the network, or change the host.

use std::path::Path;

use super::readings::Reading;
use super::shell::{self, Command};
use super::{LintFinding, finding};
use crate::makefile::What;

/// Programs that access the network.
const NETWORK: [&str; 14] = [
    "apt", "apt-get", "aria2c", "curl", "dnf", "ftp", "npm", "pip", "pip3", "rsync", "scp", "svn", "wget",
    "yum",
];

/// git's subcommands that access the network.
const GIT_NETWORK: [&str; 4] = ["clone", "fetch", "pull", "submodule"];

/// Programs that change the running system.
const HOST: [&str; 14] = [
    "depmod",
    "modprobe",
    "insmod",
    "rmmod",
    "sudo",
    "su",
    "systemctl",
    "udevadm",
    "update-initramfs",
    "dracut",
    "dkms",
    "service",
    "mokutil",
    "ldconfig",
];

/// Programs that write to their last argument.
const WRITERS: [&str; 7] = ["cp", "mv", "install", "ln", "mkdir", "tee", "touch"];

/// Directories of the system and of users.
const SYSTEM: [&str; 11] = [
    "/lib/modules/",
    "/etc/",
    "/usr/",
    "/boot/",
    "/lib/firmware",
    "/opt/",
    "/root/",
    "/home/",
    "$HOME/",
    "${HOME}/",
    "~/",
];

/// Findings in the commands and values of a makefile.
pub fn in_makefile(reading: &Reading) -> Vec<LintFinding> {
    let mut found = Vec::new();
    for line in reading.live() {
        let (text, is_command) = match &line.what {
            What::Command { text, .. } => (text.as_str(), true),
            What::Assignment { value, .. } => (value.as_str(), false),
            What::Other(text) => (text.as_str(), false),
            What::Rule { .. } => continue,
        };
        let may_fail = text.trim_start_matches('@').starts_with('-');
        let shell = shell::commands(&unexpanded(reading, text.trim_start_matches(['@', '-', '+'])));
        // A value is not a command; only its substitutions are.
        let commands = if is_command { &shell[..] } else { &shell[..shell.len().saturating_sub(1)] };
        let mut wrongs: Vec<_> =
            in_words(text).into_iter().chain(commands.iter().filter_map(in_command)).collect();
        // Makefiles try several paths in turn; which one counts cannot be determined.
        wrongs.retain(|(name, _)| line.sure || !["hard-coded-path", "uname-r"].contains(name));
        if is_command && !may_fail {
            wrongs.extend(
                shell::commands(&reading.as_shell(text.trim_start_matches(['@', '+'])))
                    .iter()
                    .filter_map(|command| on_host(command, &reading.dir)),
            );
        }
        found.extend(
            wrongs.into_iter().filter_map(|(name, what)| finding(name, &reading.file, line.number, what)),
        );
    }
    found
}

/// The text of a line without its variables' values, which are checked where they are assigned.
fn unexpanded(reading: &Reading, text: &str) -> String {
    super::calls::as_shell(&Default::default(), text, &reading.dir, &reading.build)
}

/// Findings in a line of shell, in a recipe or a script.
pub fn in_shell(file: &Path, line: usize, text: &str) -> Vec<LintFinding> {
    let commands = shell::commands(text);
    let wrongs = in_words(text)
        .into_iter()
        .chain(commands.iter().filter_map(in_command))
        .chain(commands.iter().filter_map(|command| on_host(command, "")));
    wrongs.filter_map(|(name, what)| finding(name, file, line, what)).collect()
}

type Wrong = (&'static str, String);

/// Mistakes that the words alone show.
fn in_words(text: &str) -> Vec<Wrong> {
    let mut found = Vec::new();
    for words in ["uname -r", "uname --kernel-release", "/proc/version", "/proc/sys/kernel/osrelease"] {
        if text.contains(words) && !text.contains("/proc/version_signature") {
            found.push(("uname-r", format!("uses {words} to select the kernel")));
        }
    }
    let is_end = |c: char| c.is_whitespace() || "\"'`;:)=,".contains(c);
    for (at, _) in text.match_indices('/') {
        let is_start = text[..at]
            .chars()
            .next_back()
            .is_none_or(|c| is_end(c) || c == '(' || text[..at].ends_with("-I"));
        let path = &text[at..];
        let path = &path[..path.find(is_end).unwrap_or(path.len())];
        if is_start && is_hard_coded(path) {
            found.push(("hard-coded-path", format!("hard-coded path {path}")));
        }
    }
    found
}

fn is_hard_coded(path: &str) -> bool {
    let below = |prefix: &str| path.strip_prefix(prefix).filter(|rest| !rest.is_empty());
    let release = below("/lib/modules/").or_else(|| below("/usr/src/linux-headers-"));
    path == "/usr/src/linux"
        || path.starts_with("/usr/src/linux/")
        || release.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        || below("/home/").is_some_and(|rest| !rest.starts_with('$'))
}

/// The mistake of a single command, wherever it is.
fn in_command(command: &Command) -> Option<Wrong> {
    let (program, arguments) = command.program();
    let first = arguments.iter().find(|word| !word.starts_with('-')).map(String::as_str);
    match (program, first) {
        ("date", _)
            if !arguments
                .iter()
                .any(|word| word.starts_with("-d") || word.starts_with("--date") || word == "-r") =>
        {
            Some(("date-command", "calls date".to_owned()))
        }
        ("git", Some(verb)) if GIT_NETWORK.contains(&verb) => {
            Some(("network", format!("git {verb} uses the network")))
        }
        ("git", Some(verb))
            if ["describe", "rev-parse", "rev-list", "log", "show", "status", "tag"].contains(&verb) =>
        {
            Some(("git-command", format!("calls git {verb}")))
        }
        (program, _) if NETWORK.contains(&program) => {
            Some(("network", format!("{program} uses the network")))
        }
        _ => None,
    }
}

/// The effect of a command that runs in a directory of the source tree on what is outside of it.
fn on_host(command: &Command, dir: &str) -> Option<Wrong> {
    let (program, arguments) = command.program();
    if HOST.contains(&program) {
        let asks = ["-n", "-V", "--version", "-h", "--help", "-k", "status"];
        let only_asks = arguments.iter().any(|word| asks.contains(&word.as_str()));
        return (!only_asks).then(|| ("touches-host", format!("calls {program}")));
    }
    if program == "make" && arguments.iter().any(|word| word == "modules_install") {
        return Some(("touches-host", "runs make modules_install during the build".to_owned()));
    }
    let redirected =
        arguments.iter().enumerate().find_map(|(at, word)| match word.trim_start_matches(['1', '2']) {
            ">" | ">>" => arguments.get(at + 1).map(String::as_str),
            word => word.strip_prefix(">>").or_else(|| word.strip_prefix('>')),
        });
    let operand = arguments.iter().rev().find(|word| !word.contains('>')).map(String::as_str);
    let targets = [redirected, operand.filter(|_| WRITERS.contains(&program))];
    let is_outside =
        |target: &&str| SYSTEM.iter().any(|directory| target.starts_with(directory)) || is_above(target, dir);
    let target = targets.into_iter().flatten().find(is_outside)?;
    Some(("touches-host", format!("{program} writes to {target}")))
}

/// Whether a relative path leads out of the source tree from a directory in it.
fn is_above(path: &str, dir: &str) -> bool {
    let depth = dir.split('/').filter(|part| !part.is_empty()).count();
    path.split('/').take_while(|part| *part == "..").count() > depth
}
