//! The modules that a source tree builds, according to its Kbuild files.
//!
//! Kbuild reads a directory's `Kbuild`, else its `Makefile`. In it, `obj-m += a.o` names a module, `a-y` or `a-objs`
//! the objects it is linked from, and `obj-m += b/` a further directory. Lists computed by make's functions are not
//! found; then [`Objects::complete`] is false, and nothing follows from an absence.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::toml::join;
use crate::bounded_read;
use crate::makefile::{self, Given, Makefile, What};

/// Limit on nested directories, against cycles of links.
const DEEPEST: usize = 16;

/// The modules of a source tree.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// The modules in the order in which they are named.
    pub modules: Vec<Object>,
    /// The Kbuild files that were read, relative to the source's top.
    pub files: Vec<PathBuf>,
    /// Whether every list could be read.
    pub complete: bool,
}

/// A module, with its place in the Kbuild files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Name of the module, without `.o`.
    pub name: String,
    /// Directory in which it is built, relative to the source's top; empty for the top.
    pub dir: String,
    /// The Kbuild file that names it, relative to the source's top.
    pub file: PathBuf,
    /// Line number in that file, from 1.
    pub line: usize,
    /// The condition under which it is built, as written in the file.
    pub condition: Option<String>,
    /// Its source files that exist, relative to the source's top.
    pub sources: Vec<PathBuf>,
    /// Whether these are all of its sources: no list of its parts is computed, and no part is generated.
    pub complete: bool,
}

impl Object {
    /// Its path in the source tree without `.ko`, as recipes give it.
    pub fn built(&self) -> String {
        join(&self.dir, &self.name)
    }
}

/// Reads the modules below a directory of a source tree; `dir` is relative to `top`.
pub fn read(top: &Path, dir: &str, given: &Given) -> io::Result<Objects> {
    let objects = Objects { complete: true, ..Objects::default() };
    let mut reader = Reader { top, given: given.clone().kbuild(), objects };
    reader.directory(dir, None, DEEPEST)?;
    Ok(reader.objects)
}

/// Recursively reads directories.
struct Reader<'a> {
    top: &'a Path,
    given: Given,
    objects: Objects,
}

/// A Kbuild file being read.
struct Kbuild<'a> {
    dir: &'a str,
    file: PathBuf,
    makefile: Makefile,
}

impl Reader<'_> {
    fn directory(&mut self, dir: &str, condition: Option<&str>, depth: usize) -> io::Result<()> {
        let names = ["Kbuild", "Makefile"].map(|name| PathBuf::from(join(dir, name)));
        let file = names.into_iter().find(|path| self.top.join(path).is_file());
        let Some(file) = file.filter(|_| depth > 0) else {
            self.objects.complete = false;
            return Ok(());
        };
        if self.objects.files.contains(&file) {
            return Ok(());
        }
        let Some(text) = bounded_read::text_in(self.top, &file)? else {
            self.objects.complete = false;
            return Ok(());
        };
        let makefile = makefile::read(&text, &self.given);
        self.objects.files.push(file.clone());
        let kbuild = Kbuild { dir, file, makefile };
        for line in &kbuild.makefile.lines {
            match &line.what {
                What::Assignment { name, value, .. } if name.starts_with("obj-") => {
                    let own = condition_of(name, &kbuild.makefile);
                    let own = own.or_else(|| (!line.sure).then(|| "a condition".to_owned()));
                    let condition = own.as_deref().or(condition);
                    for word in kbuild.makefile.expanded(value).split_whitespace() {
                        self.word(&kbuild, (line.number, name, word), condition, depth)?;
                    }
                }
                What::Other(text) if text.contains("include ") => self.objects.complete = false,
                _ => {}
            }
        }
        Ok(())
    }

    /// Evaluates one word of an `obj-` list, given its line, the list's name, and the word.
    fn word(
        &mut self,
        kbuild: &Kbuild,
        (line, list, word): (usize, &str, &str),
        condition: Option<&str>,
        depth: usize,
    ) -> io::Result<()> {
        if word.contains(['$', '%', '(', ')']) || word.split('/').any(|part| part == "..") {
            self.objects.complete = false;
        } else if let Some(below) = word.strip_suffix('/') {
            self.directory(&join(kbuild.dir, below), condition, depth - 1)?;
        } else if let Some(stem) = word.strip_suffix(".o").filter(|_| list != "obj-y") {
            let found = object(self.top, kbuild, stem, line, condition);
            if !self.objects.modules.iter().any(|other| other.built() == found.built()) {
                self.objects.modules.push(found);
            }
        }
        Ok(())
    }
}

/// The `CONFIG_X` of `obj-$(CONFIG_X)`, unless the file itself assigns `m` to it.
fn condition_of(name: &str, makefile: &Makefile) -> Option<String> {
    let reference = name.strip_prefix("obj-")?;
    if matches!(makefile.expanded(reference).trim(), "m" | "y") {
        return None;
    }
    Makefile::references(reference).next().map(str::to_owned)
}

