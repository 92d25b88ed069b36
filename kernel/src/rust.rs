//! Modules that are written in Rust.
//!
//! They are compiled against the kernel's Rust libraries, which the build tree must have (Documentation/rust):
//!
//! ```text
//! rust/libkernel.rmeta, libcore.rmeta, ...   what the kernel offers; headers of the key
//! rust/libmacros.so, ...                     macros, which rustc loads; programs of the build tree
//! scripts/target.json                        what rustc compiles for, on some architectures
//! ```
//!
//! rustc reads only libraries that it wrote itself: the text of its version must be the same (error E0514). It is part of the key of
//! packages with Rust in them, with the library that does the compiling, and `bindgen`, which some call.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::kernels::BuildTree;

/// The library that every module in Rust is compiled against (rust/Makefile).
const LIBRARY: &str = "rust/libkernel.rmeta";

/// Limits on the directories and files that are looked at.
const DEEPEST: usize = 8;
const MOST: usize = 20_000;

/// Whether the kernel has Rust in it (`CONFIG_RUST`), so that modules can be written in it.
pub fn is_in(tree: &BuildTree) -> bool {
    tree.config.yes("CONFIG_RUST")
}

/// Whether a role in a toolchain is played in builds of Rust only.
pub fn is_role(role: &str) -> bool {
    role.starts_with("rustc") || role == "bindgen"
}

/// Whether a package's source has Rust in it. One with too many files counts as such: its key has more in it than it needs.
pub fn is_in_source(top: &Path) -> io::Result<bool> {
    let (mut open, mut left) = (vec![(PathBuf::new(), DEEPEST)], MOST);
    while let Some((dir, depth)) = open.pop() {
        for entry in fs::read_dir(top.join(&dir))? {
            let (entry, Some(fewer)) = (entry?, left.checked_sub(1)) else { return Ok(true) };
            left = fewer;
            let (path, kind) = (dir.join(entry.file_name()), entry.file_type()?);
            if kind.is_dir() && depth > 0 && entry.file_name() != ".git" {
                open.push((path, depth - 1));
            } else if !kind.is_dir() && path.extension().is_some_and(|extension| extension == "rs") {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Why a module in Rust cannot be built for a kernel by this rustc, as far as that is certain before.
pub fn lack(tree: &BuildTree, rustc: Option<&str>) -> Option<String> {
    if !is_in(tree) {
        return Some("the kernel was built without Rust (CONFIG_RUST)".to_owned());
    }
    if !tree.outside().join(LIBRARY).exists() {
        return Some(format!("the kernel's headers have no Rust libraries ({LIBRARY})"));
    }
    let built_by = tree.config.value("CONFIG_RUSTC_VERSION_TEXT")?;
    match rustc {
        None => Some(format!("no rustc is installed; the kernel was built by {built_by}")),
        Some(found) if found != built_by => Some(format!(
            "the kernel's Rust libraries were made by {built_by}, and can be read by no other, such as {found}"
        )),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kconfig::Kconfig;
    use crate::kernels::Mount;

    #[test]
    fn what_a_module_in_rust_lacks_is_known_before() {
        let dir = tempfile::tempdir().unwrap();
        let lack = |config: &str, rustc| {
            let tree = BuildTree {
                inside: "/k".into(),
                source: "/k".into(),
                mounts: vec![Mount { outside: dir.path().to_owned(), inside: "/k".into() }],
                links: Vec::new(),
                config_place: ".config",
                config: Kconfig::new(config.to_owned()),
                arch: "x86_64".into(),
                version: "#1 SMP".into(),
            };
            lack(&tree, rustc).unwrap_or_default()
        };
        let with = "CONFIG_RUST=y\nCONFIG_RUSTC_VERSION_TEXT=\"rustc 1.85.1 (4eb16)\"\n";
        assert!(lack("", Some("rustc 1.85.1 (4eb16)")).contains("without Rust"));
        assert!(lack(with, Some("rustc 1.85.1 (4eb16)")).contains("rust/libkernel.rmeta"));
        fs::create_dir(dir.path().join("rust")).unwrap();
        fs::write(dir.path().join(LIBRARY), "").unwrap();
        assert!(lack(with, None).contains("no rustc is installed"));
        assert!(lack(with, Some("rustc 1.85.1 (beef)")).contains("made by rustc 1.85.1 (4eb16)"));
        assert_eq!(lack(with, Some("rustc 1.85.1 (4eb16)")), "");
        assert_eq!(lack("CONFIG_RUST=y\n", None), "");
    }

    #[test]
    fn a_source_has_rust_in_it_if_a_file_ends_so() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), "").unwrap();
        };
        put("Makefile");
        put(".git/a.rs");
        fs::create_dir(dir.path().join("dir.rs")).unwrap();
        assert!(!is_in_source(dir.path()).unwrap());
        put("src/deep/a.rs");
        assert!(is_in_source(dir.path()).unwrap());
    }
}
