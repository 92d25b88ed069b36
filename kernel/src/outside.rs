//! Directories outside of a source tree that its makefiles and sources refer to: `ccflags-y := -I$(src)/../include`.
//!
//! A build sees the tree that it was given, and nothing beside it. If only the kernel part of a project was given, what it
//! includes from the rest is missing. Only paths that exist are reported: drivers that were copied from the kernel's own
//! tree keep paths of that one.

use std::io;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;

use crate::bounded_read;
use crate::makefile;

/// Limits on the makefiles that are read.
const DEEPEST: usize = 5;
const MOST: usize = 300;

/// So many directories above a tree are searched for a header.
const ABOVE: usize = 4;

/// A place where a makefile refers to an existing directory outside of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The makefile, relative to the tree.
    pub file: PathBuf,
    /// Line number, from 1.
    pub line: usize,
    /// The directory, as an absolute path.
    pub directory: PathBuf,
}

/// A header that a build did not find, because it is outside of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Path of the header.
    pub path: PathBuf,
    /// The nearest directory that contains both the header and the tree.
    pub both: PathBuf,
}

/// Every reference of a tree's makefiles to an existing directory outside; `top` is absolute.
pub fn references(top: &Path) -> io::Result<Vec<Reference>> {
    let mut found = Vec::new();
    let (mut open, mut left) = (vec![(PathBuf::new(), DEEPEST)], MOST);
    while let Some((dir, depth)) = open.pop() {
        for entry in fs::read_dir(top.join(&dir))? {
            let entry = entry?;
            let (path, kind) = (dir.join(entry.file_name()), entry.file_type()?);
            let name = entry.file_name().to_string_lossy().into_owned();
            if kind.is_dir() && depth > 0 && !name.starts_with('.') {
                open.push((path, depth - 1));
            } else if kind.is_file() && left > 0 && makefile::is_name(&name) {
                left -= 1;
                let text = bounded_read::text_in(top, &path)?.unwrap_or_default();
                let lines = makefile::joined(&text);
                let above: Vec<(String, String)> =
                    lines.iter().filter_map(|(_, line)| directory_above(line)).collect();
                for (number, line) in lines {
                    let used = |line: String, (name, path): &(String, String)| {
                        line.replace(&format!("$({name})"), path).replace(&format!("${{{name}}}"), path)
                    };
                    let line = above.iter().fold(line, used);
                    let outside = climbing(&line).filter_map(|climb| leaving(top, &dir.join(climb)));
                    let existing = outside.filter(|directory| directory.is_dir());
                    found.extend(existing.map(|directory| Reference {
                        file: path.clone(),
                        line: number,
                        directory,
                    }));
                }
            }
        }
    }
    found.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    found.dedup();
    Ok(found)
}

/// The header that a compiler's error is about, if it is outside of the tree; `build` is where the tree was built.
pub fn header(top: &Path, error: &str, build: &Path) -> io::Result<Option<Header>> {
    let Some((place, rest)) = error.split_once(": fatal error: ") else { return Ok(None) };
    let name = rest.split_once(": No such file").or_else(|| rest.split_once(" file not found"));
    let Some(name) =
        name.map(|(name, _)| name.trim_matches(['\'', '"'])).filter(|name| !name.starts_with('/'))
    else {
        return Ok(None);
    };
    let file = Path::new(place.split(':').next().unwrap_or_default());
    let dir = file.strip_prefix(build).unwrap_or(file).parent().unwrap_or(Path::new(""));
    let beside = leaving(top, &dir.join(name));
    let below = references(top)?.into_iter().map(|reference| reference.directory.join(name));
    let above =
        projects(top).flat_map(|project| with_children(&project)).map(|directory| directory.join(name));
    let path =
        beside.into_iter().chain(below).chain(above).find(|path| path.is_file() && !path.starts_with(top));
    Ok(path.map(|path| Header { both: both(top, &path), path }))
}

/// The directories above a tree that belong to the same project: they have a makefile, too. Its flags may be for all.
fn projects(top: &Path) -> impl Iterator<Item = PathBuf> {
    let is_project = |dir: &&Path| ["Makefile", "Kbuild", ".git"].iter().any(|name| dir.join(name).exists());
    top.ancestors().skip(1).take(ABOVE).filter(is_project).map(Path::to_owned)
}

/// A directory and those in it.
fn with_children(dir: &Path) -> Vec<PathBuf> {
    let children =
        fs::read_dir(dir).into_iter().flatten().take(MOST).filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = children.filter(|path| path.is_dir()).collect();
    found.sort();
    found.insert(0, dir.to_owned());
    found
}

