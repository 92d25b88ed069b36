//! depmod's configuration, which decides between files of one module (depmod.d(5)).
//!
//! ```text
//! search updates built-in                  of several files of one module, the one in the directory named first
//! override MODULE RELEASE DIRECTORY        this file, whatever `search` says
//! exclude NAME...                          files and directories to ignore
//! external RELEASE DIRECTORY               modules outside the tree
//! ```
//!
//! The default is `search updates`. Between files of equal rank, depmod takes the first or last one in the file
//! system's order, which is not known. That case, external directories, patterns other than a literal release, and
//! continued lines are left to depmod (tools/depmod.c, `cfg_file_parse`, `depmod_module_is_higher_priority`).

use std::collections::BTreeMap;

use super::{DepmodReason, Kmod};
use crate::module_name::ModuleName;

/// The parsed configuration of depmod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchRules {
    /// Directories in ascending order of priority.
    search: Vec<Search>,
    /// Paths without a suffix, in ascending order of priority.
    overrides: Vec<String>,
    excluded: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Search {
    BuiltIn,
    Directory(String),
}

impl SearchRules {
    /// Parses the configuration's files, given by path and text, in the order of their names.
    ///
    /// # Errors
    ///
    /// [`DepmodReason::Unclear`] for a line whose effect is not certain.
    pub fn parse(files: &[(String, String)], release: &str, kmod: &Kmod) -> Result<Self, DepmodReason> {
        let mut rules = Self { search: Vec::new(), overrides: Vec::new(), excluded: Vec::new() };
        for (path, text) in files {
            let unclear = |what: &str| DepmodReason::Unclear { path: path.clone(), what: what.to_owned() };
            for line in text.split('\n') {
                if line.contains('\\') || line.contains('\0') {
                    return Err(unclear("a backslash"));
                }
                if !line.starts_with('#') {
                    rules.line(line, release, kmod).map_err(unclear)?;
                }
            }
        }
        // What is named first has priority, whichever file it is in.
        rules.search.reverse();
        if rules.search.is_empty() {
            rules.search.push(Search::Directory("updates".to_owned()));
        }
        Ok(rules)
    }

    fn line(&mut self, line: &str, release: &str, kmod: &Kmod) -> Result<(), &'static str> {
        let mut words = line.split(['\t', ' ']).filter(|word| !word.is_empty());
        match words.next() {
            None => {}
            Some("search") => {
                for word in words {
                    self.search.push(match word {
                        "external" => return Err("modules from outside the tree"),
                        "built-in" => Search::BuiltIn,
                        directory => Search::Directory(directory.to_owned()),
                    });
                }
            }
            Some("override") => {
                let (Some(module), Some(pattern), Some(dir)) = (words.next(), words.next(), words.next())
                else {
                    return Err("an override without its words");
                };
                if matches(pattern, release)? {
                    self.overrides.push(format!("{dir}/{module}"));
                }
            }
            Some("exclude") if !kmod.excludes() => {}
            Some("exclude") => self.excluded.extend(words.map(str::to_owned)),
            Some("include" | "make_map_files") => {}
            Some("external") => return Err("modules from outside the tree"),
            Some(_) => return Err("an unknown line"),
        }
        Ok(())
    }

    /// Whether a file or directory of this name is excluded, in any directory.
    pub fn passes_over(&self, name: &str) -> bool {
        matches!(name, "build" | "source") || self.excluded.iter().any(|excluded| excluded == name)
    }

    /// Whether the second of two files of one module would replace the first, found in this order.
    fn replaces(&self, old: &str, new: &str) -> bool {
        let (old, new) = (without_suffix(old), without_suffix(new));
        for path in self.overrides.iter().rev() {
            if path == new {
                return true;
            }
            if path == old {
                return false;
            }
        }
        let (mut built_in, mut of_old, mut of_new) = (None, None, None);
        for (rank, search) in self.search.iter().enumerate() {
            match search {
                Search::BuiltIn => built_in = Some(rank),
                Search::Directory(dir) if is_below(new, dir) => of_new = Some(rank),
                Search::Directory(dir) if is_below(old, dir) => of_old = Some(rank),
                Search::Directory(_) => {}
            }
        }
        of_new.or(built_in) > of_old.or(built_in)
    }
}

/// Matches a release against a POSIX regular expression, which may match anywhere. Only literal texts are supported.
fn matches(pattern: &str, release: &str) -> Result<bool, &'static str> {
    if pattern == "*" {
        return Ok(true);
    }
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    if !pattern.bytes().all(plain) {
        return Err("a pattern of kernels");
    }
    let is_at = |at: &[u8]| at.iter().zip(pattern.bytes()).all(|(&c, p)| p == b'.' || p == c);
    Ok(release.as_bytes().windows(pattern.len()).any(is_at))
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// Removes the suffix. A stem has no dot, see [`module_name`].
fn without_suffix(path: &str) -> &str {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    path[name..].find('.').map_or(path, |dot| &path[..name + dot])
}

