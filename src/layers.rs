//! Tests of layering: folders import only from those above them in the list in `lib.rs`, and no files import each
//! other in a cycle.
//!
//! They parse the text of each file outside its tests: paths that begin with `crate`, `super` or `self`, and in `cli/`
//! with `kcache`. A re-exported name (`pub use`) counts as one of the file that it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The folders of the flow, from the lowest layer up. None imports from one that comes after it.
const LAYERS: [&str; 9] =
    ["shell", "error", "run", "inputs", "build", "resolve", "verdict", "deploy", "authoring"];

type Module = Vec<String>;

/// The files of a crate by module.
struct Sources {
    files: BTreeMap<Module, String>,
}

impl Sources {
    fn of(crate_root: &str, dir: &str) -> Sources {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
        let mut files = BTreeMap::new();
        let mut dirs = vec![dir.clone()];
        while let Some(at) = dirs.pop() {
            for entry in fs_err::read_dir(&at).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|end| end == "rs") && !is_test(&path) {
                    let module = module(path.strip_prefix(&dir).unwrap(), crate_root);
                    files.insert(module, code(&fs_err::read_to_string(&path).unwrap()));
                }
            }
        }
        Sources { files }
    }

    /// The file that a path of this crate refers to, and the rest of the path.
    fn file<'p>(&self, path: &'p [String]) -> (Module, &'p [String]) {
        let longest = (0..=path.len()).rev().find(|n| self.files.contains_key(&path[..*n])).unwrap_or(0);
        (path[..longest].to_vec(), &path[longest..])
    }

    /// Like [`Sources::file`], following re-exports to the file that they come from.
    fn home(&self, path: &[String]) -> Module {
        let mut path = path.to_vec();
        for _ in 0..8 {
            let (file, rest) = self.file(&path);
            let handed_on = rest.first().and_then(|name| {
                let same = |used: &&Module| used.last() == Some(name);
                self.used(&file, true).iter().find(same).cloned()
            });
            match handed_on {
                Some(from) if from != path => path = from,
                _ => return file,
            }
        }
        self.file(&path).0
    }

    /// The absolute paths that a file names; `only_uses` omits those outside `use` statements.
    fn used(&self, file: &Module, only_uses: bool) -> Vec<Module> {
        let text = &self.files[file];
        let mut found = Vec::new();
        let mut statements = String::new();
        for statement in uses(text) {
            expand(&statement, &mut Vec::new(), &mut found);
            statements.push_str(&statement);
        }
        if !only_uses {
            found.extend(inline(text));
        }
        found.into_iter().filter_map(|path| self.absolute(file, path)).collect()
    }

    fn absolute(&self, file: &Module, path: Module) -> Option<Module> {
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([file.as_slice(), &path[1..]].concat()),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                Some([&file[..file.len().checked_sub(ups)?], &path[ups..]].concat())
            }
            child if self.files.contains_key(&[file.as_slice(), &[child.to_owned()]].concat()) => {
                Some([file.as_slice(), &path].concat())
            }
            _ => None,
        }
    }

    /// The files that each file imports from, except the file of its parent module.
    fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let of = |file: &Module| {
            let homes = self.used(file, false).into_iter().map(|path| self.home(&path));
            homes.filter(|home| !file.starts_with(home)).collect()
        };
        self.files.keys().filter(|file| !file.is_empty()).map(|file| (file.clone(), of(file))).collect()
    }

    /// Cycles of files that import each other.
    fn cycles(&self) -> Vec<String> {
        let imports = self.imports();
        let mut cycles = BTreeSet::new();
        for start in imports.keys() {
            let mut reached: BTreeMap<&Module, &Module> = BTreeMap::new();
            let mut pending = vec![start];
            while let Some(at) = pending.pop() {
                for next in &imports[at] {
                    if !reached.contains_key(next) {
                        reached.insert(next, at);
                        pending.push(next);
                    }
                }
            }
            if reached.contains_key(start) {
                let (mut way, mut at) = (vec![start.join("::")], start);
                loop {
                    at = reached[at];
                    way.push(at.join("::"));
                    if at == start {
                        break;
                    }
                }
                way.reverse();
                cycles.insert(way.join(" -> "));
            }
        }
        cycles.into_iter().collect()
    }
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_stem().is_some_and(|name| name == "tests" || name == "layers")
}

