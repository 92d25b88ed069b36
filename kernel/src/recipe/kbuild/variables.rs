//! The variables of Makefiles that select the kernel.
//!
//! Makefiles ask the running kernel for its release, and let people name another: `KDIR ?= /lib/modules/$(shell uname
//! -r)/build`. Whatever such a variable is called, its default shows what it means. Where there is no default, the usual
//! names do. A variable that is a part of the tree, or that Kbuild itself uses, is left alone.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use fs_err as fs;

use super::super::kernel_source_dir;
use super::super::toml::join;
use crate::bounded_read;
use crate::makefile::{self, Given, Makefile, What};

/// Limits on the makefiles that are read.
const DEEPEST: usize = 5;
const MOST: usize = 300;

/// Usual names of the kernel's build tree.
const TREE: [&str; 31] = [
    "KBUILDDIR",
    "KBUILD_DIR",
    "KDIR",
    "KERNDIR",
    "KERNELDIR",
    "KERNELPATH",
    "KERNELSRC",
    "KERNEL_BUILD",
    "KERNEL_BUILD_DIR",
    "KERNEL_DIR",
    "KERNEL_HEADERS",
    "KERNEL_PATH",
    "KERNEL_ROOT",
    "KERNEL_SOURCE",
    "KERNEL_SOURCE_DIR",
    "KERNEL_SRC",
    "KERNEL_SRC_DIR",
    "KERNEL_TREE",
    "KERN_DIR",
    "KERN_SRC",
    "KLIB_BUILD",
    "KPATH",
    "KROOT",
    "KSRC",
    "KTREE",
    "LINUXDIR",
    "LINUXSRC",
    "LINUX_DIR",
    "LINUX_SOURCE",
    "LINUX_SRC",
    "SYSSRC",
];

/// Usual names of the kernel's release.
const RELEASE: [&str; 12] = [
    "BUILD_KERNEL",
    "KERNELRELEASE",
    "KERNELVER",
    "KERNEL_RELEASE",
    "KERNEL_UNAME",
    "KERNEL_VER",
    "KERNEL_VERSION",
    "KREL",
    "KRELEASE",
    "KVER",
    "KVERSION",
    "TARGET_KERNEL",
];

/// Kbuild's own variables, which a command line would overrule there, too.
const OF_KBUILD: [&str; 17] = [
    "ARCH",
    "EXTRAVERSION",
    "KBUILD_EXTMOD",
    "KBUILD_OUTPUT",
    "KBUILD_SRC",
    "KERNELVERSION",
    "M",
    "NAME",
    "O",
    "PATCHLEVEL",
    "SRCARCH",
    "SUBLEVEL",
    "VERSION",
    "abs_objtree",
    "abs_srctree",
    "objtree",
    "srctree",
];

/// The meaning of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The build tree, or with `true` the source tree.
    Tree(bool),
    Release,
    /// Something else, or not always the same.
    Other,
}

/// What make is called with to build for a kernel.
pub(super) struct Variables {
    /// The assignments for the command line that select the kernel, by name.
    pub(super) words: Vec<String>,
    /// Whether a Makefile looks for the kernel itself, among several places, so that another one may be right.
    pub(super) are_searched: bool,
}

/// The variables of a tree, for a kernel.
pub(super) fn for_kernel(top: &Path, release: &str) -> io::Result<Variables> {
    let mut found = Found::default();
    let mut left = MOST;
    found.read(top, "", DEEPEST, &mut left)?;
    let tree = kernel_source_dir(release);
    let word = |(name, meaning): (String, Meaning)| match meaning {
        Meaning::Tree(false) => Some(format!("{name}={tree}")),
        Meaning::Tree(true) => Some(format!("{name}=/lib/modules/{release}/source")),
        Meaning::Release => Some(format!("{name}={release}")),
        Meaning::Other => None,
    };
    let are_searched = found.are_searched;
    Ok(Variables { words: found.variables().into_iter().filter_map(word).collect(), are_searched })
}

#[derive(Default)]
struct Found {
    /// Assigned variables.
    assigned: BTreeMap<String, Meaning>,
    /// Variables that are used.
    used: Vec<String>,
    /// Whether a file does something else where Kbuild reads it.
    serves_both: bool,
    /// See [`Variables`].
    are_searched: bool,
}

