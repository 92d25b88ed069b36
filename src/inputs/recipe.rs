//! Evaluates a package's recipe for a kernel.

use kcache_kernel::bounded_read;
use kcache_kernel::kernels::{BuildTree, Kernel};
use kcache_kernel::packages::{Package, RecipeFile};
use kcache_kernel::recipe::{Recipe, Target, dkms, kbuild, toml};
use kcache_store::Fingerprint;

use crate::error::{Error, Result};
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
        let mut signature = Signature::new("recipe 3");
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
        self.remembered("recipe", &signature.finish(), || {
            let scratch = self.scratch()?;
            let own = scratch.path().join("own");
            let mut room = sandbox::room(self.context, kernel, tree, &facts.tools_root, own, dkms::JOBS);
            let inside = sandbox::show_recipe(&mut room, &self.context.root, package)?;
            let (name, version) = (&package.name, &package.version);
            let (given, cancel) = (&self.context.directives, &self.context.cancel);
            let mut recipe = dkms::evaluate(&room, &inside, name, version, target, given, cancel)?;
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
}