/// The module's name in the kernel, from the path of its file.
pub fn module_name(path: &str) -> String {
    let stem = without_suffix(path);
    ModuleName::new(&stem[stem.rfind('/').map_or(0, |slash| slash + 1)..]).into()
}

/// The file that depmod chooses for each module, by the module's name.
pub fn choose(
    rules: &SearchRules,
    kmod: &Kmod,
    files: impl Iterator<Item = String>,
) -> Result<BTreeMap<String, String>, DepmodReason> {
    let mut candidates: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in files {
        let file = path.rsplit('/').next().unwrap_or(&path);
        match kmod.stem(file) {
            Some(stem) if stem.contains('.') || !file.bytes().all(|c| c.is_ascii_graphic()) => {
                return Err(DepmodReason::Unclear { path, what: "an unusual name of a module".to_owned() });
            }
            Some(_) => candidates.entry(module_name(&path)).or_default().push(path),
            None => {}
        }
    }
    candidates.into_iter().map(|(name, paths)| Ok((name, best(rules, paths)?))).collect()
}

/// The file that is chosen whatever the order in which the files are found.
fn best(rules: &SearchRules, paths: Vec<String>) -> Result<String, DepmodReason> {
    let wins = |path: &&String| {
        let mut others = paths.iter().filter(|other| other != path);
        others.all(|other| rules.replaces(other, path) && !rules.replaces(path, other))
    };
    let found = paths.iter().find(wins).cloned();
    found.ok_or_else(|| DepmodReason::Unclear {
        path: paths[0].clone(),
        what: format!("{} is of the same rank", paths[1]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<SearchRules, DepmodReason> {
        SearchRules::parse(
            &[("/etc/depmod.d/a.conf".to_owned(), text.to_owned())],
            "6.1.0-56-amd64",
            &kmod("30"),
        )
    }

    fn kmod(version: &str) -> Kmod {
        Kmod::parse(&format!("kmod version {version}\n+XZ\n"), b"/ld-linux").unwrap()
    }

    fn chosen(text: &str, files: &[&str]) -> String {
        let files = files.iter().map(|path| (*path).to_owned());
        match rules(text).and_then(|rules| choose(&rules, &kmod("30"), files)) {
            Ok(chosen) => chosen.into_values().collect::<Vec<_>>().join(" "),
            Err(reason) => reason.to_string(),
        }
    }

    #[test]
    fn the_directory_named_first_takes_precedence() {
        let files = ["kernel/a.ko", "updates/a.ko", "extra/a.ko.xz"];
        assert_eq!(chosen("search extra updates built-in", &files), "extra/a.ko.xz");
        assert_eq!(chosen("search updates extra built-in\n", &files), "updates/a.ko");
        assert_eq!(chosen("search built-in updates\n", &files[..2]), "kernel/a.ko");
        assert_eq!(chosen("", &files[..2]), "updates/a.ko");
    }

    #[test]
    fn an_override_applies_to_its_kernels() {
        let files = ["kernel/a-b.ko", "updates/a-b.ko"];
        assert_eq!(chosen("override a-b * kernel", &files), "kernel/a-b.ko");
        assert_eq!(chosen("override a-b 6.1.0-56-amd64 kernel", &files), "kernel/a-b.ko");
        assert_eq!(chosen("override a-b 6.12 kernel", &files), "updates/a-b.ko");
    }

    #[test]
    fn excluded_files_are_ignored() {
        let rules = rules("exclude old .git\n").unwrap();
        assert!(["old", ".git", "build", "source"].iter().all(|name| rules.passes_over(name)));
        assert!(!rules.passes_over("older"));
        let text = [("/etc/depmod.d/a.conf".to_owned(), "exclude old\n".to_owned())];
        assert!(!SearchRules::parse(&text, "6.1", &kmod("29")).unwrap().passes_over("old"));
    }

    #[test]
    fn ambiguous_configurations_are_left_to_depmod() {
        let unclear = |text: &str, what: &str| {
            assert_eq!(
                chosen(text, &["kernel/a.ko", "updates/a.ko"]),
                format!("/etc/depmod.d/a.conf: {what}")
            );
        };
        unclear("search \\\nupdates", "a backslash");
        unclear("search external", "modules from outside the tree");
        unclear("external * /opt", "modules from outside the tree");
        unclear("override a ^6[.] kernel", "a pattern of kernels");
        unclear("override a", "an override without its words");
        unclear("serach updates", "an unknown line");
        let same = chosen("", &["kernel/a/a.ko", "kernel/b/a.ko"]);
        assert_eq!(same, "kernel/a/a.ko: kernel/b/a.ko is of the same rank");
        let both = chosen("", &["updates/a/a.ko", "updates/b/a.ko"]);
        assert_eq!(both, "updates/a/a.ko: updates/b/a.ko is of the same rank");
        assert_eq!(chosen("", &["kernel/a.b.ko"]), "kernel/a.b.ko: an unusual name of a module");
    }
}
