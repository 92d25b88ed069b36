//! The programs that determine a module's bits: found once, in the sandbox, and identified by their bytes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache_kernel::bounded_read;
use kcache_kernel::kernels::{BuildTree, Kernel, Mount};
use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::Sandbox;
use kcache_kernel::toolchain::{self, Link, Program, Toolchain};
use kcache_store::tree;

use crate::error::{Error, Result};
use crate::run::sandbox;
use crate::run::session::{Session, Signature, Tool};

impl Session<'_> {
    pub(super) fn tools(
        &self,
        kernel: &Kernel,
        tree: &BuildTree,
        tools_root: &Root,
    ) -> Result<(Vec<Tool>, Vec<Link>)> {
        let mut signature = Signature::new("toolchain 4");
        signature.text(tree.compiler().unwrap_or_default()).text(&kernel.release);
        signature.text(if toolchain::is_llvm(tree) { "llvm" } else { "gnu" });
        toolchain::versions(tree).iter().for_each(|version| {
            signature.text(version);
        });
        signature.text(if tree.makes_btf() { "btf" } else { "" }).system(tools_root);
        signature.bytes(
            &bounded_read::bytes(tree.outside().join(".kernelvariables"), bounded_read::MOST_CONFIG)
                .unwrap_or_default(),
        );
        let directories = self.tool_paths(tools_root)?;
        for tool in &directories {
            signature.text(&tool.role).digest(tool.digest);
        }
        let found: Toolchain = self.remembered("toolchain", &signature.finish(), || {
            let scratch = self.scratch()?;
            let shown = self.readable_headers(kernel, tree)?;
            let room = sandbox::room(self.context, kernel, &shown, tools_root, scratch.path().join("own"), 1);
            Ok(toolchain::programs(&room, tree, &self.context.services.cancel)?)
        })?;
        if let Some(difference) = toolchain::stands_in(tree, &found) {
            self.warn_once(&format!("kernel {} {difference}", kernel.release));
        }
        for Link { name, path } in &found.links {
            let (path, release) = (path.display(), &kernel.release);
            self.detail_once(&format!(
                "builds for kernel {release} call {path} as {name}: it is of the version that built the kernel"
            ));
        }
        let programs = found.programs.into_iter().map(|program| self.tool(tools_root, program));
        let tools: Result<Vec<Tool>> = programs.chain(directories.into_iter().map(Ok)).collect();
        Ok((tools?, found.links))
    }

    /// The administrator's directories of tools: builds see all of each, so all of it is one tool.
    fn tool_paths(&self, tools_root: &Root) -> Result<Vec<Tool>> {
        let tool = |path: &PathBuf| {
            if !Sandbox::may_show(path) {
                return Err(Error::ReservedToolPath { path: path.clone() });
            }
            let Some(Mount { outside, .. }) = sandbox::tool_path(self.context, tools_root, path) else {
                return Err(Error::NoToolPath { path: path.clone() });
            };
            let root =
                tree::TreeRoot { path: outside, label: String::new(), skip: Vec::new(), programs: false };
            let digest = tree::tree_digest(self.store.as_ref(), &[root], (self.context.services.now)())?;
            let role = format!("path.{}", path.display());
            Ok(Tool { role, digest, version: String::new(), path: path.clone() })
        };
        self.context.tool_paths.iter().map(tool).collect()
    }

    /// The root that has a program: a directory of tools may be the target's, where the other programs are this machine's.
    fn root_of<'r>(&'r self, tools_root: &'r Root, program: &Path) -> &'r Root {
        let setting = self.context.tool_paths.iter().find(|path| program.starts_with(path));
        let is_there = |root: &Root, path: &Path| root.find(path).is_some_and(|path| path.is_dir());
        match setting {
            Some(path) if !is_there(tools_root, path) => &self.context.root,
            _ => tools_root,
        }
    }

    fn tool(&self, tools_root: &Root, program: Program) -> Result<Tool> {
        let root = self.root_of(tools_root, &program.path);
        let path = root.outside(root.resolve(&program.path)?);
        let mut signature = Signature::new("program 1");
        signature.stat(&path);
        let racy = fs::metadata(&path)?.ctime().unsigned_abs() + 2 >= self.context.now();
        let hash = || Ok(tree::program_digest(&path)?);
        let digest = if racy { hash()? } else { self.remembered("program", &signature.finish(), hash)? };
        Ok(Tool { role: program.role, digest, version: program.version, path: program.path })
    }
}
