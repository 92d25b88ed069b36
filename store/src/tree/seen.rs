//! Trees that one run has already walked. Kernels share headers, and a package is looked up for many kernels: each
//! root is walked once, and of the walk only two digests are kept.

use super::walk::{SIGNATURE, STAMP, Tree, Walk, together};
use super::{Fingerprint, TreeRoot, Written, fingerprint, hashed, remembered};
use crate::{Digest, Error, OnceMap, Result, Store};

/// The roots that were walked in this run.
pub struct Seen(OnceMap<TreeRoot, Glance>);

impl Default for Seen {
    fn default() -> Self {
        Seen(OnceMap::of_at_most(usize::MAX))
    }
}

/// The two digests that are kept of a walk.
#[derive(Clone, Copy)]
struct Glance {
    signature: Digest,
    stamp: Digest,
    written: Written,
}

impl Seen {
    /// The [`fingerprint`] of these roots, each as it was at the first call. To detect later changes, compare it with
    /// one computed without this cache.
    pub fn fingerprint(&self, store: Option<&Store>, roots: &[TreeRoot], now: u64) -> Result<Fingerprint> {
        let mut trees = Vec::new();
        let mut seen = Vec::new();
        for root in roots {
            seen.push((root.label.as_str(), self.glance(root, &mut trees)?));
        }
        seen.sort_by_key(|(label, _)| *label);
        let signature = together(SIGNATURE, seen.iter().map(|(label, glance)| (*label, glance.signature)));
        let stamp = together(STAMP, seen.iter().map(|(label, glance)| (*label, glance.stamp)));
        let written = seen.iter().map(|(_, glance)| glance.written).sum();
        if let Some(digests) = remembered(store, &signature)? {
            return Ok(Fingerprint::of(digests, stamp, written));
        }
        if trees.len() == roots.len() {
            match hashed(&Walk::of(trees), store, roots, now) {
                Ok(digests) => return Ok(Fingerprint::of(digests, stamp, written)),
                Err(Error::Changed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        fingerprint(store, roots, now)
    }

    /// The digests of a root. A root that is not yet known is walked, and added to `trees`.
    fn glance(&self, root: &TreeRoot, trees: &mut Vec<Tree>) -> Result<Glance> {
        self.0.get(root, || {
            let tree = Tree::walk(root)?;
            let glance = Glance { signature: tree.signature(), stamp: tree.stamp(), written: tree.written() };
            trees.push(tree);
            Ok(glance)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::{LATER, roots, store_and_tree};
    use crate::tree::walk;

    #[test]
    fn a_root_is_walked_once_per_run() {
        let (_dir, store, tree) = store_and_tree();
        let (seen, roots) = (Seen::default(), roots(&tree));
        let first = seen.fingerprint(Some(&store), &roots, LATER).unwrap();
        assert_eq!(first, fingerprint(Some(&store), &roots, LATER).unwrap());
        fs_err::write(tree.join("more"), "more").unwrap();
        assert_eq!(seen.fingerprint(Some(&store), &roots, LATER).unwrap(), first, "walked again");
        assert_ne!(fingerprint(Some(&store), &roots, LATER).unwrap(), first);
    }

    #[test]
    fn a_hard_link_is_no_change_and_an_edit_that_was_undone_is_one() {
        let (dir, store, tree) = store_and_tree();
        let roots = roots(&tree);
        let file = tree.join("more");
        fs_err::write(&file, "more").unwrap();
        let now = || fingerprint(Some(&store), &roots, LATER).unwrap();
        let before = now();
        fs_err::hard_link(&file, dir.path().join("backup")).unwrap();
        let linked = now();
        assert_ne!(linked.stamp, before.stamp);
        assert!(before.is_unwritten(&linked));
        let times =
            std::fs::FileTimes::new().set_modified(fs_err::metadata(&file).unwrap().modified().unwrap());
        fs_err::write(&file, "more").unwrap();
        fs_err::File::options().write(true).open(&file).unwrap().file().set_times(times).unwrap();
        assert!(!linked.is_unwritten(&now()), "its mtime was put back");
        fs_err::write(&file, "less").unwrap();
        assert!(!before.is_unwritten(&now()));
        fs_err::write(&file, "more").unwrap();
        assert_eq!(before.digest, now().digest);
        assert!(!before.is_unwritten(&now()), "its mtime has moved");
    }

    #[test]
    fn a_fingerprint_without_a_memo_is_computed_again() {
        let (_dir, store, tree) = store_and_tree();
        let (seen, roots) = (Seen::default(), roots(&tree));
        seen.fingerprint(None, &roots, LATER).unwrap();
        fs_err::write(tree.join("more"), "more").unwrap();
        let now = seen.fingerprint(Some(&store), &roots, LATER).unwrap();
        assert_eq!(now, fingerprint(None, &roots, LATER).unwrap());
        assert_eq!(now.stamp, walk(&roots).unwrap().stamp());
    }
}
