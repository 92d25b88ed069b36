//! Checks whether a build is reproducible: it builds again in another scratch directory, as another user, and compares the bits.

use kcache_store::{Digest, Manifest, Output, Role};

use crate::build::check_modules::{Content, KEPT_NAME, Outputs};
use crate::build::{BuildResult, How, make};
use crate::error::{Error, Result};
use crate::inputs::identify;
use crate::resolve;
use crate::run::request::{Options, Request};
use crate::run::session::Session;

/// Result of a rebuild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Every module has the same bytes, and so have its debug information and the results for other packages.
    Same,
    /// Names of outputs that differ, are missing, or are new.
    Different(Vec<String>),
}

/// Builds again and compares with an entry's outputs.
pub fn compare(session: &Session, request: &Request, manifest: &Manifest) -> Result<Comparison> {
    let Some(tree) = request.kernel.build_tree() else {
        return Err(Error::Environment {
            package: request.package.name.clone(),
            release: request.kernel.release.clone(),
            reason: "cannot rebuild without headers".to_owned(),
        });
    };
    let id = identify::identify(session, request, tree)?;
    let needed = resolve::have(session, request, &id, &Options::default())?;
    let how = How { may_launch: false };
    let again = make(session, request, tree, &id, &needed, how)?;
    let second: Vec<(String, Digest)> = match &again.result {
        BuildResult::Outputs(outputs) => digests(session, outputs)?,
        BuildResult::Failure(_) => Vec::new(),
    };
    let compared = |output: &&Output| [Role::Module, Role::Debug, Role::Kept].contains(&output.role);
    let first = manifest.outputs.iter().filter(compared);
    let first: Vec<(String, Digest)> = first.map(|output| (output.name.clone(), output.digest)).collect();
    Ok(differ(&first, &second))
}

fn digests(session: &Session, outputs: &Outputs) -> Result<Vec<(String, Digest)>> {
    let modules = outputs.modules.iter().map(|module| (module.name.as_str(), &module.content));
    let debug = outputs.debug.iter().map(|(name, content)| (name.as_str(), content));
    let kept = outputs.kept.iter().map(|kept| (KEPT_NAME, kept));
    let digest =
        |(name, content): (&str, &Content)| Ok((name.to_owned(), Digest::of(&content.read(session)?)));
    modules.chain(debug).chain(kept).map(digest).collect()
}

fn differ(first: &[(String, Digest)], second: &[(String, Digest)]) -> Comparison {
    let only_in = |a: &[(String, Digest)], b: &[(String, Digest)]| -> Vec<String> {
        a.iter().filter(|module| !b.contains(module)).map(|(name, _)| name.clone()).collect()
    };
    let mut names = [only_in(first, second), only_in(second, first)].concat();
    names.sort();
    names.dedup();
    if names.is_empty() { Comparison::Same } else { Comparison::Different(names) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_missing_and_new_modules_are_listed_once() {
        let module = |name: &str, bytes: &str| (name.to_owned(), Digest::of(bytes.as_bytes()));
        let first = [module("a", "1"), module("b", "1"), module("c", "1")];
        let second = [module("a", "1"), module("b", "2"), module("d", "1")];
        assert_eq!(differ(&first, &second), Comparison::Different(vec!["b".into(), "c".into(), "d".into()]));
        assert_eq!(differ(&first, &first), Comparison::Same);
    }
}