/// The parts of a line that begin with `../`: what is before is the makefile's own directory, as it mostly is.
fn climbing(line: &str) -> impl Iterator<Item = &str> {
    let line = line.split(" #").next().unwrap_or(line);
    let is_end = |c: char| c.is_whitespace() || "\"'`;:)=,".contains(c);
    line.match_indices("../").filter(|(at, _)| !line[..*at].ends_with("../")).map(move |(at, _)| {
        let rest = &line[at..];
        &rest[..rest.find(is_end).unwrap_or(rest.len())]
    })
}

/// The variable of a line that assigns a directory above the makefile's own, with that directory: `TOP` and `..` for
/// `TOP := $(shell cd $(src)/.. && pwd)`, `$(realpath ..)`, `$(CURDIR)/..`.
fn directory_above(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim_end_matches([':', '?', '+']).trim();
    let name = name.strip_prefix("export ").unwrap_or(name);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    // One that climbs and goes on is found by itself.
    let at = value.find("..").filter(|_| !name.is_empty() && name.chars().all(is_name))?;
    let (before, path) = value.split_at(at);
    let path = path.split(|c: char| c.is_whitespace() || "\"'`;&)".contains(c)).next()?.trim_end_matches('/');
    let is_start = before.is_empty() || before.ends_with(['/', ' ', '\t', '"', '\'']);
    let climbs = path.split('/').all(|part| part == "..");
    (is_start && climbs).then(|| (name.to_owned(), path.to_owned()))
}

/// The absolute path of one that is relative to the tree, if it leads out of the tree and knows no variables.
fn leaving(top: &Path, relative: &Path) -> Option<PathBuf> {
    let mut whole = top.to_owned();
    for part in relative.components() {
        match part {
            Component::Normal(part) if part.to_str().is_none_or(|part| part.contains('$')) => return None,
            Component::Normal(part) => whole.push(part),
            Component::CurDir => {}
            Component::ParentDir if whole.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    // The root is no project.
    (!whole.starts_with(top) && !top.starts_with(&whole) && both(top, &whole) != Path::new("/"))
        .then_some(whole)
}

/// The nearest directory above two paths.
fn both(one: &Path, other: &Path) -> PathBuf {
    one.components().zip(other.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(makefile: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [("drv/Makefile", makefile), ("include/api.h", ""), ("drv/sub/a.c", "")] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn references_lead_out_of_the_tree_to_what_exists() {
        let check_at = |at: usize, text: &str, expect: bool| {
            let dir = tree(text);
            let found = references(&dir.path().join("drv")).unwrap();
            assert_eq!(!found.is_empty(), expect, "{text}: {found:?}");
            assert!(found.iter().all(|it| it.directory == dir.path().join("include") && it.line == at));
        };
        let check = |line: &str, expect: bool| check_at(1, line, expect);
        check("ccflags-y := -I$(src)/../include", true);
        check("ccflags-y := -DX -I../include -DY", true);
        check("ccflags-y := -I$(src)/../drv/sub", false);
        check("ccflags-y := -I$(src)/sub/../sub", false);
        check("ccflags-y := -I$(src)/../net/core", false);
        check("all: # see ../include", false);
        for value in
            ["$(shell cd $(src)/.. && pwd)", "$(realpath ..)", "$(abspath $(src)/..)", "..", "$(M)/.."]
        {
            check_at(2, &format!("TOP := {value}\nccflags-y := -I$(TOP)/include"), true);
            check_at(2, &format!("TOP := {value}\nccflags-y := -I${{TOP}}/include"), true);
            check_at(2, &format!("TOP := {value}\nccflags-y := -I$(OTHER)/include"), false);
        }
    }

    #[test]
    fn a_missing_header_is_found_beside_the_tree() {
        let check = |makefile: &str, error: &str, expect: bool| {
            let dir = tree(makefile);
            let top = dir.path().join("drv");
            let found = header(&top, error, Path::new("/b")).unwrap();
            let there = Header { path: dir.path().join("include/api.h"), both: dir.path().to_owned() };
            assert_eq!(found, expect.then_some(there), "{error}");
        };
        let flags = "ccflags-y := -I$(src)/../include\n";
        check(flags, "/b/a.c:1:10: fatal error: api.h: No such file or directory", true);
        check("", "/b/a.c:1:10: fatal error: ../include/api.h: No such file or directory", true);
        check("", "/b/sub/a.c:1:10: fatal error: '../../include/api.h' file not found", true);
        check("", "/b/a.c:1:10: fatal error: api.h: No such file or directory", false);
        let dir = tree("");
        fs::write(dir.path().join("Kbuild"), "subdir-ccflags-y += -I$(M)/include\nobj-y += drv/\n").unwrap();
        let error = "/b/a.c:1:10: fatal error: api.h: No such file or directory";
        let found = header(&dir.path().join("drv"), error, Path::new("/b")).unwrap();
        assert_eq!(found.unwrap().path, dir.path().join("include/api.h"));
        check(flags, "/b/a.c:1:10: fatal error: other.h: No such file or directory", false);
        check(flags, "/b/a.c:1:10: error: api.h", false);
    }
}
