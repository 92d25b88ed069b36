//! Finding the kernel part of a source tree, and the Makefiles that lead to it.
//!
//! The kernel part is the directory nearest to the top whose `Kbuild` or `Makefile` assigns `obj-m`, `obj-$(CONFIG_X)`, or
//! `obj-y` with a directory in it. A Makefile above leads to it if its default target calls make for Kbuild, or names
//! the directory.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::super::toml::join;
use super::Attempt;
use crate::bounded_read;
use crate::makefile::{self, Given, Makefile, What, joined};

/// Limits on the directories that are searched: ENA's kernel part is three levels deep in its repository.
const DEEPEST: usize = 5;
const MOST: usize = 2000;

/// The same where nothing shows that the directory is a project: it may be somebody's home.
const OF_NO_PROJECT: usize = 1;

/// Beginnings of the names that show a project, in lower case.
const OF_PROJECT: [&str; 9] =
    [".git", "makefile", "gnumakefile", "readme", "licen", "copying", "configure", "changelog", "version"];

/// Directories whose modules are not the package's, where there are others.
pub(crate) const ASIDE: [&str; 8] =
    ["doc", "example", "examples", "sample", "samples", "test", "testing", "tests"];

/// Files that make a directory a package of its own.
const RECIPES: [&str; 2] = ["dkms.conf", "kcache.toml"];

/// A tree that leads to Kbuild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// The kernel part, relative to the top; `None` if only a Makefile knows it.
    pub part: Option<String>,
    /// What to try, in order; at least one.
    pub attempts: Vec<Attempt>,
}

/// Why a directory is not a tree that leads to Kbuild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// No Makefile leads to Kbuild.
    Nothing,
    /// A directory below has a recipe.
    Recipe(PathBuf),
    /// Several directories have modules, and no Makefile leads to them.
    Several(Vec<PathBuf>),
}

