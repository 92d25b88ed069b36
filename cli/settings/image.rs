//! What the `/etc/kcache` of a tree under `--root DIR` may set.
//!
//! Such a tree is untrusted unless the caller says otherwise: a downloaded image, or a disk from another machine. Its files may
//! set what concerns that system only. Everything else concerns this machine: what is written where, which of the caller's
//! secrets are sent where, what runs, and how much it uses. The caller sets that, by options, by `KCACHE_*`, or by
//! `--config FILE`, which may be the tree's own file. So the list is closed; a setting that is not on it is ignored, and one
//! line names all that were.
//!
//! | setting | what it decides |
//! |---|---|
//! | `packages` | which packages that system wants |
//! | `[[policy]]`, `foreign` | what its kernels need to be ready |
//! | `depmod` | how its indexes are generated |
//! | `threshold` | how many of the keys that it trusts must agree |
//! | `[[cache]]` `url`, `priority` | up to 8 caches: `http`, `https` or `oci`, without credentials, read-only, not on this machine or its links ([`Location::stranger`]) |
//!
//! [`Location::stranger`]: kcache::store::transport::Location::stranger

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use super::caches::Table;

/// The settings that count.
const MAY: [&str; 6] = ["packages", "policy", "foreign", "depmod", "threshold", "cache"];

/// What caches of the tree may be.
const SCHEMES: [&str; 3] = ["http", "https", "oci"];

/// How many caches it may name: each that does not answer costs seconds.
const MOST_CACHES: usize = 8;

/// How many settings one line names.
const MOST_NAMED: usize = 24;

/// Whether a setting of the tree's counts.
pub fn may_set(name: &str) -> bool {
    MAY.contains(&name)
}

/// Of the caches that the tree names, those that may be used, as they may be used; what is passed over is noted.
pub fn caches(tables: Vec<Table>, passed_over: &mut BTreeSet<String>) -> Vec<Table> {
    let mut usable = Vec::new();
    for mut table in tables {
        let scheme = table.url.split_once("://").map_or("file", |(scheme, _)| scheme);
        let scheme: String = scheme.chars().take(16).collect();
        if !SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()) {
            passed_over.insert(format!("cache {scheme}://"));
        } else if usable.len() == MOST_CACHES {
            passed_over.insert(format!("more than {MOST_CACHES} of cache"));
        } else {
            passed_over.extend(table.keep_to_reading().into_iter().map(|name| format!("cache.{name}")));
            usable.push(table);
        }
    }
    usable
}

/// The line that names what was passed over.
pub fn warning(passed_over: &BTreeSet<String>, directory: &Path) -> Option<String> {
    if passed_over.is_empty() {
        return None;
    }
    let named: Vec<&str> = passed_over.iter().take(MOST_NAMED).map(String::as_str).collect();
    let mut line = format!("{}: ignored settings: {}", directory.display(), named.join(", "));
    if passed_over.len() > MOST_NAMED {
        let _ = write!(line, " and {} more", passed_over.len() - MOST_NAMED); // to a String: cannot fail
    }
    line.push_str("; a tree under --root cannot set these unless its file is named with --config FILE");
    Some(line)
}
