//! `kcache init`: write a first kcache.toml.

use std::path::Path;

use fs_err as fs;
use kcache::authoring;
use kcache::kernel::kernels::{Kernel, headers_hint};
use kcache::kernel::packages::{self, RecipeFile};
use kcache::run::context::Context;
use kcache::run::session::Session;

use super::kernels_with_headers;
use crate::args::Init;
use crate::exit::{Exit, Failure};
use crate::out::Out;
use crate::{file, json};

pub fn run(context: &Context, out: &Out, args: &Init, dry: bool) -> Result<Exit, Failure> {
    let source =
        fs::canonicalize(&args.dir).map_err(packages::Error::from).map_err(kcache::error::Error::from)?;
    let path = source.join("kcache.toml");
    if (path.exists() || path.is_symlink()) && !args.force && !dry {
        let message = format!("{} already exists", path.display());
        return Err(Failure::usage(
            message,
            Some("use --force to replace it, --dry-run to print the new file".into()),
        ));
    }
    let package = packages::without_toml(&source).map_err(|error| not_a_package(error.into()))?;
    let kernels = match package.recipe {
        RecipeFile::Dkms => kernels(context, &args.kernels)?,
        // Its commands are the same for all; a build shows which one works.
        _ => kernels_with_headers(context, &args.kernels)?,
    };
    let session = Session::new(context, context.open_existing_store()?)?;
    let text = authoring::draft(&session, &package, &kernels)?;
    if dry {
        out.raw(text.as_bytes());
    } else {
        write(&path, &text)?;
        out.print(&format!("wrote {}", path.display()));
    }
    if out.json && !dry {
        let from = if matches!(package.recipe, RecipeFile::Dkms) { "dkms.conf" } else { "kbuild" };
        let asked: &[Kernel] = if from == "dkms.conf" { &kernels } else { &[] };
        let kernels = asked.iter().map(|kernel| kernel.release.clone()).collect();
        out.record(&json::Init { r#type: "init", path: path.display().to_string(), from, kernels });
    }
    Ok(Exit::Done)
}

/// The directory may be somebody else's, and a link in it lead to a device.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    if path.is_symlink() {
        fs::remove_file(path)?;
    }
    file::write(path, |file| file.write_all(text.as_bytes()))
}

/// A dkms.conf speaks to kernels with headers only.
fn kernels(context: &Context, asked: &[String]) -> Result<Vec<Kernel>, Failure> {
    let mut kernels = kernels_with_headers(context, asked)?;
    if asked.is_empty() {
        kernels.drain(..kernels.len().saturating_sub(1));
    }
    if kernels.is_empty() {
        return Err(Failure {
            exit: Exit::NoHeaders,
            message: "dkms.conf can be evaluated only for a kernel with headers, and none is installed"
                .into(),
            hint: asked.first().map(|release| headers_hint(&context.root, release)),
        });
    }
    Ok(kernels)
}

fn not_a_package(error: kcache::error::Error) -> Failure {
    use kcache::error::Error::Package;
    let mut failure = Failure::of(&error);
    if let Package(packages::Error::NoRecipe { .. }) = error {
        failure.hint = Some(
            "run it in a directory in which a Makefile or Kbuild file has `obj-m := NAME.o`, or write a kcache.toml with the commands that build it"
                .into(),
        );
    }
    failure
}