fn module(path: &Path, crate_root: &str) -> Module {
    let path: PathBuf = path.with_extension("");
    let mut module: Module = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || module.len() == 1 && last == crate_root) {
        module.pop();
    }
    module
}

/// A file's text without comments and tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The `use` statements, without `use` and `;`.
fn uses(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        let Some(rest) = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "]
            .iter()
            .find_map(|head| line.strip_prefix(head))
        else {
            continue;
        };
        let mut statement = rest.to_owned();
        while !statement.contains(';') {
            statement.push_str(lines.next().expect("a statement ends"));
        }
        found.push(statement.split(';').next().unwrap_or_default().to_owned());
    }
    found
}

/// Expands `a::{b, c::d}` to `a::b` and `a::c::d`.
fn expand(statement: &str, before: &mut Module, found: &mut Vec<Module>) {
    let statement = statement.trim();
    let length = before.len();
    match statement.split_once('{') {
        Some((head, body)) => {
            before.extend(head.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned));
            let body = body.trim_end().strip_suffix('}').unwrap_or(body);
            let (mut depth, mut item) = (0, String::new());
            for c in body.chars().chain([',']) {
                depth += i32::from(c == '{') - i32::from(c == '}');
                if c == ',' && depth == 0 {
                    if !item.trim().is_empty() {
                        expand(&std::mem::take(&mut item), before, found);
                    }
                } else {
                    item.push(c);
                }
            }
        }
        None => {
            let path = statement.split(" as ").next().unwrap_or_default();
            before.extend(path.split("::").map(|part| part.trim().to_owned()).filter(|part| part != "self"));
            found.push(before.clone());
        }
    }
    before.truncate(length);
}

/// Paths outside `use` statements.
fn inline(text: &str) -> Vec<Module> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c| !is_part(c));
    let starts = |word: &&str| word.starts_with("crate::") || word.starts_with("super::");
    words
        .filter(starts)
        .map(|word| word.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect())
        .collect()
}

#[test]
fn folders_of_the_flow_import_only_what_lies_below_them() {
    let rank = |folder: &String| LAYERS.iter().position(|known| known == folder);
    let mut wrong = Vec::new();
    for (file, imports) in Sources::of("lib", "src").imports() {
        let own = rank(&file[0]).unwrap_or_else(|| panic!("{} is in no folder", file.join("::")));
        for import in imports.iter().filter(|import| rank(&import[0]).is_none_or(|theirs| theirs > own)) {
            wrong.push(format!("{} imports {}", file.join("::"), import.join("::")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_cycle() {
    let crates = [("lib", "src"), ("main", "cli"), ("lib", "store/src"), ("lib", "kernel/src")];
    let cycles: Vec<String> = crates.iter().flat_map(|(root, dir)| Sources::of(root, dir).cycles()).collect();
    assert!(cycles.is_empty(), "{}", cycles.join("\n"));
}

#[test]
fn the_command_line_uses_the_libraries_through_the_flow_only() {
    let sources = Sources::of("main", "cli");
    let names = |text: &String| text.contains("kcache_kernel::") || text.contains("kcache_store::");
    let wrong: Vec<String> =
        sources.files.iter().filter(|(_, text)| names(text)).map(|(file, _)| file.join("::")).collect();
    assert!(!sources.files.is_empty() && wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn paths_are_extracted_from_statements() {
    let mut found = Vec::new();
    expand("crate::a::{self, b::{C, d}, E as F}", &mut Vec::new(), &mut found);
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["crate::a", "crate::a::b::C", "crate::a::b::d", "crate::a::E"]);
}
