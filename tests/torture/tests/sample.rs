//! Half a minute of torture, at calls here and there of all commands; `make torture` is the whole of it.

use std::path::PathBuf;
use std::process::Command;

/// Long enough for some thirty runs on two cores.
const SECONDS: &str = "30";
/// The same calls each time, as far as it gets: a test that fails by luck tells nobody what has changed.
const SEED: &str = "1";

#[test]
fn at_calls_here_and_there_a_kill_or_an_error_leaves_old_or_new() {
    let torture = PathBuf::from(env!("CARGO_BIN_EXE_torture"));
    let owner = fs_err::metadata("/proc/self").map(|me| std::os::unix::fs::MetadataExt::uid(&me));
    if owner.ok() != Some(0) || cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let kcache = torture.with_file_name("kcache");
    assert!(kcache.exists(), "cargo test --workspace builds {}", kcache.display());
    let fixtures = std::env::var_os("KCACHE_FIXTURES").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/kcache-fixtures")
    });
    let mut sample = Command::new(torture);
    sample
        .arg("run")
        .arg("--kcache")
        .arg(kcache)
        .arg("--fixtures")
        .arg(fixtures)
        .args(["--seconds", SECONDS])
        .args(["--seed", SEED]);
    let output = sample.output().expect("torture can be run");
    let (table, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{table}");
}
