//! The compiler launcher: ccache in front of the compiler, so that a build after a small change compiles only what changed.
//!
//! ccache decides which objects can be reused: by the preprocessed text or all included files, the arguments, the directory, and
//! the digests of the compiler and its `cc1` and `as`, which are those of the key. So modules have the same bits as without it,
//! and the same key. Each package has its own directory, which only builds of that package read and write.

use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache_kernel::packages::Package;
use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::{self, Launcher, Sandbox};
use kcache_store::{Digest, Store};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::Result;
use crate::run::session::{KernelFacts, Session};

/// Path of ccache in the tools' root.
const CCACHE: &str = "/usr/bin/ccache";
/// Roles of the programs that determine the compiler's output.
const ROLES: [&str; 4] = ["cc", "cc1", "as", "predef"];
/// Limit on cache directories of one package, of 1 GiB each (`kcache_kernel::sandbox`): this many builds of it can run
/// concurrently.
const MOST: usize = 4;

/// Limit in bytes on a directory: twice ccache's own limit, which it enforces only gradually.
const MOST_BYTES: u64 = 2 << 30;
const MOST_FILES: u64 = 200_000;

/// A cache directory lent to a build.
pub(crate) struct Lent {
    /// Paths where directories are stored between builds.
    places: Vec<PathBuf>,
    directory: PathBuf,
}

impl Lent {
    /// Takes a directory for a build with this scratch directory, or creates one.
    fn take(store: &Store, package: &str, scratch: &Path) -> Result<Lent> {
        let name = Digest::of(package.as_bytes()).short();
        let rest = store.foreign_dir("ccache")?;
        let places: Vec<PathBuf> = (0..MOST).map(|at| rest.join(format!("{name}.{at}"))).collect();
        let directory = scratch.join("ccache");
        // A missing directory is in use by another build; one that cannot be moved is treated in the same way.
        if !places.iter().any(|place| fs::rename(place, &directory).is_ok()) {
            fs::create_dir(&directory)?;
        }
        Ok(Lent { places, directory })
    }

    /// Returns the directory to a free path; otherwise it is deleted with the scratch directory. All processes of the
    /// build must be dead. It stays as long as the store does, so one that ccache cannot have left, or that exceeds
    /// the limit, is deleted too.
    pub(crate) fn put_back(self) {
        if sandbox::holds_more(&self.directory, MOST_BYTES, MOST_FILES) {
            return;
        }
        let put =
            |place: &PathBuf| renameat_with(CWD, &self.directory, CWD, place, RenameFlags::NOREPLACE).is_ok();
        self.places.iter().any(put);
    }
}

/// Configures the launcher for a sandbox, if enabled; returns the directory lent to it.
pub(crate) fn attach(
    session: &Session,
    sandbox: &mut Sandbox,
    package: &Package,
    facts: &KernelFacts,
    scratch: &Path,
) -> Result<Option<Lent>> {
    let (true, Some(store)) = (session.context.launches_ccache, &session.store) else { return Ok(None) };
    let Some(compiler) = compiler(facts, &sandbox.tools) else {
        session.warn_once("ccache is configured but not installed; building without it");
        return Ok(None);
    };
    let lent = Lent::take(store, &package.name, scratch)?;
    let directory = lent.directory.clone();
    let program = PathBuf::from(CCACHE);
    sandbox.launcher = Some(Launcher { program, compiler, identity: identity(facts), directory });
    Ok(Some(lent))
}

/// Path of the compiler, if a launcher can be put before it.
fn compiler(facts: &KernelFacts, tools: &Root) -> Option<PathBuf> {
    tools.find(CCACHE)?;
    let cc = facts.tools.iter().find(|tool| tool.role == "cc").map(|tool| tool.path.clone())?;
    tools.find(&cc).is_some().then_some(cc)
}

/// Identifies the compiler for ccache, instead of its size and time.
fn identity(facts: &KernelFacts) -> String {
    let tools = facts.tools.iter().filter(|tool| ROLES.contains(&tool.role.as_str()));
    let all: String = tools.map(|tool| format!("{} {}\n", tool.role, tool.digest)).collect();
    Digest::of(all.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kcache_store::Waiting;

    #[test]
    fn what_is_too_much_for_ccache_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let waiting = Waiting { limit: std::time::Duration::from_secs(9), print: &|_| () };
        let store = Store::open(&dir.path().join("store"), &waiting).unwrap();
        let is_kept = |leave: &dyn Fn(&Path)| {
            let scratch = store.scratch().unwrap();
            let lent = Lent::take(&store, "a", scratch.path()).unwrap();
            leave(&lent.directory);
            let places = lent.places.clone();
            lent.put_back();
            places.iter().any(|place| fs::remove_dir_all(place).is_ok())
        };
        assert!(is_kept(&|dir| fs::write(dir.join("object"), "o").unwrap()));
        // Deeper than ccache's own directories, so that it cannot be walked completely.
        assert!(!is_kept(&|dir| fs::create_dir_all(dir.join("d/".repeat(200))).unwrap()));
    }

    #[test]
    fn concurrent_builds_have_separate_ccache_directories() {
        let dir = tempfile::tempdir().unwrap();
        let waiting = Waiting { limit: std::time::Duration::from_secs(9), print: &|_| () };
        let store = Store::open(&dir.path().join("store"), &waiting).unwrap();
        let build = |notes: &str| {
            let scratch = store.scratch().unwrap();
            let lent = Lent::take(&store, "a", scratch.path()).unwrap();
            let file = lent.directory.join("note");
            let found = fs::read_to_string(&file).unwrap_or_default();
            fs::write(&file, format!("{found}{notes}")).unwrap();
            (scratch, lent, found)
        };
        let (one, two) = (build("1"), build("2"));
        assert_eq!((&one.2[..], &two.2[..]), ("", ""));
        one.1.put_back();
        two.1.put_back();
        let (three, four, five) = (build("3"), build("4"), build("5"));
        assert_eq!([three.2, four.2, five.2], ["1", "2", ""]);
        // A directory that is not returned is deleted with its build.
        drop((three.0, three.1));
        assert_eq!(build("6").2, "");
    }
}