impl Found {
    fn read(&mut self, top: &Path, dir: &str, depth: usize, left: &mut usize) -> io::Result<()> {
        let mut entries = fs::read_dir(top.join(dir))?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let (path, kind) = (join(dir, &name), entry.file_type()?);
            if kind.is_dir() && depth > 0 && !name.starts_with('.') {
                self.read(top, &path, depth - 1, left)?;
            } else if kind.is_file() && *left > 0 && makefile::is_name(&name) {
                *left -= 1;
                let text = bounded_read::text_in(top, Path::new(&path))?.unwrap_or_default();
                self.text(&text);
            }
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        for line in makefile::read(text, &Given::default()).lines {
            let text = match line.what {
                What::Assignment { name, value, .. } => {
                    let new = meaning(&name, &value);
                    self.are_searched |= matches!(new, Meaning::Tree(_)) && is_search(&value);
                    let known = self.assigned.entry(name).or_insert(new);
                    if new == Meaning::Other {
                        *known = new;
                    }
                    value
                }
                What::Command { text, .. } => text,
                What::Rule { targets, needs } => [targets, needs].concat().join(" "),
                What::Other(text) => {
                    let asks = text.starts_with("if") || text.starts_with("else");
                    self.serves_both |= asks && text.contains("KERNELRELEASE");
                    text
                }
            };
            self.serves_both |= text.contains("$(if $(KERNELRELEASE)");
            self.used.extend(Makefile::references(&text).map(str::to_owned));
        }
    }

    /// Each variable to set, with its meaning.
    fn variables(self) -> BTreeMap<String, Meaning> {
        let usual = |name: &String| match name.as_str() {
            name if TREE.contains(&name) => Some(Meaning::Tree(false)),
            name if RELEASE.contains(&name) => Some(Meaning::Release),
            _ => None,
        };
        let unassigned = self.used.iter().filter(|name| !self.assigned.contains_key(*name));
        let named: BTreeMap<_, _> =
            unassigned.filter_map(|name| Some((name.clone(), usual(name)?))).collect();
        let mut found = self.assigned;
        found.extend(named);
        found.retain(|name, _| !OF_KBUILD.contains(&name.as_str()));
        // One file for both users: with a release it takes its caller for Kbuild, and has no targets.
        if self.serves_both {
            found.remove("KERNELRELEASE");
        }
        found
    }
}

/// The meaning of a variable, from its name and default.
fn meaning(name: &str, value: &str) -> Meaning {
    let value = value.trim().trim_matches('"');
    let asks = ["$(shell uname -r)", "${shell uname -r}", "$(shell uname --kernel-release)", "uname -r"];
    // Several are places to look in.
    let is_word = !value.replace("$(shell uname -r)", "").contains(char::is_whitespace);
    let tree = ["/lib/modules/", "/usr/lib/modules/"].iter().any(|begin| value.starts_with(begin)) && is_word;
    let beside = value.strip_prefix("/usr/src/kernels/").or_else(|| value.strip_prefix("/usr/src/linux"));
    let other_tree = beside.is_some_and(|rest| is_word && !rest.trim_end_matches('/').contains('/'));
    match value.trim_end_matches('/') {
        value if asks.contains(&value) => Meaning::Release,
        value if tree && value.ends_with("/source") => Meaning::Tree(true),
        value if tree && value.ends_with("/build") => Meaning::Tree(false),
        _ if other_tree => Meaning::Tree(false),
        // No default, or one that make computes from the system's paths.
        value if TREE.contains(&name) && is_of_system(value) => Meaning::Tree(false),
        "" if RELEASE.contains(&name) => Meaning::Release,
        _ => Meaning::Other,
    }
}

/// Whether make finds a value by looking at what there is.
fn is_search(value: &str) -> bool {
    ["$(wildcard ", "$(firstword ", "$(shell test ", "$(shell [ ", "$(shell if "]
        .iter()
        .any(|call| value.contains(call))
}

/// Whether a value of a usual name is of the system, or unknown: not a directory of the tree.
fn is_of_system(value: &str) -> bool {
    let of_tree = ["$(PWD)", "${PWD}", "$(CURDIR)", "$(src)", "$(M)", "$(shell pwd)", "."];
    value.is_empty()
        || (value.starts_with(['/', '$']) && !of_tree.iter().any(|begin| value.starts_with(begin)))
}
