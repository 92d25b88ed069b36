//! A compiler launcher: ccache in front of the compiler, so that a build after a small change compiles only what has changed.
//!
//! Which objects may be taken again is ccache's to say, from the preprocessed text or all that is included, the arguments, the
//! directory, and the digests of the compiler and its `cc1` and `as`, which are those of the key. So the modules have the bits that
//! they have without it, and the key is the same. Its directory is the package's own: what is in it was put there by builds of that
//! package, which anyway decide what is in its modules, and no other package reads it.

use std::path::{Path, PathBuf};

use kcache_kernel::packages::Package;
use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::{Launcher, Sandbox};
use kcache_store::Digest;

use crate::error::Result;
use crate::facts::{KernelFacts, Session};

/// The program, where the tools are.
const CCACHE: &str = "/usr/bin/ccache";
/// What of the toolchain decides what comes out of the compiler.
const ROLES: [&str; 4] = ["cc", "cc1", "as", "predef"];

/// Puts the launcher before the compiler of a sandbox, where one is configured.
pub(crate) fn attach(
    session: &Session,
    sandbox: &mut Sandbox,
    package: &Package,
    facts: &KernelFacts,
) -> Result<()> {
    let (true, Some(store)) = (session.world.launches_ccache, &session.store) else { return Ok(()) };
    let Some(compiler) = compiler(facts, &sandbox.tools) else {
        session.say_once("warning: ccache is configured and not installed: builds do without");
        return Ok(());
    };
    // Nobody gets there but through a sandbox: builds leave files that belong to a uid of nobody's.
    let name = Digest::of(package.name.as_bytes()).short();
    let directory = store.foreign_dir(Path::new("ccache").join(name))?;
    let program = PathBuf::from(CCACHE);
    sandbox.launcher = Some(Launcher { program, compiler, identity: identity(facts), directory });
    Ok(())
}

/// The compiler's path, where there is a launcher to be put before it.
fn compiler(facts: &KernelFacts, tools: &Root) -> Option<PathBuf> {
    tools.find(CCACHE)?;
    facts.tools.iter().find(|tool| tool.role == "cc").map(|tool| tool.path.clone())
}

/// What ccache takes the compiler to be, in place of its size and time.
fn identity(facts: &KernelFacts) -> String {
    let tools = facts.tools.iter().filter(|tool| ROLES.contains(&tool.role.as_str()));
    let all: String = tools.map(|tool| format!("{} {}\n", tool.role, tool.digest)).collect();
    Digest::of(all.as_bytes()).to_string()
}
