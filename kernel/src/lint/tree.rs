//! Rules about a source tree's files: those that cannot be copied, or not to every machine.

use std::io;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;

use super::{LintFinding, finding};

/// Directory that is not part of a package.
const SKIP: &str = ".git";

/// Findings about a tree's files, whatever their content.
pub fn check(top: &Path) -> io::Result<Vec<LintFinding>> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(top.join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            let kind = entry.file_type()?;
            if path.to_str().is_none() {
                found.extend(finding("name-not-utf8", &path, 0, "the file's name is not UTF-8"));
            }
            if kind.is_symlink() {
                found.extend(link(top, &path)?);
            } else if kind.is_dir() {
                if entry.file_name() != SKIP {
                    directories.push(path);
                }
            } else if !kind.is_file() {
                found.extend(finding("special-file", &path, 0, "not a file, directory or link"));
            }
        }
    }
    Ok(found)
}

fn link(top: &Path, path: &Path) -> io::Result<Option<LintFinding>> {
    let target = fs::read_link(top.join(path))?;
    let depth = path.components().count() - 1;
    Ok(if leaves(&target, depth) {
        finding("outside-link", path, 0, format!("leads to {}", target.display()))
    } else {
        None
    })
}

/// Whether a link at some depth below the top leads out of it, or may do so: the meaning of `a/..` depends on what `a`
/// is.
fn leaves(target: &Path, depth: usize) -> bool {
    let mut parts = target.components().filter(|part| *part != Component::CurDir).peekable();
    let mut climbed = 0;
    while parts.next_if_eq(&Component::ParentDir).is_some() {
        climbed += 1;
    }
    climbed > depth || parts.any(|part| !matches!(part, Component::Normal(_)))
}
