//! Single hosts of a fleet on which something is odd. Each was once left alone with a miss, or with a wrong reason.
//!
//! | what is odd | test |
//! |---|---|
//! | a plain chroot, whose root is no mount point | [`crate::chrooted`] |
//! | another compiler than the builder's | [`crate::explain`], [`crate::tools`] |
//! | no key, another key, a cache that is down, no image, a typing error | [`crate::misses`] |
//! | two builders with keys that do not trust each other | here |
//! | a source tree that root alone may read | here |
//! | headers of another build than the image | [`crate::misses`] |
//! | a package that fails on the builder, a host that cannot build | [`crate::misses`] |
//! | a web server that restarts | [`crate::servers`], [`crate::retry`] |
//! | headers without the files that they include | [`crate::misses`] |
//! | kcache and a kernel in one run of apt | [`crate::hooks`], `tests/apt.sh` |
//! | `on-failure = "block"` on a host that only fetches | [`crate::misses`] |
//! | `-march=native` on the builder | [`crate::plain_trees`] |

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use fs_err as fs;

use super::k;
use crate::builder::{Builder, url};
use crate::host::{Host, run};
use crate::packages::hello;

#[test]
fn a_source_tree_that_root_alone_may_read_builds() {
    let host = Host::new(&[k()]);
    let source = hello(&host, "");
    run(Command::new("chmod").args(["-R", "go-rwx"]).arg(&source));
    host.kcache(&["install", "-k", k()]).exits(0);
    host.kcache(&["check", "-k", k()]).exits(0);
    // It is the same source for others, whoever may read it.
    run(Command::new("chmod").args(["-R", "go+rX"]).arg(&source));
    let mode = fs::metadata(source.join("dkms.conf")).unwrap().permissions().mode();
    assert_eq!(mode & 0o044, 0o044);
    host.kcache(&["install", "-k", k()]).exits(0).says(&["nothing to change"]);
}

#[test]
fn clients_of_either_builder_keep_what_both_built() {
    let one = Builder::new("one", &[]);
    let two = Builder::new("two", &[]);
    let cache = one.cache_url();
    fs::create_dir(one.cache()).unwrap();
    let client = |of: &Builder| {
        let host = Host::image_only().trusting(of);
        host.write_config(&format!("packages = ['hello']\n[[cache]]\n{}\n", url(&cache)));
        host.kcache(&["pull", "-k", k()]).exits(0).prints(&["fetched"]);
    };
    for builder in [&one, &two] {
        hello(&builder.host, "");
        builder.host.kcache(&["build", "hello", "-k", k()]).exits(0);
        builder.host.kcache(&["push", "--to", &cache, "hello", "-k", k()]).exits(0);
        client(&one);
    }
    client(&two);
    // The first one again: nobody replaces anything.
    one.host.kcache(&["push", "--to", &cache, "hello", "-k", k()]).exits(0).prints(&["present"]);
    client(&two);
}
