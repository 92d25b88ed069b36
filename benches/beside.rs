//! What takes a script or a test of its own: kcache beside dkms in one system, and indexes beside depmod on whole kernels.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::measure::{Row, Table, median};

/// What a script of this directory has measured, by name: the medians.
fn measured_by(script: &str) -> impl Fn(&str) -> f64 {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches").join(script));
    let output = command.arg(env!("CARGO_BIN_EXE_kcache")).stderr(std::process::Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("benches/{script}: {error}"));
    assert!(output.status.success(), "benches/{script}: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once('\t')) {
        all.entry(name.to_owned()).or_default().push(value.parse().expect("a number"));
    }
    move |name| median(all.get(name).unwrap_or_else(|| panic!("no {name} in {text}")).clone())
}

/// `benches/large.sh`, which takes ten minutes: ZFS and NVIDIA's driver for a new kernel.
pub fn large(table: &mut Table) {
    let found = measured_by("large.sh");
    for package in ["zfs", "nvidia-current"] {
        let mut add = |what: String, against: &str, ours: &str, plain: &str, at_most: Option<f64>| {
            let (ours, plain) = (found(&format!("{ours}-{package}")), found(&format!("{plain}-{package}")));
            table.add(Row { what, against: against.to_owned(), ours, plain, at_most });
        };
        add(format!("{package} for a new kernel, compiled"), "dkms install", "miss", "dkms", None);
        add(format!("{package}, fetched by a second host"), "dkms install", "fetch", "dkms", None);
        add(format!("{package}, in the store"), "dkms install", "hit", "dkms", None);
        let at_most = (package == "nvidia-current").then_some(1.5);
        add(format!("{package}, in the store"), "copy + fsync of the modules", "hit", "copy", at_most);
    }
}

/// `benches/beside_dkms.sh`, which takes half an hour.
pub fn dkms(table: &mut Table) {
    let found = measured_by("beside_dkms.sh");
    let count = found("packages");
    let mut add = |what: String, against: &str, ours: &str, plain: &str, at_most: Option<f64>| {
        let (ours, plain) = (found(ours), found(plain));
        table.add(Row { what, against: against.to_owned(), ours, plain, at_most });
    };
    let one_by_one = "dkms autoinstall, one kernel after the other";
    add(
        format!("{count} packages for 2 kernels, nothing built"),
        one_by_one,
        "kcache-cold",
        "dkms-cold",
        Some(0.65),
    );
    add("the same, everything in the store".to_owned(), one_by_one, "kcache-warm", "dkms-cold", Some(0.001));
    let ccache = "dkms autoinstall with ccache, which has seen it all";
    add("the same for one kernel".to_owned(), ccache, "kcache-warm-one", "dkms-ccache", None);
    let what = format!("install with nothing to do, {count} packages, 4 kernels");
    add(what, "dkms status", "kcache-nothing", "dkms-status", Some(0.25));
}

/// The test of `kcache-kernel` that compares the indexes also measures how long both take, in memory.
pub fn indexes(table: &mut Table) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut test = Command::new(cargo);
    test.args([
        "test",
        "--release",
        "--locked",
        "-p",
        "kcache-kernel",
        "--lib",
        "duration_of",
        "--",
        "--nocapture",
    ]);
    let output = test.env("KCACHE_INDEXES", "all").output().expect("cargo can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    // `RELEASE: 45.6 ms, depmod 396.0 ms, ratio 0.1150`
    for line in text.lines().filter(|line| line.contains(" ms, depmod ")) {
        let (release, figures) = line.split_once(": ").expect("a release");
        let figures: Vec<f64> = figures.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
        let [ours, plain, _] = figures[..] else { panic!("{line}") };
        // Of one series the modules are compressed, which is what takes depmod its time.
        let at_most = if release.starts_with("6.1.") { 0.15 } else { 0.03 };
        let what = format!("indexes of {release} with 8 modules more");
        let against = "depmod".to_owned();
        table.add(Row { what, against, ours: ours / 1e3, plain: plain / 1e3, at_most: Some(at_most) });
    }
}
