//! The name and version that a `dkms.conf` assigns, as far as they can be told without bash, by which packages are found.
//!
//! Most assign them literally. Others read the version from a file beside the recipe, so that the Makefile and the recipe agree:
//! `PACKAGE_VERSION="$(cat VERSION)"`; or put it together from variables. What takes more is known once bash has evaluated the
//! file for a kernel.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use crate::bounded_read;
use crate::recipe::{is_flat_name, is_version};

/// Limit in bytes on a file that contains a version.
const MOST_VERSION: u64 = 4 << 10;

/// The name and version that a `dkms.conf` assigns literally. Most do, and then finding the package needs no bash.
pub fn literal_name(text: &str) -> (Option<String>, Option<String>) {
    let assigned = |variable: &str, is_good: fn(&str) -> bool| {
        assignments(text).find(|(name, value)| *name == variable && is_good(unquoted(value)))
    };
    let owned = |(_, value): (&str, &str)| unquoted(value).to_owned();
    (assigned("PACKAGE_NAME", is_flat_name).map(owned), assigned("PACKAGE_VERSION", is_version).map(owned))
}

/// The same of a `dkms.conf` in its source, where they may come from variables of the file, or from other files of the source.
pub fn name_in(source: &Path, text: &str) -> (Option<String>, Option<String>) {
    let (name, version) = literal_name(text);
    if name.is_some() && version.is_some() {
        return (name, version);
    }
    let mut known = BTreeMap::new();
    for (variable, value) in assignments(text) {
        if let Some(value) = expanded(unquoted(value), &known, source) {
            known.insert(variable, value);
        }
    }
    let good = |variable: &str, is_good: fn(&str) -> bool| {
        known.get(variable).filter(|value| is_good(value)).map(ToString::to_string)
    };
    (
        name.or_else(|| good("PACKAGE_NAME", is_flat_name)),
        version.or_else(|| good("PACKAGE_VERSION", is_version)),
    )
}

/// The assignments of a file, each alone on its line, as they are written.
fn assignments(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once('=')?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let value = value.split(" #").next().unwrap_or(value).trim_end();
        (!name.is_empty() && name.chars().all(is_name)).then_some((name, value))
    })
}

fn unquoted(value: &str) -> &str {
    match value.as_bytes() {
        [b'"', .., b'"'] | [b'\'', .., b'\''] => &value[1..value.len() - 1],
        _ => value,
    }
}

/// A value with its variables, and its `$(cat FILE)`, replaced; `None` if it has others.
fn expanded(value: &str, known: &BTreeMap<&str, String>, source: &Path) -> Option<String> {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find(['$', '`']) {
        out.push_str(&rest[..at]);
        let (found, after) = if let Some(command) = rest[at..].strip_prefix("$(") {
            let (command, after) = command.split_once(')')?;
            (contents(command, source)?, after)
        } else if let Some(command) = rest[at..].strip_prefix('`') {
            let (command, after) = command.split_once('`')?;
            (contents(command, source)?, after)
        } else if let Some(name) = rest[at..].strip_prefix("${") {
            let (name, after) = name.split_once('}')?;
            (known.get(name)?.clone(), after)
        } else {
            let name = &rest[at + 1..];
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
            (known.get(&name[..end])?.clone(), &name[end..])
        };
        out.push_str(&found);
        rest = after;
    }
    out.push_str(rest);
    // Words, or another command.
    (!out.contains(|c: char| c.is_whitespace() || "\"'\\(){}|;&<>".contains(c))).then_some(out)
}

/// What `cat FILE` or `< FILE` prints, for a file of the source.
fn contents(command: &str, source: &Path) -> Option<String> {
    let command = command.trim();
    let file = command.strip_prefix("cat ").or_else(|| command.strip_prefix('<'))?;
    let file = Path::new(unquoted(file.trim()));
    let is_below = file.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let bytes = is_below.then(|| bounded_read::bytes_in(source, file, MOST_VERSION).ok().flatten())??;
    Some(String::from_utf8(bytes).ok()?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_names_are_read_without_bash() {
        let check = |text: &str, name: Option<&str>, version: Option<&str>| {
            assert_eq!(literal_name(text), (name.map(str::to_owned), version.map(str::to_owned)), "{text}");
        };
        check(
            "PACKAGE_NAME=\"acpi-call\"\r\nPACKAGE_VERSION='1.2~rc1'\n",
            Some("acpi-call"),
            Some("1.2~rc1"),
        );
        check("PACKAGE_NAME=a # comment\nPACKAGE_VERSION=$(cat VERSION)\n", Some("a"), None);
        check("", None, None);
    }

    #[test]
    fn a_version_is_read_from_a_file_of_the_source_and_put_together_from_variables() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("VERSION", "1.2.2\n"), ("words", "1 2\n"), ("rev", "7")] {
            fs_err::write(dir.path().join(name), text).unwrap();
        }
        fs_err::os::unix::fs::symlink("/etc/hostname", dir.path().join("outside")).unwrap();
        let check = |text: &str, expect: Option<&str>| {
            let (_, version) = name_in(dir.path(), text);
            assert_eq!(version.as_deref(), expect, "{text}");
        };
        check("PACKAGE_VERSION=\"$(cat VERSION)\"\n", Some("1.2.2"));
        check("PACKAGE_VERSION=$(<./VERSION)", Some("1.2.2"));
        check("PACKAGE_VERSION=`cat \"VERSION\"`", Some("1.2.2"));
        check("VER=1.4\nREV=$(cat rev)\nPACKAGE_VERSION=\"${VER}.r$REV\"", Some("1.4.r7"));
        for other in ["$(git describe)", "$(cat words)", "$(cat outside)", "$(cat ../x)", "$(cat none)", "$X"]
        {
            check(&format!("PACKAGE_VERSION={other}"), None);
        }
        let (name, _) = name_in(dir.path(), "NAME=mod\nPACKAGE_NAME=$NAME-dkms\n");
        assert_eq!(name.as_deref(), Some("mod-dkms"));
    }
}
