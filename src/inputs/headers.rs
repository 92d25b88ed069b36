//! The kernel's part of a key: its headers, its configuration, and the symbols that it exports.

use std::sync::Arc;

use kcache_kernel::kernels::{BuildTree, Kernel};
use kcache_kernel::parallel::both;
use kcache_kernel::symvers::Symvers;
use kcache_kernel::toolchain;
use kcache_store::{Fingerprint, tree};

use crate::error::{Error, Result};
use crate::run::session::{HeaderCopies, KernelFacts, Session};

impl Session<'_> {
    /// The inputs of a kernel with headers.
    pub fn kernel(&self, kernel: &Kernel, tree: &BuildTree) -> Result<Arc<KernelFacts>> {
        self.kernels.get(&kernel.release, || {
            let tools_root = toolchain::tools_root(&self.context.root, tree, &self.context.tool_paths);
            // On a thread of its own: a thread of a shared pool could run other work while it waits, which may need
            // this lock.
            let (headers, tools) = both(|| self.seen_headers(tree), || self.tools(kernel, tree, &tools_root));
            let config = tree::file_digest(&tree.config_file())?.0;
            let (tools, links) = tools?;
            Ok(Arc::new(KernelFacts { config, headers: headers?, tools, links, tools_root }))
        })
    }

    /// The symbols that a kernel exports; `None` if its headers do not contain them.
    pub fn symvers(&self, kernel: &Kernel, tree: &BuildTree) -> Result<Option<Arc<Symvers>>> {
        self.symvers.get(&kernel.release, || {
            let parse = |text: Vec<u8>| Symvers::parse(&text).map_err(std::io::Error::other);
            Ok(tree.symvers()?.map(parse).transpose()?.map(Arc::new))
        })
    }

    /// The fingerprint of a kernel's headers at their first use in this run.
    pub(super) fn seen_headers(&self, tree: &BuildTree) -> Result<Fingerprint> {
        Ok(self.seen.fingerprint(self.store.as_ref(), &roots_of_headers(tree), self.context.now())?)
    }

    /// The headers as a sandbox is to show them. Where only root can read some of them, as after `make` under umask 077, they are
    /// copies that last as long as the run, as of a package's source. Whoever uses them compares the headers' fingerprint before
    /// and after.
    pub fn readable_headers(&self, kernel: &Kernel, tree: &BuildTree) -> Result<BuildTree> {
        if !self.context.services.is_root() || self.seen_headers(tree)?.written.is_for_all() {
            return Ok(tree.clone());
        }
        let copied = self.readable.get(&tree.outside().to_owned(), || {
            let mut copies = HeaderCopies { mounts: tree.mounts.clone(), scratch: None };
            for (at, root) in roots_of_headers(tree).into_iter().enumerate() {
                let alone = std::slice::from_ref(&root);
                let found = self.seen.fingerprint(self.store.as_ref(), alone, self.context.now())?;
                if found.written.is_for_all() {
                    continue;
                }
                self.detail_once(&format!(
                    "builds cannot read all headers of kernel {}, which are for root alone; they get copies",
                    kernel.release
                ));
                let scratch = match &mut copies.scratch {
                    Some(scratch) => scratch,
                    none => none.insert(self.scratch()?),
                };
                let copy = scratch.path().join(at.to_string());
                tree::snapshot(&root.path, &copy, &root.skip)?;
                copies.mounts[at].outside = copy;
            }
            Ok::<_, Error>(Arc::new(copies))
        })?;
        Ok(BuildTree { mounts: copied.mounts.clone(), ..tree.clone() })
    }

    /// The fingerprint of a kernel's headers now.
    pub fn headers(&self, tree: &BuildTree) -> Result<Fingerprint> {
        Ok(tree::fingerprint(self.store.as_ref(), &roots_of_headers(tree), self.context.now())?)
    }

    /// Checks that headers were not changed since they had this fingerprint, even if the change was undone.
    pub fn still_headers(&self, kernel: &Kernel, tree: &BuildTree, headers: Fingerprint) -> Result<()> {
        if headers.is_unwritten(&self.headers(tree)?) {
            return Ok(());
        }
        Err(Error::Changed { what: format!("the headers of kernel {}", kernel.release) })
    }

    /// Checks that the kernel's other inputs have not changed: what was read from its build tree before that was
    /// hashed, and the toolchain.
    pub fn still_facts(&self, kernel: &Kernel, tree: &BuildTree, facts: &KernelFacts) -> Result<()> {
        if !tree.is_current()? {
            return Err(Error::Changed { what: format!("the headers of kernel {}", kernel.release) });
        }
        let (tools, _) = self.tools(kernel, tree, &facts.tools_root)?;
        match tools.iter().zip(&facts.tools).find(|(now, then)| now.digest != then.digest) {
            Some((tool, _)) => Err(Error::Changed { what: format!("the {} of this host", tool.role) }),
            None => Ok(()),
        }
    }
}

fn roots_of_headers(tree: &BuildTree) -> Vec<tree::TreeRoot> {
    let root = |mount: &kcache_kernel::kernels::Mount| tree::TreeRoot {
        path: mount.outside.clone(),
        label: mount.inside.display().to_string(),
        skip: vec![".git".to_owned()],
        programs: true,
    };
    tree.mounts.iter().map(root).collect()
}
