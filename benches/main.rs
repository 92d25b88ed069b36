//! What is measured, and against whom: kcache's own work as a ratio of the same work done by plain tools in the same run.
//!
//! ```text
//! cargo bench --bench kcache                    all of it (an hour), into docs/performance.md and docs/performance/
//! cargo bench --bench kcache -- SUITE...        some, printed only: commands, shared, indexes, dkms
//! ```
//!
//! Machines are shared and noisy: each pair is run alternately, several times, and the medians are compared. Needs root: `depmod`,
//! overlay mounts and the fixtures of tests/fixtures.sh.

#![allow(clippy::print_stdout, reason = "the table is this program's output")]

mod beside;
mod commands;
mod measure;
mod page;
#[path = "../tests/servers.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod servers;
mod shared;

use std::path::Path;
use std::process::ExitCode;

use commands::Bench;
use measure::Table;

const SUITES: [&str; 4] = ["commands", "shared", "indexes", "dkms"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let Some(("walk", trees)) = arguments.split_first().map(|(word, rest)| (word.as_str(), rest)) {
        let files: u64 = trees.iter().map(|dir| measure::walk(Path::new(dir))).sum();
        return if files > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(unknown) = arguments.iter().find(|word| !SUITES.contains(&word.as_str())) {
        println!("no suite {unknown}: there are {}", SUITES.join(", "));
        return ExitCode::FAILURE;
    }
    let is_wanted = |suite: &str| arguments.is_empty() || arguments.iter().any(|word| word == suite);
    let mut table = Table::default();
    if is_wanted("commands") || is_wanted("shared") {
        let Some(bench) = Bench::prepare() else { return ExitCode::FAILURE };
        if is_wanted("commands") {
            bench.all(&mut table);
        }
        if is_wanted("shared") {
            shared::all(&bench.modules(), &mut table);
        }
    }
    if is_wanted("indexes") {
        beside::indexes(&mut table);
    }
    if is_wanted("dkms") {
        beside::dkms(&mut table);
    }
    if arguments.is_empty()
        && let Err(error) = page::write(Path::new(env!("CARGO_MANIFEST_DIR")), &table)
    {
        println!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
