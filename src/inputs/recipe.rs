//! Evaluates a package's recipe for a kernel.

use std::path::Path;

use kcache_kernel::bounded_read;
use kcache_kernel::kernels::{BuildTree, Kernel};
use kcache_kernel::packages::{Package, RecipeFile};
use kcache_kernel::recipe::{self, Recipe, Target, dkms, kbuild, toml};
use kcache_store::{Fingerprint, tree};

use crate::error::{Error, Result};
use crate::inputs::system_files::SystemFiles;
use crate::run::sandbox;
use crate::run::session::{Session, Signature};

impl Session<'_> {
    /// Evaluates a package's recipe for a kernel, or returns the remembered result.
    pub fn recipe(
        &self,
        package: &Package,
        source: Fingerprint,
        kernel: &Kernel,
        tree: &BuildTree,
    ) -> Result<Recipe> {
        let target = Target { release: &kernel.release, arch: &tree.arch, config: &tree.config };
        match &package.recipe {
            RecipeFile::Kbuild => {
                let (name, version) = (&package.name, &package.version);
                let recipe = kbuild::recipe(&package.source, name, version, &kernel.release)?;
                recipe.ok_or_else(|| Error::Changed { what: format!("the source of {name}") })
            }
            RecipeFile::Toml(path, file) => Ok(toml::recipe(path, file, &target)?),
            RecipeFile::Elsewhere => Err(Error::NoSource { package: package.name.clone() }),
            RecipeFile::Dkms => self.dkms_recipe(package, source, kernel, tree, &target),
        }
    }

    /// `dkms.conf` may read everything that its sandbox shows: its own tree, the headers, the overrides, and the
    /// system's programs, for which directory times show installations and removals. The result is remembered under
    /// these; source and headers did not change while it was evaluated.
    fn dkms_recipe(
        &self,
        package: &Package,
        source: Fingerprint,
        kernel: &Kernel,
        tree: &BuildTree,
        target: &Target,
    ) -> Result<Recipe> {
        let facts = self.kernel(kernel, tree)?;
        let mut signature = Signature::new("recipe 6");
        signature
            .text(&package.name)
            .text(&package.version)
            .text(target.release)
            .text(target.arch)
            .text(&tree.version)
            .text(&tree.source.to_string_lossy());
        signature.digest(source.digest).digest(facts.headers.digest).system(&facts.tools_root);
        for path in dkms::override_files(&package.name, &package.version, target.release, target.arch) {
            let outside = self.context.root.find(path);
            signature.bytes(
                &outside
                    .and_then(|path| bounded_read::bytes(&path, bounded_read::MOST_CONFIG).ok())
                    .unwrap_or_default(),
            );
        }
        signature.text(&self.context.directives.join("\0"));
        let system = self.system_files(package, source, kernel, tree)?;
        for digest in system.releases.into_iter().chain(system.map) {
            signature.digest(digest);
        }
        self.remembered("recipe", &signature.finish(), || {
            let mut wrote = false;
            let evaluated = self.evaluate(package, kernel, tree, (target, &system), None, &mut wrote);
            let mut recipe = match evaluated {
                // It made files beside itself, or needs some that it could not make: DKMS evaluates it where root may write.
                Ok(_) | Err(Error::Recipe(recipe::Error::Bad { .. })) if wrote => {
                    let copy = self.scratch()?;
                    let to = copy.path().join("source");
                    tree::snapshot(&package.source, &to, &[".git".to_owned()])?;
                    let recipe =
                        self.evaluate(package, kernel, tree, (target, &system), Some(&to), &mut wrote)?;
                    Recipe { writes: true, ..recipe }
                }
                evaluated => evaluated?,
            };
            if sandbox::has_cr(&package.dkms_conf()?) {
                recipe
                    .notes
                    .push("dkms.conf has Windows line endings (CRLF), on which DKMS fails".to_owned());
            }
            self.still(package, source)?;
            self.still_headers(kernel, tree, facts.headers)?;
            Ok(recipe)
        })
    }

    /// Makes in a copy of a package's source the files that its `dkms.conf` makes beside itself. DKMS copies the source after
    /// that, so builds may read them.
    pub fn make_beside(
        &self,
        package: &Package,
        kernel: &Kernel,
        tree: &BuildTree,
        system: &SystemFiles,
        copy: &Path,
    ) -> Result<()> {
        let target = Target { release: &kernel.release, arch: &tree.arch, config: &tree.config };
        self.evaluate(package, kernel, tree, (&target, system), Some(copy), &mut false).map(drop)
    }

    /// Evaluates a `dkms.conf` in a sandbox: beside the source, which is read-only, or beside a copy. `wrote` is set if it
    /// failed to write anything there.
    fn evaluate(
        &self,
        package: &Package,
        kernel: &Kernel,
        tree: &BuildTree,
        (target, system): (&Target, &SystemFiles),
        copy: Option<&Path>,
        wrote: &mut bool,
    ) -> Result<Recipe> {
        let facts = self.kernel(kernel, tree)?;
        let scratch = self.scratch()?;
        let own = scratch.path().join("own");
        let shown = self.readable_headers(kernel, tree)?;
        let mut room = sandbox::room(self.context, kernel, &shown, &facts.tools_root, own, dkms::JOBS);
        room.called = facts.called();
        let inside = sandbox::show_recipe(&mut room, &self.context.root, package, copy)?;
        system.show(&mut room)?;
        let conf = dkms::Conf {
            source: &inside,
            name: &package.name,
            version: &package.version,
            directives: &self.context.directives,
        };
        Ok(dkms::evaluate(&room, &conf, target, &self.context.services.cancel, wrote)?)
    }
}
