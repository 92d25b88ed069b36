//! Undeclared inputs: files that a build read although the key does not cover them.
//!
//! A key covers what a build is given: source, headers, toolchain, environment. Around that is the system with its tools, and a
//! `./configure` may look into `/usr/include` or at `/etc/os-release`. Which files a build opened is known afterwards
//! (`kcache_kernel::sandbox`). Path and digest of each are stored in the entry, which is used only if all of these files are the
//! same: one more comparison at each look-up, like ccache's manifests. If they differ, it is a miss, and the new build replaces
//! the entry in the local store. In a shared cache the first entry stays.
//!
//! A build that opened more files than can be recorded ([`Opened::missed`]) may have read anything. Its modules are used once;
//! its entry contains [`ANYTHING`], which matches nowhere, and is never shared.
//!
//! Files that were missing when the build looked for them are not recorded, nor are any files of a user's builds.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use fs_err as fs;
use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::{Opened, Sandbox};
use kcache_store::{Digest, Manifest, Observed, tree};

use crate::error::{Error, Result};
use crate::run::session::KernelFacts;

/// The path that stands for all files. Stored: never change.
pub const ANYTHING: &str = "/";

/// Digests of the files that a build opened, except those that its key covers as tools. `started` and `ended` are the
/// time of the build in seconds since 1970: a file that changed in between cannot be recorded reliably. A time in the
/// future is from before the clock was set back, or from a machine without a clock.
pub fn digests(facts: &KernelFacts, opened: &Opened, started: u64, ended: u64) -> Result<Vec<Observed>> {
    if opened.missed {
        return Ok(vec![Observed { path: ANYTHING.to_owned(), digest: Some(Digest::of(b"")) }]);
    }
    let spoils = |changed: u64| started < changed && changed <= ended;
    let observed = opened.files.iter().map(|path| observe(&facts.tools_root, path, spoils));
    let is_tool = |observed: &Observed| facts.tools.iter().any(|tool| Some(tool.digest) == observed.digest);
    observed.filter(|observed| !observed.as_ref().is_ok_and(is_tool)).collect()
}

fn observe(tools: &Root, path: &PathBuf, spoils: impl Fn(u64) -> bool) -> Result<Observed> {
    let changed = || Error::Changed { what: path.display().to_string() };
    let outside = tools.find(path).ok_or_else(changed)?;
    if spoils(fs::metadata(&outside)?.ctime().unsigned_abs()) {
        return Err(changed());
    }
    let digest = Some(tree::file_digest(&outside)?.0);
    Ok(Observed { path: path.display().to_string(), digest })
}

/// Whether the undeclared inputs of an entry's build are known, as far as this is possible.
pub fn is_known(manifest: &Manifest) -> bool {
    manifest.observed.iter().all(|observed| observed.path != ANYTHING)
}

/// The first file that differs from the one that an entry's build read, if any.
pub fn difference<'m>(facts: &KernelFacts, manifest: &'m Manifest) -> Option<&'m str> {
    let differs = |observed: &&Observed| !is_same(facts, observed);
    manifest.observed.iter().find(differs).map(|observed| observed.path.as_str())
}

/// Whether a file here equals the recorded one.
pub fn is_same(facts: &KernelFacts, observed: &Observed) -> bool {
    digest_here(&facts.tools_root, &observed.path) == observed.digest
}

/// An entry may be untrusted, so a path in it is read only if it is a regular file that a sandbox could have shown.
fn digest_here(tools: &Root, path: &str) -> Option<Digest> {
    let inside = tools.resolve(path).ok().filter(|inside| Sandbox::is_system(inside))?;
    let outside = Some(tools.outside(inside)).filter(|path| path.is_file())?;
    Some(tree::file_digest(&outside).ok()?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::session::Tool;

    const HEADER: &str = "usr/include/a.h";

    fn of_one(path: &str) -> Opened {
        Opened { files: [PathBuf::from(path)].into(), missed: false }
    }

    /// A root with one header, and the result of a build that opened it.
    fn facts() -> (tempfile::TempDir, KernelFacts, Opened) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/include")).unwrap();
        fs::write(dir.path().join(HEADER), "1").unwrap();
        let none = Digest::of(b"");
        let tools_root = Root::new(dir.path());
        let headers = kcache_store::Fingerprint {
            digest: none,
            programs: none,
            stamp: none,
            written: Default::default(),
        };
        let facts = KernelFacts { config: none, headers, tools_root, tools: Vec::new(), links: Vec::new() };
        (dir, facts, of_one("/usr/include/a.h"))
    }

    #[test]
    fn undeclared_inputs_must_be_equal() {
        let (dir, facts, opened) = facts();
        let observed = digests(&facts, &opened, 0, 0).unwrap();
        let header = dir.path().join(HEADER);
        assert!(is_same(&facts, &observed[0]));
        fs::write(&header, "2").unwrap();
        assert!(!is_same(&facts, &observed[0]));
        fs::remove_file(&header).unwrap();
        assert!(!is_same(&facts, &observed[0]));
        fs::create_dir(&header).unwrap();
        assert!(!is_same(&facts, &observed[0]));
    }

    #[test]
    fn a_file_that_changed_while_the_build_ran_spoils_it() {
        let (_dir, facts, opened) = facts();
        assert!(matches!(digests(&facts, &opened, 0, u64::MAX), Err(Error::Changed { .. })));
        let gone = of_one("/usr/include/b.h");
        assert!(matches!(digests(&facts, &gone, 0, 0), Err(Error::Changed { .. })));
    }

    #[test]
    fn an_entry_with_unknown_inputs_is_used_nowhere() {
        let (_dir, facts, opened) = facts();
        let observed = digests(&facts, &Opened { missed: true, ..opened }, 0, u64::MAX).unwrap();
        assert_eq!(observed.len(), 1);
        assert!(!is_same(&facts, &observed[0]));
    }

    #[test]
    fn a_clock_behind_all_files_invalidates_nothing() {
        let (_dir, facts, opened) = facts();
        assert!(digests(&facts, &opened, 5, 10).is_ok());
    }

    #[test]
    fn tools_are_not_undeclared_inputs() {
        let (_dir, mut facts, opened) = facts();
        facts.tools.push(Tool {
            role: "predef".into(),
            digest: Digest::of(b"1"),
            version: String::new(),
            path: PathBuf::new(),
        });
        assert_eq!(digests(&facts, &opened, 0, 0).unwrap(), []);
    }

    #[test]
    fn undeclared_inputs_are_read_only_where_a_sandbox_could() {
        let (dir, facts, _) = facts();
        fs::create_dir_all(dir.path().join("proc")).unwrap();
        fs::write(dir.path().join("proc/kmsg"), "1").unwrap();
        let digest = Some(Digest::of(b"1"));
        assert!(is_same(&facts, &Observed { path: "/usr/include/a.h".into(), digest }));
        for path in ["/proc/kmsg", "/usr/../proc/kmsg"] {
            assert!(!is_same(&facts, &Observed { path: path.into(), digest }), "{path}");
        }
    }
}