impl Plain {
    /// Whether a Makefile that is tried moves modules to another directory.
    pub fn moves_modules(&self, top: &Path) -> io::Result<bool> {
        for attempt in &self.attempts {
            if let Attempt::Make { dir, .. } = attempt
                && let Some(driver) = Driver::read(top, dir)?
                && driver.commands().any(|text| text.contains(".ko") && text.contains("mv "))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The kernel part of a tree, and what builds it.
pub fn find(top: &Path) -> io::Result<Result<Plain, Lack>> {
    let (parts, recipe) = parts(top)?;
    let attempts = match parts.as_slice() {
        [part] => {
            let attempts = for_part(top, part)?;
            return Ok(Ok(Plain { part: Some(part.clone()), attempts }));
        }
        _ => match Driver::read(top, "")? {
            Some(driver) if driver.calls_kbuild() || parts.iter().any(|part| driver.names(part)) => {
                driver.attempts()
            }
            _ => Vec::new(),
        },
    };
    Ok(match (attempts.is_empty(), recipe, parts.is_empty()) {
        (false, ..) => Ok(Plain { part: None, attempts }),
        (true, Some(recipe), _) => Err(Lack::Recipe(recipe)),
        (true, None, true) => Err(Lack::Nothing),
        (true, None, false) => Err(Lack::Several(parts.into_iter().map(PathBuf::from).collect())),
    })
}

/// The directories nearest to the top that have modules, and a directory above them that has a recipe.
fn parts(top: &Path) -> io::Result<(Vec<String>, Option<PathBuf>)> {
    let mut level = vec![String::new()];
    let (mut seen, mut recipe) = (0, None);
    let deepest = if is_project(top)? { DEEPEST } else { OF_NO_PROJECT };
    for _ in 0..=deepest {
        let mut found = Vec::new();
        for dir in &level {
            if names_modules(top, dir)? {
                found.push(dir.clone());
            }
        }
        if found.len() > 1 {
            let is_aside = |dir: &String| dir.split('/').any(|part| ASIDE.contains(&part));
            if !found.iter().all(is_aside) {
                found.retain(|dir| !is_aside(dir));
            }
        }
        if !found.is_empty() {
            return Ok((found, recipe));
        }
        let mut next = Vec::new();
        for dir in &level {
            if seen > MOST {
                break;
            }
            for child in children(top, dir)? {
                seen += 1;
                match RECIPES.iter().find(|name| top.join(&child).join(name).is_file()) {
                    Some(_) => recipe = recipe.or(Some(PathBuf::from(child))),
                    None => next.push(child),
                }
            }
        }
        if seen > MOST {
            break;
        }
        level = next;
    }
    Ok((Vec::new(), recipe))
}

/// Whether a directory looks like the top of a project, and not like one in which somebody keeps several.
pub(crate) fn is_project(top: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(top)? {
        let name = entry?.file_name().to_string_lossy().to_lowercase();
        if OF_PROJECT.iter().any(|begin| name.starts_with(begin)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Subdirectories in order of their names, without hidden ones, links and other projects' clones. A kernel's tree has
/// none of its own.
fn children(top: &Path, dir: &str) -> io::Result<Vec<String>> {
    let path = top.join(dir);
    if path.join("scripts/Makefile.build").exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let entries = match fs::read_dir(path) {
        // Another tree's; what cannot be read is not built either.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !dir.is_empty() => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
            && entry.file_type()?.is_dir()
            && !entry.path().join(".git").is_dir()
        {
            found.push(join(dir, &name));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a directory's Kbuild file names modules, or a directory that Kbuild is to enter.
fn names_modules(top: &Path, dir: &str) -> io::Result<bool> {
    let here = top.join(dir);
    if here.join("scripts/Makefile.build").exists() {
        return Ok(false);
    }
    for name in ["Kbuild", "Makefile"] {
        if let Some(text) = text(top, dir, name)?
            && joined(&text).iter().any(|(_, line)| assigns_modules(line, &|below| here.join(below).is_dir()))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a line assigns modules to a list of Kbuild's; `is_dir` knows the directories beside it.
pub(super) fn assigns_modules(line: &str, is_dir: &dyn Fn(&str) -> bool) -> bool {
    let line = line.trim_start();
    let line = line.strip_prefix("override ").unwrap_or(line);
    let Some(rest) = line.strip_prefix("obj-") else { return false };
    let name_end = rest.find([' ', '\t', ':', '+', '=', '?']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(name_end);
    let Some((_, value)) = rest.split_once('=') else { return false };
    match name {
        "m" => true,
        "y" => value.split_whitespace().any(|word| word.ends_with('/') && is_dir(word)),
        _ => name.starts_with("$(") || name.starts_with("${"),
    }
}

/// The text of a file of the tree; `None` if there is none that can be read.
fn text(top: &Path, dir: &str, name: &str) -> io::Result<Option<String>> {
    match bounded_read::text_in(top, Path::new(&join(dir, name))) {
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            io::ErrorKind::PermissionDenied if !dir.is_empty() => Ok(None),
            _ => Err(error),
        },
        text => text,
    }
}

/// What may build a kernel part: Makefiles that lead to it, from the top, then its own, then Kbuild itself, then the
/// Makefiles above that do not show where they lead.
fn for_part(top: &Path, part: &str) -> io::Result<Vec<Attempt>> {
    let mut above = vec![String::new()];
    above.extend(part.match_indices('/').map(|(at, _)| part[..at].to_owned()));
    above.retain(|dir| dir != part);
    let (mut leading, mut others) = (Vec::new(), Vec::new());
    for dir in &above {
        if let Some(driver) = Driver::read(top, dir)? {
            let below = part[dir.len()..].trim_start_matches('/');
            match driver.names(below) {
                true => leading.extend(driver.attempts()),
                false => others.extend(driver.attempts()),
            }
        }
    }
    if let Some(driver) = Driver::read(top, part)? {
        leading.extend(driver.attempts());
    }
    others.retain(|attempt| matches!(attempt, Attempt::Make { goal: None, .. }));
    leading.push(Attempt::Kbuild { dir: part.to_owned() });
    leading.extend(others);
    Ok(leading)
}

/// A Makefile that people call.
struct Driver {
    dir: String,
    makefile: Makefile,
    reached: BTreeSet<String>,
}

impl Driver {
    /// The Makefile of a directory; `None` if it has no target.
    fn read(top: &Path, dir: &str) -> io::Result<Option<Driver>> {
        for name in ["GNUmakefile", "makefile", "Makefile"] {
            let Some(text) = text(top, dir, name)? else { continue };
            let makefile = makefile::read(&text, &Given::default());
            let includes = makefile
                .lines
                .iter()
                .any(|line| matches!(&line.what, What::Other(text) if text.contains("include ")));
            let goal = makefile.default_goal().map(str::to_owned);
            if goal.is_none() && !includes {
                return Ok(None);
            }
            let goals: Vec<String> = goal.into_iter().collect();
            let reached = makefile.reached(&goals);
            return Ok(Some(Driver { dir: dir.to_owned(), makefile, reached }));
        }
        Ok(None)
    }

    /// The commands of the default target, and of those that it needs, as text.
    fn commands(&self) -> impl Iterator<Item = String> {
        self.makefile.lines.iter().filter_map(|line| match &line.what {
            What::Command { targets, text } if self.reaches(targets) => Some(self.makefile.expanded(text)),
            _ => None,
        })
    }

    fn reaches(&self, targets: &[String]) -> bool {
        targets.iter().any(|target| {
            self.makefile.expanded(target).split_whitespace().any(|target| self.reached.contains(target))
        })
    }

    /// Whether it calls Kbuild for a directory of modules.
    fn calls_kbuild(&self) -> bool {
        let is_module = |word: &str| {
            ["M=", "SUBDIRS=", "KBUILD_EXTMOD="]
                .iter()
                .any(|begin| word.trim_matches(['"', '\'']).starts_with(begin))
        };
        self.commands().any(|text| text.split_whitespace().any(is_module))
    }

    /// Whether it calls something for a directory below it, or for one on the way there.
    fn names(&self, below: &str) -> bool {
        let next = below.split('/').next().unwrap_or(below);
        let is_part = |word: &str| word.split(['/', '=', '"', '\'', ';', ')', '(']).any(|part| part == next);
        let is_target =
            |target: &String| target.trim_end_matches('/') == next || target.starts_with(&format!("{next}/"));
        self.reached.iter().any(is_target) || self.commands().any(|text| text.split_whitespace().any(is_part))
    }

    /// Its default target, and its target `modules` if that is another.
    fn attempts(&self) -> Vec<Attempt> {
        let make = |goal| Attempt::Make { dir: self.dir.clone(), goal };
        let has_modules = self.makefile.lines.iter().any(
            |line| matches!(&line.what, What::Rule { targets, .. } if targets.iter().any(|it| it == "modules")),
        );
        let only_modules = self.makefile.default_goal() == Some("modules")
            || self.reached.len() == 2 && self.reached.contains("modules") && !self.goal_has_commands();
        let modules = (has_modules && !only_modules).then(|| make(Some("modules")));
        [make(None)].into_iter().chain(modules).collect()
    }

    fn goal_has_commands(&self) -> bool {
        let goal = self.makefile.default_goal();
        self.makefile.lines.iter().any(|line| {
            matches!(&line.what, What::Command { targets, .. } if targets.iter().any(|it| Some(it.as_str()) == goal))
        })
    }
}