fn object(top: &Path, kbuild: &Kbuild, stem: &str, line: usize, condition: Option<&str>) -> Object {
    let (below, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    let (sources, complete) = sources(top, kbuild.dir, stem, &kbuild.makefile);
    Object {
        name: name.to_owned(),
        dir: if below.is_empty() { kbuild.dir.to_owned() } else { join(kbuild.dir, below) },
        file: kbuild.file.clone(),
        line,
        condition: condition.map(str::to_owned),
        sources,
        complete,
    }
}

/// The source files of a module: of its parts if it has some, else its own; and whether these are all.
fn sources(top: &Path, dir: &str, stem: &str, makefile: &Makefile) -> (Vec<PathBuf>, bool) {
    let mut parts: BTreeSet<String> = BTreeSet::new();
    let mut complete = true;
    for line in &makefile.lines {
        match &line.what {
            What::Assignment { name, value, .. } if is_list_of(&makefile.expanded(name), stem) => {
                let value = makefile.expanded(value);
                complete &= !value.contains(['$', '%', '(', ')']);
                parts.extend(
                    value.split_whitespace().filter_map(|word| word.strip_suffix(".o")).map(str::to_owned),
                );
            }
            // The name itself is computed, or the list is where this does not look.
            What::Assignment { name, .. } if makefile.expanded(name).starts_with('$') => complete = false,
            What::Other(text) if text.contains("include ") || text.starts_with('$') => complete = false,
            _ => {}
        }
    }
    if parts.is_empty() {
        parts.insert(stem.to_owned());
    }
    let source = |part: &String| {
        let candidates =
            ["c", "S", "rs"].map(|suffix| PathBuf::from(format!("{}.{suffix}", join(dir, part))));
        candidates.into_iter().find(|path| top.join(path).is_file())
    };
    let found: Vec<PathBuf> = parts.iter().filter_map(source).collect();
    complete &= found.len() == parts.len();
    (found, complete)
}

/// Whether a variable lists the parts of a module: `NAME-y`, `NAME-objs`, `NAME-$(CONFIG_X)`.
fn is_list_of(name: &str, stem: &str) -> bool {
    let kind = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('-'));
    kind.is_some_and(|kind| ["y", "m", "objs"].contains(&kind) || kind.starts_with("$("))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    /// Checks modules, formatted as `path[?condition]: sources`.
    fn check(files: &[(&str, &str)], expect: &[&str], complete: bool) {
        let dir = tree(files);
        let objects = read(dir.path(), "", &Given::default()).unwrap();
        let shown = |object: &Object| {
            let condition = object.condition.as_ref().map_or(String::new(), |c| format!("?{c}"));
            let sources: Vec<_> = object.sources.iter().map(|path| path.to_str().unwrap()).collect();
            format!("{}{condition}: {}", object.built(), sources.join(" "))
        };
        let found: Vec<String> = objects.modules.iter().map(shown).collect();
        assert_eq!(
            (found.iter().map(String::as_str).collect::<Vec<_>>(), objects.complete),
            (expect.to_vec(), complete)
        );
    }

    #[test]
    fn modules_are_found_with_their_parts_their_conditions_and_in_subdirectories() {
        check(
            &[
                (
                    "Kbuild",
                    "obj-m := one.o sub/\nobj-$(CONFIG_TWO) += two.o\none-y := a.o\none-$(CONFIG_B) += b.o\n",
                ),
                ("Makefile", "obj-m := ignored.o\n"),
                ("a.c", ""),
                ("b.c", ""),
                ("two.c", ""),
                ("sub/Makefile", "MODULES = deep/three.o\nobj-m += $(MODULES)\n"),
                ("sub/deep/three.c", ""),
            ],
            &["one: a.c b.c", "sub/deep/three: sub/deep/three.c", "two?CONFIG_TWO: two.c"],
            true,
        );
    }

    #[test]
    fn a_configuration_that_the_file_makes_itself_is_no_condition() {
        check(&[("Makefile", "CONFIG_A := m\nobj-$(CONFIG_A) += a.o\n")], &["a: "], true);
    }

    #[test]
    fn a_module_knows_whether_all_of_its_sources_were_found() {
        let complete = |makefile: &str| {
            let dir = tree(&[("Makefile", makefile), ("a.c", ""), ("b.c", "")]);
            let objects = read(dir.path(), "", &Given::default()).unwrap();
            (objects.modules[0].complete, objects.modules[0].sources.len())
        };
        assert_eq!(complete("obj-m := m.o\nm-y := a.o b.o\n"), (true, 2));
        assert_eq!(complete("obj-m := m.o\nLIST := a.o\nm-y := $(LIST)\nm-$(CONFIG_B) += b.o\n"), (true, 2));
        let define = "obj-m := m.o\ndefine m-y\n\ta.o\nendef\nm-y := $(strip ${m-y})\nm-y += b.o\n";
        assert_eq!(complete(define), (false, 2));
        assert_eq!(complete("obj-m := m.o\nm-objs := $(patsubst %.c,%.o,a.c)\nm-objs += b.o\n"), (false, 1));
        assert_eq!(complete("obj-m := m.o\nN := m\n$(N)-y := a.o\nO := o\n$(O)-y := x.o\n"), (true, 1));
        assert_eq!(complete("obj-m := m.o\nm-y := a.o generated.o\n"), (false, 1));
        assert_eq!(complete("obj-m := a.o\ninclude parts.mk\n"), (false, 1));
        assert_eq!(complete("obj-m := m.o\nm-y := a.o\n$(foreach x,b,$(eval m-y += $(x).o))\n"), (false, 1));
    }

    #[test]
    fn computed_lists_are_not_guessed() {
        check(&[("Makefile", "obj-m += $(patsubst %.c,%.o,$(wildcard *.c))\n")], &[], false);
        check(&[("Makefile", "include x.mk\nobj-m := a.o absent/\n")], &["a: "], false);
    }
}
