//! Real packages of Debian's archive on real kernels of Debian's archive, as they are today.

use crate::boot_test::modules;
use crate::host::{FIXTURES, Host, Outcome};
use std::collections::BTreeSet;

const PACKAGES: [&str; 6] =
    ["v4l2loopback", "acpi-call", "xtables-addons", "jool", "dm-writeboost", "bbswitch"];

/// The packages for the two kernels that hardly differ from the newest one: all of them only in `make test-all`, because
/// xtables-addons and jool take longer to compile than the rest of the suite.
fn packages() -> Vec<&'static str> {
    let all = std::env::var_os("KCACHE_TEST_ALL").is_some();
    PACKAGES.into_iter().filter(|package| all || !["xtables-addons", "jool"].contains(package)).collect()
}

fn state<'a>(outcomes: &'a [Outcome], package: &str) -> &'a str {
    let found = outcomes.iter().find(|outcome| outcome.package.starts_with(package));
    &found.unwrap_or_else(|| panic!("no {package} in {outcomes:?}")).state
}

/// What is installed is what was reported, and each module says that it is for this kernel.
#[track_caller]
fn installed_as_reported(host: &Host, kernel: &str, outcomes: &[Outcome]) {
    let installed = outcomes.iter().filter(|outcome| outcome.state == "installed");
    let named = |outcome: &Outcome| {
        outcome.modules.iter().map(|m| format!("{}/{m}", outcome.package)).collect::<Vec<_>>()
    };
    let reported: BTreeSet<String> = installed.flat_map(named).collect();
    let lies = host.modules(kernel);
    let found: BTreeSet<String> = lies.keys().map(|path| path.trim_end_matches(".xz").to_owned()).collect();
    assert_eq!(found, reported);
    for name in found {
        let vermagic = host.modinfo(kernel, &name, "vermagic");
        assert!(vermagic.starts_with(&format!("{kernel} ")), "{name}: {vermagic}");
    }
}

#[test]
fn the_newest_kernel_gets_every_package_and_each_is_reproducible() {
    let kernel = FIXTURES.new.as_str();
    let host = Host::whole(&[kernel]).with_packages(&PACKAGES);
    let outcomes = host.kcache(&["install", "-k", kernel, "--json"]).exits(0).outcomes();
    for package in PACKAGES {
        assert_eq!(state(&outcomes, package), "installed", "{package}");
    }
    installed_as_reported(&host, kernel, &outcomes);
    let count =
        |package| outcomes.iter().find(|outcome| outcome.package.starts_with(package)).unwrap().modules.len();
    assert_eq!((count("xtables-addons"), count("jool"), count("v4l2loopback")), (23, 3, 1));
    host.kcache(&["build", "--check", "-k", kernel]).exits(0);
    load_as_they_should(&host, kernel);
}

/// What is installed is loaded in a guest. xtables-addons takes more guests than one, since the kernel asks for modules on its
/// behalf, so it is only in `make test-all`.
fn load_as_they_should(host: &Host, kernel: &str) {
    let all = std::env::var_os("KCACHE_TEST_ALL").is_some();
    let few = ["v4l2loopback", "acpi-call", "jool-dkms", "dm-writeboost", "bbswitch"];
    let packages = if all { &[][..] } else { &few[..] };
    let run = host.kcache(&[&["boot-test", "-k", kernel, "--json"], packages].concat());
    let loaded = modules(&run.exits(if all { 3 } else { 0 }));
    assert_eq!(loaded.len(), if all { host.modules(kernel).len() } else { 7 });
    for (name, module) in loaded {
        let expect = match name.as_str() {
            "bbswitch" => "no-device",
            // It asks for CONFIG_NF_NAT=y, which is =m here, and says so.
            "xt_DNETMAP" => "fails",
            _ => "loads",
        };
        assert_eq!(module.state, expect, "{module:?}");
        assert!(expect != "fails" || module.log[0].contains("CONFIG_NF_NAT is not available"), "{module:?}");
    }
}

#[test]
fn the_kernel_before_gets_every_package() {
    let kernel = FIXTURES.old.as_str();
    let host = Host::whole(&[kernel]).with_packages(&packages());
    let outcomes = host.kcache(&["install", "-k", kernel, "--json"]).exits(0).outcomes();
    for package in packages() {
        assert_eq!(state(&outcomes, package), "installed", "{package}");
    }
    installed_as_reported(&host, kernel, &outcomes);
}

#[test]
fn the_cloud_kernel_gets_what_its_configuration_allows() {
    let kernel = FIXTURES.cloud.as_str();
    let host = Host::whole(&[kernel]).with_packages(&packages());
    let outcomes = host.kcache(&["install", "-k", kernel, "--json"]).exits(0).outcomes();
    // Its recipe refuses a kernel without CONFIG_VIDEO_DEV, which a virtual machine's kernel is.
    assert_eq!(state(&outcomes, "v4l2loopback"), "excluded");
    for package in packages().into_iter().filter(|package| *package != "v4l2loopback") {
        assert_eq!(state(&outcomes, package), "installed", "{package}");
    }
    installed_as_reported(&host, kernel, &outcomes);
}

#[test]
fn a_kernel_too_new_for_a_package_is_an_honest_failure_beside_what_works() {
    let kernel = FIXTURES.six12.as_str();
    let host = Host::whole(&[kernel]).with_packages(&PACKAGES);
    let install = ["install", "-k", kernel, "--json"];
    let first = host.kcache(&install).exits(4);
    let outcomes = first.outcomes();
    installed_as_reported(&host, kernel, &outcomes);
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.state == "failed").collect();
    assert!(!failed.is_empty() && failed.len() < outcomes.len(), "{outcomes:?}");
    for outcome in &failed {
        assert!(outcome.error.as_deref().is_some_and(|error| error.contains("error:")), "{outcome:?}");
    }

    let second = host.kcache(&install).exits(4).outcomes();
    for outcome in &second {
        let expect = if outcome.state == "failed" { Some("failure-remembered") } else { Some("store") };
        assert!(outcome.state == "excluded" || outcome.how.as_deref() == expect, "{outcome:?}");
    }

    // What could be built can be loaded.
    let loaded = modules(&host.kcache(&["boot-test", "-k", kernel, "--json"]).exits(0));
    assert_eq!(loaded["acpi_call"].state, "loads");
    assert_eq!(loaded.len(), host.modules(kernel).len());
}
